"""The code over what is missing: two_stage.md's worked examples, and exact decoding whoever is lost."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcode.codes.second_stage import CONDITION, KINDS, second_stage, shares

MIXING = [[2, -1, 0], [1, 0, 1]]


def test_worked_example_of_coding_and_decoding() -> None:
    """two_stage.md 9.1: missing are partitions of gradients 2, 4 and 5, of sum 11."""
    code = second_stage([1, 1, 1], 3, 1, mixing=MIXING)
    assert code.tolerance == 1
    assert np.allclose(code.encoding, [[1, 0.5, 0], [1, 0, -1], [0, 0.5, 1]])
    assert np.allclose(code.mixing @ code.encoding, 1)
    messages = code.encoding @ [2, 4, 5]
    assert np.allclose(messages, [4, -3, 7])
    for lost, expected in ((0, [0, 1, 2]), (1, [1, 0, 1]), (2, [2, -1, 0])):
        assert np.allclose(code.decoding([lost]), expected)
        assert code.decoding([lost]) @ messages == pytest.approx(11)


def test_loads_in_proportion_to_unequal_speeds() -> None:
    """two_stage.md 9.2: quotas (3, 1.5, 1.5), and the one that is left goes to the first of equals."""
    assert shares([2, 1, 1], 6, 3).tolist() == [3, 2, 1]
    held = second_stage([2, 1, 1], 3, 1).encoding != 0
    assert [np.flatnonzero(own).tolist() for own in held] == [[0, 1, 2], [0, 1], [2]]


def test_what_the_fastest_cannot_have_goes_to_others() -> None:
    assert shares([10, 1, 1, 1], 8, 3).tolist() == [3, 2, 2, 1]
    with pytest.raises(ValueError, match="total=10 must be at most 9"):
        shares([1, 1, 1], 10, 3)


sizes = st.tuples(st.integers(2, 6), st.integers(1, 7), st.integers(0, 3), st.integers(0, 99))


@given(sizes, st.sampled_from(KINDS), st.data())
def test_it_decodes_whoever_is_lost(size: tuple[int, int, int, int], kind: str, data: st.DataObject) -> None:
    """For every set of at most s₂ lost workers: aᵀB₂ = 1 with a = 0 on them; s₂ + 1 copies of each partition."""
    workers, missing, tolerance, seed = size
    tolerance = min(tolerance, workers - 1)
    speeds = data.draw(st.lists(st.floats(0.1, 10), min_size=workers, max_size=workers))
    code = second_stage(speeds, missing, tolerance, kind=kind, seed=seed)  # type: ignore[arg-type]
    assert np.allclose(code.mixing @ code.encoding, 1, atol=1e-9)
    assert ((code.encoding != 0).sum(axis=0) == tolerance + 1).all()
    for count in range(tolerance + 1):
        for lost in combinations(range(workers), count):
            weights = code.decoding(lost)
            assert np.abs(weights[list(lost)]).max(initial=0) < 1e-8 * np.abs(weights).max()
            assert np.abs(weights @ code.encoding - 1).max() < 1e-13 * CONDITION


@given(st.lists(st.floats(0.1, 10), min_size=1, max_size=8), st.integers(1, 9), st.integers(0, 8))
def test_shares_are_the_largest_remainders(speeds: list[float], most: int, total: int) -> None:
    """Without a share that reaches its limit they are within one of the quota."""
    total = min(total, most * len(speeds))
    found = shares(speeds, total, most)
    assert found.sum() == total and found.max() <= most
    quotas = total * np.array(speeds) / sum(speeds)
    if (quotas + 1 <= most).all():
        assert (np.abs(found - quotas) < 1).all()


@pytest.mark.parametrize(("workers", "tolerance"), [(7, 1), (9, 2), (12, 3)])
def test_waves_amplify_rounding_less(workers: int, tolerance: int) -> None:
    """The worst Σ|a·b| over all sets of lost workers, a half of it at most, on average over several codes."""
    worst: dict[str, list[float]] = {"random": [], "harmonic": []}
    for kind, found in worst.items():
        for missing, seed in product((5, 6, 11, 12), range(3)):
            code = second_stage(np.ones(workers), missing, tolerance, kind=kind, seed=seed)  # type: ignore[arg-type]
            weights = np.abs([code.decoding(lost) for lost in combinations(range(workers), tolerance)])
            found.append(float((weights @ np.abs(code.encoding)).max()))
    assert np.mean(worst["harmonic"]) < np.mean(worst["random"]) / 2


def test_groups_of_equal_sums() -> None:
    code = second_stage([5, 1, 1, 1], 5, 1, kind="repetition")
    assert code.encoding.tolist() == [[1, 1, 1, 0, 0]] * 2 + [[0, 0, 0, 1, 1]] * 2


def test_refusals() -> None:
    with pytest.raises(ValueError, match="tolerance=3 must be an integer, between 0 and 2"):
        second_stage([1, 1, 1], 3, 3)
    with pytest.raises(ValueError, match="missing=0"):
        second_stage([1, 1, 1], 0, 1)
