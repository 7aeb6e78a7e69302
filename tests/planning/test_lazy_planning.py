"""Times of lazy iterations against draws, and what schemes take to an accuracy."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import codes, schemes
from gradcode.delays import (
    Deterministic,
    Empirical,
    Exponential,
    Law,
    Pareto,
    ShiftedExponential,
    Weibull,
)
from gradcode.planning import lazy
from gradcode.training import LeastSquares, Logistic

LAWS: tuple[Law, ...] = (
    Exponential(2.0),
    ShiftedExponential(0.5, 2.0),
    Pareto(2.5, 1.0),
    Weibull(0.8, 1.0, 0.1),
    Empirical([1.0, 1.5, 2.0, 7.0]),
)
DRAWS = 40_000


def within(found: float, drawn: np.ndarray) -> bool:
    """Within 4 standard errors of the draws."""
    return abs(found - drawn.mean()) <= 4 * drawn.std(ddof=1) / len(drawn) ** 0.5


@pytest.mark.parametrize("law", LAWS, ids=repr)
def test_closed_forms_against_draws(law: Law) -> None:
    unit = law.sample(np.random.default_rng(0), (DRAWS, 12))
    ordered = np.sort(unit, axis=1)
    assert within(lazy.slowest(law, 12), ordered[:, -1])
    assert within(lazy.coded(law, 12, 3), 3 * ordered[:, 9])
    assert within(lazy.grouped(law, 4, 3), 3 * unit.reshape(DRAWS, 4, 3).min(axis=2).max(axis=1))
    assert within(lazy.wait_f(law, 11, 12, 3), 3 * np.sort(unit[:, :11], axis=1)[:, 9])
    loads = np.array([1.0, 1.0, 2.0, 3.0, 3.0, 2.0])
    if not isinstance(law, Empirical):  # without a density there is nothing to integrate smoothly
        for answers in (1, 4, 6):
            found = lazy.unequal(law, loads.tolist(), answers)
            assert within(found, np.sort(loads * unit[:, :6], axis=1)[:, answers - 1])


@given(answers=st.integers(1, 7), load=st.integers(1, 5), law=st.sampled_from([*LAWS[:4], Pareto(1.2, 0.5)]))
@settings(max_examples=30)
def test_loads_that_are_equal_are_an_order_statistic(answers: int, load: int, law: Law) -> None:
    found = lazy.unequal(law, [float(load)] * 7, answers)
    assert found == pytest.approx(load * law.mean_order_statistic(answers, 7), rel=1e-5)


def test_limits() -> None:
    assert lazy.slowest(Exponential(1.0), 0) == lazy.grouped(Exponential(1.0), 0, 3) == 0.0
    assert lazy.wait_f(Exponential(1.0), 0, 12, 3) == 0.0
    assert lazy.grouped(Deterministic(2.0), 4, 3) == 6.0
    assert lazy.coded(Pareto(0.9, 1.0), 12, 1) == np.inf
    with pytest.raises(ValueError, match="answers=3 must be from 1 to the 2 loads"):
        lazy.unequal(Exponential(1.0), [1.0, 2.0], 3)


def test_facts_worth_knowing() -> None:
    """lagc.md 6: grouping falls with r; gradient coding rises first, and beats waiting for all from r = 10 only."""
    law = Exponential(1.0)
    times = [lazy.coded(law, 12, r) for r in range(1, 13)]
    expected = [3.103, 4.206, 4.810, 5.080, 5.099, 4.919, 4.572, 4.083, 3.468, 2.742, 1.917, 1.000]
    assert times == pytest.approx(expected, abs=6e-4)
    assert [r for r, time in enumerate(times, 1) if time < times[0]] == [10, 11, 12]
    heavy, medium = Pareto(1.2, 1.0), Pareto(2.5, 1.0)
    assert (lazy.coded(heavy, 12, 4), lazy.grouped(heavy, 4, 3)) == pytest.approx((12.47, 5.71), abs=6e-3)
    assert (lazy.coded(medium, 12, 2), lazy.grouped(medium, 6, 2)) == pytest.approx((4.88, 3.38), abs=6e-3)


@pytest.fixture(scope="module")
def objective() -> LeastSquares:
    """Six partitions, the later ones steeper."""
    rng = np.random.default_rng(0)
    rows = np.repeat(1.5 ** np.arange(6.0), 5)[:, None] * rng.standard_normal((30, 4))
    return LeastSquares(rows, rng.standard_normal(30), 6)


def test_every_scheme_on_one_footing(objective: LeastSquares) -> None:
    laws = {"light": Exponential(1.0), "heavy": Pareto(2.5, 1.0)}
    found = lazy.survey(objective, laws, 1e-4, redundancies=(2, 3, 4))
    assert all(own.reached and own.gaps[-1] <= 1e-4 < own.gaps[-2] for own in found.values())
    steps = {name: own.iterations for name, own in found.items()}
    plain = steps["GD"]
    for r in (2, 3):
        exact = found[f"Grouping({r})"]
        assert exact.iterations == found[f"GC({r})"].iterations == plain
        assert (exact.uploads, exact.downloads, exact.units) == (plain * 6 // r, plain * 6, plain * 6 * r)
        assert found[f"GC({r})"].uploads == plain * (7 - r)
        assert exact.completed == plain * 6
        # Of a group that is selected all work, and one answers.
        server = found[f"G-LAG({r}) PS"]
        assert server.downloads == r * server.uploads and server.units == r * r * server.uploads
        assert server.completed == r * server.uploads
        coded = found[f"LAGC({r}) coded"]
        assert coded.uploads + (r - 1) * np.count_nonzero(coded.per_iteration[:, 0]) == coded.downloads
    assert "Grouping(4)" not in found and "GC(4)" in found
    assert found["LAG-PS"].uploads == found["LAG-PS"].downloads == found["LAG-PS"].units
    assert found["GD"].clock["light"] == pytest.approx(plain * lazy.slowest(laws["light"], 6))
    for own in found.values():
        for name in laws:
            assert own.clock[name] == pytest.approx(own.times[name].sum()) and own.error[name] == 0.0
        assert own.per_iteration.sum(axis=0).tolist() == [own.uploads, own.downloads, own.units]
    cells = [lazy.row(name, own) for name, own in found.items()]
    assert {len(line) for line in cells} == {len(lazy.HEADER) + len(laws)}
    figure = lazy.pareto(found, "light")
    assert len(figure.axes[0].texts) == len(found)


def simulated_times(scheme: Any, objective: LeastSquares, law: Law, iterations: int, seed: int) -> float:
    """Seconds of so many plain gradient steps from 0, simulated event by event."""
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(scheme.workers, law, seed=seed)
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        theta = objective.model.theta
        with torch.no_grad():
            theta.zero_()
        session.optimizer = torch.optim.SGD([theta], lr=1 / float(objective.smoothness()))
        for _ in range(iterations):
            next(session.epoch()).backward()
            session.optimizer.step()
    return sum(report.time for report in reports)


FULL: dict[str, Any] = {"minibatches": False}
CODED: dict[str, Any] = {"variant": "random", "dtype": "float64", **FULL}


@pytest.mark.parametrize(
    ("build", "drawn"),
    [
        (lambda _: schemes.glag(6, 2, "worker", xi=0.05, **FULL), False),
        # The second gradients of those that are asked, in every fifth iteration.
        (lambda _: schemes.glag(6, 2, "server", xi=0.05), False),
        (lambda L: schemes.lagc(6, 1, xi=0.2, smoothness=L, **CODED), False),
        (lambda L: schemes.lagc(6, 3, xi=0.2, smoothness=L, **CODED), False),
        (
            lambda L: schemes.lagc(6, 3, "switch", xi=0.2, smoothness=L, **CODED),
            False,
        ),
        # Decoded from three to five messages: there is no closed form.
        (lambda _: schemes.coded(codes.fractional_repetition(6, 1)), True),
        (lambda _: schemes.grouping(6, 2, deadline=1.5), True),
    ],
    ids=["glag worker", "glag server", "lagc alone", "lagc", "lagc switch", "coded", "deadline"],
)
def test_the_clock_is_what_the_simulation_takes_on_average(objective: LeastSquares, build: Any, drawn: bool) -> None:
    """Within 4 standard errors of 24 trainings' sums and of the clock itself.

    Of LAGC it is a lower bound: a worker that was abandoned computes again what it is to take off next time.
    """
    law = ShiftedExponential(0.2, 1.0)
    constants = objective.smoothness_by().tolist()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", gradcode.errors.GradcodeWarning)
        own = lazy.complexity(build(constants), law, 1e-6, objective, limit=60)
        assert (own.error[""] > 0) == drawn and own.iterations > 3
        sums = np.array([simulated_times(build(constants), objective, law, own.iterations, seed) for seed in range(24)])
    spread = 4 * float(np.hypot(sums.std(ddof=1) / 24**0.5, own.error[""]))
    assert own.clock[""] <= sums.mean() + spread
    again = own.scheme.startswith("lagc") and "stragglers=2" in own.scheme
    assert again or sums.mean() <= own.clock[""] + spread


def test_second_gradients_are_work(objective: LeastSquares) -> None:
    """A voter with mini-batches computes twice, but the first time; receiving adds up at the master."""
    own = lazy.complexity(schemes.lag(6, "worker", xi=0.0), Exponential(1.0), 1e-2, objective, limit=20)
    assert own.units == own.completed == 6 + 2 * 6 * (own.iterations - 1)
    assert own.clock[""] == pytest.approx(lazy.slowest(Exponential(1.0), 6) * (2 * own.iterations - 1))
    more = lazy.complexity(schemes.lag(6, "worker", xi=0.0), Exponential(1.0), 1e-2, objective, limit=20, receive=0.5)
    assert more.clock[""] == pytest.approx(own.clock[""] + 0.5 * own.uploads)
    with pytest.raises(ValueError, match=r"receive=-1\.0 must be seconds per upload"):
        lazy.complexity(schemes.lag(6), Exponential(1.0), 1e-2, objective, receive=-1.0)


def test_time_that_does_not_grow_with_the_load(objective: LeastSquares) -> None:
    law = Exponential(1.0)
    grown = lazy.complexity(schemes.grouping(6, 3), law, 1e-4, objective)
    level = lazy.complexity(schemes.grouping(6, 3), law, 1e-4, objective, scale_with_load=False)
    assert level.clock[""] == pytest.approx(grown.clock[""] / 3)
    scheme = schemes.coded(codes.fractional_repetition(6, 1))
    with pytest.raises(ValueError, match="scale_with_load=False is not known for coded"):
        lazy.complexity(scheme, law, 1e-4, objective, scale_with_load=False)


def test_a_training_that_does_not_get_there(objective: LeastSquares) -> None:
    found = lazy.complexity(schemes.uncoded(6), Exponential(1.0), 1e-12, objective, limit=5)
    assert (found.iterations, found.reached) == (5, False)
    assert lazy.row("GD", found)[1] == "not in 5"
    for wrong, problem in ((0.0, "accuracy=0.0 must be positive"), (-1.0, "accuracy=-1.0")):
        with pytest.raises(ValueError, match=problem):
            lazy.complexity(schemes.uncoded(6), Exponential(1.0), wrong, objective)
    nested = schemes.greedy([3, 3], 0, 0)
    with pytest.raises(ValueError, match="has edge nodes"):
        lazy.complexity(nested, Exponential(1.0), 1e-3, objective)


def test_minimum() -> None:
    rng = np.random.default_rng(1)
    rows, targets = rng.standard_normal((20, 3)), rng.standard_normal(20)
    solution = np.linalg.lstsq(rows, targets, rcond=None)[0]
    best = float(((rows @ solution - targets) ** 2).sum() / 40)
    assert lazy.minimum(LeastSquares(rows, targets, 2)) == pytest.approx(best, rel=1e-12)
    import scipy.optimize

    labels = np.sign(targets)
    logistic = Logistic(rows, labels, 2, regularisation=0.1)

    def value(theta: np.ndarray) -> float:
        return float(np.logaddexp(0, -labels * (rows @ theta)).mean() + 0.05 * theta @ theta)

    reference = scipy.optimize.minimize(value, np.zeros(3), tol=1e-14).fun
    assert lazy.minimum(logistic) <= reference + 1e-12
