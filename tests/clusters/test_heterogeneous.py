"""Loads by observed speed on every cluster: a slow worker gets less, a killed one costs no gradient."""

from __future__ import annotations

import os
import signal

import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.training.sampling import Sampling

WORKERS, PARTITIONS, BATCH, SEED = 4, 8, 48, 3


def test_a_slow_worker_gets_less_and_gradients_stay_exact(kind: str, request: pytest.FixtureRequest) -> None:
    """Worker 0 takes 12 times as long as the others, by sleeping; on real clusters worker 3 is killed on the way."""
    if kind == "ray":
        request.getfixturevalue("kept_actors")
    model, dataset = cnn(torch.float64), images(dtype=torch.float64)
    sampling = Sampling(len(dataset), PARTITIONS, BATCH, SEED)
    scheme = schemes.heterogeneous(WORKERS, 1, PARTITIONS, weight=0.5)
    seconds = DelayTable.from_array([[0.6, 0.05, 0.05, 0.05]])
    cluster = CLUSTERS[kind](WORKERS, delays=seconds)
    loads = []
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), dataset, BATCH, scheme, cluster, SEED, listeners=[reports.append]
    ) as session:
        for number in range(6):
            if number == 4 and kind != "simulated":
                os.kill(cluster.pids[3], signal.SIGKILL)  # type: ignore[attr-defined]
            gradcode.Step(session, number).backward()
            wanted = plain_gradients(cnn(torch.float64), dataset, sampling, number)
            assert relative_error(decoded(model), wanted) <= reports[-1].decode_error < 1e-5
            loads.append(scheme.loads.tolist())
    assert loads[0] == [4] * WORKERS
    assert loads[3][0] < min(loads[3][1:])
