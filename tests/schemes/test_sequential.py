"""Selective repetition driven by hand: every job is decoded B iterations later, whoever straggles within the model."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradcode
from gradcode import codes, schemes
from gradcode.delays import DelayTable
from gradcode.training import LeastSquares
from schemes.rounds import Rounds, conforming

SETS = [(4, 1, 2, 2), (6, 1, 3, 4), (8, 2, 3, 4), (8, 2, 5, 5), (9, 3, 4, 5), (8, 1, 2, 7)]


@pytest.mark.parametrize("lenient", [True, False])
@pytest.mark.parametrize(("workers", "burst", "window", "stragglers"), SETS)
def test_within_the_model_nobody_is_waited_for(
    workers: int, burst: int, window: int, stragglers: int, lenient: bool
) -> None:
    """Every job is decoded B iterations later though more than s straggle in many of them.

    Also with a code that decodes from no fewer than N − s rows, which repetition often does.
    """
    repeated = 0
    for seed in range(10):
        scheme = schemes.sequential(workers, burst, window, stragglers)
        if not lenient:
            scheme.code = codes.cyclic_repetition(workers, scheme.code.tolerance, dtype="float64")
            scheme._rows = schemes.Coded(scheme.code)
        rounds = Rounds(scheme)
        pattern = conforming(np.random.default_rng(seed), workers, burst, window, stragglers, 16)
        for number, slow in enumerate(pattern):
            found = rounds.go(np.flatnonzero(slow).tolist())
            if number < burst:
                assert not found.any()
            else:
                assert torch.allclose(found, rounds.gradients(number - burst).sum(0), rtol=0, atol=1e-9)
                assert scheme.exact and scheme.error < 1e-5
        assert rounds.waited == 0
        repeated += rounds.repeated
    assert repeated >= (5 if lenient else 30)


def test_beyond_the_model_a_job_that_is_due_is_waited_for() -> None:
    waited = 0
    for seed in range(20):
        rng, rounds = np.random.default_rng(seed), Rounds(schemes.sequential(6, 2, 3, 3, partitions=7))
        for number in range(12):
            found = rounds.go(rng.permutation(6)[: rng.integers(6)].tolist())
            if number > 1:
                assert torch.allclose(found, rounds.gradients(number - 2).sum(0), rtol=0, atol=1e-12)
        waited += rounds.waited
    assert waited > 20


def test_the_worked_example() -> None:
    """gradient_codes.md 9, example 6: s = 1 and load 0.5, where a code for two stragglers has 0.75."""
    scheme = schemes.sequential(4, burst=1, window=2, stragglers=2)
    assert scheme.code.tolerance == 1 and scheme.code.load / scheme.partitions == 0.5
    rounds = Rounds(scheme)
    assert not rounds.go([0, 2]).any()  # 0 and 2 hold the same: job 0 has 2 rows of 3
    assert torch.allclose(rounds.go([]), rounds.gradients(0).sum(0)) and scheme.repeating == (0,)
    rounds.go([])
    assert scheme.repeating == ()


def test_who_is_silent_for_good_is_asked_last() -> None:
    """Which the model does not cover: 0 never answers, and 2 fails once; 2 is to repeat its row, and nobody waits."""
    rounds = Rounds(schemes.sequential(4, 1, 2, 2))
    for stragglers in ([0], [0, 2], [0]):
        rounds.go(stragglers)
    assert rounds.scheme.repeating == (2,) and rounds.waited == 0


def test_a_saved_scheme_goes_on_alike() -> None:
    scheme, again = (schemes.sequential(4, 1, 2, 2) for _ in range(2))
    rounds = Rounds(scheme)
    for stragglers in ([], [0, 2]):
        rounds.go(stragglers)
    resumed = Rounds(again)
    again.load_state_dict(scheme.state_dict())
    resumed.number = rounds.number
    for stragglers in ([1], [0, 1], []):
        assert torch.equal(resumed.go(stragglers), rounds.go(stragglers))
        assert again.repeating == scheme.repeating
    with pytest.raises(ValueError, match="is not that of sequential"):
        again.load_state_dict({"total": 1})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((4, 0, 2, 2), "burst=0"),
        ((4, 2, 2, 2), "window=2 must be an integer, at least 3"),
        ((4, 2, 4, 2), r"window=4 must be one above a multiple of burst=2: for example 3"),
        ((4, 1, 2, 4), "stragglers=4 must be an integer, between 1 and 3"),
        ((4, 1, 2, 2, None, -1.0), r"patience=-1\.0 must be 0 or more"),
    ],
)
def test_what_cannot_be_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schemes.sequential(*arguments)


def test_duration_is_the_simulation_where_nothing_is_repeated() -> None:
    scheme, rng = schemes.sequential(4, 1, 2, 2, patience=0.5), np.random.default_rng(1)
    compute, communicate = rng.exponential(1.0, (2, 120, 4))
    objective = LeastSquares(rng.standard_normal((12, 4)), rng.standard_normal(12), 4)
    plain: list[bool] = []

    def listen(report: gradcode.Report) -> None:
        plain.append(not scheme.repeating)
        assert report.time == report.order_statistic if plain[-1] else report.time > 0

    cluster = gradcode.SimulatedCluster(4, DelayTable.from_array(compute, communicate))
    with gradcode.Session.of(objective, scheme, cluster, listeners=[listen]) as session:
        for number in range(120):
            gradcode.Step(session, number).backward()
    assert 20 < sum(plain) < 100
