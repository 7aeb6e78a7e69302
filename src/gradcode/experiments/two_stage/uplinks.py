"""Radio uplinks with physical constants (two_stage.md, section 10, row 14), and what is seen of them slot by slot.

Fading, path loss and constants are those of :func:`gradcode.network.harvesting_radio`. OURS are the batteries of 20 mJ,
for which χ is chosen as section 6.4 says, and the workers' distances. At first batteries are full: E(0) = θ as in
section 1, and for the baselines the same capacity.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradcode.experiments.two_stage.setting import N
from gradcode.network import (
    BestChannel,
    Controller,
    FairUplink,
    Flow,
    MaxWeight,
    NoControl,
    RoundRobin,
    Slot,
    harvesting_radio,
    harvesting_uplink,
)
from gradcode.protocol import Floats

METRES = 50.0
APART = np.linspace(35.0, 65.0, N)
"""Distances from the master that are not equal, in metres."""
BATTERY = 0.02
"""J."""


class Watched:
    """A controller, and what became of its slots so far; its state has both.

    ``most`` (3, N) are the largest data queue, virtual queue and energy, ``margin`` (N,) is the least energy left when
    a slot was paid, ``least`` (N,) the least with which a slot began in which the worker sent, ``shares`` of channels
    were used for ``joules`` in all.
    """

    def __init__(self, controller: Controller) -> None:
        self.controller, self.radio, self.queues = controller, controller.radio, controller.queues
        self.most: Floats = np.zeros((3, self.radio.workers))
        self.margin: Floats = np.full(self.radio.workers, math.inf)
        self.least: Floats = np.full(self.radio.workers, math.inf)
        self.shares = self.joules = 0.0

    def step(self, slot: Slot) -> Flow:
        """One slot; see :class:`gradcode.network.Controller`."""
        energy = self.queues.energy
        flow = self.controller.step(slot)
        paid = flow.share * flow.power * self.radio.slot
        self.most = np.maximum(self.most, [self.queues.data, self.queues.virtual, self.queues.energy])
        self.margin = np.minimum(self.margin, energy - paid)
        self.least = np.minimum(self.least, np.where(paid > 0, energy, math.inf))
        self.shares += float(flow.share.sum())
        self.joules += float(paid.sum())
        return flow

    def state_dict(self) -> dict[str, Any]:
        """The controller's state, and what was seen."""
        seen = {
            name: np.array(getattr(self, name)).tolist() for name in ("most", "margin", "least", "shares", "joules")
        }
        return {"controller": self.controller.state_dict(), **seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.controller.load_state_dict(state["controller"])
        self.shares, self.joules = state["shares"], state["joules"]
        self.most, self.margin, self.least = (np.array(state[name]) for name in ("most", "margin", "least"))


def fair(distance: npt.ArrayLike = METRES, tradeoff: float = 20.0) -> FairUplink:
    """The fair uplink; V is the spec's recommended one."""
    return harvesting_uplink(N, distance=distance, tradeoff=tradeoff, battery=BATTERY)


def controllers() -> dict[str, tuple[Controller, bool]]:
    """The fair uplink, and the baselines of section 5 with the same batteries; and whether all schemes are tried."""
    radio = harvesting_radio(N, distance=METRES)
    battery = fair().energy_bound
    return {
        "fair, V = 20": (fair(), True),
        "max-weight": (MaxWeight(radio, battery), True),
        "fair, V = 2": (fair(tradeoff=2.0), False),
        "round robin": (RoundRobin(radio, battery), False),
        "best channel": (BestChannel(radio, battery), False),
        "no control": (NoControl(radio, battery), False),
    }
