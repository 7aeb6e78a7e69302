"""Uplinks with stated constants."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from gradcode.network.channel import Rayleigh, Steady, path_loss
from gradcode.network.fair import FairUplink
from gradcode.network.radio import Radio

KILOBYTE = 1000
"""Bytes in a data unit of these presets."""


def harvesting_radio(workers: int, channels: int = 2, distance: npt.ArrayLike = 50.0, unit: float = KILOBYTE) -> Radio:
    """A radio uplink of workers that live on what energy they harvest, in units of ``unit`` bytes.

    Slots of 2 ms, channels of 1 MHz, noise of 1e-13 W, at most 1 W while sending, at most 48 µJ harvested per slot,
    path-loss constant 1e-4, Rayleigh fading: the constants of two_stage.md, section 10, row 14 (as others have set
    them; none of that paper's own are known). OURS: gains are capped at 5 times the mean at 50 m, and a worker offers
    at most 4 kB in a slot. Use it with :func:`harvesting_uplink`, for with χ = 1 the batteries would be absurd.

    Args:
        workers: N.
        channels: how many send at a time.
        distance: metres from the master, one for all or (N,), at least 1.
        unit: bytes in a data unit, > 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 < unit < math.inf:
        raise ValueError(f"unit={unit} must be a positive number of bytes")
    noise = 1e-13
    mean = path_loss(np.asarray(distance, dtype=np.float64), noise)
    return Radio(
        workers,
        Rayleigh(mean, most=5 * float(path_loss(50.0, noise))),
        channels,
        slot=2e-3,
        bandwidth=1e6 / (8 * unit),
        power_max=1.0,
        offer_max=4 * KILOBYTE / unit,
        harvest_max=48e-6,
    )


def harvesting_uplink(
    workers: int,
    channels: int = 2,
    distance: npt.ArrayLike = 50.0,
    tradeoff: float = 20.0,
    battery: float = 0.02,
    weights: npt.ArrayLike = 1.0,
    *,
    sharing: bool = False,
) -> FairUplink:
    """A fair uplink on :func:`harvesting_radio` whose χ makes batteries of ``battery`` J exactly enough.

    20 mJ (OURS) are ten slots at full power. The other arguments are those of :class:`FairUplink`.

    >>> uplink = harvesting_uplink(workers=4)
    >>> float(uplink.energy_bound.max().round(9))
    0.02
    """
    radio = harvesting_radio(workers, channels, distance)
    return FairUplink(radio, tradeoff, weights, battery=battery, sharing=sharing)


def wire(
    workers: int,
    bytes_per_second: float,
    slot: float,
    channels: int = 1,
    unit: float = KILOBYTE,
    offer_max: float | None = None,
) -> Radio:
    """A wired uplink of so many bytes per second in all: no fading and no batteries, in units of ``unit`` bytes.

    A worker offers at most what the whole uplink carries in a slot, unless
    ``offer_max`` says otherwise.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0 < bytes_per_second < math.inf or not 0 < unit < math.inf:
        raise ValueError(f"bytes_per_second={bytes_per_second} and unit={unit} must be positive and finite")
    whole = bytes_per_second / unit
    offer = whole * slot if offer_max is None else offer_max
    return Radio(workers, Steady(), channels, slot, whole / channels, power_max=1.0, offer_max=offer, harvest_max=0.0)


def rayleigh(
    workers: int,
    mean: float | Sequence[float] = 1.0,
    most: float = 12.0,
    least: float = 0.0,
    channels: int = 2,
    slot: float = 1.0,
    bandwidth: float = 1.0,
    power_max: float = 2.0,
    offer_max: float = 4.0,
    harvest_max: float = 1.0,
) -> Radio:
    """A radio uplink whose every number is given; see :class:`Rayleigh` and :class:`Radio`.

    Raises:
        ValueError: an argument is out of its range.
    """
    if isinstance(mean, Sequence) and len(mean) != workers:
        raise ValueError(f"mean={list(mean)} must be one number, or {workers}, one per worker")
    channel = Rayleigh(np.asarray(mean, dtype=np.float64), most, least)
    return Radio(workers, channel, channels, slot, bandwidth, power_max, offer_max, harvest_max)
