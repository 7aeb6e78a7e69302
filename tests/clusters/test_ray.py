"""What is Ray's own: late workers and their backlog, objects that are lost or left, an own or a running Ray."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
import ray
import torch
from torch import nn

import gradcode
from clusters.test_rules import WORKERS, Trial
from clusters.zoo import images, relative_error
from gradcode import schemes
from gradcode.clusters.ray_connection import connection
from gradcode.clusters.ray_hand import UNFINISHED
from gradcode.delays import DelayTable

pytestmark = pytest.mark.usefixtures("kept_actors")


def wide() -> nn.Module:
    """Parameters and gradients too long to travel inside of a call: they lie in the object store."""
    torch.manual_seed(3)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 5))


def used_store() -> float:
    total, free = ray.cluster_resources(), ray.available_resources()
    return float(total["object_store_memory"] - free["object_store_memory"])


class Sleepy(nn.Module):
    """A loss whose every evaluation takes so long, in every worker: real computing, which nothing interrupts."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, found: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        time.sleep(self.seconds)
        return nn.functional.cross_entropy(found, wanted)


@pytest.mark.serial
def test_a_late_worker_has_one_partition_to_end_and_no_queue() -> None:
    """Worker 3 needs 60 ms for each of its two partitions, the others 2 ms: what it is behind with never grows."""
    seconds = DelayTable.from_array([[0.002, 0.002, 0.002, 0.06]])
    scheme = schemes.coded(gradcode.codes.fractional_repetition(WORKERS, 1))
    with Trial("ray", scheme, delays=seconds, delay_mode="emulate") as trial:
        given: list[int] = []
        for _ in range(25):
            found, wanted = trial.go()
            assert relative_error(found, wanted) < 1e-6
            given.append(trial.cluster.unfinished[3])
            trial.move()
        assert max(given) <= UNFINISHED
        late = [work for report in trial.reports for work in report.work if work.worker == 3]
        # An injected sleep ends with the notice, so nothing that it does for an iteration that is over lasts.
        assert late and all(work.stop - work.start < 0.06 + 0.2 for work in late)
        computed = sum(report.computations for report in trial.reports)
        assert computed <= 25 * 8


@pytest.mark.serial
def test_a_real_computation_is_ended_after_its_partition() -> None:
    """Nothing interrupts it, and nothing of the iteration is begun after it."""
    reports: list[gradcode.Report] = []
    table = DelayTable.from_array([[0.0, 0.3]])  # the second answers too late to be waited for
    model = wide()
    with gradcode.Session(
        model,
        Sleepy(0.05),
        images(),
        32,
        schemes.fastest(2, k=1),
        gradcode.RayCluster(2, delays=table),
        check_loss=False,
        listeners=[reports.append],
    ) as session:
        for step in session.epoch():
            step.backward()
        session.cluster.alive()
    assert len(reports) == 5
    assert all(report.stragglers == (1,) for report in reports)
    assert max(report.time for report in reports) < 0.3


@pytest.mark.serial
def test_the_object_store_stays_flat() -> None:
    """Old parameters and replies are released: what is used after 150 iterations is what was used after 10."""
    scheme = schemes.fastest(WORKERS, k=WORKERS - 1)
    model = wide()
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), images(), 32, scheme, gradcode.RayCluster(WORKERS), check_loss=False
    ) as session:
        size = 4 * sum(p.numel() for p in model.parameters())
        steps = (step for _ in iter(int, 1) for step in session.epoch())
        seen = []
        for number in range(150):
            next(steps).backward()
            if number % 10 == 9:
                seen.append(settled_store())
        # At most: the parameters that each worker last read, and one reply of each, still in the store.
        assert max(seen) - min(seen) <= 2 * (WORKERS + 1) * size
        assert np.median(seen[-5:]) - np.median(seen[:5]) <= (WORKERS + 1) * size


def settled_store() -> float:
    """What is in use, once Ray has reported it (it does so every tenth of a second)."""
    time.sleep(0.25)
    return used_store()


@ray.remote(num_cpus=0)
class Owner:
    """Makes an object that is lost with it."""

    def make(self) -> list[Any]:
        return [ray.put((np.zeros(10**6, dtype=np.float32), np.zeros(0)))]


def wait_until_lost(ref: Any) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            ray.get(ref)
        except ray.exceptions.ObjectLostError:
            return
        time.sleep(0.1)
    pytest.fail("the object outlives its owner")


def test_parameters_that_are_lost_are_sent_again() -> None:
    """In place of the parameters the workers are given an object whose owner is dead; the iteration still ends."""
    with Trial("ray", schemes.uncoded(WORKERS)) as trial:
        trial.go()
        owner = Owner.remote()
        (lost,) = ray.get(owner.make.remote())
        ray.kill(owner)
        wait_until_lost(lost)
        cluster, want = trial.cluster, trial.cluster._want
        spoiled = []

        def spoil(orders: Any) -> None:
            if not spoiled:
                spoiled.append(lost)
                cluster._shared = lost
            want(orders)

        cluster._want = spoil
        found, wanted = trial.go()
        assert spoiled
        assert relative_error(found, wanted) < 1e-6
        assert trial.reports[-1].lost == tuple(range(WORKERS))
        assert cluster.alive() == tuple(range(WORKERS)) and not cluster.away()


def test_a_ray_that_is_there_is_used_and_left() -> None:
    before = ray.nodes()
    with Trial("ray", schemes.uncoded(WORKERS)) as trial:
        trial.go()
    assert ray.is_initialized()
    assert ray.nodes() == before
    with connection("auto"):  # as well, for the program is connected
        pass
    assert ray.is_initialized()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"placement": "random"}, "placement='random' must be one of spread, pack"),
        ({"max_restarts": -1}, "max_restarts=-1 must not be negative; None restarts without end"),
        ({"start_timeout": 0.0}, "start_timeout=0.0 must be a positive number of seconds"),
        ({"resources": {"num_gpus": -1}}, "resources: num_gpus=-1 must be a number from 0"),
        ({"delay_mode": "none"}, 'delay_mode=\'none\' must be "extra" or "emulate"'),
        ({"patience": 0.0}, "patience=0.0 must be a positive number of seconds, or None"),
    ],
)
def test_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradcode.RayCluster(2, **options)
