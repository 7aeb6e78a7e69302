"""Two-stage coding: worked example, exhaustive tolerances, the rules of an iteration, and what it learns."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import schemes
from gradcode.codes.second_stage import KINDS
from gradcode.delays import Bernoulli, Delays, DelayTable, ShiftedExponential
from gradcode.protocol import Abandon, Combination, Iteration, Order, Reply
from gradcode.schemes import TwoStage
from gradcode.schemes.two_stage import Cover, Plan, Rules
from gradcode.schemes.two_stage.plan import Waiting, assign
from gradcode.training import LeastSquares


class Drive:
    """One iteration driven by hand: scalar gradients of float64."""

    def __init__(self, scheme: TwoStage, workers: tuple[int, ...] | None = None, away: tuple[int, ...] = ()) -> None:
        self.scheme, self.gradients = scheme, np.random.default_rng(3).standard_normal(scheme.partitions)
        self.rows = torch.full((scheme.layout.rows, 1), torch.nan, dtype=torch.float64)
        target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
        there = tuple(range(scheme.workers)) if workers is None else workers
        sizes = np.ones(scheme.partitions, dtype=np.int64)
        self.stopped: set[int] = set()  # slots
        self.first = self.keep(scheme.start(Iteration(0, 7, target, there, sizes, away=away)))

    def keep(self, actions: Any) -> dict[int, Order]:
        orders = [action for action in actions if isinstance(action, Order)]
        self.stopped |= {slot for action in actions if isinstance(action, Abandon) for slot in action.slots}
        assert all(order.row == order.slot for order in orders)
        return {order.worker: order for order in orders}

    def answer(self, order: Order, time: float = 1.0) -> dict[int, Order]:
        self.rows[order.row] = sum(c * self.gradients[j] for j, c in order.combination.items())
        return self.keep(self.scheme.receive(Reply(order, torch.zeros(1), time, np.zeros((1, 1)))))

    def gradient(self) -> float:
        out = torch.full((1,), torch.nan, dtype=torch.float64)
        self.scheme.gradient(self.rows, out)
        return float(out)

    @property
    def right(self) -> bool:
        """Whether the gradient is within its bound."""
        error = abs(self.gradient() - self.gradients.sum())
        return self.scheme.exact and error <= self.scheme.error * np.abs(self.gradients).sum() < 1e-6


def fixed(workers: int, stragglers: int, partitions: int, **options: Any) -> TwoStage:
    return schemes.two_stage(workers, stragglers, partitions, rule="fixed", **{"wait": 1.5, "weight": None} | options)


def test_worked_example_with_its_timeline() -> None:
    """two_stage.md 9.1: three of six workers are late; worker 6 at 3.5, the late 1 at 3.6, 8 at 3.7 is enough."""
    pace = np.array([[1.0, 3.6, 1.2, 4.0, 5.0, 0.9, 1.0, 2.0, 1.1]])
    scheme = fixed(9, 2, 6, active=6)
    objective = LeastSquares(np.arange(1.0, 7)[:, None], np.ones(6), 6)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(9, DelayTable.from_array(pace))
    session = gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append])
    session._backward(0)
    wanted = objective.gradient(objective.model.theta.data)
    assert float((objective.model.theta.grad - wanted).abs()) < 1e-6 * float(wanted.abs())
    assert reports[0].time == pytest.approx(3.7) and scheme.exact
    assert (scheme.late, scheme.missing) == ((1, 3, 4), (1, 3, 4))
    found = scheme.course(pace[:, :, None], np.zeros((1, 9)))
    assert (found.stage1[0], found.missing[0], found.ordered[0]) == (1.5, 3, 12)
    assert found.sent[0] == 6 and found.used[0] == 5  # the late 1's is not needed
    assert found.started[0] == 12  # 7 is at its second partition
    assert found.busy[0] == pytest.approx(1.0 + 3.6 + 1.2 + 3.7 + 3.7 + 0.9 + 2.0 + 2.2 + 2.2)


def plan_of(workers: int, active: int, partitions: int, wait: float = 1.0, replication: int = 1) -> Plan:
    speeds = np.ones(workers)
    shared, reserve = assign(speeds, range(partitions), active, range(workers), replication=replication)
    return Plan(speeds, shared, reserve, wait, 0, tuple(range(partitions)))


@pytest.mark.parametrize(
    ("late", "pool", "choices", "failures"),
    [
        ([2], "fresh", 4, 0),
        ([0, 3], "fresh", 10, 6),
        ([0, 1, 4], "fresh", 20, 12),
        ([2], "all", 56, 0),
        ([0, 3], "all", 56, 6),
        ([0, 1, 4], "all", 56, 28),
    ],
)
def test_tolerance_for_every_three_lost_rows(late: list[int], pool: Any, choices: int, failures: int) -> None:
    """two_stage.md 9.3, with its numbers: 8 workers, 5 of them with 2 partitions each, s = 3."""
    plan = plan_of(8, 5, 10)
    for mode, expected in (("any_s", 0), ("budget", failures)):
        cover = Cover(plan, late, Rules(3, pool, mode))  # type: ignore[arg-type]
        everybody = (1 << len(cover.workers)) - 1
        lost = [sum(1 << i for i in own) for own in combinations(range(len(cover.workers)), 3)]
        assert len(lost) == choices
        assert sum(not cover.decodable(everybody & ~own) for own in lost) == expected


@settings(max_examples=40)
@given(st.integers(3, 8), st.integers(1, 3), st.booleans(), st.sampled_from(KINDS), st.integers(1, 3), st.data())
def test_exact_whichever_workers_never_answer(
    workers: int, stragglers: int, everybody: bool, kind: str, replication: int, data: st.DataObject
) -> None:
    """Mode any_s: s workers are silent, all others answer, some of them late and in any order."""
    stragglers = min(stragglers, workers - 1)
    pool = "all" if everybody else "fresh"
    replication = min(replication, workers - stragglers)
    options = {"pool": pool, "coefficients": kind, "replication": replication}
    scheme = fixed(workers, stragglers, 2 * workers + 1, **options)
    silent = set(data.draw(st.permutations(range(workers)))[:stragglers])
    drive = Drive(scheme)
    come = [worker for worker in data.draw(st.permutations(sorted(drive.first))) if worker not in silent]
    late = set(data.draw(st.lists(st.sampled_from(come), unique=True))) if come else set()
    for worker in come:
        if worker not in late:
            drive.answer(drive.first[worker])
    if not scheme.done:
        assert scheme.deadline == 1.5
        second = drive.keep(scheme.expire())
        assert not (set(second) & set(scheme.late)) and not scheme.tolerance_reduced
        orders = [order for worker, order in second.items() if worker not in silent]
        orders += [drive.first[worker] for worker in sorted(late)]
        for order in data.draw(st.permutations(orders)):
            if not scheme.done:
                drive.answer(order, 2.0)
    assert scheme.done and drive.right


def test_stage_two_only_computes_what_is_missing() -> None:
    scheme = fixed(6, 2, 12, mode="fixed", pool="all")
    drive = Drive(scheme)
    assert sorted(drive.first) == [0, 1, 2, 3] and scheme.awaits == 4
    for worker in (0, 1, 3):
        assert drive.answer(drive.first[worker]) == {}
    second = drive.keep(scheme.expire())
    assert scheme.missing == (6, 7, 8) and set(second) == {4, 5, 0, 1, 3} - {2} and scheme.deadline is None
    copies = [sum(j in order.combination for order in second.values()) for j in range(12)]
    assert copies == [3 if j in (6, 7, 8) else 0 for j in range(12)]
    assert not drive.answer(drive.first[2], 9.0) and scheme.done and drive.right  # the late one alone


@pytest.mark.parametrize("stragglers", [2, 3, 4])
def test_replicated_parts_need_less_tolerance_in_stage_two(stragglers: int) -> None:
    """Two groups of two: whichever s workers never answer, late or of the pool, all that comes is enough with s − 2."""
    plan, rules = plan_of(4 + stragglers, 4, 8, replication=2), Rules(stragglers, replication=2)
    assert plan.shared == {(0, 1): (0, 1, 2, 3), (2, 3): (4, 5, 6, 7)} and rules.tolerance(2) == stragglers - 2
    for late in ((0, 1), (2, 3), (0, 1, 2, 3)):
        cover = Cover(plan, late, rules)
        assert cover.columns == tuple(sorted({j for worker in late for j in plan.parts[worker]}))
        everybody = (1 << len(cover.workers)) - 1
        for lost in combinations(range(len(cover.workers)), stragglers):
            assert cover.decodable(everybody & ~sum(1 << i for i in lost))
        assert (cover.loads.sum() == len(cover.columns) * (stragglers - 1)) and not cover.reduced


def test_the_first_of_a_group_is_enough() -> None:
    """The others of it stop, and may help in stage 2; what no group has reported is missing."""
    scheme = fixed(8, 2, 9, replication=2, pool="all")
    drive = Drive(scheme)
    assert [len(drive.first[worker].combination) for worker in range(6)] == [3] * 6
    assert drive.first[2].combination == drive.first[3].combination and scheme.awaits == 3
    assert drive.stopped == set()
    drive.answer(drive.first[3])
    drive.answer(drive.first[0])
    assert drive.stopped == {1, 2}
    second = drive.keep(scheme.expire())
    assert scheme.late == (4, 5) and scheme.missing == (6, 7, 8) and set(second) <= {6, 7, 0, 1, 2, 3}
    assert sum(len(order.combination) for order in second.values()) == 3  # s − 2 of them may be lost: one copy
    for order in second.values():
        drive.answer(order, 2.0)
    assert scheme.done and drive.right


def test_reports_may_begin_stage_two() -> None:
    scheme = fixed(5, 2, 6, completions=2)
    drive = Drive(scheme)
    assert not drive.answer(drive.first[0])
    second = drive.answer(drive.first[2], 1.2)
    assert scheme.late == (1,) and set(second) == {3, 4} and scheme.deadline is None
    drive.answer(second[4], 1.4)
    assert scheme.done and drive.right


def test_nobody_for_stage_two_waits_for_the_late() -> None:
    scheme = fixed(3, 0, 6)
    drive = Drive(scheme)
    assert scheme.deadline is None
    for worker in (2, 0, 1):
        drive.answer(drive.first[worker], 9.0)
    assert scheme.done and drive.right and scheme.late == ()


def test_the_pool_may_be_too_small_for_the_tolerance() -> None:
    scheme = fixed(5, 3, 6, active=4)
    drive = Drive(scheme)
    drive.answer(drive.first[0])
    (order,) = drive.keep(scheme.expire()).values()
    assert scheme.tolerance_reduced and order.worker == 4
    drive.answer(order, 2.0)
    assert scheme.done and drive.right


@pytest.mark.parametrize("deadline", [1.0, 1.5, 2.5])
def test_least_squares_at_the_last_deadline(deadline: float) -> None:
    """Before stage 2, with the end of stage 1, and within stage 2: what has come, and the others as good as it goes."""
    scheme = fixed(5, 2, 6, deadline=deadline, mode="budget")
    drive = Drive(scheme)
    drive.answer(drive.first[0])
    assert scheme.deadline == min(1.5, deadline)
    second = drive.keep(scheme.expire())
    if deadline > 1.5:
        assert scheme.deadline == 2.5 and not scheme.done
        drive.answer(second[3], 2.0)
        scheme.expire()
    g, wanted = drive.gradients, drive.gradients[:2].sum()
    if deadline > 1.5:
        row = np.array([second[3].combination.get(j, 0.0) for j in range(2, 6)])
        wanted += row.sum() / (row @ row) * (row @ g[2:])
    assert scheme.done and drive.gradient() == pytest.approx(wanted) and not scheme.exact
    assert abs(wanted - g.sum()) <= scheme.error * np.abs(g).sum()


def test_nothing_at_the_last_deadline_ends_with_the_first_reply() -> None:
    scheme = fixed(4, 1, 6, deadline=1.0)
    drive = Drive(scheme)
    assert drive.keep(scheme.expire()) == {} and not scheme.done
    drive.answer(drive.first[1], 4.0)
    assert scheme.done and drive.gradient() == pytest.approx(drive.gradients[2:4].sum())


def test_who_is_not_there_does_not_begin() -> None:
    """As many stand by as ever; who is being started again is one of them."""
    drive = Drive(fixed(6, 2, 12), workers=(0, 1, 2, 4, 5), away=(1,))
    assert sorted(drive.first) == [0, 2, 4] and drive.scheme.plan().reserve == (1, 5)


def test_the_fastest_begin_with_the_most() -> None:
    """What an iteration shows counts in the next one; who did not finish is known to be slower than that."""
    scheme = fixed(4, 1, 12, weight=1.0)
    drive = Drive(scheme)
    drive.answer(drive.first[0], 1.0)  # 4 partitions per second
    drive.answer(drive.first[1], 1.4)  # 4 in 1.4
    second = drive.keep(scheme.expire())
    drive.answer(second[3], 2.5)  # 4 in 1 second
    assert scheme.history.speeds.tolist() == [1.0] * 4
    assert scheme.done and drive.right
    drive = Drive(scheme)
    assert scheme.history.speeds.tolist() == pytest.approx([4.0, 4 / 1.4, 1.6, 4.0])
    loads = {worker: len(order.combination) for worker, order in drive.first.items()}
    assert loads == {0: 5, 1: 3, 3: 4}


def test_a_checkpoint_holds_what_was_learned_and_what_will_be() -> None:
    scheme, other = (schemes.two_stage(4, 1, 12) for _ in range(2))
    drive = Drive(scheme)
    for worker, order in drive.first.items():
        drive.answer(order, 1.0 + worker)
    other.load_state_dict(scheme.state_dict())
    first, second = Drive(scheme).first, Drive(other).first
    assert first == second and scheme.deadline == other.deadline
    assert scheme.history.state_dict() == other.history.state_dict() and len(scheme.history.recent) == 3
    with pytest.raises(ValueError, match="not that of two_stage"):
        other.load_state_dict({})


def test_how_long_stage_one_is_waited_for() -> None:
    """two_stage.md 3.2: n(a + 3/μ), and the largest load times a quantile, interpolated; before that M₁ − s reports."""
    assert schemes.two_stage(10, 2, rule="shift", shift=1, rate=10).plan().wait == pytest.approx(6.5)
    assert Waiting("quantile", quantile=0.9).time(5, np.arange(1.0, 12.0)) == pytest.approx(50)
    scheme = schemes.two_stage(10, 2)
    assert scheme.plan().wait == np.inf and scheme.plan().completions == 6


def test_a_search_finds_what_is_quickest() -> None:
    """Few stragglers, all may help: nearly everybody begins, and waits for healthy workers. As in two_stage.md 8.2."""
    law = Delays(Bernoulli(ShiftedExponential(1.0, 10.0), 0.1, 10.0), stages=2)
    compute = law.table(10, seed=9).window(0, 1000)[0]
    found = schemes.two_stage(10, 2, 40, rule="search", shift=1.0, rate=10.0, pool="all", weight=None)
    usual = schemes.two_stage(10, 2, 40, rule="shift", shift=1.0, rate=10.0, pool="all", weight=None)
    assert found.active > usual.active and found.waiting.rule == "fixed"
    times, others = (own.duration(compute, np.zeros((1000, 10))) for own in (found, usual))
    difference = times - others  # of the same draws; 3 standard errors
    assert difference.mean() + 3 * difference.std() / np.sqrt(1000) < 0
    fresh = schemes.two_stage(6, 2, 12, rule="search", shift=1.0, rate=10.0, share=0.0)
    assert fresh.active == 4  # without stragglers all begin that may
    assert schemes.two_stage(6, 2, 12, active=3, rule="search", shift=1.0, rate=10.0).active == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rule": "search"}, 'rule="search" needs shift=None'),
        ({"rule": "fixed"}, "wait=None must be a positive number of seconds"),
        ({"wait": 2.0}, "rule='quantile' finds its own"),
        ({"rule": "shift", "shift": 1.0}, 'where they are not known, take "quantile"'),
        ({"rule": "soon"}, "rule='soon' must be one of"),
        ({"pool": "late"}, "pool='late' must be one of 'fresh', 'all'"),
        ({"coefficients": "any"}, "coefficients='any' must be one of"),
        ({"mode": "any"}, "mode='any' must be one of"),
        ({"quantile": 0.0}, "quantile=0.0 must be above 0"),
        ({"active": 9}, "active=9 must be an integer, between 1 and 8"),
        ({"completions": 6}, "completions=6 must be an integer, between 0 and 5"),
        ({"stragglers": 8}, "one of workers=8 must answer"),
        ({"replication": 7}, "replication=7 must be an integer, between 1 and 6"),
        ({"replication": 2, "granularity": "partition"}, 'replication=2 must be 1 with granularity="partition"'),
        ({"deadline": 0.0}, "deadline=0.0 must be a positive number"),
        ({"weight": 2.0}, "weight=2.0"),
    ],
)
def test_refusals(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schemes.two_stage(**{"workers": 8, "stragglers": 2} | options)
