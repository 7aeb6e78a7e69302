"""Batched coupon's collector: the draw, its probabilities, and what to do with an uncovered batch."""

from __future__ import annotations

from contextlib import suppress
from itertools import product

import numpy as np
import pytest

from gradcode import codes
from gradcode.codes.coupon import cover_probability, mean_threshold


def test_cover_probability_by_enumeration():
    for workers, batches in [(3, 2), (4, 3), (5, 3), (2, 3), (6, 1)]:
        covered = sum(len(set(draw)) == batches for draw in product(range(batches), repeat=workers))
        assert cover_probability(workers, batches) == pytest.approx(covered / batches**workers, abs=1e-15)
    assert 0 <= cover_probability(400, 200) < 1e-6  # alternating terms do not cancel


def test_draws_cover_as_often_as_predicted():
    workers, batches, trials = 10, 5, 600
    covered = 0
    for seed in range(trials):
        with suppress(ValueError):
            codes.batched_coupon(workers, batches, 1, on_uncovered="raise", rng=seed)
            covered += 1
    p = cover_probability(workers, batches)
    assert abs(covered / trials - p) < 4 * np.sqrt(p * (1 - p) / trials)


def test_mean_number_of_answers():
    batches, trials = 4, 400
    rng = np.random.default_rng(5)
    counts = []
    for seed in range(trials):
        code = codes.batched_coupon(200, 8, 2, rng=seed)  # 200 workers: as good as unlimited
        alive: list[int] = []
        for worker in rng.permutation(200):
            alive.append(int(worker))
            if code.decodable(alive):
                break
        counts.append(len(alive))
    variance = sum((1 - i / batches) / (i / batches) ** 2 for i in range(1, batches + 1))
    assert mean_threshold(batches) == pytest.approx(4 * (1 + 1 / 2 + 1 / 3 + 1 / 4))
    assert abs(np.mean(counts) - mean_threshold(batches)) < 4 * np.sqrt(variance / trials)


def test_batches_and_decoding():
    code = codes.batched_coupon(workers=9, partitions=8, load=3, rng=1)
    batches = {tuple(held.tolist()) for held in code.placement}
    assert batches == {(0, 1, 2), (3, 4, 5), (6, 7)}
    assert code.load == 3
    decoding = code.decode(range(9))
    assert decoding.exact
    assert np.count_nonzero(decoding.weights) == 3
    copies = [sum(tuple(held.tolist()) == batch for held in code.placement) for batch in batches]
    assert code.tolerance == min(copies) - 1
    rarest = min(batches, key=lambda b: sum(tuple(held.tolist()) == b for held in code.placement))
    alive = [i for i, held in enumerate(code.placement) if tuple(held.tolist()) != rarest]
    assert not code.decodable(alive)
    assert code.decode(alive).residual == pytest.approx(np.sqrt(len(rarest)))


def test_round_robin_always_covers():
    for seed in range(20):
        code = codes.batched_coupon(6, 6, 1, on_uncovered="round_robin", rng=seed)
        assert code.decode(range(6)).exact
    with pytest.raises(ValueError, match=r"load=2 must be larger: workers=10 did not cover 10 batches in 1 draws"):
        codes.batched_coupon(10, 20, 2, on_uncovered="raise")
    with pytest.raises(ValueError, match="load=1 must be larger: workers=40 did not cover 40 batches in 1000 draws"):
        codes.batched_coupon(40, 40, 1)


def test_default_load_covers_with_even_odds():
    code = codes.batched_coupon(workers=30)
    assert cover_probability(30, -(-30 // code.load)) >= 0.5
    assert cover_probability(30, -(-30 // (code.load - 1))) < 0.5
