"""The bounds of one_bit.md 6.2 and 10 hold, and are near enough to what they bound to be of use.

Bounds are of expectations. Every figure here is a mean over independent seeded runs, and the bound has to be above it
by four standard errors; the least share of the bound that it has to reach shows that it is this that is bounded.
``pytest tests/planning/test_one_bit_bounds.py -s`` prints the shares.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import gradcode
from gradcode import delays, schemes
from gradcode.compression import Compressor, GroupedSign, TopK
from gradcode.delays.law import Floats
from gradcode.planning import one_bit
from gradcode.training.quadratic import LinearObjective, Logistic
from planning.noisy_descent import LENGTH, WORKERS, P, Problem, Setting, Sigmoid, descend, passed

RUNS = 20
START = np.zeros(LENGTH)
PLAIN, RIDGE, SIGMOID = Problem(), Problem(ridge=0.3), Sigmoid()

ranges = pytest.mark.parametrize("range", ["linf", "l2", "fixed"])
replications = pytest.mark.parametrize("replication", [1, 2, 5])


def judge(what: str, runs: Floats, bound: float, least: float) -> float:
    """The mean of the runs, which the bound is above and not far above."""
    mean, error = float(runs.mean()), float(runs.std(ddof=1) / np.sqrt(len(runs)))
    print(f"{what}: {mean / bound:.3f} of the bound, ± {error / bound:.3f}")
    assert least * bound <= mean and mean + 4 * error <= bound
    return mean


def allowed(replication: int, problem: Problem, convex: bool) -> float:
    """The step that eq. 8 allows, which is that of the range "l2"; V1 does not depend on the gradients."""
    return one_bit.noise(WORKERS, replication, P, 1.0, LENGTH).largest_step(problem.smoothness, convex)


def squares(vectors: Floats) -> Floats:
    return np.asarray((vectors**2).sum(axis=-1))


def test_the_problems_are_what_they_are_said_to_be() -> None:
    """The logistic one is the package's; slopes are those of the values, and L is above every curvature met."""
    rng = np.random.default_rng(5)
    objective, theta = Logistic(*PLAIN.data, WORKERS, RIDGE.ridge), rng.standard_normal(LENGTH)
    assert float(RIDGE.value(theta)) == pytest.approx(objective.loss(torch.tensor(theta)), rel=1e-12)
    assert RIDGE.gradient(theta) == pytest.approx(objective.gradient(torch.tensor(theta)).numpy(), rel=1e-9)
    assert RIDGE.smoothness == pytest.approx(objective.smoothness(), rel=1e-9)
    for problem in (PLAIN, SIGMOID):
        near, step = rng.standard_normal((500, LENGTH)) * 3, 1e-5 * rng.standard_normal((500, LENGTH))
        rise = problem.value(near + step) - problem.value(near - step)
        assert rise / 2 == pytest.approx((problem.gradient(near) * step).sum(axis=-1), rel=1e-4, abs=1e-13)
        turn = np.sqrt(squares(problem.gradient(near + step) - problem.gradient(near - step)) / squares(2 * step))
        assert turn.max() <= problem.smoothness
        z = np.linspace(-8.0, 8.0, 4001)  # the largest |ℓ''| and |ℓ'| are met, to the last digit given
        for y in (-1.0, 1.0):
            slopes = problem.slopes(z, np.full_like(z, y))
            curvature = float(np.abs(np.gradient(slopes, z)).max())
            assert 0.998 * problem.bend <= curvature <= problem.bend
            assert 0.998 * problem.steep <= float(np.abs(slopes).max()) <= problem.steep
    bent = np.linspace(-8.0, 8.0, 400)[:, None] * np.ones(LENGTH)
    assert (np.diff(SIGMOID.value(bent), 2) < 0).any()  # not convex


@ranges
@replications
def test_smooth_losses(range: one_bit.Range, replication: int) -> None:
    """(1/T)·Σ E‖∇F‖² ≤ 2·(F(θ⁰) − F*)/(γT) + LγV of sigmoid regression, with F* ≥ 0."""
    setting, step, count = Setting(SIGMOID, replication, range), allowed(replication, SIGMOID, convex=False), 250
    path = descend(setting, START, np.full(count, step), RUNS)
    found = squares(SIGMOID.gradient(path[:-1])).mean(axis=0)
    bound = setting.noise(path).mean_squared_slope(step, SIGMOID.smoothness, float(SIGMOID.value(START)), count)
    judge(f"smooth, {range}, d = {replication}", found, bound, 0.02)


@ranges
@replications
def test_convex_losses(range: one_bit.Range, replication: int) -> None:
    """(1/T)·Σ E[F − F*] ≤ ‖θ⁰ − θ*‖²/(γT) + γV of logistic regression."""
    setting, step, count = Setting(PLAIN, replication, range), allowed(replication, PLAIN, convex=True), 250
    path = descend(setting, START, np.full(count, step), RUNS)
    found = (PLAIN.value(path[:-1]) - PLAIN.value(PLAIN.optimum)).mean(axis=0)
    bound = setting.noise(path).mean_gap(step, float(np.linalg.norm(PLAIN.optimum)), count)
    judge(f"convex, {range}, d = {replication}", found, bound, 0.05)


@ranges
@replications
def test_the_noise_ball(range: one_bit.Range, replication: int) -> None:
    """E‖θ^T − θ*‖² ≤ γV/µ from θ* on, and a third of the step leaves a third of it.

    To first order in γ: the next order is of the size of γL ≤ 0.1 for the larger step. So the quotient is 3 up to a
    tenth, and four of its standard errors.
    """
    setting, largest = Setting(RIDGE, replication, range), allowed(replication, RIDGE, convex=True)
    balls, errors, runs = [], [], 50
    for step in (largest / 3, largest / 9):
        assert step * RIDGE.smoothness <= 0.11
        count = int(4 / (step * RIDGE.ridge))  # as long in units of 1/(γµ), of which the first is left out
        path = descend(setting, RIDGE.optimum, np.full(count, step), runs)
        far = squares(path - RIDGE.optimum)
        late = far[count // 4 :].mean(axis=0)
        balls.append(judge(f"ball, {range}, d = {replication}", late, setting.noise(path).ball(step, RIDGE.ridge), 0.1))
        errors.append(late.std(ddof=1) / np.sqrt(runs) / late.mean())
    assert abs(balls[0] / balls[1] - 3) <= 0.3 + 4 * 3 * np.hypot(*errors)


@ranges
@replications
def test_a_step_that_decays(range: one_bit.Range, replication: int) -> None:
    """E‖θ^T − θ*‖² ≤ 4G²/(µ²T) with γ_t = 1/(µt). G² is met at the first steps, which are long, and so is far above."""
    setting, count = Setting(RIDGE, replication, range), 150
    path = descend(setting, START, 1 / (RIDGE.ridge * np.arange(1, count + 1)), RUNS)
    messages = setting.messages(path)
    noise = one_bit.moments(messages, P, range, setting.bound)
    square = float((noise + squares(RIDGE.gradient(path))).max())
    for t in (15, count):
        bound = one_bit.decaying_ball(square, RIDGE.ridge, t)
        judge(f"decaying, {range}, d = {replication}, T = {t}", squares(path[t] - RIDGE.optimum), bound, 0.002)


@pytest.mark.parametrize("range", [None, "l2", "linf"])
def test_the_constants_of_pairwise_balance(range: one_bit.Range | None) -> None:
    """V0 and V1 of eq. 8, which know the messages' range "l2" and Σ_k‖g_k‖² only; "linf" has less noise."""
    setting, count = Setting(PLAIN, 6, range, workers=12, allocation="pairwise"), 250
    coordinates = None if range is None else LENGTH
    step = one_bit.noise(12, 6, P, 1.0, coordinates).largest_step(PLAIN.smoothness, convex=True)
    path = descend(setting, START, np.full(count, step), RUNS)
    largest = float(squares(PLAIN.gradients(path)).sum(axis=-1).max())
    noise = one_bit.noise(12, 6, P, largest, coordinates)
    found = (PLAIN.value(path[:-1]) - PLAIN.value(PLAIN.optimum)).mean(axis=0)
    bound = noise.mean_gap(step, float(np.linalg.norm(PLAIN.optimum)), count)
    judge(f"convex, {range}, eq. 8", found, bound, 0.03)


@pytest.mark.parametrize("compressor", [GroupedSign(2), GroupedSign(3), TopK(k=3)], ids=["sign 2", "sign 3", "top 3"])
@replications
def test_error_feedback(compressor: Compressor, replication: int) -> None:
    """E‖e_i‖² of every worker at every time, and (1/T)·Σ E‖∇F‖² (one_bit.md 10), of sigmoid regression."""
    setting, step, runs = Setting(SIGMOID, replication, None), 0.05 / SIGMOID.smoothness, 4
    count = 40 if isinstance(compressor, TopK) else 150
    path, memories = descend_with_feedback(setting, compressor, step, count, runs)
    messages = setting.messages(path)
    largest, factor = np.linalg.norm(messages, axis=-1).max(axis=(0, 1)), compressor.error_factor(LENGTH)
    assert factor is not None
    # The memory's bound holds for every run by itself, since these compressors contract for certain.
    shares = squares(memories).max(axis=(0, 1)) / one_bit.memory_bound(step, largest, factor)
    print(f"memory, {compressor}, d = {replication}: {shares.min():.3f} to {shares.max():.3f} of the bound")
    assert 0.05 <= shares.max() <= 1
    found = squares(SIGMOID.gradient(path[:-1])).mean(axis=0)
    gap = float(SIGMOID.value(START))
    bound = one_bit.feedback_bound(step, SIGMOID.smoothness, gap, count, P, largest, factor)
    judge(f"feedback, {compressor}, d = {replication}", found, bound, 0.03)


def descend_with_feedback(
    setting: Setting, compressor: Compressor, step: float, count: int, runs: int
) -> tuple[Floats, Floats]:
    """θ, (T + 1, runs, D), and e_i, (T + 1, runs, N, D), in units of the parameters (one_bit.md, eq. 9)."""
    rng = np.random.default_rng(2)
    path, memories = np.zeros((count + 1, runs, LENGTH)), np.zeros((count + 1, runs, WORKERS, LENGTH))
    for t in range(count):
        whole = step * setting.messages(path[t]) + memories[t]
        if isinstance(compressor, GroupedSign):  # whose groups no message shares with another
            sent = passed(compressor, whole, (0, t, 0))
        else:
            sent = np.array([[passed(compressor, own, (0, t, 0)) for own in each] for each in whole])
        there = rng.random((runs, WORKERS, 1)) >= P
        memories[t + 1] = np.where(there, whole - sent, memories[t])
        path[t + 1] = path[t] - (there * sent).sum(axis=1)
    return path, memories


# The same with the package's schemes on a simulated cluster


def train(scheme: Any, step: float, count: int, seed: int) -> tuple[Floats, Floats, list[gradcode.Report]]:
    """θ⁰, ..., θ^T of logistic regression, (T + 1, D), and what workers remember, (T + 1, N, D)."""
    objective: LinearObjective = Logistic(*PLAIN.data, WORKERS)
    reports: list[gradcode.Report] = []
    # Who is slow never answers, each with probability P by itself; the others at 0.1, before the deadline.
    slow = delays.Bernoulli(delays.Deterministic(0.1), probability=P, slowdown=float("inf"))
    cluster = gradcode.SimulatedCluster(WORKERS, slow)
    theta = objective.model.theta
    path, memories = [theta.detach().numpy().copy()], [np.zeros((WORKERS, LENGTH))]
    with gradcode.Session.of(objective, scheme, cluster, seed, listeners=[reports.append]) as session:
        for number in range(count):
            session._backward(number)
            with torch.no_grad():
                theta -= step * theta.grad
            path.append(theta.detach().numpy().copy())
            if cluster.memory is not None:
                copies = [cluster.memory[row, copy].numpy() for row, copy in enumerate(scheme._copies)]
                memories.append(step / (1 - P) * np.array(copies))
    return np.array(path), np.array(memories), reports


@ranges
def test_the_scheme_on_a_cluster(range: one_bit.Range) -> None:
    """The bound for convex losses, of schemes.one_bit."""
    setting, step, count = Setting(PLAIN, 2, range), allowed(2, PLAIN, convex=True), 40
    bound = None if setting.bound is None else (1 - P) * setting.bound
    runs = []
    for seed in (0, 1, 2, 3):
        scheme = schemes.one_bit(WORKERS, 2, P, deadline=0.5, range=range, bound=bound, allocation="cyclic", rng=0)
        path, _, reports = train(scheme, step, count, seed)
        away = [np.isnan(report.arrivals).sum() for report in reports]
        # A mean of 400 coins: within four standard deviations.
        assert abs(np.mean(away) / WORKERS - P) <= 4 * np.sqrt(P * (1 - P) / (count * WORKERS))
        assert not any(report.clipped for report in reports)
        runs.append(path)
    together = np.stack(runs, axis=1)
    found = (PLAIN.value(together[:-1]) - PLAIN.value(PLAIN.optimum)).mean(axis=0)
    limit = setting.noise(together).mean_gap(step, float(np.linalg.norm(PLAIN.optimum)), count)
    judge(f"cluster, convex, {range}", found, limit, 0.05)


def test_error_feedback_on_a_cluster() -> None:
    """Both bounds of section 10, of schemes.coco_ef."""
    setting, step, count = Setting(PLAIN, 2, None), 0.05 / PLAIN.smoothness, 40
    parts = []
    for seed in range(4):
        scheme = schemes.coco_ef(WORKERS, 2, P, deadline=0.5, group=2, allocation="cyclic")
        parts.append(train(scheme, step, count, seed))
    path, memories = np.stack([own[0] for own in parts], axis=1), np.stack([own[1] for own in parts], axis=1)
    largest = np.linalg.norm(setting.messages(path), axis=-1).max(axis=(0, 1))
    shares = squares(memories).max(axis=(0, 1)) / one_bit.memory_bound(step, largest, 0.5)
    assert 0.05 <= shares.max() <= 1
    found = squares(PLAIN.gradient(path[:-1])).mean(axis=0)
    gap = float(PLAIN.value(START) - PLAIN.value(PLAIN.optimum))
    bound = one_bit.feedback_bound(step, PLAIN.smoothness, gap, count, P, largest, 0.5)
    judge("cluster, feedback", found, bound, 0.03)
