"""The choice of replicas and micro-partitions: beside all of them, and when it is better not to."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gradcode import schemes
from gradcode.delays import Delays, DelayTable, Deterministic, Exponential, Occasional, Pareto, ShiftedExponential
from gradcode.planning import self_scheduling as planning
from gradcode.planning.self_scheduling import Method
from gradcode.schemes import fluid_bound

TAIL = ShiftedExponential(0.1, 10.0)


@pytest.mark.parametrize("latency", [0.0005, 0.002, 0.01, 0.04])
def test_nothing_is_much_quicker_on_other_draws(latency: float) -> None:
    """All m up to 24 and r up to 3, on draws that the choice has not seen: at most 3 % are left on the table.

    One per cent is the planner's own, for the simpler of nearly equal ones; the rest is between two m that it tries,
    and that it sees 80 draws.
    """
    chosen = planning.choose(TAIL, 4, latency, largest=24, iterations=80, ahead=0)
    everything = [Method("uncoded", 4), Method("coded", 4, 2), Method("coded", 4, 3)]
    everything += [Method("self_scheduling", 4, held, micro, 0) for held in (2, 3) for micro in range(1, 25)]
    best, own = (
        [float(planning.replay(TAIL, method, latency, iterations=80, seed=1).mean()) for method in methods]
        for methods in (everything, [chosen.best])
    )
    assert min(best) <= own[0] <= 1.03 * min(best)


def test_a_notice_may_cost_too_much() -> None:
    """Fewer micro-partitions, then none, and a code where somebody takes very long."""
    micros = [planning.choose(TAIL, 6, latency, iterations=50).best.micro for latency in (0.0002, 0.002, 0.02)]
    assert micros == sorted(micros, reverse=True) and micros[0] > 2 * micros[1] > 4 * micros[2]
    slow = planning.choose(TAIL, 6, 0.5, iterations=100)
    assert slow.best.kind == "uncoded" and slow.verdict.startswith("do not replicate: wait for everybody, ")
    assert isinstance(slow.best.scheme(), schemes.Coded)
    heavy = planning.choose(Pareto(1.1, 0.1), 6, 2.0, iterations=100)
    assert heavy.best.kind == "coded" and "do not self-schedule: take a code for" in heavy.verdict
    assert heavy.best.scheme().code.tolerance == heavy.best.replication - 1  # type: ignore[attr-defined]
    even = planning.choose(Deterministic(0.1), 6, 0.0, iterations=3)
    assert even.best == Method("uncoded", 6, seconds=even.fluid)


def test_the_scheme_is_what_was_timed() -> None:
    """With starting late, a message, and nothing ahead; r = 2 or 3 as storage allows."""
    late = Delays(Deterministic(0.1), start=Occasional(Exponential(1 / 0.3), 0.2))
    table = late.table(6, seed=3)
    chosen = planning.choose(table, 6, 0.002, message=0.05, ahead=0, iterations=80)
    best = chosen.by_kind["self_scheduling"]
    scheme: Any = best.scheme()
    assert scheme.ahead == 0 and scheme.micro == best.micro and max(map(len, scheme.shares)) == best.replication
    seconds, start = np.full((80, 6), 0.1), np.array([table.start(number) for number in range(80)])
    stop, _ = scheme.granted(seconds / best.micro, 0.002, start)
    assert best.seconds == pytest.approx(stop.mean() + 0.05)
    assert chosen.fluid == pytest.approx(fluid_bound(seconds, 6, start).mean())
    uncoded = (seconds + start).max(axis=1).mean() + 0.05
    assert chosen.by_kind["uncoded"].seconds == pytest.approx(uncoded)
    assert all(own.replication <= 2 for own in planning.choose(table, 6, 0.002, storage=2, iterations=5).methods)
    assert {own.kind for own in planning.choose(table, 6, 0.002, storage=1, iterations=5).methods} == {"uncoded"}


def test_somebody_dead_is_not_waited_for() -> None:
    seconds = np.full((3, 4), 0.1)
    seconds[:, 2] = np.inf
    chosen = planning.choose(DelayTable.from_array(seconds), 4, 0.001, iterations=3)
    assert chosen.best.kind == "self_scheduling" and chosen.by_kind["uncoded"].seconds == np.inf
    with pytest.raises(ValueError, match="storage=1: in some iteration nobody who holds a share"):
        planning.choose(DelayTable.from_array(seconds), 4, 0.001, iterations=3, storage=1)


@pytest.mark.parametrize("workers", [6, 7])
def test_nobody_holds_more_than_is_allowed(workers: int) -> None:
    for method in planning.choose(TAIL, workers, 0.01, iterations=2).methods:
        scheme: Any = method.scheme()
        held = scheme.shares if method.kind == "self_scheduling" else scheme.code.placement
        assert max(map(len, held)) == method.replication <= 3


@pytest.mark.parametrize(
    ("delays", "options", "message"),
    [
        (TAIL, {"latency": -1.0}, r"latency=-1\.0"),
        (TAIL, {"storage": 0}, "storage=0"),
        (TAIL, {"largest": 0}, "largest=0"),
        (TAIL, {"iterations": 0}, "iterations=0"),
        (TAIL, {"message": float("inf")}, "message=inf"),
        (Deterministic(0.0), {}, "more than 0 seconds"),
        (Deterministic(float("inf")), {}, "somebody must end"),
        (DelayTable.from_array(np.ones((1, 3))), {}, "workers=4"),
    ],
)
def test_what_cannot_be_is_refused(delays: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        planning.choose(delays, 4, **{"latency": 0.001, **options})
