"""1-bit gradient coding: stochastic gradient coding whose messages have one bit per coordinate.

Source: Li and Skoglund 2024, of which the abstract was read; its formulas are RECONSTRUCTED (one_bit.md 4 to 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gradcode.codes import checks
from gradcode.compression import OneBit
from gradcode.schemes.compressed import Compressed
from gradcode.schemes.registry import scheme
from gradcode.schemes.sgc import sgc


@scheme(
    "one_bit",
    summary="stochastic gradient coding with one random bit per coordinate; right on average",
    trade_off="32 times fewer bytes up; much noise, which redundancy divides, so small steps",
)
def one_bit(
    workers: int,
    replication: int = 2,
    straggling: float | Sequence[float] | None = None,
    quorum: int | None = None,
    deadline: float | None = None,
    *,
    range: Literal["linf", "l2", "fixed"] = "linf",
    bound: float | None = None,
    partitions: int | None = None,
    allocation: str | None = None,
    rng: checks.Seed = 0,
) -> Compressed:
    """1-bit gradient coding: :func:`sgc` through :class:`gradcode.compression.OneBit`.

    Worker i sends r·b_j with b_j = +1 with probability 1/2 + h_ij/(2r), else −1. The step sizes that the noise allows
    are in :mod:`gradcode.planning.one_bit`.

    Args:
        workers: N.
        replication: d, holders of each partition; the noise falls as 1/d.
        straggling, quorum, deadline, partitions, allocation, rng: as of :func:`sgc`.
        range: r, ``"linf"``: the largest coordinate; ``"l2"``: the norm; ``"fixed"``: ``bound``, to which coordinates
            are clipped.
        bound: r for ``"fixed"``, of messages before they are weighted 1/(1 − p).

    Raises:
        ValueError: an argument is out of its range.
    """
    summed = sgc(
        workers, replication, straggling, quorum, deadline, partitions=partitions, allocation=allocation, rng=rng
    )
    return Compressed(summed, OneBit(range, bound))
