"""Weighted sums of rows against dense float64, around the borders of pieces; unread rows hold NaN."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from gradcode.schemes import decoding
from gradcode.schemes.decoding import folded_sum, packed_sum, weighted_sum

PIECE = 8
UNIT = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.bfloat16: 2.0**-8}


@pytest.fixture(autouse=True, scope="module", params=["sparse product", "pieces"])
def small_pieces(request: pytest.FixtureRequest) -> Iterator[None]:
    """Both ways to add up, with borders that short vectors reach."""
    if request.param == "sparse product" and not decoding._sparse_products():
        pytest.skip("this PyTorch has no sparse products")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding, "PIECE", PIECE)
        patch.setattr(decoding, "SHARE", PIECE // 2)
        patch.setattr(decoding, "_sparse_products", lambda: request.param == "sparse product")
        decoding._shares.cache_clear()
        yield
    decoding._shares.cache_clear()


lengths = st.one_of(st.integers(1, 40), st.sampled_from([PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 4 * PIECE + 1]))


@st.composite
def sums(draw: st.DrawFn) -> tuple[np.ndarray, int, np.random.Generator]:
    """Weights, some of them zero, a length, and numbers."""
    chosen = draw(st.lists(st.booleans(), min_size=1, max_size=9))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    return np.where(chosen, rng.standard_normal(len(chosen)), 0.0), draw(lengths), rng


def rows_for(weights: np.ndarray, width: int, rng: np.random.Generator, dtype: torch.dtype) -> Tensor:
    rows = torch.from_numpy(rng.standard_normal((len(weights), width))).to(dtype)
    rows[torch.from_numpy(weights == 0)] = torch.nan
    return rows


def check(out: Tensor, terms: np.ndarray, unit: float, steps: int) -> None:
    """``terms`` (R, length): out is their sum, up to the rounding of so many steps."""
    error = np.abs(out.double().numpy() - terms.sum(0))
    assert (error <= steps * unit * np.abs(terms).sum(0)).all()


@given(sums(), st.integers(0, 9), st.integers(0, 3), st.sampled_from([torch.float64, torch.float32, torch.bfloat16]))
def test_weighted_sum(
    case: tuple[np.ndarray, int, np.random.Generator], spare: int, before: int, dtype: torch.dtype
) -> None:
    weights, length, rng = case
    rows = rows_for(weights, before + length + spare, rng, dtype)[:, before:]  # of a wider array
    out = torch.full((length,), torch.nan, dtype=dtype)
    weighted_sum(rows, weights, out)
    known = weights[:, None] * np.nan_to_num(rows[:, :length].double().numpy())
    check(out, known, UNIT[dtype], 2 * len(weights) + 2)


@given(sums(), st.sampled_from([torch.float32, torch.float64]))
def test_rows_of_fewer_bits_are_added_up_in_the_results_precision(
    case: tuple[np.ndarray, int, np.random.Generator], dtype: torch.dtype
) -> None:
    weights, length, rng = case
    rows = rows_for(weights, length, rng, torch.bfloat16)
    out = torch.full((length,), torch.nan, dtype=dtype)
    weighted_sum(rows, weights, out)
    check(out, weights[:, None] * np.nan_to_num(rows.double().numpy()), UNIT[dtype], 2 * len(weights) + 2)


@given(sums(), st.booleans(), st.sampled_from([torch.float64, torch.float32]))
def test_a_sum_may_be_added_to_another(
    case: tuple[np.ndarray, int, np.random.Generator], narrow: bool, dtype: torch.dtype
) -> None:
    weights, length, rng = case
    rows = rows_for(weights, length, rng, torch.bfloat16 if narrow else dtype)
    out = torch.from_numpy(rng.standard_normal(length)).to(dtype)
    before = out.double().numpy().copy()
    weighted_sum(rows, weights, out, add=True)
    terms = np.vstack((before, weights[:, None] * np.nan_to_num(rows.double().numpy())))
    check(out, terms, UNIT[dtype], 2 * len(weights) + 3)


@given(sums(), sums(), st.sampled_from([torch.float64, torch.float32]), st.booleans())
def test_packed_sum(
    case: tuple[np.ndarray, int, np.random.Generator],
    other: tuple[np.ndarray, int, np.random.Generator],
    dtype: torch.dtype,
    narrow: bool,
) -> None:
    real, length, rng = case
    imaginary = np.resize(other[0], len(real))
    weights = real + 1j * imaginary
    half = (length + 1) // 2
    rows = rows_for(weights, 2 * half, rng, torch.bfloat16 if narrow else dtype)
    out = torch.full((length,), torch.nan, dtype=dtype)
    packed_sum(rows, weights, out)
    known = np.nan_to_num(rows.double().numpy())
    x, y = known[:, :half], known[:, half:]
    a, b = real[:, None], imaginary[:, None]
    terms = np.block([[a * x, b * x], [-b * y, a * y]])  # of (a + ib)(x + iy), real and imaginary part side by side
    check(out, terms[:, :length], UNIT[dtype], 4 * len(real) + 4)


def test_packed_sum_is_the_sum_of_complex_rows() -> None:
    rng = np.random.default_rng(0)
    rows, weights = rng.standard_normal((3, 20)), rng.standard_normal(3) + 1j * rng.standard_normal(3)
    expected = weights @ (rows[:, :10] + 1j * rows[:, 10:])
    out = torch.empty(20, dtype=torch.float64)
    packed_sum(torch.from_numpy(rows), weights, out)
    np.testing.assert_allclose(out.numpy(), np.concatenate((expected.real, expected.imag)), rtol=1e-12, atol=1e-13)


@given(lengths, st.integers(1, 6), st.booleans(), st.integers(0, 2**32))
def test_folded_sum(length: int, parts: int, packed: bool, seed: int) -> None:
    """Each part with weights of its own, the last ones shorter or empty; row 1 is not read."""
    rng = np.random.default_rng(seed)
    width = -(-length // parts)
    width += width % 2 if packed else 0
    weights = rng.standard_normal((4, parts)) + (1j * rng.standard_normal((4, parts)) if packed else 0)
    weights[1] = 0
    rows = rng.standard_normal((4, width))
    messages = rows[:, : width // 2] + 1j * rows[:, width // 2 :] if packed else rows
    expected = weights.T @ messages
    if packed:
        expected = np.concatenate([expected.real, expected.imag], axis=1)
    rows[1] = np.nan
    out = torch.full((length,), torch.nan, dtype=torch.float64)
    folded_sum(torch.from_numpy(rows), weights, out, width, packed)
    np.testing.assert_allclose(out.numpy(), expected.ravel()[:length], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", [1, 2, PIECE, 3 * PIECE + 1])
def test_no_weight_gives_zeros_and_reads_nothing(length: int) -> None:
    rows = torch.full((4, length + 1), torch.nan)
    out = torch.full((length,), torch.nan)
    weighted_sum(rows, np.zeros(4), out)
    assert (out == 0).all()
    out.fill_(torch.nan)
    packed_sum(rows, np.zeros(4, dtype=np.complex128), out)
    assert (out == 0).all()


def test_unread_rows_may_lie_between_read_ones() -> None:
    rows = torch.full((6, 3 * PIECE), torch.nan)
    rows[1], rows[2], rows[5] = 1.0, 10.0, 100.0
    out = torch.empty(3 * PIECE)
    weighted_sum(rows, np.array([0.0, 1.0, -2.0, 0.0, 0.0, 3.0]), out)
    assert (out == 281.0).all()


def test_every_number_of_threads_gives_the_same_bits() -> None:
    rng = np.random.default_rng(0)
    rows, weights = torch.from_numpy(rng.standard_normal((5, 3 * 64))).float(), rng.standard_normal(5)
    sums, threads = [], torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            sums.append(torch.empty(3 * 64))
            weighted_sum(rows, weights, sums[-1])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(sums[0], sums[1]) and torch.equal(sums[0], sums[2])


def test_the_first_sum_of_a_process_warns_of_nothing() -> None:
    program = """
import numpy as np, torch
from gradcode.schemes.decoding import SHARE, weighted_sum
out = torch.empty(2 * SHARE)
weighted_sum(torch.ones(2, 2 * SHARE), np.ones(2), out)
assert (out == 2).all()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", program], check=True)
