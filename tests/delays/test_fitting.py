"""Fits: parameters come back within bounds from their variance, the right family wins, SciPy agrees."""

import math

import numpy as np
import pytest
from scipy import stats

from gradcode.delays import (
    Deterministic,
    Exponential,
    Fit,
    Pareto,
    ShiftedExponential,
    Weibull,
    fit,
    fit_workers,
)

N = 4000


def times(law, seed=0, n=N):
    return law.sample(np.random.default_rng(seed), n)


def fitted(law_type, x):
    return next(found for found in fit(x) if isinstance(found.law, law_type))


@pytest.mark.parametrize("seed", range(3))
def test_exponential_laws_come_back(seed):
    """Rates within 5 standard deviations rate/√n; the shift lies above, by Exp(mean 1/(n·rate)): < 12 means."""
    assert abs(fitted(Exponential, times(Exponential(4.0), seed)).law.rate / 4 - 1) < 5 / math.sqrt(N)
    law = fitted(ShiftedExponential, times(ShiftedExponential(0.5, 4.0), seed)).law
    assert abs(law.rate / 4 - 1) < 5 / math.sqrt(N)
    assert 0 < law.shift - 0.5 < 12 / (N * 4.0)


@pytest.mark.parametrize("seed", range(3))
def test_pareto_comes_back(seed):
    """Shape within 5 standard deviations shape/√n; scale above, relatively by about Exp(mean 1/(n·shape))."""
    law = fitted(Pareto, times(Pareto(1.5, 0.1), seed)).law
    assert abs(law.shape / 1.5 - 1) < 5 / math.sqrt(N)
    assert 0 < law.scale / 0.1 - 1 < 12 / (N * 1.5)


@pytest.mark.parametrize("shape", [0.6, 1.0, 5.0, 40.0])
def test_weibull_comes_back(shape):
    """Within 5 standard deviations: shape·√(0.608/n) and scale·√(1.109/n)/shape (inverse Fisher information)."""
    law = fitted(Weibull, times(Weibull(shape, 3.0))).law
    assert abs(law.shape / shape - 1) < 5 * math.sqrt(0.608 / N)
    assert abs(law.scale / 3 - 1) < 5 * math.sqrt(1.109 / N) / shape


def test_likelihoods_agree_with_scipy():
    x = times(ShiftedExponential(0.1, 2.0), n=300)
    by_type = {type(found.law): found for found in fit(x)}
    weibull, pareto = by_type[Weibull].law, by_type[Pareto].law
    shifted = by_type[ShiftedExponential].law
    references = {
        Exponential: stats.expon(scale=x.mean()),
        ShiftedExponential: stats.expon(loc=shifted.shift, scale=1 / shifted.rate),
        Pareto: stats.pareto(pareto.shape, scale=pareto.scale),
        Weibull: stats.weibull_min(weibull.shape, scale=weibull.scale),
    }
    assert set(by_type) == set(references)
    for kind, reference in references.items():
        found = by_type[kind]
        assert found.log_likelihood == pytest.approx(reference.logpdf(x).sum(), rel=1e-9)
        parameters = 1 if kind is Exponential else 2
        assert found.aic == pytest.approx(2 * parameters - 2 * found.log_likelihood)
        assert found.ks == pytest.approx(stats.kstest(x, reference.cdf).statistic, rel=1e-9)
    numeric = stats.weibull_min.fit(x, floc=0)
    assert weibull.shape == pytest.approx(numeric[0], rel=1e-3)
    assert weibull.scale == pytest.approx(numeric[2], rel=1e-3)


def test_the_fit_is_a_maximum():
    """No neighbouring Weibull law is likelier."""
    x = times(Pareto(3.0, 1.0), n=200)
    best = fitted(Weibull, x)
    for a, b in [(1.001, 1.0), (0.999, 1.0), (1.0, 1.001), (1.0, 0.999)]:
        other = stats.weibull_min(best.law.shape * a, scale=best.law.scale * b)
        assert other.logpdf(x).sum() < best.log_likelihood


@pytest.mark.parametrize(
    "law", [ShiftedExponential(1.0, 2.0), Pareto(1.5, 0.1), Weibull(3.0, 1.0), Weibull(0.5, 1.0)], ids=repr
)
def test_the_right_family_wins(law):
    found = fit(times(law).reshape(40, 100))
    assert isinstance(found[0].law, type(law))
    assert [one.aic for one in found] == sorted(one.aic for one in found)
    assert found[0].ks < 1.95 / math.sqrt(N)


def test_the_plain_exponential_has_the_smaller_aic_of_equal_fits():
    """One parameter against two of nested laws: 2·Δlog-likelihood must pass 2. Weibull: P(χ²₁ > 2) = 0.16."""
    wins = sum(
        fitted(Exponential, x).aic < fitted(Weibull, x).aic
        for x in (times(Exponential(1.0), seed, 200) for seed in range(100))
    )
    assert 84 - 5 * math.sqrt(100 * 0.84 * 0.16) < wins < 84 + 5 * math.sqrt(100 * 0.84 * 0.16)


@pytest.mark.parametrize("value", [0.0, 0.25, 1e-9, 1e9])
def test_equal_times_are_deterministic(value):
    assert fit([value] * 5) == [Fit(Deterministic(value), math.inf, -math.inf, 0.0)]


def test_nearly_equal_and_widely_spread_times_are_fitted():
    for x in (1 + 1e-9 * np.arange(5.0), 10.0 ** np.arange(-150, 150, 30)):
        for found in fit(x):
            assert math.isfinite(found.log_likelihood)
            assert 0 < found.ks <= 1


def test_a_time_of_zero_leaves_out_laws_without_it():
    assert {type(found.law) for found in fit([0.0, 1.0, 2.0, 5.0])} == {Exponential, ShiftedExponential}


def test_fit_workers_fits_each_column():
    table = np.stack([times(Pareto(2.0, 1.0)), np.full(N, 0.5), times(ShiftedExponential(1.0, 9.0))], axis=1)
    kinds = [type(found[0].law) for found in fit_workers(table)]
    assert kinds == [Pareto, Deterministic, ShiftedExponential]


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: fit([1.0, 2.0]), "times.size=2 must be >= 3"),
        (lambda: fit([1.0, 2.0, -3.0]), r"times=\[-3.0\] must be >= 0 and finite"),
        (lambda: fit([1.0, 2.0, math.inf]), r"times=\[inf\] must be"),
        (lambda: fit([1.0, 2.0, math.nan]), r"times=\[nan\] must be"),
        (lambda: fit_workers([1.0, 2.0, 3.0]), r"times.shape=\(3,\) must be"),
        (lambda: fit_workers([[1.0, 2.0], [1.0, -2.0], [1.0, 3.0]]), r"worker=1: times=\[-2.0\]"),
    ],
)
def test_bad_times_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
