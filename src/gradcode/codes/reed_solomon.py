"""The Reed-Solomon code at the roots of unity: deterministic, decoded by a product formula."""

from __future__ import annotations

from functools import partial
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks, stability
from gradcode.codes.affine import AffineCode
from gradcode.codes.code import Array, Indices
from gradcode.codes.mds import shuffle
from gradcode.codes.registry import register


@register(
    summary="complex polynomial code with cyclic supports and an O(N s) product formula for the weights",
    exact=True,
    tolerance="s",
    load="(s+1)K/N",
    needs="stragglers < workers; partitions ≥ workers; a bound that holds (smaller s than cyclic_mds)",
    choose="to compare with the paper; cyclic_mds is the same family with better zeros",
)
def reed_solomon(
    workers: SupportsIndex,
    stragglers: SupportsIndex,
    partitions: SupportsIndex | None = None,
    *,
    permute: checks.Seed | bool = False,
    dtype: str = "float32",
    max_error: float | None = None,
) -> AffineCode:
    """The Reed-Solomon code of Halbawi et al. 2018 at α_i = ω^i (gradient_codes.md 2.5, RECONSTRUCTED there).

    Column j of B is the polynomial t_j(x) = Π (1 − x/α_i) over the workers i that do not hold partition j,
    evaluated at the workers' points; the mask is cyclic. Interpolating Σ_j t_j g_j at zero gives the
    gradient: for s stragglers

        a_i = (1/N) Π_{q straggling} (1 − α_i/α_q).

    Real evaluation points are not offered: their weights grow like N^{2.6 s} and float32 is lost at once.

    Args:
        workers: N.
        stragglers: s < N.
        partitions: K ≥ N, grouped into N runs of nearly equal length; N by default.
        permute, dtype, max_error: as in `cyclic_mds`.

    Raises:
        ValueError: an argument is out of range, or the error bound passes ``max_error``.

    >>> code = reed_solomon(workers=8, stragglers=1)
    >>> bool(abs(code.decode(range(7)).weights @ code.encoding - 1).max() < 1e-12)
    True
    """
    n, s = checks.workers_and_stragglers(workers, stragglers)
    sizes = checks.group_sizes(partitions, n)
    order = shuffle(n, permute)

    def build(s: int, dtype: str) -> AffineCode:
        points = np.exp(2j * np.pi * np.arange(n) / n)
        # The cyclic mask makes every row worker 0's, moved on. Worker 0 holds partitions 0, …, s; partition j is
        # held by workers j − s, …, j, and t_j(α_0) runs over all others.
        matrix = np.zeros((n, n), dtype=np.complex128)
        for j in range(s + 1):
            others = points[(j + 1 + np.arange(n - s - 1)) % n]
            matrix[np.arange(n), (np.arange(n) + j) % n] = np.prod(1 - 1 / others)
        null = points[None, :] ** np.arange(1, s + 1)[:, None] / np.sqrt(n)
        ranks = points if order is None else points[order]
        return AffineCode(
            matrix,
            sizes,
            s,
            dtype,
            offset=np.full(n, 1 / n, dtype=np.complex128),
            null=null,
            generic=True,
            circulant=True,
            order=order,
            closed=partial(_interpolate, ranks),
        )

    return stability.accept(build, s, dtype, max_error)


def _interpolate(points: Array, stragglers: Indices) -> Array:
    """(N,) weights (1/N) Π_q (1 − α_i/α_q); exactly 0 for the stragglers themselves."""
    weights: Array = np.prod(1 - points[:, None] / points[stragglers], axis=1) / len(points)
    weights[stragglers] = 0
    return weights
