"""Partial stragglers: the rules of an iteration, driven by hand; losses and the deadline."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import schemes
from gradcode.protocol import Abandon, Combination, Iteration, Order, Reply
from gradcode.schemes import PartialStragglers

N, LENGTH = 4, 7


class Play:
    """An iteration driven by hand: what is open, and workers whose messages hold what they were asked for."""

    def __init__(self, scheme: PartialStragglers, target: Combination | None = None) -> None:
        self.scheme, self.open = scheme, dict[int, Order]()
        self.abandoned: list[int] = []
        self.used: set[int] = set()
        self.gradients = np.random.default_rng(1).standard_normal((scheme.partitions, LENGTH))
        self.target = target or Combination(dict.fromkeys(range(scheme.partitions), 1.0))
        self.rows = torch.full((scheme.workers, scheme.layout.width(LENGTH) + 3), torch.nan, dtype=torch.float64)
        sizes = np.ones(scheme.partitions, dtype=np.int64)
        self.take(scheme.start(Iteration(3, 17, self.target, tuple(range(scheme.workers)), sizes)))

    def take(self, actions: Sequence[Order | Abandon]) -> list[Order | Abandon]:
        for action in actions:
            if isinstance(action, Order):
                assert action.slot not in self.used and 0 <= action.slot < self.scheme.layout.slots
                assert action.row == action.worker and action.serial == 17
                self.used.add(action.slot)
                self.open[action.slot] = action
            else:
                self.abandoned += action.slots
                for slot in action.slots:
                    self.open.pop(slot, None)
        return list(actions)

    def of(self, worker: int, hold: bool = True) -> list[Order]:
        return [order for order in self.open.values() if order.worker == worker and order.hold == hold]

    def finish(self, worker: int) -> list[Order | Abandon]:
        """The worker ends its next chunk."""
        return self.answer(self.of(worker)[0])

    def answer(self, order: Order) -> list[Order | Abandon]:
        del self.open[order.slot]
        payload = None
        if not order.hold:
            payload = torch.zeros(1, dtype=torch.uint8)
            width = self.scheme.layout.width(LENGTH)
            padded = np.zeros((self.scheme.partitions, width * self.scheme.parts))
            padded[:, :LENGTH] = self.gradients
            pieces = padded.reshape(self.scheme.partitions, self.scheme.parts, width)
            z = sum(np.asarray(values) @ pieces[chunk] for chunk, values in order.combination.items())
            self.rows[order.worker, :width] = torch.from_numpy(np.asarray(z))
        return self.take(self.scheme.receive(Reply(order, payload, 1.0, np.zeros((len(order.combination), 1)))))

    def lose(self, worker: int) -> list[Order | Abandon]:
        return self.take(self.scheme.lose(worker))

    def send_all(self) -> None:
        for order in [own for own in self.open.values() if not own.hold]:
            assert not self.scheme.done
            self.answer(order)

    def error(self) -> float:
        """‖ĝ − g‖ / Σ‖g_j‖ of what the scheme makes of the messages."""
        out = torch.full((LENGTH,), torch.nan, dtype=torch.float64)
        self.scheme.gradient(self.rows[:, : self.scheme.layout.width(LENGTH)], out)
        wanted = sum(float(np.real(c)) * self.gradients[chunk] for chunk, c in self.target.items())
        return float(np.linalg.norm(out.numpy() - wanted) / np.linalg.norm(self.gradients, axis=1).sum())


def chunk_of(order: Order) -> int:
    (chunk,) = order.combination
    return chunk


def test_workers_hold_their_chunks_in_order_and_are_asked_when_all_are_covered() -> None:
    play = Play(schemes.partial(N, 3, order="natural"))
    assert [[chunk_of(order) for order in play.of(worker)] for worker in range(N)] == [
        [0, 1, 2],
        [1, 2, 3],
        [2, 3, 0],
        [3, 0, 1],
    ]
    assert all(dict(order.combination) == {chunk_of(order): 1.0} for order in play.open.values())
    assert play.scheme.awaits == 4
    assert play.finish(0) == [] and play.finish(0) == [] and play.finish(0) == []
    assert play.scheme.awaits == 1 and not play.scheme.done
    assert play.finish(2) == []  # chunk 2 again: nothing new
    assert play.scheme.awaits == 1
    abandon, *asked = play.finish(2)
    assert isinstance(abandon, Abandon) and len(abandon.slots) == 12 - 5
    assert [(order.worker, sorted(order.combination)) for order in asked] == [(0, [0, 1, 2]), (2, [2, 3])]
    assert play.scheme.awaits == 2
    play.send_all()
    assert play.scheme.done
    assert play.error() <= play.scheme.error < 1e-14 and play.scheme.exact and play.scheme.residual == 0


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_every_order_of_finishing_gives_the_sum(parts: int) -> None:
    scheme = schemes.partial(6, 4, parts, assignment="random_regular", seed=2)
    rng = np.random.default_rng(parts)
    for _ in range(20):
        play = Play(scheme)
        while any(order.hold for order in play.open.values()):
            play.finish(int(rng.choice([order.worker for order in play.open.values() if order.hold])))
            counts = scheme._finished.sum(axis=0)
            assert (scheme._asked is not None) == (counts.min() >= parts)
        assert all(len(own) == parts for order in play.open.values() for own in order.combination.values())
        play.send_all()
        assert scheme.done
        assert play.error() <= scheme.error < 1e-10 and scheme.exact


def test_targets_coefficients_multiply_and_what_is_not_in_it_is_not_computed() -> None:
    play = Play(schemes.partial(N, 3, 2), Combination({0: 2.0, 1: -1.0, 3: 0.5}))
    assert {chunk_of(order) for order in play.open.values()} == {0, 1, 3}
    while play.scheme._asked is None:
        play.finish(next(order.worker for order in play.open.values()))
    play.send_all()
    assert play.error() <= play.scheme.error < 1e-12 and play.scheme.exact


def test_the_deadline_takes_the_least_squares_of_what_is_finished() -> None:
    scheme = schemes.partial(N, 3, 2, deadline=1.5, order="natural")
    play = Play(scheme)
    assert scheme.deadline == 1.5
    for worker in (0, 0, 1, 2):
        play.finish(worker)  # chunks 0, 1; 1; 2
    abandon, *asked = play.take(scheme.expire())
    assert isinstance(abandon, Abandon) and len(abandon.slots) == 8
    assert [order.worker for order in asked] == [0, 1, 2]
    play.send_all()
    assert scheme.done and not scheme.exact
    assert scheme.residual**2 == pytest.approx(1 + 0 + 1 + 2)
    assert 0.01 < play.error() <= scheme.error == pytest.approx(1.0)


def test_if_nothing_is_finished_the_first_chunk_ends_it() -> None:
    scheme = schemes.partial(N, 3, deadline=1.5, order="natural")
    play = Play(scheme)
    assert scheme.expire() == () and not scheme.done and scheme.awaits == 1
    _, order = play.finish(3)
    assert isinstance(order, Order) and sorted(order.combination) == [3]
    play.send_all()
    assert scheme.done and not scheme.exact
    again = Play(scheme)  # lateness does not outlive the iteration
    assert again.finish(3) == []


def test_the_deadline_changes_nothing_once_messages_are_asked_for() -> None:
    scheme = schemes.partial(2, 1, deadline=1.0)
    play = Play(scheme)
    play.finish(0)
    assert len(play.finish(1)) == 2  # two messages, and nothing to abandon
    assert scheme.expire() == ()
    play.send_all()
    assert scheme.done and play.error() < 1e-15 and scheme.exact


def test_what_a_lost_worker_had_finished_is_ordered_again() -> None:
    play = Play(schemes.partial(N, 3, order="natural"))
    assert play.lose(1) == []  # it had nothing; what is open is given again by the driver
    play.finish(0), play.finish(0), play.finish(2)
    again = play.lose(0)
    assert [chunk_of(order) for order in again if isinstance(order, Order)] == [0, 1]
    assert [chunk_of(order) for order in play.of(0)] == [2, 0, 1]
    play.finish(3)  # 2 and 3 are there, 0 and 1 are not any more
    assert play.scheme.awaits == 2
    play.finish(0), play.finish(0)
    assert play.scheme._asked is None
    play.finish(0)
    play.send_all()
    assert play.scheme.done and play.error() < 1e-14


def covered(order: Sequence[int], **options: Any) -> Play:
    play = Play(schemes.partial(N, 3, order="natural", **options))
    for worker in order:
        play.finish(worker)
    assert play.scheme._asked is not None
    return play


def test_messages_are_void_when_one_of_them_is_lost() -> None:
    play = covered([0, 0, 2, 2])
    (first,) = play.of(0, hold=False)
    (second,) = play.of(2, hold=False)
    play.answer(second)
    abandon, *again = play.lose(0)
    assert abandon == Abandon((first.slot,))
    # Chunks 0 and 1 lack a finisher: everybody goes on, worker 0 from the beginning.
    assert [[chunk_of(order) for order in play.of(worker)] for worker in range(N)] == [
        [0, 1, 2],
        [1, 2, 3],
        [0],
        [3, 0, 1],
    ]
    assert len(again) == 10 and play.scheme.awaits == 2
    play.finish(2), play.finish(1)
    assert [sorted(order.combination) for w in range(N) for order in play.of(w, hold=False)] == [[1], [0, 2, 3]]
    play.send_all()
    assert play.scheme.done and play.error() < 1e-14 and play.scheme.exact


def test_messages_are_asked_anew_at_once_where_the_others_have_everything() -> None:
    play = covered([3, 3, 0, 1, 1])
    before = {order.slot for order in play.open.values()}
    abandon, *again = play.lose(0)
    assert isinstance(abandon, Abandon) and set(abandon.slots) == before
    assert [order.worker for order in again if isinstance(order, Order)] == [1, 3]
    play.send_all()
    assert play.scheme.done and play.error() < 1e-14


def test_a_message_that_has_come_outlives_its_worker() -> None:
    play = covered([0, 0, 2, 2])
    play.answer(play.of(0, hold=False)[0])
    assert play.lose(0) == [] and play.lose(1) == []
    play.send_all()
    assert play.scheme.done and play.error() < 1e-14
    assert play.lose(2) == []


def test_a_message_lost_after_the_deadline_is_done_without() -> None:
    scheme = schemes.partial(N, 3, deadline=1.0, order="natural")
    play = Play(scheme)
    play.finish(0), play.finish(2)
    play.take(scheme.expire())
    play.lose(0)
    assert [order.worker for order in play.open.values()] == [2]
    play.lose(2)
    assert all(order.hold for order in play.open.values()) and scheme.awaits == 1
    play.finish(1)
    play.send_all()
    assert scheme.done and scheme.residual**2 == pytest.approx(3)


def test_beyond_the_repeats_a_loss_is_left_to_the_driver() -> None:
    play = covered([0, 0, 2, 2], repeats=1)
    play.lose(0)
    play.finish(2), play.finish(1)
    before = dict(play.open)
    assert play.lose(1) == [] and play.open == before  # its message stays open, and is computed again
    play.send_all()
    assert play.scheme.done and play.error() < 1e-14
    none = Play(schemes.partial(N, 3, order="natural", repeats=0))
    none.finish(0)
    assert none.lose(0) == [] and none.scheme.awaits == 3


@given(st.integers(0, 2**31), st.integers(1, 3), st.integers(0, 4))
@settings(max_examples=60, deadline=None)
def test_whoever_is_lost_when_slots_suffice_and_the_sum_is_right(seed: int, parts: int, repeats: int) -> None:
    rng = np.random.default_rng(seed)
    scheme = schemes.partial(5, 3, parts, seed=3, repeats=repeats)
    play = Play(scheme)
    for _ in range(400):
        if scheme.done:
            break
        if rng.random() < 0.15:
            play.lose(int(rng.integers(5)))
        else:
            worker = int(rng.choice([order.worker for order in play.open.values()]))
            play.answer(next(order for order in play.open.values() if order.worker == worker))
    assert scheme.done and play.error() <= scheme.error < 1e-9 and scheme.exact


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: schemes.partial(4, 3, 4), "parts=4 must be an integer, between 1 and 3 .the fewest holders of a ch"),
        (lambda: schemes.partial(4, 5), "degree=5 must be an integer, between 1 and 4"),
        (lambda: schemes.partial(4, 3, deadline=0.0), "deadline=0.0 must be a positive number of seconds, or None"),
        (lambda: schemes.partial(4, 3, order="best"), "order='best' must be one of 'matchings', 'natural', 'random'"),
        (lambda: schemes.partial(4, 3, assignment="all"), "assignment='all' must be one of 'cyclic', 'random_reg"),
        (lambda: schemes.partial(4, 3, repeats=-1), "repeats=-1 must be an integer, at least 0"),
        (lambda: schemes.partial(4, 3, notice=-1.0), "notice=-1.0 must be a share of a message's time, 0 or more"),
        (lambda: PartialStragglers([[1, 3], [2, 1]]), r"the chunks of worker 0 are at \[1, 3\], they must be at 1, 2"),
        (lambda: PartialStragglers([[1, -1], [2, 1]]), r"the chunks of worker 0 are at \[-1, 1\]"),
        (lambda: PartialStragglers([[1, 0], [1, 0]]), r"nobody holds \[1\]"),
        (lambda: PartialStragglers([1, 2]), r"order must be a matrix \(workers, chunks\), got shape \(2,\)"),
    ],
)
def test_refusals(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_it_keeps_no_state_and_names_itself() -> None:
    scheme = schemes.partial(8, 3, 2, 1.5)
    assert repr(scheme) == "partial(workers=8, partitions=8, load=3, parts=2, deadline=1.5)"
    assert scheme.state_dict() == {} and scheme.inner == ()
    with pytest.raises(ValueError, match=r"keeps no state between iterations, got \['memory'\]"):
        scheme.load_state_dict({"memory": 1})
    assert schemes.by_name("partial").construct is schemes.partial


def test_coarse_messages_are_in_the_bound() -> None:
    play = covered([0, 0, 2, 2])
    play.send_all()
    play.error()
    fine = play.scheme.error
    out = torch.zeros(LENGTH, dtype=torch.float64)
    play.scheme.gradient(play.rows.to(torch.bfloat16), out)
    assert play.scheme.error > 2**-9 > fine
    error = np.linalg.norm(out.numpy() - play.gradients.sum(axis=0)) / np.linalg.norm(play.gradients, axis=1).sum()
    assert 1e-4 < error <= play.scheme.error
