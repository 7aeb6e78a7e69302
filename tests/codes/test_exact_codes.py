"""Exact codes: worked examples, every straggler set of small sizes, and the structure each code promises."""

from __future__ import annotations

import time
from itertools import chain, combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import codes
from gradcode.codes.affine import AffineCode, from_matrix
from gradcode.codes.heterogeneous import proportional_loads

from .conftest import coefficients


def gains(code, weights):
    """(K,) |a|ᵀ|B|; of the m × m matrices of a folded code √(‖·‖₁·‖·‖_∞), which is at least their norms."""
    if code.reduction == 1:
        return np.abs(weights) @ np.abs(code.encoding)
    found = np.einsum("iv,iju->jvu", np.abs(weights), np.abs(code.encoding))
    norms = [np.linalg.norm(found, order, axis=(1, 2)) for order in (1, 2, np.inf)]
    assert (norms[1] <= np.sqrt(norms[0] * norms[2]) * (1 + 1e-12)).all()
    return np.sqrt(norms[0] * norms[2])


def subsets(workers, sizes):
    return chain.from_iterable(combinations(range(workers), size) for size in sizes)


# Worked examples of gradient_codes.md, sections 1 and 9.


def test_three_workers(survivors):
    B = np.array([[0.5, 1, 0], [0, 1, -1], [0.5, 0, 1]])
    A = np.array([[0, 1, 2], [1, 0, 1], [2, -1, 0]])
    offset, null = from_matrix(B, 1)
    code = AffineCode(B, np.ones(3, dtype=int), 1, "float64", offset=offset, null=null, generic=True)
    for straggler, row in enumerate(A):
        decoding = code.decode(survivors(3, [straggler]))
        np.testing.assert_allclose(decoding.weights, row, atol=1e-13)
        assert decoding.exact


@pytest.mark.parametrize(
    ("stragglers", "weights"),
    [((0, 1, 2), (0, 0, 0, 1, -1, 1)), ((0, 3, 4), (0, 0, 0.5, 0, 0, 0.5)), ((), (1 / 6,) * 6)],
)
def test_centred_mds_of_six_workers(survivors, stragglers, weights):
    code = codes.cyclic_mds(workers=6, stragglers=3)
    rows = np.array([np.roll([1, 2, 2, 1, 0, 0], i) for i in range(6)])
    np.testing.assert_allclose(code.encoding, rows, atol=1e-14)
    np.testing.assert_allclose(code.decode(survivors(6, stragglers)).weights, weights, atol=1e-14)


def test_centred_mds_of_four_workers():
    code = codes.cyclic_mds(workers=4, stragglers=1)
    np.testing.assert_array_equal(code.encoding[3], [1, 0, 0, 1])
    np.testing.assert_allclose(code.decode([1, 2, 3]).weights, [0, 1, 0, 1], atol=1e-15)


def test_repetition_of_six_workers():
    code = codes.fractional_repetition(workers=6, stragglers=2)
    lost = [s for s in combinations(range(6), 3) if not code.decodable(set(range(6)) - set(s))]
    assert lost == [(0, 2, 4), (1, 3, 5)]
    assert code.placement[0].tolist() == [0, 1, 2]
    assert code.placement[1].tolist() == [3, 4, 5]


def test_column_code_of_four_workers():
    C = [[1, 1, 1, 1], [2, 3, 5, 7]]
    code = codes.heterogeneous([1, 1, 2, 2], 6, 1, mixing=C, max_error=float("inf"))
    assert [held.tolist() for held in code.placement] == [[0, 1], [2, 3], [0, 1, 4, 5], [2, 3, 4, 5]]
    rows = [
        [4 / 3, 4 / 3, 0, 0, 0, 0],
        [0, 0, 1.5, 1.5, 0, 0],
        [-1 / 3, -1 / 3, 0, 0, 3, 3],
        [0, 0, -0.5, -0.5, -2, -2],
    ]
    np.testing.assert_allclose(code.encoding, rows, atol=1e-14)
    np.testing.assert_allclose(code.decode([0, 1, 2]).weights, [5 / 6, 2 / 3, 1 / 3, 0], atol=1e-14)


# Every straggler set.


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_every_straggler_set_within_the_tolerance(exact_code, play, survivors, dtype):
    rng = np.random.default_rng(1)
    for n in range(1, 9):
        for s in range(n):
            code = exact_code(n, s, dtype)
            assert code.tolerance >= s
            round_ = play(code, rng)
            for stragglers in subsets(n, range(code.tolerance + 1)):
                alive = survivors(n, stragglers)
                assert code.decodable(alive)
                decoding = code.decode(alive)
                assert decoding.exact
                assert not decoding.weights[list(stragglers)].any()
                gap = coefficients(code, decoding.weights) - (np.eye(code.reduction) if code.reduction > 1 else 1)
                assert np.abs(gap).max() < 1e-11
                assert decoding.residual == pytest.approx(np.linalg.norm(gap), abs=1e-12)
                gain = gains(code, decoding.weights)
                assert decoding.condition == pytest.approx(np.linalg.norm(gain) / np.sqrt(code.partitions))
                assert round_.error(decoding.weights) <= decoding.error
                # The worst is computed in another order: in float64 its own rounding shows.
                assert decoding.error <= code.worst.error * (1.2 if dtype == "float64" else 1 + 1e-6)


def test_decodable_is_never_wrong(exact_code, survivors):
    for n, s in [(5, 1), (6, 3), (7, 2)]:
        code = exact_code(n, s, "float64")
        for stragglers in subsets(n, range(n + 1)):
            alive = survivors(n, stragglers)
            if code.decodable(alive):
                assert code.decode(alive).exact


@pytest.mark.parametrize("replicas", ["interleaved", "consecutive"])
def test_repetition_decodes_whatever_can_be_decoded(replicas, survivors):
    for n, s, k in [(5, 1, 5), (7, 2, 7), (7, 2, 12), (8, 2, 6), (6, 2, 6), (7, 6, 7), (7, 1, 4), (8, 1, 5)]:
        code = codes.fractional_repetition(n, s, k, replicas=replicas)
        for stragglers in subsets(n, range(n + 1)):
            alive = survivors(n, stragglers)
            rows = code.encoding[alive]
            best = np.linalg.lstsq(rows.T, np.ones(k), rcond=None)[0] @ rows - 1 if alive else -np.ones(k)
            possible = bool(np.abs(best).max() < 1e-9)
            decoding = code.decode(alive)
            assert code.decodable(alive) == possible == decoding.exact
            if possible:
                assert set(decoding.weights) <= {0.0, 1.0}
            else:
                assert decoding.residual == pytest.approx(np.linalg.norm(best))


def test_repetition_mixes_clusters():
    code = codes.fractional_repetition(workers=10, stragglers=1)  # clusters {0, …, 4} and {5, …, 9}, same cuts
    decoding = code.decode([0, 6, 2, 8, 4])
    assert decoding.exact
    np.testing.assert_array_equal(np.flatnonzero(decoding.weights), [0, 2, 4, 6, 8])


# Placement and load.


def test_loads_of_repetition():
    for n in range(1, 15):
        for s in range(n):
            for k in (n, 2 * n + 3):
                code = codes.fractional_repetition(n, s, k)
                assert code.load == max(map(len, code.placement)) == -(-k // (n // (s + 1)))
                assert (code.encoding.sum(axis=0) == s + 1).all()


@pytest.mark.parametrize("name", ["cyclic_repetition", "cyclic_mds", "reed_solomon"])
def test_cyclic_supports(name):
    code = codes.create(name, workers=7, stragglers=2, dtype="float64")
    for worker, held in enumerate(code.placement):
        assert held.tolist() == sorted((worker + j) % 7 for j in range(3))
    assert code.load == 3


def test_partitions_are_grouped():
    fine = codes.cyclic_mds(6, 3, partitions=20)
    whole = codes.cyclic_mds(6, 3)
    sizes = [3, 3, 4, 3, 3, 4]
    np.testing.assert_array_equal(fine.encoding, np.repeat(whole.encoding, sizes, axis=1))
    assert fine.partitions == 20
    assert fine.load == max(map(len, fine.placement)) == 14
    assert fine.decode([1, 2, 4]).residual < 1e-13


def test_permuted_code_has_the_same_rows():
    plain, permuted = codes.cyclic_mds(8, 3), codes.cyclic_mds(8, 3, permute=7)
    order = np.random.default_rng(7).permutation(8)
    np.testing.assert_array_equal(permuted.encoding, plain.encoding[order])
    assert permuted.worst.error == pytest.approx(plain.worst.error, rel=1e-6)
    decoding = permuted.decode(set(range(8)) - set(permuted.worst.stragglers))
    assert decoding.error == pytest.approx(permuted.worst.error, rel=1e-6)


# The codes' own structure.


def test_mds_is_real_and_positive_where_it_can_be():
    for n in range(2, 14):
        for s in range(1, n):
            code = codes.cyclic_mds(n, s, max_error=float("inf"))
            if (n - s) % 2:
                assert code.encoding.dtype == np.float64
                if 2 * s <= n:
                    assert (code.encoding[0, : s + 1] > 0).all()
            else:
                assert code.encoding.dtype == np.complex128
                real = codes.cyclic_mds(n, s, real=True, max_error=float("inf"))
                assert real.encoding.dtype == np.float64
                assert (real.tolerance, real.load) == (s + 1, s + 2)


@pytest.mark.parametrize("name", ["cyclic_mds", "reed_solomon"])
def test_fewer_stragglers_get_the_weights_of_minimum_norm(name, survivors):
    code = codes.create(name, workers=9, stragglers=4, dtype="float64")
    for stragglers in [(), (3,), (0, 1), (0, 4, 5), (1, 2, 3, 4)]:
        alive = survivors(9, stragglers)
        expected = np.linalg.lstsq(code.encoding[alive].T, np.ones(9), rcond=None)[0]
        np.testing.assert_allclose(code.decode(alive).weights[alive], expected, atol=1e-11)


def test_reed_solomon_weights_are_small(survivors):
    code = codes.reed_solomon(12, 3, dtype="float64")
    points = np.exp(2j * np.pi * np.arange(12) / 12)
    for stragglers in subsets(12, [3]):
        weights = code.decode(survivors(12, stragglers)).weights
        assert np.abs(weights).max() <= 2**3 / 12 + 1e-12
        product = np.prod([1 - points / points[q] for q in stragglers], axis=0) / 12
        np.testing.assert_allclose(weights, product, atol=1e-13)


def test_random_cyclic_code_has_unit_rows_in_the_null_space():
    code = codes.cyclic_repetition(9, 3, variant="random", dtype="float64")
    np.testing.assert_allclose(np.linalg.norm(code.encoding, axis=1), 1)
    assert np.linalg.matrix_rank(code.encoding) == 6


def test_column_variant_has_small_integer_coefficients(survivors):
    for n in range(2, 20):
        for s in range(1, n):
            code = codes.cyclic_repetition(n, s, max_error=float("inf"))
            assert (code.encoding == np.rint(code.encoding)).all()
            assert np.abs(code.encoding).max() <= s + 1
            if n % (s + 1) == 0:
                assert set(code.encoding.ravel()) <= {0.0, 1.0}
                assert code.worst.condition == 1
            for lost in np.array_split(np.arange(n), n)[:3]:
                assert np.abs(code.decode(survivors(n, lost)).weights).max() <= 1


def test_column_variant_is_the_more_stable():
    for n in range(3, 10):
        for s in range(1, n - 1):
            build = {"workers": n, "stragglers": s, "max_error": float("inf")}
            column = codes.cyclic_repetition(**build).worst.error
            random = codes.cyclic_repetition(**build, variant="random").worst.error
            assert column <= (1.07 if (n, s) == (4, 2) else 1) * random
            build = {"speeds": np.arange(n) + 1, "partitions": 2 * n, "stragglers": s, "max_error": float("inf")}
            column = codes.heterogeneous(**build).worst.error
            assert column <= codes.heterogeneous(**build, variant="random").worst.error


# Heterogeneous loads.


def test_loads_are_water_filled():
    np.testing.assert_array_equal(proportional_loads(np.array([1.0, 1, 2, 2]), 6, 1), [2, 2, 4, 4])
    # The fastest would get 9 of 12, may hold 6, and the rest goes to the others.
    np.testing.assert_array_equal(proportional_loads(np.array([1.0, 1, 1, 9]), 6, 1), [2, 2, 2, 6])
    np.testing.assert_array_equal(proportional_loads(np.array([1.0, 1e-9, 1.0]), 4, 1), [4, 0, 4])


@settings(deadline=None, max_examples=60)
@given(
    speeds=st.lists(st.floats(0.05, 20), min_size=1, max_size=9),
    partitions=st.integers(1, 30),
    data=st.data(),
)
def test_heterogeneous_codes(speeds, partitions, data):
    n = len(speeds)
    s = data.draw(st.integers(0, n - 1))
    code = codes.heterogeneous(speeds, partitions, s, max_error=float("inf"))
    loads = np.array([len(held) for held in code.placement])
    assert loads.sum() == partitions * (s + 1)
    assert loads.max() <= partitions
    uncapped = loads < partitions
    ideal = np.array(speeds)
    share = loads[uncapped].sum() * ideal[uncapped] / ideal[uncapped].sum() if uncapped.any() else []
    assert np.all(np.abs(loads[uncapped] - share) <= n)
    stragglers = data.draw(st.permutations(range(n)))[:s]
    assert code.decode(set(range(n)) - set(stragglers)).residual < 1e-9


# A thousand workers.


def test_repetition_of_a_thousand_workers(play):
    rng = np.random.default_rng(2)
    code = codes.fractional_repetition(1024, 32)
    sets = [rng.permutation(1024)[32:] for _ in range(100)]
    started = time.perf_counter()
    decodings = [code.decode(alive) for alive in sets]
    spent = time.perf_counter() - started
    assert "encoding" not in vars(code)
    square = rng.standard_normal((64, 64))
    started = time.perf_counter()
    for _ in sets:
        np.linalg.lstsq(square, square[0], rcond=None)
    assert spent < 5 * (time.perf_counter() - started)  # as cheap as small dense systems, at any machine speed
    assert all(decoding.exact and set(decoding.weights) == {0.0, 1.0} for decoding in decodings)
    round_ = play(code, rng)
    target = float(np.linalg.norm(round_.target.astype(np.float64)))
    assert max(round_.error(decoding.weights) for decoding in decodings) * round_.norms / target < 1e-6
