"""Wangni's probabilities against the tables and examples of sparsification.md, and the message that carries them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression.test_compressors import message, through
from gradcode.compression import Sampled, closed_form, greedy, hybrid_bits

SMALL = np.array([4.0, 2.0, 1.0, 1.0])
ALTERNATING = 1 / np.arange(1.0, 33.0)
HARMONIC = 1 / np.arange(1.0, 1001.0)


def kept(magnitudes: np.ndarray, scale: float) -> np.ndarray:
    return np.minimum(scale * magnitudes, 1)


@pytest.mark.parametrize(
    ("budget", "scale", "probabilities"),
    [
        (0.25, 8 / 23, (1, 16 / 23, 8 / 23, 8 / 23)),
        (0.5, 8 / 33, (32 / 33, 16 / 33, 8 / 33, 8 / 33)),
        (1.0, 2 / 11, (8 / 11, 4 / 11, 2 / 11, 2 / 11)),
        (2.0, 4 / 33, (16 / 33, 8 / 33, 4 / 33, 4 / 33)),
    ],
)
def test_the_small_vector(budget: float, scale: float, probabilities: tuple[float, ...]) -> None:
    """sparsification.md 8 and 9."""
    assert closed_form(SMALL, budget) == pytest.approx(scale, rel=1e-14)
    assert kept(SMALL, scale) == pytest.approx(probabilities, rel=1e-14)
    assert (SMALL**2 / np.array(probabilities)).sum() == pytest.approx((1 + budget) * 22)
    found = Sampled(variance_budget=budget).probabilities(torch.tensor([4.0, -2.0, 1.0, -1.0]))
    assert found == pytest.approx(probabilities, rel=1e-6)


@pytest.mark.parametrize(
    ("budget", "sure", "scale", "total"),
    [
        (0.1, 5, 5.690116, 15.100877),
        (0.5, 2, 2.184413, 7.588809),
        (1, 1, 1.372548, 5.197930),
        (3, 0, 0.628574, 2.551065),
    ],
)
def test_the_alternating_vector(budget: float, sure: int, scale: float, total: float) -> None:
    found = closed_form(ALTERNATING, budget)
    assert found == pytest.approx(scale, abs=5e-7)
    assert kept(ALTERNATING, found).sum() == pytest.approx(total, abs=5e-7)
    assert (kept(ALTERNATING, found) == 1).sum() == sure


@pytest.mark.parametrize(("budget", "total"), [(0.1, 91.23), (1.0, 19.58), (4.0, 6.82)])
def test_the_harmonic_vector(budget: float, total: float) -> None:
    """The deterministic row of the table of 1000 coordinates."""
    assert kept(HARMONIC, closed_form(HARMONIC, budget)).sum() == pytest.approx(total, abs=5e-3)


def test_greedy_rescaling() -> None:
    assert kept(SMALL, greedy(SMALL, 0.5)).tolist() == [1, 0.5, 0.25, 0.25]
    found = kept(ALTERNATING, greedy(ALTERNATING, 0.2))
    assert found.sum() == pytest.approx(6.4, abs=1e-6)
    assert found[:4] == pytest.approx((1, 0.882787, 0.588525, 0.441394), abs=5e-7)


def test_sparse_plus_noise_needs_few_coordinates() -> None:
    """sparsification.md 5 and the last row of 8: Σp ≤ (1 + ρ)s."""
    vector = np.concatenate([np.ones(20), np.full(980, 0.005)])
    total = kept(vector, closed_form(vector, 0.245)).sum()
    assert total == pytest.approx(24.8695, abs=5e-5) and total <= 1.245 * 20


positive = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40).map(np.array)


@given(positive, st.floats(0.01, 10))
def test_the_closed_form_spends_its_budget_and_greedy_agrees(magnitudes: np.ndarray, budget: float) -> None:
    probabilities = kept(magnitudes, closed_form(magnitudes, budget))
    spent = (magnitudes**2 / probabilities).sum() / (magnitudes**2).sum()
    assert spent == pytest.approx(1 + budget, rel=1e-9)
    # Of the form min(λ|g|, 1) there is one for every sum: greedy rescaling to the end finds it.
    density = probabilities.sum() / len(magnitudes)
    if density < 1:
        assert kept(magnitudes, greedy(magnitudes, density, rounds=100)) == pytest.approx(probabilities, rel=1e-6)


def test_edges_of_the_arguments() -> None:
    g = torch.tensor([3.0, 0.0, -1.0, 2.0])
    assert Sampled(variance_budget=0.0).probabilities(g).tolist() == [1, 0, 1, 1]
    assert Sampled(density=0.9).probabilities(g).tolist() == [1, 0, 1, 1]
    assert torch.equal(through(Sampled(variance_budget=0.0), g), g)
    for arguments in ({}, {"variance_budget": 1.0, "density": 0.1}, {"variance_budget": -1.0}, {"density": 0.0}):
        with pytest.raises(ValueError, match=r"must (have either|be)"):
            Sampled(**arguments)


def test_the_coding_length() -> None:
    """sparsification.md 9: one float coordinate 34, three signs 9, the scale 32."""
    assert hybrid_bits(1, 3, 4) == 75


@pytest.mark.parametrize(("budget", "form"), [(4.0, 0), (0.5, 1), (1e-5, 2)])
def test_each_form_of_a_message(budget: float, form: int) -> None:
    """Few, many and nearly all coordinates: listed, mapped, dense. Bytes are those of the spec's bits and the head."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, generator=generator)
    x[:5] = 20.0
    compressor = Sampled(variance_budget=budget)
    sent, found = message(compressor, x), through(compressor, x)
    assert int(sent[:4].clone().view(torch.int32)) == form
    unit = float(sent[12:16].clone().view(torch.float32))
    exact, signed = int((x.abs() > unit).sum()), int(((found != 0) & (x.abs() <= unit)).sum())
    assert torch.equal(found[x.abs() > unit], x[x.abs() > unit])
    assert set(found[(x.abs() <= unit) & (found != 0)].abs().tolist()) == {unit}
    assert (found * x >= 0).all()
    index = 12  # ⌈log₂ 4000⌉
    which = min(-(-signed * (index + 1) // 8), 2 * 4000 // 8)
    listed = 4 * exact + -(-exact * index // 8) + which
    assert len(sent) == 16 + min(listed, 4 * 4000)
