"""Approximate decoding against closed forms (gradient_codes.md 3.1, 3.5 and 8.2), mostly by full enumeration."""

from __future__ import annotations

from itertools import combinations, product
from math import comb

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import codes
from gradcode.codes.stochastic import _hadamard


def cyclic(workers, replication, partitions=None):
    return codes.stochastic(workers, partitions, replication, allocation="cyclic")


def test_expected_and_worst_optimal_error_of_repetition():
    n, d = 8, 2
    code = codes.fractional_repetition(n, d - 1)
    for r in range(n + 1):
        errors = [code.decode(alive).residual ** 2 for alive in combinations(range(n), r)]
        assert np.mean(errors) == pytest.approx(n * comb(n - d, r) / comb(n, r), abs=1e-10)
        assert max(errors) == pytest.approx(d * ((n - r) // d), abs=1e-10)


@pytest.mark.parametrize(("n", "d", "r"), [(8, 3, 5), (9, 2, 7), (7, 4, 2)])
def test_one_step_error_is_a_hypergeometric_variance(n, d, r):
    code = cyclic(n, d)
    errors = []
    for alive in combinations(range(n), r):
        decoding = code.decode(alive, "one_step")
        np.testing.assert_allclose(decoding.weights[list(alive)], n / r)
        errors.append(decoding.residual**2)
    variance = r * (d / n) * (1 - d / n) * (n - r) / (n - 1)
    assert np.mean(errors) == pytest.approx(n * (n / (r * d)) ** 2 * variance)


def test_one_step_weights_of_a_binary_code():
    code = codes.fractional_repetition(6, 2)
    np.testing.assert_allclose(code.decode([0, 1, 2, 5], "one_step").weights, [0.5, 0.5, 0.5, 0, 0, 0.5])  # 6 / (4·3)


def enumerate_rounds(workers, p):
    """All survivor sets with their probabilities; worker i straggles with probability p[i]."""
    for present in product([0, 1], repeat=workers):
        chance = np.prod([1 - q if here else q for here, q in zip(present, p, strict=True)])
        yield np.flatnonzero(present), chance


def test_fixed_weights_have_the_stated_error():
    n, d, p = 8, 3, 0.3
    code = cyclic(n, d)
    error = mean = 0.0
    for alive, chance in enumerate_rounds(n, [p] * n):
        decoding = code.decode(alive, "fixed", straggling=p)
        error += chance * decoding.residual**2
        mean = mean + chance * (decoding.weights @ code.encoding)
    assert error / n == pytest.approx(p / (d * (1 - p)))
    np.testing.assert_allclose(mean, 1)


def test_fixed_weights_are_unbiased_for_uneven_stragglers_and_their_variance_is_known():
    code = codes.stochastic(6, 5, 3, allocation="random", rng=4)
    p = np.array([0.0, 0.1, 0.5, 0.3, 0.7, 0.2])
    gradients = np.random.default_rng(0).standard_normal((5, 4))
    messages = code.encoding @ gradients
    mean, variance = np.zeros(4), 0.0
    for alive, chance in enumerate_rounds(6, p):
        decoded = code.decode(alive, "fixed", straggling=p).weights @ messages
        mean += chance * decoded
        variance += chance * np.sum((decoded - gradients.sum(axis=0)) ** 2)
    np.testing.assert_allclose(mean, gradients.sum(axis=0), atol=1e-12)
    assert variance == pytest.approx((p / (1 - p)) @ np.sum(messages**2, axis=1))


@pytest.mark.parametrize(("r", "one_step", "optimal"), [(90, 0.021, 6e-4), (80, 0.047, 4.0e-3), (50, 0.191, 5.5e-2)])
def test_table_8_2_of_the_cyclic_code(r, one_step, optimal):
    rng = np.random.default_rng(r)
    code = cyclic(100, 5)
    sets = [rng.permutation(100)[:r] for _ in range(120)]
    for decoder, expected in [("one_step", one_step), ("optimal", optimal)]:
        errors = np.array([code.decode(alive, decoder).residual ** 2 / 100 for alive in sets])
        spread = errors.std(ddof=1) / np.sqrt(len(errors))
        digit = 10.0 ** np.floor(np.log10(expected)) * (1 if expected == 6e-4 else 0.1)  # the table's last place
        assert abs(errors.mean() - expected) < 4 * spread + digit / 2


@settings(deadline=None, max_examples=80)
@given(
    name=st.sampled_from(["stochastic", "bernoulli", "fractional_repetition", "cyclic_repetition"]),
    workers=st.integers(2, 12),
    data=st.data(),
)
def test_least_squares_is_the_best_and_never_raises(name, workers, data):
    seed = data.draw(st.integers(0, 1000))
    extra = {"rng": seed, "replication": 2} if name in ("stochastic", "bernoulli") else {"stragglers": 1}
    code = codes.create(name, workers=workers, **extra)
    alive = sorted(data.draw(st.sets(st.integers(0, workers - 1))))
    decoding = code.decode(alive)
    rows = code.encoding[alive]
    weights = np.linalg.lstsq(rows.T, np.ones(code.partitions), rcond=None)[0] if alive else np.zeros(0)
    best = float(np.linalg.norm(weights @ rows - 1))
    assert decoding.residual == pytest.approx(best, abs=1e-9)
    assert decoding.residual <= code.decode(alive, "one_step").residual + 1e-9
    assert decoding.exact == (best < 1e-9)
    if not decoding.exact:
        np.testing.assert_allclose(decoding.weights[alive], weights, atol=1e-9)
        assert decoding.error >= np.abs(weights @ rows - 1).max() - 1e-12


def test_equal_rows_share_their_weight():
    """Four holders of one block and one of the other; complex rows that do not overlap."""
    code = codes.fractional_repetition(8, 3)
    np.testing.assert_allclose(code.decode([0, 2, 4]).weights.sum(), 1)
    np.testing.assert_allclose(code.decode([0, 2, 4]).weights[[0, 2, 4]], 1 / 3)
    packed = codes.cyclic_mds(8, 2)
    alive = [0, 4]
    expected = np.linalg.lstsq(packed.encoding[alive].T, np.ones(8), rcond=None)[0]
    np.testing.assert_allclose(packed.decode(alive).weights[alive], expected, atol=1e-12)


def test_nobody_survives():
    for code in (codes.uncoded(4, 9), codes.cyclic_mds(4, 1), codes.stochastic(4)):
        for decoder in ("optimal", "one_step"):
            decoding = code.decode([], decoder)
            assert not decoding.weights.any()
            assert not decoding.exact
            assert decoding.residual == pytest.approx(np.sqrt(code.partitions))
            assert decoding.error >= 1


def test_uncoded_counts_partitions():
    code = codes.uncoded(4, 10)
    assert [len(held) for held in code.placement] == [2, 3, 2, 3]
    assert (code.tolerance, code.load) == (0, 3)
    assert code.decode([0, 1, 3]).residual == pytest.approx(np.sqrt(2))
    np.testing.assert_allclose(code.decode([0, 1, 3], "one_step").weights, [4 / 3, 4 / 3, 0, 4 / 3])


# Allocations.


@pytest.mark.parametrize("order", [4, 8, 12, 16, 20, 24, 32])
def test_pairwise_balance(order):
    hadamard = _hadamard(order)
    np.testing.assert_array_equal(hadamard @ hadamard.T, order * np.eye(order))
    code = codes.stochastic(order, order - 1, order // 2)  # pairwise by default where it exists
    held = (code.encoding > 0).astype(int)
    overlaps = held.T @ held
    assert (np.diag(overlaps) == order // 2).all()
    assert (overlaps[~np.eye(order - 1, dtype=bool)] == order // 4).all()


def test_unknown_orders_are_drawn():
    assert _hadamard(28) is None  # 27 is no prime
    assert _hadamard(6) is None
    with pytest.raises(ValueError, match="allocation='pairwise' must"):
        codes.stochastic(8, 8, 4, allocation="pairwise")
    np.testing.assert_array_equal(
        codes.stochastic(8, 8, 4).encoding, codes.stochastic(8, 8, 4, allocation="random").encoding
    )


def test_random_allocation_balances_on_average():
    n, k, d = 10, 400, 4
    held = codes.stochastic(n, k, d, allocation="random", rng=1).encoding > 0
    assert (held.sum(axis=0) == d).all()
    pairs = held[:, ::2].astype(int) * held[:, 1::2].astype(int)  # 200 independent pairs
    variance = d * (d / n) * (1 - d / n) * (n - d) / (n - 1)
    assert abs(pairs.sum(axis=0).mean() - d * d / n) < 4 * np.sqrt(variance / 200)


def test_bernoulli_allocation():
    n, k, d = 20, 500, 6
    code = codes.bernoulli(n, k, d, trim=False, rng=2)
    held = code.encoding > 0
    assert abs(held.mean() - d / n) < 4 * np.sqrt(d / n * (1 - d / n) / (n * k)) + (1 - d / n) ** n / n
    np.testing.assert_allclose(code.encoding.sum(axis=0), 1)


def test_bernoulli_code_is_trimmed_and_covers():
    for seed in range(30):
        code = codes.bernoulli(12, 12, 1.5, rng=seed)
        held = code.encoding > 0
        assert held.any(axis=0).all()
        assert code.decode(range(12)).exact
        loose = codes.bernoulli(12, 12, 1.5, trim=False, rng=seed)
        assert code.load <= max(3, 1 + loose.load // 2)
