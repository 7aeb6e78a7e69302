"""M-SGC by hand: whoever straggles within the model, every job is whole T iterations later, at the load it has."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import codes, schemes
from gradcode.delays import DelayTable
from gradcode.training import LeastSquares
from schemes.rounds import Rounds, arbitrary, bursty, conforming

# (N, B, W, λ): codes by repetition, real and packed cyclic ones, and none.
SETS = [(4, 1, 2, 1), (4, 1, 2, 2), (6, 1, 3, 3), (5, 2, 3, 2), (6, 2, 4, 2), (6, 3, 4, 5), (4, 2, 3, 4), (3, 1, 2, 1)]


def multiplexed(workers: int, burst: int, window: int, stragglers: int, **options: Any) -> schemes.Multiplexed:
    found = schemes.sequential(workers, burst, window, stragglers, kind="multiplexed", dtype="float64", **options)
    assert isinstance(found, schemes.Multiplexed)
    return found


def check(rounds: Rounds, stragglers: list[int]) -> None:
    """One iteration: its gradient is that of T iterations before, within the error it says."""
    number, scheme = rounds.number, rounds.scheme
    found = rounds.go(stragglers)
    if number < scheme.delay:
        assert not found.any() and scheme.error == 0
        return
    exact = rounds.gradients(number - scheme.delay)
    assert float((found - exact.sum(0)).norm() / exact.norm(dim=1).sum()) <= scheme.error < 1e-12
    assert scheme.exact


def share(workers: int, burst: int, window: int, stragglers: int) -> float:
    """gradient_codes.md 5."""
    each = stragglers + 1
    if stragglers == workers:
        return (window - 1 + burst) / (workers * (window - 1))
    return each * (window - 1 + burst) / (workers * (burst + (window - 1) * each))


@pytest.mark.parametrize("numbers", SETS)
def test_the_load_is_that_of_the_specification(numbers: tuple[int, int, int, int]) -> None:
    """Of everybody, in every iteration but the first T: W − 1 + B tasks of equal size, with N = λ only W − 1 of them.

    With λ = N the last B tasks are for what is done again.
    """
    workers, burst, window, stragglers = numbers
    scheme = multiplexed(*numbers)
    wanted = share(*numbers) * ((window - 1) / (window - 1 + burst) if stragglers == workers else 1)
    assert scheme.load == pytest.approx(wanted, rel=1e-12)
    rounds = Rounds(scheme)
    for _ in range(scheme.delay + 3):
        check(rounds, [])
    assert (rounds.computed / scheme.partitions == pytest.approx(wanted, rel=1e-12)) and rounds.waited == 0


def test_the_worked_example() -> None:
    """gradient_codes.md 9, example 6: 0.375, where SR-SGC has 0.5 and a code for two stragglers 0.75."""
    scheme = schemes.sequential(4, burst=1, window=2, stragglers=2, kind="multiplexed")
    assert scheme.load == 0.375 and scheme.delay == 1
    assert schemes.sequential(4, burst=1, window=2, stragglers=2).load == 0.5
    assert codes.cyclic_mds(4, 2).load / 4 == 0.75


@settings(max_examples=30, deadline=None)
@given(st.sampled_from(SETS), st.sampled_from([bursty, arbitrary]), st.integers(0, 10**6), st.integers(0, 5))
def test_within_the_models_nobody_is_waited_for(
    numbers: tuple[int, int, int, int], model: Any, seed: int, more: int
) -> None:
    """Exact gradients at no more than the load, also where the partitions are more than there are units."""
    workers, burst, window, stragglers = numbers
    fewest = multiplexed(*numbers).partitions
    scheme = multiplexed(*numbers, partitions=fewest + more)
    rounds, rng = Rounds(scheme), np.random.default_rng(seed)
    for slow in conforming(rng, workers, burst, window, stragglers, 14, model):
        check(rounds, np.flatnonzero(slow).tolist())
        # Of at most ⌈K / units⌉ partitions in place of K / units.
        most = share(*numbers) * fewest * -(-scheme.partitions // fewest)
        assert rounds.computed.max() <= most + 1e-9
    assert rounds.waited == 0


@pytest.mark.parametrize("numbers", [(3, 1, 2, 1), (2, 1, 2, 2), (2, 2, 3, 1), (2, 1, 3, 1)])
def test_every_pattern_of_three_iterations(numbers: tuple[int, int, int, int]) -> None:
    """Exact in every one of them; and nobody is waited for in those of the model."""
    workers, *model = numbers
    sets = [own for size in range(workers) for own in itertools.combinations(range(workers), size)]
    scheme, waited = multiplexed(*numbers), {True: 0, False: 0}
    for patterns in itertools.product(sets, repeat=3):
        scheme.load_state_dict({"jobs": [], "count": 0})
        rounds = Rounds(scheme)
        for slow in (*patterns, *[()] * scheme.delay):
            check(rounds, list(slow))
        marks = np.array([[worker in slow for worker in range(workers)] for slow in patterns])
        within = all(bursty(marks, number, worker, *model) for number, worker in np.argwhere(marks))
        waited[within] += rounds.waited
    assert waited[True] == 0 and waited[False] > 0


def test_beyond_the_model_only_what_is_due_is_waited_for() -> None:
    waited = 0
    for seed in range(8):
        rng, rounds = np.random.default_rng(seed), Rounds(multiplexed(6, 2, 3, 2))
        for _ in range(12):
            check(rounds, rng.permutation(6)[: rng.integers(6)].tolist())
        waited += rounds.waited
    assert waited > 10


def test_nobody_is_waited_for_before_it_must_be() -> None:
    """N = 4, B = 1, W = 2, λ = 1: 3 may miss one iteration, but not the next, in which what it owes is due."""
    rounds = Rounds(multiplexed(4, 1, 2, 1))
    check(rounds, [])
    check(rounds, [3])
    assert rounds.waited == 0
    check(rounds, [3])
    assert rounds.waited == 1  # its task of the job that is due; the one of the new job need not come


def test_a_saved_scheme_goes_on_alike() -> None:
    scheme, again = (multiplexed(4, 2, 3, 1) for _ in range(2))
    rounds, resumed = Rounds(scheme), Rounds(again)
    for stragglers in ([], [0], [0], []):
        rounds.go(stragglers)
    again.load_state_dict(scheme.state_dict())
    resumed.number = rounds.number
    for stragglers in ([1], [], [2], []):
        assert torch.equal(resumed.go(stragglers), rounds.go(stragglers))
    with pytest.raises(ValueError, match="is not that of sequential"):
        again.load_state_dict({"total": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 2, 2, 2), "window=2 must be an integer, at least 3"),
        ((4, 1, 2, 5), "stragglers=5 must be an integer, between 1 and 4"),
        ((4, 1, 2, 1, 5), r"partitions=5 must be an integer, at least 6 \(one for each unit\)"),
        ((16, 1, 2, 4), r"stragglers=4 \+ 1 does not divide workers=16.*dtype='float64' holds"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schemes.sequential(*arguments, kind="multiplexed")


def test_a_scheme_says_what_it_is() -> None:
    assert repr(schemes.sequential(4, 1, 2, 1, 9, 0.5, kind="multiplexed")) == (
        "sequential(workers=4, burst=1, window=2, stragglers=1, patience=0.5, partitions=9, kind='multiplexed')"
    )
    with pytest.raises(ValueError, match="kind='cyclic' must be one of 'repetition', 'multiplexed'"):
        schemes.sequential(4, 1, 2, 1, kind="cyclic")  # type: ignore[arg-type]


def test_duration_is_the_simulation_where_nothing_is_done_again() -> None:
    """To rounding: the simulation adds up a worker's tasks one after the other, here three of one partition each."""
    scheme, rng = multiplexed(4, 1, 3, 1, patience=0.5), np.random.default_rng(1)
    compute, communicate = 0.5 + rng.exponential(0.15, (2, 100, 4))
    ends = 3 * (compute + communicate)
    late = (ends > 1.5 * ends.min(axis=1, keepdims=True)).sum(axis=1)
    objective = LeastSquares(rng.standard_normal((30, 4)), rng.standard_normal(30), scheme.partitions)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(4, DelayTable.from_array(compute, communicate))
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        for number in range(100):
            gradcode.Step(session, number).backward()
    # Nobody was late in the T iterations before, and no more than may be in this one.
    plain = [number for number in range(2, 100) if not late[number - 2 : number].any() and late[number] <= 1]
    assert len(plain) > 30 and late[plain].sum() > 5
    for number in plain:
        assert reports[number].time == pytest.approx(reports[number].order_statistic, rel=1e-12)
