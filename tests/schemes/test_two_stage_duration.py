"""Two-stage coding: ``duration`` is the event-by-event simulation, draw by draw, and so is all else of ``course``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.schemes import TwoStage, fluid_bound
from gradcode.training import LeastSquares

N, K, ITERATIONS = 6, 9, 25
PARTITION: dict[str, Any] = {"rule": "fixed", "granularity": "partition", "notice": 1.0}
CASES: dict[str, dict[str, Any]] = {
    "any_s": {"rule": "fixed", "wait": 3.0},
    "budget": {"rule": "fixed", "wait": 3.0, "mode": "budget"},
    "all": {"rule": "fixed", "wait": 2.0, "pool": "all", "coefficients": "repetition"},
    "fixed": {"rule": "fixed", "wait": 2.0, "pool": "all", "mode": "fixed"},
    "completions": {"rule": "fixed", "wait": 4.0, "completions": 2, "active": 5},
    "nobody stands by": {"rule": "fixed", "wait": 2.0, "active": N},
    "nobody stands by, all": {"rule": "fixed", "wait": 2.0, "active": N, "pool": "all"},
    "learning": {"rule": "quantile", "weight": 0.3},
    "replication": {"rule": "fixed", "wait": 3.0, "replication": 2},
    "replication, all": {"rule": "fixed", "wait": 2.0, "replication": 2, "pool": "all", "active": N},
    "replication, completions": {"rule": "fixed", "wait": 6.0, "replication": 2, "completions": 1},
    "partition": PARTITION | {"wait": 2.0},
    "partition, all": PARTITION | {"wait": 3.0, "pool": "all", "active": 5},
    "partition, two begin": PARTITION | {"wait": 1.5, "active": 2, "mode": "budget"},
    "partition, completions": PARTITION | {"wait": 4.0, "completions": 2, "active": 5},
    "partition, nobody stands by": PARTITION | {"wait": 2.0, "active": N, "pool": "all", "mode": "fixed"},
    "partition, learning": PARTITION | {"rule": "quantile", "weight": 0.3},
}


def simulated(scheme: TwoStage, compute: np.ndarray, communicate: np.ndarray) -> tuple[np.ndarray, list[Any]]:
    """(iterations,) seconds that the simulated cluster takes, inf: it never ends; and the reports.

    Gradients that are called exact are; what the report predicts of its own iteration is what it measured.
    """
    rng = np.random.default_rng(0)
    objective = LeastSquares(rng.standard_normal((20, 5)), rng.standard_normal(20), scheme.partitions)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(scheme.workers, DelayTable.from_array(compute, communicate))
    session = gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append])
    times = []
    for number in range(len(compute)):
        try:
            session._backward(number)
            times.append(reports[-1].time)
            assert reports[-1].time == reports[-1].order_statistic
            if scheme.exact:
                wanted = objective.gradient(objective.model.theta.data)
                assert float((objective.model.theta.grad - wanted).norm()) < 1e-8 * float(wanted.norm())
        except Shortfall:
            times.append(np.inf)
    return np.array(times), reports


def draws(seed: int, infinite: float, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """(iterations, N, 2) seconds of computing a partition and (iterations, N) of a reply."""
    rng = np.random.default_rng(seed)
    compute, communicate = rng.exponential(1.0, (ITERATIONS, N, 2)), rng.exponential(0.5, (ITERATIONS, N))
    if ties:
        compute, communicate = np.ceil(2 * compute) / 2, np.floor(2 * communicate) / 2
    compute[rng.random((ITERATIONS, N)) < infinite] = np.inf  # in both stages
    return compute, communicate


@pytest.mark.parametrize("deadline", [None, 5.0])
@pytest.mark.parametrize("name", CASES)
def test_duration_is_the_simulation(name: str, deadline: float | None) -> None:
    scheme = schemes.two_stage(N, 2, K, deadline=deadline, **({"weight": None} | CASES[name]))
    for seed, (infinite, ties) in enumerate([(0.0, False), (0.3, False), (0.0, True), (0.3, True)]):
        compute, communicate = draws(seed, infinite, ties)
        if scheme.granularity == "partition":
            communicate *= 0.25  # which is what a notice takes, too
        times, _ = simulated(scheme, compute, communicate)
        if not scheme.learns:  # else each iteration begins in its own way, and its report knows which
            assert np.array_equal(scheme.duration(compute, communicate), times)
            found = scheme.course(compute, communicate)
            assert (found.time >= fluid_bound(compute.min(axis=2), K)).all() or deadline is not None
        assert infinite or (np.isfinite(times).all() and len(np.unique(times)) > (5 if ties else 8))


instants = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, float("inf")]), min_size=2 * N, max_size=2 * N)


@settings(max_examples=80)
@given(
    instants,
    st.sampled_from(sorted(set(CASES) - {"learning", "partition, learning"})),
    st.sampled_from([None, 2.0, 3.0, 4.0]),
)
def test_duration_with_ties_at_the_deadlines(seconds: list[float], name: str, deadline: float | None) -> None:
    scheme = schemes.two_stage(N, 2, K, deadline=deadline, weight=None, **CASES[name])
    compute, nothing = np.array(seconds).reshape(1, N, 2), np.zeros((1, N))
    assert np.array_equal(scheme.duration(compute, nothing), simulated(scheme, compute, nothing)[0])


@pytest.mark.parametrize(
    "name",
    [
        "any_s",
        "all",
        "completions",
        "replication",
        "replication, all",
        "partition",
        "partition, all",
        "partition, two begin",
    ],
)
def test_the_course_is_what_reports_say(name: str) -> None:
    """Messages, finished partition computations, busy seconds: as the simulated cluster counts them."""
    scheme = schemes.two_stage(N, 2, K, weight=None, **CASES[name])
    compute, communicate = draws(5, 0.0, False)
    communicate[:] = 0.0
    _, reports = simulated(scheme, compute, communicate)
    found = scheme.course(compute, communicate)
    for i, report in enumerate(reports):
        assert found.sent[i] == report.uploads >= found.used[i]
        # What was begun is what was finished, and at most one for each who was stopped.
        stopped = sum(work.kind == "abandon" for work in report.work)
        assert report.computations <= found.started[i] <= report.computations + stopped
        assert found.started[i] <= found.ordered[i]
        busy = sum(min(work.stop, report.time) - work.start for work in report.work)
        assert found.busy[i] == pytest.approx(busy)
