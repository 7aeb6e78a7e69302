"""Lazy schemes on every cluster: what the master adds up is what the voters sent last, whoever straggles or dies."""

from __future__ import annotations

import os
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, straggling
from gradcode import delays, schemes
from gradcode.delays import DelayTable
from gradcode.training.sampling import Sampling

WORKERS, SEED, BATCH = 4, 3, 32
Build = Callable[[], Any]

# Small ξ, so that something is sent in most iterations, and something is not.
SCHEMES: dict[str, Build] = {
    "lag worker": lambda: schemes.lag(WORKERS, "worker", xi=0.1),
    "lag server": lambda: schemes.lag(WORKERS, "server", xi=0.05),
    "glag worker": lambda: schemes.glag(WORKERS, 2, "worker", xi=0.05),
    "glag server": lambda: schemes.glag(WORKERS, 2, "server", xi=0.05),
    "lagc coded": lambda: schemes.lagc(WORKERS, 2, xi=0.05),
    "lagc switch": lambda: schemes.lagc(WORKERS, 2, "switch", xi=0.05),
}


@contextmanager
def quietly() -> Iterator[None]:
    """Few voters are meant here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="xi adds up")
        yield


class Training:
    """Trains a network lazily and keeps, apart from the scheme, each partition's gradient as of its last upload."""

    def __init__(self, kind: str, build: Build, loss: Any = None, data: Any = None, **options: Any) -> None:
        with quietly():
            self.scheme = build()
        self.model, self.data = cnn(), data or images()
        self.sampling = Sampling(len(self.data), WORKERS, BATCH, SEED)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.2)
        self.reports: list[gradcode.Report] = []
        self.cluster = CLUSTERS[kind](WORKERS, **options)
        self.session = gradcode.Session(
            self.model,
            loss or nn.CrossEntropyLoss(),
            self.data,
            BATCH,
            self.scheme,
            self.cluster,
            SEED,
            optimizer=self.optimizer,
            listeners=[self.reports.append],
        )
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())
        self.stored: list[Tensor] = []

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()

    def go(self) -> float:
        """One iteration and an optimizer step; how far the gradient was from the sum of what was sent last."""
        step = next(self.steps)
        step.backward()
        found = decoded(self.model)
        wanted = plain_gradients(self.model, self.data, self.sampling, step.number)
        fresh = self.fresh()
        self.stored = [
            new if j in fresh else old for j, (new, old) in enumerate(zip(wanted, self.stored or wanted, strict=True))
        ]
        self.optimizer.step()
        size = sum(float(own.norm()) for own in self.stored)
        return float((found - torch.stack(self.stored).sum(0)).norm()) / size

    def fresh(self) -> set[int]:
        """Partitions whose gradients are of this iteration."""
        chosen = self.scheme.selected
        if isinstance(self.scheme, schemes.lazy.Innovations):
            return set(range(WORKERS)) if self.scheme.whole else set(chosen)
        each = WORKERS // self.scheme.groups
        return {group * each + j for group in chosen for j in range(each)}


@pytest.mark.parametrize("name", SCHEMES)
def test_the_gradient_is_what_was_sent_last(kind: str, name: str) -> None:
    """In every iteration one worker never answers, where that is tolerated; the samples are new each time."""
    tolerates = name.startswith(("glag", "lagc coded"))
    patterns = [(number % WORKERS,) if tolerates else () for number in range(10)]
    with Training(kind, SCHEMES[name], delays=straggling(patterns, WORKERS)) as training:
        uploads = 0
        for number in range(10):
            assert training.go() < 1e-5, number
            report = training.reports[-1]
            assert np.isfinite(report.loss)
            assert all(p.grad is not None for p in training.model.parameters())
            uploads += len(training.fresh())
        assert uploads < 10 * WORKERS  # something was not sent


@pytest.mark.parametrize("name", ["lag worker", "lag server", "glag worker", "lagc coded"])
@pytest.mark.parametrize("kind", ["local", "ray"], indirect=True)
def test_a_voter_killed_in_mid_run(kind: str, name: str) -> None:
    """Killed while it computes, one after the other: the sum stays that of what was sent, in every iteration."""
    slow = DelayTable.from_array(np.full((12, WORKERS), 0.04))
    with Training(kind, SCHEMES[name], delays=slow) as training:
        killed = 0
        for number in range(12):
            pid = training.cluster.pids[number % WORKERS]
            if number % 3 == 1 and pid is not None:
                timer = threading.Timer(0.015, os.kill, (pid, signal.SIGKILL))
                timer.start()
                killed += 1
            assert training.go() < 1e-5, number
        assert killed >= 3
        assert sum(len(report.lost) for report in training.reports) >= 1
        if hasattr(training.scheme, "stored"):
            kept, total = training.scheme.stored, training.scheme.total
            assert float((kept.sum(0) - total).norm() / kept.norm()) < 1e-6


def fails_when_large(outputs: Tensor, targets: Tensor) -> Tensor:
    """Raises on samples of class 4, once the outputs are large."""
    if bool((outputs > 1e3).any()) and bool((targets == 4).any()):
        raise RuntimeError("too large")
    return nn.functional.cross_entropy(outputs, targets)


@pytest.mark.parametrize("failing", [range(WORKERS), (1,)], ids=["all", "one"])
@pytest.mark.parametrize("kind", ["local", "ray"], indirect=True)
def test_who_fails_counts_as_unchanged_where_that_is_allowed(kind: str, failing: Sequence[int]) -> None:
    data = images()
    sampling, labels = Sampling(len(data), WORKERS, BATCH, SEED), data.tensors[1]
    labels.clamp_(max=3)
    for worker in failing:
        labels[sampling.shard(worker)] = 4
    build = lambda: schemes.lag(WORKERS, "worker", xi=0.0)  # noqa: E731
    with Training(kind, build, fails_when_large, data=data, on_shortfall="approximate") as training:
        training.go()
        last = decoded(training.model)
        with torch.no_grad():
            training.model[-1].bias.add_(1e4)
        next(training.steps).backward()
        found, report = decoded(training.model), training.reports[-1]
        assert training.scheme.selected == tuple(v for v in range(WORKERS) if v not in failing)
        assert torch.equal(found, last) == (len(failing) == WORKERS)
        assert not report.exact and report.decode_error == np.inf and np.isfinite(report.loss)


def test_clusters_select_alike(kind: str) -> None:
    """The same samples and the same rule: who sends in which iteration is the same on every cluster."""
    assert selections(kind) == selections("simulated")
    assert len(set(selections("simulated"))) > 1


def selections(kind: str) -> list[tuple[int, ...]]:
    with Training(kind, SCHEMES["lag worker"]) as training:
        return [(training.go(), training.scheme.selected)[1] for _ in range(8)]


def test_who_is_not_selected_is_asked_nothing(kind: str) -> None:
    with Training(kind, SCHEMES["lag server"]) as training:
        size = sum(p.numel() for p in training.model.parameters()) * 4
        asked = 0
        for _ in range(10):
            training.go()
            report, chosen = training.reports[-1], training.scheme.selected
            assert (report.uploads, report.downloads) == (len(chosen), len(chosen))
            assert report.bytes_down == report.bytes_up == len(chosen) * size
            assert np.flatnonzero(~np.isnan(report.arrivals)).tolist() == list(chosen)
            if not chosen:
                assert report.time < 1.0 and report.computations == 0
            asked += len(chosen)
        assert asked < 10 * WORKERS


def test_a_deadline_leaves_the_late_ones_as_they_were(kind: str) -> None:
    """At first everything must have been sent once."""
    seconds = np.array([[0.3] * WORKERS] + [[0.0, 0.0, np.inf, 0.0]] * 3)
    build = lambda: schemes.lag(WORKERS, "worker", xi=0.0, deadline=0.15)  # noqa: E731
    with Training(kind, build, delays=DelayTable.from_array(seconds)) as training:
        assert training.go() < 1e-5
        assert training.reports[0].exact and training.reports[0].time >= 0.3
        for _ in range(3):
            assert training.go() < 1e-5
            assert 0.15 <= training.reports[-1].time < 0.3 + 3.0
            assert 2 not in training.scheme.selected
            assert not training.reports[-1].exact


@pytest.mark.parametrize("name", [*SCHEMES, "lagc wait_F"])
def test_a_resumed_training_goes_on_with_the_same_numbers(name: str) -> None:
    """Also where a worker, started again, has to compute again what it had remembered."""
    build = SCHEMES.get(name, lambda: schemes.lagc(WORKERS, 2, "wait_F", xi=0.05))
    # Which rows are waited for in the mode wait_F depends on who is quicker.
    for kind in ("simulated",) if name == "lagc wait_F" else ("simulated", "local"):
        with Training(kind, build) as training:
            for _ in range(5):
                step = next(training.steps)
                step.backward()
                training.optimizer.step()
            state = training.session.state_dict()
            weights = {key: value.clone() for key, value in training.model.state_dict().items()}
            expected = []
            for _ in range(4):
                next(training.steps).backward()
                expected.append(decoded(training.model))
                training.optimizer.step()
        with Training(kind, build) as resumed:
            resumed.session.load_state_dict(state)
            resumed.model.load_state_dict(weights)
            for wanted in expected:
                next(resumed.steps).backward()
                assert float((decoded(resumed.model) - wanted).norm() / wanted.norm()) < 1e-5
                resumed.optimizer.step()


def test_numbers_that_are_not_finite_are_not_skipped(kind: str) -> None:
    """A NaN is no small change: it is refused, as with every scheme."""
    with Training(kind, SCHEMES["lag worker"]) as training:
        training.go()
        with torch.no_grad():
            next(iter(training.model.parameters())).fill_(float("nan"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(gradcode.errors.NonFiniteLoss):
                training.go()


def test_laws_of_delays_and_redundancy(kind: str) -> None:
    """Groups are as quick as their quickest worker: emulated times are those predicted, skips and all."""
    options = {"delay_mode": "emulate"} if kind != "simulated" else {}
    law = delays.Pareto(shape=2.0, scale=0.03)
    with Training(kind, SCHEMES["glag worker"], delays=law, **options) as training:
        for _ in range(6):
            training.go()
    for report in training.reports:
        if kind == "simulated":
            assert report.time == report.order_statistic
        else:
            assert report.time >= report.order_statistic
