"""COCO-EF: stochastic gradient coding with a biased compressor, whose errors workers add to their next messages.

Source: Li, Xiao and Skoglund 2026, of which the abstract was read; the update is RECONSTRUCTED from it (one_bit.md 10).
"""

from __future__ import annotations

from collections.abc import Sequence

from gradcode.codes import checks
from gradcode.compression import ErrorFeedback, GroupedSign, TopK
from gradcode.schemes.compressed import Compressed
from gradcode.schemes.registry import scheme
from gradcode.schemes.sgc import sgc

_GROUP = 64


@scheme(
    "coco_ef",
    summary="stochastic gradient coding with signs or the largest coordinates, and error feedback",
    trade_off="20 to 30 times fewer bytes up at nearly the accuracy of none; a vector of memory per worker",
)
def coco_ef(
    workers: int,
    replication: int = 2,
    straggling: float | Sequence[float] | None = None,
    quorum: int | None = None,
    deadline: float | None = None,
    *,
    group: int | None = None,
    density: float | None = None,
    partitions: int | None = None,
    allocation: str | None = None,
    rng: checks.Seed = 0,
) -> Compressed:
    """COCO-EF: :func:`sgc` with error feedback; see :class:`Compressed` for what is remembered.

    A worker whose answer is not used discards its gradient and keeps its memory: so, whoever straggles, the parameters
    less what is remembered move as those of :func:`sgc` do (one_bit.md, eq. 10).

    Args:
        workers: N.
        replication: d, holders of each partition.
        straggling, quorum, deadline, partitions, allocation, rng: as of :func:`sgc`.
        group: signs, with the mean magnitude of so many coordinates; None: 64, unless ``density`` is given.
        density: in place of signs the largest coordinates, this share of them.

    Raises:
        ValueError: both ``group`` and ``density`` are given, or an argument is out of its range.
    """
    if group is not None and density is not None:
        raise ValueError(f"group={group} means signs, density={density} the largest coordinates: give one of them")
    summed = sgc(
        workers, replication, straggling, quorum, deadline, partitions=partitions, allocation=allocation, rng=rng
    )
    compressor = TopK(density=density) if density is not None else GroupedSign(group or _GROUP)
    return Compressed(summed, ErrorFeedback(compressor))
