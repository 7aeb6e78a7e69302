"""Choosing a method's parameters for machines whose delays are known.

``hierarchical``: how many edge nodes, and how many workers under each, a hierarchical code should do without.
``block_coordinate``: how many coordinates should tolerate how many stragglers.
``lazy``: messages, work and time of lazy schemes, grouping and coding to an accuracy; trains, and loads torch to do so.
"""

from gradcode.planning import block_coordinate, hierarchical, lazy

__all__ = ["block_coordinate", "hierarchical", "lazy"]
