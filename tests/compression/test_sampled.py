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


# The table of 1000 coordinates (sparsification.md 8): ε -> Σp, then of 2000 samples the non-zeros and E‖Q‖²/‖g‖².
THOUSAND = {
    "normal": {0.1: (648.3, 647.8, 1.1002), 1.0: (316.7, 316.9, 2.0018), 4.0: (126.3, 126.6, 4.9915)},
    "Laplace³": {0.1: (143.4, 143.4, 1.1006), 1.0: (53.6, 53.8, 2.0058), 4.0: (21.2, 21.2, 4.9972)},
    "±1/i": {0.1: (91.23, 90.86, 1.1004), 1.0: (19.58, 19.70, 1.9881), 4.0: (6.82, 6.66, 5.0566)},
}
UNIFORM = {"normal": (1.543, 3.157, 7.916), "Laplace³": (6.975, 18.65, 47.20), "±1/i": (10.96, 51.07, 146.7)}
"""E‖Q‖²/‖g‖² with the same probability for all coordinates and as many of them."""
ROWS = [(kind, budget) for kind, row in THOUSAND.items() for budget in row]


def drawn(kind: str, seed: int) -> np.ndarray:
    """A vector of 1000 coordinates; of the last kind there is one, up to signs."""
    rng = np.random.default_rng(seed)
    if kind == "±1/i":
        return HARMONIC * rng.choice([-1, 1], 1000)
    return rng.standard_normal(1000) if kind == "normal" else rng.laplace(size=1000) ** 3


@pytest.mark.parametrize(("kind", "budget"), ROWS)
def test_sums_of_a_thousand_probabilities(kind: str, budget: float) -> None:
    """The expected Σp is of one draw: within 4 standard deviations of a draw from the mean of 40, and its rounding."""
    wanted, digit = THOUSAND[kind][budget][0], 5e-3 if kind == "±1/i" else 5e-2
    totals = []
    for seed in range(40):
        magnitudes = np.abs(drawn(kind, seed))
        totals.append(kept(magnitudes, closed_form(magnitudes, budget)).sum())
    spread = float(np.std(totals, ddof=1)) if kind != "±1/i" else 0.0
    assert abs(np.mean(totals) - wanted) <= 4 * spread * np.sqrt(1 + 1 / 40) + digit
    # Equal probabilities ρ make E‖Q‖² = ‖g‖²/ρ.
    uniform = UNIFORM[kind][list(THOUSAND[kind]).index(budget)]
    assert abs(1000 / np.mean(totals) / uniform - 1) <= (4 * spread * np.sqrt(1 + 1 / 40) + 2 * digit) / wanted


@pytest.mark.parametrize(("kind", "budget"), ROWS)
def test_samples_of_a_thousand_coordinates(kind: str, budget: float) -> None:
    """Mean non-zeros and E‖Q‖²/‖g‖² of 300 messages, within 4 standard errors, which p gives exactly.

    Var ‖Q‖₀ = Σp(1 − p), Var ‖Q‖² = Σg⁴(1 − p)/p³. The expected ones of the vector without chance are of 2000 samples.
    """
    vector, samples = drawn(kind, 0), 300
    x, squares = torch.from_numpy(vector), vector**2
    compressor = Sampled(variance_budget=budget)
    p = compressor.probabilities(x)
    found = np.array([through(compressor, x, key=(7, number, 0)).numpy() for number in range(samples)])
    counts, factors = (found != 0).sum(axis=1).mean(), (found**2).sum(axis=1).mean() / squares.sum()
    of_counts = np.sqrt((p * (1 - p)).sum())
    of_factors = np.sqrt((squares**2 * (1 - p) / p**3).sum()) / squares.sum()
    assert abs(counts - p.sum()) <= 4 * of_counts / np.sqrt(samples)
    assert abs(factors - 1 - budget) <= 4 * of_factors / np.sqrt(samples)
    if kind == "±1/i":
        _, nonzeros, factor = THOUSAND[kind][budget]
        both = 4 * np.sqrt(1 / samples + 1 / 2000)
        assert abs(counts - nonzeros) <= both * of_counts and abs(factors - factor) <= both * of_factors


@pytest.mark.parametrize(("kind", "budget"), ROWS)
def test_greedy_rescaling_of_a_thousand(kind: str, budget: float) -> None:
    """Run to the end it is the closed form; after two rounds no probability is off by more than 1e-3, to one digit."""
    magnitudes = np.abs(drawn(kind, 0))
    wanted = kept(magnitudes, closed_form(magnitudes, budget))
    density = wanted.sum() / 1000
    assert np.abs(kept(magnitudes, greedy(magnitudes, density, rounds=100)) - wanted).max() < 1e-12
    assert np.abs(kept(magnitudes, greedy(magnitudes, density)) - wanted).max() <= 1.5e-3


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
