"""An uplink by itself: data that comes by chance, and what a controller makes of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradcode.network.channel import Floats
from gradcode.network.radio import Controller, Slot

CHUNK = 64
"""Slots that are drawn at once."""


@dataclass(frozen=True, eq=False)
class Averages:
    """What happened: means per slot over the second half, extremes over all slots; (..., N) where not said otherwise.

    Args:
        admitted, served: data units.
        spent: J.
        backlog: (...) mean of Σ_i Q_i at the end of a slot.
        most_data, most_virtual, most_energy: the largest Q, Z and E.
        margin: the least energy that was left when a slot's sending was paid: causality holds if it is ≥ 0.
        least_sending: the least energy with which a slot in which a worker sent began; inf: it never sent.
        lost: data admitted less data served less data still waiting, at the end; 0 but for rounding.
    """

    admitted: Floats
    served: Floats
    spent: Floats
    backlog: Floats
    most_data: Floats
    most_virtual: Floats
    most_energy: Floats
    margin: Floats
    least_sending: Floats
    lost: Floats

    @property
    def utility(self) -> Floats:
        """(...) Σ_i ln(1 + mean admitted), the weights being 1."""
        return np.asarray(np.log1p(self.admitted).sum(axis=-1))


def jain(amounts: Floats) -> Floats:
    """(...) Jain's index of (..., N) amounts, (Σ D)² / (N·Σ D²): 1 if all are equal, 1/N if one has everything."""
    amounts = np.asarray(amounts, dtype=np.float64)
    return np.asarray(amounts.sum(axis=-1) ** 2 / (amounts.shape[-1] * (amounts**2).sum(axis=-1)))


def simulate(
    controller: Controller,
    rng: np.random.Generator,
    slots: int,
    systems: tuple[int, ...] = (),
    load: float = 1.0,
) -> Averages:
    """Runs a controller by itself: offers uniform on [0, load·A_max], harvests on [0, H_max], what is refused is gone.

    Args:
        controller: as it is; its queues are those of the end afterwards.
        rng: draws the slots.
        slots: how many, ≥ 2.
        systems: leading axes of what is drawn; the controller's own leading axes see the same draws.
        load: of what workers can offer, in [0, 1].

    Raises:
        ValueError: an argument is out of its range.
    """
    if slots < 2 or not 0 <= load <= 1:
        raise ValueError(f"slots={slots} must be at least 2, and load={load} in [0, 1]")
    radio, queues = controller.radio, controller.queues
    before = queues.data.copy()
    zero = np.zeros(())
    admitted = served = spent = backlog = half_admitted = half_served = most_data = most_virtual = most_energy = zero
    margin = least_sending = np.asarray(np.inf)
    for first in range(0, slots, CHUNK):
        shape = (min(CHUNK, slots - first), *systems, radio.workers)
        offered = rng.random(shape) * (load * radio.offer_max)
        gains = radio.channel.sample(rng, shape)
        harvest = rng.random(shape) * radio.harvest_max
        for number, slot in enumerate(map(Slot, offered, gains, harvest), first):
            energy = queues.energy
            flow = controller.step(slot)
            paid = flow.share * flow.power * radio.slot
            admitted, served = admitted + flow.admitted, served + flow.served
            if number == slots // 2 - 1:
                half_admitted, half_served = admitted, served
            if number >= slots // 2:
                spent, backlog = spent + paid, backlog + queues.data.sum(axis=-1)
            most_data = np.maximum(most_data, queues.data)
            most_virtual = np.maximum(most_virtual, queues.virtual)
            most_energy = np.maximum(most_energy, queues.energy)
            margin = np.minimum(margin, energy - paid)
            least_sending = np.minimum(least_sending, np.where(paid > 0, energy, np.inf))
    half = slots - slots // 2
    return Averages(
        (admitted - half_admitted) / half,
        (served - half_served) / half,
        spent / half,
        backlog / half,
        most_data,
        most_virtual,
        most_energy,
        margin,
        least_sending,
        before + admitted - served - queues.data,
    )
