"""Who is a member of an elastic scheme and what it orders, driven by hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from elastic_cases import (
    BUILDS,
    EVERYBODY,
    K,
    TwoRows,
    answer,
    carry_out,
    cyclic,
    iteration_of,
    orders_of,
    repetition,
    uncoded,
)

from gradcode import codes, schemes
from gradcode.errors import GradcodeWarning
from gradcode.protocol import Abandon, Iteration, Order, Reply, Scheme

# Membership


@pytest.mark.parametrize("name", list(BUILDS))
def test_with_everybody_there_it_is_the_scheme_itself(name: str) -> None:
    scheme, plain = schemes.elastic(BUILDS[name], 8), BUILDS[name](8)
    assert (scheme.workers, scheme.partitions, scheme.inner) == (8, K, ())
    assert scheme.layout == replace(plain.layout, slots=8 * plain.layout.slots)
    orders = carry_out(scheme, iteration_of())
    own = plain.start(iteration_of())
    assert [(o.worker, o.slot, o.combination) for o in orders] == [(o.worker, o.slot, o.combination) for o in own]  # type: ignore[union-attr]
    assert scheme.done and scheme.deadline is None
    assert scheme.members == EVERYBODY


def test_patience_counts_iterations_in_a_row() -> None:
    scheme = schemes.elastic(repetition, 8, patience=3)
    for number in range(3):
        orders = carry_out(scheme, iteration_of(number, away=[2]))
        assert 2 in [order.worker for order in orders]  # it may be back within the iteration
        assert len(scheme.members) == 8
    carry_out(scheme, iteration_of(3))  # it was there: the count begins anew
    for number in range(4, 7):
        carry_out(scheme, iteration_of(number, away=[2]))
        assert len(scheme.members) == 8
    orders = carry_out(scheme, iteration_of(7, away=[2]))
    assert scheme.members == (0, 1, 3, 4, 5, 6, 7)
    assert [order.worker for order in orders] == [0, 1, 3, 4, 5, 6, 7]
    assert [order.row for order in orders] == [0, 1, 3, 4, 5, 6, 7]
    assert [order.combination for order in orders] == [
        o.combination for o in repetition(7).start(iteration_of(workers=range(7)))
    ]  # type: ignore[union-attr]


def test_no_patience() -> None:
    scheme = schemes.elastic(repetition, 8, patience=0)
    carry_out(scheme, iteration_of(away=[0]))
    assert scheme.members == (1, 2, 3, 4, 5, 6, 7)


def test_members_that_take_turns_in_being_away_stay() -> None:
    scheme = schemes.elastic(repetition, 8, patience=2)
    for number in range(16):
        carry_out(scheme, iteration_of(number, away=[number % 8]))
        assert len(scheme.members) == 8


def test_who_is_back_is_taken_in_at_once() -> None:
    scheme = schemes.elastic(repetition, 8, patience=0)
    carry_out(scheme, iteration_of(0, away=[1, 6]))
    assert scheme.members == (0, 2, 3, 4, 5, 7)
    carry_out(scheme, iteration_of(1, away=[1]))
    assert scheme.members == (0, 2, 3, 4, 5, 6, 7)
    orders = carry_out(scheme, iteration_of(2))
    assert [order.worker for order in orders] == list(EVERYBODY)


def test_who_is_back_is_taken_in_while_others_are_still_waited_for() -> None:
    scheme = schemes.elastic(repetition, 8, patience=1)
    for number in range(2):
        carry_out(scheme, iteration_of(number, away=[6]))
    carry_out(scheme, iteration_of(2, away=[6]))
    assert scheme.members == (0, 1, 2, 3, 4, 5, 7)
    carry_out(scheme, iteration_of(3, away=[3]))  # 6 is back, 3 is away for the first time
    assert scheme.members == EVERYBODY


def test_who_is_gone_for_good_gets_no_order_and_is_dropped_after_patience() -> None:
    scheme = schemes.elastic(repetition, 8, patience=2)
    left = (0, 1, 2, 4, 5, 6, 7)
    for number in range(2):
        orders = carry_out(scheme, iteration_of(number, left))
        assert [order.worker for order in orders] == list(left)
        assert scheme.members == EVERYBODY
    carry_out(scheme, iteration_of(2, left))
    assert scheme.members == left


def test_the_scheme_of_a_number_of_workers_is_built_once() -> None:
    built: list[int] = []

    def build(workers: int) -> Scheme:
        built.append(workers)
        return repetition(workers)

    scheme = schemes.elastic(build, 8, patience=0)
    for number in range(12):
        carry_out(scheme, iteration_of(number, away=[number % 3] if number % 2 else []))
    assert built == [8, 7]


# Within an iteration


def test_an_iteration_that_only_lost_workers_could_end_is_begun_anew() -> None:
    scheme = schemes.elastic(uncoded, 8)
    orders = orders_of(scheme.start(iteration_of()))
    for order in orders[2:7]:
        assert answer(scheme, order) == []
    assert scheme.lose(0) == scheme.lose(1) == []  # 7 has yet to answer
    abandon, *anew = answer(scheme, orders[7])
    assert isinstance(abandon, Abandon) and set(abandon.slots) == {orders[0].slot, orders[1].slot}
    again = orders_of(anew)
    assert scheme.members == (2, 3, 4, 5, 6, 7) == tuple(order.worker for order in again)
    assert {order.serial for order in again} == {orders[0].serial}
    assert not {order.slot for order in again} & {order.slot for order in orders}
    assert all(order.row == order.worker for order in again)
    for order in again:
        assert not scheme.done
        answer(scheme, order)
    assert scheme.done
    carry_out(scheme, iteration_of(1, away=[1]))
    assert scheme.members == (0, 2, 3, 4, 5, 6, 7)  # 0 is back


def test_a_loss_may_be_what_begins_it_anew() -> None:
    scheme = schemes.elastic(uncoded, 8)
    orders = orders_of(scheme.start(iteration_of()))
    for order in orders[1:]:
        answer(scheme, order)
    assert len(orders_of(scheme.lose(0))) == 7


def test_those_away_at_the_start_are_not_waited_for_either() -> None:
    scheme = schemes.elastic(cyclic, 8)
    orders = orders_of(scheme.start(iteration_of(away=[3, 4])))
    assert len(orders) == 8
    actions: Sequence[Order | Abandon] = ()
    for order in orders:
        if order.worker not in (3, 4):
            actions = answer(scheme, order)
    assert [order.worker for order in orders_of(actions)] == [0, 1, 2, 5, 6, 7]


def test_nobody_there_but_those_away() -> None:
    """All of them get their orders, and the first one back begins nothing anew."""
    scheme = schemes.elastic(uncoded, 2, patience=0)
    orders = orders_of(scheme.start(iteration_of(workers=[0, 1], away=[0, 1])))
    assert len(orders) == 2
    again = orders_of(answer(scheme, orders[1]))  # 1 is there, 0 is not: 1 does it alone
    assert [order.worker for order in again] == [1]
    answer(scheme, again[0])
    assert scheme.done


def test_a_lost_worker_that_answers_in_time_counts() -> None:
    scheme = schemes.elastic(uncoded, 8)
    orders = orders_of(scheme.start(iteration_of()))
    for order in orders[2:]:
        answer(scheme, order)
    assert scheme.lose(0) == []  # 1 is still at it
    assert answer(scheme, orders[0]) == []
    assert answer(scheme, orders[1]) == []
    assert scheme.done and scheme.members == EVERYBODY


def test_within_the_tolerance_nothing_is_begun_anew() -> None:
    scheme = schemes.elastic(repetition, 8)
    orders = orders_of(scheme.start(iteration_of()))
    scheme.lose(0)
    scheme.lose(4)
    for order in orders:
        if order.worker not in (0, 4) and not scheme.done:
            assert answer(scheme, order) == []
    assert scheme.done and scheme.members == EVERYBODY


def test_nothing_is_begun_anew_before_the_deadline() -> None:
    def build(workers: int) -> Scheme:
        return schemes.coded(codes.uncoded(workers, partitions=K), deadline=2.0)

    scheme = schemes.elastic(build, 8)
    orders = orders_of(scheme.start(iteration_of()))
    assert scheme.deadline == 2.0
    scheme.lose(0)
    for order in orders[1:]:
        assert answer(scheme, order) == []
    assert scheme.expire() == [] and scheme.done


def test_after_the_deadline_the_first_reply_ends_it_also_when_begun_anew() -> None:
    def build(workers: int) -> Scheme:
        if workers == 4:
            raise ValueError("not for four")
        return schemes.coded(codes.uncoded(workers, partitions=K), deadline=2.0)

    scheme = schemes.elastic(build, 5, patience=0)
    carry_out(scheme, iteration_of(0, range(5), away=[2, 3, 4]))
    with pytest.warns(GradcodeWarning, match="not for four"):
        scheme.start(iteration_of(1, range(5), away=[4]))
    assert scheme.members == (0, 1)
    scheme.lose(0)
    scheme.expire()
    again = orders_of(scheme.lose(1))
    assert [order.worker for order in again] == [2, 3]
    answer(scheme, again[0])
    assert scheme.done


class Unending(TwoRows):
    """Is not done when all have answered: a code that cannot be decoded."""

    def receive(self, reply: Reply) -> list[Order]:
        orders = super().receive(reply)
        self.done = False
        return orders


def test_nothing_is_begun_anew_where_nobody_is_missing() -> None:
    scheme = schemes.elastic(Unending, 4)
    waiting = orders_of(scheme.start(iteration_of(workers=range(4))))
    given = len(waiting)
    while waiting:
        more = orders_of(answer(scheme, waiting.pop()))
        given += len(more)
        waiting += more
    assert given == 8 and not scheme.done


class Curious(TwoRows):
    """Keeps what it is told, and gives up worker 0's first order when worker 1's comes."""

    def start(self, iteration: Iteration) -> list[Order]:
        self.told = iteration
        return super().start(iteration)

    def receive(self, reply: Reply) -> list[Order | Abandon]:  # type: ignore[override]
        return [Abandon((0,))] if reply.order.slot == 1 else []


def test_the_scheme_is_told_of_its_own_workers() -> None:
    scheme = schemes.elastic(Curious, 5, patience=1)
    scheme.start(iteration_of(0, [0, 1, 3, 4], away=[0, 4]))
    present: Any = scheme.present
    assert (present.told.workers, present.told.away) == ((0, 1, 3, 4), (0, 4))
    scheme.start(iteration_of(1, [0, 1, 3, 4], away=[0, 4]))
    present = scheme.present
    assert scheme.members == (1, 3) and (present.told.workers, present.told.away) == ((0, 1), ())
    assert (present.told.number, present.told.serial) == (1, 101)


def test_slots_that_are_given_up_are_those_of_this_attempt() -> None:
    scheme = schemes.elastic(Curious, 3)
    orders = orders_of(scheme.start(iteration_of(workers=range(3))))
    assert answer(scheme, orders[0]) == answer(scheme, orders[2]) == []
    again = orders_of(scheme.lose(1))
    assert [order.worker for order in again] == [0, 2]
    assert answer(scheme, again[1]) == [Abandon((again[0].slot,))]


# Beyond an iteration


def test_duration_is_that_of_the_members() -> None:
    scheme = schemes.elastic(uncoded, 8, patience=0)
    compute = np.arange(1.0, 9.0)[None, :, None]
    communicate = np.full((1, 8), 0.5)
    assert scheme.duration(compute, communicate) == [8.5]
    carry_out(scheme, iteration_of(away=[5, 6, 7]))
    assert scheme.duration(compute, communicate) == [10.5]  # the fifth of five has two partitions


def test_state_goes_on_where_it_was() -> None:
    scheme, other = (schemes.elastic(repetition, 8, patience=2) for _ in range(2))
    for number in range(3):
        carry_out(scheme, iteration_of(number, away=[1]))
    carry_out(scheme, iteration_of(3, away=[1, 4]))
    carry_out(scheme, iteration_of(4, away=[1, 4]))
    assert repr(scheme) == repr(other)
    other.load_state_dict(scheme.state_dict())
    assert other.members == (0, 2, 3, 4, 5, 6, 7)
    for one in (scheme, other):
        carry_out(one, iteration_of(5, away=[1, 4]))
        assert one.members == (0, 2, 3, 5, 6, 7)
    with pytest.raises(ValueError, match=r"members=\[0, 9\]"):
        other.load_state_dict({"members": [0, 9], "missed": [0] * 8, "inner": {}})


def test_what_schemes_remember_is_kept_by_number_of_workers() -> None:
    def build(workers: int) -> Scheme:
        scheme: Any = uncoded(workers)
        scheme.kept = {}
        scheme.state_dict = lambda: dict(scheme.kept)
        scheme.load_state_dict = scheme.kept.update
        return scheme  # type: ignore[no-any-return]

    scheme, other = (schemes.elastic(build, 4, patience=0) for _ in range(2))
    scheme.present.kept["of"] = 4  # type: ignore[attr-defined]
    carry_out(scheme, iteration_of(0, range(4), away=[2, 3]))
    scheme.present.kept["of"] = 2  # type: ignore[attr-defined]
    other.load_state_dict(scheme.state_dict())
    assert other.present.workers == 2 and other.present.state_dict() == {"of": 2}
    carry_out(other, iteration_of(1, range(4)))
    assert other.present.state_dict() == {"of": 4}
