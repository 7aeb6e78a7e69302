"""DRACO on every cluster: gradients of plain training, whatever some workers send, and who they are."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gradcode
from clusters.corrupt import Corrupt, Intercepted, LiesOfBuffers
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.errors import Contradiction
from gradcode.training.sampling import Sampling

ITERATIONS = 3


class Trial:
    """A few iterations with corrupt workers."""

    def __init__(
        self,
        kind: str,
        scheme: Any,
        lies: Mapping[int, str],
        iterations: int = ITERATIONS,
        dtype: torch.dtype = torch.float64,
        **options: Any,
    ) -> None:
        objective = Corrupt(scheme.partitions, {} if kind == "simulated" else lies, dtype)
        watched = Intercepted(scheme, lies) if kind == "simulated" else scheme
        self.reports: list[gradcode.Report] = []
        self.errors: list[float] = []
        self.losses: list[float] = []
        cluster = CLUSTERS[kind](scheme.workers, **options)
        with gradcode.Session.of(objective, watched, cluster, listeners=[self.reports.append]) as session:
            theta = objective.model.theta
            for number in range(iterations):
                self.losses.append(objective.loss(theta.data))
                gradcode.Step(session, number).backward()
                assert theta.grad is not None
                self.errors.append(relative_error(theta.grad, list(objective.gradients(theta.data))))
                theta.data -= 0.1 * theta.grad


# Several sizes, real and packed, where workers cost little to start; on Ray few.
FEW: list[tuple[str, tuple[int, int], dict[int, str]]] = [
    ("repetition", (3, 1), {1: "negated"}),
    ("cyclic", (3, 1), {2: "scaled"}),
]
MANY: list[tuple[str, tuple[int, int], dict[int, str]]] = [
    ("repetition", (6, 1), {4: "negated"}),
    ("repetition", (6, 1), {0: "constant", 1: "scaled"}),  # one in each group, which is more than is promised
    ("cyclic", (7, 2), {2: "scaled", 5: "negated"}),
    ("cyclic", (6, 1), {3: "constant"}),
]
SIZES = [(kind, *own) for kind in ("simulated", "local") for own in MANY] + [("ray", *own) for own in FEW]


@pytest.mark.parametrize(("kind", "name", "arguments", "lies"), SIZES, indirect=["kind"])
def test_corrupt_workers_are_named_and_not_believed(
    kind: str, name: Any, arguments: tuple[int, int], lies: dict[int, str]
) -> None:
    scheme = schemes.draco(*arguments, kind=name, dtype="float64", audit=True)
    trial = Trial(kind, scheme, lies)
    assert max(trial.errors) < 1e-12
    for report, loss in zip(trial.reports, trial.losses, strict=True):
        assert report.corrupt == tuple(sorted(lies)) and not report.refused and report.exact
        assert report.loss == pytest.approx(loss, rel=1e-12)


@pytest.mark.parametrize("name", ["repetition", "cyclic"])
def test_float32_and_early_ends(kind: str, name: Any) -> None:
    """Without an audit whoever is named is one who lies, and the gradient is right all the same."""
    lies, workers = {1: "scaled"}, 3 if kind == "ray" else 6
    trial = Trial(kind, schemes.draco(workers, 1, name), lies, dtype=torch.float32)
    assert max(trial.errors) < 1e-5
    assert all(set(report.corrupt) <= set(lies) and report.exact for report in trial.reports)


@pytest.mark.parametrize("name", ["repetition", "cyclic"])
def test_a_lie_about_the_loss_is_not_heard(kind: str, name: Any) -> None:
    """What is said beside the gradient is compared, too."""
    trial = Trial(kind, schemes.draco(3, 1, name, dtype="float64", audit=True), {0: "loss"})
    assert [report.corrupt for report in trial.reports] == [(0,)] * ITERATIONS
    if kind != "simulated":  # there it is altered after the cluster has booked it
        assert [report.loss for report in trial.reports] == pytest.approx(trial.losses, rel=1e-12)


@pytest.mark.filterwarnings("ignore:a reply of worker 1 was refused")
@pytest.mark.parametrize("kind", ["simulated", "local"])
@pytest.mark.parametrize(
    ("name", "arguments"), [("repetition", (10, 2, 0)), ("repetition", (8, 1, 1)), ("cyclic", (8, 2, 1))]
)
def test_liars_beside_stragglers(kind: str, name: Any, arguments: tuple[int, int, int]) -> None:
    """t workers never answer, s others lie; and who is not numbers counts as silent."""
    workers, adversaries, stragglers = arguments
    silent = list(range(workers - stragglers, workers))
    seconds = np.zeros((ITERATIONS, workers))
    seconds[:, silent] = np.inf
    lies = {0: "negated"} if adversaries == 1 else {0: "negated", 1: "not a number" if kind == "local" else "scaled"}
    scheme = schemes.draco(workers, adversaries, name, stragglers, dtype="float64")
    trial = Trial(kind, scheme, lies, iterations=2, delays=DelayTable.from_array(seconds))
    assert max(trial.errors) < 1e-11
    assert all(set(report.corrupt) <= set(lies) for report in trial.reports)
    assert all(set(report.refused) <= {1} for report in trial.reports)


@pytest.mark.parametrize("name", ["repetition", "cyclic"])
def test_a_lie_about_buffers_spoils_none(name: Any) -> None:
    """The running mean and variance of a BatchNorm are those of a training without liars, loss and gradient beside."""
    found = []
    for lies in ((), (1,)):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2)).double()
        generator = torch.Generator().manual_seed(1)
        dataset = TensorDataset(torch.randn(48, 4, generator=generator).double(), torch.arange(48) % 2)
        scheme = schemes.draco(4 if name == "cyclic" else 3, 1, name, dtype="float64", audit=True)
        sampling = Sampling(48, scheme.partitions, 24, 0)
        objective = LiesOfBuffers(model, nn.CrossEntropyLoss(), dataset, sampling, lies)
        reports: list[gradcode.Report] = []
        cluster = gradcode.LocalCluster(scheme.workers)
        with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
            for number in range(2):
                gradcode.Step(session, number).backward()
        assert [report.corrupt for report in reports] == [lies] * 2
        found.append([*(buffer.double() for buffer in model.buffers()), decoded(model)])
    assert all(torch.allclose(own, other, rtol=1e-12, atol=1e-12) for own, other in zip(*found, strict=True))
    assert float(found[0][0].abs().max()) > 1e-3  # the running mean has moved


def test_contradictions_are_an_error_of_the_training(kind: str) -> None:
    scheme = schemes.draco(3, 1, dtype="float64")
    with pytest.raises(Contradiction, match="workers \\[0, 1, 2\\] contradict"):
        Trial(kind, scheme, {0: "negated", 1: "scaled"})


def test_a_killed_worker_is_back_and_still_found_out() -> None:
    """In an audit it is not waited for in the iteration in which it dies; afterwards it is."""
    scheme = schemes.draco(3, 1, dtype="float64", audit=True)
    objective, watched = Corrupt(3, {2: "negated"}), Intercepted(scheme, {})
    reports: list[gradcode.Report] = []
    cluster = gradcode.LocalCluster(3, delays=DelayTable.from_array([[0.0] * 3, [0.0, 0.0, 60.0], [0.0] * 3]))
    with gradcode.Session.of(objective, watched, cluster, listeners=[reports.append]) as session:
        gradcode.Step(session, 0).backward()
        watched.on_first_reply = lambda: os.kill(cluster.pids[2], signal.SIGKILL)
        gradcode.Step(session, 1).backward()
        assert reports[0].corrupt == (2,) and reports[1].lost == (2,) and not reports[1].corrupt
        until = time.monotonic() + 60
        while reports[-1].corrupt != (2,) and time.monotonic() < until:
            time.sleep(0.02)
            gradcode.Step(session, 2).backward()
    assert reports[-1].corrupt == (2,) and all(report.exact for report in reports)


def test_replicas_of_a_network_send_the_same_bits(kind: str) -> None:
    """Dropout, convolutions and two partitions each: equal without any tolerance, so that nobody is named."""
    model, reference, dataset = cnn(), cnn(), images()
    workers = 3 if kind == "ray" else 6
    sampling = Sampling(len(dataset), 8, 48, 3)
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        48,
        schemes.draco(workers, 1, partitions=8, audit=True),
        CLUSTERS[kind](workers),
        3,
        listeners=[reports.append],
    ) as session:
        for number in range(ITERATIONS):
            gradcode.Step(session, number).backward()
            wanted = plain_gradients(reference, dataset, sampling, number)
            assert relative_error(decoded(model), wanted) <= reports[-1].decode_error < 1e-5
    assert not any(report.corrupt for report in reports)
