"""Dynamic clustering on every cluster: exact gradients whoever is in which cluster, and killed workers."""

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
from gradcode import codes, schemes
from gradcode.delays import DelayTable
from gradcode.schemes import Clustered
from gradcode.training.sampling import Sampling

WORKERS, BATCH, SEED = 6, 48, 3
SLOW = [(), (0, 2), (0, 2), (0, 2), (1, 2), (1, 2)]
"""Who straggles in each iteration. 0, 2 and 4 have the same home; once 0 and 2 are apart, 2 is with 1."""


def train(kind: str, scheme: Clustered, seconds: np.ndarray, kill: dict[int, int] | None = None, **options: Any) -> Any:
    """(reports, errors, clusters of the workers in each iteration); before iteration t ``kill[t]`` is killed."""
    model, reference, dataset = cnn(torch.float64), cnn(torch.float64), images(dtype=torch.float64)
    sampling = Sampling(len(dataset), scheme.partitions, BATCH, SEED)
    reports: list[gradcode.Report] = []
    errors, assigned = [], []
    cluster = CLUSTERS[kind](WORKERS, delays=DelayTable.from_array(seconds), **options)
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), dataset, BATCH, scheme, cluster, SEED, listeners=[reports.append]
    ) as session:
        for number in range(len(seconds)):
            if number in (kill or {}):
                os.kill(cluster.pids[kill[number]], signal.SIGKILL)  # type: ignore[index]
            gradcode.Step(session, number).backward()
            wanted = plain_gradients(reference, dataset, sampling, number)
            errors.append(relative_error(decoded(model), wanted))
            assigned.append(scheme.assignment.tolist())
            assert errors[-1] <= reports[-1].decode_error and reports[-1].exact
    return reports, errors, assigned


@pytest.mark.serial
@pytest.mark.parametrize("rule", ["flag", "flag+rank"])
def test_gradients_are_exact_whoever_is_where(kind: str, rule: Any) -> None:
    """Two of three messages are enough in each cluster: two slow workers of one are waited for once, and then apart.

    Workers take 0.3 s for their two partitions, slow ones 1.5 s, so that a busy machine makes no others slow.
    """
    scheme = schemes.clustered(codes.clustered(WORKERS, 2, 1, variant="random", dtype="float64"), 2, rule=rule)
    seconds = np.array([[0.75 if worker in own else 0.15 for worker in range(WORKERS)] for own in SLOW])
    reports, errors, assigned = train(kind, scheme, seconds)
    assert max(errors) < 1e-12
    assert assigned[0] == [0, 1, 0, 1, 0, 1] and assigned[2][0] != assigned[2][2]
    if kind == "simulated":
        # By rank 1 and 2 happen to be apart already.
        assert [report.time > 1 for report in reports] == [False, True, False, False, rule == "flag", False]


@pytest.mark.parametrize("where", ["local", "ray"])
def test_a_killed_worker_costs_no_gradient(where: str, request: pytest.FixtureRequest) -> None:
    """Two workers of one cluster are killed, one after the other; the third there is slow, so 0 is missed."""
    if where == "ray":
        request.getfixturevalue("kept_actors")
    scheme = schemes.clustered(codes.clustered(WORKERS, 2, 1, variant="random", dtype="float64"), 2)
    seconds = np.full((4, WORKERS), 0.02)
    seconds[:, 4] = 0.4
    reports, errors, _ = train(where, scheme, seconds, kill={1: 0, 2: 2})
    assert max(errors) < 1e-12
    assert {0} <= {worker for report in reports for worker in report.lost} <= {0, 2}
