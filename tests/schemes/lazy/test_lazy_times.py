"""How long lazy iterations take: the worked examples, and ``duration`` against the simulation."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch

import gradcode
from gradcode import codes, delays, schemes
from gradcode.delays import DelayTable
from gradcode.protocol import Combination, Iteration, Order, Reply, Step
from gradcode.training import LeastSquares
from schemes.lazy.descents import descend, diagonal

TIMES = np.array([[3.0, 1.0, 4.0, 2.0]])
FULL: dict[str, Any] = {"minibatches": False}


@pytest.fixture(autouse=True)
def quiet() -> Any:
    """Few groups are meant here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


class TwoSteps:
    """Two iterations on four workers with these times; in the second only some voters have changed enough."""

    def __init__(self, scheme: Any) -> None:
        rng = np.random.default_rng(0)
        objective = LeastSquares(rng.standard_normal((8, 3)), rng.standard_normal(8), partitions=4)
        self.reports: list[gradcode.Report] = []
        cluster = gradcode.SimulatedCluster(4, DelayTable.from_array(TIMES))
        session = gradcode.Session.of(objective, scheme, cluster, listeners=[self.reports.append])
        with session, torch.no_grad():
            for _ in range(2):
                next(session.epoch()).backward()
                objective.model.theta.add_(1.0)


def test_worked_example_b_of_schemes_that_send_all() -> None:
    """T = (3, 1, 4, 2) (lagc.md 10 B)."""
    compute, instant = TIMES[:, :, None], np.zeros((1, 4))
    code = codes.cyclic_repetition(4, 1, variant="random", dtype="float64")
    for scheme, seconds in ((schemes.uncoded(4), 4.0), (schemes.coded(code), 6.0), (schemes.grouping(4, 2), 4.0)):
        assert scheme.duration(compute, instant).tolist() == [seconds]


@pytest.mark.parametrize(
    ("build", "constants", "seconds", "uploads", "downloads", "units"),
    [
        (lambda c: schemes.glag(4, 2, "server", xi=1.0, step_size=1.0, smoothness=c, **FULL), [9, 1e-9], 2, 1, 2, 4),
        (lambda c: schemes.lag(4, "server", xi=1.0, step_size=1.0, smoothness=c, **FULL), [1e-9, 9] * 2, 2, 2, 2, 2),
        (lambda c: schemes.lagc(4, 2, xi=1.0, step_size=1.0, smoothness=c, **FULL), [9] + [1e-9] * 3, 2, 1, 2, 2),
    ],
    ids=["G-LAG(2)", "LAG", "LAGC(2)"],
)
def test_worked_example_b(
    build: Any, constants: list[float], seconds: float, uploads: int, downloads: int, units: int
) -> None:
    scheme = build(constants)
    report = TwoSteps(scheme).reports[1]
    assert (report.time, report.uploads, report.downloads) == (seconds, uploads, downloads)
    assert sum(scheme_load(scheme)) == units
    assert report.order_statistic == seconds


def scheme_load(scheme: Any) -> list[int]:
    """Partitions that were ordered in the last iteration."""
    if isinstance(scheme, schemes.lazy.Innovations):
        return [len(order.combination) for order in scheme._orders.values()]
    return [len(scheme._shards[group]) for group in scheme._asked for _ in scheme._members[group]]


def test_worked_example_c() -> None:
    """M = 3, r = 2 and a given code: who would send zero counts as having answered (lagc.md 10 C)."""
    matrix = np.array([[0.5, 1.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, 1.0]])
    code = GivenCode(matrix)
    for chosen, changes, sent, decodable in (
        ((0,), [6.0, 0.0, 0.0], {0: 3.0, 2: 3.0}, [{0}, {2}]),
        ((0, 1), [6.0, -2.0, 0.0], {0: 1.0, 1: -2.0, 2: 3.0}, [{0, 1}, {0, 2}, {1, 2}]),
    ):
        for answering in decodable:
            scheme = schemes.lazy.Innovations(
                code,
                schemes.lazy.Rule(3, 1.0, step_size=1.0),
                schemes.lazy.Smoothness(3, [9.0 if j in chosen else 1e-9 for j in range(3)]),
                **FULL,
            )
            first = {w: float(matrix[w].sum()) for w in range(3)}  # every gradient is 1
            assert drive(scheme, 0, torch.zeros(1), first, {0, 1}) == pytest.approx(3.0)
            messages = {w: sum(matrix[w, j] * changes[j] for j in chosen) for w in range(3)}
            found = drive(scheme, 1, torch.ones(1), messages, answering)
            assert scheme.selected == chosen
            assert {order.worker: messages[order.worker] for order in scheme._orders.values()} == sent
            assert found - 3.0 == pytest.approx(sum(changes[j] for j in chosen))


class GivenCode(codes.GradientCode):
    """Decoded by least squares; any two of its three workers suffice."""

    def __init__(self, matrix: np.ndarray) -> None:
        super().__init__(matrix, np.ones(3, dtype=np.int64), 1, "float64")

    def _solve(self, alive: np.ndarray) -> None:
        return None

    def _beyond(self, alive: frozenset[int]) -> bool:
        return False

    def _worst(self) -> Any:
        raise NotImplementedError


def drive(scheme: Any, number: int, parameters: torch.Tensor, messages: dict[int, float], answering: set[int]) -> float:
    """One iteration by hand, of a gradient with one coordinate; the decoded one."""
    target = Combination(dict.fromkeys(range(3), 1.0))
    step = Step(displacements=(1.0,) if number else (), parameters=parameters.double())
    actions = scheme.start(Iteration(number, number, target, (0, 1, 2), np.ones(3, dtype=np.int64), step))
    rows = torch.full((3, 1), torch.nan, dtype=torch.float64)
    for order in [action for action in actions if isinstance(action, Order)]:
        if order.worker in answering:
            assert not scheme.done
            rows[order.row] = messages[order.worker]
            scheme.receive(Reply(order, torch.zeros(8, dtype=torch.uint8), 0.0, np.zeros((len(order.combination), 1))))
    assert scheme.done
    out = torch.zeros(1, dtype=torch.float64)
    scheme.gradient(rows, out)
    return float(out)


def test_worked_example_d() -> None:
    """One selected partition of LAGC(3) takes the quickest of its three holders (lagc.md 10 D)."""
    scheme = schemes.lagc(12, 3, xi=1.0, step_size=1.0, smoothness=[9.0] + [1e-9] * 11, dtype="float64", **FULL)
    descend(scheme, diagonal(), 1e-3, 2)
    assert scheme.selected == (0,)
    for law, mean in ((delays.Exponential(1.0), 1 / 3), (delays.Pareto(2.5, 1.0), 7.5 / 6.5)):
        compute = law.sample(np.random.default_rng(1), (20_000, 12))
        found = scheme.duration(compute[:, :, None], np.zeros((20_000, 12)))
        assert abs(found.mean() - mean) < 4 * found.std() / 20_000**0.5


SCHEMES: dict[str, Any] = {
    "lag worker": lambda c: schemes.lag(12, "worker", xi=0.1, **FULL),
    "lag server": lambda c: schemes.lag(12, "server", xi=1.0, smoothness=c(12), **FULL),
    "lag measured": lambda c: schemes.lag(12, "server", xi=1.0),
    "lag minibatches": lambda c: schemes.lag(12, "worker", xi=0.1),
    "lag deadline": lambda c: schemes.lag(12, "worker", xi=0.1, deadline=2.0, **FULL),
    "lag server deadline": lambda c: schemes.lag(12, "server", xi=1.0, smoothness=c(12), deadline=1.0, **FULL),
    "glag worker": lambda c: schemes.glag(12, 3, "worker", xi=0.1, **FULL),
    "glag server": lambda c: schemes.glag(12, 3, "server", xi=1.0, smoothness=c(4), **FULL),
    "glag minibatches": lambda c: schemes.glag(12, 2, "worker"),
    "glag minibatches deadline": lambda c: schemes.glag(12, 2, "worker", deadline=4.0),
    "lagc without redundancy": lambda c: schemes.lagc(12, 1, xi=1.0, smoothness=c(12), **FULL),
    "lagc wait_F": lambda c: schemes.lagc(12, 3, "wait_F", xi=1.0, smoothness=c(12), dtype="float64", **FULL),
    "grouping": lambda c: schemes.grouping(12, 3),
    "grouping deadline": lambda c: schemes.grouping(12, 3, deadline=1.5),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_duration_is_the_simulated_time(name: str) -> None:
    """Skips take no time here and messages none either."""
    objective = diagonal()
    scheme = SCHEMES[name](lambda groups: objective.smoothness_by(groups).tolist())
    found = descend(scheme, objective, 1 / objective.smoothness(), 40, delays=delays.ShiftedExponential(0.1, 1.0))
    assert [report.time for report in found.reports] == [report.order_statistic for report in found.reports]


@pytest.mark.parametrize("mode", ["coded", "switch"])
def test_changes_that_must_be_computed_again_take_longer(mode: str) -> None:
    """A worker that was abandoned lacks what it must take off: the simulation charges for it, ``duration`` does not."""
    objective = diagonal()
    scheme = schemes.lagc(12, 3, mode, xi=1.0, smoothness=objective.smoothness_by().tolist(), dtype="float64", **FULL)
    found = descend(scheme, objective, 1 / objective.smoothness(), 60, delays=delays.ShiftedExponential(0.1, 1.0))
    late = [report.time - report.order_statistic for report in found.reports]
    assert min(late) >= 0.0 and max(late) > 0.0
    assert sum(seconds > 0 for seconds in late) < 40


def test_a_skip_takes_a_short_message() -> None:
    """On a link of 1 kB/s a gradient of 50 float64 takes 0.4 s, a skip 16 bytes."""
    objective = diagonal()
    law = delays.Delays(delays.Deterministic(1.0), delays.Link(bandwidth=1000.0))
    scheme = schemes.lag(12, "worker", xi=0.1, **FULL)
    found = descend(scheme, objective, 1 / objective.smoothness(), 30, delays=law)
    for report in found.reports:
        seconds = 1.0 + (0.4 if report.uploads else 0.016)
        assert report.time == pytest.approx(seconds)
        assert report.bytes_up == 400 * report.uploads + 16 * report.notices
    assert {report.uploads for report in found.reports} >= {0, 1}


def test_messages_of_unlike_size_are_told_by_a_link() -> None:
    """A law of a message's seconds is the same for skips: notice=1 then makes duration exact."""
    objective = diagonal()
    law = delays.Delays(delays.Exponential(1.0), delays.Exponential(2.0))
    scheme = schemes.glag(12, 3, "worker", xi=0.1, notice=1.0, **FULL)
    found = descend(scheme, objective, 1 / objective.smoothness(), 30, delays=law)
    assert [report.time for report in found.reports] == [report.order_statistic for report in found.reports]
