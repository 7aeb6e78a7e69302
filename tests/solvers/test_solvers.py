"""Solvers on the simulated cluster: against closed forms, and step by step against the spec's formulas."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gradcode
from clusters.zoo import straggling
from gradcode import codes, delays, schemes, solvers
from gradcode.codes import encoders
from gradcode.protocol import Scheme
from gradcode.training import EncodedCoordinates, EncodedLeastSquares, LeastSquares, Logistic
from gradcode.training.quadratic import LinearObjective

N, L, SAMPLES = 8, 5, 24
RIDGE = 0.1


def data(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((SAMPLES, L))
    return features, features @ rng.standard_normal(L) + rng.standard_normal(SAMPLES)


def encoded(regularisation: float = RIDGE, name: str = "hadamard") -> EncodedLeastSquares:
    return EncodedLeastSquares(*data(), encoders.create(name, samples=SAMPLES), N, regularisation)


def solved(
    solve: Callable[[gradcode.Session], solvers.Solution],
    objective: LinearObjective,
    scheme: Scheme,
    patterns: Sequence[tuple[int, ...]] | None = None,
) -> solvers.Solution:
    """With the workers of ``patterns`` silent, iteration by iteration; None: random stragglers."""
    table = delays.Exponential(1.0) if patterns is None else straggling(list(patterns), scheme.workers)
    with gradcode.Session.of(objective, scheme, gradcode.SimulatedCluster(scheme.workers, table)) as session:
        return solve(session)


def random_patterns(number: int, silent: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(3)
    return [tuple(sorted(rng.choice(N, silent, replace=False).tolist())) for _ in range(number)]


def test_gradient_descent_is_the_formula() -> None:
    objective, patterns = encoded(), random_patterns(6, 3)
    found = solved(lambda session: solvers.gradient_descent(session, 6), objective, schemes.fastest(N, 5), patterns)
    features, targets = data()
    matrix, w = objective.encoder.matrix, np.zeros(L)
    rate = 1 / (np.linalg.eigvalsh(features.T @ features / SAMPLES)[-1] + RIDGE)
    values = [objective.value(torch.from_numpy(w))]
    for silent in patterns:
        rows = np.concatenate([np.arange(8 * i, 8 * i + 8) for i in range(N) if i not in silent])
        residual = matrix[rows] @ (features @ w - targets)
        w = w - rate * ((matrix[rows] @ features).T @ residual / (objective.samples * 5 / 8) + RIDGE * w)
        values.append(float(((features @ w - targets) ** 2).sum() / (2 * SAMPLES) + RIDGE / 2 * w @ w))
    np.testing.assert_allclose(found.parameters, w, rtol=1e-10)
    np.testing.assert_allclose(found.values, values, rtol=1e-10)
    assert found.responders == tuple(tuple(sorted(set(range(N)) - set(silent))) for silent in patterns)
    np.testing.assert_array_equal(objective.model.theta.detach(), found.parameters)


def test_the_clock_is_the_clusters() -> None:
    """One second each: gradient descent takes one per step, L-BFGS two."""
    for solve, seconds in ((solvers.gradient_descent, 1.0), (solvers.lbfgs, 2.0)):
        cluster = gradcode.SimulatedCluster(N, delays.Deterministic(1.0))
        with gradcode.Session.of(encoded(), schemes.fastest(N, 5), cluster) as session:
            first, second = solve(session, 2), solve(session, 1)
        assert first.clock.tolist() == [0.0, seconds, 2 * seconds] and second.clock.tolist() == [0.0, seconds]
        assert second.values[0] == first.values[-1]


@pytest.mark.parametrize(
    "scheme", [schemes.fastest(N, N), schemes.coded(codes.cyclic_repetition(N, 2, dtype="float64"))]
)
def test_proximal_gradient_finds_the_lasso(scheme: Scheme) -> None:
    """With exact gradients: the subgradient of the objective plus penalty·‖w‖₁ holds zero."""
    objective, penalty = LeastSquares(*data(), N), 0.5
    found = solved(lambda session: solvers.proximal_gradient(session, 120, penalty), objective, scheme)
    w, slope = found.parameters, objective.gradient(found.parameters)
    moving = w != 0
    assert 0 < moving.sum() < L
    torch.testing.assert_close(slope[moving], -penalty * w[moving].sign(), rtol=1e-7, atol=1e-9)
    assert slope[~moving].abs().max() < penalty
    assert found.values[-1] == pytest.approx(objective.loss(w) + penalty * float(w.abs().sum()), rel=1e-12)
    assert (np.diff(found.values) < 1e-12).all()


def test_lbfgs_with_everybody_ends_after_as_many_steps_as_coordinates() -> None:
    """Exact line searches on a quadratic: conjugate directions."""
    objective = encoded()
    found = solved(lambda session: solvers.lbfgs(session, L, damping=1.0), objective, schemes.fastest(N, N))
    torch.testing.assert_close(found.parameters, objective.uncoded.minimiser(), rtol=1e-8, atol=1e-10)
    slower = solved(lambda session: solvers.gradient_descent(session, L), encoded(), schemes.fastest(N, N))
    assert objective.gap(found.parameters) < 1e-12 < objective.gap(slower.parameters)


@pytest.mark.parametrize("memory", [1, 10])
def test_lbfgs_is_the_formula(memory: int) -> None:
    """encoded_optimization.md 4, with inverse Hessians as dense matrices and ‖X̃_i d‖² by itself."""
    objective, steps, damping = encoded(), 5, 0.8
    patterns = random_patterns(2 * steps, 3)
    patterns[2] = (0, 1, 2, 3, 4)
    patterns[4] = (5, 6, 7)  # nobody has answered to both: no pair
    scheme = schemes.fastest(N, 3)
    answers = {number: sorted(set(range(N)) - set(silent))[:3] for number, silent in enumerate(patterns)}
    found = solved(lambda session: solvers.lbfgs(session, steps, memory, damping), objective, scheme, patterns)
    features, targets = (objective.encoder.apply(own) for own in data())
    parts = [(features[8 * i : 8 * i + 8], targets[8 * i : 8 * i + 8]) for i in range(N)]
    scale = N / (objective.samples * 3)  # 1/(nβη), nβ being the rows
    w, before, pairs, without = np.zeros(L), None, [], 0
    for number in range(steps):
        gradients = {i: parts[i][0].T @ (parts[i][0] @ w - parts[i][1]) for i in answers[2 * number]}
        slope = scale * sum(gradients.values()) + RIDGE * w
        if before is not None:
            both = gradients.keys() & before[1].keys()
            without += not both
            if both:
                step = w - before[0]
                change = sum(gradients[i] - before[1][i] for i in both) * N / (objective.samples * len(both))
                pairs.append((step, change + RIDGE * step))
        before = w, gradients
        kept = [(u, r) for u, r in pairs if u @ r > 0][-memory:]
        inverse = np.eye(L) * (kept[-1][0] @ kept[-1][1] / (kept[-1][1] @ kept[-1][1]) if kept else 1.0)
        for u, r in kept:
            rest = np.eye(L) - np.outer(r, u) / (u @ r)
            inverse = rest.T @ inverse @ rest + np.outer(u, u) / (u @ r)
        direction = -inverse @ slope
        squares = sum(((parts[i][0] @ direction) ** 2).sum() for i in answers[2 * number + 1])
        w = w - damping * direction @ slope / (scale * squares + RIDGE * direction @ direction) * direction
    assert without == 1 and len(pairs) == steps - 2
    np.testing.assert_allclose(found.parameters, w, rtol=1e-8)
    assert found.responders == tuple(tuple(answers[2 * number]) for number in range(steps))


def test_lbfgs_beats_gradient_descent_on_an_ill_conditioned_problem() -> None:
    """Condition 10⁴: after 30 steps with k = 6 of 8 under random stragglers, against as many round trips."""
    features, targets = data()
    features = features * np.geomspace(1, 1e-2, L)
    objectives = [EncodedLeastSquares(features, targets, encoders.hadamard(SAMPLES), N) for _ in range(2)]
    quick = solved(lambda session: solvers.lbfgs(session, 30), objectives[0], schemes.fastest(N, 6))
    slow = solved(lambda session: solvers.gradient_descent(session, 60), objectives[1], schemes.fastest(N, 6))
    assert objectives[0].gap(quick.parameters) < objectives[1].gap(slow.parameters) / 2


def test_at_the_optimum_lbfgs_rests() -> None:
    objective = LeastSquares(np.eye(N), np.zeros(N), N)
    found = solved(lambda session: solvers.lbfgs(session, 2), objective, schemes.fastest(N, N))
    assert found.parameters.tolist() == [0.0] * N and found.values.tolist() == [0.0] * 3


def test_coordinate_descent_is_exact_whoever_is_late_for_ever() -> None:
    """encoded_optimization.md 3, fact 4: 16 coordinates in 8 blocks, of which 6 move; without encoding 2 stay at 0."""
    rng = np.random.default_rng(1)
    features = rng.standard_normal((40, 8))
    plain = LeastSquares(features, features @ rng.standard_normal(8) + rng.standard_normal(40), 1, RIDGE)
    best = plain.loss(plain.minimiser())
    silent = [(2, 5)] * 300
    excess = {}
    for name, objective in {
        "encoded": EncodedCoordinates(plain, encoders.hadamard(8)),
        "uncoded": EncodedCoordinates(plain, encoders.replication(8, 1)),
    }.items():
        scheme = schemes.fastest_blocks(N, 6, objective.length)
        found = solved(lambda session: solvers.coordinate_descent(session, 300), objective, scheme, silent)
        assert found.responders[0] == (0, 1, 3, 4, 6, 7)
        excess[name] = found.values[-1] / best - 1
        resting = np.concatenate([np.arange(*scheme.blocks[i]) for i in (2, 5)])
        assert not found.parameters[resting].any()
        assert found.values[-1] == pytest.approx(plain.loss(objective.parameters(found.parameters)), rel=1e-12)
    assert excess["encoded"] < 1e-6 < 0.1 < excess["uncoded"]


def test_coordinate_descent_on_logistic_regression() -> None:
    features, targets = data()
    plain = Logistic(features, np.sign(targets), 1, RIDGE)
    objective = EncodedCoordinates(plain, encoders.hadamard(L))
    scheme = schemes.fastest_blocks(4, 3, objective.length)
    found = solved(lambda session: solvers.coordinate_descent(session, 200), objective, scheme)
    assert float(plain.gradient(objective.parameters(found.parameters)).norm()) < 1e-6


def test_no_steps_are_no_steps() -> None:
    found = solved(lambda session: solvers.lbfgs(session, 0), encoded(), schemes.fastest(N, 5))
    assert found.values.shape == found.clock.shape == (1,) and found.responders == ()


FASTEST = schemes.fastest(N, 5)
BLOCKS = schemes.fastest_blocks(N, 5, N)


@pytest.mark.parametrize(
    ("solve", "scheme", "message"),
    [
        (lambda own: solvers.gradient_descent(own, -1), FASTEST, "steps=-1 must be 0 or more"),
        (lambda own: solvers.gradient_descent(own, 1, 0.0), FASTEST, "rate=0.0 must be positive and finite"),
        (lambda own: solvers.proximal_gradient(own, 1, -1.0), FASTEST, "penalty=-1.0 must be at least 0 and finite"),
        (lambda own: solvers.lbfgs(own, 1, 0), FASTEST, "memory=0 must be at least 1"),
        (lambda own: solvers.lbfgs(own, 1, 5, 1.5), FASTEST, "damping=1.5 must be above 0 and at most 1"),
        (
            lambda own: solvers.lbfgs(own, 1),
            schemes.fastest(16, 5, replicas=2),
            "lbfgs is for schemes.fastest with one partition per worker, not for fastest(workers=16, k=5, replicas=2)",
        ),
        (lambda own: solvers.lbfgs(own, 1), schemes.uncoded(N), "lbfgs is for schemes.fastest with one partition"),
        (
            lambda own: solvers.coordinate_descent(own, 1),
            FASTEST,
            "coordinate_descent is for schemes.fastest_blocks, not for fastest(workers=8, k=5)",
        ),
        (
            lambda own: solvers.gradient_descent(own, 1),
            schemes.partial(N, 2),
            "solvers are for schemes whose workers each send a row, such as fastest, not for partial",
        ),
    ],
)
def test_refusals(solve: Callable[[gradcode.Session], object], scheme: Scheme, message: str) -> None:
    objective = LeastSquares(np.eye(N), np.ones(N), scheme.partitions)
    with (
        gradcode.Session.of(objective, scheme, gradcode.SimulatedCluster(scheme.workers)) as session,
        pytest.raises(ValueError, match=re.escape(message)),
    ):
        solve(session)


def test_objectives_that_are_none_of_theirs() -> None:
    dataset = TensorDataset(torch.randn(16, 2), torch.randn(16, 1))
    cluster = gradcode.SimulatedCluster(N)
    with (
        gradcode.Session(nn.Linear(2, 1), nn.MSELoss(), dataset, 16, FASTEST, cluster) as session,
        pytest.raises(ValueError, match=r"solvers are for linear objectives .* not for ModelObjective"),
    ):
        solvers.gradient_descent(session, 1)
    logistic = Logistic(np.eye(N), np.ones(N), N)
    with (
        gradcode.Session.of(logistic, FASTEST, gradcode.SimulatedCluster(N)) as session,
        pytest.raises(ValueError, match="lbfgs is for least squares, not for Logistic"),
    ):
        solvers.lbfgs(session, 1)
