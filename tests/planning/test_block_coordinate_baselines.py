"""The baselines: the spec's numbers, formulas and draws."""

from __future__ import annotations

import numpy as np
import pytest

from gradcode.delays import Pareto, ShiftedExponential, Weibull
from gradcode.delays.law import Law
from gradcode.planning.block_coordinate import baseline_probability, baseline_time, layered_sizes

PAPER = ShiftedExponential(shift=50.0, rate=1e-3)
SECOND = ShiftedExponential(1.0, 0.1)
PARETO = Pareto(2.5, 500.0)
WEIBULL = Weibull(1.5, 1000.0, 50.0)
L, M = 20_000, 50

# Section 13: the best single level and its s, uncoded, the partial-straggler code for 6 and its s.
TIMES = [
    (PAPER, 4, (3.0e8, 3), 5.333333e8, (2.901787e8, 3)),
    (PAPER, 20, (1.0e8, 19), 1.823870e8, (1.407351e8, 15)),
    (PARETO, 4, (3.338675e8, 0), 3.338675e8, (3.460028e8, 1)),
    (WEIBULL, 10, (2.059184e8, 0), 2.059184e8, (1.476772e8, 9)),
]
PROBABILITIES = [
    (SECOND, 20, 40_000, 10**6.5, (0.68723, 19), 0.38358, (0.69171, 15)),
    (PAPER, 4, L, 2e8, (0.45119, 3), 0.07750, (0.33201, 3)),
    (PARETO, 8, L, 2.4e8, (0.75445, 0), 0.75445, (0.70612, 1)),
]


@pytest.mark.parametrize(("law", "workers", "single", "uncoded", "partial"), TIMES)
def test_the_spec_s_times(
    law: Law, workers: int, single: tuple[float, int], uncoded: float, partial: tuple[float, int]
) -> None:
    for name, (value, level) in {"single": single, "uncoded": (uncoded, 0), "partial": partial}.items():
        found = baseline_time(name, law, workers, L, M, 1)  # type: ignore[arg-type]
        assert found.value == pytest.approx(value, rel=1e-6)
        assert found.level == level


@pytest.mark.parametrize(("law", "workers", "coordinates", "threshold", "single", "uncoded", "partial"), PROBABILITIES)
def test_the_spec_s_probabilities(
    law: Law,
    workers: int,
    coordinates: int,
    threshold: float,
    single: tuple[float, int],
    uncoded: float,
    partial: tuple[float, int],
) -> None:
    for name, (value, level) in {"single": single, "uncoded": (uncoded, 0), "partial": partial}.items():
        found = baseline_probability(name, law, workers, coordinates, threshold, M, 1)  # type: ignore[arg-type]
        assert found.value == pytest.approx(value, abs=1e-5)
        assert found.level == level


@pytest.mark.parametrize(
    ("workers", "single", "partial", "layered"),
    [(10, 3.00, 3.93, 3.00), (20, 4.01, 5.65, 4.03), (30, 5.04, 6.70, 4.99), (50, 7.03, 7.95, 7.02)],
)
def test_the_authors_figure(workers: int, single: float, partial: float, layered: float) -> None:
    """Section 12: their estimates agree with exact values to about 1 %."""
    for name, reported in {"single": single, "partial": partial, "layered": layered}.items():
        value = baseline_time(name, PAPER, workers, L, M, 1).value  # type: ignore[arg-type]
        assert value * workers / M / 1e7 == pytest.approx(reported, rel=0.01)


@pytest.mark.parametrize("slowdown", [1.0, 3.0, 6.0])
def test_the_partial_straggler_code_by_draws(slowdown: float) -> None:
    workers, draws = 5, 40_000
    found = baseline_time("partial", WEIBULL, workers, L, M, 1, slowdown=slowdown)
    s = found.level
    assert s is not None
    times = np.sort(WEIBULL.sample(np.random.default_rng(0), (draws, workers)), axis=1)
    factor = M / workers * L * (s + 1) / (s + slowdown)
    each = factor * np.maximum(slowdown * times[:, workers - 1 - s], times[:, -1])
    assert abs(each.mean() - found.value) < 4 * each.std() / np.sqrt(draws)
    threshold = float(np.median(each))
    likely = baseline_probability("partial", WEIBULL, workers, L, threshold, M, 1, slowdown=slowdown)
    # Half of the draws by construction, 4 standard errors; another s may be likelier.
    assert likely.value > 0.5 - 4 * 0.5 / np.sqrt(draws)
    assert found.sizes is None


def test_full_replication_is_the_layered_scheme_with_a_layer_per_coordinate() -> None:
    assert layered_sizes(5, 30).tolist() == [0, 0, 0, 0, 30]
    found = baseline_time("layered", PAPER, 5, 30, M, 1)
    assert found.value == pytest.approx(M * 30 * PAPER.mean_order_statistic(1, 5))


@pytest.mark.parametrize(("workers", "coordinates", "layers"), [(10, 20, 10), (10, 1000, 500), (20, 20_000, 10_000)])
@pytest.mark.parametrize("least", [0, 1])
def test_fewer_layers(workers: int, coordinates: int, layers: int, least: int) -> None:
    equal = layered_sizes(workers, coordinates, layers, least)
    quorum = layered_sizes(workers, coordinates, layers, least, per_layer="quorum")
    assert equal.sum() == pytest.approx(coordinates) and quorum.sum() == pytest.approx(coordinates)
    assert equal[:least].sum() == 0
    per_level = equal * layers / coordinates  # layers
    # The sum of the layers' s is r·N − L, up to rounding each, and the last layers are full.
    assert per_level @ np.arange(workers) == pytest.approx(layers * workers - coordinates, abs=layers / 2)
    assert per_level[-1] >= 1
    # Layers that fewer workers must answer for have fewer coordinates.
    assert quorum[-1] < equal[-1]


def test_the_tie_break_for_fewer_layers() -> None:
    """N = 4, L = 8, r = 4: Σs = 8, u = 1 from s = (1, 1, 2, 3) (1 is the least), the rest of 1 on the third layer."""
    assert layered_sizes(4, 8, layers=4).tolist() == [0, 4, 0, 4]
    # Of N − s = 3, 3, 1, 1 coordinates.
    assert layered_sizes(4, 8, layers=4, per_layer="quorum").tolist() == [0, 6, 0, 2]


def test_uniform_blocks() -> None:
    found = baseline_time("uniform", PAPER, 4, L, M, 1)
    assert found.value == pytest.approx(2.978858e8, rel=1e-6)
    assert found.sizes is not None and found.sizes.tolist() == [5000] * 4


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: baseline_time("best", PAPER, 4, L, M, 1), "name='best' must be one of 'uncoded'"),  # type: ignore[arg-type]
        (lambda: baseline_time("partial", PAPER, 4, L, M, 1, slowdown=0.5), "slowdown=0.5"),
        (lambda: baseline_time("partial", PAPER, 1, L, M, 1), "workers=1"),
        (lambda: layered_sizes(4, 8, layers=9), "layers=9"),
        (lambda: layered_sizes(4, 9, layers=2), "layers=2 must be at least 3"),
        (lambda: layered_sizes(4, 8, layers=4, per_layer="all"), "per_layer='all'"),  # type: ignore[arg-type]
    ],
)
def test_refusals(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        call()
