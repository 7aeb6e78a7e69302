"""DRACO: exact gradients though some workers send what they like, by redundancy and a vote among the replies.

Source: Chen, Wang, Charles and Papailiopoulos 2018 (arXiv 1803.09877), of which abstract and code were read
(gradient_codes.md 6). Mapping of letters: their P compute nodes are our N, their redundancy r = 2s+1. Both kinds count
stragglers beside adversaries, and end before all have answered: OURS.
"""

from __future__ import annotations

from typing import Literal

from gradcode.codes import checks
from gradcode.schemes.draco.agreement import Draco as Draco
from gradcode.schemes.draco.cyclic import ErrorCorrection as ErrorCorrection
from gradcode.schemes.draco.repetition import MajorityVote as MajorityVote
from gradcode.schemes.registry import scheme

KINDS = ("repetition", "cyclic")


@scheme(
    "draco",
    summary="exact though some workers send what they like: replies are compared, and the corrupt ones named",
    trade_off="each worker computes 2s+1 times as much for s adversaries, and one more for each straggler",
)
def draco(
    workers: int,
    adversaries: int,
    kind: Literal["repetition", "cyclic"] = "repetition",
    stragglers: int = 0,
    partitions: int | None = None,
    *,
    audit: bool = False,
    tolerance: float | None = None,
    dtype: str = "float32",
    max_error: float | None = None,
    seed: int = 0,
) -> Draco:
    """Exact gradients with corrupt workers among the N; see :class:`MajorityVote` and :class:`ErrorCorrection`.

    Args:
        workers: N.
        adversaries: s, workers that may send anything; those that are silent or dead count as stragglers.
        kind: "repetition" compares copies, and needs 2s + t + 1 to divide N; "cyclic" locates errors in a code.
        stragglers: t, workers beside them that need not be waited for; as many more as adversaries that do not lie.
        partitions: K; None: N.
        audit: wait for every worker that is there, so that whoever is corrupt is named in each report. Otherwise the
            iteration ends when the gradient is certain, and who answers later is not examined.
        tolerance: up to which sound replies may differ; None: not at all ("repetition"), or by rounding ("cyclic").
        dtype: of the replies, "float32" or "float64", for the bound of the error.
        max_error: of "cyclic": the largest accepted bound, as of :func:`gradcode.codes.cyclic_mds`.
        seed: of "cyclic": what it draws, adversaries must not know.

    Raises:
        ValueError: an argument is out of its range, or the numbers do not go together.

    >>> draco(workers=8, adversaries=1, stragglers=1, kind="cyclic")
    draco(workers=8, adversaries=1, kind='cyclic', stragglers=1)
    """
    checks.choice("kind", kind, KINDS)
    if tolerance is not None and not 0 <= tolerance < 1:
        raise ValueError(f"tolerance={tolerance!r} must be from 0 to below 1: the relative difference of sound replies")
    if kind == "repetition":
        return MajorityVote(
            workers, adversaries, stragglers, partitions, audit=audit, tolerance=tolerance or 0.0, dtype=dtype
        )
    return ErrorCorrection(
        workers,
        adversaries,
        stragglers,
        partitions,
        audit=audit,
        tolerance=tolerance,
        dtype=dtype,
        max_error=max_error,
        seed=seed,
    )
