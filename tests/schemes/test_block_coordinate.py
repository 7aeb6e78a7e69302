"""Block coordinate coding: the rules, and the time they take."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import codes, delays, schemes
from gradcode.protocol import Abandon, Combination, Iteration, Order, Reply
from gradcode.schemes import BlockCoordinate
from gradcode.training import LeastSquares

SIZES = [10, 5, 0, 5, 0, 0, 5, 15]


def started(scheme: BlockCoordinate) -> dict[int, Order]:
    target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
    iteration = Iteration(0, 7, target, tuple(range(scheme.workers)), np.ones(scheme.partitions, dtype=np.int64))
    return {order.slot: order for order in scheme.start(iteration) if isinstance(order, Order)}


def test_each_worker_is_ordered_its_blocks_in_order_into_one_row() -> None:
    orders = started(schemes.block_coordinate(codes.block(SIZES)))
    assert len(orders) == 8 * 5
    mine = [order for order in orders.values() if order.worker == 6]
    assert [tuple(order.block) for order in mine] == [(0, 10), (10, 15), (15, 20), (20, 25), (25, 40)]
    assert [sorted(order.combination) for order in mine] == [
        [6],
        [6, 7],
        [0, 1, 6, 7],
        [0, 1, 2, 3, 4, 6, 7],
        list(range(8)),
    ]
    assert {order.row for order in mine} == {6}


def test_a_block_that_can_be_decoded_is_abandoned_by_everybody_else() -> None:
    scheme = schemes.block_coordinate(codes.block(SIZES))
    orders = started(scheme)

    def answer(worker: int, level: int) -> list[Abandon]:
        reply = Reply(orders[worker * 5 + level], torch.zeros(1, dtype=torch.uint8), 1.0, np.zeros((1, 1)))
        return [action for action in scheme.receive(reply) if isinstance(action, Abandon)]

    assert answer(3, 4) == [Abandon(tuple(worker * 5 + 4 for worker in range(8) if worker != 3))]
    for worker in range(7):
        assert answer(worker, 0) == []
    assert answer(7, 0) == [Abandon(())]
    assert not scheme.done
    for level in (1, 2, 3):
        for worker in range(8):
            answer(worker, level)
    assert scheme.done


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.integers(0, 6), min_size=2, max_size=6).filter(any),
    st.integers(0, 2**31),
    st.sampled_from([0.0, 0.25]),
)
def test_duration_is_the_simulated_time_draw_by_draw(sizes: list[int], seed: int, message: float) -> None:
    workers, length = len(sizes), sum(sizes)
    rng = np.random.default_rng(seed)
    objective = LeastSquares(rng.standard_normal((3 * workers, length)), rng.standard_normal(3 * workers), workers)
    scheme = schemes.block_coordinate(codes.block(sizes, dtype="float64"), objective)
    law = delays.Delays(delays.ShiftedExponential(0.1, 2.0), delays.Link(message))
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(workers, law, seed=seed)
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        for _ in range(3):
            next(iter(session.epoch())).backward()
            wanted = objective.gradient(objective.model.theta.data)
            error = (objective.model.theta.grad - wanted).norm()
            assert float(error) <= 1e-10 * max(1.0, float(wanted.norm()))
    for report in reports:
        assert report.time == pytest.approx(report.order_statistic, rel=1e-12)


def test_the_runtime_is_the_papers_formula() -> None:
    """block_coordinate.md 14.1, kappa = 1: four samples, four workers."""
    scheme = schemes.block_coordinate(codes.block([4, 6, 4, 6]))
    times = np.array([[3.0, 1.0, 10.0, 2.0]])
    assert scheme.duration(times[:, :, None] * 20, np.zeros((1, 4)))[0] == pytest.approx(56.0)


def test_an_objective_of_another_length_is_refused() -> None:
    objective = LeastSquares(np.eye(4), np.ones(4), 4)
    with pytest.raises(ValueError, match="has 40 coordinates, the objective has 4"):
        schemes.block_coordinate(codes.block(SIZES), objective)
    narrow = LeastSquares(np.eye(8), np.ones(8), 8)
    with pytest.raises(ValueError, match="is for 40 coordinates, the parameters to train have 8"):
        gradcode.Session.of(narrow, schemes.block_coordinate(codes.block(SIZES)), gradcode.SimulatedCluster(8))
