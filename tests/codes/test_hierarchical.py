"""The hierarchical code: worked examples, every pattern of stragglers, special cases."""

from __future__ import annotations

from itertools import combinations
from math import comb, prod

import numpy as np
import pytest

from gradcode import codes
from gradcode.codes.layers import LagrangeCode, consecutive, points

from .conftest import without
from .layered import ANY, BY_HAND, PRIMITIVES, at_most, by_layers, gradients, patterns

# m, (s_e, s_w), K, D, the n_i, and the patterns of exactly s_e and s_w: first those of hierarchical.md 9.2.
CASES = [
    ([3, 3, 3], (1, 1), 9, 4, [6, 6, 6], 27),
    ([4, 4, 4], (1, 2), 12, 6, [8, 8, 8], 108),
    ([2, 2, 2], (1, 1), 3, 2, [2, 2, 2], 12),
    ([3, 3, 6], (1, 2), 12, 6, [6, 6, 12], 99),
    ([2, 4, 6], (0, 1), 12, 2, [2, 4, 6], 48),
    ([1, 1, 2], (1, 0), 4, 2, [2, 2, 4], 3),
    ([3, 3], (1, 1), 6, 4, [6, 6], 6),
    ([5], (0, 2), 10, 6, [10], 10),
    ([2, 3, 2, 3], (2, 1), 10, 6, [6, 9, 6, 9], 37),
    ([2, 2, 2, 2], (0, 0), 16, 2, [4, 4, 4, 4], 1),
]


# By hand.


def test_worked_example():
    """hierarchical.md 10."""
    code = codes.hierarchical([3, 3, 3], 1, 1, **BY_HAND)
    assert (code.partitions, code.load, code.tolerance) == (9, 4, 3)
    held = [[1, 2, 3, 4, 5, 6], [7, 8, 9, 1, 2, 3], [4, 5, 6, 7, 8, 9]]
    assert [(own + 1).tolist() for own in code.held] == held
    blocks = np.array([[2, 1.5, 0], [-1, 0, 3], [0, -0.5, -2]])
    np.testing.assert_allclose(code.outer.encoding, np.repeat(blocks, 3, axis=1), atol=1e-15)
    for inner in code.inner:
        np.testing.assert_allclose(inner.encoding, np.repeat(blocks, 2, axis=1), atol=1e-15)
    np.testing.assert_allclose(code.flat()[0], [4, 4, 3, 2.25, 0, 0, 0, 0, 0])
    g = np.arange(1.0, 10)
    messages = code.flat() @ g
    np.testing.assert_allclose(messages, [30, 43.5, -39, 129, -60, -3, -34.5, -97.5, 76.5])
    sums = code.outer.encoding @ g
    np.testing.assert_allclose(sums, [34.5, 66, -55.5])
    vectors = [[0, -1, -2], [1 / 2, 0, -1 / 2], [2 / 3, 1 / 3, 0]]
    for missing, vector in enumerate(vectors):
        alive = without(3, [missing])
        np.testing.assert_allclose(code.outer.decode(alive).weights, vector, atol=1e-15)
        for i, inner in enumerate(code.inner):
            weights = inner.decode(alive).weights
            np.testing.assert_allclose(weights, vector, atol=1e-15)
            assert weights @ messages[3 * i : 3 * i + 3] == pytest.approx(sums[i])
        assert code.outer.decode(alive).weights @ sums == pytest.approx(45)
    # Edge node 0 and worker 1 of the others.
    np.testing.assert_allclose(code.decode([3, 5, 6, 8]).weights, [0, 0, 0, -1 / 2, 0, 1 / 2, -1, 0, 1], atol=1e-15)


def test_unequal_example():
    code = codes.hierarchical([1, 1, 2], 1, 0, **BY_HAND)
    assert [(own + 1).tolist() for own in code.held] == [[1, 2], [3, 4], [1, 2, 3, 4]]
    assert code.load == 2
    rows = [[1.5, 1.5, 0, 0], [0, 0, 3, 3], [-0.5, -0.5, -2, -2]]
    np.testing.assert_allclose(code.outer.encoding, rows, atol=1e-15)
    messages = code.flat() @ [1, 2, 3, 4]
    np.testing.assert_allclose(messages, [4.5, 21, -1.5, -14])
    for alive, vector in [
        ([1, 2, 3], (0, -1, -2, -2)),
        ([0, 2, 3], (1 / 2, 0, -1 / 2, -1 / 2)),
        ([0, 1], (2 / 3, 1 / 3, 0, 0)),
    ]:
        weights = code.decode(alive).weights
        np.testing.assert_allclose(weights, vector, atol=1e-15)
        assert weights @ messages == pytest.approx(10)


def test_the_primitive_takes_any_allocation():
    """The closed form over a shift-by-one cyclic layout, in exact integers' reach."""
    held = (np.arange(7) - np.arange(7)[:, None]) % 7 <= 2
    for nodes in ("cosine", "integers", "unity"):
        code = LagrangeCode(held, np.ones(7, dtype=np.int64), 2, "float64", points(nodes, 7))
        for lost in at_most(7, 2):
            decoding = code.decode(without(7, lost))
            assert decoding.exact
            assert decoding.residual < 1e-12
    x = points("cosine", 5)
    np.testing.assert_allclose(x, 2 + np.cos(np.pi * np.array([1, 3, 5, 7, 9]) / 10))


def test_consecutive_covers_evenly():
    rng = np.random.default_rng(0)
    for _ in range(200):
        k, s = int(rng.integers(1, 12)), int(rng.integers(0, 4))
        sizes: list[int] = []
        while sum(sizes) < (s + 1) * k:
            sizes.append(int(rng.integers(1, min(k, (s + 1) * k - sum(sizes)) + 1)))
        held = consecutive(sizes, k)
        assert all(len(set(own.tolist())) == len(own) == size for own, size in zip(held, sizes, strict=True))
        assert (np.bincount(np.concatenate(held), minlength=k) == s + 1).all()


# Every pattern.


@pytest.mark.parametrize("primitive", PRIMITIVES)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_pattern_decodes(case, primitive):
    sizes, (s_e, s_w), k, load, held, count = case
    code = codes.hierarchical(sizes, s_e, s_w, k, dtype="float64", max_error=ANY, **PRIMITIVES[primitive])
    assert (code.load, [len(own) for own in code.held]) == (load, held)
    assert {len(own) for own in code.placement} == {load}
    assert code.encoding.dtype == (np.complex128 if primitive == "unity" else np.float64)
    assert sum(1 for _ in patterns(sizes, s_e, s_w, exactly=True)) == count
    g = gradients(code, np.random.default_rng(1))
    messages, target = code.flat() @ g, g.sum(axis=0)
    starts = np.cumsum([0, *sizes])
    for i, (inner, own) in enumerate(zip(code.inner, code.held, strict=True)):
        np.testing.assert_allclose(
            code.flat()[starts[i] : starts[i + 1]][:, own], inner.encoding * code.outer.encoding[i, own], rtol=1e-14
        )
    for edges, lost, each in patterns(sizes, s_e, s_w):
        alive = without(code.workers, lost)
        assert code.decodable(alive)
        decoding = code.decode(alive)
        assert decoding.exact
        assert not decoding.weights[lost].any()
        assert np.linalg.norm(decoding.weights @ messages - target) <= 1e-9 * np.linalg.norm(target)
        assert np.linalg.norm(by_layers(code, edges, each, messages) - target) <= 1e-9 * np.linalg.norm(target)
        assert decoding.error <= code.worst.error * (1 + 1e-6)


@pytest.mark.parametrize(
    ("sizes", "s_e", "s_w"),
    [
        ([40] * 40, 8, 8),
        ([40] * 40, 2, 2),
        ([40] * 40, 4, 7),
        ([40] * 40, 7, 1),
        ([40] * 8, 1, 8),
        ([9] * 40, 8, 8),
        ([17] * 23, 5, 6),
        ([20] * 20, 8, 5),
        (list(range(9, 40)), 8, 8),
        ([10] * 11, 8, 8),
    ],
)
def test_large_sizes_decode(sizes, s_e, s_w):
    """There are more than 1e5 patterns: contiguous, spread and random ones, and the worst that a search found."""
    code = codes.hierarchical(sizes, s_e, s_w, dtype="float64")
    assert code.load == (s_e + 1) * (s_w + 1)
    n, rng = len(sizes), np.random.default_rng(2)
    g = gradients(code, rng)
    messages, target = code.flat() @ g, g.sum(axis=0)
    assert comb(n, s_e) * prod(comb(size, s_w) for size in sorted(sizes)[: n - s_e]) > 1e5

    def shapes(count, lost):
        start = int(rng.integers(count))
        yield [(start + i) % count for i in range(lost)]
        yield list(range(count - lost, count))
        yield [(start + i * count // lost) % count for i in range(lost)]
        for _ in range(6):
            yield rng.permutation(count)[:lost].tolist()

    starts = np.cumsum([0, *sizes])
    tried = []
    for edges in (*shapes(n, s_e), code.outer.worst.stragglers):
        own = [list(shapes(size, s_w)) for size in sizes]
        tried += [(edges, [own[i][choice] for i in range(n)]) for choice in (0, 1, int(rng.integers(2, 9)))]
    tried.append((code.outer.worst.stragglers, [inner.worst.stragglers for inner in code.inner]))
    for edges, each in tried:
        each = [range(size) if i in edges else each[i] for i, size in enumerate(sizes)]
        decoding = code.decode(without(code.workers, [starts[i] + j for i in range(n) for j in each[i]]))
        assert decoding.exact
        assert np.linalg.norm(decoding.weights @ messages - target) <= 1e-9 * np.linalg.norm(target)
        assert np.linalg.norm(by_layers(code, set(edges), each, messages) - target) <= 1e-9 * np.linalg.norm(target)
        assert decoding.error <= code.worst.error * 1.2


@pytest.mark.parametrize(
    ("sizes", "s_e", "s_w", "count"),
    [
        ([40] * 40, 2, 0, 780),
        ([12] * 28, 3, 0, 3276),
        ([40] * 3, 0, 1, 64_000),
        ([7] * 4, 2, 3, 7350),
        ([10] * 3, 1, 2, 6075),
    ],
)
@pytest.mark.parametrize("primitive", ["auto", "cosine", "random"])
def test_all_patterns_of_larger_sizes(sizes, s_e, s_w, count, primitive):
    """Up to 1e5 patterns: all of them, from the decodings of each layer."""
    code = codes.hierarchical(sizes, s_e, s_w, dtype="float64", max_error=ANY, **PRIMITIVES[primitive])
    g = gradients(code, np.random.default_rng(3))
    messages, target = code.flat() @ g, g.sum(axis=0)
    starts, tried, worst = np.cumsum([0, *sizes]), 0, 0.0
    sums = [  # (patterns, 3) of each edge node
        np.array(
            [
                inner.decode(without(inner.workers, lost)).weights @ messages[starts[i] : starts[i + 1]]
                for lost in combinations(range(inner.workers), s_w)
            ]
        )
        for i, inner in enumerate(code.inner)
    ]
    for edges in combinations(range(len(sizes)), s_e):
        weights = code.outer.decode(without(len(sizes), edges)).weights
        decoded = np.zeros((1, 3))
        for i in without(len(sizes), edges):
            decoded = (decoded[:, None] + weights[i] * sums[i]).reshape(-1, 3)
        tried += len(decoded)
        worst = max(worst, np.linalg.norm(decoded - target, axis=1).max())
    assert tried == count
    assert worst <= 1e-9 * np.linalg.norm(target)


def test_tolerance_is_of_any_workers():
    """Whoever they are, (s_e+1)(s_w+1) − 1 workers; one more can be too many."""
    for sizes, s_e, s_w in [([3, 3, 3], 1, 1), ([2, 3, 2, 3], 2, 0), ([4, 4], 0, 2)]:
        code = codes.hierarchical(sizes, s_e, s_w, **BY_HAND)
        s = code.tolerance
        assert s == (s_e + 1) * (s_w + 1) - 1
        assert all(code.decodable(without(code.workers, lost)) for lost in at_most(code.workers, s))
        assert all(code.decode(without(code.workers, lost)).exact for lost in at_most(code.workers, s))
        holders = [i for i, own in enumerate(code.placement) if 0 in own]
        assert len(holders) == s + 1
        decoding = code.decode(without(code.workers, holders))
        assert not code.decodable(without(code.workers, holders))
        assert not decoding.exact
        assert decoding.residual >= 1


def test_decodable_is_never_wrong_and_grows():
    for options in ({}, {"variant": "column"}, {"variant": "random"}):
        code = codes.hierarchical([2, 3, 2], 1, 1, 14, capped=True, dtype="float64", **options)
        known = {}
        for number in range(2**7):
            alive = frozenset(i for i in range(7) if number >> i & 1)
            known[alive] = code.decodable(alive)
            assert not known[alive] or code.decode(alive).exact
            assert known[alive] >= any(known[alive - {i}] for i in alive)


def test_more_stragglers_get_the_least_squares_gradient():
    code = codes.hierarchical([3, 3, 3], 1, 1, **BY_HAND)
    alive = [0, 3, 6, 7]
    decoding = code.decode(alive)
    best = np.linalg.lstsq(code.encoding[alive].T, np.ones(9), rcond=None)[0]
    np.testing.assert_allclose(decoding.weights[alive], best, atol=1e-12)
    assert not decoding.exact


# Special cases of hierarchical.md 3.4.


def test_one_edge_node_is_a_plain_code():
    code = codes.hierarchical([6], 0, 2, variant="lagrange", dtype="float64")
    assert code.tolerance == 2
    np.testing.assert_array_equal(code.flat(), code.inner[0].encoding)


def test_no_stragglers_at_all_is_uncoded():
    code = codes.hierarchical([2, 3], 0, 0)
    np.testing.assert_array_equal(code.flat(), np.eye(5))
    assert not code.decodable([0, 1, 2, 3])


def test_without_worker_stragglers_an_edge_node_adds_up():
    for variant in ("auto", "lagrange"):
        code = codes.hierarchical([2, 4, 6], 1, 0, variant=variant, dtype="float64")
        for inner in code.inner:
            np.testing.assert_array_equal(inner.encoding.sum(axis=0), 1)
            np.testing.assert_array_equal(inner.decode(range(inner.workers)).weights, 1)
            assert not inner.decodable(range(inner.workers - 1))


def test_without_edge_stragglers_the_data_is_cut_among_edge_nodes():
    code = codes.hierarchical([2, 4, 6], 0, 1, dtype="float64")
    assert sorted(np.concatenate(code.held).tolist()) == list(range(12))
    assert not code.decodable(without(12, [0, 1]))


def test_any_edge_node_is_enough():
    code = codes.hierarchical([4, 4, 4], 2, 1)
    assert [sorted(own.tolist()) for own in code.held] == [list(range(12))] * 3
    for edge in range(3):
        assert code.decode(range(4 * edge, 4 * edge + 4)).exact
