"""Sequential gradient coding: what too many stragglers left undone is done again a few iterations later.

Source: Krishnan, Ebrahimi and Khisti 2023 (arXiv 2211.13802), of which abstract and code were read (gradient_codes.md
5). Mapping of letters: their n workers are our N, their rounds our iterations. Where the pattern leaves the model the
paper waits for everybody in that round; here nobody is waited for before something is due, and then only for that
(OURS).
"""

from __future__ import annotations

from typing import Literal

from gradcode.codes import checks
from gradcode.schemes.registry import scheme
from gradcode.schemes.sequential.multiplexed import Multiplexed as Multiplexed
from gradcode.schemes.sequential.repetition import SelectiveRepetition as SelectiveRepetition

KINDS = ("repetition", "multiplexed")


@scheme(
    "sequential",
    summary="codes for few stragglers; what more of them left undone is done again a few iterations later",
    trade_off="less work than a code for all stragglers; the gradient is that of some iterations before",
)
def sequential(
    workers: int,
    burst: int,
    window: int,
    stragglers: int,
    partitions: int | None = None,
    patience: float = 1.0,
    *,
    kind: Literal["repetition", "multiplexed"] = "repetition",
    dtype: str = "float32",
    max_error: float | None = None,
) -> SelectiveRepetition | Multiplexed:
    """Sequential gradient coding; see :class:`SelectiveRepetition` and :class:`Multiplexed`.

    Args:
        workers: N.
        burst: B, iterations on end that a worker may straggle.
        window: W, in any so many iterations at most ``stragglers`` workers straggle. With "repetition" W − 1 is a
            multiple of B.
        stragglers: λ, below N, with "multiplexed" at most N.
        partitions: K; None: the fewest.
        patience: a worker slower than 1 + patience times the fastest is a straggler.
        kind: "repetition" (SR-SGC), with a delay of B iterations, or "multiplexed" (M-SGC), with less work and a delay
            of W − 2 + B.
        dtype: of the messages, "float32" or "float64", for the bound of the error.
        max_error: of "multiplexed" where λ + 1 does not divide N: the largest accepted bound, as of
            :func:`gradcode.codes.cyclic_mds`.

    Raises:
        ValueError: an argument is out of its range.
    """
    if checks.choice("kind", kind, KINDS) == "repetition":
        return SelectiveRepetition(workers, burst, window, stragglers, partitions, patience, dtype=dtype)
    return Multiplexed(workers, burst, window, stragglers, partitions, patience, dtype=dtype, max_error=max_error)
