"""The choice among sequential and other codes: the bursty model, loads, interpolation, and what is simulated."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import schemes
from gradcode.delays import DelayTable, GilbertElliott, ShiftedExponential, as_table
from gradcode.planning import sequential as planning
from gradcode.planning.sequential import Method, _bursty
from gradcode.training import LeastSquares
from schemes.rounds import bursty


@settings(max_examples=100)
@given(
    st.sampled_from([(4, 1, 2, 2), (4, 1, 2, 4), (6, 2, 3, 3), (6, 2, 5, 2), (5, 3, 4, 4)]),
    st.integers(0, 10**6),
    st.floats(0.05, 0.6),
)
def test_whoever_is_not_waited_for_is_within_the_model(
    numbers: tuple[int, int, int, int], seed: int, often: float
) -> None:
    """And whoever is would have left it."""
    workers, *model = numbers
    rng = np.random.default_rng(seed)
    slow = rng.random((15, workers)) < often
    slow[np.arange(15), rng.integers(workers, size=15)] = False
    ended = _bursty(1.0 + 4.0 * slow, *model, patience=1.0)
    assert set(ended.tolist()) <= {1.0, 2.0, 5.0} and np.array_equal(ended == 1.0, ~slow.any(axis=1))
    missed = slow & (ended == 2.0)[:, None]
    assert all(bursty(missed, number, worker, *model) for number, worker in np.argwhere(missed))
    for number in np.flatnonzero(ended == 5.0):
        until = missed[: number + 1].copy()
        until[number] = slow[number]
        assert not all(bursty(until, number, worker, *model) for worker in np.flatnonzero(slow[number]))


@pytest.mark.parametrize("workers", [4, 6])
def test_loads_and_delays_are_those_of_the_schemes(workers: int) -> None:
    """Of every candidate; with λ = N the specification's load counts what may have to be done again, too."""
    methods = planning.choose(np.ones((2, workers)), longest_delay=2, longest_window=5).methods
    assert {method.kind for method in methods} == {"uncoded", "coded", "repetition", "multiplexed"}
    for method in methods:
        options: dict[str, Any] = {} if method.kind == "uncoded" else {"dtype": "float64"}
        scheme: Any = method.scheme(**options)
        if method.kind in ("uncoded", "coded"):
            assert method.delay == 0 and method.load == pytest.approx(scheme.code.load / workers)
            continue
        again = (method.window - 1 + method.burst) / (method.window - 1) if method.stragglers == workers else 1.0
        assert method.load == pytest.approx(scheme.load * again) and method.delay == scheme.delay
        assert method.delay <= 2 and method.window <= 5


def test_the_worked_example() -> None:
    """gradient_codes.md 9, example 6."""
    methods = planning.choose(np.ones((1, 4))).methods
    loads = {(own.kind, own.burst, own.window, own.stragglers): own.load for own in methods}
    assert (
        loads["multiplexed", 1, 2, 2] == 0.375
        and loads["repetition", 1, 2, 2] == 0.5
        and loads["coded", 0, 0, 2] == 0.75
    )


def test_what_is_quickest() -> None:
    """All alike: nothing. One slow for good: a code. Each slow for one iteration, one after the other: M-SGC."""
    alike = np.ones((12, 4))
    assert planning.choose(alike).best == Method("uncoded", 4, 0.25, seconds=1.0)
    for_good = alike.copy()
    for_good[:, 0] = 20.0
    assert planning.choose(for_good).best == Method("coded", 4, 0.5, 1, seconds=2.0)
    bursts = alike.copy()
    bursts[::2, 0] = 20.0
    chosen = planning.choose(bursts, longest_delay=1, patience=0.5)
    # A third of the data takes 4/3 s, and in every second iteration half as long again is waited for the straggler.
    assert chosen.best.kind == "multiplexed" and chosen.best.stragglers == 1
    assert chosen.best.load == pytest.approx(1 / 3) and chosen.best.seconds == pytest.approx(4 / 3 * 1.25)
    assert list(chosen.by_kind) == ["multiplexed", "coded", "repetition", "uncoded"]


def test_several_loads_are_interpolated() -> None:
    """A line through the tables at 1/4 and 1/2 here: 1 s and 4 s of load, and who never answers never does."""
    first = np.array([[2.0, 3.0, 2.0, np.inf]])
    second = first + 1.0
    coded = Method("coded", 4, 0.75, 2)
    assert planning.replay({0.5: second, 0.25: first}, coded)[0] == 2.0 + 2.0
    assert planning.replay({0.25: first, 0.5: second, 0.75: second}, coded)[0] == 3.0
    assert planning.replay(first, Method("coded", 4, 0.5, 1))[0] == 6.0  # in proportion
    assert planning.replay(first, Method("uncoded", 4, 0.25))[0] == np.inf
    multiplexed = Method("multiplexed", 4, 0.375, 2, 1, 2)
    # Two messages, the second of which takes 0.1 s: 2.5 s, and the last to come in time 3.5 s; the deadline is 5.2 s.
    assert planning.replay({0.25: first, 0.5: second}, multiplexed, message=0.1)[0] == pytest.approx(2 * 2.6)


@pytest.mark.parametrize(
    ("profile", "options", "message"),
    [
        ([1.0, 2.0], {}, r"tables \(iterations, N\) of one shape, got \[\(2,\)\]"),
        ({0.5: [[1.0, 1.0]], 1.0: [[1.0, 1.0, 1.0]]}, {}, r"got \[\(1, 2\), \(1, 3\)\]"),
        ({2.0: [[1.0, 1.0]]}, {}, r"loads=\[2\.0\] must be shares of the data"),
        ([[1.0, 0.0]], {}, "all times must be positive seconds"),
        ([[1.0]], {}, "workers=1"),
        ([[1.0, 1.0]], {"longest_delay": -1}, "longest_delay=-1"),
        ([[1.0, 1.0]], {"patience": -1.0}, r"patience=-1\.0"),
    ],
)
def test_what_cannot_be_is_refused(profile: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planning.choose(profile, **options)
    with pytest.raises(ValueError, match=r"profile has 2 workers, and .* is for 4"):
        planning.replay([[1.0, 1.0]], Method("uncoded", 4, 0.25))


def test_the_schemes_take_no_longer_on_the_simulated_cluster() -> None:
    """Per iteration, over a profile with bursts: they wait only for what is due, and repetition is decoded early."""
    workers, rounds = 6, 60
    law = GilbertElliott(ShiftedExponential(0.9, 20.0), 0.05, 0.7, 8.0)
    compute, _ = as_table(law, workers, seed=0).window(0, rounds)
    chosen = planning.choose(compute[:, :, 0], longest_delay=2)
    rng = np.random.default_rng(0)
    for method in chosen.by_kind.values():
        scheme = method.scheme() if method.kind == "uncoded" else method.scheme(dtype="float64")  # type: ignore[arg-type]
        shares = compute[:, :, 0] * workers / scheme.partitions
        problem = LeastSquares(rng.standard_normal((40, 3)), rng.standard_normal(40), scheme.partitions)
        reports: list[gradcode.Report] = []
        cluster = gradcode.SimulatedCluster(workers, DelayTable.from_array(shares, np.zeros((rounds, workers))))
        with gradcode.Session.of(problem, scheme, cluster, listeners=[reports.append]) as session:
            for number in range(rounds):
                gradcode.Step(session, number).backward()
        assert np.mean([report.time for report in reports]) <= method.seconds * (1 + 1e-12)
    assert chosen.best.kind == "multiplexed"
    assert isinstance(chosen.best.scheme(), schemes.Multiplexed)
