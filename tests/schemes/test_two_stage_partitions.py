"""Two-stage coding in which each partition is reported: what counts of a late worker, and what is still missing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import schemes
from gradcode.compression import Differences, RandomK
from gradcode.delays import DelayTable
from gradcode.protocol import Action, Combination, Iteration, Order, Reply
from gradcode.schemes import TwoStage
from gradcode.schemes.two_stage import Cover, Plan, Rules
from gradcode.schemes.two_stage.plan import assign
from gradcode.training import LeastSquares


def by_partition(workers: int, stragglers: int, partitions: int, **options: Any) -> TwoStage:
    given = {"rule": "fixed", "wait": 1.5, "weight": None, "granularity": "partition"}
    return schemes.two_stage(workers, stragglers, partitions, **given | options)


class Play:
    """One iteration by hand, of scalar gradients in float64: workers carry out their orders one after the other."""

    def __init__(self, scheme: TwoStage) -> None:
        self.scheme, self.gradients = scheme, np.random.default_rng(3).standard_normal(scheme.partitions)
        self.rows = torch.full((scheme.layout.rows, 1), torch.nan, dtype=torch.float64)
        self.queues: list[list[Order]] = [[] for _ in range(scheme.workers)]
        self.slots: set[int] = set()
        target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
        sizes = np.ones(scheme.partitions, dtype=np.int64)
        self.take(scheme.start(Iteration(0, 7, target, tuple(range(scheme.workers)), sizes)))

    def take(self, actions: Sequence[Action]) -> None:
        for action in actions:
            if isinstance(action, Order):
                assert action.slot not in self.slots and action.slot < self.scheme.layout.slots
                self.slots.add(action.slot)
                self.queues[action.worker].append(action)
                continue
            assert isinstance(action, gradcode.protocol.Abandon)
            for queue in self.queues:
                # Nobody is stopped in what it is at.
                assert not queue or queue[0].slot not in action.slots
                queue[:] = [order for order in queue if order.slot not in action.slots]

    def step(self, worker: int, time: float = 1.0) -> Order:
        """The worker ends what it is at."""
        order = self.queues[worker].pop(0)
        if not order.hold:
            self.rows[order.row] = sum(np.sum(c) * self.gradients[j] for j, c in order.combination.items())
        self.take(self.scheme.receive(Reply(order, None if order.hold else torch.zeros(1), time, np.zeros((1, 1)))))
        return order

    def expire(self) -> None:
        self.take(self.scheme.expire())

    @property
    def right(self) -> bool:
        """Whether the gradient is exact within its bound."""
        out = torch.full((1,), torch.nan, dtype=torch.float64)
        self.scheme.gradient(self.rows, out)
        error = abs(float(out) - self.gradients.sum())
        return self.scheme.exact and error <= self.scheme.error * np.abs(self.gradients).sum() < 1e-6


def test_worked_example_with_its_timeline() -> None:
    """two_stage.md 9.1 with three partitions for each worker, of its times, and T1 = 4.5.

    Workers 1, 3 and 4 are late. 1 and 3 have reported one each, at 3.6 and 4.0, and are at their second until 7.2 and
    8.0, when they send sums; 4 has reported nothing. Missing are the last ones of 1 and 3 and all of 4, five, twice on
    6, 7 and 8: 4, 3 and 3 of them, until 8.5, 10.5 and 7.8. Two of these are enough, so it ends at 8.5.
    """
    pace = np.array([[1.0, 3.6, 1.2, 4.0, 5.0, 0.9, 1.0, 2.0, 1.1]])
    scheme = by_partition(9, 2, 18, active=6, wait=4.5)
    objective = LeastSquares(np.arange(1.0, 19)[:, None], np.ones(18), 18)
    reports: list[gradcode.Report] = []
    session = gradcode.Session.of(
        objective, scheme, gradcode.SimulatedCluster(9, DelayTable.from_array(pace)), listeners=[reports.append]
    )
    session._backward(0)
    wanted = objective.gradient(objective.model.theta.data)
    assert float((objective.model.theta.grad - wanted).abs()) < 1e-6 * float(wanted.abs()) and scheme.exact
    assert (scheme.late, scheme.missing) == ((1, 3, 4), (5, 11, 12, 13, 14))
    assert reports[0].time == pytest.approx(8.5)
    found = scheme.course(pace[:, :, None], np.zeros((1, 9)))
    assert (found.time[0], found.stage1[0], found.missing[0], found.ordered[0]) == (8.5, 4.5, 5, 28)
    assert found.sent[0] == found.used[0] == reports[0].uploads == 7
    # Of the punctual, of the late one by one, and of the pool: 7 is at its last.
    assert found.started[0] == 9 + (2 + 1) + (2 + 1) + 2 + 4 + 3 + 3
    whole = schemes.two_stage(9, 2, 18, active=6, rule="fixed", wait=4.5, weight=None)
    assert whole.duration(pace[:, :, None], np.zeros((1, 9)))[0] == pytest.approx(4.5 + 6 * 1.1)


@pytest.mark.parametrize("pool", ["fresh", "all"])
@pytest.mark.parametrize("late", [(2,), (0, 3), (0, 1, 4)])
def test_tolerance_for_every_three_lost_rows(late: tuple[int, ...], pool: Any) -> None:
    """two_stage.md 9.3 with three partitions each and every progress of the late: any three rows may be lost.

    The sums of what they have reported come, so a row of a late worker is what it has not begun.
    """
    plan = Plan(np.ones(8), *assign(np.ones(8), range(15), 5, range(8)), 1.0, 0, tuple(range(15)))
    parts, failures = plan.parts, 0
    for counts in product((0, 2, 3), repeat=len(late)):
        sums = {worker: parts[worker][:count] for worker, count in zip(late, counts, strict=True) if count}
        left = [j for worker in late for j in parts[worker] if j not in sums.get(worker, ())]
        for mode in ("any_s", "budget"):
            cover = Cover(plan, late, Rules(3, pool, mode), sums)  # type: ignore[arg-type]
            assert cover.columns == tuple(left)
            everybody = (1 << len(cover.workers)) - 1
            for lost in combinations(range(len(cover.workers)), 3):
                held = cover.decodable(everybody & ~sum(1 << i for i in lost))
                assert held or mode == "budget"
                failures += not held
    assert failures or len(late) == 1  # or else nothing that is lost matters


@settings(max_examples=60)
@given(st.integers(3, 7), st.integers(1, 3), st.booleans(), st.data())
def test_exact_whoever_is_late_with_what(workers: int, stragglers: int, everybody: bool, data: st.DataObject) -> None:
    """Some never say anything, s at most; the others go on in any order, some lost on the way and back again."""
    stragglers = min(stragglers, workers - 1)
    scheme = by_partition(workers, stragglers, 3 * workers + 1, pool="all" if everybody else "fresh")
    play = Play(scheme)
    silent = set(data.draw(st.permutations(range(workers)))[:stragglers])
    for _ in range(data.draw(st.integers(0, 4 * workers))):
        able = [worker for worker in range(workers) if play.queues[worker] and worker not in silent]
        if not able or scheme.done:
            break
        worker = data.draw(st.sampled_from(able))
        if data.draw(st.integers(0, 9)) == 0:
            play.take(scheme.lose(worker))  # its open orders are given again
        else:
            play.step(worker)
    if not scheme.done:
        assert scheme.deadline == 1.5
        play.expire()
    while not scheme.done:
        able = [worker for worker in range(workers) if play.queues[worker] and worker not in silent]
        assert able, "it never ends"
        play.step(data.draw(st.sampled_from(able)), 2.0)
    assert play.right


def test_a_late_worker_goes_on_and_sends_two_messages() -> None:
    scheme = by_partition(5, 2, 12)
    play = Play(scheme)
    assert [[len(order.combination) for order in queue] for queue in play.queues] == [[1, 1, 1, 4]] * 3 + [[], []]
    for worker in (0, 1):
        while play.queues[worker]:
            play.step(worker)
    play.step(2)
    play.expire()
    assert (scheme.late, scheme.missing) == ((2,), (10, 11))
    assert [list(order.combination) for order in play.queues[2]] == [[9], [8, 9], [10, 11]]
    assert sum(len(queue) for queue in play.queues[3:]) == 2
    for _ in range(2):
        play.step(2, 3.0)
    assert not scheme.done
    play.step(4, 3.5)
    assert scheme.done and play.right


def test_who_is_at_its_last_is_waited_for() -> None:
    """Nothing is missing then: nobody of the pool is asked, and its message is the one that it was to send anyway."""
    scheme = by_partition(5, 2, 12)
    play = Play(scheme)
    for worker in (0, 1):
        while play.queues[worker]:
            play.step(worker)
    for _ in range(3):
        play.step(2)
    play.expire()
    assert scheme.late == (2,) and scheme.missing == () and not play.queues[3] and not play.queues[4]
    play.step(2, 2.0)
    assert scheme.done and play.right


@pytest.mark.parametrize(("reported", "missing"), [(0.9, (17,)), (1.0, (15, 16, 17))])
def test_who_is_at_it_for_too_long_is_left_alone(reported: float, missing: tuple[int, ...]) -> None:
    """Of 8 workers 5 have finished, so 7 make up for 5, twice: 2/7 of stage 1's 1.5 s; 1.93 s is the limit."""
    scheme = by_partition(8, 2, 18, pool="all")
    play = Play(scheme)
    for worker in range(5):
        while play.queues[worker]:
            play.step(worker)
    play.step(5, reported)
    before = list(play.queues[5])
    play.expire()
    assert scheme.missing == missing and (play.queues[5] == before) == (len(missing) == 3)
    while not scheme.done:
        play.step(next(worker for worker in (6, 7, 0, 1, 2, 3, 4, 5) if play.queues[worker]), 2.0)
    assert play.right


def test_what_a_lost_worker_had_reported_is_missing() -> None:
    scheme = by_partition(5, 2, 12)
    play = Play(scheme)
    play.step(2)
    play.take(scheme.lose(2))
    for worker in (0, 1):
        while play.queues[worker]:
            play.step(worker)
    play.expire()
    assert scheme.missing == (8, 9, 10, 11)
    # What is left of its orders gives its whole part, as before.
    assert list(play.queues[2][-1].combination) == [8, 9, 10, 11]


def test_at_the_last_deadline_a_sum_that_has_not_come_is_missing() -> None:
    scheme = by_partition(5, 2, 12, deadline=2.5)
    play = Play(scheme)
    for worker in (0, 1):
        while play.queues[worker]:
            play.step(worker)
    play.step(2)
    play.expire()
    for worker in (3, 4):
        play.step(worker, 2.0)
    assert not scheme.done and scheme.deadline == 2.5
    play.expire()
    out = torch.full((1,), torch.nan, dtype=torch.float64)
    scheme.gradient(play.rows, out)
    g = play.gradients
    assert scheme.done and not scheme.exact and float(out) == pytest.approx(g.sum() - g[8] - g[9])
    assert abs(float(out) - g.sum()) <= scheme.error * np.abs(g).sum()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="granularity='sample' must be one of 'worker', 'partition'"):
        by_partition(5, 2, 12, granularity="sample")
    with pytest.raises(ValueError, match=r"notice=-1\.0 must be a share of a message's time"):
        by_partition(5, 2, 12, notice=-1.0)
    with pytest.raises(ValueError, match="does not go with"):
        schemes.compressed(by_partition(5, 2, 12), Differences(RandomK(density=0.2), 0.2))
