"""Batched coupon's collector: every worker holds one random batch, and the master collects all batches.

Also the placement of its generalisation: every worker holds partitions drawn by themselves, as many as suit it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
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


def draw_subsets(loads: Sequence[int], partitions: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """For each worker as many distinct partitions as its load, uniformly and in random order; perhaps not all of K."""
    return [rng.permutation(partitions)[:load] for load in loads]


def covering_subsets(
    loads: SupportsIndex | Sequence[SupportsIndex],
    workers: SupportsIndex,
    partitions: SupportsIndex,
    *,
    on_uncovered: str = "resample",
    rng: checks.Seed = 0,
) -> list[NDArray[np.int64]]:
    """For each worker random distinct partitions, in random order, so that somebody holds each (bcc.md section 4).

    Where the batches of :func:`batched_coupon` are added up, these may overlap in any way, so that their gradients
    have to be sent one by one.

    Args:
        loads: r_i, partitions of each worker, from 0 to K; one number for all.
        workers: N.
        partitions: K (the paper's m).
        on_uncovered: what to do when a partition is drawn by nobody. "resample": draw all anew, at most 1000 times;
            "raise"; "round_robin": deal out all partitions once, a worker's dealt ones coming first, and draw the
            others only (OURS).
        rng: generator or seed of the draw.

    Raises:
        ValueError: an argument is out of range, or a partition stays uncovered.

    >>> [sorted(held.tolist()) for held in covering_subsets([3, 1], workers=2, partitions=3)]
    [[0, 1, 2], [2]]
    """
    n, total = checks.integer("workers", workers, 1), checks.integer("partitions", partitions, 1)
    checks.choice("on_uncovered", on_uncovered, ("resample", "raise", "round_robin"))
    sizes = _loads(loads, n, total)
    generator = checks.generator(rng)
    if on_uncovered == "round_robin":
        return _dealt(sizes, total, generator)
    tries = TRIES if on_uncovered == "resample" else 1
    for _ in range(tries):
        subsets = draw_subsets(sizes, total, generator)
        if len(np.unique(np.concatenate(subsets))) == total:
            return subsets
    missing = total * np.prod(1 - np.array(sizes) / total)
    raise ValueError(
        f"loads={_shown(sizes)} must be larger: workers={n} did not cover {total} partitions in {tries} draws (of a "
        f"draw {missing:.2g} partitions are held by nobody on average); or use on_uncovered='round_robin'"
    )


def _loads(loads: SupportsIndex | Sequence[SupportsIndex], workers: int, partitions: int) -> list[int]:
    each = list(loads) if isinstance(loads, Sequence | np.ndarray) else [loads] * workers
    if len(each) != workers:
        raise ValueError(f"loads={each} must be one number, or one for each of workers={workers}; got {len(each)}")
    because = f"partitions={partitions}"
    sizes = [checks.integer(f"loads[{i}]", own, 0, partitions, because) for i, own in enumerate(each)]
    if sum(sizes) < partitions:
        raise ValueError(f"loads={_shown(sizes)} must add up to at least partitions={partitions}, got {sum(sizes)}")
    return sizes


def _shown(sizes: list[int]) -> int | list[int]:
    return sizes[0] if len(set(sizes)) == 1 else sizes


def _dealt(sizes: list[int], partitions: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    dealt: list[list[int]] = [[] for _ in sizes]
    turns = cycle(range(len(sizes)))
    for partition in range(partitions):
        worker = next(own for own in turns if len(dealt[own]) < sizes[own])
        dealt[worker].append(partition)
    others = [np.setdiff1d(np.arange(partitions), own) for own in dealt]
    return [
        np.array([*own, *rng.permutation(rest)[: size - len(own)]], dtype=np.int64)
        for own, rest, size in zip(dealt, others, sizes, strict=True)
    ]
