"""Encoded least squares and encoded coordinates: what workers compute, and what that is worth without the code."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gradcode
from clusters.zoo import straggling
from gradcode import schemes
from gradcode.codes import encoders
from gradcode.training import EncodedCoordinates, EncodedLeastSquares, LeastSquares, Logistic

TIGHT = ("hadamard", "haar", "steiner", "paley", "replication")
L = 4


def data(samples: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.standard_normal((samples, L)), rng.standard_normal(samples)


def gradient_of(objective: EncodedLeastSquares, silent: tuple[int, ...], theta: Tensor) -> Tensor:
    """What schemes.fastest makes of the others' replies."""
    workers = objective.partitions
    cluster = gradcode.SimulatedCluster(workers, straggling([silent], workers))
    with gradcode.Session.of(objective, schemes.fastest(workers, workers - len(silent)), cluster) as session:
        with torch.no_grad():
            objective.model.theta.copy_(theta)
        next(session.epoch()).backward()
        assert objective.model.theta.grad is not None
        return objective.model.theta.grad.clone()


# Encoded data


@settings(max_examples=25)
@given(st.sampled_from(sorted(encoders.REGISTRY)), st.integers(8, 20), st.integers(0, 2**31), st.data())
def test_the_fastest_k_give_the_papers_gradient(name: str, samples: int, seed: int, draw: st.DataObject) -> None:
    """ĝ = 1/(nβη)·Σ_{i∈A} X̃_iᵀ(X̃_i w − ỹ_i) + λw, η the share of the rows that A has (encoded_optimization.md 4)."""
    encoder = encoders.create(name, samples=samples)
    features, targets = data(samples, seed)
    silent = tuple(sorted(draw.draw(st.sets(st.integers(0, 7), max_size=7))))
    objective = EncodedLeastSquares(features, targets, encoder, 8, regularisation=0.3)
    w = np.random.default_rng(seed).standard_normal(L)
    blocks = [own for i, own in enumerate(encoder.blocks(8)) if i not in silent]
    rows = np.concatenate([np.arange(own.start, own.stop) for own in blocks])
    encoded, aims = encoder.matrix[rows] @ features, encoder.matrix[rows] @ targets
    share = len(rows) / encoder.rows
    expected = encoded.T @ (encoded @ w - aims) / (samples * encoder.redundancy * share) + 0.3 * w
    np.testing.assert_allclose(gradient_of(objective, silent, torch.from_numpy(w)), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", TIGHT)
def test_with_everybody_a_tight_encoder_changes_nothing(name: str) -> None:
    features, targets = data(15)
    objective = EncodedLeastSquares(features, targets, encoders.create(name, samples=15), 5, regularisation=0.1)
    plain, w = LeastSquares(features, targets, 3, 0.1), torch.linspace(-1, 2, L, dtype=torch.float64)
    torch.testing.assert_close(gradient_of(objective, (), w), plain.gradient(w))
    assert objective.loss(w) == pytest.approx(plain.loss(w), rel=1e-12)
    assert objective.smoothness() == pytest.approx(plain.smoothness(), rel=1e-12)


def test_the_worked_example() -> None:
    """encoded_optimization.md 7: one step from 0 without worker 3, and from all."""
    encoder = encoders.hadamard(2, shuffle=False)
    objective = EncodedLeastSquares([[1.0], [2.0]], [1.0, 3.0], encoder, workers=4)
    zero = torch.zeros(1, dtype=torch.float64)
    assert gradient_of(objective, (3,), zero).tolist() == pytest.approx([-13 / 3], rel=1e-12)
    assert gradient_of(objective, (), zero).tolist() == pytest.approx([-7 / 2], rel=1e-12)
    assert objective.uncoded.minimiser().tolist() == pytest.approx([7 / 5], rel=1e-12)
    assert 4 * objective.value(objective.uncoded.minimiser()) == pytest.approx(0.2, rel=1e-12)


def test_the_value_is_that_of_the_uncoded_objective() -> None:
    features, targets = data(10)
    objective = EncodedLeastSquares(features, targets, encoders.gaussian(10), 5, regularisation=0.2)
    plain, w = LeastSquares(features, targets, 1, 0.2), torch.linspace(0, 1, L, dtype=torch.float64)
    assert objective.value(w) == plain.loss(w) != pytest.approx(objective.loss(w), rel=1e-3)
    assert abs(objective.gap(plain.minimiser())) < 1e-14 < objective.gap(w)
    assert objective.gap(w) == pytest.approx(plain.loss(w) - plain.loss(plain.minimiser()), rel=1e-12)
    assert objective.fingerprint()["encoder"] == "gaussian(samples=10)"


# The objective itself


@pytest.mark.parametrize("regularisation", [0.0, 0.4])
def test_the_minimiser_has_no_gradient(regularisation: float) -> None:
    features, targets = data(12)
    objective = LeastSquares(features, targets, 3, regularisation)
    assert float(objective.gradient(objective.minimiser()).norm()) < 1e-13
    wide = LeastSquares(features[:2], targets[:2], 1, regularisation)  # fewer samples than coordinates
    np.testing.assert_allclose(wide.gradient(wide.minimiser()), 0.0, atol=1e-13)


def test_features_and_gradients_are_those_of_the_partitions() -> None:
    features, targets = data(11)
    objective, w = LeastSquares(features, targets, 4, 0.1), torch.ones(L, dtype=torch.float64)
    assert np.array_equal(objective.features, features) and np.array_equal(objective.targets, targets)
    assert objective.gradients(w).shape == (4, L)
    torch.testing.assert_close(objective.gradients(w).sum(0), objective.gradient(w))


@pytest.mark.parametrize("samples", [3, 12])
def test_smoothness_is_the_largest_curvature(samples: int) -> None:
    features, targets = data(samples)
    found = LeastSquares(features, targets, 1, 0.2).smoothness()
    assert found == pytest.approx(np.linalg.eigvalsh(features.T @ features / samples)[-1] + 0.2, rel=1e-12)
    logistic = Logistic(features, np.sign(targets), 1, 0.2)
    zero = torch.zeros(L, dtype=torch.float64)
    hessian = torch.autograd.functional.hessian(lambda w: reference(logistic, w), zero)
    assert logistic.smoothness() == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-12)


# Encoded coordinates


def reference(objective: LeastSquares | Logistic, w: Tensor) -> Tensor:
    """The documented formula, for autograd."""
    predictions = objective.features @ w
    if isinstance(objective, Logistic):
        losses = torch.nn.functional.softplus(-objective.targets * predictions)
    else:
        losses = (predictions - objective.targets) ** 2 / 2
    return losses.mean() + objective.regularisation / 2 * w.dot(w)


@pytest.mark.parametrize("build", [LeastSquares, Logistic])
@pytest.mark.parametrize("name", ["hadamard", "gaussian"])
def test_encoded_coordinates_are_the_objective_at_the_decoded_ones(build: type, name: str) -> None:
    features, targets = data(10)
    plain = build(features, np.sign(targets), 3, 0.3)
    objective = EncodedCoordinates(plain, encoders.create(name, samples=L))
    v = torch.linspace(-1, 1, objective.length, dtype=torch.float64, requires_grad=True)
    matrix = torch.tensor(objective.encoder.matrix)
    expected = reference(plain, matrix.T @ v)
    (gradient,) = torch.autograd.grad(expected, v)
    theta = v.detach()
    torch.testing.assert_close(objective.parameters(theta), matrix.T @ theta)
    assert objective.loss(theta) == objective.value(theta) == pytest.approx(float(expected.detach()), rel=1e-12)
    torch.testing.assert_close(objective.gradient(theta), gradient)
    assert objective.partitions == 3 and objective.length == objective.encoder.rows
    source, out = objective.copy(), torch.full_like(theta, torch.nan)
    source.bind(theta, torch.empty(0, dtype=torch.float64), 0)
    for partition in range(3):
        source.accumulate(0, partition, 1.0, out, partition == 0, gradcode.protocol.Block(2, 5))
    torch.testing.assert_close(out[2:5], gradient[2:5])


@pytest.mark.parametrize("regularisation", [0.0, 0.3])
def test_smoothness_in_the_encoded_coordinates(regularisation: float) -> None:
    features, targets = data(10)
    plain = LeastSquares(features, targets, 1, regularisation)
    for name, factor in (("hadamard", 2.0), ("gaussian", None)):
        objective = EncodedCoordinates(plain, encoders.create(name, samples=L))
        zero = torch.zeros(objective.length, dtype=torch.float64)
        matrix = torch.tensor(objective.encoder.matrix)
        hessian = torch.autograd.functional.hessian(lambda v, m=matrix: reference(plain, m.T @ v), zero)
        assert objective.smoothness() == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-12)
        if factor is not None:
            assert objective.smoothness() == pytest.approx(factor * plain.smoothness(), rel=1e-12)


@settings(max_examples=10)
@given(st.integers(0, 2**31), st.sets(st.integers(0, 7), min_size=6, max_size=8))
def test_resting_blocks_do_not_keep_it_from_the_optimum(seed: int, chosen: set[int]) -> None:
    """encoded_optimization.md 3, fact 4: at a point where the blocks of A rest, w = Sᵀv minimises f.

    Found by Newton's method in the blocks of A alone, from a random v.
    """
    rng = np.random.default_rng(seed)
    plain = LeastSquares(rng.standard_normal((20, 8)), rng.standard_normal(20), 1, 0.1)
    objective = EncodedCoordinates(plain, encoders.hadamard(8, rng=seed))
    (spectrum,) = encoders.spectra(objective.encoder, 8, [sorted(chosen)])
    if spectrum[0] < 1e-6:
        return
    blocks = [own for i, own in enumerate(objective.encoder.blocks(8)) if i in chosen]
    moving = np.concatenate([np.arange(own.start, own.stop) for own in blocks])
    v = torch.from_numpy(rng.standard_normal(16))
    matrix = torch.tensor(objective.encoder.matrix)[moving]
    hessian = matrix @ (plain.features.T @ plain.features / 20 + 0.1 * torch.eye(8, dtype=torch.float64)) @ matrix.T
    v[moving] -= torch.linalg.pinv(hessian, rtol=1e-10) @ objective.gradient(v)[moving]
    assert float(objective.gradient(v)[moving].norm()) < 1e-8
    found, best = plain.loss(objective.parameters(v)), plain.loss(plain.minimiser())
    assert found == pytest.approx(best, rel=1e-9)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (
            lambda: EncodedLeastSquares(np.ones((3, 2)), np.ones(3), encoders.hadamard(4), 2),
            "values.shape=(3, 2) must be (4,) or (4, columns): the samples",
        ),
        (
            lambda: EncodedLeastSquares(np.ones((3, 2)), np.ones(2), encoders.hadamard(3), 2),
            "features (3, 2) and targets (2,) must have shapes",
        ),
        (
            lambda: EncodedLeastSquares(np.ones((3, 2)), np.ones(3), encoders.hadamard(3), 9),
            "partitions=9 must be from 1 to the 8 samples",
        ),
        (
            lambda: EncodedCoordinates(LeastSquares(np.ones((3, 2)), np.ones(3), 1), encoders.hadamard(3)),
            "hadamard(samples=3) is for 3 samples; the objective has 2 coordinates",
        ),
    ],
)
def test_refusals(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()  # type: ignore[operator]
