"""Choosing a method's parameters for machines whose delays are known; NumPy and SciPy only.

``hierarchical``: how many edge nodes, and how many workers under each, a hierarchical code should do without.
"""

from gradcode.planning import hierarchical

__all__ = ["hierarchical"]
