"""Communication-efficient codes: the worked example, every straggler set, the bound on the load, what is refused."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import codes
from gradcode.codes.communication_efficient import CONSTRUCTIONS, NODES

from .conftest import Round, coefficients, without

ANY = float("inf")


def build(n, d, s, m, construction="auto", **options):
    options = {"dtype": "float64", "max_error": ANY, "draws": 1, **options}
    return codes.communication_efficient(n, d, s, m, construction=construction, **options)


def test_worked_example(survivors):
    """communication_efficient.md 10: f(x) = 2x² + 4x + 3 at the workers' nodes, and (2, 4), highest power last."""
    code = build(4, 3, 1, 2, "polynomial", nodes=(0, 1, 2, 3))
    tau, x = np.array([1, 2, 3, 0]), np.arange(4)[:, None]
    expected = np.stack([x - tau, x**2 - tau**2], axis=2).astype(float)
    np.testing.assert_allclose(code.encoding, expected, atol=1e-12)
    gradients = np.array([[1, 1], [2, 0], [0, -1], [1, 2]])
    messages = np.einsum("iju,ju->i", code.encoding, gradients)
    np.testing.assert_allclose(messages, [3, 9, 19, 33], atol=1e-12)
    for lost in [(), (0,), (1,), (2,), (3,)]:
        np.testing.assert_allclose(messages @ code.decode(survivors(4, lost)).weights, [4, 2], atol=1e-11)


def test_polynomials_vanish_and_their_top_coefficients_are_the_identity():
    """(2), by the recursion on coefficients: p^{(u)} = x·p^{(u−1)} − c·p^{(1)}."""
    n, d, s, m = 7, 5, 2, 3
    points = np.array([0.5, -2, 1, 3, -1, 2, -0.5])
    code = build(n, d, s, m, "polynomial", nodes=points)
    for j in range(n):
        first = np.poly(points[[(j + t) % n for t in range(1, n - d + 1)]])  # highest power first
        own = first
        for u in range(m):
            if u:
                own = np.append(own, 0.0)
                own = own - own[u] * np.append(np.zeros(len(own) - len(first)), first)
                np.testing.assert_allclose(own[1 : u + 1], 0, atol=1e-12)
            np.testing.assert_allclose(code.encoding[:, j, u], np.polyval(own, points), atol=1e-9)


@pytest.mark.parametrize(
    ("construction", "nodes"),
    [("polynomial", nodes) for nodes in NODES] + [(own, "unity") for own in CONSTRUCTIONS[1:]],
)
def test_every_straggler_set_of_up_to_eight_workers(construction, nodes, survivors):
    """All n ≤ 8, d = s + m, all sets of s stragglers, and the weights of minimum norm of fewer."""
    for n in range(1, 9):
        for d in range(1, n + 1):
            for m in range(1, d + 1):
                code = build(n, d, d - m, m, construction, nodes=nodes)
                assert (code.tolerance, code.load, code.reduction) == (d - m, d, m)
                assert [own.tolist() for own in code.placement] == [
                    sorted((i + t) % n for t in range(d)) for i in range(n)
                ]
                for lost in combinations(range(n), d - m):
                    decoding = code.decode(survivors(n, lost))
                    assert decoding.exact and not decoding.weights[list(lost)].any()
                    gap = coefficients(code, decoding.weights) - (np.eye(m) if m > 1 else 1)
                    assert np.abs(gap).max() < 1e-9


def test_with_more_messages_the_weights_are_those_of_minimum_norm(survivors):
    for construction in CONSTRUCTIONS:
        code = build(7, 5, 2, 3, construction)
        matrix = code.encoding.reshape(7, -1)
        for lost in [(), (2,)]:
            alive = survivors(7, lost)
            least = np.linalg.pinv(matrix[alive].T, rcond=1e-9) @ np.tile(np.eye(3), (7, 1))
            np.testing.assert_allclose(code.decode(alive).weights[alive], least, atol=1e-8)


@pytest.mark.parametrize("construction", CONSTRUCTIONS)
def test_with_whole_messages_it_recovers_the_sum_of_a_cyclic_code(construction, survivors):
    code, cyclic = build(7, 3, 2, 1, construction), codes.cyclic_repetition(7, 2, dtype="float64")
    assert code.encoding.shape == cyclic.encoding.shape == (7, 7)
    gradients = np.random.default_rng(0).standard_normal((7, 5))
    for lost in combinations(range(7), 2):
        alive = survivors(7, lost)
        sums = [own.decode(alive).weights @ own.encoding @ gradients for own in (code, cyclic)]
        np.testing.assert_allclose(sums[0], sums[1], atol=1e-11)


def test_the_bound_on_the_load_is_tight(survivors):
    """(1): d = s + m is enough, one partition fewer is refused, and with one straggler more nothing is exact."""
    with pytest.raises(ValueError, match=r"load=3 must be at least stragglers \+ reduction = 2 \+ 2.*Take load=4"):
        build(6, 3, 2, 2)
    code = build(6, 4, 2, 2)
    for lost in combinations(range(6), 3):
        decoding = code.decode(survivors(6, lost))
        assert not decoding.exact and decoding.residual > 1e-3
        assert not code.decodable(survivors(6, lost))


def test_a_surplus_goes_to_the_tolerance():
    code = build(8, 6, 1, 2)
    assert code.tolerance == 4 and code.decode([1, 3, 5, 7]).exact


def test_partitions_are_grouped():
    code = build(4, 3, 1, 2, partitions=11)
    assert code.encoding.shape == (4, 11, 2) and code.partitions == 11 and code.load == 9
    assert code.placement[1].tolist() == list(range(2, 11))
    assert code.decode([0, 1, 3]).exact


def test_automatic_choice():
    """Section 7, and the first whose bound holds where that of its choice does not."""
    for n, s, m, dtype, expected in [
        (8, 2, 2, "float64", "polynomial"),
        (8, 1, 2, "float32", "fourier_centred"),  # polynomial: 1.8e-4
        (16, 2, 2, "float64", "fourier_centred"),
        (16, 2, 3, "float64", "gaussian"),
    ]:
        chosen = codes.communication_efficient(n, s + m, s, m, dtype=dtype)
        again = codes.communication_efficient(n, s + m, s, m, construction=expected, dtype=dtype)
        np.testing.assert_array_equal(chosen.encoding, again.encoding)


def test_of_several_draws_the_best_is_kept():
    one, best = (build(8, 4, 2, 2, "gaussian", draws=draws).worst.error for draws in (1, 20))
    assert best < one


def test_a_refusal_names_what_holds():
    with pytest.raises(ValueError, match=r"reduction=2 with stragglers=2 must be smaller") as refusal:
        codes.communication_efficient(8, 4, 2, 2, construction="polynomial", dtype="float32")
    message = str(refusal.value)
    assert "max_error=1.0e-05" in message and "dtype='float64' holds" in message
    codes.communication_efficient(8, 4, 2, 2, construction="fourier_centred", dtype="float64")
    named = re.search(r"load=(\d), reduction=(\d) with construction='fourier_centred' holds", message)
    codes.communication_efficient(8, int(named[1]), 2, int(named[2]), construction="fourier_centred")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduction": 0}, "reduction=0 must be an integer, between 1 and 7"),
        (
            {"reduction": 8},
            r"reduction=8 must be an integer, between 1 and 7 \(stragglers \+ reduction <= load <= worke",
        ),
        ({"load": 9}, "load=9 must be an integer, between 1 and 8"),
        ({"construction": "best"}, "construction='best' must be one of 'auto', 'polynomial'"),
        ({"nodes": "even"}, "nodes='even' must be one of 'half_steps'"),
        ({"nodes": [1.0] * 8}, "or workers=8 distinct numbers"),
        ({"draws": 0}, "draws=0 must be"),
        ({"dtype": "half"}, "dtype='half' must be one of"),
        ({"partitions": 7}, "partitions=7 must be"),
    ],
)
def test_arguments_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        codes.communication_efficient(**{"workers": 8, "load": 3, "stragglers": 1, "reduction": 2, **options})


def test_equal_weights_are_no_decoder():
    with pytest.raises(ValueError, match="decoder='one_step' must be 'optimal'"):
        build(6, 4, 2, 2).decode(range(6), decoder="one_step")


@settings(deadline=None, max_examples=40)
@given(st.data(), st.sampled_from(CONSTRUCTIONS), st.sampled_from(["float32", "float64"]))
def test_the_error_never_exceeds_its_bound(data, construction, dtype):
    n = data.draw(st.integers(2, 14))
    d = data.draw(st.integers(1, n))
    m = data.draw(st.sampled_from([own for own in (1, 2, 3, 6) if own <= d]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    code = build(n, d, d - m, m, construction, dtype=dtype)
    round_ = Round(code, rng)
    for stragglers in (d - m, 0, min(d - m + 1, n)):  # the last are too many: the bound has what is missing
        decoding = code.decode(without(n, rng.permutation(n)[:stragglers].tolist()))
        assert round_.error(decoding.weights) <= decoding.error


@pytest.mark.parametrize("mode", ["coded", "wait_F"])
def test_lazy_schemes_refuse_short_messages(mode):
    from gradcode.schemes.lazy import CodedRows, Innovations, Rule

    made = Innovations if mode == "coded" else CodedRows
    with pytest.raises(ValueError, match=r"shorter messages \(reduction=2\)"):
        made(build(6, 4, 2, 2), Rule(6, 0.1, 0.1))
