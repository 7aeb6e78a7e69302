"""Self-scheduling on every cluster: exact gradients, each micro-partition once, and workers lost on the way."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.test_partial import BATCH, SEED, WORKERS, Trial, Watching, paces
from clusters.zoo import cnn, images
from gradcode import schemes
from gradcode.clusters.post import Record
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.protocol import Reply
from gradcode.training.sampling import Sampling

PIECE = DelayTable.from_array(np.full((1, WORKERS), 0.02))


class Grants(Watching):
    """Counts grants of each micro-partition, notes what a lost worker owned, and kills or stops workers on the way."""

    def __init__(self, scheme: schemes.SelfScheduling) -> None:
        super().__init__(scheme)  # type: ignore[arg-type]
        self.grants: Counter[int] = Counter()
        self.owned: dict[int, list[int]] = {}  # of each lost worker
        self.signal: signal.Signals | None = None  # to one worker that has a grant, or to ``victims``
        self.when = "granted"  # as soon as it has one, or as it is asked for its message
        self.victims: list[int] = []  # empty: whoever comes first

    def start(self, iteration: Any) -> Any:
        self.grants, self.owned = Counter(), {}
        return super().start(iteration)

    def receive(self, reply: Reply) -> Any:
        schedule, order = self._scheme._schedule, reply.order
        granted = [piece for piece in order.combination if order.hold and piece not in schedule.owner]
        self.grants.update(granted)
        actions = super().receive(reply)
        now = granted if self.when == "granted" else self.asked
        if self.signal is not None and now:
            self.victims = self.victims or [order.worker if self.when == "granted" else self.asked[0].worker]
            for victim in self.victims:
                os.kill(self.pids[victim], self.signal)
            self.signal = None
        return actions

    def lose(self, worker: int) -> Any:
        self.owned[worker] = self._scheme._schedule.owned(worker)
        return self._scheme.lose(worker)

    def check(self) -> None:
        """What the lost worker owned was granted again, and nothing else was."""
        (again,) = self.owned.values()
        assert list(self.owned) == self.victims and again
        assert self.grants == Counter(range(self._scheme.partitions)) + Counter(again)


class Watched(Trial):
    scheme: Grants
    watching = Grants

    def __init__(self, kind: str, scheme: schemes.SelfScheduling, **options: Any) -> None:
        super().__init__(kind, scheme, torch.float64, **options)  # type: ignore[arg-type]
        self.sampling = Sampling(len(self.dataset), scheme.partitions, BATCH, SEED)

    def check(self) -> None:
        assert self.go() <= self.scheme.error < 1e-14
        assert self.reports[-1].exact


@pytest.mark.parametrize("ahead", [0, 1])
def test_gradients_are_exact_whoever_straggles(kind: str, ahead: int) -> None:
    scheme = schemes.self_scheduling(WORKERS, 2, 3, ahead=ahead)
    with Watched(kind, scheme, delays=paces(4)) as trial:
        for _ in range(4):
            trial.check()
            report = trial.reports[-1]
            counted = sorted(piece for reply in trial.scheme.messages for piece in reply.order.combination)
            assert counted == list(range(3 * WORKERS))
            # What a message adds up was held: nothing is computed for it again.
            assert report.computations <= len(trial.scheme.notices) + WORKERS
            if kind == "simulated":
                assert report.time == report.order_statistic


def test_who_is_not_there_is_not_waited_for(kind: str) -> None:
    """With nothing ahead worker 0, a minute late, has taken nothing and says nothing; in the next iteration it may."""
    start = np.zeros((2, WORKERS))
    start[0, 0] = 60.0
    late = DelayTable.from_array(np.full((2, WORKERS), 0.02), start=start)
    with Watched(kind, schemes.self_scheduling(WORKERS, 2, 2, ahead=0), delays=late) as trial:
        trial.check()
        assert 0 in trial.reports[-1].stragglers
        trial.check()


@pytest.fixture(params=["local", "ray"])
def name(request: pytest.FixtureRequest) -> str:
    """Clusters of real processes."""
    if request.param == "ray":
        request.getfixturevalue("kept_actors")
    return str(request.param)


@pytest.mark.parametrize("when", ["granted", "asked"])
def test_a_killed_worker_costs_its_share_again_and_nothing_else(name: str, when: str) -> None:
    """One dies after a grant, before its sum: what it owned is computed again, and the gradient is exact."""
    with Watched(name, schemes.self_scheduling(WORKERS, 2, 2), delays=PIECE) as trial:
        trial.go()
        book, records = trial.cluster._book_work, []

        def booked(worker: int, record: Record, current: bool) -> None:
            records.append(record if current else record._replace(slot=-1))
            book(worker, record, current)

        trial.cluster._book_work = booked
        trial.scheme.when, trial.scheme.signal = when, signal.SIGKILL
        trial.check()
        trial.scheme.check()
        assert trial.reports[-1].lost == tuple(trial.scheme.victims)
        computed: Counter[int] = Counter()
        for record in records:
            computed[record.slot] += record.computed
        assert not any(computed.pop(reply.order.slot) for reply in trial.scheme.messages)  # it was held
        notices = [reply for reply in trial.scheme.notices if reply.order.combination]  # else "I am there"
        (again,), copies = trial.scheme.owned.values(), len(notices) - trial.scheme.grants.total()
        counted = sum(computed.pop(reply.order.slot) for reply in notices)
        assert counted == trial.scheme.partitions + len(again) + copies
        # The rest was under way when it was not wanted any more: when all was granted, and when it was so again.
        assert sum(computed.values()) <= 2 * WORKERS
        trial.check()


def test_with_patience_a_silent_workers_grants_are_computed_by_others(name: str) -> None:
    """One stops after a grant and says nothing any more: it is made a lost one."""
    with Watched(name, schemes.self_scheduling(WORKERS, 2, 2), delays=PIECE, patience=2.0) as trial:
        trial.go()
        trial.scheme.signal = signal.SIGSTOP
        trial.check()
        assert set(trial.scheme.victims) <= set(trial.reports[-1].lost) and trial.reports[-1].time > 2.0
        if trial.reports[-1].lost == tuple(trial.scheme.victims):  # none of the others was silent as long
            trial.scheme.check()
        trial.check()


def test_without_patience_a_silent_worker_that_owns_nothing_is_done_without(name: str) -> None:
    """Worker 0 is stopped before the iteration: others compute copies of what it has in hand."""
    with Watched(name, schemes.self_scheduling(WORKERS, 2, 2), delays=PIECE) as trial:
        trial.go()
        stopped = trial.cluster.pids[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            trial.check()
            assert 0 in trial.reports[-1].stragglers and trial.reports[-1].lost == ()
            assert not any(reply.order.worker == 0 for reply in trial.scheme.notices)
        finally:
            os.kill(stopped, signal.SIGCONT)
        trial.check()


def dies(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Workers 0 and 2 die of whatever they compute."""
    if multiprocessing.current_process().name in ("gradcode-worker-0", "gradcode-worker-2"):
        os.kill(os.getpid(), signal.SIGKILL)
    return nn.functional.cross_entropy(outputs, targets)


@pytest.mark.parametrize(("on_shortfall", "deadline"), [("raise", None), ("approximate", None), ("wait", 0.5)])
def test_a_share_without_holders_on_local_workers(on_shortfall: Any, deadline: float | None) -> None:
    """They die again and again: an error names share and holders, unless what is granted is enough."""
    scheme = schemes.self_scheduling(3, 2, 2, deadline)
    reports: list[gradcode.Report] = []
    cluster = gradcode.LocalCluster(3, on_shortfall=on_shortfall)
    with gradcode.Session(cnn(), dies, images(), 48, scheme, cluster, SEED, listeners=[reports.append]) as session:
        step = next(iter(session.epoch()))
        if on_shortfall == "raise":
            with pytest.raises(Shortfall, match=r"of those who hold share 0 \(held by \[0, 2\]\).*replication than 2"):
                step.backward()
        else:
            step.backward()
            assert not reports[-1].exact and reports[-1].decode_error >= 0.5


NOBODY = r"Nobody is left of those who hold share 0 \(held by \[0, 5\]\).*larger replication than 2"


@pytest.mark.parametrize("deadline", [None, 2.0])
def test_a_share_without_holders_on_ray(deadline: float | None, kept_actors: None) -> None:
    """Workers 0 and 5 are killed and not started again."""
    scheme = schemes.self_scheduling(WORKERS, 2, 2, deadline)
    with Watched("ray", scheme, delays=PIECE, max_restarts=0) as trial:
        trial.go()
        trial.scheme.signal, trial.scheme.victims = signal.SIGKILL, [0, 5]
        if deadline is None:
            with pytest.raises(Shortfall, match=NOBODY):
                trial.go()
        else:
            trial.go()
            assert not trial.reports[-1].exact and trial.reports[-1].lost == (0, 5)


@pytest.mark.parametrize("deadline", [None, 0.5])
def test_a_share_without_holders_in_the_simulator(deadline: float | None) -> None:
    seconds = np.full((1, WORKERS), 0.02)
    seconds[0, [0, 5]] = np.inf
    scheme = schemes.self_scheduling(WORKERS, 2, 2, deadline)
    with Watched("simulated", scheme, delays=DelayTable.from_array(seconds)) as trial:
        if deadline is None:
            with pytest.raises(Shortfall, match=NOBODY):
                trial.go()
        else:
            trial.go()
            assert not trial.reports[-1].exact and trial.reports[-1].time == 0.5
