"""Expected times: closed forms, the spec's table, and draws."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest

from gradcode.errors import GradcodeWarning
from gradcode.planning.hierarchical import (
    Edge,
    System,
    Tail,
    Worker,
    baseline_time,
    expected_time,
    homogeneous_system,
    monte_carlo,
    two_types_system,
)
from gradcode.planning.hierarchical.expected import more_than
from gradcode.planning.hierarchical.integration import mean_time
from planning.systems import heterogeneous, uneven

SYSTEMS = {"SYS-H": homogeneous_system(), "SYS-T": two_types_system()}
COLUMNS = [("SYS-H", "fixed"), ("SYS-H", "load"), ("SYS-T", "fixed"), ("SYS-T", "load")]

# The spec's table 9.3, in milliseconds.
BASELINES = {
    ("uncoded", "independent"): (405.98, 405.98, 872.22, 872.22),
    ("greedy", "independent"): (284.45, 284.45, 320.19, 320.19),
    ("cgc_w", "independent"): (343.13, 470.60, 830.36, 862.19),
    ("cgc_e", "independent"): (349.97, 504.69, 490.43, 585.48),
    ("standard", "independent"): (366.62, 1076.72, 697.74, 806.87),
    ("standard", "shared"): (369.67, 1076.34, 742.12, 866.63),
    ("hgc", "independent"): (314.45, 624.35, 467.57, 601.71),
}
CHOICES = [((1, 2), 2, 309.17), ((1, 2), 3, 458.93), ((3, 0), 0, 294.52), ((0, 9), 1, 383.28), ((2, 2), 2, 295.82)]


@pytest.mark.parametrize(("name", "relay"), BASELINES)
def test_the_table_of_baselines(name: str, relay: str) -> None:
    for expected, (system, tail) in zip(BASELINES[name, relay], COLUMNS, strict=True):
        found = 1e3 * baseline_time(SYSTEMS[system], name, 1, 1, tail, relay)  # type: ignore[arg-type]
        # The shared relay's figures are Monte Carlo's: 4 standard errors of at most 0.30.
        assert found == pytest.approx(expected, rel=1e-3) if relay == "independent" else abs(found - expected) < 1.2


@pytest.mark.parametrize(("choice", "column", "expected"), CHOICES)
def test_the_table_of_choices(choice: tuple[int, int], column: int, expected: float) -> None:
    system, tail = COLUMNS[column]
    assert 1e3 * expected_time(SYSTEMS[system], *choice, tail) == pytest.approx(expected, abs=0.006)  # its rounding


@pytest.mark.parametrize("tail", get_args(Tail))
@pytest.mark.parametrize("choice", [(0, 0), (1, 1), (1, 2), (3, 9)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_draws_agree_on_the_spec_s_systems(name: str, choice: tuple[int, int], tail: Tail) -> None:
    mean, error = monte_carlo(SYSTEMS[name], *choice, tail, draws=20_000, rng=1)
    assert abs(expected_time(SYSTEMS[name], *choice, tail) - mean) < 4 * error


@pytest.mark.parametrize("tail", get_args(Tail))
@pytest.mark.parametrize("system", [uneven(), heterogeneous(4, 3, 0), heterogeneous(2, 5, 1)], ids=["uneven", "4", "2"])
def test_draws_agree_on_other_systems(system: System, tail: Tail) -> None:
    """All pairs: 4 standard errors are passed by one in 16,000."""
    for s_e, s_w in np.argwhere(system.feasible).tolist():
        mean, error = monte_carlo(system, s_e, s_w, tail, draws=20_000, rng=s_e + 10 * s_w)
        assert abs(expected_time(system, s_e, s_w, tail) - mean) < 4 * error


def test_one_edge_node_without_failures() -> None:
    """(a) of the spec's 4.1: constants and an order statistic of exponentials."""
    system = System.homogeneous(1, 5, Worker(10, 0.1, 5), 20)
    tail = 1 / 5 + 1 / 4 + 1 / 3
    assert expected_time(system, 0, 2) == pytest.approx(30 + 5 + 20 + 10 * tail, rel=1e-6)
    assert expected_time(system, 0, 2, "load") == pytest.approx(30 + 5 + 20 + 30 * tail, rel=1e-6)


def test_jumps_only() -> None:
    """(b): two geometric numbers of attempts, the larger of them."""
    system = System.homogeneous(2, 1, Worker(10, attempt=5), 20, 0.3)
    assert expected_time(system, 0, 0) == pytest.approx(15 + 20 * (2 / 0.7 - 1 / 0.91), rel=1e-6)


def test_a_flat_code_over_relays() -> None:
    """(c): D = 3; with one attempt each, shared and independent relays are the same."""
    system = System.homogeneous(2, 3, Worker(10, 0.1, 5), 20)
    # Its s = 2 is given directly: six edge nodes of one worker each, D = K(s + 1)/M = 2 for K = 4.
    flat = System.homogeneous(6, 1, Worker(10, 0.1, 5), 20, partitions=4)
    assert expected_time(flat, 2, 0) == pytest.approx(45 + 10 * (1 / 3 + 1 / 4 + 1 / 5 + 1 / 6), rel=1e-6)
    both = [baseline_time(system, "standard", 0, 1, relay=relay) for relay in ("independent", "shared")]
    assert both == pytest.approx([55 + 10 * (1 / 3 + 1 / 4 + 1 / 5 + 1 / 6)] * 2, rel=1e-6)


def test_nothing_random() -> None:
    """Median of three constants behind constant links."""
    edges = [Edge((Worker(c, attempt=1.0), Worker(2 * c)), attempt=c) for c in (1.0, 2.0, 4.0)]
    # K = 6: D = 2 for (1, 0); 2c + 1 against 4c, then c more: 5, 10 and 20.
    assert expected_time(System(tuple(edges), 6), 1, 0) == pytest.approx(10.0, rel=1e-6)


@pytest.mark.parametrize("failure", [math.exp(-0.5), 0.6065306, 0.607])
def test_a_failure_as_likely_as_the_exponential_s_decay(failure: float) -> None:
    """p = exp(−λτ) or nearly so: where the closed form over the attempts has a removable pole."""
    system = System((Edge((Worker(1.0, 0.5, 1.0, failure),)),), 1)
    assert expected_time(system, 0, 0) == pytest.approx(1 + 2 + 1 / (1 - failure), rel=1e-6)


def test_sums_of_means_without_redundancy() -> None:
    """One worker: nothing but a sum, whatever the scales of its parts."""
    for rate, attempt, link in ((1e3, 1e-3, 10.0), (1e-3, 10.0, 1e-3), (math.inf, 1e-6, 1.0), (5.0, 0.0, 0.0)):
        system = System((Edge((Worker(0.5, rate, attempt, 0.9),), link, 0.5),), 1)
        assert expected_time(system, 0, 0) == pytest.approx(0.5 + 1 / rate + 10 * attempt + 2 * link, rel=1e-6)


def test_more_than_counts_either_way() -> None:
    """Against all 2⁶ outcomes."""
    late = np.random.default_rng(0).uniform(size=(6, 3))
    outcomes = np.array(list(np.ndindex(*[2] * 6)))
    chance = np.prod(np.where(outcomes[:, :, None] == 1, late, 1 - late), axis=1)
    for allowed in range(6):
        expected = chance[outcomes.sum(axis=1) > allowed].sum(axis=0)
        assert more_than(late, allowed) == pytest.approx(expected, abs=1e-14)


def test_an_integral_that_takes_too_long_says_how_far_it_came() -> None:
    def survival(times: np.ndarray) -> np.ndarray:
        return np.clip(1 - np.floor(times * 300) / 300, 0.0, 1.0)

    with pytest.warns(GradcodeWarning, match="known to .* of its value only.*monte_carlo"):
        found = mean_time(survival, 0.0, 2.0, work=1e9, accuracy=1e-9)
    assert found == pytest.approx(0.5 + 1 / 600, rel=1e-3)


def test_wrong_names() -> None:
    system = homogeneous_system()
    with pytest.raises(ValueError, match="tail='heavy' must be 'fixed' or 'load'"):
        expected_time(system, 0, 0, "heavy")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="name='mds' must be one of 'uncoded', 'greedy'"):
        baseline_time(system, "mds")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="relay='both' must be"):
        baseline_time(system, "standard", relay="both")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="draws=1 must be >= 2"):
        monte_carlo(system, 0, 0, draws=1)
