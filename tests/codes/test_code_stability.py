"""Error bounds hold, worst straggler sets are found, and sizes are refused where the bound is too large."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import codes
from gradcode.codes import stability

from .conftest import Round, without

ANY = float("inf")
REFUSABLE = {
    "cyclic_mds": {},
    "reed_solomon": {},
    "cyclic_repetition, random": {"variant": "random", "draws": 3},
    "cyclic_repetition, column": {},
    "heterogeneous, random": {"variant": "random", "draws": 3},
    "heterogeneous, column": {},
}


def build(kind, workers, stragglers, **options):
    name = kind.split(",")[0]
    options = {**REFUSABLE[kind], **options}
    if name == "heterogeneous":
        speeds = [1.0 + 0.6 * (i % 5) for i in range(workers)]
        return codes.heterogeneous(speeds, 2 * workers, stragglers, **options)
    return codes.create(name, workers=workers, stragglers=stragglers, **options)


def adversarial(code, rng):
    """Contiguous, strided, random, and the worst that the search found."""
    n, s = code.workers, code.tolerance
    start = int(rng.integers(n))
    return [
        [(start + i) % n for i in range(s)],
        [(start + i * n // max(s, 1)) % n for i in range(s)],
        rng.permutation(n)[:s].tolist(),
        rng.permutation(n)[: int(rng.integers(s + 1))].tolist(),
        list(code.worst.stragglers),
    ]


@settings(deadline=None, max_examples=120)
@given(
    kind=st.sampled_from(sorted(REFUSABLE)),
    workers=st.integers(2, 24),
    dtype=st.sampled_from(["float32", "float64"]),
    data=st.data(),
)
def test_the_error_never_exceeds_its_bound(kind, workers, dtype, data):
    stragglers = data.draw(st.integers(1, min(workers - 1, 8)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    code = build(kind, workers, stragglers, dtype=dtype, max_error=ANY)
    round_ = Round(code, rng)
    for lost in adversarial(code, rng):
        decoding = code.decode(without(workers, lost))
        assert round_.error(decoding.weights) <= decoding.error
    # More stragglers than the code tolerates: the bound then includes what is missing.
    decoding = code.decode(without(workers, rng.permutation(workers)[: stragglers + 1].tolist()))
    assert round_.error(decoding.weights) <= decoding.error


@pytest.mark.parametrize("kind", sorted(REFUSABLE))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_hold_at_64_workers(kind, dtype):
    rng = np.random.default_rng(6)
    code = build(kind, 64, 5, dtype=dtype, max_error=ANY)
    round_ = Round(code, rng)
    for lost in adversarial(code, rng):
        decoding = code.decode(without(64, lost))
        assert decoding.exact
        assert round_.error(decoding.weights) <= decoding.error <= code.worst.error * 1.2


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_bounds_hold_for_sums_and_approximations(dtype):
    rng = np.random.default_rng(7)
    for code in [
        codes.uncoded(9, 20, dtype=dtype),
        codes.fractional_repetition(11, 2, 20, dtype=dtype),
        codes.batched_coupon(12, 20, 6, dtype=dtype),
        codes.stochastic(12, 11, 6, dtype=dtype),
        codes.stochastic(10, 20, 3, dtype=dtype),
        codes.bernoulli(10, 20, 3, dtype=dtype),
    ]:
        round_ = Round(code, rng)
        for _ in range(10):
            alive = rng.permutation(code.workers)[: int(rng.integers(code.workers + 1))]
            for options in ({}, {"decoder": "one_step"}, {"decoder": "fixed", "straggling": 0.4}):
                decoding = code.decode(alive, **options)
                assert round_.error(decoding.weights) <= decoding.error


@pytest.mark.parametrize("kind", sorted(REFUSABLE))
def test_the_worst_is_the_worst_of_all(kind, survivors):
    for n, s in [(6, 2), (7, 3), (8, 1)]:
        code = build(kind, n, s, max_error=ANY)
        decodings = [code.decode(survivors(n, lost)) for t in range(s + 1) for lost in combinations(range(n), t)]
        assert code.worst.exhaustive
        assert code.worst.error == pytest.approx(max(d.error for d in decodings), rel=1e-6)
        assert code.decode(survivors(n, code.worst.stragglers)).error == pytest.approx(code.worst.error, rel=1e-6)


@pytest.mark.parametrize("kind", ["cyclic_mds", "reed_solomon", "cyclic_repetition, random"])
def test_the_search_is_not_beaten_by_chance(kind, survivors):
    code = build(kind, 24, 7, max_error=ANY, dtype="float64")
    assert not code.worst.exhaustive
    rng = np.random.default_rng(3)
    for _ in range(300):
        assert code.decode(survivors(24, rng.permutation(24)[:7].tolist())).error < code.worst.error
    assert code.decode(survivors(24, code.worst.stragglers)).error == pytest.approx(code.worst.error, rel=0.1)


def test_the_search_climbs():
    """The set of largest total score, among 658 008, is neither contiguous nor likely to be drawn."""
    scores = np.random.default_rng(8).uniform(size=40)

    def weights(sets):
        chosen = np.zeros((len(sets), 40))
        np.put_along_axis(chosen, sets, 1, axis=1)
        return chosen

    def quality(chosen):
        total = chosen @ scores
        return stability.Quality(residual=total, gap=total, condition=total, error=total)

    best = tuple(sorted(np.argsort(scores)[-5:].tolist()))
    assert stability.find_worst(weights, quality, 40, 5).stragglers == best
    assert stability.find_worst(weights, quality, 40, 5, thorough=False).stragglers != best


def test_the_search_knows_the_natural_order():
    plain = codes.cyclic_mds(25, 6, max_error=ANY)
    permuted = codes.cyclic_mds(25, 6, permute=1, max_error=ANY)
    assert not plain.worst.exhaustive
    assert permuted.worst.error == pytest.approx(plain.worst.error, rel=1e-3)
    order = np.random.default_rng(1).permutation(25)
    assert sorted(order[list(permuted.worst.stragglers)]) == list(plain.worst.stragglers)


@pytest.mark.parametrize(
    ("workers", "stragglers", "condition"),
    [(16, 1, 1), (64, 1, 1), (16, 2, 7.2), (32, 2, 14.4), (64, 2, 28.8), (16, 3, 31), (32, 3, 126), (16, 4, 91)],
)
def test_growth_of_centred_mds(workers, stragglers, condition):
    """gradient_codes.md 4.3: amplification of contiguous stragglers."""
    code = codes.cyclic_mds(workers, stragglers, dtype="float64", max_error=ANY)
    assert code.decode(range(stragglers, workers)).condition == pytest.approx(condition, rel=0.02)


@pytest.mark.parametrize(("workers", "stragglers", "condition"), [(16, 1, 7.2), (32, 1, 14), (16, 2, 32), (32, 2, 127)])
def test_growth_of_reed_solomon(workers, stragglers, condition):
    code = codes.reed_solomon(workers, stragglers, dtype="float64", max_error=ANY)
    assert code.decode(range(stragglers, workers)).condition == pytest.approx(condition, rel=0.03)


@pytest.mark.parametrize("kind", sorted(REFUSABLE))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_refusal_names_what_holds(kind, dtype):
    workers, stragglers = 21, 9
    bound = 1e-5 if dtype == "float32" else 3e-14
    with pytest.raises(ValueError, match=f"stragglers={stragglers} must be smaller") as refusal:
        build(kind, workers, stragglers, dtype=dtype, max_error=bound)
    message = str(refusal.value)
    assert f"max_error={bound:.1e}" in message
    reached = float(re.search(r"bound reaches (\S+)", message)[1])
    assert reached == pytest.approx(build(kind, workers, stragglers, dtype=dtype, max_error=ANY).worst.error, rel=0.06)
    assert reached > bound
    named = re.search(r"stragglers=(\d+) holds", message)
    if named:
        code = build(kind, workers, int(named[1]), dtype=dtype, max_error=bound)
        assert code.worst.error <= bound
    else:
        with pytest.raises(ValueError, match="stragglers=1 must be smaller"):
            build(kind, workers, 1, dtype=dtype, max_error=bound)
    if "dtype='float64' holds" in message:
        assert build(kind, workers, stragglers, dtype="float64", max_error=bound).worst.error <= bound
    codes.fractional_repetition(workers, stragglers, dtype=dtype)


def test_default_limits():
    assert stability.limit(None, "float32", 100) == 1e-5
    assert stability.limit(None, "float64", 100) == 1e-10
    assert stability.limit(None, "float32", 10_000) == pytest.approx(10_000 * 2.0**-24)
    assert codes.cyclic_repetition(8, 2).worst.error <= 1e-5
    with pytest.raises(ValueError, match="amplification"):
        codes.cyclic_mds(64, 8)
    assert codes.cyclic_mds(64, 8, max_error=ANY).worst.error > 1e-5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_repetition_is_never_refused(dtype):
    for n, s in [(8, 2), (128, 16), (1024, 1), (1024, 32)]:
        worst = codes.fractional_repetition(n, s, dtype=dtype).worst
        assert worst.condition == 1
        assert worst.error <= 4 * n * stability.roundoff(dtype)
