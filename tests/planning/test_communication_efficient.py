"""Load and reduction of communication-efficient codes: communication_efficient.md 6, draws, and closed forms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import integrate

from gradcode import codes, schemes
from gradcode.planning.communication_efficient import _tail, expected_time, optimal_parameters

RATES = {"compute_rate": 0.8, "transmit_rate": 0.1}
MODEL = {**RATES, "compute_shift": 1.6, "transmit_shift": 6.0}


@pytest.mark.parametrize(
    ("workers", "best", "time"), [(8, (4, 3), 21.370), (10, (4, 3), 22.565), (15, (4, 3), 24.717), (20, (3, 3), 26.080)]
)
def test_the_optimum_of_the_model(workers: int, best: tuple[int, int], time: float) -> None:
    found = optimal_parameters(workers, **MODEL)
    assert (found.load, found.reduction) == best and found.stragglers == best[0] - best[1]
    assert found.time == pytest.approx(time, abs=5.001e-4)
    assert found.time == np.nanmin(found.times) == found.times[best[0] - 1, best[1] - 1]
    assert np.isnan(found.times).sum() == workers * (workers - 1) // 2


def test_the_best_with_whole_messages_and_uncoded() -> None:
    times = optimal_parameters(8, **MODEL).times
    assert np.argmin(times[:, 0]) == 7 and times[7, 0] == pytest.approx(24.106, abs=5.001e-4)
    assert times[0, 0] == pytest.approx(36.114, abs=5.001e-4)


@pytest.mark.parametrize(("workers", "load", "reduction"), [(8, 4, 2), (8, 8, 1), (8, 4, 3), (20, 20, 1), (40, 3, 3)])
def test_the_integral_by_another_quadrature(workers: int, load: int, reduction: int) -> None:
    """At (4, 2) and (8, 1) both rates are equal. P(fewer than N − s ended) added up as it stands."""
    from scipy import stats

    a, b = RATES["compute_rate"] / load, RATES["transmit_rate"] * reduction

    def late(x: float) -> float:
        return float(stats.binom.cdf(workers - load + reduction - 1, workers, 1 - _tail(np.array(x), a, b)))

    mean = 1 / a + 1 / b
    pieces = [integrate.quad(late, low * mean, high * mean, epsabs=1e-11)[0] for low, high in [(0, 1), (1, 5), (5, 50)]]
    assert expected_time(workers, load, reduction, **RATES) == pytest.approx(sum(pieces), rel=1e-8)


@pytest.mark.parametrize(("load", "reduction"), [(4, 3), (3, 1), (1, 1)])
def test_the_scheme_takes_as_long_on_draws(load: int, reduction: int) -> None:
    """Within 4 standard errors of 20,000 draws."""
    rng, draws = np.random.default_rng(3), 20_000
    code = codes.communication_efficient(8, load, load - reduction, reduction, dtype="float64")
    compute = 1.6 + rng.exponential(1 / 0.8, (draws, 8, 1))
    send = (6.0 + rng.exponential(1 / 0.1, (draws, 8))) / reduction
    times = schemes.coded(code).duration(compute, send)
    error = times.std() / np.sqrt(draws)
    assert abs(times.mean() - expected_time(8, load, reduction, **MODEL)) < 4 * error


def test_where_sending_is_all_or_nothing() -> None:
    """Messages that take no time leave nothing to be saved by short ones, computing that takes none all."""
    compute = optimal_parameters(6, compute_rate=1.0, transmit_rate=1e6, compute_shift=1.0)
    assert compute.reduction == 1
    send = optimal_parameters(6, compute_rate=1e6, transmit_rate=1.0, transmit_shift=100.0)
    assert (send.load, send.reduction) == (6, 6)
    # One worker, one partition: the means added up.
    assert expected_time(1, 1, 1, **MODEL) == pytest.approx(1.6 + 1 / 0.8 + 6 + 10, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"load": 9}, "load=9 must be an integer, between 1 and 8"),
        ({"reduction": 5}, "reduction=5 must be an integer, between 1 and 4"),
        ({"compute_rate": 0.0}, "compute_rate"),
        ({"transmit_shift": -1.0}, "transmit_shift"),
    ],
)
def test_arguments_are_checked(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        expected_time(**{"workers": 8, "load": 4, "reduction": 3, **MODEL, **options})


def test_the_choice_makes_its_code() -> None:
    code = optimal_parameters(8, **MODEL).code(dtype="float64")
    assert (code.load, code.tolerance, code.reduction) == (4, 1, 3)
