from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcode.training import Sampling


@st.composite
def plans(draw: st.DrawFn, mode: str = "placed", drop_last: bool = False) -> Sampling:
    partitions = draw(st.integers(1, 9))
    batch_size = draw(st.integers(partitions, 60))
    # With drop_last, so many samples that even the rounded shards hold a whole share.
    samples = draw(st.integers(3 * batch_size if drop_last else partitions, 3 * batch_size + 120))
    return Sampling(samples, partitions, batch_size, draw(st.integers(-3, 2**64)), mode, drop_last)  # type: ignore[arg-type]


def drawn(plan: Sampling, epoch: int) -> list[list[list[int]]]:
    """[iteration][partition] -> sample indices of one epoch."""
    first = epoch * plan.iterations
    return [[plan.indices(first + i, j).tolist() for j in range(plan.partitions)] for i in range(plan.iterations)]


@given(plans())
def test_shards_are_disjoint_and_cover_the_dataset(plan: Sampling) -> None:
    shards = np.concatenate([plan.shard(j) for j in range(plan.partitions)])
    assert sorted(shards.tolist()) == list(range(plan.samples))


@given(plans(), st.integers(0, 3))
def test_placed_partition_draws_its_own_shard_once_an_epoch(plan: Sampling, epoch: int) -> None:
    table = drawn(plan, epoch)
    for j in range(plan.partitions):
        own = [index for iteration in table for index in iteration[j]]
        assert sorted(own) == plan.shard(j).tolist()


@given(st.one_of(plans("placed"), plans("global")), st.integers(0, 3))
def test_every_epoch_sees_every_sample_once(plan: Sampling, epoch: int) -> None:
    everything = [index for iteration in drawn(plan, epoch) for own in iteration for index in own]
    assert sorted(everything) == list(range(plan.samples))


@given(st.one_of(plans("placed"), plans("global"), plans("placed", True), plans("global", True)))
def test_sizes_are_those_of_the_indices(plan: Sampling) -> None:
    for number in range(2 * plan.iterations):
        assert plan.sizes(number).tolist() == [len(plan.indices(number, j)) for j in range(plan.partitions)]
        assert 0 < plan.sizes(number).sum() <= plan.batch_size


@given(st.one_of(plans("placed", True), plans("global", True)))
def test_drop_last_leaves_only_whole_batches(plan: Sampling) -> None:
    share = [len(piece) for piece in np.array_split(np.arange(plan.batch_size), plan.partitions)]
    for number in range(plan.iterations):
        assert plan.sizes(number).tolist() == share


@given(st.one_of(plans("placed"), plans("global")), st.randoms(use_true_random=False))
def test_indices_are_a_pure_function(plan: Sampling, random: object) -> None:
    asked = [(number, j) for number in range(3 * plan.iterations) for j in range(plan.partitions)]
    expected = {key: plan.indices(*key).tolist() for key in asked}
    random.shuffle(asked)  # type: ignore[attr-defined]
    elsewhere = pickle.loads(pickle.dumps(plan))
    again = Sampling(plan.samples, plan.partitions, plan.batch_size, plan.seed, plan.mode)
    for key in asked:
        assert elsewhere.indices(*key).tolist() == again.indices(*key).tolist() == expected[key]


def test_batches_are_whole_up_to_the_last_iteration() -> None:
    plan = Sampling(samples=1000, partitions=8, batch_size=60, seed=1)
    totals = [int(plan.sizes(number).sum()) for number in range(plan.iterations)]
    assert totals[:-1] == [60] * 16 and totals[-1] == 40


def test_unequal_shares_have_shards_in_proportion() -> None:
    plan = Sampling(samples=110, partitions=3, batch_size=11, seed=0)
    assert plan.sizes(0).tolist() == [4, 4, 3]
    assert [len(plan.shard(j)) for j in range(3)] == [40, 40, 30]
    assert plan.iterations == 10


def test_epochs_and_seeds_differ_and_shards_stay() -> None:
    plan, other = (Sampling(samples=64, partitions=4, batch_size=16, seed=seed) for seed in (0, 1))
    assert drawn(plan, 0) != drawn(plan, 1)
    assert plan.shard(0).tolist() != other.shard(0).tolist()


def test_global_sampling_mixes_shards_over_epochs() -> None:
    plan = Sampling(samples=64, partitions=4, batch_size=16, seed=0, mode="global")
    first, second = (sorted(i for iteration in drawn(plan, e) for i in iteration[0]) for e in (0, 1))
    assert first != second
    assert plan.shard(2).tolist() == list(range(64))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mode": "random"}, 'sampling=\'random\' must be "placed" or "global"'),
        ({"partitions": 0}, "partitions=0 must be at least 1"),
        ({"batch_size": 3}, "batch_size=3 cannot be split over partitions=4"),
        ({"samples": 3}, "a dataset of 3 samples cannot be split over partitions=4"),
        ({"samples": 7, "drop_last": True}, "batch_size=8 leaves no whole iteration in a dataset of 7 samples"),
        ({"samples": 7, "drop_last": True, "mode": "global"}, "batch_size=8 leaves no whole iteration"),
    ],
)
def test_errors(arguments: dict[str, object], message: str) -> None:
    valid: dict[str, object] = {"samples": 20, "partitions": 4, "batch_size": 8, "seed": 0}
    with pytest.raises(ValueError, match=re.escape(message)):
        Sampling(**{**valid, **arguments})  # type: ignore[arg-type]
