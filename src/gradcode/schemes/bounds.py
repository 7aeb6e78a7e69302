"""What no scheme can beat."""

from __future__ import annotations

import numpy as np

from gradcode.protocol import Floats


def fluid_bound(compute: Floats, units: float, delay: Floats | float = 0.0) -> Floats:
    """The earliest time at which the work finished by all workers adds up to one pass over the data.

    The smallest t with Σ_i max(0, t − D_i)/X_i = units: no scheme, coded or not, that needs one pass is faster.

    Args:
        compute: X, (samples, N) seconds per unit of load; inf: a worker that does nothing.
        units: units of load in one pass (the number of partitions).
        delay: D, (samples, N) or a number: seconds before a worker's work counts.

    Returns:
        (samples,) seconds; inf where nobody works.

    >>> fluid_bound(np.array([[1.0, 3.0]]), 2.0)
    array([1.5])
    """
    delays = np.broadcast_to(np.asarray(delay, dtype=np.float64), compute.shape)
    order = np.argsort(delays, axis=1)
    starts = np.take_along_axis(delays, order, axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates = 1.0 / np.take_along_axis(compute, order, axis=1)
        rates = np.where(np.isfinite(starts), rates, 0.0)
        finite = np.where(np.isfinite(starts), starts, 0.0)
        # With the first m workers at work, t = (units + Σ D_i/X_i) / Σ 1/X_i. It falls while a further worker starts
        # before it and rises afterwards, so the smallest is the answer.
        speed = np.cumsum(rates, axis=1)
        instant = np.isinf(speed)
        times = (units + np.cumsum(np.where(rates > 0, finite * rates, 0.0), axis=1)) / speed
    times = np.where(instant, finite, np.where(speed > 0, times, np.inf))
    result: Floats = times.min(axis=1)
    return result
