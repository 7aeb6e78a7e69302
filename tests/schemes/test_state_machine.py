"""The rules of an iteration, driven by hand: no clock, no process, no model."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch

from gradcode import codes, schemes
from gradcode.protocol import Combination, Iteration, Order, Reply
from gradcode.schemes.rows import RowScheme

SIZES = np.array([2, 2, 2, 2, 2, 2])


def begin(scheme: RowScheme, sizes: np.ndarray = SIZES, workers: tuple[int, ...] | None = None) -> list[Order]:
    target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
    alive = tuple(range(scheme.workers)) if workers is None else workers
    orders = scheme.start(Iteration(3, 17, target, alive, sizes))
    assert all(isinstance(order, Order) for order in orders)
    return list(orders)  # type: ignore[arg-type]


def answer(scheme: RowScheme, order: Order, time: float = 1.0) -> None:
    payload = torch.zeros(4, dtype=torch.uint8)
    assert scheme.receive(Reply(order, payload, time, np.zeros((len(order.combination), 1)))) == ()


def decoded(scheme: RowScheme, gradients: np.ndarray, orders: list[Order]) -> np.ndarray:
    """What the scheme makes of the rows that its orders ask for, (length,)."""
    rows = torch.full((scheme.workers, gradients.shape[1]), torch.nan, dtype=torch.float64)
    for order in orders:
        rows[order.row] = torch.from_numpy(sum(c * gradients[j] for j, c in order.combination.items()))
    out = torch.full((gradients.shape[1],), torch.nan, dtype=torch.float64)
    scheme.gradient(rows, out)
    return out.numpy()


def test_uncoded_waits_for_all() -> None:
    scheme = schemes.uncoded(6)
    assert scheme.done
    orders = begin(scheme)
    assert not scheme.done and scheme.deadline is None
    for order in orders:
        assert not scheme.done
        answer(scheme, order)
    assert scheme.done


def test_orders_are_the_rows_of_the_code_once_each() -> None:
    code = codes.cyclic_repetition(6, 2)
    scheme = schemes.coded(code)
    orders = begin(scheme)
    assert [(o.worker, o.slot, o.row, o.serial) for o in orders] == [(i, i, i, 17) for i in range(6)]
    for order in orders:
        assert dict(order.combination) == {
            j: code.encoding[order.worker, j] for j in range(6) if code.encoding[order.worker, j]
        }
    assert scheme.layout.rows == scheme.layout.slots == 6
    again = begin(scheme)
    assert all(a.combination is b.combination for a, b in zip(orders, again, strict=True))  # built and sent once


def test_workers_that_are_gone_get_no_order() -> None:
    scheme = schemes.coded(codes.fractional_repetition(6, 2))
    assert [order.worker for order in begin(scheme, workers=(0, 2, 5))] == [0, 2, 5]


@pytest.mark.parametrize("order_of_arrival", list(itertools.permutations(range(4))))
def test_coded_ends_at_the_first_decodable_set(order_of_arrival: tuple[int, ...]) -> None:
    code = codes.fractional_repetition(4, 1)  # two pairs of workers: any two of different pairs decode
    scheme = schemes.coded(code)
    orders = begin(scheme, SIZES[:4])
    arrived: set[int] = set()
    for worker in order_of_arrival:
        answer(scheme, orders[worker])
        arrived.add(worker)
        assert scheme.done == code.decodable(arrived)
        if scheme.done:
            break
    gradients = np.random.default_rng(0).standard_normal((4, 5))
    out = decoded(scheme, gradients, [orders[i] for i in arrived])
    np.testing.assert_allclose(out, gradients.sum(0), rtol=1e-12)
    assert scheme.exact and 0 < scheme.error < 1e-5


def test_targets_coefficients_multiply() -> None:
    scheme = schemes.coded(codes.cyclic_repetition(4, 1, dtype="float64"))
    target = Combination({0: 2.0, 1: -1.0, 3: 0.5})  # an edge node's: partition 2 is not in it
    orders = list(scheme.start(Iteration(0, 0, target, (0, 1, 2, 3), SIZES[:4])))
    gradients = np.random.default_rng(0).standard_normal((4, 5))
    for order in orders[1:]:
        answer(scheme, order)  # type: ignore[arg-type]
    out = decoded(scheme, gradients, orders[1:])  # type: ignore[arg-type]
    np.testing.assert_allclose(out, 2 * gradients[0] - gradients[1] + 0.5 * gradients[3], rtol=1e-12, atol=1e-12)


def test_at_the_deadline_what_arrived_is_used() -> None:
    scheme = schemes.coded(codes.cyclic_repetition(6, 2), deadline=1.5)
    orders = begin(scheme)
    assert scheme.deadline == 1.5
    answer(scheme, orders[0])
    assert not scheme.done
    assert scheme.expire() == () and scheme.done


def test_if_nothing_arrived_the_first_reply_ends_it() -> None:
    scheme = schemes.coded(codes.cyclic_repetition(6, 2), deadline=1.5)
    orders = begin(scheme)
    scheme.expire()
    assert not scheme.done
    answer(scheme, orders[3], time=9.0)
    assert scheme.done
    begin(scheme)
    assert not scheme.done  # lateness does not outlive the iteration
    answer(scheme, orders[3])
    assert not scheme.done


def test_a_lost_worker_changes_nothing() -> None:
    scheme = schemes.coded(codes.fractional_repetition(6, 2))
    orders = begin(scheme)
    assert scheme.lose(0) == () and not scheme.done
    answer(scheme, orders[1])
    answer(scheme, orders[2])
    assert not scheme.done or scheme.code.decodable({1, 2})


@pytest.mark.parametrize(
    "code",
    [
        codes.cyclic_repetition(6, 2, dtype="float64"),
        codes.fractional_repetition(6, 2, dtype="float64"),
        codes.bernoulli(6, dtype="float64"),
        codes.stochastic(6, dtype="float64"),
    ],
    ids=repr,
)
def test_the_reported_error_bounds_the_true_one(code: codes.GradientCode) -> None:
    rng = np.random.default_rng(1)
    inexact = 0
    for size in range(1, 7):
        for arrived in itertools.combinations(range(6), size):
            scheme = schemes.coded(code, deadline=1.0)
            orders = begin(scheme)
            mine = [order for order in orders if order.worker in arrived]
            if not mine:
                continue
            for order in mine:
                answer(scheme, order)
            scheme.expire()
            # One dominant gradient makes the bound, a maximum over the partitions, nearly sharp.
            gradients = rng.standard_normal((6, 4)) * 10.0 ** rng.uniform(-3, 3, (6, 1))
            out = decoded(scheme, gradients, mine)
            error = np.linalg.norm(out - gradients.sum(0)) / np.linalg.norm(gradients, axis=1).sum()
            assert error <= scheme.error
            assert scheme.exact == (scheme.error < 1e-8)
            inexact += not scheme.exact
    assert inexact


def test_fastest_rescales_and_bounds_its_error() -> None:
    rng = np.random.default_rng(1)
    for sizes in (SIZES, np.array([5, 1, 0, 3, 3, 2]), np.array([0, 0, 0, 1, 0, 0])):
        for arrived in itertools.combinations(range(6), 2):
            scheme = schemes.fastest(6, k=2)
            orders = begin(scheme, sizes)
            for order in (orders[i] for i in arrived):
                assert not scheme.done
                answer(scheme, order)
            assert scheme.done
            gradients = rng.standard_normal((6, 4)) * sizes[:, None] / sizes.sum()
            out = decoded(scheme, gradients, [orders[i] for i in arrived])
            held = sizes[list(arrived)].sum()
            expected = gradients[list(arrived)].sum(0) * sizes.sum() / held if held else np.zeros(4)
            np.testing.assert_allclose(out, expected, rtol=1e-12)
            error = np.linalg.norm(out - gradients.sum(0)) / np.linalg.norm(gradients, axis=1).sum()
            assert error <= scheme.error * (1 + 1e-12)  # the rounding of these norms
            assert scheme.exact == (held == sizes.sum())


def test_a_worker_that_holds_nothing_is_not_missed() -> None:
    scheme = schemes.coded(codes.stochastic(6))
    orders = begin(scheme)
    assert [order.worker for order in orders] == [0, 1, 3, 4, 5]
    for order in orders:
        assert not scheme.done
        answer(scheme, order)
    assert scheme.done
    gradients = np.random.default_rng(0).standard_normal((6, 4))
    np.testing.assert_allclose(decoded(scheme, gradients, orders), gradients.sum(0), rtol=1e-12)
    times = np.array([[5.0, 4.0, np.inf, 3.0, 2.0, 1.0]])
    loads = np.array([2, 3, 0, 3, 2, 2])
    assert scheme.duration(times[:, :, None], 0.0 * loads[None]) == [12.0]


@pytest.mark.parametrize("k", range(1, 7))
def test_fastest_is_unbiased(k: int) -> None:
    gradients = np.random.default_rng(2).standard_normal((6, 4))
    results = []
    for arrived in itertools.combinations(range(6), k):
        scheme = schemes.fastest(6, k)
        orders = begin(scheme)
        for i in arrived:
            answer(scheme, orders[i])
        results.append(decoded(scheme, gradients, [orders[i] for i in arrived]))
    np.testing.assert_allclose(np.mean(results, axis=0), gradients.sum(0), rtol=1e-12)


def test_state_is_empty_and_foreign_state_refused() -> None:
    scheme = schemes.uncoded(3)
    assert scheme.state_dict() == {} and scheme.inner == ()
    scheme.load_state_dict({})
    with pytest.raises(ValueError, match=r"keeps no state between iterations, got \['memory'\]"):
        scheme.load_state_dict({"memory": 1})


def test_repr() -> None:
    code = codes.fractional_repetition(workers=6, stragglers=2)
    assert repr(schemes.coded(code)) == "coded(fractional_repetition(workers=6, stragglers=2))"
    assert repr(schemes.coded(code, 2.0)) == "coded(fractional_repetition(workers=6, stragglers=2), deadline=2.0)"
    assert repr(schemes.fastest(4, 3)) == "fastest(workers=4, k=3)"


@pytest.mark.parametrize("deadline", [0.0, -1.0, float("nan")])
def test_deadlines_that_are_none(deadline: float) -> None:
    with pytest.raises(ValueError, match=rf"deadline={deadline!r} must be a positive number of seconds, or None"):
        schemes.coded(codes.uncoded(3), deadline)


@pytest.mark.parametrize("k", [0, 5])
def test_fastest_of_too_many(k: int) -> None:
    with pytest.raises(ValueError, match=f"k={k} must be from 1 to workers=4: the number of replies to wait for"):
        schemes.fastest(4, k)


def test_registry() -> None:
    assert {"coded", "fastest", "uncoded"} <= {entry.name for entry in schemes.available()}
    assert repr(schemes.by_name("fastest").construct(4, 2)) == "fastest(workers=4, k=2)"
    assert all(entry.summary and entry.trade_off for entry in schemes.available())
    with pytest.raises(
        ValueError,
        match=re.escape(
            "scheme 'fast' is unknown; there are block_coordinate, coded, fastest, fastest_blocks, greedy, "
            "hierarchical, partial, uncoded"
        ),
    ):
        schemes.by_name("fast")
    with pytest.raises(ValueError, match="scheme name 'coded' is taken"):
        schemes.registry.scheme("coded", summary="", trade_off="")(lambda: None)
