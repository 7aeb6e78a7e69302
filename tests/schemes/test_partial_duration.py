"""Partial stragglers: ``duration`` is the event-by-event simulation, draw by draw, and the closed form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import schemes
from gradcode.codes import chunks
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.schemes import PartialStragglers
from gradcode.schemes.partial import completion
from gradcode.training import LeastSquares


def simulated(scheme: PartialStragglers, compute: np.ndarray, communicate: np.ndarray) -> np.ndarray:
    """(iterations,) seconds that the simulated cluster takes with these delays; inf: it never ends."""
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
                assert float((objective.model.theta.grad - wanted).norm()) < 1e-9 * float(wanted.norm())
        except Shortfall:
            times.append(np.inf)
    return np.array(times)


@pytest.mark.parametrize("deadline", [None, 2.5])
@pytest.mark.parametrize("parts", [1, 2, 3])
@pytest.mark.parametrize("order", ["matchings", "natural", "random"])
def test_duration_is_the_simulation(order: Any, parts: int, deadline: float | None) -> None:
    """Without messages; and with messages and notices of the same duration. With ties, and workers that never end."""
    scheme = schemes.partial(6, 4, parts, deadline, order=order, assignment="random_regular", seed=1)
    slow = schemes.partial(6, 4, parts, deadline, order=order, assignment="random_regular", seed=1, notice=1.0)
    for seed, (infinite, ties) in enumerate([(0.0, False), (0.2, False), (0.0, True), (0.3, True)]):
        rng = np.random.default_rng(seed)
        compute, communicate = rng.exponential(1.0, (2, 25, 6))
        if ties:
            compute, communicate = np.ceil(2 * compute) / 2, np.floor(2 * communicate) / 2
        compute[rng.random(compute.shape) < infinite] = np.inf
        for own, message in ((scheme, np.zeros_like(communicate)), (slow, communicate)):
            times = simulated(own, compute, message)
            assert np.array_equal(own.duration(compute[:, :, None], message), times)
            if not infinite and deadline is None:
                assert np.isfinite(times).all() and len(np.unique(times)) > (2 if ties else 20)
            if infinite and ties and parts == 3 and deadline is None:
                assert np.isinf(times).any()
            if deadline is not None and not message.any():
                assert (times == deadline).any()


@given(st.integers(1, 6), st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_duration_of_any_assignment(workers: int, seed: int) -> None:
    """Uneven loads, idle workers, other numbers of chunks than workers."""
    rng = np.random.default_rng(seed)
    held = rng.random((workers, 4)) < 0.5
    held[rng.integers(workers, size=4), np.arange(4)] = True
    scheme = PartialStragglers(chunks.random_order(held, rng), deadline=None if seed % 2 else 1.0)
    compute = rng.exponential(1.0, (5, workers))
    none = np.zeros_like(compute)
    assert np.array_equal(scheme.duration(compute[:, :, None], none), simulated(scheme, compute, none))


def test_the_closed_form_is_the_duration() -> None:
    rng = np.random.default_rng(0)
    pace = rng.exponential(1.0, (3000, 12))
    for parts in (1, 2, 3):
        scheme = schemes.partial(12, 4, parts)
        found = scheme.duration(pace[:, :, None], np.zeros_like(pace))
        assert np.allclose(found, completion(pace, scheme.order, parts), rtol=1e-12)
        whole = completion(pace, scheme.order, parts, whole=True)
        assert (found <= whole).all() and (found < whole).mean() > 0.8
    # By hand: two workers hold both chunks, each beginning with its own.
    order = np.array([[1, 2], [2, 1]])
    assert completion(np.array([[1.0, 3.0], [1.0, 1.5]]), order).tolist() == [2.0, 1.5]
    assert completion(np.array([[1.0, 3.0], [1.0, 1.5]]), order, whole=True).tolist() == [2.0, 2.0]
    assert completion(np.array([[1.0, 3.0]]), order, parts=2).tolist() == [6.0]


def test_a_notice_takes_its_share_of_a_message() -> None:
    scheme = schemes.partial(2, 1, notice=0.25)
    times = scheme.duration(np.array([[[1.0], [2.0]]]), np.array([[4.0, 0.4]]))
    assert times.tolist() == [2.1 + 4.0]  # worker 1's chunk is known at 2.1; worker 0's message takes 4
