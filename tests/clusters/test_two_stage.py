"""Two-stage coding on every cluster: exact gradients whoever is late, and workers killed in both stages."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.schemes import TwoStage
from gradcode.training.sampling import Sampling

WORKERS, PARTITIONS, BATCH, SEED = 6, 8, 48, 3
SLOW = [(), (1,), (0, 2), (0, 1, 2, 3), (2, 4)]
"""Who is slow in each iteration; 0 to 3 begin, 4 and 5 stand by."""


class Killing:
    """Wraps a scheme: at the first reply of an iteration one worker is killed, another one within stage 2."""

    def __init__(self, scheme: TwoStage) -> None:
        self._scheme, self.pids = scheme, {}
        self.in_stage: dict[int, int] = {}  # stage -> worker
        self.timers: list[threading.Timer] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def receive(self, reply: Any) -> Any:
        if 1 in self.in_stage:
            os.kill(self.pids[self.in_stage.pop(1)], signal.SIGKILL)
        return self._scheme.receive(reply)

    def expire(self) -> Any:
        if 2 in self.in_stage:
            self.timers.append(threading.Timer(0.1, os.kill, (self.pids[self.in_stage.pop(2)], signal.SIGKILL)))
            self.timers[-1].start()
        return self._scheme.expire()


def train(
    kind: str, scheme: TwoStage, seconds: np.ndarray, kill: int | None = None, partitions: int = PARTITIONS
) -> list[tuple[Any, tuple, float]]:
    """(report, late workers, error) of each iteration; in iteration ``kill`` worker 0 is killed, and then 4."""
    model, reference, dataset = cnn(torch.float64), cnn(torch.float64), images(dtype=torch.float64)
    sampling = Sampling(len(dataset), partitions, BATCH, SEED)
    reports: list[gradcode.Report] = []
    watched, cluster = Killing(scheme), CLUSTERS[kind](WORKERS, delays=DelayTable.from_array(seconds))
    found = []
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), dataset, BATCH, watched, cluster, SEED, listeners=[reports.append]
    ) as session:
        watched.pids = getattr(cluster, "pids", {})
        for number in range(len(seconds)):
            watched.in_stage = {1: 0, 2: 4} if number == kill else {}
            gradcode.Step(session, number).backward()
            wanted = plain_gradients(reference, dataset, sampling, number)
            found.append((reports[-1], scheme.late, relative_error(decoded(model), wanted)))
            assert found[-1][2] <= reports[-1].decode_error < 1e-9 and reports[-1].exact
        for timer in watched.timers:
            timer.join()
    return found


def test_gradients_are_exact_whoever_is_late(kind: str) -> None:
    """2 partitions take 0.1 s, or 0.8 s where a worker is slow; stage 1 has 0.4 s, and stage 2 its own times."""
    scheme = schemes.two_stage(WORKERS, 2, PARTITIONS, rule="fixed", wait=0.4, weight=None)
    seconds = np.full((len(SLOW), WORKERS, 2), 0.05)
    for row, slow in zip(seconds, SLOW, strict=True):
        row[list(slow)] = 0.4
    found = train(kind, scheme, seconds)
    expected = [tuple(worker for worker in slow if worker < 4) for slow in SLOW]
    assert all(set(late) >= set(slow) for (_, late, _), slow in zip(found, expected, strict=True))
    if kind == "simulated":
        assert [late for _, late, _ in found] == expected
        assert all(report.time == report.order_statistic for report, *_ in found)
        # 0.4 s, and then 2 partitions on each of the pool; 8 are 0.4 s on each, and then all late ones are there.
        assert [report.time for report, *_ in found] == pytest.approx([0.1, 0.5, 0.6, 0.8, 0.5])


@pytest.mark.parametrize("pool", ["fresh", "all"])
def test_gradients_are_exact_whoever_has_reported_some(kind: str, pool: Any) -> None:
    """3 partitions take 0.15 s, or 0.75 s where a worker is slow, which has reported one when stage 1 ends."""
    options: dict[str, Any] = {"rule": "fixed", "wait": 0.4, "weight": None, "granularity": "partition", "notice": 1.0}
    scheme = schemes.two_stage(WORKERS, 2, 12, active=4, pool=pool, **options)
    seconds = np.full((len(SLOW), WORKERS, 2), 0.05)
    for row, slow in zip(seconds, SLOW, strict=True):
        row[list(slow)] = 0.25
    found = train(kind, scheme, seconds, partitions=12)
    for (report, late, _), slow in zip(found, SLOW, strict=True):
        late_ones = {worker for worker in slow if worker < 4}
        assert set(late) >= late_ones
        if kind == "simulated":
            assert report.time == report.order_statistic
            # Nobody computes a partition again but those that nobody has begun, of each late worker one.
            assert set(late) == late_ones and report.computations <= 12 + 2 * len(late)
            assert report.uploads <= 4 + len(late) + 2 * len(late)


def test_gradients_are_exact_with_every_part_on_two_workers(kind: str) -> None:
    """4 partitions take 0.12 s, or 1.2 s where a worker is slow; 0 and 1 have the same ones, and 2 and 3."""
    scheme = schemes.two_stage(WORKERS, 2, PARTITIONS, rule="fixed", wait=0.4, weight=None, replication=2)
    seconds = np.full((len(SLOW), WORKERS, 2), 0.03)
    for row, slow in zip(seconds, SLOW, strict=True):
        row[list(slow)] = 0.3
    found = train(kind, scheme, seconds)
    assert set(found[3][1]) == {0, 1, 2, 3}  # nobody else has begun
    if kind == "simulated":
        assert [late for _, late, _ in found] == [(), (), (), (0, 1, 2, 3), ()]
        assert all(report.time == report.order_statistic for report, *_ in found)


@pytest.mark.serial
@pytest.mark.parametrize("granularity", ["worker", "partition"])
@pytest.mark.parametrize("where", ["local", "ray"])
def test_killed_in_stage_one_and_in_stage_two(where: str, granularity: Any, request: pytest.FixtureRequest) -> None:
    """Worker 0 is late when it is killed; 4, which has half of stage 2, is killed 0.1 s after that has begun."""
    if where == "ray":
        request.getfixturevalue("kept_actors")
    scheme = schemes.two_stage(WORKERS, 2, PARTITIONS, rule="fixed", wait=0.6, weight=None, granularity=granularity)
    seconds = np.full((4, WORKERS, 2), 0.02)
    seconds[1, 0], seconds[1, 4:, 1] = 2.0, 0.3
    found = train(where, scheme, seconds, kill=1)
    assert 0 in found[1][1]
    lost = {worker for report, *_ in found for worker in report.lost}
    assert lost == {0, 4} and {0} <= set(found[1][0].lost)
    assert max(error for *_, error in found) < 1e-12
