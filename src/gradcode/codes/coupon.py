"""Batched coupon's collector: every worker holds one random batch, and the master collects all batches."""

from __future__ import annotations

from math import comb
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from gradcode.codes import checks
from gradcode.codes.registry import register
from gradcode.codes.repetition import IntervalCode

TRIES = 1000


@register(
    summary="one random batch of partitions per worker; done when every batch has answered",
    exact=True,
    tolerance="copies of the rarest batch, less one; on average far more random stragglers",
    load="chosen freely",
    needs="enough workers that ⌈K/load⌉ batches are all drawn",
    choose="when workers come without coordination, or their number of stragglers is unknown and random",
)
def batched_coupon(
    workers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    load: SupportsIndex | None = None,
    *,
    on_uncovered: str = "resample",
    rng: checks.Seed = 0,
    dtype: str = "float32",
) -> IntervalCode:
    """The batched coupon's collector code of Li et al. 2018 (bcc.md section 2, RECONSTRUCTED there).

    The K partitions are cut into ⌈K/load⌉ consecutive batches, the last possibly shorter; each worker draws
    one uniformly and sends its sum; the first answer of each batch counts. On average
    ``mean_threshold(⌈K/load⌉)`` answers are enough.

    Args:
        workers: N (the paper's n).
        partitions: K (the paper's m); N by default.
        load: partitions per batch, 1 ≤ load ≤ K (the paper's r); by default the smallest for which N random
            draws cover all batches with probability one half.
        on_uncovered: what to do when a batch is drawn by nobody. "resample": draw all anew, at most 1000
            times; "raise"; "round_robin": give every batch to one worker first and draw for the others only.
        rng: generator or seed of the draw.
        dtype: of the messages, for the error bound.

    Raises:
        ValueError: an argument is out of range, or a batch stays uncovered.

    >>> batched_coupon(workers=12, partitions=8, load=2).load
    2
    """
    n = checks.integer("workers", workers, 1)
    total = n if partitions is None else checks.integer("partitions", partitions, 1)
    checks.choice("on_uncovered", on_uncovered, ("resample", "raise", "round_robin"))
    if load is None:
        size = next(r for r in range(1, total + 1) if cover_probability(n, -(-total // r)) >= 0.5)
    else:
        size = checks.integer("load", load, 1, total, f"partitions={total}")
    batches = -(-total // size)
    if batches > n:
        raise ValueError(
            f"load={size} must be at least {-(-total // n)}: {batches} batches need as many workers, got workers={n}"
        )
    choice = _draw(n, batches, size, on_uncovered, checks.generator(rng))
    runs = np.column_stack([choice * size, np.minimum((choice + 1) * size, total)])
    return IntervalCode(runs, int(np.bincount(choice).min()) - 1, dtype)


def _draw(workers: int, batches: int, load: int, on_uncovered: str, rng: np.random.Generator) -> NDArray[np.int64]:
    if on_uncovered == "round_robin":
        return np.concatenate([np.arange(batches), rng.integers(batches, size=workers - batches)])
    tries = TRIES if on_uncovered == "resample" else 1
    for _ in range(tries):
        choice = rng.integers(batches, size=workers)
        if len(np.unique(choice)) == batches:
            return choice
    raise ValueError(
        f"load={load} must be larger: workers={workers} did not cover {batches} batches in {tries} draws "
        f"(a draw covers them with probability {cover_probability(workers, batches):.2g}); "
        f"or use on_uncovered='round_robin'"
    )


def cover_probability(workers: int, batches: int) -> float:
    """Probability that N uniform draws hit each of B batches: Σ_j (−1)^j C(B,j) (1 − j/B)^N (bcc.md section
    2).

    Summed in integers, because the terms alternate and cancel.
    """
    if batches > workers:
        return 0.0
    hits = sum((-1) ** j * comb(batches, j) * (batches - j) ** workers for j in range(batches + 1))
    return float(hits / batches**workers)


def mean_threshold(batches: int) -> float:
    """Mean number of answers until every batch has come, with unlimited workers: B·H_B (bcc.md section 3)."""
    return batches * sum(1 / i for i in range(1, batches + 1))
