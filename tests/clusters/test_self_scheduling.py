"""Self-scheduling on every cluster: exact gradients, each micro-partition once, and workers lost on the way."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from clusters.test_partial import BATCH, SEED, WORKERS, Trial, paces
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.training.sampling import Sampling


@pytest.mark.parametrize("ahead", [0, 1])
def test_gradients_are_exact_whoever_straggles(kind: str, ahead: int) -> None:
    scheme = schemes.self_scheduling(WORKERS, 2, 3, ahead=ahead)
    with Trial(kind, scheme, torch.float64, delays=paces(4)) as trial:  # type: ignore[arg-type]
        trial.sampling = Sampling(len(trial.dataset), scheme.partitions, BATCH, SEED)
        for _ in range(4):
            assert trial.go() <= scheme.error < 1e-14
            report = trial.reports[-1]
            assert report.exact
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
    scheme = schemes.self_scheduling(WORKERS, 2, 2, ahead=0)
    with Trial(kind, scheme, torch.float64, delays=late) as trial:  # type: ignore[arg-type]
        trial.sampling = Sampling(len(trial.dataset), scheme.partitions, BATCH, SEED)
        assert trial.go() <= scheme.error < 1e-14
        assert trial.reports[-1].exact and 0 in trial.reports[-1].stragglers
        assert trial.go() <= scheme.error < 1e-14
        assert trial.reports[-1].exact


@pytest.mark.parametrize("when", ["notice", "asked"])
@pytest.mark.parametrize("name", ["local", "ray"])
def test_a_killed_worker_costs_its_share_again(name: str, when: str) -> None:
    """Worker 0 dies after a grant, before its sum: others compute that again, and the gradient is exact."""
    scheme = schemes.self_scheduling(WORKERS, 2, 2)
    seconds = DelayTable.from_array(np.full((1, WORKERS), 0.02))
    with Trial(name, scheme, torch.float64, delays=seconds) as trial:  # type: ignore[arg-type]
        trial.sampling = Sampling(len(trial.dataset), scheme.partitions, BATCH, SEED)
        trial.go()
        if when == "notice":
            trial.scheme.kill_at_notice = 0
        else:
            trial.scheme.kill_when_asked = 0
        for _ in range(2):
            assert trial.go() <= scheme.error < 1e-14
            assert trial.reports[-1].exact
        assert len(trial.scheme.killed) == 1
