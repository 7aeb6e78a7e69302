"""Encoders: what their matrices are, their fast products, and what is left of them when rows are missing."""

from __future__ import annotations

import doctest
import importlib
import pickle
import pkgutil
import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import hadamard as sylvester

from gradcode.codes import encoders
from gradcode.codes.encoders.frames import conference_matrix

FREE = ("hadamard", "haar", "gaussian")  # β is free
NAMES = sorted(encoders.REGISTRY)
TIGHT = [name for name in NAMES if name != "gaussian"]


def made(name: str, samples: int, seed: int = 0, **options: object) -> encoders.Encoder:
    if name == "replication":
        return encoders.replication(samples, 2)
    return encoders.create(name, samples=samples, rng=seed, **options)


# What they are


@settings(max_examples=60)
@given(st.sampled_from(NAMES), st.integers(1, 40), st.integers(0, 2**31), st.integers(0, 3))
def test_fast_products_are_those_with_the_matrix(name: str, samples: int, seed: int, columns: int) -> None:
    encoder, rng = made(name, samples, seed), np.random.default_rng(seed)
    matrix = encoder.matrix
    assert matrix.shape == (encoder.rows, samples) and encoder.redundancy == encoder.rows / samples
    shape = (columns,) if columns else ()
    values, rows = rng.standard_normal((samples, *shape)), rng.standard_normal((encoder.rows, *shape))
    before = values.copy(), rows.copy()
    np.testing.assert_allclose(encoder.apply(values), matrix @ values, atol=1e-12)
    np.testing.assert_allclose(encoder.adjoint(rows), matrix.T @ rows, atol=1e-12)
    assert np.array_equal(values, before[0]) and np.array_equal(rows, before[1])


@settings(max_examples=40)
@given(st.sampled_from(TIGHT), st.integers(1, 40), st.integers(0, 2**31), st.booleans())
def test_tight_encoders_are_tight(name: str, samples: int, seed: int, shuffle: bool) -> None:
    encoder = made(name, samples, seed, **({} if name == "replication" else {"shuffle": shuffle}))
    assert encoder.tight
    gram = encoder.matrix.T @ encoder.matrix
    np.testing.assert_allclose(gram, encoder.redundancy * np.eye(samples), atol=1e-12)


def test_the_gaussian_encoder_is_tight_on_average() -> None:
    """Entries of SᵀS/β have variance 2/(βn) on the diagonal and 1/(βn) off it; the mean of all within 5 deviations."""
    encoder = encoders.gaussian(200, 2.0, rng=3)
    gram = encoder.matrix.T @ encoder.matrix / 2
    assert not encoder.tight
    assert abs(np.diag(gram).mean() - 1) < 5 * np.sqrt(2 / 400 / 200)
    off = gram[~np.eye(200, dtype=bool)]
    assert off.std() == pytest.approx(np.sqrt(1 / 400), rel=0.05)


def test_the_gaussian_encoder_draws_the_same_however_much_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = encoders.gaussian(6, 3.0, rng=1).matrix
    monkeypatch.setattr(importlib.import_module("gradcode.codes.encoders.gaussian"), "ENTRIES", 13)
    assert np.allclose(encoders.gaussian(6, 3.0, rng=1).matrix, whole)


@pytest.mark.parametrize(("name", "samples", "rows", "coherence"), [
    ("steiner", 6, 16, 1 / 3),
    ("steiner", 28, 64, 1 / 7),
    ("paley", 7, 14, 1 / np.sqrt(13)),
    ("paley", 31, 62, 1 / np.sqrt(61)),
])  # fmt: skip
def test_equiangular_tight_frames_attain_the_welch_bound(name: str, samples: int, rows: int, coherence: float) -> None:
    """encoded_optimization.md 6: unit rows, all inner products alike, to 1e-12."""
    matrix = made(name, samples).matrix
    assert matrix.shape == (rows, samples)
    gram = matrix @ matrix.T
    np.testing.assert_allclose(np.diag(gram), 1.0, atol=1e-12)
    others = np.abs(gram[~np.eye(rows, dtype=bool)])
    np.testing.assert_allclose(others, coherence, atol=1e-12)
    assert coherence == pytest.approx(np.sqrt((rows - samples) / (samples * (rows - 1))), abs=1e-12)


@pytest.mark.parametrize("prime", [5, 13, 17])
def test_conference_matrices_are_orthogonal(prime: int) -> None:
    matrix = conference_matrix(prime)
    assert np.array_equal(matrix, matrix.T)
    assert np.array_equal(matrix @ matrix, prime * np.eye(prime + 1))


@pytest.mark.parametrize("name", FREE)
@pytest.mark.parametrize("redundancy", [1.0, 1.5, 3.0])
def test_the_redundancy_is_at_least_what_was_asked_for(name: str, redundancy: float) -> None:
    rows = made(name, 20, redundancy=redundancy).rows
    assert rows == 20 * redundancy if name == "gaussian" else rows == {1.0: 32, 1.5: 32, 3.0: 64}[redundancy]


def test_hadamard_is_made_of_sylvesters_columns() -> None:
    encoder = encoders.hadamard(5, 3.0, rng=4)
    whole = sylvester(16)[:, encoder.columns] / np.sqrt(5)
    assert sorted(map(tuple, encoder.matrix.round(9))) == sorted(map(tuple, whole.round(9)))
    assert not np.allclose(encoder.matrix, whole)  # the rows are in another order
    assert np.allclose(encoders.hadamard(5, 3.0, shuffle=False).matrix, sylvester(16)[:, :5] / np.sqrt(5))


def test_a_hundred_thousand_rows_are_encoded_without_the_matrix() -> None:
    """The matrix would have 26 · 10⁹ entries: a unit vector is encoded as ±1/√n, and comes back β times as long."""
    encoder, unit = encoders.hadamard(100_000), np.zeros(100_000)
    unit[77] = 1.0
    encoded = encoder.apply(unit)
    np.testing.assert_allclose(np.abs(encoded), 100_000**-0.5, rtol=1e-12)
    np.testing.assert_allclose(encoder.adjoint(encoded), encoder.redundancy * unit, atol=1e-12)


def test_seeds_and_pickles_give_the_same_encoder() -> None:
    for name in NAMES:
        encoder = made(name, 10, 5)
        again = pickle.loads(pickle.dumps(encoder))
        assert repr(again) == repr(encoder) and repr(encoder).startswith(f"{name}(samples=10")
        assert np.array_equal(again.matrix, made(name, 10, 5).matrix)
        with pytest.raises(ValueError, match="read-only"):
            encoder.matrix[0, 0] = 1.0
        if name != "replication":
            assert not np.allclose(encoder.matrix, made(name, 10, 6).matrix)


# When rows are missing


def test_the_blocks_are_consecutive_and_as_equal_as_possible() -> None:
    encoder = encoders.gaussian(7, 2.0)
    blocks = encoder.blocks(4)
    assert [(own.start, own.stop) for own in blocks] == [(0, 3), (3, 7), (7, 10), (10, 14)]


@settings(max_examples=30)
@given(st.sampled_from(TIGHT), st.integers(8, 30), st.integers(2, 8), st.data())
def test_the_spectrum_of_a_tight_encoder(name: str, samples: int, workers: int, data: st.DataObject) -> None:
    """encoded_optimization.md 3, fact 1: all in [0, 1/η], and at 1/η as many as removed rows leave untouched."""
    encoder = made(name, samples, data.draw(st.integers(0, 1000)))
    chosen = data.draw(st.sets(st.integers(0, workers - 1), min_size=1))
    share = len(chosen) / workers
    (found,) = encoders.spectra(encoder, workers, [sorted(chosen)])
    assert found.min() >= -1e-9 and found.max() <= 1 / share + 1e-9
    removed = sum(own.stop - own.start for i, own in enumerate(encoder.blocks(workers)) if i not in chosen)
    assert (np.abs(found - 1 / share) < 1e-9).sum() >= samples - removed


def test_everybody_together_changes_nothing() -> None:
    found = encoders.spectra(encoders.haar(20), 5, [range(5)])
    np.testing.assert_allclose(found, 1.0, atol=1e-12)


def test_brip_looks_at_all_sets_or_at_random_ones() -> None:
    encoder = encoders.hadamard(16)
    all_of_them = encoders.brip(encoder, 8, 6)
    assert all_of_them.exhaustive and all_of_them.subsets == 28
    found = encoders.spectra(encoder, 8, list(combinations(range(8), 6)))
    assert (all_of_them.lowest, all_of_them.highest) == (found.min(), found.max())
    some = encoders.brip(encoders.hadamard(20), 20, 10, trials=30, rng=2)
    assert not some.exhaustive and some.subsets == 30
    assert some.highest <= 2 + 1e-9 and encoders.brip(encoders.hadamard(20), 20, 10, trials=30, rng=2) == some


def natural(columns: np.ndarray) -> float:
    """The smallest eigenvalue of any 6 of 8 natural row blocks of these columns of H_32."""
    return encoders.brip(sylvester(32)[:, columns] / 4.0, 8, 6).lowest


def test_the_first_columns_of_a_sylvester_matrix_are_replication() -> None:
    """encoded_optimization.md 2: [H; H], and likewise the columns of even parity; random columns and rows are not."""
    assert np.array_equal(sylvester(32)[:16, :16], sylvester(32)[16:, :16])
    even = np.array([i for i in range(32) if i.bit_count() % 2 == 0])
    assert abs(natural(np.arange(16))) < 1e-12
    assert abs(natural(even)) < 1e-12
    assert abs(encoders.brip(encoders.hadamard(16, shuffle=False), 8, 6).lowest) < 1e-12
    assert encoders.brip(encoders.hadamard(16, rng=0), 8, 6).lowest > 0.02


@pytest.mark.parametrize("points", [4, 8])
def test_steiner_blocks_by_themselves_lose_a_pair(points: int) -> None:
    """encoded_optimization.md 2: one natural block per worker; two missing ones erase the pair that they share."""
    encoder = encoders.steiner(points * (points - 1) // 2, shuffle=False)
    assert abs(encoders.brip(encoder, points, points - 2).lowest) < 1e-12
    for left in combinations(range(points), points - 1):
        (found,) = encoders.spectra(encoder, points, [left])
        raw = np.unique((found * encoder.redundancy * (points - 1) / points).round(9))
        np.testing.assert_allclose(raw, [points / (points - 1), 2 * points / (points - 1)], atol=1e-8)
    if points == 8:
        assert encoders.brip(encoders.steiner(28, rng=0), 8, 6).lowest > 0.01


def test_haar_columns_have_two_entries_and_can_be_lost() -> None:
    """encoded_optimization.md 2: a set of stragglers that holds both entries of a column loses the sample."""
    encoder = encoders.haar(32, rng=0)
    fewest = (encoder.matrix != 0).sum(axis=0).min()
    assert fewest == 2
    assert abs(encoders.brip(encoder, 8, 6).lowest) < 1e-12
    assert encoders.brip(encoders.hadamard(32, rng=0), 8, 6).lowest > 0.02


# What that is good for


@settings(max_examples=40)
@given(st.sampled_from(NAMES), st.integers(0, 2**31), st.integers(5, 8))
def test_least_squares_of_some_rows_are_near_those_of_the_data(name: str, seed: int, k: int) -> None:
    """encoded_optimization.md 3, fact 2: ‖Xw_A − y‖² ≤ κ_A ‖Xw* − y‖² where S_A has full rank."""
    rng = np.random.default_rng(seed)
    encoder = made(name, 24, seed)
    features, targets = rng.standard_normal((24, 4)), rng.standard_normal(24)
    chosen = np.sort(rng.choice(8, k, replace=False))
    (found,) = encoders.spectra(encoder, 8, [chosen])
    if found[0] < 1e-9:
        return
    rows = np.concatenate([np.arange(own.start, own.stop) for own in np.array(encoder.blocks(8))[chosen]])
    part = np.linalg.lstsq(encoder.apply(features)[rows], encoder.apply(targets)[rows], rcond=None)[0]
    best = np.linalg.lstsq(features, targets, rcond=None)[0]
    residual = [float(((features @ own - targets) ** 2).sum()) for own in (part, best)]
    assert residual[1] * (1 - 1e-9) <= residual[0] <= found[-1] / found[0] * residual[1] * (1 + 1e-9)


@pytest.mark.parametrize("redundancy", [8.0, 64.0])
@settings(max_examples=15)
@given(st.integers(0, 2**31))
def test_gradient_descent_goes_to_a_neighbourhood(redundancy: float, seed: int) -> None:
    """encoded_optimization.md 3, fact 3: every step, and where κ(1 − ρ) < 1 the bound after any sequence of stragglers.

    The spectrum of 7 of 8 workers is about (1 ± √(8/7β))². κ(1 − ρ) = κ − ν/Λ is below 1 for κ below 2: with β = 64,
    and not with β = 8.
    """
    rng = np.random.default_rng(seed)
    n, workers, k = 16, 8, 7
    # Columns near an orthonormal basis: ν/Λ, and with it the rate, is close to 1.
    features, _ = np.linalg.qr(rng.standard_normal((n, 4)))
    features = features * np.linspace(0.95, 1.0, 4) * np.sqrt(n)
    targets = features @ rng.standard_normal(4) + rng.standard_normal(n)
    encoder = encoders.gaussian(n, redundancy, rng=seed)
    sets = list(combinations(range(workers), k))
    found = encoders.spectra(encoder, workers, sets)
    bound = found[:, -1].max() / found[:, 0].min()
    hessian = features.T @ features / n
    curvature = np.linalg.eigvalsh(hessian)
    best = np.linalg.solve(hessian, features.T @ targets / n)

    def loss(w: np.ndarray) -> float:
        return float(((features @ w - targets) ** 2).sum() / (2 * n))

    rho = curvature[0] * found[:, 0].min() / (curvature[-1] * found[:, -1].max())
    rate_of_all = bound * (1 - rho)
    assert (rate_of_all < 1) == (redundancy == 64)
    w, encoded, aims = np.zeros(4), encoder.apply(features), encoder.apply(targets)
    start = loss(w)
    for step in range(1, 12):
        own = int(rng.integers(len(sets)))
        rows = np.concatenate([np.arange(b.start, b.stop) for b in np.array(encoder.blocks(workers))[list(sets[own])]])
        scale = n * encoder.redundancy * k / workers
        gradient = encoded[rows].T @ (encoded[rows] @ w - aims[rows]) / scale
        before, kappa = loss(w), found[own, -1] / found[own, 0]
        w = w - gradient / (curvature[-1] * found[own, -1])
        rate = curvature[0] * found[own, 0] / (curvature[-1] * found[own, -1])
        assert loss(w) <= kappa * (1 - rate) * before + kappa * rate * loss(best) + 1e-9
        if rate_of_all < 1:
            assert loss(w) <= rate_of_all**step * start + bound * rho / (1 - rate_of_all) * loss(best) + 1e-9


def test_the_worked_example() -> None:
    """encoded_optimization.md 7: two samples, four workers of one row each."""
    encoder = encoders.hadamard(2, shuffle=False)
    signs = np.array([[1, 1], [1, -1], [1, 1], [1, -1]])
    np.testing.assert_allclose(encoder.matrix, signs / np.sqrt(2), atol=1e-12)
    features, targets = np.array([1.0, 2.0]), np.array([1.0, 3.0])
    np.testing.assert_allclose(np.sqrt(2) * encoder.apply(features), [3, -1, 3, -1], atol=1e-12)
    np.testing.assert_allclose(np.sqrt(2) * encoder.apply(targets), [4, -2, 4, -2], atol=1e-12)
    for chosen, solution, ratio in (((0, 1, 2), 26 / 19, 1.024931), ((0, 1, 3), 16 / 11, 1.074380)):
        rows, values = encoder.apply(features)[list(chosen)], encoder.apply(targets)[list(chosen)]
        assert rows @ values / (rows @ rows) == pytest.approx(solution, rel=1e-12)
        assert ((features * solution - targets) ** 2).sum() / 0.2 == pytest.approx(ratio, abs=5e-7)
        (found,) = encoders.spectra(encoder, 4, [chosen])
        np.testing.assert_allclose(found * 2 * 0.75, [1, 2], atol=1e-12)
    for chosen in ((0, 2), (1, 3)):
        (found,) = encoders.spectra(encoder, 4, [chosen])
        np.testing.assert_allclose(found * 2 * 0.5, [0, 2], atol=1e-12)


# Registry and refusals


def test_every_constructor_is_registered_and_says_what_it_trades() -> None:
    assert NAMES == ["gaussian", "haar", "hadamard", "paley", "replication", "steiner"]
    for name, entry in encoders.REGISTRY.items():
        assert entry.constructor is getattr(encoders, name)
        for text in (entry.summary, entry.redundancy, entry.cost, entry.choose):
            assert text.strip() and "\n" not in text
        documentation = entry.constructor.__doc__ or ""
        assert ">>>" in documentation and "ValueError" in documentation


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(encoders.__path__)])
def test_examples_in_docstrings(name: str) -> None:
    assert doctest.testmod(importlib.import_module(f"gradcode.codes.encoders.{name}")).failed == 0


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: encoders.create("hadamrd"), "name='hadamrd' must be one of the encoders gaussian, haar, hadamard"),
        (lambda: encoders.create("paley", samples=3, beta=2), "must suit paley(samples, shuffle, rng)"),
        (lambda: encoders.hadamard(0), "samples=0 must be an integer, at least 1"),
        (lambda: encoders.hadamard(4, 0.5), "redundancy=0.5 must be at least 1"),
        (lambda: encoders.gaussian(4, float("nan")), "redundancy=nan must be at least 1"),
        (lambda: encoders.haar(4, float("inf")), "redundancy=inf must be at least 1"),
        (lambda: encoders.replication(4, 1.5), "redundancy=1.5 must be an integer, at least 1"),
        (lambda: encoders.paley(5000), "samples=5000 must be an integer, between 1 and 2048 (more need too many"),
        (lambda: encoders.hadamard(4, rng=None), "rng=None must be a numpy Generator or an integer seed"),
        (lambda: encoders.hadamard(4).apply(np.ones(5)), "values.shape=(5,) must be (4,) or (4, columns): the samples"),
        (lambda: encoders.hadamard(4).adjoint(np.ones((4, 2))), "values.shape=(4, 2) must be (8,) or (8, columns)"),
        (lambda: encoders.hadamard(4).blocks(9), "workers=9 must be an integer, between 1 and 8"),
        (lambda: encoders.brip(np.eye(4), 4, 5), "k=5 must be an integer, between 1 and 4 (workers=4)"),
        (lambda: encoders.spectra(np.eye(4), 5, [[0]]), "workers=5 must be an integer, between 1 and 4"),
    ],
)
def test_refusals(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        build()  # type: ignore[operator]
