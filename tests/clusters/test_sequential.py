"""Sequential gradient coding on every cluster: gradients of earlier parameters and samples, whoever computed them."""

from __future__ import annotations

import copy
import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, decoded, images, plain_gradients, relative_error, straggling
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.training.sampling import Sampling

# (scheme, who straggles), with a delay of one iteration. By repetition either 2 or both 0 and 1 have everything:
# without 2 and one of the others a job is left for the next iteration.
CASES: dict[str, tuple[Callable[[], Any], list[tuple[int, ...]]]] = {
    "repetition": (
        lambda: schemes.sequential(3, burst=1, window=2, stragglers=2, partitions=6),
        [(0, 2), (), (1,), (1, 2), (), (0, 2), (1,), ()],
    ),
    "multiplexed": (
        lambda: schemes.sequential(3, burst=1, window=2, stragglers=2, partitions=5, kind="multiplexed"),
        [(0,), (), (1, 2), (), (), (2,), ()],
    ),
    "multiplexed, packed": (
        lambda: schemes.sequential(3, burst=1, window=2, stragglers=1, kind="multiplexed"),
        [(0,), (), (1,), (), ()],
    ),
}


def network(dtype: torch.dtype) -> nn.Module:
    """Small, with dropout; an odd number of parameters, so that packing must pad."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 4), nn.Dropout(0.3), nn.Tanh(), nn.Linear(4, 5))
    assert sum(parameter.numel() for parameter in model.parameters()) % 2 == 1
    return model.to(dtype)


def train(
    kind: str,
    scheme: Any,
    delays: DelayTable,
    iterations: int,
    dtype: torch.dtype = torch.float32,
    after: Callable[[int, Any], object] = lambda number, cluster: None,
    **options: Any,
) -> Any:
    """(reports, relative errors of the gradients that are due, how often rows were repeated)."""
    model, dataset = network(dtype), images(dtype=dtype)
    sampling = Sampling(len(dataset), scheme.partitions, 48, 3)
    reports: list[gradcode.Report] = []
    before: list[nn.Module] = []
    errors, repeated = [], 0
    cluster = CLUSTERS[kind](scheme.workers, delays=delays, **options)
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        48,
        scheme,
        cluster,
        3,
        listeners=[reports.append],
    ) as session:
        for number in range(iterations):
            before.append(copy.deepcopy(model))
            gradcode.Step(session, number).backward()
            repeated += len(getattr(scheme, "repeating", ()))
            found = decoded(model)
            if number:
                wanted = plain_gradients(before[number - 1], dataset, sampling, number - 1)
                errors.append(relative_error(found, wanted))
                assert errors[-1] <= reports[-1].decode_error
            else:
                assert not found.any()
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter -= 0.5 * parameter.grad
            after(number, cluster)
    return reports, errors, repeated


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_iteration_before(kind: str, name: str, dtype: torch.dtype) -> None:
    """Across an epoch's end, too: 160 samples in iterations of 48.

    On real clusters others may be slow beside those meant to be, and what is due is waited for; so nobody is for ever.
    """
    build, patterns = CASES[name]
    table = straggling(patterns, 3)
    if kind != "simulated":
        seconds = np.array([[0.1 * (worker in slow) for worker in range(3)] for slow in patterns])
        table = DelayTable.from_array(seconds)
    reports, errors, repeated = train(kind, build(), table, len(patterns), dtype)
    assert max(errors) < (1e-5 if dtype == torch.float32 else 1e-13)
    assert all(report.exact for report in reports)
    if kind == "simulated":
        assert repeated == 3 * (name == "repetition") and np.isfinite([report.loss for report in reports]).all()
        assert all(set(report.stragglers) >= set(own) for report, own in zip(reports, patterns, strict=True))


def test_a_job_that_is_due_waits_for_a_worker_that_is_started_again() -> None:
    """0 and 2 miss job 0; 0 is to repeat it, dies at that after 0.5 s, is back 1 s later, and takes 3 s."""
    table = DelayTable.from_array([[np.inf, 1.0, np.inf, 1.0], [1.0] * 4, [1.0] * 4])
    scheme = schemes.sequential(4, burst=1, window=2, stragglers=2, partitions=6)  # 0 and 2 hold the same
    reports, errors, repeated = train("simulated", scheme, table, 3, losses=[(1, 0, 0.5)], restart=1.0)
    assert max(errors) < 1e-5 and repeated == 1
    assert reports[0].time == 6.0 and reports[1].lost == (0,) and reports[1].time == 4.5


def test_a_chunk_that_is_due_waits_for_a_worker_that_is_started_again() -> None:
    """0 misses its chunk of job 0, tries it again, dies at that after 0.5 s, and is back 1 s later.

    A task is one partition here and takes 1 s: the others are done at 2 s with two of them, and 0 at 2.5 s with the one
    that is due. It has no time left for its chunk of job 1, which is then tried in the last iteration.
    """
    table = DelayTable.from_array([[np.inf, 1.0, 1.0, 1.0], [1.0] * 4, [1.0] * 4])
    scheme = schemes.sequential(4, burst=1, window=2, stragglers=1, kind="multiplexed", patience=0.0)
    reports, errors, _ = train("simulated", scheme, table, 3, losses=[(1, 0, 0.5)], restart=1.0)
    assert max(errors) < 1e-5
    assert [report.time for report in reports] == [1.0, 2.5, 2.0] and reports[1].lost == (0,)


def test_a_worker_of_whom_something_is_due_and_who_is_gone_is_a_shortfall() -> None:
    table = DelayTable.from_array([[1.0] * 3, [np.inf, 1.0, 1.0], [np.inf, 1.0, 1.0]])
    with pytest.raises(Shortfall, match="iteration 2 never ends"):
        train("simulated", CASES["multiplexed"][0](), table, 3)


@pytest.mark.parametrize("name", ["repetition", "multiplexed"])
def test_a_killed_worker_costs_no_gradient(name: str) -> None:
    """0 is killed after every second iteration, and finds what it needs of earlier ones when it is back."""

    def kill(number: int, cluster: Any) -> None:
        if number % 2:
            os.kill(cluster.pids[0], signal.SIGKILL)

    table = DelayTable.from_array(np.full((6, 3), 0.02))
    reports, errors, _ = train("local", CASES[name][0](), table, 6, after=kill)
    assert max(errors) < 1e-5 and any(0 in report.lost for report in reports)
