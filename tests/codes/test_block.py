"""Block codes: a code for each level, tolerances that grow along the coordinates."""

from __future__ import annotations

from itertools import combinations, pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcode import codes


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7).filter(any))
def test_every_level_tolerates_as_many_as_it_says(sizes: list[int]) -> None:
    code = codes.block(sizes)
    workers = len(sizes)
    assert [level.stop - level.start for level in code.levels] == [size for size in sizes if size]
    assert code.levels[0].start == 0 and code.levels[-1].stop == sum(sizes)
    for before, after in pairwise(code.levels):
        assert before.stop == after.start and before.stragglers < after.stragglers
    for level in code.levels:
        for missing in combinations(range(workers), level.stragglers):
            assert level.code.decode(set(range(workers)) - set(missing)).exact
    assert code.load == code.levels[-1].stragglers + 1


def test_a_worker_holds_for_a_level_what_it_holds_for_the_lower_ones() -> None:
    code = codes.block([1] * 8, 8, partitions=20, dtype="float64")
    assert code.partitions == 20
    for worker in range(8):
        held = [set(level.code.placement[worker].tolist()) for level in code.levels]
        assert all(lower <= higher for lower, higher in pairwise(held))


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match=r"sizes\[1\]=-1 must be"):
        codes.block([3, -1])
    with pytest.raises(ValueError, match="must have a coordinate in at least one level"):
        codes.block([0, 0])
    with pytest.raises(ValueError, match="as many as workers=3"):
        codes.block([1, 1], 3)
    with pytest.raises(ValueError, match=r"sizes\[18\]=5 must be 0: stragglers=18"):
        codes.block([1] + [0] * 17 + [5, 0])
    assert codes.block([1] + [0] * 17 + [5, 0], dtype="float64").load == 19
    assert repr(codes.block([4, 0, 6])) == "block(workers=3, partitions=3, coordinates={0: 4, 2: 6})"
    np.testing.assert_array_equal(codes.block([0, 0, 2]).levels[0].code.encoding, np.ones((3, 3)))
