"""What lazy schemes must be equal to, exactly: in selections and counters, and in the iterates up to rounding."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import codes, delays, schemes
from schemes.lazy.descents import WORKERS, Descent, descend, diagonal, random_problem

Build = Callable[..., Any]
FULL: dict[str, Any] = {"minibatches": False}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Few groups and large ξ are meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def lagc(workers: int, redundancy: int, mode: str = "coded", **options: Any) -> Any:
    """With the paper's code, which is decoded from N − r + 1 messages and no fewer."""
    return schemes.lagc(workers, redundancy, mode, variant="random", dtype="float64", **FULL, **options)


def assert_same(first: Descent, second: Descent, counters: bool = True) -> None:
    for one, other in zip(first.points, second.points, strict=True):
        assert float((one - other).norm()) <= 1e-12 * max(float(other.norm()), 1e-300)
    if counters:
        assert first.uploads == second.uploads
        assert first.downloads == second.downloads
        assert [r.computations for r in first.reports] == [r.computations for r in second.reports]


@given(seed=st.integers(0, 2**32), side=st.sampled_from(["worker", "server"]))
@settings(max_examples=10)
def test_groups_of_one_are_lag(seed: int, side: str) -> None:
    objective = random_problem(np.random.default_rng(seed), 6)
    constants = {"smoothness": objective.smoothness_by().tolist()} if side == "server" else {}
    found = [
        descend(build(side, xi=0.3, **FULL, **constants), objective, 0.5 / objective.smoothness(), 40)
        for build in (lambda *a, **k: schemes.lag(6, *a, **k), lambda *a, **k: schemes.glag(6, 1, *a, **k))
    ]
    assert_same(*found)
    assert found[0].selected == found[1].selected


@pytest.mark.parametrize("mode", ["coded", "switch", "wait_F"])
def test_lagc_without_redundancy_is_lag(mode: str) -> None:
    objective = diagonal()
    constants, step = objective.smoothness_by().tolist(), 1 / objective.smoothness()
    first = descend(lagc(WORKERS, 1, mode, xi=1.0, smoothness=constants), objective, step, 120)
    second = descend(schemes.lag(WORKERS, "server", xi=1.0, smoothness=constants, **FULL), objective, step, 120)
    assert first.selected == second.selected
    assert_same(first, second)


@pytest.mark.parametrize("redundancy", [1, 2, 3, 4, 6, 12])
@pytest.mark.parametrize("side", ["worker", "server"])
def test_without_weights_everything_is_sent(redundancy: int, side: str) -> None:
    """ξ = 0: LAG is plain gradient descent, G-LAG is grouping."""
    objective = diagonal()
    constants = {"smoothness": objective.smoothness_by(WORKERS // redundancy).tolist()} if side == "server" else {}
    step = 1 / objective.smoothness()
    lazy = descend(schemes.glag(WORKERS, redundancy, side, xi=0.0, **FULL, **constants), objective, step, 30)
    plain = descend(schemes.grouping(WORKERS, redundancy), objective, step, 30)
    assert_same(lazy, plain)
    assert all(len(own) == WORKERS // redundancy for own in lazy.selected)
    if redundancy == 1:
        assert_same(lazy, descend(schemes.uncoded(WORKERS), objective, step, 30))


@pytest.mark.parametrize("redundancy", [1, 2, 3, 4])
@pytest.mark.parametrize("mode", ["coded", "switch", "wait_F"])
def test_lagc_without_weights_is_gradient_coding(redundancy: int, mode: str) -> None:
    objective = diagonal()
    step = 1 / objective.smoothness()
    scheme = lagc(WORKERS, redundancy, mode, xi=0.0, smoothness=objective.smoothness_by().tolist())
    lazy = descend(scheme, objective, step, 30)
    plain = descend(schemes.coded(scheme.code), objective, step, 30)
    assert_same(lazy, plain)
    assert all(len(own) == WORKERS for own in lazy.selected) or mode == "wait_F"
    assert set(lazy.uploads) == {WORKERS - redundancy + 1}
    if redundancy == 1:
        assert_same(lazy, descend(schemes.uncoded(WORKERS), objective, step, 30))


def test_one_group_needs_its_quickest_worker_only() -> None:
    """Grouping(r = M), under drawn delays."""
    objective, law = diagonal(), delays.ShiftedExponential(0.1, 1.0)
    found = descend(schemes.grouping(WORKERS, WORKERS), objective, 1 / objective.smoothness(), 20, delays=law)
    table = delays.as_table(law, WORKERS, seed=0)
    for number, report in enumerate(found.reports):
        assert report.time == pytest.approx(WORKERS * table.compute(number)[:, 0].min())
        assert (report.uploads, report.downloads) == (1, WORKERS)


def test_what_is_selected_does_not_depend_on_the_delays() -> None:
    """So the expected clock is a sum of closed forms; the gradients are the same, whoever comes first."""
    objective = diagonal()
    constants, step = objective.smoothness_by().tolist(), 1 / objective.smoothness()
    groups = objective.smoothness_by(4).tolist()
    for build in (
        lambda: schemes.lag(WORKERS, "worker", xi=0.1, **FULL),
        lambda: schemes.glag(WORKERS, 3, "worker", xi=0.1, **FULL),
        lambda: schemes.glag(WORKERS, 3, "server", xi=1.0, smoothness=groups, **FULL),
        lambda: lagc(WORKERS, 3, xi=1.0, smoothness=constants),
        lambda: lagc(WORKERS, 3, "switch", xi=1.0, smoothness=constants),
    ):
        still = descend(build(), objective, step, 40)
        moved = descend(build(), objective, step, 40, delays=delays.Pareto(1.2, 1.0))
        assert still.selected == moved.selected
        assert still.uploads == moved.uploads and still.downloads == moved.downloads
        for one, other in zip(still.points, moved.points, strict=True):
            assert float((one - other).norm()) <= 1e-10 * max(1.0, float(other.norm()))


def test_the_sum_is_that_of_what_is_stored() -> None:
    """Running, and afresh every hundred iterations."""
    objective = diagonal()
    scheme = schemes.lag(WORKERS, "worker", xi=0.5, **FULL)
    descend(scheme, objective, 1 / objective.smoothness(), 250)
    assert scheme.stored is not None and scheme.total is not None
    assert float((scheme.total - scheme.stored.sum(0)).norm()) <= 1e-13 * float(scheme.stored.norm(dim=1).sum())
    scheme.total.add_(1.0)  # whatever happens to it, it is right again after a hundred
    for _ in range(100):
        scheme._table.take({}, torch.zeros(objective.length, dtype=torch.float64))
    assert float((scheme.total - scheme.stored.sum(0)).norm()) <= 1e-13 * float(scheme.stored.norm(dim=1).sum())


def test_codes_of_few_messages_decode_lazily_too() -> None:
    """500 random selections with M = 12, r = 3 decode the sum of the selected changes (lagc.md 11)."""
    rng = np.random.default_rng(0)
    code = codes.cyclic_repetition(12, 2, variant="random", dtype="float64")
    changes = rng.standard_normal((12, 5))
    worst = 0.0
    for _ in range(500):
        chosen = rng.choice(12, rng.integers(1, 12), replace=False)
        coefficients = np.where(np.isin(np.arange(12), chosen), code.encoding, 0.0)
        active = np.flatnonzero(coefficients.any(axis=1))
        slow = rng.choice(active, 2, replace=False)
        decoding = code.decode(set(range(12)) - set(slow.tolist()))
        found = decoding.weights @ (coefficients @ changes)
        worst = max(worst, float(np.abs(found - changes[chosen].sum(0)).max()))
    assert worst < 1e-8
