"""Stochastic sums: right on average over who straggles, estimates, warnings, and what goes through a codec."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

import gradcode
from gradcode import codes, schemes
from gradcode.compression import ErrorFeedback, GroupedSign, Half
from gradcode.delays import DelayTable
from gradcode.errors import GradcodeWarning
from gradcode.training import LeastSquares

N = 6


def objective(partitions: int = N) -> LeastSquares:
    rng = np.random.default_rng(0)
    return LeastSquares(rng.standard_normal((18, 3)), rng.standard_normal(18), partitions)


def gradients(
    scheme: Any, patterns: list[tuple[int, ...]], **options: Any
) -> tuple[torch.Tensor, list[gradcode.Report]]:
    """(iterations, L) decoded gradients at one point, the workers of the patterns never answering."""
    seconds = np.zeros((len(patterns), N))
    for row, pattern in zip(seconds, patterns, strict=True):
        row[list(pattern)] = np.inf
    found, reports, problem = [], [], objective(scheme.partitions)
    cluster = gradcode.SimulatedCluster(N, DelayTable.from_array(seconds))
    with gradcode.Session.of(problem, scheme, cluster, listeners=[reports.append], **options) as session:
        for _ in patterns:
            for step in session.epoch():
                step.backward()
                found.append(problem.model.theta.grad.clone())
    return torch.stack(found), reports


@pytest.mark.parametrize("allocation", ["random", "cyclic", "repetition"])
@pytest.mark.parametrize("quorum", [2, 4, 6])
def test_right_on_average_over_all_sets_of_stragglers(quorum: int, allocation: str) -> None:
    """Every set of N − quorum stragglers once: their mean is the gradient, to rounding."""
    scheme = schemes.sgc(N, 2, quorum=quorum, allocation=allocation, rng=1)
    assert all(len(held) for held in scheme.code.placement)
    patterns = list(combinations(range(N), N - quorum))
    found, reports = gradients(scheme, patterns)
    exact = objective().gradient(torch.zeros(3, dtype=torch.float64))
    problem = objective()
    with torch.no_grad():
        exact = problem.gradient(problem.model.theta.detach())
    assert float((found.mean(0) - exact).norm() / exact.norm()) < 1e-12
    assert all(report.exact == (quorum == N) for report in reports)
    whole = torch.stack([found[i] - exact for i in range(len(patterns))]).norm(dim=1)
    assert (float(whole.max()) > 1e-6) == (quorum < N)
    parts = sum(float(own) for own in _sizes(problem))
    for error, report in zip(whole.tolist(), reports, strict=True):
        assert error / parts <= report.decode_error + 1e-12


def _sizes(problem: LeastSquares) -> list[torch.Tensor]:
    """‖g_k‖ at the objective's start."""
    rng = np.random.default_rng(0)
    rows, values = (torch.from_numpy(own).chunk(N) for own in (rng.standard_normal((18, 3)), rng.standard_normal(18)))
    theta = problem.model.theta.detach()
    return [(a.T @ (a @ theta - b) / 18).norm() for a, b in zip(rows, values, strict=True)]


def test_probabilities_of_each_worker_are_weights() -> None:
    p = [0.0, 0.5, 0.0, 0.2, 0.0, 0.0]
    scheme = schemes.sgc(N, 3, straggling=p, deadline=1.0, allocation="cyclic")
    problem = objective()
    found, reports = gradients(scheme, [(1,), ()])
    encoding = codes.stochastic(N, N, 3, allocation="cyclic").encoding
    rng = np.random.default_rng(0)
    rows, values = (torch.from_numpy(own).chunk(N) for own in (rng.standard_normal((18, 3)), rng.standard_normal(18)))
    theta = problem.model.theta.detach()
    parts = torch.stack([a.T @ (a @ theta - b) / 18 for a, b in zip(rows, values, strict=True)])
    weights = 1 / (1 - torch.tensor(p, dtype=torch.float64))
    for gradient, missing in zip(found, ((1,), ()), strict=True):
        used = weights.clone()
        used[list(missing)] = 0.0
        assert torch.allclose(gradient, (used @ torch.tensor(encoding)) @ parts, rtol=1e-12)
    assert not any(report.exact for report in reports)


def test_an_estimate_is_the_share_that_has_answered() -> None:
    scheme = schemes.sgc(N, 2, deadline=1.0, allocation="cyclic")
    with pytest.warns(GradcodeWarning, match=r"estimated.*\(now 0\.0\).*in the long run only") as caught:
        gradients(scheme, [(0,), (1, 2), ()])
    assert len(caught) == 1 and scheme.estimated
    assert scheme.straggling[0] == pytest.approx(1 - 9 / 12)  # of the two iterations before the last
    state = scheme.state_dict()
    other = schemes.sgc(N, 2, deadline=1.0, allocation="cyclic")
    other.load_state_dict(state)
    assert other.straggling[0] == pytest.approx(1 - 15 / 18)
    with pytest.raises(ValueError, match="the state is not that of sgc"):
        other.load_state_dict({})


def test_persistent_stragglers_are_warned_of_once() -> None:
    quorum = schemes.sgc(N, 2, quorum=5, allocation="cyclic")
    with pytest.warns(GradcodeWarning, match=r"far fewer than straggling=0\.16.* \(3: 0\).*biased") as caught:
        gradients(quorum, [(3,)] * 80)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gradients(schemes.sgc(N, 2, quorum=5, allocation="cyclic"), [(number % N,) for number in range(80)])
        known = schemes.sgc(N, 2, straggling=[0, 0, 0, 0.9999, 0, 0], quorum=5, allocation="cyclic")
        gradients(known, [(3,)] * 80)
        gradients(schemes.sgc(N, 2, 1 / 6, deadline=1.0, allocation="cyclic"), [(0,)])  # is told, and need not estimate
        assert not known.estimated and not quorum.estimated


def test_a_worker_without_partitions_is_nobodys_straggler() -> None:
    scheme = schemes.sgc(N, 2, quorum=6, allocation="random", rng=0)
    assert any(len(held) == 0 for held in scheme.code.placement)
    found, reports = gradients(scheme, [()])
    problem = objective()
    exact = problem.gradient(problem.model.theta.detach())
    assert float((found[0] - exact).norm() / exact.norm()) < 1e-12 and reports[0].exact


@pytest.mark.parametrize(
    ("build", "problem"),
    [
        (lambda: schemes.sgc(N, 2, straggling=1.0, quorum=3), "straggling=1.0 must be a probability below 1"),
        (lambda: schemes.sgc(N, 2, straggling=[0.1], quorum=3), "or one for each of the 6 workers"),
        (lambda: schemes.sgc(N, 2, quorum=7), "7"),
        (lambda: schemes.StochasticSum(codes.fractional_repetition(N, 1), 0.1), "does not share each partition out"),
        (lambda: schemes.coco_ef(N, quorum=3, group=8, density=0.1), "give one of them"),
        (
            lambda: schemes.compressed(schemes.greedy([3, 3], 0, 0), Half()),
            "cannot be compressed: it has edge nodes",
        ),
        (
            lambda: schemes.compressed(schemes.block_coordinate(codes.block([1, 1, 1, 0, 0, 0])), Half()),
            "its messages are blocks of coordinates that share a row",
        ),
        (lambda: schemes.compressed(schemes.draco(N, 1), Half()), "it compares replies as numbers"),
        (
            lambda: schemes.compressed(schemes.lagc(N, 2), Half()),
            "adds up changes, and what a codec loses of one would stay",
        ),
        (
            lambda: schemes.compressed(schemes.one_bit(N, quorum=3), Half()),
            "has a codec already",
        ),
        (
            lambda: schemes.compressed(schemes.fastest(N, 4), ErrorFeedback(GroupedSign(8))),
            "made good only where its messages always count alike",
        ),
        (
            lambda: schemes.compressed(schemes.coded(codes.cyclic_repetition(N, 1)), ErrorFeedback(GroupedSign(8))),
            "made good only where its messages always count alike",
        ),
    ],
)
def test_refusals(build: Callable[[], Any], problem: str) -> None:
    with pytest.raises(ValueError, match=re.escape(problem)):
        build()


@pytest.mark.parametrize(
    "build",
    [
        lambda: schemes.coded(codes.cyclic_repetition(N, 2, dtype="float64")),
        lambda: schemes.coded(codes.cyclic_mds(N, 2, dtype="float64")),
        lambda: schemes.coded(codes.communication_efficient(N, 3, 1, 2)),
        lambda: schemes.sequential(N, 1, 2, 2),
        lambda: schemes.sequential(N, 1, 2, 2, kind="multiplexed"),
        lambda: schemes.grouping(N, 2),
        lambda: schemes.partial(N, 2, 2),
        lambda: schemes.coupon(N, N, [2] * N),
        lambda: schemes.lag(N, "server", xi=0.1, minibatches=False),
        lambda: schemes.lag(N, "worker", xi=0.1, minibatches=False),
    ],
    ids=["cyclic", "mds", "folded", "sequential", "multiplexed", "grouping", "partial", "coupon", "lag", "lag worker"],
)
def test_halves_go_with_every_scheme(build: Callable[[], Any]) -> None:
    """The same gradient but for rounding, from fewer bytes."""
    plain, plain_reports = gradients(build(), [()] * 2)
    found, reports = gradients(schemes.compressed(build(), Half("float16")), [()] * 2)
    assert float((found - plain).norm() / plain.norm()) < 2e-2
    assert not torch.equal(found, plain)
    for own, other in zip(reports, plain_reports, strict=True):
        assert own.bytes_up < other.bytes_up or own.uploads == 0
        assert own.decode_error > 0 or own.decode_error == other.decode_error
