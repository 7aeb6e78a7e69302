"""The fair uplink: admission, power and scheduling that trade utility against backlog, one slot at a time."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from gradcode.network.channel import Floats
from gradcode.network.radio import Flow, Queues, Radio, Slot, highest, knapsack


class FairUplink:
    """Maximises Σ ω_i·ln(c + mean admitted data of worker i), c = 1, by a perturbed Lyapunov function.

    In every slot the drift of ½·Σ (Q² + Z² + χ·(E − θ)²) minus V times the utility is made as small as its bound
    allows, which falls apart into closed forms. They need neither statistics of channels and data nor the future, and
    the utility is within ``gap`` = B₀/V of what any rule could reach, with queues of O(V). The perturbation θ keeps
    batteries so full that nobody sends without the energy to do so.

    Source: two_stage.md, section 6 and its readings in section 11 (RECONSTRUCTED from Lyu et al. 2017 and Huang, Neely
    2010: the paper's own formulas could not be read).

    Args:
        radio: the limits.
        tradeoff: V > 0, what utility counts against backlog; an array (..., 1) runs systems side by side.
        weights: ω_i > 0, of all workers or (N,) one each.
        chi: χ > 0, which matches units of energy and data; None: 1, or with a battery :meth:`chi_for` it.
        theta: θ_i in J; None: the least for which energy causality holds by itself. With a smaller one power is lowered
            to what the battery has, and the gap is not guaranteed.
        battery: J that is to be exactly enough for the workers' batteries; in place of ``chi``.
        energy: False: there are no batteries, and whoever sends does so with full power. None: there are if the radio
            has anything to harvest.
        offset: c > 0 of the utility; a small one is nearly ln, proportional fairness in the strict sense, with bounds
            and queues that grow with V/c.
        sharing: a channel's bandwidth can be shared: a worker takes what its queue needs, and the rest is the next
            one's. False: a channel is one worker's for a whole slot.

    Raises:
        ValueError: an argument is out of its range.

    >>> uplink = FairUplink(Radio(workers=8), tradeoff=1.0)
    >>> float(uplink.data_bound[0]), float(uplink.virtual_bound[0]), round(float(uplink.theta[0]), 4)
    (9.0, 5.0, 157.8111)
    """

    def __init__(
        self,
        radio: Radio,
        tradeoff: float | Floats = 20.0,
        weights: npt.ArrayLike = 1.0,
        chi: float | None = None,
        theta: npt.ArrayLike | None = None,
        *,
        battery: float | None = None,
        energy: bool | None = None,
        sharing: bool = False,
        offset: float = 1.0,
    ) -> None:
        shape = (radio.workers,)
        given = np.asarray(weights, dtype=np.float64)
        if given.shape not in ((), shape) or not np.all((given > 0) & np.isfinite(given)):
            raise ValueError(f"weights={weights!r} must be positive: one number, or {radio.workers}, one per worker")
        if not np.all((np.asarray(tradeoff) > 0) & np.isfinite(tradeoff)):
            raise ValueError(f"tradeoff={tradeoff!r} must be positive and finite")
        if not 0 < offset < math.inf:
            raise ValueError(f"offset={offset} must be positive and finite: what is added to data before the logarithm")
        if chi is not None and battery is not None:
            raise ValueError(f"chi={chi} and battery={battery} say the same: give one of them")
        if chi is None:
            chi = 1.0 if battery is None else self.chi_for(radio, battery, tradeoff, weights, offset)
        if not 0 < chi < math.inf:
            raise ValueError(f"chi={chi} must be positive and finite")
        self.radio, self.tradeoff, self.chi, self.offset = radio, tradeoff, chi, offset
        self.weights = np.broadcast_to(given, shape)
        self.energy, self.sharing = radio.harvest_max > 0 if energy is None else energy, sharing
        self.theta = self._least_theta if theta is None else np.broadcast_to(np.asarray(theta, dtype=np.float64), shape)
        if not np.all((self.theta >= 0) & np.isfinite(self.theta)):
            raise ValueError(f"theta={theta!r} must not be negative, and finite")
        self.queues = Queues(np.zeros(shape), np.zeros(shape), self.theta.copy())

    def __repr__(self) -> str:
        return f"FairUplink(workers={self.radio.workers}, tradeoff={self.tradeoff})"

    # What never happens, whatever the slots bring

    @property
    def virtual_bound(self) -> Floats:
        """(..., N) Z never exceeds ω·V/c + A_max, for the auxiliary variable is 0 from ω·V/c on."""
        return np.asarray(self.weights * self.tradeoff / self.offset + self.radio.offer_max)

    @property
    def data_bound(self) -> Floats:
        """(..., N) data units: Q never exceeds ω·V/c + 2·A_max, for nothing is admitted while Q > Z."""
        return self.virtual_bound + self.radio.offer_max

    @property
    def energy_bound(self) -> Floats:
        """(..., N) J: E never exceeds θ + H_max, so a battery of that capacity is enough."""
        return self.theta + self.radio.harvest_max

    @property
    def drift_bound(self) -> float:
        """B₀ = ½·Σ (2·A_max² + R_max² + χ·max(H_max, p_max·τ)²)."""
        radio = self.radio
        energy = self.chi * max(radio.harvest_max, radio.power_max * radio.slot) ** 2 if self.energy else 0.0
        each = np.broadcast_to(2 * radio.offer_max**2 + radio.rate_max**2 + energy, (radio.workers,))
        return float(each.sum() / 2)

    @property
    def gap(self) -> Floats:
        """() or (..., 1): B₀/V, which the utility is at most below the best; slots independent and alike."""
        return np.asarray(self.drift_bound / np.asarray(self.tradeoff))

    @property
    def _slope(self) -> Floats:
        """δ = Bw·g_max/ln 2, the most data units that a joule can carry."""
        return np.asarray(self.radio.bandwidth * self.radio.channel.largest / math.log(2))

    @property
    def _least_theta(self) -> Floats:
        """θ = δ·(ω·V/c + 2·A_max)/χ + p_max·τ: who has less than p_max·τ finds no power worth it."""
        return self._slope * self.data_bound / self.chi + self.radio.power_max * self.radio.slot

    @classmethod
    def chi_for(
        cls,
        radio: Radio,
        battery: float,
        tradeoff: float | Floats = 20.0,
        weights: npt.ArrayLike = 1.0,
        offset: float = 1.0,
    ) -> float:
        """The χ for which batteries of so many J are exactly enough for the largest weight (section 6.4).

        Raises:
            ValueError: the battery holds no more than what one slot can spend and harvest.
        """
        spare = battery - radio.power_max * radio.slot - radio.harvest_max
        if not 0 < spare < math.inf:
            least = radio.power_max * radio.slot + radio.harvest_max
            raise ValueError(f"battery={battery} J must be above power_max·slot + harvest_max = {least:g} J")
        probe = cls(radio, tradeoff, weights, offset=offset)
        return float(np.max(probe._slope * probe.data_bound) / spare)

    # One slot

    def step(self, slot: Slot) -> Flow:
        """One slot: decides by the queues at its start, then updates them; see :class:`Controller`."""
        radio, queues = self.radio, self.queues
        auxiliary = self.auxiliary(queues.virtual)
        admitted = np.where(queues.data <= queues.virtual, slot.offered, 0.0)
        power = self.power(queues.data, queues.energy, slot.gains)
        carried = radio.carried(power, slot.gains)
        share = self._shares(self._value(carried, power), carried)
        served = np.minimum(queues.data, share * carried)
        # What is left, of data and of energy, is ≥ 0 but for rounding.
        queues.data = np.maximum(queues.data - served, 0.0) + admitted
        queues.virtual = np.maximum(queues.virtual + auxiliary - admitted, 0.0)
        if self.energy:
            stored = np.where(queues.energy < self.theta, slot.harvest, 0.0)
            queues.energy = np.maximum(queues.energy - share * power * radio.slot, 0.0) + stored
        return Flow(admitted, served, power, share)

    def auxiliary(self, virtual: Floats) -> Floats:
        """(..., N) γ = clip(ω·V/Z − c, 0, A_max): what maximises V·ω·ln(c + γ) − Z·γ; A_max where Z = 0."""
        with np.errstate(divide="ignore", over="ignore"):
            return np.clip(self.weights * self.tradeoff / virtual - self.offset, 0.0, self.radio.offer_max)

    def power(self, data: Floats, energy: Floats, gains: Floats) -> Floats:
        """(..., N) W, what maximises Q·τ·Bw·log2(1 + p·g) − χ·(θ − E)·p·τ; never more than the battery has."""
        radio = self.radio
        if not self.energy:
            return np.full(np.broadcast_shapes(data.shape, gains.shape), radio.power_max)
        lacking = self.chi * np.maximum(self.theta - energy, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            best = data * radio.bandwidth / (math.log(2) * lacking) - 1 / gains
        best = np.where(lacking > 0, np.clip(best, 0.0, radio.power_max), radio.power_max)
        return np.asarray(np.minimum(best, energy / radio.slot))

    def _value(self, carried: Floats, power: Floats) -> Floats:
        """What a whole channel is worth to each worker; an empty queue's nothing."""
        data, energy = self.queues.data, self.queues.energy
        value = data * carried
        if self.energy:
            value = value - self.chi * (self.theta - energy) * power * self.radio.slot
        return np.where(data > 0, value, 0.0)

    def _shares(self, values: Floats, carried: Floats) -> Floats:
        if not self.sharing:
            return highest(values, self.radio.channels)
        needed = np.divide(self.queues.data, carried, out=np.ones_like(carried), where=carried > 0)
        return knapsack(values, np.minimum(needed, 1.0), self.radio.channels)

    def state_dict(self) -> dict[str, Any]:
        """The queues."""
        return self.queues.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from there."""
        self.queues.load_state_dict(state)
