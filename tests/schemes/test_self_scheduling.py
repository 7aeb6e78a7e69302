"""Self-scheduling: every micro-partition counts once, whatever the order of events, and how long that takes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradcode
from clusters.zoo import cnn, images
from gradcode.compression import Differences, ErrorFeedback, Plain, create
from gradcode.delays import DelayTable
from gradcode.protocol import Abandon, Combination, Iteration, Order, Reply
from gradcode.schemes import SelfScheduling, compressed, fluid_bound, self_scheduling
from gradcode.schemes.micro_partitions import placed

LENGTH = 3


def test_worked_example() -> None:
    """self_scheduling.md: N = 2, r = 2, m = 2, X = (1, 3): all four are granted at 1.5, which is the fluid bound."""
    scheme = SelfScheduling([[0, 1], [1, 0]], micro=2, ahead=0)
    pace = np.array([[0.5, 1.5]])
    stop, owners = scheme.granted(pace)
    assert stop.tolist() == [1.5] == fluid_bound(pace, 4).tolist()
    assert owners.tolist() == [[True, True]]


class Trial:
    """Workers that hold what they have computed, and forget it when they are lost; events in an order from outside."""

    def __init__(self, scheme: SelfScheduling) -> None:
        self.scheme, self.gradients = scheme, np.random.default_rng(1).standard_normal((scheme.partitions, LENGTH))
        self.rows = torch.full((scheme.workers, LENGTH), torch.nan, dtype=torch.float64)
        self.open: dict[int, Order] = {}
        self.used: set[int] = set()
        target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
        sizes = np.ones(scheme.partitions, dtype=np.int64)
        self.book(scheme.start(Iteration(0, 7, target, tuple(range(scheme.workers)), sizes)))

    def book(self, actions: object) -> None:
        for action in actions:  # type: ignore[attr-defined]
            if isinstance(action, Abandon):
                for slot in action.slots:
                    self.open.pop(slot, None)
            else:
                assert action.slot not in self.used and action.slot < self.scheme.layout.slots
                assert action.serial == 7 and action.row == action.worker
                self.used.add(action.slot)
                self.open[action.slot] = action

    def taken(self, worker: int) -> list[int]:
        """The micro-partitions that the worker has in hand."""
        held = [order for order in self.open.values() if order.worker == worker and order.hold]
        return [piece for order in held for piece in order.combination]

    def arrive(self) -> None:
        """With nothing ahead everybody says first that it is there."""
        for worker in range(self.scheme.workers):
            self.answer(worker)

    def answer(self, worker: int) -> None:
        """The worker ends the first of its orders."""
        slot = min(slot for slot, order in self.open.items() if order.worker == worker)
        order = self.open.pop(slot)
        payload = None
        if not order.hold:
            self.rows[worker] = torch.from_numpy(self.gradients[list(order.combination)].sum(0))
            payload = torch.zeros(1, dtype=torch.uint8)
        self.book(self.scheme.receive(Reply(order, payload, 0.0, np.zeros((len(order.combination), 1)))))

    def lose(self, worker: int) -> None:
        torn = any(order.worker == worker and not order.hold for order in self.open.values())
        if torn:
            self.rows[worker] = torch.nan
        self.book(self.scheme.lose(worker))

    def sum(self) -> np.ndarray:
        out = torch.empty(LENGTH, dtype=torch.float64)
        self.scheme.gradient(self.rows, out)
        return out.numpy()


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 4), st.integers(1, 3), st.integers(0, 1), st.sampled_from(["cyclic", "random"]))
def test_everything_is_counted_once(data: st.DataObject, workers: int, micro: int, ahead: int, placement: str) -> None:
    """Any order of notices, messages and losses, also more than are ordered again: the sum of all, each once."""
    replication = data.draw(st.integers(1, workers))
    scheme = self_scheduling(workers, replication, micro, placement=placement, ahead=ahead, repeats=2)  # type: ignore[arg-type]
    trial, losses = Trial(scheme), data.draw(st.lists(st.integers(0, 40), max_size=4))
    for event in range(10_000):
        if scheme.done:
            break
        if event in losses:
            trial.lose(data.draw(st.integers(0, workers - 1)))
        if scheme.done:
            break
        busy = sorted({order.worker for order in trial.open.values()})
        assert busy, "nobody has anything to do, and the scheme is not done"
        trial.answer(data.draw(st.sampled_from(busy)))
    found = trial.sum()
    assert scheme.exact
    np.testing.assert_allclose(found, trial.gradients.sum(0), atol=1e-12)
    assert 0 <= scheme.error < 1e-13


def test_orders_are_the_same_whatever_the_order_of_events() -> None:
    """A slot always means the same micro-partition of the same worker, so that plans are sent once."""
    scheme, rng, known = self_scheduling(4, 2, 3), np.random.default_rng(2), {}
    for _ in range(10):
        trial = Trial(scheme)
        while not scheme.done:
            for slot, order in trial.open.items():
                if order.hold:
                    assert known.setdefault(slot, (order.worker, order.combination)) == (
                        order.worker,
                        order.combination,
                    )
            trial.answer(int(rng.choice(sorted({order.worker for order in trial.open.values()}))))
    assert len(known) == len(set(known.values())) <= 4 * (2 * 3 + 1)


def test_a_lost_workers_grants_are_computed_again_and_an_asked_sum_is_superseded() -> None:
    """Worker 0 dies when sums are asked for: worker 1 does its micro-partition too, and sends a new sum."""
    scheme = self_scheduling(2, 2, 1, ahead=0)
    trial = Trial(scheme)
    trial.arrive()
    trial.answer(0)
    trial.answer(1)
    first = next(order for order in trial.open.values() if order.worker == 1)
    assert not first.hold and list(first.combination) == [1]
    trial.answer(1)
    trial.lose(0)
    assert not scheme.done
    trial.answer(1)  # worker 0's share
    again = next(order for order in trial.open.values() if order.worker == 1)
    assert not again.hold and list(again.combination) == [0, 1]
    trial.answer(1)
    assert scheme.done
    np.testing.assert_allclose(trial.sum(), trial.gradients.sum(0))


def test_deadline_rescales_what_is_granted() -> None:
    scheme = self_scheduling(3, 1, 2, deadline=1.0, ahead=0)
    trial = Trial(scheme)
    trial.arrive()
    trial.answer(0)
    trial.answer(2)
    trial.book(scheme.expire())
    trial.answer(0)
    trial.answer(2)
    assert scheme.done
    np.testing.assert_allclose(trial.sum(), 3 * (trial.gradients[0] + trial.gradients[4]))
    assert not scheme.exact and scheme.error >= 2.0


@pytest.mark.parametrize(("ahead", "deadline"), [(0, None), (1, None), (0, 0.9), (1, 0.9)])
def test_duration_is_the_simulation(ahead: int, deadline: float | None) -> None:
    """Draw by draw, ties and silent workers among them; the fluid bound is never beaten by an exact gradient."""
    rng = np.random.default_rng(4)
    seconds = rng.integers(1, 5, (12, 4)) / 8 + (rng.random((12, 4)) < 0.5) * rng.exponential(0.1, (12, 4))
    seconds[[1, 5], [0, 2]] = np.inf
    scheme = self_scheduling(4, 2, 3, deadline, ahead=ahead)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(4, delays=DelayTable.from_array(seconds))
    with gradcode.Session(
        cnn(), nn.CrossEntropyLoss(), images(), 12, scheme, cluster, 0, listeners=[reports.append]
    ) as session:
        for step, _ in zip(session.epoch(), seconds, strict=False):
            step.backward()
    times = np.array([report.time for report in reports])
    np.testing.assert_array_equal(times, scheme.duration(seconds[:, :, None], np.zeros((12, 4))))
    if deadline is None:
        assert (times >= fluid_bound(seconds, 12) * (1 - 1e-12)).all()
    assert all(report.exact for report in reports) or deadline is not None


@pytest.mark.parametrize("ahead", [0, 1])
@pytest.mark.parametrize("late", [False, True])
def test_notices_and_late_workers_are_those_of_the_simulation(ahead: int, late: bool) -> None:
    """All messages take as long as a notice; with nothing ahead the first one says that a worker is there."""
    rng, shape = np.random.default_rng(6), (10, 4)
    seconds, message = rng.exponential(0.1, shape) + 0.1, np.broadcast_to(rng.exponential(0.02, (10, 1)), shape)
    start = np.where(rng.random(shape) < 0.4, rng.exponential(0.5, shape), 0.0) * late
    scheme = self_scheduling(4, 2, 3, ahead=ahead, notice=1.0)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(4, delays=DelayTable.from_array(seconds, message, start=start))
    with gradcode.Session(
        cnn(), nn.CrossEntropyLoss(), images(), 12, scheme, cluster, 0, listeners=[reports.append]
    ) as session:
        for step, _ in zip(session.epoch(), seconds, strict=False):
            step.backward()
    stop, owners = scheme.granted(seconds, message, start if ahead else start + message)
    np.testing.assert_allclose([report.time for report in reports], stop + message[:, 0], rtol=1e-12)
    assert [report.uploads for report in reports] == owners.sum(axis=1).tolist()
    if not late:
        np.testing.assert_array_equal(scheme.duration(seconds[:, :, None], message), stop + message[:, 0])


def draws(model: str, workers: int, samples: int) -> tuple[np.ndarray, np.ndarray]:
    """X and D of self_scheduling.md, (samples, N)."""
    rng, shape = np.random.default_rng(8), (samples, workers)
    start = np.zeros(shape)
    if model == "A":
        return 0.1 + rng.exponential(0.1, shape), start
    if model == "B":
        x = 0.1 + rng.exponential(0.02, shape)
        x[:, 0] *= 3
        return x, start
    start = np.where(rng.random(shape) < 0.2, rng.exponential(0.3, shape), 0.0)
    return 0.1 * (1 + 1e-7 * rng.random(shape)), start


@pytest.mark.parametrize(
    ("model", "workers", "replication", "expected"),
    [("A", 6, 2, 1.30), ("B", 6, 2, 1.32), ("A", 6, 3, 1.21), ("B", 6, 3, 1.24), ("D", 6, 3, 1.21), ("A", 20, 2, 1.55)],
)
def test_time_over_fluid(model: str, workers: int, replication: int, expected: float) -> None:
    """The spec's own simulation, m = 8, λ = 0.002, within its ± 5 % (300 draws)."""
    pace, start = draws(model, workers, 300)
    scheme = self_scheduling(workers, replication, 8, ahead=0)
    stop, _ = scheme.granted(pace / 8, 0.002, start)
    fluid = fluid_bound(pace, workers, start)
    assert (stop >= fluid).all()
    assert stop.mean() / fluid.mean() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("model", ["A", "B", "D"])
def test_everybody_holding_everything_is_nearly_fluid(model: str) -> None:
    """self_scheduling.md: r = N, m = 20 and λ = 0 give 1.01 to 1.06."""
    pace, start = draws(model, 6, 200)
    stop, _ = self_scheduling(6, 6, 20, ahead=0).granted(pace / 20, 0.0, start)
    assert 1.005 <= stop.mean() / fluid_bound(pace, 6, start).mean() <= 1.065


def test_who_is_late_takes_nothing_until_it_is_there() -> None:
    """Worker 1 comes when three of four are done, and copies the last one, which worker 0 is at."""
    scheme = self_scheduling(2, 2, 2, ahead=0)
    trial = Trial(scheme)
    for _ in range(4):  # it is there, and has done three
        trial.answer(0)
    assert sorted(scheme._schedule.owner) == [0, 1, 3] and trial.taken(0) == [2] and trial.taken(1) == []
    trial.answer(1)
    assert trial.taken(1) == [2]
    trial.answer(1)
    trial.answer(0)
    trial.answer(1)
    assert scheme.done
    np.testing.assert_allclose(trial.sum(), trial.gradients.sum(0))
    stop, owners = scheme.granted(np.array([[1.0, 0.5]]), 0.0, np.array([[0.0, 3.25]]))
    assert stop.tolist() == [3.75] and owners.all()


@pytest.mark.parametrize("placement", ["cyclic", "random"])
def test_placement(placement: str) -> None:
    for workers in (1, 2, 3, 4, 7, 12):
        for replication in range(1, workers + 1):
            shares = placed(workers, replication, placement, seed=workers)  # type: ignore[arg-type]
            assert [own[0] for own in shares] == list(range(workers))
            assert all(len(set(own)) == len(own) == replication for own in shares)
            counts = np.bincount([share for own in shares for share in own])
            assert (counts == replication).all()


def test_refusals() -> None:
    with pytest.raises(ValueError, match="replication"):
        self_scheduling(4, 5)
    with pytest.raises(ValueError, match="micro"):
        self_scheduling(4, 2, 0)
    with pytest.raises(ValueError, match="deadline"):
        self_scheduling(4, 2, deadline=0.0)
    with pytest.raises(ValueError, match=r"shares\[1\]"):
        SelfScheduling([[0], [0]])


def test_sums_go_through_a_codec_without_memory() -> None:
    half = create("half")
    scheme = compressed(self_scheduling(4, 2, 2), Plain(half))
    reports: list[gradcode.Report] = []
    model, other = cnn(), cnn()
    for net, own in ((model, scheme), (other, self_scheduling(4, 2, 2))):
        cluster = gradcode.SimulatedCluster(4)
        with gradcode.Session(
            net, nn.CrossEntropyLoss(), images(), 16, own, cluster, 0, listeners=[reports.append]
        ) as s:
            next(iter(s.epoch())).backward()
    found, plain = (torch.cat([p.grad.flatten() for p in net.parameters()]) for net in (model, other))  # type: ignore[union-attr]
    assert 0 < float((found - plain).norm() / plain.norm()) < 1e-2  # halves: 8 or 11 significant bits
    for codec in (ErrorFeedback(half), Differences(half, 0.5)):
        with pytest.raises(ValueError, match="superseded"):
            compressed(self_scheduling(4, 2, 2), codec)
