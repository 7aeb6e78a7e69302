"""Partial stragglers on every cluster: exact gradients from half-done work, and workers lost on the way."""

from __future__ import annotations

import os
import signal
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import delays, schemes
from gradcode.clusters.driver import NOTICE_BYTES
from gradcode.delays import DelayTable
from gradcode.protocol import Order, Reply
from gradcode.training.sampling import Sampling

WORKERS, BATCH, SEED = 6, 48, 3


class Watching:
    """Wraps a scheme: keeps its notices and messages, and kills a worker at one of them."""

    def __init__(self, scheme: schemes.PartialStragglers) -> None:
        self._scheme = scheme
        self.notices: list[Reply] = []
        self.messages: list[Reply] = []
        self.asked: list[Order] = []
        self.pids: Any = None
        self.kill_at_notice = self.kill_when_asked = -1  # of which worker; −1: of none
        self.killed: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def __repr__(self) -> str:
        return repr(self._scheme)

    @property
    def awaits(self) -> int:
        """One where it kills: it then wants to see every reply as it comes."""
        kills = max(self.kill_at_notice, self.kill_when_asked) >= 0
        return 1 if kills else self._scheme.awaits

    def start(self, iteration: Any) -> Any:
        self.notices, self.messages, self.asked = [], [], []
        return self._scheme.start(iteration)

    def receive(self, reply: Reply) -> Any:
        (self.notices if reply.order.hold else self.messages).append(reply)
        actions = self._scheme.receive(reply)
        self.asked += [action for action in actions if isinstance(action, Order) and not action.hold]
        self.kill_at_notice = self._kill(reply.order.hold and reply.order.worker == self.kill_at_notice, "notice")
        self.kill_when_asked = self._kill(any(own.worker == self.kill_when_asked for own in self.asked), "asked")
        return actions

    def _kill(self, now: bool, when: str) -> int:
        victim: int = self.kill_at_notice if when == "notice" else self.kill_when_asked
        if not now:
            return victim
        self.killed.append(self.pids[victim])
        os.kill(self.pids[victim], signal.SIGKILL)
        return -1


class Trial:
    """A session, its plain gradients, and the scheme that is watched."""

    watching: type[Watching] = Watching

    def __init__(self, kind: str, scheme: schemes.PartialStragglers, dtype: torch.dtype, **options: Any) -> None:
        self.model, self.reference = cnn(dtype), cnn(dtype)
        self.dataset, self.scheme = images(dtype=dtype), self.watching(scheme)
        self.sampling = Sampling(len(self.dataset), WORKERS, BATCH, SEED)
        self.reports: list[gradcode.Report] = []
        self.cluster = CLUSTERS[kind](WORKERS, **options)
        self.session = gradcode.Session(
            self.model,
            nn.CrossEntropyLoss(),
            self.dataset,
            BATCH,
            self.scheme,
            self.cluster,
            SEED,
            listeners=[self.reports.append],
        )
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())
        self.scheme.pids = getattr(self.cluster, "pids", None)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()

    def go(self) -> float:
        """The relative error of one iteration's gradient."""
        step = next(self.steps)
        step.backward()
        self.scheme.pids = getattr(self.cluster, "pids", None)
        return relative_error(
            decoded(self.model), plain_gradients(self.reference, self.dataset, self.sampling, step.number)
        )

    @property
    def length(self) -> int:
        return sum(parameter.numel() for parameter in self.model.parameters())


def paces(iterations: int, seconds: float = 0.01) -> DelayTable:
    rng = np.random.default_rng(2)
    return DelayTable.from_array(
        rng.exponential(seconds, (iterations, WORKERS)) * rng.choice([1, 8], (iterations, WORKERS))
    )


@pytest.mark.parametrize(
    ("parts", "dtype"), [(1, torch.float32), (2, torch.float32), (3, torch.float64)], ids=["whole", "half", "third"]
)
def test_gradients_are_exact_whoever_straggles(kind: str, parts: int, dtype: torch.dtype) -> None:
    scheme = schemes.partial(WORKERS, 4, parts)
    with Trial(kind, scheme, dtype, delays=paces(6)) as trial:
        assert trial.length % 2 == 1  # the second half is shorter
        for _ in range(6):
            assert trial.go() <= max(scheme.error, 1e-6 if dtype == torch.float32 else 1e-14) < 1e-3
            report = trial.reports[-1]
            assert report.exact and report.decode_error == scheme.error
            assert all(reply.payload is None for reply in trial.scheme.notices)
            finishers = {reply.order.worker for reply in trial.scheme.messages}
            width = -(-trial.length // parts) * torch.finfo(dtype).bits // 8
            assert len(finishers) * width == sum(len(own.payload) for own in trial.scheme.messages)
            assert report.uploads == len(finishers)
            assert report.bytes_up == len(finishers) * width + report.notices * NOTICE_BYTES
            # Everybody's message is of the chunks it has given notice of.
            noticed: dict[int, set[int]] = {worker: set() for worker in range(WORKERS)}
            for reply in trial.scheme.notices:
                noticed[reply.order.worker] |= set(reply.order.combination)
            for order in trial.scheme.asked:
                assert set(order.combination) == noticed[order.worker]
            if kind == "simulated":
                assert report.time == report.order_statistic


def test_messages_compute_nothing_again(kind: str) -> None:
    """As many parts as holders: everybody finishes everything, once."""
    scheme = schemes.partial(WORKERS, 2, 2)
    with Trial(kind, scheme, torch.float32) as trial:
        for _ in range(3):
            assert trial.go() <= max(scheme.error, 1e-6) < 1e-3
            assert len(trial.scheme.notices) == trial.reports[-1].computations == 2 * WORKERS
            assert len(trial.scheme.messages) == WORKERS


def test_slow_workers_first_chunks_count(kind: str) -> None:
    """Two workers are ten times slower; with whole workers only, chunk 5 would be there after 0.6 s, not 0.3 s.

    So it is in one of up to five iterations, for a busy machine adds to some of them.
    """
    pace = np.full((1, WORKERS), 0.03)
    pace[0, 4:] = 0.3
    scheme = schemes.partial(WORKERS, 2)  # chunk 5 is first at worker 5, second at worker 4
    options: dict[str, Any] = {} if kind == "simulated" else {"delay_mode": "emulate"}
    with Trial(kind, scheme, torch.float32, delays=DelayTable.from_array(pace), **options) as trial:
        for _ in range(5):
            assert trial.go() < 1e-6
            assert trial.reports[-1].time >= 0.3 - 1e-9
            if trial.reports[-1].time < 0.6:
                break
        assert trial.reports[-1].time < 0.6
        assert 5 in {reply.order.worker for reply in trial.scheme.messages}


@pytest.mark.serial
def test_the_deadline_asks_for_what_is_finished(kind: str) -> None:
    """Two workers that nobody else covers are silent: their common chunk is missing, and nothing else."""
    pace = np.zeros((1, WORKERS))
    pace[0, [0, 5]] = np.inf
    scheme = schemes.partial(WORKERS, 2, deadline=0.4)
    with Trial(kind, scheme, torch.float32, delays=DelayTable.from_array(pace)) as trial:
        for _ in range(2):
            trial.go()
            wanted = plain_gradients(trial.reference, trial.dataset, trial.sampling, len(trial.reports) - 1)
            del wanted[0]
            assert float((decoded(trial.model) - torch.stack(wanted).sum(0)).norm()) < 1e-6
            report = trial.reports[-1]
            assert report.time >= 0.4 and not report.exact and scheme.residual == 1.0
            assert report.decode_error == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("when", ["notice", "asked"])
def test_a_killed_worker_costs_nothing_but_time(when: str) -> None:
    """Worker 0 dies with finished chunks, before its message: it, or others, compute them again."""
    scheme = schemes.partial(WORKERS, 3, 2)
    seconds = DelayTable.from_array(np.full((1, WORKERS), 0.02))
    with Trial("local", scheme, torch.float32, delays=seconds) as trial:
        for _ in range(3):
            if when == "notice":
                trial.scheme.kill_at_notice = 0
            else:
                trial.scheme.kill_when_asked = 0
            assert trial.go() <= max(scheme.error, 1e-6) < 1e-3
            assert trial.reports[-1].exact
        assert len(trial.scheme.killed) >= 2
        assert (0,) in [report.lost for report in trial.reports]


def test_losses_beyond_the_repeats_are_computed_again() -> None:
    """Simulated: workers 1 and 2 are lost with two chunks finished each, with and without repeats."""
    losses = [(0, 1, 0.25), (0, 2, 0.25)]
    table = DelayTable.from_array(np.full((1, WORKERS), 0.1))
    for repeats in (0, 3):
        scheme = schemes.partial(WORKERS, 4, 3, repeats=repeats)
        with Trial("simulated", scheme, torch.float64, delays=table, losses=losses) as trial:
            assert trial.go() <= scheme.error < 1e-10
            report = trial.reports[-1]
            assert report.exact and report.lost == (1, 2)
            # Beyond the repeats it is the messages that compute again what was finished.
            asked = sum(len(order.combination) for order in trial.scheme.asked)
            assert report.computations > asked


def test_training_comes_to_the_same_parameters(kind: str) -> None:
    """Three steps of SGD beside plain training."""
    if kind == "ray":
        pytest.skip("gradients at one set of parameters are compared there")
    scheme = schemes.partial(WORKERS, 3, deadline=None, assignment="random_regular", seed=4)
    with Trial(kind, scheme, torch.float64, delays=delays.Exponential(100.0)) as trial:
        for number in range(3):
            trial.go()
            plain = torch.stack(plain_gradients(trial.reference, trial.dataset, trial.sampling, number)).sum(0)
            with torch.no_grad():
                for model, gradient in ((trial.model, decoded(trial.model)), (trial.reference, plain)):
                    begin = 0
                    for parameter in model.parameters():
                        end = begin + parameter.numel()
                        parameter.sub_(gradient[begin:end].view_as(parameter), alpha=0.1)
                        begin = end
        own, other = (
            nn.utils.parameters_to_vector(model.parameters()).detach() for model in (trial.model, trial.reference)
        )
        assert float((own - other).norm()) <= 1e-12 * float(other.norm())
