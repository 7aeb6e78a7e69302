"""Choosing a method's parameters for machines whose delays are known; NumPy and SciPy only.

``hierarchical``: how many edge nodes, and how many workers under each, a hierarchical code should do without.
``block_coordinate``: how many coordinates should tolerate how many stragglers.
"""

from gradcode.planning import block_coordinate, hierarchical

__all__ = ["block_coordinate", "hierarchical"]
