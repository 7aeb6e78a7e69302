"""Laws: closed forms against quadrature, against independent formulae, and against sampling."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy import integrate, special, stats

from gradcode.delays import Deterministic, Empirical, Exponential, Pareto, ShiftedExponential, Weibull
from gradcode.delays.law import quadrature

SMOOTH = [
    ShiftedExponential(0.1, 10.0),
    ShiftedExponential(0.0, 3.0),
    Exponential(2.0),
    Pareto(2.5, 0.1),
    Weibull(0.7, 0.1, 0.1),
    Weibull(2.0, 1.5),
]
LAWS = [*SMOOTH, Deterministic(0.5), Empirical([0.3, 0.1, 0.2, 0.2, 0.9])]
RANKS = [(1, 1), (1, 5), (3, 5), (5, 5), (2, 40), (20, 40), (40, 40)]

SCIPY = [
    (ShiftedExponential(0.1, 10.0), stats.expon(loc=0.1, scale=0.1)),
    (Exponential(2.0), stats.expon(scale=0.5)),
    (Pareto(2.5, 0.1), stats.pareto(2.5, scale=0.1)),
    (Weibull(0.7, 0.1, 0.1), stats.weibull_min(0.7, loc=0.1, scale=0.1)),
    (Weibull(2.0, 1.5), stats.weibull_min(2.0, scale=1.5)),
]


@pytest.mark.parametrize(("law", "reference"), SCIPY, ids=lambda value: repr(value)[:24])
def test_cdf_ppf_and_mean_agree_with_scipy(law, reference):
    t = np.concatenate([[-1.0, 0.0], reference.ppf(np.linspace(0, 0.999, 50))])
    np.testing.assert_allclose(law.cdf(t), reference.cdf(t), rtol=1e-12, atol=1e-15)
    q = np.linspace(0, 0.999, 50)
    np.testing.assert_allclose(law.ppf(q), reference.ppf(q), rtol=1e-12)
    assert law.mean == pytest.approx(reference.mean(), rel=1e-12)


@pytest.mark.parametrize("law", SMOOTH, ids=repr)
def test_cdf_undoes_ppf(law):
    q = np.linspace(0, 0.999999, 101)
    np.testing.assert_allclose(law.cdf(law.ppf(q)), q, atol=1e-12)
    assert law.ppf(1.0) == math.inf


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_sampling_follows_the_cdf(law):
    """Kolmogorov-Smirnov: P(distance > 1.95 / √n) < 1e-3, also for laws with steps."""
    n = 20_000
    x = np.sort(law.sample(np.random.default_rng(1), n))
    empirical = np.searchsorted(x, x, side="right") / n
    assert np.max(np.abs(empirical - law.cdf(x))) < 1.95 / math.sqrt(n)


@pytest.mark.parametrize(("k", "n"), RANKS)
@pytest.mark.parametrize("law", SMOOTH, ids=repr)
def test_order_statistics_agree_with_an_independent_quadrature(law, k, n):
    """E[g(T_(k))] over the Beta(n − k + 1, k) density of the survival probability, by SciPy's adaptive rule."""
    beta = stats.beta(n - k + 1, k)
    inner = beta.ppf([1e-200, 1e-30, 1e-9, 1e-4, 0.1, 0.5, 0.9, 1 - 1e-4, 1 - 1e-9])
    cuts = np.unique(np.concatenate([[0], inner, [1]]))

    def expectation(g):
        def integrand(v):
            return g(float(law.at(-math.log(v)))) * beta.pdf(v)

        pieces = pairwise(cuts)
        return sum(integrate.quad(integrand, a, b, epsabs=1e-12, epsrel=1e-10)[0] for a, b in pieces)

    def inverse(t):
        return 1 / t if t else 0.0  # t = 0 has density 0 for k > 1

    assert law.mean_order_statistic(k, n) == pytest.approx(expectation(lambda t: t), rel=1e-7)
    if law.ppf(0.0) > 0 or k > 1:
        assert law.mean_inverse_order_statistic(k, n) == pytest.approx(expectation(inverse), rel=1e-7)


@pytest.mark.parametrize("law", [*LAWS, Pareto(1.2, 1.0)], ids=repr)
@pytest.mark.parametrize(("k", "n"), [(3, 8), (7, 8)])
def test_order_statistics_agree_with_sampling(law, k, n):
    """Within 5 standard errors of the sample mean; ranks at which both variances are finite."""
    if law == Pareto(1.2, 1.0) and k == 7:
        k = 6  # the variance is finite for shape·(n − k + 1) > 2
    x = np.sort(law.sample(np.random.default_rng(2), (20_000, n)), axis=1)[:, k - 1]
    for values, expected in (
        (x, law.mean_order_statistic(k, n)),
        (1 / x, law.mean_inverse_order_statistic(k, n)),
    ):
        error = values.std() / math.sqrt(values.size)
        assert abs(values.mean() - expected) <= 5 * error + 1e-12


@pytest.mark.parametrize(("k", "n"), [*RANKS, (500, 1000), (1000, 1000), (50_000, 100_000), (1, 100_000)])
def test_quadrature_gives_the_closed_forms(k, n):
    law = Pareto(2.5, 0.1)
    assert quadrature(law.at, k, n) == pytest.approx(law.mean_order_statistic(k, n), rel=1e-9)
    inverse = quadrature(lambda y: 1 / law.at(y), k, n)
    assert inverse == pytest.approx(law.mean_inverse_order_statistic(k, n), rel=1e-9)
    mean = quadrature(lambda y: y, k, n)
    assert mean == pytest.approx(Exponential(1.0).mean_order_statistic(k, n), rel=1e-9)


def test_exponential_order_statistics_are_harmonic_numbers():
    assert Exponential(2.0).mean_order_statistic(3, 4) == pytest.approx((1 / 4 + 1 / 3 + 1 / 2) / 2, rel=1e-14)
    shifted = ShiftedExponential(1.5, 2.0).mean_order_statistic(3, 4)
    assert shifted == pytest.approx(1.5 + (1 / 4 + 1 / 3 + 1 / 2) / 2, rel=1e-14)


def test_inverse_order_statistics_of_the_shifted_exponential_by_hand():
    """N = 2, rate 1, shift 1: φ_1 = 2e²E₁(2), φ_2 = 2e·E₁(1) − 2e²E₁(2) (block coordinate spec, 14.3)."""
    law = ShiftedExponential(1.0, 1.0)
    first = 2 * math.e**2 * special.exp1(2)
    assert law.mean_inverse_order_statistic(1, 2) == pytest.approx(first, rel=1e-12)
    second = 2 * math.e * special.exp1(1) - first
    assert law.mean_inverse_order_statistic(2, 2) == pytest.approx(second, rel=1e-12)


@pytest.mark.parametrize("shift", [1e-3, 1e-6, 1e-9])
def test_inverse_order_statistic_close_to_divergence(shift):
    """E[1 / T_(1)] of n: n·rate·e^z·E₁(z), z = n·rate·shift, large but finite."""
    z = 3 * 2.0 * shift
    expected = 3 * 2.0 * math.exp(z) * special.exp1(z)
    assert ShiftedExponential(shift, 2.0).mean_inverse_order_statistic(1, 3) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("k", "n"), [(1, 3), (2, 3), (3, 3), (4, 6)])
@pytest.mark.parametrize("shape", [0.5, 0.7, 1.0, 3.0])
def test_weibull_order_statistics_by_the_alternating_sum(shape, k, n):
    terms = [
        (-1) ** i * math.comb(k - 1, i) * (n - k + 1 + i) ** (-1 - 1 / shape) for i in range(k)
    ]  # exact enough for small n
    expected = 0.4 + 2.0 * math.gamma(1 + 1 / shape) * k * math.comb(n, k) * sum(terms)
    assert Weibull(shape, 2.0, 0.4).mean_order_statistic(k, n) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize(("shape", "rel"), [(0.5001, 1e-4), (0.501, 1e-4), (0.505, 1e-4), (0.55, 1e-8), (0.8, 1e-10)])
def test_weibull_inverse_by_the_alternating_sum_up_to_divergence(shape, rel):
    """Diverges at k·shape = 1; the sum holds below by the continuation of Γ."""
    k, n, a = 2, 4, 1 / shape
    terms = [(-1) ** i * math.comb(k - 1, i) * (n - k + 1 + i) ** (a - 1) for i in range(k)]
    expected = special.gamma(1 - a) * k * math.comb(n, k) * sum(terms) / 3.0
    assert Weibull(shape, 3.0).mean_inverse_order_statistic(k, n) == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize(("shape", "n", "finite"), [(0.3, 5, 2), (0.5, 5, 3), (1.0, 4, 3), (1.2, 4, 4)])
def test_pareto_means_are_infinite_exactly_where_they_diverge(shape, n, finite):
    """Finite if and only if shape·(n − k + 1) > 1: for the ``finite`` fastest."""
    law = Pareto(shape, 0.1)
    means = [law.mean_order_statistic(k, n) for k in range(1, n + 1)]
    assert [math.isfinite(mean) for mean in means] == [k <= finite for k in range(1, n + 1)]
    assert law.mean_inverse_order_statistic(n, n) > 0
    assert law.mean == (math.inf if shape <= 1 else pytest.approx(0.1 * shape / (shape - 1)))


@pytest.mark.parametrize("k", [1, 4, 9, 12])
def test_pareto_order_statistics_by_gamma_functions(k):
    n, a, scale = 12, 1.2, 0.1
    g = math.gamma
    expected = scale * g(n + 1) * g(n - k + 1 - 1 / a) / (g(n - k + 1) * g(n + 1 - 1 / a))
    assert Pareto(a, scale).mean_order_statistic(k, n) == pytest.approx(expected, rel=1e-12)
    inverse = g(n + 1) * g(n - k + 1 + 1 / a) / (g(n - k + 1) * g(n + 1 + 1 / a)) / scale
    assert Pareto(a, scale).mean_inverse_order_statistic(k, n) == pytest.approx(inverse, rel=1e-12)


@pytest.mark.parametrize(
    ("law", "k", "n"),
    [
        (Exponential(1.0), 1, 3),
        (ShiftedExponential(0.0, 1.0), 1, 1),
        (Weibull(0.5, 1.0), 2, 3),
        (Weibull(1.0, 1.0), 1, 3),
        (Deterministic(0.0), 2, 3),
        (Empirical([0.0, 1.0]), 3, 3),
    ],
    ids=repr,
)
def test_a_diverging_mean_inverse_is_refused(law, k, n):
    with pytest.raises(ValueError, match=rf"k={k} of n={n} has no mean of 1/T"):
        law.mean_inverse_order_statistic(k, n)


def test_inverse_means_just_past_divergence_are_finite():
    assert Exponential(2.0).mean_inverse_order_statistic(2, 2) == pytest.approx(2.0 * 2 * math.log(2), rel=1e-10)
    assert math.isfinite(Weibull(0.5, 1.0).mean_inverse_order_statistic(3, 3))
    assert Weibull(2.0, 1.0).mean_inverse_order_statistic(1, 1) == pytest.approx(math.gamma(0.5), rel=1e-12)


def test_a_worker_that_never_answers():
    never = Deterministic(math.inf)
    assert never.mean == math.inf
    assert never.mean_order_statistic(1, 2) == math.inf
    assert never.mean_inverse_order_statistic(1, 2) == 0
    assert never.cdf([1.0, math.inf]).tolist() == [0, 1]


def test_empirical_quantiles_are_the_sorted_times():
    times = np.random.default_rng(3).random(101)
    law = Empirical(times.reshape(-1, 1))
    np.testing.assert_array_equal(law.ppf(np.arange(1, 102) / 101), np.sort(times))
    assert law.ppf(0.0) == times.min()
    np.testing.assert_allclose(law.cdf(np.sort(times)), np.arange(1, 102) / 101)
    assert law.mean_order_statistic(1, 1) == pytest.approx(times.mean())
    assert law == Empirical(times[::-1])
    assert law != Empirical(times[1:])


def test_empirical_extremes_by_counting():
    """Of two draws from {1, 2}: both 1 with probability 1/4."""
    law = Empirical([1.0, 2.0])
    assert law.mean_order_statistic(1, 2) == pytest.approx(1.25)
    assert law.mean_order_statistic(2, 2) == pytest.approx(1.75)
    assert law.mean_inverse_order_statistic(2, 2) == pytest.approx(1 / 4 + 3 / 4 / 2)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ShiftedExponential(-1.0, 2.0), "shift=-1.0 must be >= 0 and finite"),
        (lambda: ShiftedExponential(1.0, 0.0), "rate=0.0 must be > 0 and finite"),
        (lambda: Exponential(math.inf), "rate=inf must be > 0 and finite"),
        (lambda: Exponential(True), "rate=True must be a number"),
        (lambda: Pareto("1", 1.0), "shape='1' must be a number"),
        (lambda: Pareto(1.0, math.nan), "scale=nan must be a number"),
        (lambda: Weibull(1.0, -2.0), "scale=-2.0 must be > 0 and finite"),
        (lambda: Deterministic(-0.1), "seconds=-0.1 must be >= 0"),
        (lambda: Empirical([]), r"times=\[\] must hold at least one duration"),
        (lambda: Empirical([1.0, math.inf]), r"times=\[inf\] must be >= 0 and finite"),
        (lambda: Exponential(1.0).ppf(1.5), "q=1.5 must lie in"),
        (lambda: Exponential(1.0).mean_order_statistic(0, 3), "k=0 must be >= 1"),
        (lambda: Exponential(1.0).mean_order_statistic(4, 3), "k=4 must be <= n=3"),
        (lambda: Exponential(1.0).mean_order_statistic(1.5, 3), "k=1.5 must be a whole number"),
        (lambda: Exponential(1.0).start(np.random.default_rng(0), 0), "workers=0 must be >= 1"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
