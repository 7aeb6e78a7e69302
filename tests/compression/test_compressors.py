"""Every compressor: the message against what it says of itself, and what comes out against what went in."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch
from torch import Tensor

from gradcode import compression
from gradcode.compression import Compressor, GroupedSign, Half, OneBit, RandomK, Sampled, TopK
from gradcode.errors import NonFiniteLoss

ZOO = [
    OneBit(),
    OneBit("l2"),
    OneBit("fixed", bound=2.0),
    GroupedSign(),
    GroupedSign(20),
    TopK(k=7),
    TopK(density=0.1),
    RandomK(k=7),
    RandomK(density=0.6),
    Sampled(variance_budget=0.5),
    Sampled(density=0.2),
    Half("float16"),
    Half("bfloat16"),
]


def message(compressor: Compressor, vector: Tensor, key: tuple[int, ...] = (0, 0, 0)) -> Tensor:
    out = torch.full((compressor.size(len(vector), vector.itemsize),), 255, dtype=torch.uint8)
    used = compressor.compress(vector, out, key)
    assert used <= len(out)
    return out[:used]


def through(compressor: Compressor, vector: Tensor, key: tuple[int, ...] = (0, 0, 0)) -> Tensor:
    """C(x), in the vector's dtype, or in float32 if that is a half."""
    out = torch.full((len(vector),), math.nan, dtype=vector.dtype if vector.itemsize >= 4 else torch.float32)
    compressor.decompress(message(compressor, vector, key), out)
    return out


def random_vector(length: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(length, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("compressor", ZOO, ids=repr)
def test_a_compressor_is_a_value(compressor: Compressor) -> None:
    assert pickle.loads(pickle.dumps(compressor)) == compressor
    assert hash(pickle.loads(pickle.dumps(compressor))) == hash(compressor)
    assert eval(repr(compressor)) == compressor
    assert all(compressor != other for other in ZOO if other is not compressor)
    with pytest.raises(dataclasses.FrozenInstanceError):
        compressor.anything = 1  # type: ignore[attr-defined]


@pytest.mark.parametrize("compressor", ZOO, ids=repr)
def test_messages_are_what_they_say_at_every_length(compressor: Compressor) -> None:
    for length in range(1, 201):
        vector = random_vector(length, seed=length)
        sent = message(compressor, vector)
        if isinstance(compressor, Sampled):
            assert len(sent) <= compressor.size(length, 4)
        else:
            assert len(sent) == compressor.size(length, 4)
        assert math.ceil(compressor.bits(length, 4) / 8) == compressor.size(length, 4)
        found = through(compressor, vector)
        assert torch.isfinite(found).all()
        # Where a coordinate is sent, it has the sign of the vector, unless that is drawn.
        if not isinstance(compressor, OneBit):
            assert ((found * vector) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("compressor", ZOO, ids=repr)
def test_every_dtype_gives_the_same_result(compressor: Compressor, dtype: torch.dtype) -> None:
    """From numbers that all dtypes have; the lengths pass the pieces in which halves are converted."""
    for length in (300, 40_000):
        vector = random_vector(length, torch.bfloat16).float()
        vector = torch.where(vector.abs() < 0.01, 0.0, vector)  # float16 rounds smaller ones of bfloat16
        assert torch.equal(vector.to(dtype).float(), vector)
        found, expected = through(compressor, vector.to(dtype)), through(compressor, vector)
        torch.testing.assert_close(found.float(), expected, rtol=2e-7, atol=0)  # a last bit of a mean


@pytest.mark.parametrize("compressor", ZOO, ids=repr)
def test_sums_are_those_of_the_messages(compressor: Compressor) -> None:
    length, weights = 40_000, [1.0, -0.5, 2.0]
    payloads = [message(compressor, random_vector(length, seed=seed), (0, 0, seed)) for seed in range(3)]
    start = random_vector(length, torch.float64, seed=9)
    out, expected = start.clone(), start.clone()
    compressor.add(payloads, weights, out)
    for payload, weight in zip(payloads, weights, strict=True):
        one = torch.empty(length, dtype=torch.float64)
        compressor.decompress(payload, one)
        expected += weight * one
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("compressor", ZOO, ids=repr)
@pytest.mark.parametrize("length", [0, 1, 100])
def test_nothing_is_nothing(compressor: Compressor, length: int) -> None:
    if compressor == OneBit("fixed", bound=2.0):
        pytest.skip("a coin is thrown for a zero whose range is fixed")
    assert not through(compressor, torch.zeros(length)).any()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("compressor", ZOO, ids=repr)
def test_what_is_not_finite_is_refused(compressor: Compressor, bad: float) -> None:
    vector = random_vector(100)
    vector[:] = bad
    with pytest.raises(NonFiniteLoss, match="not finite"):
        message(compressor, vector)


def test_compressors_are_had_by_name() -> None:
    assert set(compression.REGISTRY) == {"grouped_sign", "half", "one_bit", "random_k", "sampled", "top_k"}
    assert compression.create("top_k", density=0.1) == TopK(density=0.1)
    with pytest.raises(ValueError, match="must be one of the compressors grouped_sign"):
        compression.create("signs")
    with pytest.raises(ValueError, match=r"must suit top_k\(k, density\)"):
        compression.create("top_k", share=0.1)
