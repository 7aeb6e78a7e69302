"""The hierarchical code: its trade-off, the sizes that it refuses, and which coefficients it takes."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import codes
from gradcode.codes.affine import AffineCode
from gradcode.codes.columns import StaircaseCode
from gradcode.codes.feasibility import smallest_partitions
from gradcode.codes.layers import LagrangeCode
from gradcode.codes.repetition import IntervalCode

from .conftest import without
from .layered import ANY, PRIMITIVES, by_layers, gradients

# The trade-off.


@pytest.mark.parametrize(("s_w", "load", "s"), [(1, 4, 13), (2, 6, 16)])
def test_tradeoff_of_four_times_ten(s_w, load, s):
    """hierarchical.md 2.2."""
    code = codes.hierarchical([10] * 4, 1, s_w, dtype="float64")
    assert code.tradeoff() == codes.Tradeoff(bound=load / 40, load=load / 40, flat=(s + 1) / 40, flat_stragglers=s)


@st.composite
def choices(draw, feasible=True):
    sizes = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    s_w = draw(st.integers(0, min(sizes) - 1))
    most = sum(sizes) // max(sizes) - 1 if feasible else len(sizes) - 1
    return sizes, draw(st.integers(0, most)), s_w


def check_patterns(code, s_e, s_w, data):
    """A drawn pattern decodes in both ways."""
    n = len(code.inner)
    edges = data.draw(st.permutations(range(n)))[:s_e]
    each = [
        range(size) if i in edges else data.draw(st.permutations(range(size)))[:s_w]
        for i, size in enumerate(code.workers_per_edge)
    ]
    starts = np.cumsum([0, *code.workers_per_edge])
    lost = [int(starts[i]) + j for i in range(n) for j in each[i]]
    decoding = code.decode(without(code.workers, lost))
    assert decoding.residual < 1e-9
    assert decoding.error <= code.worst.error * 1.2
    g = gradients(code, np.random.default_rng(4))
    np.testing.assert_allclose(by_layers(code, edges, each, code.flat() @ g), g.sum(axis=0), atol=1e-8)


def holders(code):
    """(K,) workers, and (K,) edge nodes that hold each partition."""
    by_worker = np.bincount(np.concatenate(code.placement), minlength=code.partitions)
    return by_worker, np.bincount(np.concatenate(code.held), minlength=code.partitions)


@settings(deadline=None, max_examples=60)
@given(choice=choices(), times=st.integers(1, 3), primitive=st.sampled_from(sorted(PRIMITIVES)), data=st.data())
def test_the_bound_is_attained(choice, times, primitive, data):
    sizes, s_e, s_w = choice
    k = times * smallest_partitions(sizes, s_e, s_w)
    code = codes.hierarchical(sizes, s_e, s_w, k, dtype="float64", max_error=ANY, **PRIMITIVES[primitive])
    trade = code.tradeoff()
    assert trade.load == trade.bound == (s_e + 1) * (s_w + 1) / sum(sizes)
    assert 0 < trade.load <= trade.flat <= 1
    by_worker, by_edge = holders(code)
    assert (by_worker == (s_e + 1) * (s_w + 1)).all()
    assert (by_edge == s_e + 1).all()
    check_patterns(code, s_e, s_w, data)


@settings(deadline=None, max_examples=60)
@given(choice=choices(feasible=False), extra=st.integers(0, 9), data=st.data())
def test_capped_loads_are_the_smallest(choice, extra, data):
    sizes, s_e, s_w = choice
    k = sum(sizes) + extra
    code = codes.hierarchical(sizes, s_e, s_w, k, capped=True, dtype="float64", max_error=ANY)
    # Σ_i min(K, ⌊D m_i/(s_w+1)⌋) ≥ (s_e+1)K is necessary: edge node i has room for that many covered partitions.
    smallest = next(d for d in range(1, k + 1) if sum(min(k, d * size // (s_w + 1)) for size in sizes) >= (s_e + 1) * k)
    assert code.load == smallest
    assert code.tradeoff().load >= code.tradeoff().bound
    by_worker, by_edge = holders(code)
    assert (by_worker == (s_e + 1) * (s_w + 1)).all()
    assert (by_edge == s_e + 1).all()
    assert min(map(len, code.placement)) >= 1
    check_patterns(code, s_e, s_w, data)


def test_capped_example():
    """hierarchical.md 2.1: the bound of 2 is not attainable."""
    code = codes.hierarchical([8, 1, 1], 1, 0, 10, capped=True)
    assert (code.load, code.tradeoff().bound) == (5, 0.2)
    assert [len(own) for own in code.held] == [10, 5, 5]
    for edge, lost in enumerate([range(8), [8], [9]]):
        assert code.decode(without(10, lost)).exact, edge


def test_capped_is_the_plain_code_where_the_bound_is_attained():
    plain = codes.hierarchical([2, 4, 6], 1, 1, 24, dtype="float64")
    capped = codes.hierarchical([2, 4, 6], 1, 1, 24, capped=True, dtype="float64")
    np.testing.assert_array_equal(plain.flat(), capped.flat())


# Refusals.


def named(message):
    """The arguments of the choices that a message names, {argument: value}, one for each choice."""
    choices = message.split("nearest feasible choice is ")[1].split("; ")
    read = {"partitions": int, "edge_stragglers": int, "worker_stragglers": int, "capped": lambda word: word == "True"}
    return [{name: read[name](value) for name, value in re.findall(r"(\w+)=(\w+)", text)} for text in choices]


REFUSED = [
    # m, s_e, s_w, K, how the message begins, the first choice that it names
    ([3, 3, 3], 3, 1, None, r"edge_stragglers=3 must be at most 2 \(F1\)", {"edge_stragglers": 2}),
    ([3, 2, 3], 0, 2, None, r"worker_stragglers=2 must be at most 1 \(F1\).*edge node 1", {"worker_stragglers": 1}),
    ([3, 3], 5, 7, 12, r"edge_stragglers=5 must", {"edge_stragglers": 1, "worker_stragglers": 2}),
    ([2, 3, 4], 2, 2, 13, "worker_stragglers=2 must", {"edge_stragglers": 1, "worker_stragglers": 1, "partitions": 9}),
    ([8, 1, 1], 1, 0, None, r"edge_stragglers=1 must be at most 0 \(F2\): edge node 0 has 8", {"edge_stragglers": 0}),
    ([3, 3, 3], 1, 1, 13, r"partitions=13 cannot be shared out \(F3\): edge node 0 would", {"partitions": 9}),
    ([3, 3, 3], 1, 1, 14, r"partitions=14 .* \(F3\)", {"partitions": 18}),
    ([4, 4], 1, 0, 3, r"partitions=3 .* \(F3\): a worker would hold .* = 3·2·1/8 partitions", {"partitions": 4}),
    ([2, 4], 0, 0, 1, r"partitions=1 .* \(F3\)", {"partitions": 6}),
]


@pytest.mark.parametrize(("sizes", "s_e", "s_w", "k", "beginning", "choice"), REFUSED)
def test_infeasible_choices_name_the_nearest(sizes, s_e, s_w, k, beginning, choice):
    with pytest.raises(ValueError, match=beginning) as refusal:
        codes.hierarchical(sizes, s_e, s_w, k, dtype="float64")
    given_ = {"edge_stragglers": s_e, "worker_stragglers": s_w, "partitions": k}
    choices = named(str(refusal.value))
    assert choices[0] == choice
    for change in choices:
        codes.hierarchical(sizes, **{**given_, **change, "dtype": "float64"})


@settings(deadline=None, max_examples=150)
@given(
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4),
    s_e=st.integers(0, 5),
    s_w=st.integers(0, 5),
    k=st.none() | st.integers(1, 40),
    capped=st.booleans(),
)
def test_every_named_choice_is_feasible(sizes, s_e, s_w, k, capped):
    options = {"capped": capped, "variant": "column", "max_error": ANY}
    given_ = {"edge_stragglers": s_e, "worker_stragglers": s_w, "partitions": k, **options}
    try:
        codes.hierarchical(sizes, **given_)
    except ValueError as refusal:
        message = str(refusal)
    else:
        feasible = s_e < len(sizes) and s_w < min(sizes)
        assert feasible and (capped or (s_e + 1) * max(sizes) <= sum(sizes))
        return
    if "with capped=True: one per worker" in message:
        codes.hierarchical(sizes, **{**given_, "partitions": sum(sizes)})
        return
    for change in named(message):
        codes.hierarchical(sizes, **{**given_, **change})


def test_bad_arguments():
    for arguments, message in [
        (([], 0, 0), r"workers_per_edge=\[\] must be a list of numbers of workers"),
        ((4, 0, 0), "workers_per_edge=4 must be a list"),
        (([2, 0], 0, 0), r"workers_per_edge\[1\]=0 must be an integer, at least 1"),
        (([2, 2], -1, 0), "edge_stragglers=-1 must be an integer, at least 0"),
        (([2, 2], 0, 0.5), "worker_stragglers=0.5 must be an integer"),
        (([2, 2], 0, 0, 0), "partitions=0 must be an integer, at least 1"),
    ]:
        with pytest.raises(ValueError, match=message):
            codes.hierarchical(*arguments)
    for options, message in [
        ({"variant": "mds"}, "variant='mds' must be one of 'auto', 'lagrange', 'random'"),
        ({"nodes": "unity"}, "nodes='unity' must go with variant='lagrange'"),
        ({"nodes": "even"}, "nodes='even' must be one of 'cosine', 'integers', 'unity'"),
        ({"draws": 0}, "draws=0 must"),
        ({"dtype": "half"}, "dtype='half' must"),
        ({"max_error": -1.0}, "max_error=-1.0 must"),
        ({"partitions": 3, "capped": True}, "partitions=3 must be at least 8 with capped=True: one per worker"),
        (
            {"variant": "repetition"},
            "variant='repetition' is not possible: the 3 workers of edge node 0 must fall into 2",
        ),
    ]:
        with pytest.raises(ValueError, match=message):
            codes.hierarchical([3, 3, 2], 0, 1, **options)
    with pytest.raises(ValueError, match="the 3 edge nodes must fall into 2 groups"):
        codes.hierarchical([2, 2, 2], 1, 1, variant="repetition")


# Which coefficients.


def kinds(code):
    return type(code.outer), {type(inner) for inner in code.inner}


def test_auto_repeats_where_it_can():
    for sizes, s_e, s_w in [
        ([10] * 4, 1, 1),
        ([6] * 3, 2, 5),
        ([2, 4, 6], 0, 1),
        ([1, 2, 3, 2, 4], 1, 0),
        ([4] * 64, 31, 3),
    ]:
        code = codes.hierarchical(sizes, s_e, s_w)
        assert kinds(code) == (IntervalCode, {IntervalCode})
        assert set(np.unique(code.flat())) <= {0.0, 1.0}
        assert code.worst.condition == 1
        np.testing.assert_array_equal(code.flat(), codes.hierarchical(sizes, s_e, s_w, variant="repetition").flat())
    code = codes.hierarchical([1, 2, 3, 2, 4], 1, 0)  # 1 + 2 + 3 and 2 + 4 workers are a lap each
    assert code.decode([0, 1, 2, 3, 4, 5]).weights.tolist() == [1.0] * 6 + [0.0] * 6


def test_auto_takes_the_closed_form_while_its_bound_holds():
    assert kinds(codes.hierarchical([3, 3], 1, 1)) == (IntervalCode, {LagrangeCode})
    assert kinds(codes.hierarchical([10] * 4, 2, 3, dtype="float64")) == (LagrangeCode, {LagrangeCode})
    # Many stragglers of few nodes amplify in the closed form, many nodes in random codes, too.
    assert kinds(codes.hierarchical([2] * 10, 8, 1, dtype="float64")) == (AffineCode, {IntervalCode})
    assert kinds(codes.hierarchical([40] * 40, 8, 8, dtype="float64")) == (StaircaseCode, {StaircaseCode})


@pytest.mark.parametrize("variant", ["lagrange", "random", "column"])
def test_a_refusal_names_what_holds(variant):
    sizes, s_e, s_w = [5, 5, 5, 5], 2, 2
    with pytest.raises(ValueError, match="edge_stragglers=2 and worker_stragglers=2 must be others") as refusal:
        codes.hierarchical(sizes, s_e, s_w, variant=variant)
    message = str(refusal.value)
    reached = float(re.search(r"bound reaches (\S+)", message)[1])
    bound = codes.hierarchical(sizes, s_e, s_w, variant=variant, max_error=ANY).layered_error
    assert reached == pytest.approx(bound, rel=0.06)
    assert bound > 1e-5
    assert "variant='auto' holds" not in message
    assert "dtype='float64' holds" in message
    codes.hierarchical(sizes, s_e, s_w, variant=variant, dtype="float64")
    e, w = map(int, re.search(r"edge_stragglers=(\d), worker_stragglers=(\d) holds with plain sums", message).groups())
    assert set(np.unique(codes.hierarchical(sizes, e, w).flat())) <= {0.0, 1.0}
    with pytest.raises(ValueError, match="variant='auto' holds"):
        codes.hierarchical([3, 3, 3], 1, 1, variant="random")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("primitive", ["auto", "cosine", "random", "column"])
def test_errors_stay_below_their_bounds(dtype, primitive, play):
    """In both ways of adding up, over gradients of very different norms."""
    rng = np.random.default_rng(5)
    for sizes, s_e, s_w in [([3, 3, 3], 1, 1), ([5, 4, 6], 1, 2), ([10] * 7, 2, 3)]:
        code = codes.hierarchical(sizes, s_e, s_w, dtype=dtype, max_error=ANY, **PRIMITIVES[primitive])
        round_ = play(code, rng)
        starts = np.cumsum([0, *sizes])
        tried = [(code.outer.worst.stragglers, [inner.worst.stragglers for inner in code.inner])]
        tried += [
            (rng.permutation(len(sizes))[:s_e], [rng.permutation(size)[:s_w] for size in sizes]) for _ in range(20)
        ]
        for edges, each in tried:
            each = [range(size) if i in edges else each[i] for i, size in enumerate(sizes)]
            decoding = code.decode(without(code.workers, [starts[i] + j for i in range(len(sizes)) for j in each[i]]))
            assert round_.error(decoding.weights) <= decoding.error <= code.worst.error * 1.2
            decoded = by_layers(code, set(edges), each, round_.messages)
            error = np.linalg.norm((decoded.astype(np.longdouble) - round_.target).astype(np.float64)) / round_.norms
            assert error <= code.layered_error


def test_layers_lose_less_than_one_sum():
    code = codes.hierarchical([40] * 40, 5, 3)
    assert code.layered_error < code.worst.error / 10


def test_equal_edge_nodes_share_a_code():
    code = codes.hierarchical([3, 3, 4], 1, 1, 20, dtype="float64")
    assert code.inner[0] is code.inner[1]
    assert code.inner[2].workers == 4
