"""A master that takes its time for each reply: one after the other, in the order in which they come."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import codes, schemes
from gradcode.clusters.reception import Reception
from gradcode.delays import DelayTable
from gradcode.protocol import Scheme
from gradcode.training import LeastSquares
from gradcode.training.sampling import Sampling

N = 6


def iterate(
    scheme: Scheme, compute: Any, receive: float, iterations: int = 1, communicate: Any = None, **options: Any
) -> list[gradcode.Report]:
    """Simulated iterations on a small quadratic, each of which gives the exact gradient if the scheme says so."""
    rng = np.random.default_rng(0)
    objective = LeastSquares(rng.standard_normal((24, 2)), rng.standard_normal(24), scheme.partitions)
    topology = options.pop("topology", None)
    above = () if topology is None else gradcode.SimulatedCluster(topology=topology).topology.above
    table = DelayTable.from_array(np.atleast_2d(compute), communicate, above=above, receive=receive)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(table.workers, table, topology=topology, **options)
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        for number in range(iterations):
            session._backward(number)
            if scheme.exact:
                wanted = objective.gradient(objective.model.theta.data)
                assert float((objective.model.theta.grad - wanted).norm()) < 1e-9 * float(wanted.norm())
    return reports


def received(came: np.ndarray, seconds: float) -> np.ndarray:
    """When a serial server has received what came at these times, ascending."""
    ends, free = [], 0.0
    for time in came:
        free = max(free, time) + seconds
        ends.append(free)
    return np.array(ends)


def test_what_comes_while_a_reply_is_received_waits() -> None:
    (report,) = iterate(schemes.uncoded(3), [5.0, 1.0, 1.2], 0.5)
    assert report.arrivals.tolist() == [5.5, 1.5, 2.0] and report.time == 5.5
    assert report.order_statistic == 5.0  # which leaves receiving out
    (report,) = iterate(schemes.uncoded(3), [1.0, 1.0, 1.0], 0.5)
    assert report.arrivals.tolist() == [1.5, 2.0, 2.5]  # at equal times by worker
    (report,) = iterate(schemes.fastest(3, 1), [1.0, 1.0, 1.0], 0.5)
    assert report.time == 1.5  # nobody waits for the others to be received


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.25, 2.0, 3.0, 7.0]), min_size=N, max_size=N),
    st.sampled_from([0.0, 0.25, 1.0, 10.0]),
    st.sampled_from([0, 1, 2]),
)
def test_an_iteration_ends_when_the_queue_has_let_enough_through(
    compute: list[float], seconds: float, stragglers: int
) -> None:
    scheme = schemes.coded(codes.cyclic_mds(N, stragglers, dtype="float64"))
    communicate = np.array([[0.0, 0.5, 0.0, 0.25, 0.0, 0.0]])
    (report,) = iterate(scheme, compute, seconds, communicate=communicate)
    came = np.sort((1 + stragglers) * np.array(compute) + communicate[0])
    enough = N - stragglers
    assert report.time == received(came, seconds)[enough - 1]
    assert report.order_statistic == came[enough - 1] <= report.time <= came[enough - 1] + enough * seconds


def test_the_next_iteration_begins_with_nothing_to_receive() -> None:
    reports = iterate(schemes.fastest(4, 1), [[1.0] * 4, [2.0] * 4], 0.5, iterations=2)
    assert [report.time for report in reports] == [1.5, 2.5]


@pytest.mark.parametrize(("deadline", "heard"), [(1.2, {0}), (1.3, {0, 1}), (1.0, {0})])
def test_a_deadline_does_not_wait_for_the_queue(deadline: float, heard: set[int]) -> None:
    """Replies come at 1 and are received at 1.15, 1.3, ...; one received at the deadline counts."""
    scheme = schemes.coded(codes.uncoded(4), deadline)
    (report,) = iterate(scheme, [1.0] * 4, 0.15)
    assert set(np.flatnonzero(np.isfinite(report.arrivals)).tolist()) == heard and not report.exact
    assert report.time == pytest.approx(max(deadline, 1.15), abs=1e-12)


def test_a_loss_is_heard_of_after_the_replies_that_came_before_it() -> None:
    """Worker 1 dies after its reply has come, which counts; worker 2 before, and begins anew when that is known."""
    losses = [(0, 1, 1.02), (0, 2, 1.05)]
    (report,) = iterate(schemes.uncoded(3), [1.0, 1.0, 1.1], 1.0, losses=losses)
    assert report.lost == (1, 2) and report.exact
    assert report.arrivals.tolist() == [2.0, 3.0, pytest.approx(3.0 + 1.1 + 1.0)]
    assert [work.worker for work in report.work if work.kind == "compute"] == [0, 1, 2]


def test_only_the_master_of_all_takes_time() -> None:
    """Two edge nodes that add up send two messages, which are received; four if they only pass on."""
    inner = schemes.hierarchical(codes.hierarchical([2, 2], 0, 0))
    (report,) = iterate(inner, [1.0] * 4, 0.5, topology=[2, 2])
    assert report.arrivals.tolist() == [1.5, 2.0]
    (report,) = iterate(schemes.uncoded(4), [1.0] * 4, 0.5, topology=[2, 2])
    assert report.time == 3.0


def test_a_reply_once_begun_is_received_though_nobody_waits_for_it() -> None:
    reception = Reception(2.0)
    assert reception.end(7, 1.0) == 3.0 == reception.end(7, 1.0)
    assert reception.end(5, 1.5) == 5.0
    assert reception.end(4, 9.0) == 11.0


def test_every_cluster_receives_one_after_the_other(kind: str) -> None:
    """Real ones can only be slower than what is injected."""
    workers, seconds, model, dataset = 4, 0.05, cnn(), images()
    table = DelayTable.from_array(np.full((1, workers), 0.02), receive=seconds)
    reports: list[gradcode.Report] = []
    cluster = CLUSTERS[kind](workers, delays=table)
    scheme = schemes.coded(codes.fractional_repetition(workers, 1))
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), dataset, 48, scheme, cluster, 3, listeners=[reports.append]
    ) as session:
        for step in islice(session.epoch(), 2):
            step.backward()
            wanted = plain_gradients(cnn(), dataset, Sampling(len(dataset), workers, 48, 3), step.number)
            assert relative_error(decoded(model), wanted) < 1e-6
    assert len(reports) == 2
    for report in reports:
        times = np.sort(report.arrivals[np.isfinite(report.arrivals)])
        assert len(times) >= 2 and times[0] >= 0.04 + seconds - 1e-9
        assert (np.diff(times) >= seconds - 1e-9).all() and report.time >= times[-1] - 1e-9
    if kind == "simulated":
        assert reports[0].time == pytest.approx(0.04 + 2 * seconds)


def test_a_deadline_interrupts_receiving_on_real_clusters() -> None:
    """No more replies can be received by then than there is time for; the first one ends a late iteration."""
    reports: list[gradcode.Report] = []
    table = DelayTable.from_array(np.zeros((1, N)), receive=0.08)
    scheme = schemes.coded(codes.uncoded(N), deadline=0.2)
    with gradcode.Session(
        cnn(), nn.CrossEntropyLoss(), images(), 48, scheme, gradcode.LocalCluster(N, table), listeners=[reports.append]
    ) as session:
        for step in session.epoch():
            step.backward()
    for report in reports:
        assert report.time >= 0.2 and not report.exact
        assert 1 <= np.isfinite(report.arrivals).sum() <= 2
