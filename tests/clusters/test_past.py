"""What the master keeps for the workers, and gradients of earlier iterations, on every cluster."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from clusters.test_rules import LENGTH, WORKERS, Trial, cnn_like
from clusters.toy_schemes import Toy, one
from clusters.zoo import plain_gradients
from gradcode.clusters.driver import NOTICE_BYTES
from gradcode.protocol import Action, Combination, Compare, Iteration, Keep, Layout, Order, Past, Reply, Version


class Waiting(Toy):
    """Waits for everybody; the rest is in the orders."""

    def __init__(self, workers: int, kept: int) -> None:
        super().__init__(workers)
        self.layout = Layout(rows=workers, slots=workers, kept=kept, stale=True)
        self.replies: dict[int, Reply] = {}

    def begin(self, iteration: Iteration) -> None:
        super().begin(iteration)
        self.replies = {}

    def receive(self, reply: Reply) -> Sequence[Action]:
        self.replies[reply.order.worker] = reply
        self.done = len(self.replies) == self.workers
        return ()


class AgainstTheLast(Waiting):
    """Each worker sends its partition's gradient if it is far enough from the one it sent last."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers, kept=workers)
        self.table: Tensor | None = None
        self.threshold, self.sent_in = 0.0, [-1] * workers
        self.fresh: list[int] = []

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.begin(iteration)
        actions: list[Action] = []
        if self.table is not None:
            actions = [Keep(Version(w, self.sent_in[w]), self.table[w], origin=w) for w in self.fresh]
        for w in range(self.workers):
            known = Compare(Version(w, self.sent_in[w]), self.threshold) if self.table is not None else None
            actions.append(Order(w, iteration.serial, w, w, one(w), compare=known))
        return actions

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        assert self.iteration is not None
        if self.table is None:
            self.table = rows[:, : out.shape[0]].clone()
        self.fresh = [w for w, reply in self.replies.items() if reply.payload is not None]
        for w in self.fresh:
            self.table[w], self.sent_in[w] = rows[w, : out.shape[0]], self.iteration.serial
        torch.sum(self.table, dim=0, out=out)


def test_a_reply_near_the_last_one_is_a_skip(kind: str) -> None:
    scheme = AgainstTheLast(WORKERS)
    with Trial(kind, scheme) as trial:
        last: list[Tensor] = []
        for number in range(5):
            model = cnn_like(trial.model)
            wanted = plain_gradients(model, trial.dataset, trial.sampling, number)
            changes = [float((g - old).double().square().sum()) for g, old in zip(wanted, last, strict=False)]
            if last:  # between the second and the third: two are near, two are far
                scheme.threshold = float(np.mean(sorted(changes)[1:3]))
            found, _ = trial.go()
            far = [not last or change > scheme.threshold for change in changes or [0.0] * WORKERS]
            last = [g if own else old for g, own, old in zip(wanted, far, last or wanted, strict=True)]
            assert float((found - torch.stack(last).sum(0)).norm() / found.norm()) < 1e-5
            report = trial.reports[-1]
            assert sorted(scheme.fresh) == [w for w, own in enumerate(far) if own]
            assert (report.uploads, report.notices) == (sum(far), WORKERS - sum(far))
            assert report.bytes_up == sum(far) * LENGTH * 4 + report.notices * NOTICE_BYTES
            assert report.bytes_down == WORKERS * LENGTH * 4  # what a worker has sent it need not be sent
            if changes:
                said = [scheme.replies[w].change for w in range(WORKERS)]
                assert said == pytest.approx(changes, rel=1e-4)
            trial.move()


class Innovations(Waiting):
    """Worker w has partitions w and w + 1; each iteration it sends what has changed since the iteration before."""

    def __init__(self, workers: int, elsewhere: bool = False) -> None:
        super().__init__(workers, kept=2)
        self.before: tuple[Version, int] | None = None
        self.elsewhere = elsewhere  # compare with the kept parameters, on the samples of now
        self.total: Tensor | None = None
        self.version = 0

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.begin(iteration)
        self.version += 1
        now = Version(self.version % 2, self.version)
        actions: list[Action] = [Keep(now)]
        for w in range(self.workers):
            shares = {w: 0.5, (w + 1) % self.workers: 0.5}
            past: tuple[Past, ...] = ()
            compare = None
            if self.before is not None:
                version, number = self.before
                past = tuple(Past(j, share, version, number) for j, share in shares.items())
                if self.elsewhere:
                    here = tuple(term._replace(number=iteration.number) for term in past)
                    compare = Compare(here)
            actions.append(
                Order(
                    w,
                    iteration.serial,
                    w,
                    w,
                    Combination(shares),
                    compare=compare,
                    subtract=past,
                    remember=now,
                )
            )
        self.now = (now, iteration.number)
        return actions

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        change = rows[:, : out.shape[0]].sum(0)
        self.total = change if self.total is None else self.total + change
        out.copy_(self.total)
        self.before = self.now


def test_differences_to_the_iteration_before(kind: str) -> None:
    scheme = Innovations(WORKERS)
    with Trial(kind, scheme) as trial:
        for number in range(5):
            found, wanted = trial.go()
            expected = torch.stack(wanted).sum(0)
            assert float((found - expected).norm() / expected.norm()) < 1e-5
            # Nothing is computed again, and nothing sent to who has it.
            if kind == "simulated":
                assert trial.reports[-1].computations == 2 * WORKERS
            assert trial.reports[-1].bytes_down == WORKERS * LENGTH * 4, number
            trial.move()


def test_changes_on_the_samples_of_now(kind: str) -> None:
    """Each worker computes its partitions twice, at the parameters of now and at those of the iteration before."""
    scheme = Innovations(WORKERS, elsewhere=True)
    with Trial(kind, scheme) as trial:
        before = cnn_like(trial.model)
        for number in range(3):
            found, wanted = trial.go()
            assert float((found - torch.stack(wanted).sum(0)).norm() / found.norm()) < 1e-5
            if number:
                there = plain_gradients(before, trial.dataset, trial.sampling, number)
                for w in range(WORKERS):
                    own = sum(wanted[j] - there[j] for j in (w, (w + 1) % WORKERS)) / 2
                    assert scheme.replies[w].change == pytest.approx(float(own.double().square().sum()), rel=1e-4)
            before = cnn_like(trial.model)
            trial.move()


@pytest.mark.parametrize("kind", ["local", "ray"], indirect=True)
def test_what_a_dead_worker_had_sent_is_sent_to_the_one_in_its_place(kind: str) -> None:
    """Who has sent what is kept has it already; who was started again has not."""
    scheme = AgainstTheLast(WORKERS)
    with Trial(kind, scheme) as trial:
        down = []
        for number in range(5):
            if number == 2:
                victim = trial.cluster.pids[1]
                assert victim is not None
                os.kill(victim, signal.SIGKILL)
            trial.go()
            scheme.threshold = float("inf")  # from now on nobody sends
            down.append(trial.reports[-1].bytes_down // (4 * LENGTH))
            trial.move()
    assert down[:2] == [WORKERS, WORKERS] and down[4] == WORKERS
    # In which of the two depends on when it was known to be dead.
    assert sum(down[2:4]) == 2 * WORKERS + 1


@pytest.mark.parametrize("build", [AgainstTheLast, Innovations])
@pytest.mark.parametrize("kind", ["local", "ray"], indirect=True)
def test_a_worker_that_was_killed_answers_as_if_it_had_not(kind: str, build: Callable[[int], Waiting]) -> None:
    """What it remembered is computed again from what the master keeps."""
    scheme = build(WORKERS)
    with Trial(kind, scheme) as trial:
        for number in range(4):
            if number:
                victim = trial.cluster.pids[number % WORKERS]
                assert victim is not None
                os.kill(victim, signal.SIGKILL)
            found, wanted = trial.go()
            expected = torch.stack(wanted).sum(0)
            assert float((found - expected).norm() / expected.norm()) < 1e-5
            trial.move()


def test_what_is_kept_is_part_of_the_state(kind: str) -> None:
    """A session that goes on from another's state finds what that one has kept, and takes it off again."""
    first = Innovations(WORKERS)
    with Trial(kind, first) as trial:
        for _ in range(2):
            before, _ = trial.go()
            trial.move()
        state = trial.session.state_dict()
        weights = {name: value.clone() for name, value in trial.model.state_dict().items()}
        last, version = first.before, first.version
        expected, _ = trial.go()
    second = Innovations(WORKERS)
    second.before, second.total, second.version = last, before, version
    with Trial(kind, second) as trial:
        state["scheme"] = repr(second)
        trial.session.load_state_dict(state)
        trial.model.load_state_dict(weights)
        found, wanted = trial.go()
        assert float((found - torch.stack(wanted).sum(0)).norm() / found.norm()) < 1e-5
    assert float((found - expected).norm() / expected.norm()) < 1e-5
