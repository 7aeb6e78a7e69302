"""Estimates of speed from what workers did."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcode.delays import SpeedHistory

SEEN = st.lists(st.tuples(st.integers(0, 3), st.booleans(), st.floats(0.5, 8), st.floats(0.1, 10)), max_size=12)


def played(seen: list[tuple[int, bool, float, float]], initial: float | None) -> SpeedHistory:
    history = SpeedHistory(4, weight=0.3, initial=initial)
    for worker, finished, load, seconds in seen:
        (history.finished if finished else history.unfinished)(worker, load, seconds)
    return history


def test_the_newest_observation_counts_with_its_weight() -> None:
    """Two_stage.md, 4.4 step 6, by hand: 0.7·2 + 0.3·4 = 2.6; a cancelled worker's estimate never rises."""
    history = SpeedHistory(2, weight=0.3, initial=2.0)
    history.finished(0, 8, 2.0)
    assert history.speeds.tolist() == pytest.approx([2.6, 2.0])
    history.unfinished(0, 8, 1.0)  # it may be fast or not: 8 partitions in a second are more than it is known for
    history.unfinished(1, 1, 2.0)
    assert history.speeds.tolist() == pytest.approx([2.6, 0.7 * 2.0 + 0.3 * 0.5])


def test_the_first_observation_is_taken_as_it_is() -> None:
    history = SpeedHistory(3)
    assert history.speeds.tolist() == [1, 1, 1]
    history.finished(2, 3, 1.0)
    assert history.speeds.tolist() == [3, 3, 3]
    history.finished(0, 1, 1.0)
    assert history.speeds.tolist() == [1, 2, 3]
    history.finished(1, 5, 0.0)  # an instant cluster's times
    assert history.speeds.tolist() == [1, 2, 3] and history.recent.tolist() == pytest.approx([1 / 3, 1.0])


@given(SEEN, st.none() | st.floats(0.1, 10))
def test_estimates_stay_within_what_was_seen(seen: list[tuple[int, bool, float, float]], initial: float | None) -> None:
    history = played(seen, initial)
    values = [load / seconds for _, _, load, seconds in seen] + [1.0 if initial is None else initial]
    assert (history.speeds >= min(values) - 1e-12).all() and (history.speeds <= max(values) + 1e-12).all()


@given(SEEN)
def test_it_goes_on_from_a_checkpoint(seen: list[tuple[int, bool, float, float]]) -> None:
    history, resumed = played(seen, None), SpeedHistory(4, weight=0.3)
    resumed.load_state_dict(json.loads(json.dumps(history.state_dict())))
    for each in (history, resumed):
        each.finished(1, 2, 0.5)
    assert np.array_equal(history.speeds, resumed.speeds) and np.array_equal(history.recent, resumed.recent)


def test_only_the_latest_times_are_kept() -> None:
    history = SpeedHistory(1, window=3)
    for seconds in (1.0, 2.0, 3.0, 4.0):
        history.finished(0, 2, seconds)
    assert history.recent.tolist() == [1.0, 1.5, 2.0]


@pytest.mark.parametrize("arguments", [{"weight": 0.0}, {"weight": 1.1}, {"initial": 0.0}])
def test_arguments_out_of_range(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(arguments))):
        SpeedHistory(2, **arguments)
