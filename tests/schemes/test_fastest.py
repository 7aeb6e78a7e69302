"""Waiting for k: parts on several workers, and blocks of coordinates."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

import gradcode
from gradcode import delays, schemes
from gradcode.protocol import Combination, Iteration, Order, Reply
from gradcode.schemes.rows import RowScheme
from gradcode.training import LeastSquares


def begun(scheme: RowScheme, sizes: list[int] | None = None) -> list[Order]:
    counts = np.ones(scheme.partitions, dtype=np.int64) if sizes is None else np.array(sizes)
    target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
    orders = scheme.start(Iteration(0, 3, target, tuple(range(scheme.workers)), counts))
    return [order for order in orders if isinstance(order, Order)]


def answer(scheme: RowScheme, order: Order) -> None:
    scheme.receive(Reply(order, torch.zeros(1, dtype=torch.uint8), 1.0, np.zeros((len(order.combination), 1))))


def rows_of(orders: list[Order], arrived: set[int], gradients: np.ndarray) -> torch.Tensor:
    """What these workers have written, each into its block, and NaN elsewhere."""
    rows = torch.full((len(orders), gradients.shape[1]), torch.nan, dtype=torch.float64)
    for order in orders:
        if order.worker in arrived:
            block = slice(None) if order.block is None else slice(*order.block)
            whole = sum(c.real * gradients[j] for j, c in order.combination.items() if not isinstance(c, tuple))
            rows[order.row, block] = torch.from_numpy(np.asarray(whole))[block]
    return rows


@pytest.mark.parametrize("k", [1, 3, 5, 6])
def test_of_copies_one_counts_and_the_parts_are_rescaled(k: int) -> None:
    gradients = np.random.default_rng(1).standard_normal((3, 4))
    sizes = [2, 3, 4]
    for arrived in itertools.islice(itertools.permutations(range(6), k), 0, None, 7):
        scheme = schemes.fastest(6, k, replicas=2)
        orders = begun(scheme, sizes)
        for number, worker in enumerate(arrived, 1):
            assert not scheme.done
            answer(scheme, orders[worker])
            if len({own % 3 for own in arrived[:number]}) == 3:
                break
        assert scheme.done
        heard = set(arrived[:number])
        assert scheme.responders == tuple(sorted(heard))
        out = torch.empty(4, dtype=torch.float64)
        scheme.gradient(rows_of(orders, heard, gradients), out)
        parts = sorted({worker % 3 for worker in heard})
        expected = gradients[parts].sum(axis=0) * 9 / sum(sizes[j] for j in parts)
        np.testing.assert_allclose(out, expected, rtol=1e-12)
        assert scheme.exact == (len(parts) == 3) and (scheme.error < 1e-5) == scheme.exact


def test_copies_are_unbiased() -> None:
    """The mean over all sets of 3 of 6 workers, each as likely as the others."""
    gradients, found = np.random.default_rng(2).standard_normal((3, 4)), []
    for arrived in itertools.combinations(range(6), 3):
        scheme = schemes.fastest(6, 3, replicas=2)
        orders = begun(scheme)
        for worker in arrived:
            answer(scheme, orders[worker])
        out = torch.empty(4, dtype=torch.float64)
        scheme.gradient(rows_of(orders, set(arrived), gradients), out)
        found.append(out.numpy())
    np.testing.assert_allclose(np.mean(found, axis=0), gradients.sum(axis=0), rtol=1e-12)


def test_weights_of_some_of_those_that_answered() -> None:
    scheme = schemes.fastest(4, 3)
    with pytest.raises(ValueError, match=r"workers=\[0\] must be among those that have answered, \(\)"):
        scheme.weights([0])
    orders = begun(scheme)
    for worker in (3, 0, 2):
        answer(scheme, orders[worker])
    assert scheme.weights([0, 3]).tolist() == [2.0, 0.0, 0.0, 2.0]
    assert scheme.weights([]).tolist() == [0.0] * 4
    with pytest.raises(ValueError, match=r"workers=\[0, 1\] must be among those that have answered, \(0, 2, 3\)"):
        scheme.weights([0, 1])


@pytest.mark.parametrize("partitions", [1, 3])
def test_only_the_blocks_that_arrived_are_in_the_gradient(partitions: int) -> None:
    gradients = np.random.default_rng(3).standard_normal((partitions, 11))
    scheme = schemes.fastest_blocks(4, 2, 11, partitions)
    orders = begun(scheme)
    assert [tuple(order.block or ()) for order in orders] == [(0, 2), (2, 5), (5, 8), (8, 11)]
    assert all(sorted(order.combination) == list(range(partitions)) for order in orders)
    answer(scheme, orders[3])
    assert not scheme.done
    answer(scheme, orders[1])
    assert scheme.done and scheme.responders == (1, 3)
    out = torch.full((11,), torch.nan, dtype=torch.float64)
    scheme.gradient(rows_of(orders, {1, 3}, gradients), out)
    expected = gradients.sum(axis=0)
    expected[[0, 1, 5, 6, 7]] = 0.0
    np.testing.assert_allclose(out, expected, rtol=1e-12)
    assert not scheme.exact and 1.0 <= scheme.error < 1.0 + 1e-12


def test_all_blocks_are_the_gradient() -> None:
    rng = np.random.default_rng(4)
    objective = LeastSquares(rng.standard_normal((12, 7)), rng.standard_normal(12), partitions=2)
    scheme = schemes.fastest_blocks(3, 3, 7, 2, objective)
    cluster = gradcode.SimulatedCluster(3, delays.Exponential(1.0))
    with gradcode.Session.of(objective, scheme, cluster) as session:
        next(session.epoch()).backward()
        found = objective.model.theta.grad
        torch.testing.assert_close(found, objective.gradient(torch.zeros(7, dtype=torch.float64)))
    assert scheme.exact and scheme.error < 1e-14


def test_a_block_costs_what_the_objective_says() -> None:
    """A network's blocks cost a whole pass, here: the slowest of k = 2 takes 3 seconds per partition."""

    class Deep(LeastSquares):
        def cost(self, block: object) -> float:
            return 1.0

    objective = Deep(np.eye(8), np.ones(8), partitions=2)
    compute, communicate = np.array([[[1.0], [3.0], [9.0], [27.0]]]), np.zeros((1, 4))
    assert schemes.fastest_blocks(4, 2, 8, 2, objective).duration(compute, communicate) == [6.0]
    assert schemes.fastest_blocks(4, 2, 8, 2).duration(compute, communicate) == [1.5]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schemes.fastest(6, 3, replicas=4), "replicas=4 must be at least 1 and divide workers=6"),
        (lambda: schemes.fastest(6, 3, replicas=0), "replicas=0 must be at least 1 and divide workers=6"),
        (lambda: schemes.fastest_blocks(4, 5, 8), "k=5 must be from 1 to workers=4"),
        (lambda: schemes.fastest_blocks(4, 4, 3), "length=3 must be an integer, at least 4 (each of workers=4 needs"),
        (lambda: schemes.fastest_blocks(4, 4, 8, 0), "partitions=0 must be an integer, at least 1"),
        (
            lambda: schemes.fastest_blocks(4, 4, 9, source=LeastSquares(np.eye(8), np.ones(8), 1)),
            "length=9 must be 8, the coordinates of the objective",
        ),
    ],
)
def test_refusals(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()  # type: ignore[operator]


def test_repr() -> None:
    assert repr(schemes.fastest(6, 3, replicas=2)) == "fastest(workers=6, k=3, replicas=2)"
    assert repr(schemes.fastest_blocks(4, 2, 9)) == "fastest_blocks(workers=4, k=2, length=9)"
