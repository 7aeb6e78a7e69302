"""Chunks on several workers: assignments, orders, and coefficients for what is finished."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode.codes import chunks

sizes = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(1, n)))


def test_the_cyclic_assignment_in_natural_order() -> None:
    """block_coordinate.md 15: N = 4, δ = 3, every chunk once at each position, 1 + 2 + 3 = 6."""
    held = chunks.cyclic_assignment(4, 3)
    order = chunks.natural_order(held)
    assert order.tolist() == [[1, 2, 3, 0], [0, 1, 2, 3], [3, 0, 1, 2], [2, 3, 0, 1]]
    assert order.sum(axis=0).tolist() == [6, 6, 6, 6]
    assert chunks.matching_order(held).sum(axis=0).tolist() == [6, 6, 6, 6]


@given(sizes, st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_random_assignments_are_regular_and_matchings_give_every_position_once(
    size: tuple[int, int], seed: int
) -> None:
    workers, degree = size
    held = chunks.random_regular_assignment(workers, degree, seed)
    assert held.shape == (workers, workers)
    assert (held.sum(axis=0) == degree).all() and (held.sum(axis=1) == degree).all()
    order = chunks.matching_order(held)
    assert np.array_equal(order > 0, held)
    for positions in (*order, *order.T):
        assert sorted(positions[positions > 0].tolist()) == list(range(1, degree + 1))


def test_random_assignments_reach_every_pair_alike() -> None:
    """N = 6, degree 2: each of 36 places is held with probability 1/3; within 5 standard deviations of 600 draws."""
    rng = np.random.default_rng(0)
    held = sum(chunks.random_regular_assignment(6, 2, rng).astype(int) for _ in range(600))
    assert np.abs(held / 600 - 1 / 3).max() < 5 * np.sqrt(1 / 3 * 2 / 3 / 600)


@given(sizes, st.integers(0, 2**31))
@settings(max_examples=50, deadline=None)
def test_orders_are_positions_of_what_is_held(size: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    held = rng.random((size[0], 2 * size[1])) < 0.5
    held[rng.integers(size[0], size=held.shape[1]), np.arange(held.shape[1])] = True
    for order in (chunks.natural_order(held), chunks.random_order(held, rng)):
        assert np.array_equal(order > 0, held)
        for positions in order:
            assert sorted(positions[positions > 0].tolist()) == list(range(1, (positions > 0).sum() + 1))


def most_in_vain(order: np.ndarray, chunk: int, copies: int) -> int:
    """Q_i by trying every state of every worker."""
    loads = (order > 0).sum(axis=1)
    best = 0
    for done in itertools.product(*(range(load + 1) for load in loads)):
        finishers = sum(0 < order[worker, chunk] <= own for worker, own in enumerate(done))
        if finishers < copies:
            best = max(best, sum(done))
    return best


@pytest.mark.parametrize("copies", [1, 2, 3])
@pytest.mark.parametrize("seed", range(3))
def test_the_worst_case_is_that_of_all_states(seed: int, copies: int) -> None:
    order = chunks.random_order(chunks.cyclic_assignment(5, 3), seed)
    assert chunks.worst_case(order, copies).tolist() == [most_in_vain(order, chunk, copies) for chunk in range(5)]


def test_the_worst_case_of_uneven_loads() -> None:
    order = np.array([[1, 2, 3], [2, 0, 1], [0, 1, 0]])
    for copies in (1, 2):
        assert chunks.worst_case(order, copies).tolist() == [most_in_vain(order, chunk, copies) for chunk in range(3)]


def test_matchings_are_the_best_order_for_one_copy() -> None:
    held = chunks.random_regular_assignment(20, 5, 3)
    best = chunks.worst_case(chunks.matching_order(held)).max()
    assert best == 15 * 5 + 5 * 4 // 2
    for seed in range(20):
        assert chunks.worst_case(chunks.random_order(held, seed)).max() > best


@pytest.mark.parametrize(("finishers", "parts"), [(2, 3), (1, 3), (0, 2), (1, 2)])
def test_missing_finishers_leave_that_much(finishers: int, parts: int) -> None:
    """Two workers and three parts leave residual² = 1; in general ℓ − |S|."""
    finished = np.zeros((4, 1), dtype=bool)
    finished[:finishers] = True
    for seed in range(5):
        found = chunks.coefficients(finished, chunks.shared_matrix(4, parts, seed))
        assert found.residual**2 == pytest.approx(parts - finishers, abs=1e-10)
        assert found.deviation[0] == pytest.approx(1.0, abs=1e-10)


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_enough_finishers_decode_to_rounding(parts: int) -> None:
    """Gradients of 12 chunks cut into parts, through every worker's message, to their sum."""
    rng = np.random.default_rng(parts)
    held = chunks.random_regular_assignment(12, 5, rng)
    gradients = rng.standard_normal((12, parts, 7))
    for _ in range(20):
        finished = np.zeros_like(held)
        for chunk in range(12):
            holders = np.flatnonzero(held[:, chunk])
            finished[rng.choice(holders, rng.integers(parts, 6), replace=False), chunk] = True
        shared = chunks.shared_matrix(12, parts, rng)
        found = chunks.coefficients(finished, shared)
        assert not found.values.transpose(1, 0, 2)[~finished].any()
        messages = np.einsum("ijq,iqd->jd", found.values, gradients)
        error = np.abs(shared.T @ messages - gradients.sum(axis=0)).max()
        assert error <= 1e-13 * found.amplification.max() * 12
        assert found.deviation.max() <= 1e-13 * found.amplification.max()


def test_the_coefficients_are_least_squares_of_minimum_norm() -> None:
    rng = np.random.default_rng(4)
    finished = rng.random((6, 8)) < 0.5
    shared = chunks.shared_matrix(6, 2, rng)
    values = chunks.coefficients(finished, shared).values
    for chunk in range(8):
        mine = np.flatnonzero(finished[:, chunk])
        for q in range(2):
            wanted = np.linalg.lstsq(shared[mine].T, np.eye(2)[q], rcond=None)[0]
            assert np.allclose(values[chunk, mine, q], wanted, atol=1e-12)


def test_the_steady_matrix_amplifies_least_of_its_draws() -> None:
    held = chunks.cyclic_assignment(8, 4)
    sets = [list(each) for column in held.T for each in itertools.combinations(np.flatnonzero(column).tolist(), 2)]

    def worst(shared: np.ndarray) -> float:
        finished = np.zeros((8, len(sets)), dtype=bool)
        for number, own in enumerate(sets):
            finished[own, number] = True
        return float(chunks.coefficients(finished, shared).amplification.max())

    rng = np.random.default_rng(0)
    drawn = [worst(chunks.shared_matrix(8, 2, rng)) for _ in range(16)]
    assert worst(chunks.steady_matrix(held, 2, 0)) == pytest.approx(min(drawn))
    assert min(drawn) < np.median(drawn) / 2
    # More sets than are tried: 40 chunks with C(12, 6) each.
    assert chunks.steady_matrix(chunks.cyclic_assignment(40, 12), 6, 0, draws=2).shape == (40, 6)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: chunks.cyclic_assignment(4, 5), r"degree=5 must be an integer, between 1 and 4 \(workers=4\)"),
        (lambda: chunks.random_regular_assignment(4, 0, 0), "degree=0 must be an integer, between 1 and 4"),
        (lambda: chunks.random_regular_assignment(4, 2, None), "rng=None must be"),
        (lambda: chunks.natural_order([[1, 0], [1, 0]]), r"nobody holds \[1\]"),
        (lambda: chunks.natural_order([[2, 1]]), r"must be a matrix \(workers, chunks\) of 0 and 1"),
        (lambda: chunks.matching_order([[1, 1], [1, 0]]), r"degrees \[1, 2\]. Use order='natural'"),
        (lambda: chunks.worst_case([[1, 2], [1, 0]], 2), "copies=2 must be an integer, between 1 and 1"),
        (lambda: chunks.shared_matrix(3, 0, 0), "parts=0 must be an integer, at least 1"),
        (lambda: chunks.steady_matrix([[1, 1], [1, 0]], 2, 0), "parts=2 must be an integer, between 1 and 1"),
    ],
)
def test_refusals(call: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()  # type: ignore[operator]
