"""Uplinks to compare with: everything offered is admitted, and whoever sends takes the power that it has."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import numpy.typing as npt

from gradcode.network.channel import Floats
from gradcode.network.radio import Flow, Queues, Radio, Slot, highest


class AdmitAll(ABC):
    """Admits everything; a subclass says who sends. Batteries are filled whenever there is room.

    Args:
        radio: the limits.
        battery: J that a battery holds, full at first; what it cannot take in is not harvested. Give it what a
            :class:`FairUplink` needs (``energy_bound``) to compare the two.
        energy: False: there are no batteries. None: there are if the radio has anything to harvest.

    Raises:
        ValueError: a battery is not positive, or missing where there is energy to keep.
    """

    def __init__(self, radio: Radio, battery: float | Floats | None = None, *, energy: bool | None = None) -> None:
        energy = radio.harvest_max > 0 if energy is None else energy
        if energy and (battery is None or not np.all(np.asarray(battery) > 0)):
            raise ValueError(
                f"battery={battery!r} must be positive: the joules that one holds; or give energy=False for none"
            )
        self.radio, self.energy = radio, energy
        self.battery = np.broadcast_to(np.asarray(battery if energy else math.inf, dtype=np.float64), (radio.workers,))
        self.queues = Queues(np.zeros(radio.workers), np.zeros(radio.workers), self.battery.copy())

    def __repr__(self) -> str:
        return f"{type(self).__name__}(workers={self.radio.workers})"

    @abstractmethod
    def _shares(self, gains: Floats, carried: Floats) -> Floats:
        """(..., N) the share of a channel that each worker has, 0 of those without data or energy."""

    def _able(self, carried: Floats) -> npt.NDArray[np.bool_]:
        """(..., N) who has data to send, and energy."""
        return (self.queues.data > 0) & (carried > 0)

    def step(self, slot: Slot) -> Flow:
        """One slot; see :class:`Controller`."""
        radio, queues = self.radio, self.queues
        power = np.minimum(radio.power_max, queues.energy / radio.slot)
        carried = radio.carried(power, slot.gains)
        share = self._shares(slot.gains, carried)
        served = np.minimum(queues.data, share * carried)
        queues.data = np.maximum(queues.data - served, 0.0) + slot.offered
        if self.energy:
            spent = share * power * radio.slot
            queues.energy = np.minimum(np.maximum(queues.energy - spent, 0.0) + slot.harvest, self.battery)
        return Flow(slot.offered, served, power, share)

    def state_dict(self) -> dict[str, Any]:
        """The queues."""
        return self.queues.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.queues.load_state_dict(state)


class RoundRobin(AdmitAll):
    """Those with data and energy take turns, by index."""

    _last = np.array([-1])  # (..., 1) who had a channel last

    def _shares(self, gains: Floats, carried: Floats) -> Floats:
        number = self.radio.workers
        turn = (np.arange(number) - self._last - 1) % number
        waiting = np.where(self._able(carried), number - turn, 0)
        share = highest(waiting, self.radio.channels)
        furthest = np.argmax(np.where(share > 0, turn, -1), axis=-1)[..., None]
        self._last = np.where(share.any(axis=-1, keepdims=True), furthest, self._last)
        return share

    def state_dict(self) -> dict[str, Any]:
        """The queues, and whose turn it is."""
        return {**super().state_dict(), "last": self._last.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        queues = dict(state)
        self._last = np.array(queues.pop("last"))
        super().load_state_dict(queues)


class BestChannel(AdmitAll):
    """Those of the largest gains send, of those with data and energy."""

    def _shares(self, gains: Floats, carried: Floats) -> Floats:
        return highest(np.where(self._able(carried), gains, 0.0), self.radio.channels)


class MaxWeight(AdmitAll):
    """Those with the largest Q_i·R_i send: short queues, but neither admission control nor care for batteries."""

    def _shares(self, gains: Floats, carried: Floats) -> Floats:
        return highest(self.queues.data * carried, self.radio.channels)


class NoControl(AdmitAll):
    """Everybody with data sends at once, and the channels' bandwidth is shared equally, none having more than one."""

    def _shares(self, gains: Floats, carried: Floats) -> Floats:
        sending = self._able(carried)
        each = np.minimum(1.0, self.radio.channels / np.maximum(sending.sum(axis=-1, keepdims=True), 1))
        return np.where(sending, each, 0.0)
