"""Locating wrong messages: every set of wrong and of missing workers for small N, and errors of any size."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import codes
from gradcode.codes.location import ErrorLocator


def subsets(workers: int, most: int) -> list[tuple[int, ...]]:
    return [own for size in range(most + 1) for own in itertools.combinations(range(workers), size)]


def messages(workers: int, redundancy: int, seed: int, count: int = 3) -> np.ndarray:
    """(N, count) random functionals of the messages of random gradients."""
    code = codes.cyclic_mds(workers, redundancy, dtype="float64", max_error=float("inf"))
    rng = np.random.default_rng(seed)
    gradients = rng.standard_normal((workers, count)) + 1j * rng.standard_normal((workers, count))
    return np.asarray(code.encoding @ gradients)


@pytest.mark.parametrize(("workers", "redundancy"), [(5, 2), (6, 2), (7, 4), (9, 6), (15, 6), (16, 5)])
def test_the_checks_are_those_of_the_code_without_any_workers(workers: int, redundancy: int) -> None:
    """As many as stay, and independent, whoever is missing."""
    locator, rng = ErrorLocator(workers, redundancy), np.random.default_rng(0)
    words = messages(workers, redundancy, 1)
    for missing in range(redundancy + 1):
        members = sorted(rng.permutation(workers)[missing:].tolist())
        checks = locator.checks(members)
        assert checks.shape == (redundancy - missing, workers - missing)
        assert np.linalg.matrix_rank(checks) == redundancy - missing
        assert (np.abs(checks @ words[members]) <= 1e-13 * np.abs(checks) @ np.abs(words[members])).all()


@pytest.mark.parametrize(
    ("workers", "wrong", "missing"),
    [(3, 1, 0), (5, 1, 0), (5, 1, 2), (6, 1, 1), (7, 2, 0), (7, 2, 1), (8, 2, 2), (9, 3, 0), (10, 2, 3)],
)
def test_every_set_of_wrong_and_missing_messages(workers: int, wrong: int, missing: int) -> None:
    """s wrong ones are found among all but t, and so are e of s when d − e − s are missing; exactly those."""
    redundancy = 2 * wrong + missing
    locator, rng = ErrorLocator(workers, redundancy), np.random.default_rng(workers)
    true = messages(workers, redundancy, 2)
    enough = workers - redundancy + wrong
    for corrupt in subsets(workers, wrong):
        sent = true.copy()
        for worker in corrupt:
            sent[worker] += rng.standard_normal(3) * np.abs(true).max() * 10.0 ** rng.uniform(-1, 1)
        there = [worker for worker in range(workers) if worker not in corrupt]
        gone = rng.permutation(there)[: workers - enough - len(corrupt)].tolist()
        for silent in (gone, gone[:missing]):
            received = sorted(set(range(workers)) - set(silent))
            expected = tuple(worker for worker in received if worker not in corrupt)
            assert locator.agreeing(sent, received, enough, 1e-8) == expected


@pytest.mark.parametrize("workers", [6, 9, 15])
def test_too_many_wrong_messages_are_no_word(workers: int) -> None:
    """s + 1 of them leave no N − d + s that agree, except by chance."""
    locator, rng = ErrorLocator(workers, 4), np.random.default_rng(3)
    for seed in range(50):
        sent = messages(workers, 4, seed)
        sent[rng.permutation(workers)[:3]] += rng.standard_normal((3, 3))
        assert locator.agreeing(sent, range(workers), workers - 2, 1e-8) is None


@settings(max_examples=30)
@given(st.data())
def test_errors_of_any_size_are_found(data: st.DataObject) -> None:
    """From a thousandth of the messages to 1e200 times them, and not a number: the large do not hide the small."""
    workers, wrong = data.draw(st.sampled_from([(7, 2), (9, 3), (11, 2), (15, 3)]))
    corrupt = data.draw(st.permutations(range(workers)))[:wrong]
    sizes = data.draw(st.lists(st.sampled_from([1e-3, 1.0, 1e3, 1e8, 1e20, 1e200, np.nan]), min_size=3, max_size=3))
    true = messages(workers, 2 * wrong, data.draw(st.integers(0, 99)))
    sent, rng = true.copy(), np.random.default_rng(data.draw(st.integers(0, 99)))
    for worker, size in zip(corrupt, sizes, strict=False):
        sent[worker] += size * np.abs(true).mean() * rng.standard_normal(3)
    expected = tuple(worker for worker in range(workers) if worker not in corrupt)
    assert ErrorLocator(workers, 2 * wrong).agreeing(sent, range(workers), workers - wrong, 1e-8) == expected


@pytest.mark.parametrize(("workers", "wrong"), [(5, 1), (6, 1), (7, 2), (9, 2), (11, 3)])
def test_dracos_own_matrix_is_that_of_reed_solomon(workers: int, wrong: int) -> None:
    """W = C₁Q of gradient_codes.md 6: the first row of Q is 1, and W_ij = 0 unless i holds j = i, …, i + 2s."""
    n, k = workers, workers - 2 * wrong
    fourier = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(k)) / n) / np.sqrt(n)
    matrix = np.zeros((n, n), dtype=complex)
    for j in range(n):
        zero = [i for i in range(n) if (j - i) % n > 2 * wrong]
        rest = np.linalg.solve(fourier[zero, 1:], -fourier[zero, 0]) if zero else np.zeros(0)
        matrix[:, j] = fourier @ np.concatenate([[1.0], rest])
    code = codes.reed_solomon(n, 2 * wrong, dtype="float64")
    assert np.abs(matrix * np.sqrt(n) - code.encoding.conj()).max() < 1e-10 * np.abs(code.encoding).max()
