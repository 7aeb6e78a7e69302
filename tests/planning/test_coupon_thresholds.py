"""Batched coupon's collector: thresholds and times against enumeration, draws and bcc.md's numbers."""

from __future__ import annotations

from itertools import combinations, permutations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcode.codes.coupon import cover_probability, mean_threshold
from gradcode.delays import Deterministic, Pareto, ShiftedExponential
from gradcode.planning import coupon as planning

LAW = ShiftedExponential(1.0, 1.0)


def first_cover(draw: tuple[int, ...], batches: int) -> int | None:
    """How many of the draw's first entries have all batches among them."""
    return next((k for k in range(1, len(draw) + 1) if len(set(draw[:k])) == batches), None)


@pytest.mark.parametrize(("batches", "workers"), [(1, 3), (2, 4), (3, 5), (4, 4)])
def test_threshold_probabilities_by_enumeration(batches: int, workers: int) -> None:
    found = [first_cover(draw, batches) for draw in product(range(batches), repeat=workers)]
    covered = [k for k in found if k is not None]
    expected = [covered.count(k) / len(covered) for k in range(1, workers + 1)]
    assert planning.threshold_probabilities(batches, workers) == pytest.approx(expected, abs=1e-15)
    assert planning.mean_threshold_if_covered(batches, workers) == pytest.approx(np.mean(covered))


def test_the_worked_example() -> None:
    """bcc.md section 8: two batches, K is geometric after the first, P(cover with 4) = 0.875."""
    assert mean_threshold(2) == 3 and cover_probability(4, 2) == 0.875
    assert planning.threshold_variance(2) == 2
    unlimited = planning.threshold_probabilities(2, 60)
    assert unlimited[1:5] == pytest.approx([1 / 2, 1 / 4, 1 / 8, 1 / 16], abs=1e-15)
    assert planning.cyclic_repetition(4, 4, 2).mean_threshold == 3


@pytest.mark.parametrize("resample", [True, False])
def test_draws_agree_with_the_closed_form(resample: bool) -> None:
    """Unlimited workers: mean and variance within 4 standard errors; one placement has the mean of its own copies."""
    draws, batches = 20_000, 5
    if resample:
        found = planning.draw_thresholds(batches, None, draws, rng=1)
        assert np.isfinite(found).all() and found.min() == batches
        variance = planning.threshold_variance(batches)
        assert abs(found.mean() - mean_threshold(batches)) < 4 * np.sqrt(variance / draws)
        fourth = np.mean((found - found.mean()) ** 4)
        assert abs(found.var() - variance) < 4 * np.sqrt((fourth - variance**2) / draws)
        few = planning.draw_thresholds(batches, 12, draws, rng=2)
        p = cover_probability(12, batches)
        assert abs(np.isfinite(few).mean() - p) < 4 * np.sqrt(p * (1 - p) / draws)
    else:
        # Two batches on four workers: 3 and 1 copies, in a random order: P(K = k) = 1/4 + 1/4, 1/4, 1/4.
        for seed in range(20):
            found = planning.draw_thresholds(2, 4, draws, rng=seed, resample_each_iteration=False)
            if np.isinf(found).all():
                continue
            if found.max() == 4:
                for k, p in ((2, 1 / 2), (3, 1 / 4), (4, 1 / 4)):
                    assert abs((found == k).mean() - p) < 4 * np.sqrt(p * (1 - p) / draws)
                return
        pytest.fail("no draw of 3 and 1 copies")


@pytest.mark.parametrize(("groups", "copies"), [(2, 2), (3, 2), (2, 3), (1, 4)])
def test_dealt_batches_by_enumeration(groups: int, copies: int) -> None:
    batches = [batch for batch in range(groups) for _ in range(copies)]
    found = [first_cover(order, groups) for order in set(permutations(batches))]
    expected = [found.count(k) / len(found) for k in range(1, len(batches) + 1)]
    assert planning.grouped_probabilities(groups, copies) == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize(("partitions", "load", "workers"), [(3, 2, 3), (4, 2, 3), (3, 1, 4), (2, 2, 2)])
def test_random_subsets_by_enumeration(partitions: int, load: int, workers: int) -> None:
    subsets = list(combinations(range(partitions), load))
    below = [
        np.mean([len(set().union(*draw)) == partitions for draw in product(subsets, repeat=k)])
        for k in range(workers + 1)
    ]
    for k in range(workers + 1):
        assert planning.subsets_cover_probability([load] * k, partitions) == pytest.approx(below[k], abs=1e-15)
    expected = np.diff(below) / below[-1]
    found = planning.subsets_threshold_probabilities(partitions, load, workers)
    assert found == pytest.approx(expected, abs=1e-15)


def test_uneven_subsets_by_enumeration() -> None:
    draws = product(combinations(range(4), 1), combinations(range(4), 2), combinations(range(4), 3))
    expected = np.mean([len({*a, *b, *c}) == 4 for a, b, c in draws])
    assert planning.subsets_cover_probability([1, 2, 3], 4) == pytest.approx(expected, abs=1e-15)
    assert planning.subsets_cover_probability([1, 0, 2], 4) == 0.0
    assert planning.subsets_cover_probability([4, 0], 4) == 1.0


@given(st.integers(1, 12), st.data())
def test_the_mean_of_subsets_is_the_sum_of_the_tail(partitions: int, data: st.DataObject) -> None:
    """E K = Σ_k P(K > k), where P(K ≤ k) is that of k workers covering; whole loads need one worker."""
    load = data.draw(st.integers(max(1, partitions // 2), partitions))
    tail = [1 - planning.subsets_cover_probability([load] * k, partitions) for k in range(80)]
    assert planning.subsets_mean_threshold(partitions, load) == pytest.approx(sum(tail), rel=1e-9)
    assert planning.subsets_mean_threshold(partitions, load) >= planning.lower_bound(partitions, load) - 1e-12


def test_expected_times_are_those_of_draws() -> None:
    """Closed form against workers that really draw batches: within 4 standard errors, for two laws."""
    draws, workers = 4000, 12
    rng = np.random.default_rng(3)
    method = planning.batched_coupon(workers, 8, 2)
    choices = rng.integers(4, size=(draws, workers))
    for law in (LAW, Pareto(3.0, 0.5)):
        finish = 2 * law.sample(rng, (draws, workers))
        times, thresholds = planning.collecting_times(choices, finish, 4)
        covered = np.isfinite(thresholds)
        assert (np.isinf(times) == ~covered).all()
        estimate = planning.Estimate.of(times)
        assert estimate.covered == covered.mean()
        assert abs(estimate.mean - method.expected_time(law)) < 4 * estimate.error
        queued, _ = planning.collecting_times(choices, finish, 4, receive=0.5)
        bound = times[covered] + 0.5 * thresholds[covered]
        assert (queued[covered] <= bound + 1e-9).all() and (queued[covered] > times[covered]).all()
        other = planning.monte_carlo(method, law, 0.5, draws, rng)
        own = planning.Estimate.of(queued)
        assert abs(own.mean - other.mean) < 4 * np.hypot(own.error, other.error)


def test_one_draw_by_hand() -> None:
    """Batches (0, 0, 1, 0) finishing in the order 2, 0, 1, 3, and in the order 0, 1, 3, 2."""
    choices = np.array([[0, 0, 1, 0]] * 2)
    finish = np.array([[2.0, 3.0, 1.0, 4.0], [1.0, 2.0, 4.0, 3.0]])
    times, thresholds = planning.collecting_times(choices, finish, 2)
    assert times.tolist() == [2.0, 4.0] and thresholds.tolist() == [2.0, 4.0]
    times, _ = planning.collecting_times(choices, finish, 2, receive=1.5)
    assert times.tolist() == [4.0, 7.0]


@given(st.lists(st.floats(0, 10), min_size=1, max_size=8), st.floats(0, 3))
def test_receiving_is_a_serial_queue(came: list[float], seconds: float) -> None:
    free, expected = 0.0, []
    for time in sorted(came):
        free = max(free, time) + seconds
        expected.append(free)
    assert planning.received(came, seconds).tolist() == pytest.approx(expected, abs=1e-12)


def test_methods_at_a_glance() -> None:
    """Whoever must answer, and that a per-message cost is added for each vector."""
    uncoded, cyclic = planning.uncoded(10, 20), planning.cyclic_repetition(10, 20, 6)
    assert (uncoded.load, uncoded.mean_threshold) == (2.0, 10.0)
    assert cyclic.mean_threshold == 8.0  # three copies of everything: s = 2
    assert uncoded.expected_time(Deterministic(3.0), 0.5) == 6.0 + 5.0
    subsets = planning.random_subsets(10, 6, 3)
    assert subsets.communication == 3 * subsets.mean_threshold
    assert planning.fractional_repetition(6, 6, 3).mean_threshold == pytest.approx(
        1 + 1 + 2 / 5 * (1 + 1 / 4)
    )  # two groups of three: after the first, a run of its own kind
    dealt, drawn = planning.fractional_repetition(50, 50, 10), planning.batched_coupon(50, 50, 10)
    assert 5 < dealt.mean_threshold < drawn.mean_threshold < planning.cyclic_repetition(50, 50, 10).mean_threshold


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: planning.threshold_probabilities(5, 4), "batches=5 must be at most workers=4"),
        (lambda: planning.lower_bound(4, 5), "load=5 must be at most partitions=4"),
        (lambda: planning.batched_coupon(3, 8, 2), "batches=4 must be at most workers=3"),
        (lambda: planning.batched_coupon(3, 8, 0), "load=0 must lie between 1 and partitions=8"),
        (lambda: planning.cyclic_repetition(5, 6, 2), "load=2 must put each of partitions=6 on equally many"),
        (lambda: planning.cyclic_repetition(5, 10, 0), "load=0 must lie between 1"),
        (lambda: planning.fractional_repetition(6, 9, 6), "load=6 must divide partitions=9"),
        (lambda: planning.random_subsets(2, 6, 2), "workers=2 must be at least 3"),
        (lambda: planning.subsets_cover_probability([5], 4), r"loads=\[5\] must be at most partitions=4"),
        (lambda: planning.uncoded(5, 5).expected_time(LAW, -1.0), "receive=-1.0 must be >= 0"),
        (lambda: planning.received([1.0], -1.0), "seconds=-1.0 must be >= 0"),
        (lambda: planning.monte_carlo(planning.random_subsets(6, 6, 2), LAW), "method.messages=2 must be 1"),
        (lambda: planning.Estimate.of([1.0, np.inf]), "draws=2 must cover at least twice, 1 did"),
    ],
)
def test_bad_arguments_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
