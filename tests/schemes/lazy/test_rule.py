"""The lazy rule by itself, and the worked example."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch

import gradcode
from gradcode import schemes
from gradcode.errors import GradcodeWarning
from gradcode.protocol import Step
from gradcode.schemes.lazy import Rule, safe_step
from gradcode.training import LeastSquares
from schemes.lazy.descents import descend


def test_threshold_is_that_of_the_last_steps() -> None:
    rule = Rule(voters=4, xi=[0.5, 0.25, 0.125], step_size=0.1)
    assert rule.history == 3
    assert rule.threshold(Step()) == 0.0
    assert rule.threshold(Step(plain=True, displacements=(2.0,), rates=(9.0,))) == pytest.approx(0.5 * 2 / (0.01 * 16))
    step = Step(9.0, (2.0, 4.0, 8.0), (9.0, 9.0, 9.0), plain=True)  # the given step size counts
    assert rule.threshold(step) == pytest.approx((1.0 + 1.0 + 1.0) / (0.01 * 16))


def test_the_learning_rate_is_the_optimizers() -> None:
    rule = Rule(voters=5, xi=0.1, step_size=None)
    assert rule.threshold(Step(0.5, (1.0, 3.0), (0.5, 0.5), plain=True)) == pytest.approx(0.1 * 4 / (0.25 * 25))
    assert rule.threshold(Step(0.1, (0.0,), (0.0,), plain=True)) == 0.0  # a warm-up may begin so


def test_steps_count_with_the_learning_rates_they_were_taken_at() -> None:
    """A schedule's decay does not make old steps large: they stand for the gradients of then."""
    rule = Rule(voters=5, xi=0.1, step_size=None)
    rule.note(9.0)
    rule.note(4.0)
    step = Step(0.001, (0.5**2 * 4.0, 2.0**2 * 9.0), (0.5, 2.0), plain=True)
    assert rule.threshold(step) == pytest.approx(0.1 * (4 + 9) / 25)
    assert rule.threshold(step) == pytest.approx(rule.threshold(Step(0.001)))


def test_of_other_optimizers_the_gradients_count() -> None:
    """Under plain SGD the two are one: Δ_d = α²‖∇‖²."""
    rule = Rule(voters=5, xi=0.1, step_size=None)
    rule.note(25.0)
    rule.note(1.0)
    with pytest.warns(GradcodeWarning, match="proved for plain SGD only"):
        found = rule.threshold(Step(0.5, (7.0, 7.0), (0.5, 0.5), plain=False))
    assert found == pytest.approx(0.1 * 26 / 25)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is said once
        rule.threshold(Step(0.5, plain=False))
        assert rule.threshold(Step()) == found  # nor is it said where nothing is known
    assert rule.threshold(Step(0.5, (0.25, 6.25), (0.5, 0.5), plain=True)) == pytest.approx(found)


@pytest.mark.parametrize("xi", [-0.1, float("nan"), [0.1, -1.0], []])
def test_weights_that_are_none(xi: float) -> None:
    with pytest.raises(ValueError, match="must be a number, 0 or more"):
        Rule(voters=8, xi=xi, step_size=None)


def test_few_voters_and_large_weights_are_warned_of() -> None:
    with pytest.warns(GradcodeWarning, match="xi adds up to 1 with 3 voters: training may not converge"):
        schemes.glag(workers=12, redundancy=4, xi=0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        schemes.glag(workers=12, redundancy=3, xi=0.1)
        schemes.glag(workers=12, redundancy=6, xi=0.09)


def test_safe_step() -> None:
    assert safe_step(2.0, 0.05) == 0.25
    for smoothness, xi, problem in ((2.0, 0.1, "adds up to 1,"), (0.0, 0.0, "smoothness=0.0 must be positive")):
        with pytest.raises(ValueError, match=re.escape(problem)):
            safe_step(smoothness, xi)


@pytest.mark.parametrize("side", ["worker", "server"])
def test_worked_example_a(side: str) -> None:
    """Two workers, one parameter: F_1 = ½(θ−1)², F_2 = (3/2)(θ−1)², α = 1/8, D = 1, ξ = 0.1 (lagc.md 10 A)."""
    objective = LeastSquares([[1.0], [3.0**0.5]], [1.0, 3.0**0.5], partitions=2)  # F/2
    options = {"smoothness": [0.5, 1.5]} if side == "server" else {}
    with warnings.catch_warnings(record=True):
        scheme = schemes.lag(2, side, xi=[0.1], minibatches=False, **options)
    found = descend(scheme, objective, step_size=2 / 8, iterations=5)
    assert [float(point) for point in found.points] == pytest.approx([0.0, 0.5, 0.8125, 0.90625, 0.96484375])
    assert [2 * float(gradient) for gradient in found.gradients[:4]] == pytest.approx([-4, -2.5, -0.75, -0.46875])
    assert found.selected[:4] == [(0, 1), (1,), (0, 1), (1,)]
    assert found.uploads[:4] == [2, 1, 2, 1]


def test_what_a_session_says_of_its_optimizer() -> None:
    objective = LeastSquares(np.eye(4), np.ones(4), partitions=4)
    seen: list[Step] = []
    scheme = schemes.uncoded(4)
    start = scheme.start
    scheme.start = lambda iteration: (seen.append(iteration.step), start(iteration))[1]  # type: ignore[method-assign]
    with gradcode.Session.of(objective, scheme, gradcode.SimulatedCluster(4)) as session:
        theta = objective.model.theta
        for optimizer, plain in (
            (None, None),
            (torch.optim.SGD([theta], lr=0.5), True),
            (torch.optim.SGD([theta], lr=0.5, momentum=0.9), False),
            (torch.optim.SGD([theta], lr=0.5, weight_decay=0.1), False),
            (torch.optim.Adam([theta], lr=0.5), False),
        ):
            session.optimizer = optimizer
            next(session.epoch()).backward()
            assert seen[-1].plain is plain
            assert seen[-1].parameters is session.cluster.parameters
