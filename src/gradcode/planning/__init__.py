"""Choosing a method's parameters for machines whose delays are known.

``hierarchical``: how many edge nodes, and how many workers under each, a hierarchical code should do without.
``coupon``: how many workers a batched coupon's collector waits for, and how much uneven workers should hold.
``block_coordinate``: how many coordinates should tolerate how many stragglers.
``communication_efficient``: how much more to compute so that messages are shorter and stragglers are not waited for.
``sequential``: for how many stragglers in bursts sequential gradient coding should be made, or whether not to code.
``self_scheduling``: how many replicas and micro-partitions, or a code, or to wait for everybody.
``lazy``: messages, work and time of lazy schemes, grouping and coding to an accuracy; trains, and loads torch to do so.
"""

from gradcode.planning import (
    block_coordinate,
    communication_efficient,
    coupon,
    hierarchical,
    lazy,
    self_scheduling,
    sequential,
)

__all__ = [
    "block_coordinate",
    "communication_efficient",
    "coupon",
    "hierarchical",
    "lazy",
    "self_scheduling",
    "sequential",
]
