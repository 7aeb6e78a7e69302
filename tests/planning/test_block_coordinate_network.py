"""Networks: no mixture of levels beats the best single one, and a plan says which that is."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import delays
from gradcode.planning.block_coordinate import for_network, network_runtime


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), st.lists(st.floats(0.05, 1.0), min_size=1, max_size=3), st.integers(0, 2**31))
def test_no_mixture_of_levels_beats_the_best_single_one(workers: int, rest: list[float], seed: int) -> None:
    """All plans for up to four parameters, on one common sample: in the mean, which the search would look at."""
    costs = [1.0, *sorted(rest, reverse=True)]
    times = np.random.default_rng(seed).exponential(size=(50, workers))
    found = {
        levels: network_runtime(levels, costs, times).mean()
        for levels in combinations_with_replacement(range(workers), len(costs))
    }
    single = min(found[(level,) * len(costs)] for level in range(workers))
    assert min(found.values()) >= single * (1 - 1e-12)


def test_a_single_level_takes_the_time_of_its_passes() -> None:
    times = np.array([[1.0, 2.0, 4.0]])
    assert network_runtime([1, 1], [1.0, 0.4], times).tolist() == [2 * 2.0]
    # Level 0 waits for the slowest after one pass, level 2 for the quickest after a whole one and two short ones.
    assert network_runtime([0, 2], [1.0, 0.4], times).tolist() == [max(4.0 * 1.0, 1.0 * 1.8)]
    with pytest.raises(ValueError, match="must be from 0 to 2 and not fall"):
        network_runtime([1, 0], [1.0, 0.4], times)


def test_the_plan_is_the_best_level() -> None:
    law = delays.ShiftedExponential(0.01, 1.0)
    plan = for_network(law, 8, 1000)
    assert plan.level == 7 and plan.sizes == (0,) * 7 + (1000,)
    assert plan.value == pytest.approx(8 * (0.01 + 1 / 8)) and plan.uncoded > plan.value
    assert for_network(delays.Deterministic(1.0), 8, 1000).level == 0
    assert for_network(law, 8, 1000, highest=2).level <= 2
    with pytest.raises(ValueError, match="highest=8"):
        for_network(law, 8, 1000, highest=8)
