"""Gradient codes: who computes which partitions, in which combination, and how the answers add up.

    code = codes.fractional_repetition(workers=6, stragglers=2)
    decoding = code.decode(survivors=[0, 3, 4])       # weights, residual, exact, condition, error

Which one to choose: `fractional_repetition` unless there is a reason against it; `cyclic_repetition` when
every worker must have the same load at every size; `heterogeneous` when speeds differ; `batched_coupon` when
stragglers are random and many; `clustered` when they are spread evenly; `hierarchical` when workers answer
through edge nodes; `communication_efficient` when sending takes longer than computing; `stochastic` when an
approximate gradient is enough. `REGISTRY` says for each what it trades.

`encoders` is something else: matrices that encode the data instead of the gradients, and are never decoded.
"""

from gradcode.codes import chunks, encoders
from gradcode.codes.block import BlockCode, Level, block
from gradcode.codes.clustered import ClusteredCode, clustered
from gradcode.codes.code import Decoding, GradientCode
from gradcode.codes.communication_efficient import communication_efficient
from gradcode.codes.coupon import batched_coupon
from gradcode.codes.cyclic import cyclic_repetition
from gradcode.codes.heterogeneous import heterogeneous
from gradcode.codes.hierarchical import HierarchicalCode, Tradeoff, hierarchical
from gradcode.codes.mds import cyclic_mds
from gradcode.codes.reed_solomon import reed_solomon
from gradcode.codes.registry import REGISTRY, Entry, create, entry, register
from gradcode.codes.repetition import fractional_repetition, uncoded
from gradcode.codes.stability import Worst
from gradcode.codes.stochastic import bernoulli, stochastic

__all__ = [
    "REGISTRY",
    "BlockCode",
    "ClusteredCode",
    "Decoding",
    "Entry",
    "GradientCode",
    "HierarchicalCode",
    "Level",
    "Tradeoff",
    "Worst",
    "batched_coupon",
    "bernoulli",
    "block",
    "chunks",
    "clustered",
    "communication_efficient",
    "create",
    "cyclic_mds",
    "cyclic_repetition",
    "encoders",
    "entry",
    "fractional_repetition",
    "heterogeneous",
    "hierarchical",
    "reed_solomon",
    "register",
    "stochastic",
    "uncoded",
]
