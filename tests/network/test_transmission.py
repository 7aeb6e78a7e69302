"""Messages through an uplink: first in first out, nothing lost, the same from the same seed."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode.errors import GradcodeError
from gradcode.network import (
    BestChannel,
    Controller,
    FairUplink,
    Radio,
    Rayleigh,
    RoundRobin,
    Transmission,
    Uplink,
    transmission,
    wire,
)


def wired(workers: int = 2, rate: float = 10.0, unit: float = 1.0) -> Uplink:
    """One channel of ``rate`` bytes a slot of a second, in turns."""
    return Uplink(RoundRobin(wire(workers, rate, slot=1.0, unit=unit)), unit)


def arrivals(run: Transmission, until: float) -> dict[int, float]:
    """When each key has arrived; the slots before ``until``."""
    landed: dict[int, float] = {}
    while run.boundary < until:
        landed |= dict.fromkeys(run.land(), run.boundary)
        run.begin()
    return landed | dict.fromkeys(run.land(), run.boundary)


def test_a_message_arrives_when_all_of_it_has_been_served() -> None:
    """25 bytes at 10 a slot, admitted in slots 0, 1, 2 and served in 1, 2, 3: there at 4."""
    run = wired().start(0)
    run.put(0, 7, 25, 0.0)
    assert arrivals(run, 6.0) == {7: 4.0}
    traffic = run.end(6.0)
    assert traffic.offered.tolist() == traffic.admitted.tolist() == traffic.served.tolist() == [25.0, 0.0]
    assert traffic.backlog.tolist() == [0.0, 0.0] and traffic.slots == 6


def test_what_comes_within_a_slot_waits_for_the_next() -> None:
    run = wired().start(0)
    run.put(0, 1, 5, 0.0)
    run.begin()
    run.put(1, 2, 5, 0.5)
    assert arrivals(run, 5.0) == {1: 2.0, 2: 3.0}
    run.end(5.0)
    run.put(0, 3, 5, 0.0)  # at the boundary itself is in time
    assert arrivals(run, 3.0) == {3: 2.0}


def test_first_in_first_out_and_turns_between_workers() -> None:
    run = wired().start(0)
    for key, worker, size in ((0, 0, 10), (1, 0, 5), (2, 1, 10), (3, 0, 5)):
        run.put(worker, key, size, 0.0)
    # Admitted 10 of each at once; served by turns 0, 1, 0: what 1 and 3 have in common fits into one slot.
    assert arrivals(run, 6.0) == {0: 2.0, 2: 3.0, 1: 4.0, 3: 4.0}


def test_what_nobody_wants_is_taken_out_unless_it_is_admitted() -> None:
    """Of 25 bytes 10 are admitted and still sent, ahead of the next message."""
    run = wired(1).start(0)
    run.put(0, 1, 25, 0.0)
    run.begin()
    run.withdraw([1])
    assert not run.waiting
    run.put(0, 2, 10, 1.0)
    assert arrivals(run, 5.0) == {2: 3.0}
    traffic = run.end(5.0)
    assert traffic.withdrawn[0] == 15.0 and traffic.admitted[0] == traffic.served[0] == 20.0


def test_what_has_landed_can_still_be_unwanted() -> None:
    run = wired(1).start(0)
    run.put(0, 1, 5, 0.0)
    run.begin()
    run.begin()
    assert run.landing
    run.withdraw([1])
    assert not run.landing and run.land() == []


def controllers() -> list[Controller]:
    radio = Radio(3, Rayleigh(np.array([0.5, 1.0, 2.0]), most=12.0), channels=1, slot=0.5, bandwidth=4.0)
    return [FairUplink(radio, 3.0), FairUplink(radio, 3.0, sharing=True), BestChannel(radio, 30.0)]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2),
    st.integers(0, 99),
    st.lists(st.tuples(st.integers(0, 2), st.integers(0, 60), st.floats(0.0, 4.0)), min_size=1, max_size=12),
    st.sets(st.integers(0, 11)),
)
def test_nothing_admitted_is_lost(
    which: int, seed: int, messages: list[tuple[int, int, float]], unwanted: set[int]
) -> None:
    """Bytes offered are admitted or withdrawn, admitted ones served or queued, over two iterations; all in order."""
    run, landed = Uplink(controllers()[which], unit=10.0).start(seed), dict[int, float]()
    offered = sum(size for _, size, _ in messages)
    now = 0.0
    for key, (worker, size, later) in enumerate(messages):
        now += later
        landed |= arrivals(run, now) if run.waiting else {}
        run.put(worker, key, size, now)
        if key in unwanted:
            run.withdraw([key])
    end = now + 40.0
    landed |= arrivals(run, end)
    first = run.end(end)
    second = run.end(30.0)
    assert sum(own.offered.sum() for own in (first, second)) == pytest.approx(offered)
    assert first.offered == pytest.approx(first.admitted + first.withdrawn, abs=1e-6)
    assert first.admitted == pytest.approx(first.served + first.backlog, abs=1e-6)
    assert first.backlog + second.admitted == pytest.approx(second.served + second.backlog, abs=1e-6)
    assert unwanted.isdisjoint(landed)
    for worker in range(3):
        mine = [landed[key] for key, own in enumerate(messages) if own[0] == worker and key in landed]
        assert mine == sorted(mine)
        wanted = [key for key, own in enumerate(messages) if own[0] == worker and key not in unwanted]
        assert [key for key in wanted if key in landed] == wanted[: len(mine)]


@pytest.mark.parametrize("which", range(3))
def test_a_run_is_its_seed_and_goes_on_from_what_was_saved(which: int) -> None:
    uplink = Uplink(controllers()[which], unit=10.0)

    def go_on(run: Transmission) -> dict[int, float]:
        for worker in range(3):
            run.put(worker, worker, 90, 0.2)
        return arrivals(run, 300.0)

    run = uplink.start(5)
    first = go_on(run)
    run.put(0, 9, 400, 300.0)
    run.begin()
    run.begin()
    run.end(301.3)
    again, other = Uplink(controllers()[which], unit=10.0).start(9), uplink.start(6)
    again._seed = 5
    again.load_state_dict(copy.deepcopy(run.state_dict()))
    assert run.state_dict()["left"][0] > 0
    assert go_on(run) == go_on(again)
    assert len(first) == 3 and first == go_on(uplink.start(5)) != go_on(other)


def test_idle_time_is_passed_over_as_if_every_slot_had_been() -> None:
    """Batteries and virtual queues settle within a few hundred slots; then a million seconds cost nothing."""
    uplink = Uplink(controllers()[0], unit=10.0)
    quick, slow = uplink.start(1), uplink.start(1)
    quick.put(0, 0, 20, 1e6)
    while slow.boundary < 1000:
        slow.begin()
    assert quick.controller.state_dict() == slow.controller.state_dict()
    assert quick.boundary == 1e6 and quick.end(1e6).slots == 2_000_000


def test_an_uplink_that_never_serves_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transmission, "_SILENCE", 50)
    radio = Radio(1, Rayleigh(1.0, most=12.0), harvest_max=0.0)
    run = Uplink(FairUplink(radio, theta=0.0, energy=True), unit=1.0).start(0)
    run.controller.queues.energy[:] = 0.0
    run.put(0, 0, 3, 0.0)
    with pytest.raises(GradcodeError, match=r"served nothing for 50 slots .*harvest_max=0.0"):
        arrivals(run, 100.0)


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"unit=0.0 must be a positive number of bytes"):
        Uplink(FairUplink(Radio(2)), 0.0)
    side_by_side = FairUplink(Radio(2))
    side_by_side.queues.data = np.zeros((3, 2))
    with pytest.raises(ValueError, match="queues of shape"):
        Uplink(side_by_side)
