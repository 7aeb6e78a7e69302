"""What compressors promise on average, against samples; and the error factors, against every vector there is.

A mean of n independent samples is within 5 standard deviations of its expectation but for 6 in 10 million: the bounds
below are that, the deviations come from the formulas that are tested, or from the samples.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression.test_compressors import message, random_vector, through
from gradcode.compression import Compressor, GroupedSign, Half, OneBit, RandomK, Sampled, TopK
from gradcode.compression.random import stream

DRAWS = 1500
VECTOR = torch.tensor([0.3, -1.2, 0.0, 2.0, -0.05, 0.7, 0.7, -1.9, 0.01, 1.1, -0.6, 0.2, 0.4])


def draws(compressor: Compressor, vector: Tensor) -> np.ndarray:
    """(DRAWS, length) of C(x), each by a key of its own, in which seed, iteration and worker all vary."""
    keys = [(n % 3, n // 6, n // 3 % 2) for n in range(DRAWS)]
    return np.array([through(compressor, vector, key).double().numpy() for key in keys])


@pytest.mark.parametrize("compressor", [OneBit(), OneBit("l2"), OneBit("fixed", bound=3.0)], ids=repr)
def test_one_bit_has_its_mean_and_its_second_moment(compressor: OneBit) -> None:
    """one_bit.md (3): coordinate j has the variance r² − x_j², so that E‖C(x) − x‖² = L·r² − ‖x‖²."""
    x = VECTOR.double().numpy()
    r = {"linf": np.abs(x).max(), "l2": np.linalg.norm(x), "fixed": 3.0}[compressor.range]
    samples = draws(compressor, VECTOR)
    np.testing.assert_allclose(np.abs(samples), r, rtol=2e-7)
    assert (np.abs(samples.mean(0) - x) <= 5 * np.sqrt((r**2 - x**2) / DRAWS) + 2**-21 * r).all()
    # ‖C(x) − x‖² = L·r² + ‖x‖² − 2⟨C(x), x⟩, and the coins are independent.
    deviation = math.sqrt(4 * np.sum(x**2 * (r**2 - x**2)) / DRAWS)
    assert abs(((samples - x) ** 2).sum(1).mean() - (len(x) * r**2 - x @ x)) <= 5 * deviation + 1e-5 * r**2
    # Coins of neighbours and of the same place in other messages are independent: products have mean 0.
    coins = (samples - x) / r
    both = coins.T @ coins / DRAWS
    assert np.abs(both - np.diag(np.diag(both))).max() <= 5 / math.sqrt(DRAWS)
    assert np.abs((coins[1:] * coins[:-1]).mean(0)).max() <= 5 / math.sqrt(DRAWS - 1)


def test_the_mean_is_finer_than_sixteen_bits() -> None:
    """Of 2^20 equal coordinates of 0.3·2^-15 r: with 16 bits alone none would be +r more often than −r."""
    x = torch.full((1 << 20,), 0.3 * 2**-15 * 64)
    x[0] = 64.0  # the range
    means = [float(through(OneBit(), x, (seed,))[1:].mean()) / 64 for seed in range(64)]
    assert abs(np.mean(means) - 0.3 * 2**-15) <= 5 / math.sqrt(64 * 2**20)


def test_long_messages_use_the_whole_stream() -> None:
    """Of a long vector of zeros the coins are fair in every stretch, and no stretch is another one again."""
    x = torch.zeros(1 << 17)
    x[0] = 1.0
    coins = through(OneBit(), x, (5, 6, 7)).numpy()
    stretches = coins.reshape(32, -1)
    assert np.abs(stretches.mean(1)).max() <= 5 / math.sqrt(stretches.shape[1])
    agreement = stretches @ stretches.T / stretches.shape[1]
    assert np.abs(agreement - np.eye(32)).max() <= 5 / math.sqrt(stretches.shape[1])


@pytest.mark.parametrize(
    ("compressor", "factor"),
    [(RandomK(k=4), 13 / 4 - 1), (Sampled(variance_budget=0.5), 0.5), (Sampled(variance_budget=4.0), 4.0)],
    ids=repr,
)
def test_sparse_ones_have_their_mean_and_their_second_moment(compressor: Compressor, factor: float) -> None:
    """E‖C(x) − x‖² = factor·‖x‖²; the deviations of means are those of the samples."""
    x = VECTOR.double().numpy()
    samples = draws(compressor, VECTOR)
    errors = ((samples - x) ** 2).sum(1)
    assert (np.abs(samples.mean(0) - x) <= 5 * samples.std(0) / math.sqrt(DRAWS) + 1e-6).all()
    assert abs(errors.mean() - factor * (x @ x)) <= 5 * errors.std() / math.sqrt(DRAWS)


def test_keys_make_streams() -> None:
    keys = {(a, b, c) for a in range(20) for b in range(20) for c in range(20)}
    assert len({stream(key) for key in keys}) == len(keys)
    assert torch.equal(message(OneBit(), VECTOR, (1, 2, 3)), message(OneBit(), VECTOR, (1, 2, 3)))
    long = random_vector(1000)
    assert not torch.equal(message(OneBit(), long, (1, 2, 3)), message(OneBit(), long, (1, 3, 2)))


def test_clipping_is_counted() -> None:
    assert OneBit("fixed", bound=1.0).clipped(VECTOR) == 4
    assert OneBit().clipped(VECTOR) == 0
    assert not OneBit("fixed", bound=1.0).unbiased and OneBit().unbiased
    beyond = torch.tensor([5.0, -5.0])
    assert through(OneBit("fixed", bound=1.0), beyond).tolist() == [1.0, -1.0]


def test_the_worked_example_of_one_bit() -> None:
    """one_bit.md 14: h = (3, 4); the probabilities by their coins, and c of COCO-EF's first step."""
    h = torch.tensor([3.0, 4.0])
    for compressor, r, plus, error in (
        (OneBit("l2"), 5.0, (0.8, 0.9), 25.0),
        (OneBit("linf"), 4.0, (0.875, 1.0), 7.0),
    ):
        samples = draws(compressor, h)
        assert set(np.abs(samples).ravel()) == {r}
        for j in range(2):
            deviation = math.sqrt(plus[j] * (1 - plus[j]) / DRAWS)
            assert abs((samples[:, j] > 0).mean() - plus[j]) <= 5 * deviation
        # As above, with ⟨C(x), x⟩ the only thing that varies.
        deviation = math.sqrt(sum(4 * x**2 * (r**2 - x**2) for x in (3.0, 4.0)) / DRAWS)
        assert abs(((samples - h.numpy()) ** 2).sum(1).mean() - error) <= 5 * deviation
    assert torch.allclose(through(GroupedSign(2), 0.1 * h), torch.tensor([0.35, 0.35]))


vectors = st.lists(st.floats(-1e3, 1e3, width=32, allow_subnormal=False), min_size=1, max_size=80)


@given(vectors, st.sampled_from([GroupedSign(1), GroupedSign(7), GroupedSign(32), TopK(k=3), TopK(density=0.3)]))
def test_error_factors_hold_for_every_vector(values: list[float], compressor: Compressor) -> None:
    x = torch.tensor(values)
    factor = compressor.error_factor(len(values))
    assert factor is not None and 0 <= factor < 1
    error = float((through(compressor, x).double() - x.double()).square().sum())
    assert error <= (factor + 1e-6) * float(x.double().square().sum())


@given(vectors, st.sampled_from([1.0, 2.0**-100, 2.0**100]), st.sampled_from(["float16", "bfloat16"]))
def test_halves_only_round(values: list[float], scale: float, dtype: str) -> None:
    """Whatever the size of the gradient, and of its smallest coordinate beside the largest."""
    x = torch.tensor(values, dtype=torch.float64).mul(scale).float()
    x[x.abs() < 1e-34] = 0.0
    compressor = Half(dtype)
    error = float((through(compressor, x.double()) - x.double()).norm())
    assert error <= compressor.rounding(2.0**-24) * float(x.double().norm())


@given(vectors)
def test_signs_of_zeros_are_positive(values: list[float]) -> None:
    x = torch.tensor(values)
    found = through(GroupedSign(8), x)
    for begin in range(0, len(x), 8):
        group = x[begin : begin + 8]
        expected = group.double().abs().mean().float() * torch.where(group >= 0, 1.0, -1.0)
        torch.testing.assert_close(found[begin : begin + 8], expected, rtol=1e-6, atol=1e-30)


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=40), st.integers(1, 45))
def test_top_k_takes_the_first_of_equals(values: list[int], k: int) -> None:
    x = torch.tensor(values, dtype=torch.float32)
    order = sorted(range(len(values)), key=lambda j: (-abs(values[j]), j))[:k]
    expected = torch.zeros_like(x)
    expected[order] = x[order]
    assert torch.equal(through(TopK(k=k), x), expected)
