"""Loads by observed speed: what is learned, when the code is formed anew, and that gradients stay exact."""

from __future__ import annotations

import numpy as np
import pytest

from gradcode import codes, schemes
from gradcode.delays import DelayTable
from gradcode.errors import GradcodeWarning
from gradcode.protocol import Combination, Iteration
from gradcode.schemes import Heterogeneous
from schemes.test_clustered import answer, run

PACE = np.array([1.0, 1.0, 0.5, 0.5, 0.25, 0.25])  # seconds per partition


def start(scheme: Heterogeneous, number: int = 0, gone: tuple[int, ...] = ()) -> list:
    workers = tuple(sorted(set(range(scheme.workers)).difference(gone)))
    target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
    sizes = np.ones(scheme.partitions, dtype=np.int64)
    return list(scheme.start(Iteration(number, number + 5, target, workers, sizes)))


def at_pace(scheme: Heterogeneous, orders: list, pace: np.ndarray) -> float:
    return answer(scheme, orders, {order.worker: pace[order.worker] * scheme.loads[order.worker] for order in orders})


def test_steadily_slower_workers_get_less() -> None:
    """Nobody straggles: with s = 0, loads in proportion to 1, 1, 2, 2, 4, 4 take 28 / 14 = 2 s instead of 4.67."""
    scheme = schemes.heterogeneous(6, stragglers=0, partitions=28, gain=0.0, weight=1.0)
    reports = run(scheme, DelayTable.from_array(PACE[None]), 4, worst=1e-6)
    assert reports[0].time == pytest.approx(5.0)  # 28 partitions on 6 workers: four have 5
    assert [report.time for report in reports[1:]] == pytest.approx([2.0] * 3)
    assert scheme.loads.tolist() == [2, 2, 4, 4, 8, 8]


def test_a_worker_that_is_slow_now_and_then_changes_little() -> None:
    """One straggler of s = 1 in each iteration, another each time: the times are those of a fixed code."""
    scheme = schemes.heterogeneous(6, partitions=24)
    pace = np.ones((12, 6))
    pace[np.arange(12), np.arange(12) % 6] = 100.0
    reports = run(scheme, DelayTable.from_array(pace), 12, worst=1e-6)
    # A slow worker is taken to need twice the time: the mean of its speed falls, by a twentieth.
    assert max(report.time for report in reports) <= 9.0
    assert all(number % 6 in report.stragglers for number, report in enumerate(reports))


def test_who_is_slow_keeps_a_partition_and_comes_back() -> None:
    scheme = schemes.heterogeneous(4, stragglers=1, partitions=8, weight=0.5)
    pace = np.array([1e4, 1.0, 1.0, 1.0])
    for number in range(20):
        at_pace(scheme, start(scheme, number), pace)
    assert scheme.loads.tolist() == [1, 5, 5, 5]
    for number in range(20, 40):
        at_pace(scheme, start(scheme, number), np.ones(4))
    assert scheme.loads.tolist() == [4, 4, 4, 4]


def test_who_is_gone_is_no_straggler_any_more() -> None:
    """With worker 0 gone, any other may be missing; when it is back it has its part again."""
    scheme = schemes.heterogeneous(5, stragglers=1, partitions=10)
    at_pace(scheme, start(scheme), np.ones(5))
    for late in range(1, 5):
        orders = start(scheme, late, gone=(0,))
        assert [order.worker for order in orders] == [1, 2, 3, 4] and scheme.loads[0] == 0
        pace = np.ones(5)
        pace[late] = np.inf
        assert np.isfinite(at_pace(scheme, [own for own in orders if own.worker != late], pace))
    assert [order.worker for order in start(scheme, 5)] == [0, 1, 2, 3, 4]


def test_fewer_workers_than_copies_are_the_stragglers_of_the_code() -> None:
    """Each partition is on three workers; with two left, what the code cannot place is on those that are gone."""
    scheme = schemes.heterogeneous(4, stragglers=2, partitions=8)
    orders = start(scheme, gone=(0, 3))
    assert [order.worker for order in orders] == [1, 2]
    at_pace(scheme, orders, np.ones(4))
    assert scheme.done


def test_a_code_that_is_refused_leaves_the_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    scheme = schemes.heterogeneous(4, weight=1.0)

    def refuse(*arguments: object) -> None:
        raise ValueError("its error bound passes the limit")

    monkeypatch.setattr(codes, "heterogeneous", refuse)
    at_pace(scheme, start(scheme), np.array([9.0, 1.0, 1.0, 1.0]))
    with pytest.warns(GradcodeWarning, match=r"keeps its loads: its error bound"):
        start(scheme, 1)
    start(scheme, 2)  # a second warning would be an error
    assert scheme.loads.tolist() == [8] * 4


def test_what_it_knows_goes_on() -> None:
    scheme = schemes.heterogeneous(6, stragglers=1, partitions=24)
    for number in range(5):
        at_pace(scheme, start(scheme, number), PACE)
    other = schemes.heterogeneous(6, stragglers=1, partitions=24)
    other.load_state_dict(scheme.state_dict())
    assert other.loads.tolist() == scheme.loads.tolist() != [8] * 6
    np.testing.assert_array_equal(other.code.encoding, scheme.code.encoding)
    np.testing.assert_array_equal(other.history.speeds, scheme.history.speeds)
    with pytest.raises(ValueError, match=r"not that of heterogeneous\(workers=4"):
        schemes.heterogeneous(4).load_state_dict(scheme.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 4, "stragglers": 4}, "stragglers=4 must be .*there are 4 workers"),
        ({"workers": 4, "stragglers": 0, "partitions": 4}, "partitions=4 on 4 workers leave nothing to apportion"),
        ({"workers": 4, "gain": 1.0}, "gain=1.0 must be at least 0 and below 1"),
        ({"workers": 4, "weight": 0.0}, "weight=0.0 must be above 0"),
        ({"workers": 4, "deadline": -1.0}, "deadline=-1.0 must be a positive number"),
    ],
)
def test_bad_arguments_are_named(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schemes.heterogeneous(**options)
