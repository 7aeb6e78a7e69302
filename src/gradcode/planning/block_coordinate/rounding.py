"""From block sizes to whole coordinates (spec, section 6)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import require
from gradcode.planning.block_coordinate.model import Indices, check_costs, check_sizes


def round_sizes(sizes: npt.ArrayLike, costs: npt.ArrayLike | None = None) -> Indices:
    """(N,) whole block sizes with the same sum.

    Each size goes to the nearest whole number and the residual to the largest block (the authors' rule of their
    completion part, which also gives the vectors they stored). Where there are fewer coordinates than blocks, or that
    block would become negative, by largest remainders instead.

    Args:
        sizes: (N,) block sizes; their sum must be whole, up to rounding.
        costs: (L,) the coordinates' costs in the order of work; then ``sizes`` are in units of cost and add up to
            theirs, and a block ends after the coordinate whose end lies nearest to its own (OURS).

    Raises:
        ValueError: the sum is no whole number, or not that of the costs.
    """
    real = check_sizes(sizes)
    if costs is not None:
        return _cut(real, check_costs(costs))
    total = round(float(real.sum()))
    require(total > 0 and abs(real.sum() - total) <= 1e-6 * total, "sum(sizes)", float(real.sum()), "be whole, > 0")
    whole = np.floor(real + 0.5).astype(np.intp)
    largest = int(real.argmax())
    whole[largest] += total - whole.sum()
    if total >= len(real) and whole[largest] >= 0:
        return whole
    whole = np.floor(real).astype(np.intp)
    remainders = np.argsort(whole - real, kind="stable")
    whole[remainders[: total - whole.sum()]] += 1
    return whole


def _cut(sizes: npt.NDArray[np.float64], costs: npt.NDArray[np.float64]) -> Indices:
    ends = np.cumsum(costs)
    close = abs(float(sizes.sum() / ends[-1]) - 1) <= 1e-6
    require(close, "sum(sizes)", float(sizes.sum()), f"be the sum of the costs, {float(ends[-1])}")
    cuts = np.searchsorted(ends - costs / 2, np.cumsum(sizes) * (ends[-1] / sizes.sum()))
    cuts[-1] = len(costs)
    return np.asarray(np.diff(cuts, prepend=0), dtype=np.intp)
