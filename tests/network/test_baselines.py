"""The uplinks to compare with, and an uplink by itself."""

from __future__ import annotations

import numpy as np
import pytest

from gradcode.network import (
    BestChannel,
    Controller,
    FairUplink,
    MaxWeight,
    NoControl,
    Radio,
    Rayleigh,
    RoundRobin,
    Slot,
    jain,
    simulate,
)

RADIO = Radio(4, Rayleigh(np.array([0.5, 1.0, 2.0, 4.0]), 12.0), channels=2)
BASELINES = [RoundRobin, BestChannel, MaxWeight, NoControl]
NOTHING = np.zeros(4)


def sent(controller: Controller, gains: list[float]) -> list[float]:
    return controller.step(Slot(NOTHING, np.array(gains), NOTHING)).share.tolist()


def loaded(kind: type, data: list[float]) -> Controller:
    controller: Controller = kind(RADIO, battery=100.0)
    controller.queues.data = np.array(data)
    return controller


def test_round_robin_takes_turns_among_those_with_data() -> None:
    controller = loaded(RoundRobin, [50, 0, 50, 50])
    gains = [1.0, 1.0, 1.0, 1.0]
    assert [sent(controller, gains) for _ in range(3)] == [[1, 0, 1, 0], [1, 0, 0, 1], [0, 0, 1, 1]]
    other = RoundRobin(RADIO, 100.0)
    other.load_state_dict(controller.state_dict())
    assert sent(other, gains) == sent(controller, gains) == [1, 0, 1, 0]


def test_who_sends() -> None:
    assert sent(loaded(BestChannel, [9, 9, 0, 9]), [1, 2, 9, 3]) == [0, 1, 0, 1]
    # log2(1 + 2 g) is 2, 2, 1, 1: the products are 4, 2, 9, 3.
    assert sent(loaded(MaxWeight, [2, 1, 9, 3]), [1.5, 1.5, 0.5, 0.5]) == [1, 0, 1, 0]
    assert sent(loaded(NoControl, [9, 9, 0, 9]), [1, 1, 1, 1]) == pytest.approx([2 / 3, 2 / 3, 0, 2 / 3])
    assert sent(loaded(NoControl, [0, 9, 0, 0]), [1, 1, 1, 1]) == [0, 1, 0, 0]


def test_an_empty_battery_has_no_turn() -> None:
    controller = loaded(RoundRobin, [9, 9, 9, 9])
    controller.queues.energy = np.array([0.0, 5.0, 5.0, 5.0])
    assert sent(controller, [1, 1, 1, 1]) == [0, 1, 1, 0]


@pytest.mark.parametrize("kind", [*BASELINES, FairUplink])
def test_nothing_admitted_is_lost_and_nothing_is_sent_without_energy(kind: type) -> None:
    """Congested: 8 units are offered a slot, about 5 can be carried. Two draws side by side."""
    controller = FairUplink(RADIO) if kind is FairUplink else kind(RADIO, battery=20.0)
    found = simulate(controller, np.random.default_rng(0), 2000, systems=(2,))
    assert found.lost == pytest.approx(np.zeros((2, 4)), abs=1e-8)
    assert (found.margin >= 0).all() and (found.most_energy <= (159.0 if kind is RoundRobin else 1e9)).all()
    assert (found.served.sum(axis=-1) > 1).all()
    if kind is not FairUplink:  # everything was admitted: 2 a slot and worker, ± 5 standard errors of 2/√3·1/√1000
        assert found.admitted == pytest.approx(np.full((2, 4), 2.0), abs=5 * 1.1547 / np.sqrt(1000))
        assert (found.most_energy <= 20.0).all()


def test_the_index_of_jain() -> None:
    assert jain(np.array([[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0]])).tolist() == [1.0, 0.25]
    assert jain(np.array([1.0, 2.0])) == pytest.approx(0.9)


def test_a_run_is_its_seed() -> None:
    first, again, other = (simulate(FairUplink(RADIO), np.random.default_rng(seed), 300) for seed in (1, 1, 2))
    assert first.admitted.tolist() == again.admitted.tolist() != other.admitted.tolist()
    assert first.utility == pytest.approx(np.log1p(first.admitted).sum())


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="battery=None must be positive"):
        RoundRobin(RADIO)
    with pytest.raises(ValueError, match="slots=1 must be at least 2"):
        simulate(FairUplink(RADIO), np.random.default_rng(0), 1)
    assert MaxWeight(RADIO, energy=False).step(Slot(np.ones(4), np.ones(4), NOTHING)).power.tolist() == [2.0] * 4
