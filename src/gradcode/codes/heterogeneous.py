"""The heterogeneity-aware code: loads in proportion to the workers' speeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks, stability
from gradcode.codes.code import GradientCode, Indices
from gradcode.codes.columns import Floats
from gradcode.codes.layers import Laps
from gradcode.codes.registry import register


@register(
    summary="loads in proportion to speeds, so that all workers need the same time; any s may straggle",
    exact=True,
    tolerance="s",
    load="K(s+1) · speed / Σ speeds",
    needs="known speeds; stragglers < workers",
    choose="when some machines are steadily slower than others",
)
def heterogeneous(
    speeds: Sequence[float] | Floats,
    partitions: SupportsIndex | None = None,
    stragglers: SupportsIndex = 1,
    *,
    variant: str = "column",
    mixing: Floats | Sequence[Sequence[float]] | None = None,
    draws: SupportsIndex = 8,
    rng: checks.Seed = 0,
    dtype: str = "float32",
    max_error: float | None = None,
) -> GradientCode:
    """The heterogeneity-aware column code of Wang et al. 2019 (gradient_codes.md 2.8, RECONSTRUCTED there).

    Worker i gets n_i ≈ K(s+1)·speed_i/Σ speeds partitions, consecutively along s + 1 laps around the data;
    then C B = 1 is solved partition by partition for a matrix C, (s+1, N). A worker too slow for one
    partition gets none.

    Args:
        speeds: (N,) partitions per second, or in any other unit; positive.
        partitions: K; N by default.
        stragglers: s < N.
        variant: "column" takes an integer C (`columns.StaircaseCode`, ours), which amplified less than random
            ones at every size tried; "random" the best of ``draws`` Gaussian C (the paper's), with rows of B
            of norm 1.
        mixing: C itself, used as it is instead of a variant.
        draws: how many random C are compared.
        rng: generator or seed of the draws.
        dtype, max_error: as in `cyclic_mds`.

    Raises:
        ValueError: an argument is out of range, ``mixing`` is singular on the holders of a partition, or the
            error bound passes ``max_error``.

    >>> code = heterogeneous(speeds=[1, 1, 2, 2], partitions=6, stragglers=1)
    >>> [len(held) for held in code.placement]
    [2, 2, 4, 4]
    """
    rates = np.asarray(speeds, dtype=np.float64)
    if rates.ndim != 1 or not len(rates) or not np.all(np.isfinite(rates) & (rates > 0)):
        raise ValueError(f"speeds={speeds!r} must be positive finite numbers, one per worker")
    n = len(rates)
    s = checks.integer("stragglers", stragglers, 0, n - 1, f"speeds has {n} workers")
    total = n if partitions is None else checks.integer("partitions", partitions, 1)
    count = checks.integer("draws", draws, 1)
    checks.choice("variant", variant, ("column", "random"))
    given = None if mixing is None else _checked(mixing, s + 1, n)
    seeds = checks.generator(rng).integers(2**63, size=count)

    def build(s: int, dtype: str) -> GradientCode:
        laps = Laps(proportional_loads(rates, total, s), total)
        if given is not None and len(given) == s + 1:
            return laps.mixed(given, dtype, thorough=True)
        if variant == "column" or given is not None:
            return laps.column(dtype)
        return laps.random(dtype, seeds)

    return stability.accept(build, s, dtype, max_error)


def proportional_loads(speeds: Floats, partitions: int, stragglers: int) -> Indices:
    """Loads n_i (N,) in proportion to speeds, with Σ n_i = K(s+1) and n_i ≤ K.

    What exceeds K on the fastest is poured over the others; fractions go to the largest remainders.
    """
    wanted = float(partitions * (stragglers + 1))
    shares = np.zeros(len(speeds))
    full = np.zeros(len(speeds), dtype=bool)
    while True:
        shares[~full] = (wanted - partitions * full.sum()) * speeds[~full] / speeds[~full].sum()
        over = ~full & (shares >= partitions)
        if not over.any():
            break
        full |= over
        shares[over] = partitions
        if full.all():
            break
    loads = np.floor(shares + 1e-9).astype(np.int64)
    rest = int(wanted) - int(loads.sum())
    remainders = np.where(full, -1.0, shares - loads)
    loads[np.argsort(-remainders, kind="stable")[:rest]] += 1
    return loads


def _checked(mixing: Floats | Sequence[Sequence[float]], rows: int, workers: int) -> Floats:
    matrix = np.asarray(mixing, dtype=np.float64)
    if matrix.shape != (rows, workers):
        raise ValueError(f"mixing={matrix.shape} must have the shape (stragglers + 1, workers) = {(rows, workers)}")
    return matrix
