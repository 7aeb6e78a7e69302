"""What a session tells: to listeners after each iteration, to schemes before it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import mse_loss
from torch.utils.data import TensorDataset

import gradcode
from gradcode import Session, SimulatedCluster, codes, delays, schemes
from gradcode.delays import DelayTable
from gradcode.schemes.rows import RowScheme
from gradcode.training import LeastSquares

N = 6


def test_reports() -> None:
    reports: list[gradcode.Report] = []
    model, data = nn.Linear(2, 1), TensorDataset(torch.randn(100, 2), torch.randn(100, 1))
    scheme = schemes.coded(codes.cyclic_repetition(N, 2))
    cluster = SimulatedCluster(N, delays=delays.Exponential(1.0))
    with Session(model, mse_loss, data, 24, scheme, cluster, listeners=[reports.append]) as session:
        for _ in range(2):
            for step in session.epoch():
                assert float(step.backward()) == pytest.approx(reports[-1].loss, rel=2.0**-24)  # in float32
        clock = session.cluster.clock()
    assert [r.iteration for r in reports] == list(range(10)) and [r.epoch for r in reports] == [0] * 5 + [1] * 5
    assert reports[0].start == 0.0 and clock == pytest.approx(sum(r.time for r in reports))
    for report in reports:
        arrived = np.flatnonzero(np.isfinite(report.arrivals))
        assert 2 <= len(arrived) <= 4  # four always suffice, and fewer where they happen to be apart
        assert set(report.stragglers) == set(range(N)) - set(arrived.tolist())
        assert report.time == report.arrivals[arrived].max() == report.order_statistic >= report.fluid > 0
        assert report.exact and 0 < report.decode_error <= 1e-5 and report.lost == ()
        assert report.bytes_up == len(arrived) * sum(p.numel() for p in model.parameters()) * 4
        assert report.decode_time >= 0 and report.master_time >= report.decode_time


def test_replies_without_a_sample_leave_everything_as_it_was() -> None:
    """Nine samples in shards of 4 and 5: the third iteration has one sample, which the quick worker does not hold."""
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Linear(2, 1)).double()
    data = TensorDataset(torch.randn(9, 2).double(), torch.randn(9, 1).double())
    table = DelayTable.from_array([[1.0, 2.0]])
    scheme = schemes.fastest(2, k=1)
    with Session(model, mse_loss, data, 4, scheme, SimulatedCluster(2, table)) as session:
        losses = []
        for step in session.epoch():
            before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            losses.append(float(step.backward()))
        assert session.objective.sizes(2).tolist() == [0, 1]
        assert np.isfinite(losses).tolist() == [True, True, False]
        assert all(p.grad is None for p in model.parameters()) and scheme.error == 1.0 and not scheme.exact
        assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


class Remembering(RowScheme):
    """Plain training that asks for the last two displacements."""

    def __init__(self) -> None:
        super().__init__([{j: 1.0} for j in range(3)], None)
        self.partitions = 3
        self.layout = schemes.rows.Layout(rows=3, slots=3, history=2)
        self.steps: list[Any] = []

    def __repr__(self) -> str:
        return "remembering()"

    def start(self, iteration: Any) -> Any:
        self.steps.append(iteration.step)
        return super().start(iteration)

    def suffice(self, arrived: set[int], iteration: Any) -> bool:
        return len(arrived) == 3

    def _weights(self, arrived: set[int], iteration: Any) -> schemes.rows.Weights:
        return schemes.rows.Weights(np.ones(3), 0.0, True)

    def completion(self, finish: Any) -> Any:
        return finish.max(axis=1)


def test_schemes_are_told_of_the_last_steps_also_after_a_resume() -> None:
    def fresh() -> tuple[Session, torch.optim.Optimizer, Remembering]:
        scheme = Remembering()
        objective = LeastSquares(np.eye(3), np.ones(3), 3)
        optimizer = torch.optim.SGD(objective.trainable, lr=0.5)
        return Session.of(objective, scheme, SimulatedCluster(3), optimizer=optimizer), optimizer, scheme

    session, optimizer, scheme = fresh()
    values = [torch.zeros(3, dtype=torch.float64)]
    for number in range(5):
        if number == 3:
            state, values_then = session.state_dict(), values[-1]
        session._backward(number)
        optimizer.step()
        values.append(session.cluster.parameters.clone())
    moved = [float((b - a).square().sum()) for a, b in pairwise(values)]
    assert [step.learning_rate for step in scheme.steps] == [0.5] * 5
    assert [len(step.displacements) for step in scheme.steps] == [0, 1, 2, 2, 2]
    assert scheme.steps[4].displacements == pytest.approx((moved[3], moved[2]))
    resumed, optimizer, again = fresh()
    resumed.load_state_dict(state)
    nn.utils.vector_to_parameters(values_then, resumed.model.parameters())
    for number in range(3, 5):
        resumed._backward(number)
        optimizer.step()
    assert again.steps == scheme.steps[3:]
