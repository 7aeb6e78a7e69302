"""Codecs: what is sent and what is remembered, add up to what was given."""

from __future__ import annotations

import dataclasses
import math
import pickle

import pytest
import torch

from compression.test_compressors import ZOO, random_vector
from gradcode.compression import Compressor, Differences, ErrorFeedback, GroupedSign, Half, OneBit, Plain, RandomK, TopK

Codec = Plain | ErrorFeedback | Differences


def run(codec: Codec, vector: torch.Tensor, memory: torch.Tensor | None, key: tuple[int, ...] = (0, 0, 0)):
    """(C, remembered): what the message says, and the memory that is written."""
    out = torch.zeros(codec.size(len(vector), vector.itemsize), dtype=torch.uint8)
    remembered = torch.full_like(vector, math.nan) if codec.remembers else None
    used = codec.encode(vector, out, memory, remembered, key)
    said = torch.empty(len(vector), dtype=torch.promote_types(vector.dtype, torch.float32))
    codec.compressor.decompress(out[:used], said)
    return said, remembered


@pytest.mark.parametrize("compressor", ZOO, ids=repr)
def test_error_feedback_loses_nothing(compressor: Compressor) -> None:
    """one_bit.md (10) for one worker: Σ_t γ_t·c_t + γ_T·e_T = Σ_t γ_t·g_t, whatever C is and however γ changes."""
    steps = [0.5, 0.5, 0.25, 0.1, 0.3]
    memory = torch.zeros(70, dtype=torch.float64)
    sent, given, largest = torch.zeros_like(memory), torch.zeros_like(memory), 0.0
    for number, step in enumerate(steps):
        gradient = random_vector(70, torch.float64, seed=number)
        ratio = steps[max(0, number - 1)] / step
        codec = dataclasses.replace(ErrorFeedback(compressor), ratio=ratio)
        before = memory.clone()
        said, remembered = run(codec, gradient, memory, (0, number, 0))
        assert torch.equal(memory, before)
        memory = remembered
        sent, given = sent + step * said, given + step * gradient
        # Coins make memories grow, and rounding is in proportion to the largest number that occurs.
        largest = max(largest, *(step * float(own.abs().max()) for own in (said, memory, gradient)))
    # Each step rounds four times or so, by 2^-53 each.
    assert float((sent + steps[-1] * memory - given).abs().max()) <= len(steps) * 6 * 2.0**-53 * largest


def test_the_worked_example_of_error_feedback() -> None:
    """one_bit.md 14, in units of the gradient: γ = 0.1 times these are c₁ = (0.35, 0.35), e₁ = (−0.05, 0.05)."""
    said, remembered = run(ErrorFeedback(GroupedSign(2)), torch.tensor([3.0, 4.0]), torch.zeros(2))
    assert said.tolist() == [3.5, 3.5] and remembered.tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_memories_of_halves(dtype: torch.dtype) -> None:
    """They are computed in float32 and rounded once."""
    gradient, memory = random_vector(500, dtype), random_vector(500, dtype, seed=1)
    said, remembered = run(ErrorFeedback(GroupedSign(), ratio=0.5), gradient, memory)
    assert remembered.dtype == dtype
    assert torch.equal(remembered, (gradient.float() + 0.5 * memory.float() - said).to(dtype))


@pytest.mark.parametrize("compressor", [OneBit(), RandomK(density=0.5), Half()], ids=repr)
def test_differences_follow_the_gradient(compressor: Compressor) -> None:
    gradient, memory = random_vector(300, torch.float64), random_vector(300, torch.float64, seed=1)
    said, remembered = run(Differences(compressor, rate=0.25), gradient, memory)
    torch.testing.assert_close(remembered, memory + 0.25 * said, rtol=1e-14, atol=1e-14)
    plain, nothing = run(Plain(compressor), gradient - memory, None)
    assert torch.equal(said, plain) and nothing is None


@pytest.mark.parametrize(
    "codec", [Plain, ErrorFeedback, lambda own: Differences(own, 0.5)], ids=["plain", "ef", "diff"]
)
def test_what_is_clipped_is_counted_where_it_is_compressed(codec) -> None:
    """After the memory is added, or taken off."""
    vector, memory = torch.tensor([0.5, -0.5, 2.0, 0.0]), torch.tensor([1.0, -1.0, 1.5, 1.0])
    expected = {Plain: 1, ErrorFeedback: 3}.get(codec, 0)
    assert codec(OneBit("fixed", 1.0)).clipped(vector, memory) == expected
    assert codec(OneBit("linf")).clipped(vector, memory) == 0
    assert memory.tolist() == [1.0, -1.0, 1.5, 1.0] and vector.tolist() == [0.5, -0.5, 2.0, 0.0]


def test_differences_of_a_gradient_that_stays_vanish() -> None:
    """‖g − h‖² shrinks by (1 − rate)² in direction, and by δ at most where C contracts: here rate = 1, δ = 1/2."""
    gradient, memory = random_vector(40, torch.float64), torch.zeros(40, dtype=torch.float64)
    for number in range(60):
        _, memory = run(Differences(TopK(density=0.5), rate=1.0), gradient, memory, (0, number, 0))
    assert float((gradient - memory).norm()) <= 2.0**-25 * float(gradient.norm())


@pytest.mark.parametrize(
    "codec", [Plain(OneBit()), ErrorFeedback(TopK(k=3), 0.5), Differences(RandomK(k=2), 0.5)], ids=repr
)
def test_a_codec_is_a_value(codec: Codec) -> None:
    assert pickle.loads(pickle.dumps(codec)) == codec and eval(repr(codec)) == codec
    assert codec.remembers != isinstance(codec, Plain)
    assert dataclasses.replace(codec, compressor=Half()).compressor == Half()


@pytest.mark.parametrize("rate", [0.0, 1.5, math.nan])
def test_rates_are_checked(rate: float) -> None:
    with pytest.raises(ValueError, match="must be above 0 and at most 1"):
        Differences(OneBit(), rate)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda: GroupedSign(0), "group=0 must be at least 1"),
        (lambda: OneBit("max"), "range='max' must be one of"),  # type: ignore[arg-type]
        (lambda: OneBit("fixed"), "bound=None must be above 0"),
        (lambda: OneBit("l2", bound=1.0), "leave it out"),
        (lambda: TopK(), "must have either k"),
        (lambda: TopK(k=1, density=0.1), "must have either k"),
        (lambda: RandomK(k=0), "k=0 must be at least 1"),
        (lambda: RandomK(density=1.5), "density=1.5 must be above 0 and at most 1"),
        (lambda: Half("float8"), "dtype='float8' must be one of 'float16', 'bfloat16'"),
    ],
)
def test_arguments_are_checked(build, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        build()


def test_torch_dtypes_are_taken_too() -> None:
    assert Half(torch.bfloat16) == Half("bfloat16")  # type: ignore[arg-type]
