"""The fair uplink: worked examples, closed forms against brute force, and what never happens in any slot."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from gradcode.network import FairUplink, Radio, Rayleigh, Slot, Steady, harvesting_uplink, knapsack, simulate
from gradcode.network.radio import highest


def arrays(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)


def test_one_slot_of_the_spec() -> None:
    """two_stage.md, 9.4; its digits are to 5e-6."""
    uplink = FairUplink(Radio(2, Rayleigh(1.0, 12.0), channels=1), tradeoff=10.0, theta=10.0)
    uplink.queues.data, uplink.queues.virtual = arrays(3, 6), arrays(5, 2)
    uplink.queues.energy = arrays(6, 9.5)
    gains = arrays(3, 1)
    assert uplink.auxiliary(uplink.queues.virtual).tolist() == [1, 4]
    power = uplink.power(uplink.queues.data, uplink.queues.energy, gains)
    assert power == pytest.approx([0.74869, 2], abs=5e-6)
    value = uplink._value(uplink.radio.carried(power, gains), power)
    assert value == pytest.approx([2.10132, 8.50978], abs=1e-5)
    flow = uplink.step(Slot(arrays(4, 2), gains, arrays(1, 1)))
    assert flow.admitted.tolist() == [4, 0] and flow.share.tolist() == [0, 1]
    assert flow.served == pytest.approx([0, 1.58496], abs=5e-6)
    assert uplink.queues.data == pytest.approx([7, 4.41504], abs=5e-6)
    assert uplink.queues.virtual.tolist() == [2, 6]
    assert uplink.queues.energy.tolist() == [7, 8.5]


def test_the_bounds_of_the_spec() -> None:
    """two_stage.md, 9.5 and B₀ of 8.3."""
    uplink = FairUplink(Radio(8, Rayleigh(np.linspace(0.5, 4, 8), 12.0)), tradeoff=1.0)
    assert uplink.theta == pytest.approx(np.full(8, 157.8111), abs=5e-5)
    assert uplink.data_bound.tolist() == [9] * 8 and uplink.virtual_bound.tolist() == [5] * 8
    assert uplink.energy_bound == pytest.approx(np.full(8, 158.8111), abs=5e-5)
    assert uplink.drift_bound == pytest.approx(230.26, abs=5e-3) and uplink.gap == pytest.approx(230.26, abs=5e-3)
    found = simulate(uplink, np.random.default_rng(0), 2000)
    assert (found.most_data <= 9).all() and (found.most_virtual <= 5).all() and (found.most_energy < 158.8112).all()
    assert (found.least_sending > 2).all()


# What never happens


@st.composite
def systems(draw: st.DrawFn) -> tuple[FairUplink, int]:
    """A random system, and the seed of its slots."""
    size = st.floats(0.05, 20.0)
    workers = draw(st.integers(1, 6))
    weights = draw(st.lists(st.floats(0.1, 5.0), min_size=workers, max_size=workers))
    most = draw(st.floats(0.5, 50.0))
    radio = Radio(
        workers,
        Rayleigh(draw(st.floats(0.1, 10.0)), most, least=draw(st.sampled_from([0.0, 0.05]))),
        channels=draw(st.integers(1, 3)),
        slot=draw(st.floats(0.01, 3.0)),
        bandwidth=draw(size),
        power_max=draw(size),
        offer_max=draw(size),
        harvest_max=draw(st.sampled_from([0.0, 0.3, 5.0])),
    )
    uplink = FairUplink(
        radio,
        draw(st.floats(0.1, 100.0)),
        weights,
        draw(st.floats(0.01, 100.0)),
        energy=True,
        sharing=draw(st.booleans()),
        offset=draw(st.sampled_from([1.0, 0.05, 3.0])),
    )
    return uplink, draw(st.integers(0, 2**32))


@settings(max_examples=100, deadline=None)
@given(systems())
def test_no_slot_breaks_a_bound(system: tuple[FairUplink, int]) -> None:
    """Q, Z, E, energy causality by itself, and conservation, in each of 60 slots; offers are often the largest."""
    uplink, seed = system
    radio, rng = uplink.radio, np.random.default_rng(seed)
    near = 1 + 1e-12  # rounding of sums that are equal in real numbers
    shape = (60, radio.workers)
    offers = radio.offer_max * np.clip(2 * rng.random(shape) - 0.3, 0.0, 1.0)
    strengths = np.where(rng.random(shape) < 0.2, radio.channel.largest, radio.channel.sample(rng, shape))
    for offered, gains, harvest in zip(offers, strengths, radio.harvest_max * rng.random(shape), strict=True):
        data, energy = uplink.queues.data, uplink.queues.energy
        flow = uplink.step(Slot(offered, gains, harvest))
        spent = flow.share * flow.power * radio.slot
        assert (uplink.queues.data <= uplink.data_bound * near).all()
        assert (uplink.queues.virtual <= uplink.virtual_bound * near).all()
        assert (uplink.queues.energy <= uplink.energy_bound * near).all()
        # Not because it is held back: whoever has no more than one slot's energy finds no power worth it.
        assert (energy[flow.power > 0] * near >= radio.power_max * radio.slot).all()
        assert (spent <= energy).all()
        assert flow.share.sum() <= radio.channels * near and (flow.share >= 0).all() and (flow.share <= 1).all()
        assert ((flow.admitted == 0) | (flow.admitted == offered)).all()
        assert (flow.served <= flow.share * radio.carried(flow.power, gains) * near).all()
        assert uplink.queues.data == pytest.approx(data + flow.admitted - flow.served, abs=1e-9)


def test_the_physical_constants_keep_energy_causality() -> None:
    """chi is far from 1, the battery of 20 mJ is enough, and nobody is ever held back."""
    uplink = harvesting_uplink(6, distance=[20, 35, 50, 50, 65, 80])
    assert not 0.1 < uplink.chi < 10
    assert uplink.energy_bound.max() == pytest.approx(0.02)
    found = simulate(uplink, np.random.default_rng(1), 4000)
    assert (found.margin >= 0).all() and (found.least_sending > uplink.radio.power_max * uplink.radio.slot).all()
    assert (found.most_energy <= uplink.energy_bound).all() and (found.most_data <= uplink.data_bound).all()
    assert (found.served > 0).all() and found.lost == pytest.approx(np.zeros(6), abs=1e-8)


def test_a_battery_that_is_too_small_for_the_guarantee_still_pays_for_what_is_sent() -> None:
    uplink = FairUplink(Radio(4), theta=3.0)
    found = simulate(uplink, np.random.default_rng(2), 1000)
    assert (found.margin >= 0).all() and (found.least_sending < uplink.radio.power_max).any()


def test_without_energy_the_queues_keep_their_bounds_and_power_is_full() -> None:
    uplink = FairUplink(Radio(4), tradeoff=5.0, energy=False)
    flow = uplink.step(Slot(np.ones(4), np.ones(4), np.ones(4)))
    assert (flow.power == 2).all() and (uplink.queues.energy == uplink.theta).all()
    found = simulate(uplink, np.random.default_rng(3), 1000)
    assert (found.most_data <= uplink.data_bound).all() and (found.most_virtual <= uplink.virtual_bound).all()
    lively = FairUplink(Radio(4), tradeoff=5.0)
    assert uplink.drift_bound < lively.drift_bound


# Closed forms against brute force

positive = st.floats(0.01, 30.0)


@settings(max_examples=60, deadline=None)
@given(data=positive, short=st.floats(-5.0, 60.0), gain=positive, bandwidth=positive, chi=positive)
def test_no_power_is_worth_more(data: float, short: float, gain: float, bandwidth: float, chi: float) -> None:
    """On a grid of 2001 powers, whose objective is concave; the clamp to the battery is not met here (θ = 1e3)."""
    uplink = FairUplink(Radio(1, Rayleigh(1.0, 30.0), slot=0.5, bandwidth=bandwidth), chi=chi, theta=1e3)
    energy = 1e3 - short

    def worth(power: np.ndarray) -> np.ndarray:
        return data * 0.5 * bandwidth * np.log2(1 + power * gain) - chi * short * power * 0.5

    found = uplink.power(arrays(data), arrays(energy), arrays(gain))
    best = worth(np.linspace(0, 2, 2001)).max()
    assert 0 <= found[0] <= 2 and worth(found)[0] >= best - 1e-9 * (1 + abs(best))


@settings(max_examples=60, deadline=None)
@given(
    virtual=st.floats(0.0, 60.0),
    data=st.floats(0.0, 60.0),
    offered=st.floats(0.0, 4.0),
    weight=positive,
    offset=st.floats(0.01, 3.0),
)
@example(virtual=30.0, data=1.0, offered=1.0, weight=1.0, offset=0.05)
def test_no_auxiliary_and_no_admission_is_worth_more(
    virtual: float, data: float, offered: float, weight: float, offset: float
) -> None:
    """V·ω·ln(c + γ) − Z·γ and (Z − Q)·D on grids."""
    uplink = FairUplink(Radio(1), tradeoff=7.0, weights=weight, offset=offset)
    gamma = uplink.auxiliary(arrays(virtual))[0]
    grid = np.linspace(0, 4, 2001)
    best = (7 * weight * np.log(offset + grid) - virtual * grid).max()
    worth = 7 * weight * math.log(offset + gamma) - virtual * gamma
    assert 0 <= gamma <= 4 and worth >= best - 1e-9 * (1 + abs(best))
    uplink.queues.virtual, uplink.queues.data = arrays(virtual), arrays(data)
    admitted = uplink.step(Slot(arrays(offered), arrays(1.0), arrays(0.0))).admitted[0]
    assert (virtual - data) * admitted >= max(0.0, (virtual - data) * offered) - 1e-12


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-5, 9), st.floats(0.0, 1.0)), min_size=1, max_size=7),
    st.integers(1, 3),
)
def test_the_knapsack_is_that_of_a_linear_program(items: list[tuple[int, float]], total: int) -> None:
    values, caps = (np.array(own, dtype=float) for own in zip(*items, strict=True))
    shares = knapsack(values, caps, total)
    assert (shares >= 0).all() and (shares <= caps).all() and shares.sum() <= total + 1e-12
    solved = linprog(-values, A_ub=np.ones((1, len(values))), b_ub=[total], bounds=[(0, cap) for cap in caps])
    assert values @ shares == pytest.approx(-solved.fun, abs=1e-9)


def test_whole_channels_go_to_the_highest_and_ties_to_the_first() -> None:
    values = np.array([[3.0, 5.0, 5.0, 5.0], [-1.0, 0.0, 2.0, -3.0]])
    assert highest(values, 2).tolist() == [[0, 1, 1, 0], [0, 0, 1, 0]]


def test_an_empty_queue_is_never_scheduled() -> None:
    """Its value would be positive where the battery is fuller than θ."""
    uplink = FairUplink(Radio(2, channels=2), theta=1.0)
    uplink.queues.energy, uplink.queues.data = arrays(1.9, 1.9), arrays(0.0, 1.0)
    assert uplink.step(Slot(np.zeros(2), np.ones(2), np.ones(2))).share.tolist() == [0, 1]


def test_a_shared_channel_serves_more() -> None:
    """One channel that carries 1 a slot, two workers with 0.25 each: both at once, or one after the other."""
    for sharing, expected in ((True, [0.25, 0.25]), (False, [0.25, 0.0])):
        radio = Radio(2, Steady(), channels=1, power_max=1.0)
        uplink = FairUplink(radio, energy=False, sharing=sharing)
        uplink.queues.data = arrays(0.25, 0.25)
        assert uplink.step(Slot(np.zeros(2), np.ones(2), np.zeros(2))).served.tolist() == expected


def test_systems_side_by_side_are_those_by_themselves() -> None:
    """Two values of V and two draws at once; and what was saved goes on as if nothing had been."""
    radio = Radio(3, Rayleigh(np.array([0.5, 1.0, 2.0]), 12.0))
    both = FairUplink(radio, np.array([[[2.0]], [[30.0]]]))
    rng = np.random.default_rng(4)
    slots = [Slot(4 * rng.random((2, 3)), radio.channel.sample(rng, (2, 3)), rng.random((2, 3))) for _ in range(60)]
    for slot in slots:
        both.step(slot)
    for index, tradeoff in enumerate((2.0, 30.0)):
        for draw in range(2):
            one = FairUplink(radio, tradeoff)
            for number, slot in enumerate(slots):
                if number == 30:
                    saved, one = one.state_dict(), FairUplink(radio, tradeoff)
                    one.load_state_dict(saved)
                one.step(Slot(*(part[draw] for part in slot)))
            assert both.queues.data[index, draw].tolist() == one.queues.data.tolist()
            assert both.queues.energy[index, draw].tolist() == one.queues.energy.tolist()


def test_weights_share_as_they_say() -> None:
    """One channel for all, steady: of 1 unit a slot, (1 + D) of weight 4 wants 4 times that of weight 1, so it has all.

    Maximise 4·ln(1 + D₀) + Σ ln(1 + D_i), D₀ + D₁ + D₂ = 1: D₀ = 1 as 4/(1 + 1) > 1. By the gap B₀/V = (3·32 + 3)/2/500
    the utility is at least 4·ln 2 − 0.1; since 1 − D₀ costs at least itself (slope 4/2 − 1), D₀ ≥ 0.9.
    """
    radio = Radio(3, Steady(), channels=1, power_max=1.0)
    uplink = FairUplink(radio, tradeoff=500.0, weights=[4.0, 1.0, 1.0], energy=False)
    assert uplink.gap == pytest.approx(0.099)
    found = simulate(uplink, np.random.default_rng(5), 8000)
    assert found.served[0] >= 0.9 and found.served.sum() == pytest.approx(1.0, abs=1e-9)


def test_a_small_offset_is_proportional_fairness() -> None:
    """As above, but of 4·ln(c + D₀) + ln(c + D₁) + ln(c + D₂), c = 0.01: nearly (4, 1, 1)/6, and within B₀/V of it."""
    radio = Radio(3, Steady(), channels=1, power_max=1.0)
    uplink = FairUplink(radio, tradeoff=500.0, weights=[4.0, 1.0, 1.0], energy=False, offset=0.01)
    found = simulate(uplink, np.random.default_rng(5), 60_000)
    assert found.served.sum() == pytest.approx(1.0, abs=1e-9)
    utility, best = (uplink.weights @ np.log(0.01 + shares) for shares in (found.served, np.array([4.0, 1.0, 1.0]) / 6))
    assert utility >= best - uplink.gap and found.served[1:].min() > 0.1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"offset": 0.0}, "offset=0.0 must be positive"),
        ({"tradeoff": 0.0}, "tradeoff=0.0 must be positive"),
        ({"weights": [1.0, 2.0]}, r"weights=\[1.0, 2.0\] must be positive: one number, or 3"),
        ({"chi": -1.0}, "chi=-1.0 must be positive"),
        ({"theta": -1.0}, "theta=-1.0 must not be negative"),
        ({"chi": 1.0, "battery": 9.0}, "chi=1.0 and battery=9.0 say the same"),
    ],
)
def test_what_is_refused(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FairUplink(Radio(3), **arguments)


def test_a_battery_below_one_slot_is_refused() -> None:
    with pytest.raises(ValueError, match=r"battery=3\.0 J must be above power_max·slot"):
        FairUplink(Radio(3), battery=3.0)
