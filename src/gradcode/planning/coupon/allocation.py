"""How much each of uneven workers should hold (bcc.md section 4; DERIVED there)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import lambertw

from gradcode.codes.heterogeneous import proportional_loads
from gradcode.delays.bounds import count, positive, require
from gradcode.delays.law import Floats

Loads = npt.NDArray[np.int64]

_LARGE, _SMALL = 700.0, 1e-10


@dataclass(frozen=True, eq=False)
class Allocation:
    """Loads with which the expected number of results reaches ``target`` as early as it can.

    Args:
        time: t*, seconds.
        loads: (N,) r_i, partitions of each worker, not whole.
        target: s, results, those of the same partition included.
    """

    time: float
    loads: Floats
    target: float

    def whole(self, partitions: int) -> Loads:
        """(N,) the loads rounded, and at most m: nobody holds a partition twice."""
        return np.clip(np.rint(self.loads), 0, count("partitions", partitions, 1)).astype(np.int64)


def allocate(shifts: npt.ArrayLike, rates: npt.ArrayLike, target: float) -> Allocation:
    """The best loads for workers whose r_i results come together after r_i·(a_i + Exp(μ_i)) seconds.

    In t seconds a worker brings most results, in expectation, with the load t/λ_i, where exp(μ_i λ_i) =
    exp(a_i μ_i)(μ_i λ_i + 1); all of them then bring t·S with S = Σ_i μ_i/(1 + μ_i λ_i), and s after t* = s/S.

    Args:
        shifts: (N,) a_i > 0, seconds that a partition takes at least; one number for all that ``rates`` has.
        rates: (N,) μ_i > 0, of the exponential part of a partition's time, per second.
        target: s > 0, of order m·ln m for random draws to cover m partitions; see :func:`coverage_target`.

    Raises:
        ValueError: shapes that do not fit, a value that is not positive and finite, or a·μ so small that a worker had
            best hold everything.

    >>> allocate([20.0] * 95 + [20.0] * 5, [1.0] * 95 + [20.0] * 5, target=500).loads[[0, 99]].round(3)
    array([5.167, 5.901])
    """
    a, mu = _workers(shifts, rates)
    positive("target", target)
    least = float((a * mu).min())
    require(least >= _SMALL, "min(shifts * rates)", least, f"be at least {_SMALL}: the times have no least part")
    y = _excess(a * mu)
    speed = float((mu / (1 + y)).sum())
    time = target / speed
    return Allocation(time, time * mu / y, float(target))


def expected_results(loads: npt.ArrayLike, shifts: npt.ArrayLike, rates: npt.ArrayLike, time: float) -> float:
    """X(t) = Σ_i r_i P(T_i ≤ t): results that have come by ``time``, those of the same partition included."""
    a, mu = _workers(shifts, rates)
    r = np.asarray(loads, dtype=float)
    fits = r.shape == a.shape and bool(np.all(r >= 0))
    require(fits, "loads", r.tolist(), f"be >= 0 and have the shape {a.shape}")
    late = np.divide(time - a * r, r, out=np.zeros_like(r), where=r > 0)
    return float((r * -np.expm1(-mu * np.maximum(late, 0.0))).sum())


def coverage_target(partitions: int, constant: float = 1.25) -> int:
    """s = ⌊c·m·ln m⌋, results after which random draws are likely to have covered m partitions.

    The larger ``constant`` is, the rarer a draw that has to be made anew, and the slower every iteration. (The paper's
    own is recalled as 2 + ln(a + H_n/μ)/ln m, RECONSTRUCTED and not verified; it is larger than needed.)
    """
    m = count("partitions", partitions, 1)
    positive("constant", constant)
    return math.floor(constant * m * math.log(m))


def balanced(speeds: npt.ArrayLike, partitions: int) -> Loads:
    """(N,) whole loads in proportion to ``speeds``, m together: nothing twice, and everybody is waited for.

    The baseline LB. Speeds are μ_i, or 1/(a_i + 1/μ_i), partitions per second.
    """
    v = np.asarray(speeds, dtype=float)
    fits = v.ndim == 1 and v.size > 0 and bool(np.all(np.isfinite(v) & (v > 0)))
    require(fits, "speeds", v.tolist(), "be positive and finite, one per worker")
    return proportional_loads(v, count("partitions", partitions, 1), 0)


def _excess(u: Floats) -> Floats:
    """y > 0 with y − ln(1 + y) = u: −(W₋₁(−exp(−u − 1)) + 1)."""
    y = -(lambertw(-np.exp(-np.minimum(u, _LARGE) - 1), -1).real + 1)
    for _ in range(8):  # beyond what exp can hold the equation itself gains three digits a round
        y = np.where(u > _LARGE, u + np.log1p(y), y)
    return np.asarray(y)


def _workers(shifts: npt.ArrayLike, rates: npt.ArrayLike) -> tuple[Floats, Floats]:
    a, mu = np.asarray(shifts, dtype=float), np.asarray(rates, dtype=float)
    if a.ndim > 1 or mu.ndim > 1 or not max(a.ndim, mu.ndim) or (a.ndim and mu.ndim and a.shape != mu.shape):
        raise ValueError(f"shifts and rates must have one number per worker, got shapes {a.shape} and {mu.shape}")
    for name, values in (("shifts", a), ("rates", mu)):
        good = values.size > 0 and bool(np.all(np.isfinite(values) & (values > 0)))
        require(good, name, values.tolist(), "be positive and finite")
    first, second = np.broadcast_arrays(a, mu)
    return first, second
