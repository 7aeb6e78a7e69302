"""Cyclic repetition: worker i holds partitions i, …, i + s, with random or integer coefficients."""

from __future__ import annotations

from math import gcd
from typing import SupportsIndex

import numpy as np
from numpy.typing import NDArray

from gradcode.codes import checks, stability
from gradcode.codes.affine import AffineCode, from_matrix
from gradcode.codes.code import GradientCode, Indices
from gradcode.codes.columns import Floats, StaircaseCode
from gradcode.codes.mds import shuffle
from gradcode.codes.registry import register


@register(
    summary="real code with cyclic supports for every N and s; integer or random coefficients",
    exact=True,
    tolerance="s",
    load="(s+1)K/N",
    needs="stragglers < workers; partitions ≥ workers; a bound that holds (variant='random' only)",
    choose="when loads must be exactly (s+1)K/N for every N, or neighbours should share partitions",
)
def cyclic_repetition(
    workers: SupportsIndex,
    stragglers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    *,
    variant: str = "column",
    draws: SupportsIndex = 20,
    permute: checks.Seed | bool = False,
    rng: checks.Seed = 0,
    dtype: str = "float32",
    max_error: float | None = None,
) -> GradientCode:
    """The cyclic repetition code of Tandon et al. 2017 (gradient_codes.md 2.3).

    Worker i holds partitions i, i+1, …, i+s (mod N). ``variant`` says how the coefficients are found:

    - "random", the paper's: H (s, N) random with H 1 = 0, and row i of B the combination of columns i, …, i+s
      of H that vanishes; the rows span the null space of H, which contains 1. The most stable of ``draws`` H;
      rows of norm 1.
    - "column": C B = 1 with an integer C (`columns.StaircaseCode`, ours). Where s + 1 divides N all
      coefficients are 1; elsewhere they are integers of at most s + 1. Its error bound was below
      that of the best random draw at every size tried but N = 4, s = 2, where it is 7 % above.

    Args:
        workers: N.
        stragglers: s < N.
        partitions: K ≥ N, grouped into N runs of nearly equal length; N by default.
        variant: "column" or "random".
        draws: how many H are compared.
        permute: as in `cyclic_mds`.
        rng: generator or seed of the draws.
        dtype, max_error: as in `cyclic_mds`.

    Raises:
        ValueError: an argument is out of range, or the error bound passes ``max_error``.

    >>> code = cyclic_repetition(workers=6, stragglers=2)
    >>> code.encoding[4], code.decode([0, 1, 3, 4]).weights
    (array([1., 0., 0., 0., 1., 1.]), array([1., 0., 0., 1., 0., 0.]))
    """
    n, s = checks.workers_and_stragglers(workers, stragglers)
    sizes = checks.group_sizes(partitions, n)
    count = checks.integer("draws", draws, 1)
    checks.choice("variant", variant, ("column", "random"))
    order = shuffle(n, permute)
    seeds = checks.generator(rng).integers(2**63, size=count)

    def build(s: int, dtype: str) -> GradientCode:
        if variant == "column":
            return _column(n, s, sizes, dtype, order)
        return _best_random(n, s, sizes, dtype, order, seeds)

    return stability.accept(build, s, dtype, max_error)


def _column(n: int, s: int, sizes: Indices, dtype: str, order: Indices | None) -> StaircaseCode:
    """Workers i, i + (s+1), i + 2(s+1), … lie end to end; after lcm(N, s+1) steps the next orbit begins."""
    orbits = gcd(n, s + 1)
    laps_each = (s + 1) // orbits
    laps: list[tuple[int, int] | None] = [None] * n
    for orbit in range(orbits):
        for step in range(n // orbits):
            start = step * (s + 1)
            laps[(orbit + start) % n] = (orbit * laps_each + start // n, orbit * laps_each + (start + s) // n)
    held: NDArray[np.bool_] = (np.arange(n) - np.arange(n)[:, None]) % n <= s
    return StaircaseCode(held, sizes, dtype, laps=laps, stragglers=s, order=order)


def _best_random(n: int, s: int, sizes: Indices, dtype: str, order: Indices | None, seeds: Indices) -> AffineCode:
    """The draw with the smallest error bound in a short search; the long search then judges it."""

    def code(matrix: Floats, thorough: bool) -> AffineCode:
        offset, null = from_matrix(matrix, s)
        return AffineCode(
            matrix, sizes, s, dtype, offset=offset, null=null, generic=True, order=order, thorough=thorough
        )

    drafts = [_random(n, s, np.random.default_rng(seed)) for seed in seeds]
    best = min(drafts, key=lambda matrix: code(matrix, thorough=False).worst.error)
    return code(best, thorough=True)


def _random(n: int, s: int, rng: np.random.Generator) -> Floats:
    """B (N, N) with unit rows in the null space of a random H (s, N) with H 1 = 0."""
    H = rng.standard_normal((s, n))
    H[:, -1:] = -H[:, :-1].sum(axis=1, keepdims=True)
    columns = (np.arange(n)[:, None] + np.arange(s + 1)) % n  # (N, s+1)
    matrix = np.zeros((n, n))
    rows = np.ones((n, s + 1))
    if s:
        systems = H.T[columns[:, 1:]].transpose(0, 2, 1)
        rows[:, 1:] = np.linalg.solve(systems, -H.T[:, :, None])[..., 0]
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    matrix[np.arange(n)[:, None], columns] = rows
    return matrix
