"""The choice of tolerances: JNCSS by hand, its bound, and the choice by expected times against all pairs."""

from __future__ import annotations

from itertools import combinations
from typing import get_args

import numpy as np
import pytest

from gradcode.planning.hierarchical import (
    Edge,
    System,
    Tail,
    Worker,
    error_bound,
    expected_time,
    heat_map,
    homogeneous_system,
    plan,
    two_types_system,
)
from planning.systems import heterogeneous, uneven


def test_jncss_by_hand() -> None:
    """The spec's section 10 and table 9.3."""
    found = plan(two_types_system())
    assert found.choice == (1, 2) and found.load == 6
    assert found.value == pytest.approx(0.2366667, abs=1e-7) == found.table[1, 2]
    assert found.table[0, 0] == pytest.approx(0.825)
    assert found.straggling_edges == (3,) and found.straggling_workers == ((8, 9),) * 4
    assert found.expected_time() == pytest.approx(0.30917, abs=6e-6) and not found.exact.any()
    load = plan(two_types_system(), tail="load")
    assert load.choice == (1, 2) and load.value == pytest.approx(0.2866667, abs=1e-7)


def brute_force(system: System, s_e: int, s_w: int, tail: Tail) -> float:
    """The spec's programme: every set of edge nodes and of workers that is waited for."""
    load = system.partitions * (s_e + 1) * (s_w + 1) / system.workers
    ends = []
    for edge in system.edges:
        times = [
            load * w.compute + (load if tail == "load" else 1) / w.rate + w.attempt / (1 - w.failure)
            for w in edge.workers
        ]
        served = min(max(kept) for kept in combinations(times, len(times) - s_w))
        ends.append(served + edge.attempt / (1 - edge.failure))
    return min(max(kept) for kept in combinations(ends, len(ends) - s_e))


@pytest.mark.parametrize("tail", get_args(Tail))
@pytest.mark.parametrize("system", [uneven(), heterogeneous(4, 5, 2)], ids=["uneven", "heterogeneous"])
def test_jncss_is_the_optimum_of_its_programme(system: System, tail: Tail) -> None:
    found = plan(system, "mean", tail)
    for s_e, s_w in np.ndindex(*found.table.shape):
        if system.feasible[s_e, s_w]:
            assert found.table[s_e, s_w] == pytest.approx(brute_force(system, s_e, s_w, tail))
        else:
            assert np.isnan(found.table[s_e, s_w])
    assert found.value == np.nanmin(found.table)


def test_ties_go_to_the_first_and_stragglers_are_the_last() -> None:
    """Links of equal cost and workers without any: every pair takes 1 s."""
    found = plan(System.homogeneous(3, 2, Worker(0.0), 1.0))
    assert (found.table == 1.0).all() and found.choice == (0, 0)
    edge = Edge((Worker(0.0), Worker(0.0), Worker(0.0, attempt=9.0)), 1.0)
    found = plan(System((edge,) * 2, 6))
    assert found.choice == (0, 1) and found.straggling_workers == ((2,), (2,)) and found.straggling_edges == ()


@pytest.mark.parametrize("tail", get_args(Tail))
def test_means_of_equal_machines_never_code(tail: Tail) -> None:
    system = homogeneous_system()
    found = plan(system, "mean", tail)
    assert found.choice == (0, 0)
    assert (np.diff(found.table, axis=0) >= 0).all() and (np.diff(found.table, axis=1) >= 0).all()
    assert plan(system, "exact", tail).value < expected_time(system, 0, 0, tail)


@pytest.mark.parametrize("tail", get_args(Tail))
@pytest.mark.parametrize("make", [homogeneous_system, two_types_system, uneven])
def test_the_bound_holds_for_every_pair(make: object, tail: Tail) -> None:
    system: System = make()  # type: ignore[operator]
    found = plan(system, "mean", tail)
    for s_e, s_w in np.argwhere(system.feasible).tolist():
        gap = abs(expected_time(system, s_e, s_w, tail) - found.table[s_e, s_w])
        assert gap <= error_bound(system, system.load(s_e, s_w), tail)


def test_the_bound_s_value() -> None:
    """Of SYS-H, in the spec's 5.1."""
    assert plan(homogeneous_system()).bound == pytest.approx(0.40545, abs=5e-6)


@pytest.mark.parametrize(
    ("make", "tail", "choice", "value"),
    [
        (homogeneous_system, "fixed", (3, 0), 0.29452),
        (homogeneous_system, "load", (0, 9), 0.38328),
        (two_types_system, "fixed", (2, 2), 0.29582),
        (two_types_system, "load", (1, 9), 0.42492),
    ],
)
def test_the_exact_choices_of_the_table(make: object, tail: Tail, choice: tuple[int, int], value: float) -> None:
    system: System = make()  # type: ignore[operator]
    found = plan(system, "exact", tail)
    assert found.choice == choice and found.value == pytest.approx(value, abs=6e-6)
    assert found.exact[choice] and found.exact[0, 0] and found.exact[plan(system, "mean", tail).choice]
    assert found.value == found.table[found.exact].min() == found.expected_time()


@pytest.mark.parametrize("tail", get_args(Tail))
def test_the_screening_finds_the_best_of_all(tail: Tail) -> None:
    """12 × 12, no two machines alike: within 0.1 % of the best of all 144 pairs, each integrated."""
    system = heterogeneous(12, 12, 3)
    every = np.array([[expected_time(system, s_e, s_w, tail) for s_w in range(12)] for s_e in range(12)])
    found = plan(system, "exact", tail, rng=0)
    assert found.exact.sum() <= 10
    assert found.value == every[found.choice] <= 1.001 * every.min()
    # What was not integrated has at least 4,096 draws, the standard deviation of a time is below its mean: 4 standard
    # errors of the mean of 4,096 are 1/16 of it.
    assert found.table == pytest.approx(every, rel=1 / 16)


def test_a_plan_repeats_by_its_seed() -> None:
    system = heterogeneous(3, 4, 4)
    first, second, other = (plan(system, "exact", rng=seed).table for seed in (5, 5, 6))
    assert (first == second).all() and (first != other).any()


def test_the_code_and_scheme_of_a_plan() -> None:
    found = plan(two_types_system())
    code = found.code()
    assert code.load == found.load == 6 and len(code.placement) == 40 and code.encoding.shape == (40, 40)
    assert code.tolerance == 2 * 3 - 1
    assert len(found.scheme().inner) == 4


def test_no_pair_is_feasible() -> None:
    with pytest.raises(ValueError, match="no choice is feasible with partitions=1: take a multiple of 5"):
        plan(System((Edge((Worker(1.0),) * 2), Edge((Worker(1.0),) * 3)), 1))


def test_wrong_names() -> None:
    with pytest.raises(ValueError, match="objective='best' must be 'mean' or 'exact'"):
        plan(homogeneous_system(), "best")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="tail='best' must be"):
        plan(homogeneous_system(), tail="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("make", [two_types_system, uneven, lambda: System.homogeneous(1, 1, Worker(0.0))])
def test_the_heat_map_marks_the_choice(make: object) -> None:
    found = plan(make())  # type: ignore[operator]
    figure = heat_map(found)
    figure.canvas.draw()
    axes = figure.axes[0]
    assert np.array_equal(np.ma.filled(axes.images[0].get_array(), np.nan), found.table, equal_nan=True)
    star = axes.lines[0]
    assert (star.get_ydata()[0], star.get_xdata()[0]) == found.choice  # type: ignore[index]
