"""Choosing a method's parameters for machines whose delays are known; NumPy and SciPy only.

``hierarchical``: how many edge nodes, and how many workers under each, a hierarchical code should do without.
``coupon``: how many workers a batched coupon's collector waits for, and how much uneven workers should hold.
``block_coordinate``: how many coordinates should tolerate how many stragglers.
"""

from gradcode.planning import block_coordinate, coupon, hierarchical

__all__ = ["block_coordinate", "coupon", "hierarchical"]
