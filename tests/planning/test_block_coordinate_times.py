"""Runtimes: the worked examples, the spec's numbers, laws that can be summed by hand, and draws."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from gradcode.delays import Deterministic, Empirical, Exponential, Pareto, ShiftedExponential, Weibull
from gradcode.delays.law import Law
from gradcode.planning.block_coordinate import (
    by_frequency,
    by_large_threshold,
    by_time,
    expected_maximum,
    expected_runtime,
    loads,
    lower_bound,
    monte_carlo,
    optimal,
    round_sizes,
    runtime,
    sizes_of,
    tolerances,
)
from gradcode.planning.block_coordinate.expected import Integral

PAPER = ShiftedExponential(shift=50.0, rate=1e-3)
PARETO = Pareto(shape=2.5, scale=500.0)
WEIBULL = Weibull(shape=1.5, scale=1000.0, shift=50.0)
L, M = 20_000, 50

# Section 13: law, N, E of x^(t), of x^(f), of uniform blocks, and the bound of Jensen.
ROWS = [
    (PAPER, 4, 2.798354e8, 2.689569e8, 2.978858e8, 1.856878e8),
    (PAPER, 20, 7.885300e7, 7.843846e7, 1.450491e8, 5.194890e7),
    (PARETO, 4, 2.754911e8, 2.788512e8, 3.50994e8, 2.150723e8),
    (WEIBULL, 10, 1.382484e8, 1.392549e8, 2.147528e8, 9.82999e7),
]
LAWS: list[Law] = [PAPER, PARETO, WEIBULL, Exponential(1.0), Weibull(0.5, 1.0), Pareto(1.05, 1.0), Weibull(20.0, 1.0)]


def test_the_worked_example() -> None:
    assert loads((4, 6, 4, 6)).tolist() == [4, 16, 28, 52]
    assert runtime((4, 6, 4, 6), (3, 1, 10, 2), samples=4, cycles=1) == 56
    assert tolerances((4, 6, 4, 6)).tolist() == [0] * 4 + [1] * 6 + [2] * 4 + [3] * 6
    assert runtime(sizes_of((0, 1, 2), 3), (4, 1, 2), samples=3, cycles=1) == 6


def test_runtimes_of_many_iterations_scale_with_everything() -> None:
    times = np.random.default_rng(0).exponential(size=(5, 3, 4))
    each = runtime((1, 0, 2, 3), times, 8, 1)
    assert each.shape == (5, 3)
    assert runtime((1, 0, 2, 3), times[4, 1, ::-1], 8, 1) == each[4, 1]
    np.testing.assert_allclose(runtime((2, 0, 4, 6), times, 16, 3), 12 * each)


def test_workers_that_never_answer() -> None:
    dead = (1.0, np.inf, 2.0)
    assert runtime((0, 3, 1), dead, 3, 1) == max(2 * 6, 1 * 9)
    assert np.isinf(runtime((1, 3, 1), dead, 3, 1))


def test_coordinates_with_costs_count_as_much_as_they_cost() -> None:
    costs = (5.0, 1.0, 2.0, 3.0)
    assert loads((2, 1, 1), costs).tolist() == [6, 10, 19]
    assert runtime((2, 1, 1), (1, 2, 4), 3, 1, costs) == max(4 * 6, 2 * 10, 1 * 19)
    np.testing.assert_allclose(
        expected_runtime((2, 1, 1), PAPER, 3, 1, costs), expected_runtime((6, 2, 3), PAPER, 3, 1)
    )
    with pytest.raises(ValueError, match="add up to the 4 coordinates of costs"):
        runtime((2, 1, 2), (1, 2, 4), 3, 1, costs)


@pytest.mark.parametrize(("law", "workers", "time", "frequency", "uniform", "bound"), ROWS)
def test_the_spec_s_rows(law: Law, workers: int, time: float, frequency: float, uniform: float, bound: float) -> None:
    def expected(sizes: np.ndarray) -> float:
        return expected_runtime(sizes, law, M, 1)

    assert expected(by_time(law, workers, L)) == pytest.approx(time, rel=1e-6)
    assert expected(by_frequency(law, workers, L)) == pytest.approx(frequency, rel=1e-6)
    assert expected(np.full(workers, L / workers)) == pytest.approx(uniform, rel=1e-6)
    assert lower_bound(law, workers, L, M, 1) == pytest.approx(bound, rel=1e-6)


def test_everything_by_hand() -> None:
    """Section 14.3: E = L − a/2 + a²/L for two exponential workers and x = (a, L − a)."""
    law = Exponential(1.0)
    for a in (0.0, 1.0, 3.0, 6.0, 12.0):
        assert expected_runtime((a, 12 - a), law, 2, 1) == pytest.approx(12 - a / 2 + a**2 / 12, rel=1e-9)
    np.testing.assert_allclose(by_time(law, 2, 12), (6, 6))
    assert lower_bound(law, 2, 12, 2, 1) == pytest.approx(9)
    np.testing.assert_allclose(by_frequency(ShiftedExponential(1.0, 1.0), 2, 12), (9.458330, 2.541670), atol=1e-6)


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("sizes", [(5, 0, 0, 0), (0, 0, 7, 0), (0, 0, 0, 1)], ids=str)
def test_a_single_level_waits_for_one_order_statistic(law: Law, sizes: tuple[int, ...]) -> None:
    s = int(np.flatnonzero(sizes)[0])
    mean = sum(sizes) * (s + 1) * law.mean_order_statistic(4 - s, 4)
    assert expected_runtime(sizes, law, 4, 1) == pytest.approx(mean, rel=1e-8)


@pytest.mark.parametrize("law", LAWS, ids=repr)
@pytest.mark.parametrize("workers", [3, 30])
def test_draws_agree(law: Law, workers: int) -> None:
    rng = np.random.default_rng(workers)
    sizes = rng.exponential(size=workers)
    if isinstance(law, Pareto):
        sizes[:2] = 0.0  # the others have a variance
    exact = expected_runtime(sizes, law, 7, 2)
    estimate = monte_carlo(sizes, law, 7, 2, draws=40_000, rng=rng)
    assert abs(exact - estimate.mean) < 4 * estimate.error


@pytest.mark.parametrize("sizes", [(2.0, 1.0, 3.0), (0.0, 2.0, 1.0), (1.0, 1.0, 0.0)], ids=str)
def test_a_law_of_few_values_is_summed(sizes: tuple[float, ...]) -> None:
    values = (1.0, 2.0, 2.0, 7.0)
    every = np.array(list(product(values, repeat=3)))
    mean = runtime(sizes, every, 5, 1).mean()
    assert expected_runtime(sizes, Empirical(values), 5, 1) == pytest.approx(mean, rel=1e-12)
    assert expected_runtime(sizes, Deterministic(3.0), 5, 1) == pytest.approx(5 * loads(sizes)[-1], rel=1e-12)


def test_more_jumps_than_can_be_summed() -> None:
    law = Empirical(PAPER.sample(np.random.default_rng(0), 5000))
    sizes = by_time(PAPER, 40, L)
    exact = expected_runtime(sizes, law, M, 1)
    estimate = monte_carlo(sizes, law, M, 1, draws=50_000)
    assert abs(exact - estimate.mean) < 4 * estimate.error + 1e-4 * exact  # as documented


def test_infinite_means() -> None:
    assert np.isinf(expected_runtime((1, 1), Pareto(1.0, 1.0), 2, 1))
    assert expected_runtime((0, 1), Pareto(1.0, 1.0), 2, 1) == pytest.approx(2 * 2)  # E[T_(1)] = 2
    assert np.isinf(expected_runtime((1, 1), Deterministic(np.inf), 2, 1))


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_the_gradient_is_that_of_the_value(law: Law) -> None:
    work = np.cumsum(np.random.default_rng(3).uniform(0.2, 1.0, 5))
    value, gradient = Integral(work, law).gradient()
    assert value == pytest.approx(expected_maximum(work, law), rel=1e-9)
    for n in range(5):
        step = np.zeros(5)
        step[n] = 1e-3
        difference = (expected_maximum(work + step, law) - expected_maximum(work - step, law)) / 2e-3
        assert gradient[n] == pytest.approx(difference, abs=2e-5 * value)


def test_closed_forms_to_the_authors_integers() -> None:
    by_t = "5696 1076 609 444 366 325 303 294 294 303 321 349 390 448 534 663 868 1222 1912 3583"
    by_f = "5521 939 549 408 340 305 287 282 285 297 318 351 398 466 565 715 953 1356 2091 3574"
    large = "2778 1390 927 695 556 463 397 347 309 278 253 232 214 199 185 174 164 154 146 139"
    assert round_sizes(by_time(PAPER, 20, L)).tolist() == list(map(int, by_t.split()))
    assert round_sizes(by_frequency(PAPER, 20, L)).tolist() == list(map(int, by_f.split()))
    # The residual is 2, all of it on the largest block.
    assert round_sizes(by_large_threshold(20, 10_000)).tolist() == list(map(int, large.split()))
    assert round_sizes(by_large_threshold(3, 11)).tolist() == [6, 3, 2]


def test_closed_forms_of_the_spec_s_blocks() -> None:
    np.testing.assert_allclose(by_time(PAPER, 4, L), (6963.29, 3072.04, 3449.31, 6515.36), atol=0.006)
    np.testing.assert_allclose(by_frequency(PAPER, 4, L), (5783.00, 2750.55, 3688.95, 7777.50), atol=0.006)
    np.testing.assert_allclose(by_time(PARETO, 4, L), (12883.69, 4294.56, 1789.40, 1032.35), atol=0.006)


def test_closed_forms_equalise_what_each_level_waits_for() -> None:
    levels = (1, 2, 5)
    sizes = by_time(PAPER, 8, 100.0, levels)
    assert np.flatnonzero(sizes).tolist() == list(levels)
    assert sizes.sum() == pytest.approx(100)
    waits = [loads(sizes)[n] * PAPER.mean_order_statistic(8 - n, 8) for n in levels]
    np.testing.assert_allclose(waits, waits[0])
    assert lower_bound(PAPER, 8, 100, 8, 1, levels) == pytest.approx(waits[0])


def test_by_frequency_needs_a_least_time() -> None:
    with pytest.raises(ValueError, match=r"x\^\(f\) does not exist.*Use by_time"):
        by_frequency(ShiftedExponential(0.0, 1.0), 4, 100)
    assert by_frequency(Exponential(1.0), 4, 100, levels=(0, 1)).sum() == pytest.approx(100)  # T_(1) is not in use


@pytest.mark.parametrize("workers", [2, 5, 20])
@pytest.mark.parametrize("law", [PAPER, ShiftedExponential(1.0, 1.0), ShiftedExponential(0.01, 1.0)], ids=repr)
def test_guarantees(law: ShiftedExponential, workers: int) -> None:
    """Section 7: E(x^(t)) = LB·R_t, E(x^(f)) ≤ LB·R_f, and both ratios have a bound in closed form."""
    ranks = range(workers, 0, -1)
    ratio_t = expected_maximum([1 / law.mean_order_statistic(k, workers) for k in ranks], law)
    ratio_f = expected_maximum([law.mean_inverse_order_statistic(k, workers) for k in ranks], law)
    bound = lower_bound(law, workers, L, M, 1)
    best = optimal(law, workers, L, M, 1)
    of_t, of_f = (expected_runtime(way(law, workers, L), law, M, 1) for way in (by_time, by_frequency))
    assert of_t == pytest.approx(bound * ratio_t, rel=1e-7)
    assert of_f <= bound * ratio_f * (1 + 1e-7)
    assert bound <= best.bound <= best.value <= min(of_t, of_f)
    harmonic, shift = sum(1 / k for k in ranks), law.rate * law.shift
    assert ratio_t <= (shift + harmonic) / (shift + 1 / workers)
    assert ratio_f <= 1 + harmonic / shift


def test_rounding() -> None:
    assert round_sizes((1.4, 1.4, 7.2)).tolist() == [1, 1, 8]
    assert round_sizes((0.5, 0.5, 0.5, 0.5)).sum() == 2  # L < N: largest remainders
    many = np.full(9, 0.6)
    many[0] = 12 - many[1:].sum()
    assert round_sizes(many).tolist() == [4, *[1] * 8]
    assert round_sizes([1.5] * 8).sum() == 12  # the largest block gets −4 of its 2: largest remainders
    assert round_sizes([1.5] * 8).min() >= 0
    with pytest.raises(ValueError, match="be whole"):
        round_sizes((1.0, 1.3))


def test_rounding_to_the_ends_of_costly_coordinates() -> None:
    assert round_sizes((5.2, 2.8, 3.0), costs=(5.0, 1.0, 2.0, 3.0)).tolist() == [1, 2, 1]
    assert round_sizes((5.6, 5.4, 0.0), costs=(5.0, 1.0, 2.0, 3.0)).tolist() == [2, 2, 0]
    with pytest.raises(ValueError, match="the sum of the costs"):
        round_sizes((1, 2, 3), costs=(1.0, 2.0))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: runtime((1, -1), (1, 1), 1, 1), "sizes="),
        (lambda: runtime((1, 1), (1, 1, 1), 1, 1), "times.shape"),
        (lambda: runtime((1, 1), (1, np.nan), 1, 1), "times="),
        (lambda: runtime((1, 1), (1, 1), 0, 1), "samples=0"),
        (lambda: by_time(PAPER, 4, 10, levels=(4,)), r"levels=\[4\].*0..3"),
        (lambda: by_time(PAPER, 4, 10, levels=()), "at least one level"),
        (lambda: by_time(Deterministic(0.0), 4, 10), "must be > 0"),
        (lambda: expected_maximum((2.0, 1.0), PAPER), "not falling"),
        (lambda: sizes_of((0, 3), 3), "0..2"),
    ],
)
def test_refusals(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
