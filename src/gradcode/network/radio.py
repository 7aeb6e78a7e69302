"""What all controllers of an uplink have in common: its physical limits, and the queues behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, Self

import numpy as np

from gradcode.network.channel import Channel, Floats, Rayleigh


@dataclass(frozen=True)
class Radio:
    """The limits of an uplink that N workers share. Data is in units of the user's choice.

    The spec's letters (two_stage.md, section 1) stand in brackets; the defaults are its recommended ones.

    Args:
        workers: N [M].
        channel: the gains, power gain over noise.
        channels: how many workers can send at a time [N_c].
        slot: seconds of a slot [τ].
        bandwidth: of one channel [Bw]: data units per second for each bit/s/Hz, log2(1 + p·g), of the link.
        power_max: W while sending [p_max].
        offer_max: data units that a worker can offer, and so have admitted, in a slot [A_max].
        harvest_max: J that a worker can harvest in a slot [H_max].

    Raises:
        ValueError: an argument is out of its range.

    >>> Radio(workers=8).rate_max.round(3).tolist()
    4.644
    """

    workers: int
    channel: Channel = field(default_factory=lambda: Rayleigh(1.0, most=12.0))
    channels: int = 2
    slot: float = 1.0
    bandwidth: float = 1.0
    power_max: float = 2.0
    offer_max: float = 4.0
    harvest_max: float = 1.0

    def __post_init__(self) -> None:
        for name in ("workers", "channels"):
            value = getattr(self, name)
            if not isinstance(value, int) or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number from 1")
        for name in ("slot", "bandwidth", "power_max", "offer_max"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)!r} must be positive and finite")
        if not 0 <= self.harvest_max < math.inf:
            raise ValueError(f"harvest_max={self.harvest_max!r} must not be negative, and finite")

    @property
    def rate_max(self) -> Floats:
        """(N,) or () data units at most that a channel carries in a slot [R_max]."""
        return self.carried(np.asarray(self.power_max), self.channel.largest)

    def carried(self, power: Floats, gains: Floats) -> Floats:
        """(..., N) data units that a whole channel carries in a slot: τ·Bw·log2(1 + p·g)."""
        return np.asarray(self.slot * self.bandwidth * np.log2(1 + power * gains))


class Slot(NamedTuple):
    """What a slot brings, each (..., N): data offered, at most ``offer_max``; gains; energy that can be harvested."""

    offered: Floats
    gains: Floats
    harvest: Floats


class Flow(NamedTuple):
    """What was done in a slot, each (..., N).

    ``admitted`` data went into the queues, ``served`` data left them. ``power`` in W, for the ``share`` of a channel
    from 0 to 1 that a worker had; the energy that it spent is share·power·slot.
    """

    admitted: Floats
    served: Floats
    power: Floats
    share: Floats


@dataclass
class Queues:
    """The state of an uplink, each (..., N): data waiting [Q], virtual data [Z], energy in the batteries [E].

    Before the first slot an array may be of a shape that broadcasts to that of the slots.
    """

    data: Floats
    virtual: Floats
    energy: Floats

    def state_dict(self) -> dict[str, Any]:
        """As plain lists."""
        return {name: own.tolist() for name, own in vars(self).items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        for name, saved in state.items():
            setattr(self, name, np.array(saved, dtype=np.float64))

    def same(self, other: Queues) -> bool:
        """Whether both hold the same."""
        return all(np.array_equal(own, getattr(other, name)) for name, own in vars(self).items())

    def copy(self) -> Self:
        """One of its own."""
        return type(self)(*(own.copy() for own in vars(self).values()))


class Controller(Protocol):
    """Decides in every slot what is admitted and who sends with which power; knows nothing of where data comes from.

    One object is for one run. All arrays are (..., N): systems that share the parameters, or whose parameters are
    arrays, run side by side along the leading axes.
    """

    radio: Radio
    queues: Queues

    def step(self, slot: Slot) -> Flow:
        """One slot: decides by the queues at its start, then updates them."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next slot depends on."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


def highest(values: Floats, count: int) -> Floats:
    """(..., N) of 0 and 1: the ``count`` largest strictly positive values; of equal ones those of smaller index."""
    order = np.argsort(-values, axis=-1, kind="stable")[..., :count]
    chosen = np.zeros(values.shape)
    np.put_along_axis(chosen, order, 1.0, axis=-1)
    return np.where(values > 0, chosen, 0.0)


def knapsack(values: Floats, caps: Floats, total: float) -> Floats:
    """(..., N) shares x that maximise Σ values·x subject to 0 ≤ x ≤ caps and Σ x ≤ total.

    A fractional knapsack: the most valuable first, the last one in part; worthless ones get nothing.
    """
    order = np.argsort(-values, axis=-1, kind="stable")
    wanted = np.take_along_axis(np.where(values > 0, caps, 0.0), order, axis=-1)
    before = np.cumsum(wanted, axis=-1) - wanted
    shares = np.empty(wanted.shape)
    np.put_along_axis(shares, order, np.clip(total - before, 0.0, wanted), axis=-1)
    return shares
