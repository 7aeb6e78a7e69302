"""How much uneven workers should hold: the allocation is the best there is, and its draws take what they should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode import schemes
from gradcode.delays import PerWorker, ShiftedExponential
from gradcode.planning import coupon as planning

SHIFTS = np.full(100, 20.0)
RATES = np.array([1.0] * 95 + [20.0] * 5)


def test_the_numbers_of_the_spec() -> None:
    """bcc.md section 7, DERIVED there, to the digits given."""
    one, many = (
        planning.allocate(SHIFTS, RATES, 500),
        planning.allocate(SHIFTS, RATES, planning.coverage_target(500, 1)),
    )
    assert many.target == 3107
    assert round(one.time, 2) == 119.80 and round(many.time, 2) == 744.44
    assert one.loads[[0, 99]].round(3).tolist() == [5.167, 5.901]
    assert many.loads[[0, 99]].round(2).tolist() == [32.11, 36.67]
    assert planning.allocate(SHIFTS, RATES, planning.coverage_target(500)).whole(500)[[0, 99]].tolist() == [40, 46]
    assert many.whole(33)[[0, 99]].tolist() == [32, 33] and one.whole(500).dtype == np.int64
    assert planning.balanced(RATES, 500)[[94, 99]].tolist() == [2, 51] and planning.balanced(RATES, 500).sum() == 500


workers = st.lists(st.tuples(st.floats(1e-3, 100.0), st.floats(1e-2, 1e3)), min_size=1, max_size=5)


@given(workers, st.floats(1.0, 1e4), st.integers(0, 2**30))
@settings(max_examples=100)
def test_no_other_loads_bring_as_much_by_then(each: list[tuple[float, float]], target: float, seed: int) -> None:
    shifts, rates = map(np.array, zip(*each, strict=True))
    found = planning.allocate(shifts, rates, target)
    y = rates * found.time / found.loads  # μ λ
    assert y - np.log1p(y) == pytest.approx(shifts * rates, rel=1e-6)
    assert planning.expected_results(found.loads, shifts, rates, found.time) == pytest.approx(target, rel=1e-6)
    rng = np.random.default_rng(seed)
    for scale in (1e-3, 0.1, 1.0):
        other = found.loads * np.exp(scale * rng.standard_normal(len(rates)))
        assert planning.expected_results(other, shifts, rates, found.time) <= target * (1 + 1e-6)


def test_steady_workers_beyond_the_floats_range() -> None:
    """a·μ on both sides of where exp(−a·μ) is no float any more: the loads go on steadily."""
    u = np.array([600.0, 699.9, 700.1, 705.0, 745.0, 1e4, 1e9])
    loads = planning.allocate(np.ones(7), u, 1.0)
    y = u * loads.time / loads.loads
    assert y - np.log1p(y) == pytest.approx(u, rel=1e-12)


def test_results_come_as_they_are_expected_to() -> None:
    """X(t) = Σ r_i P(T_i ≤ t), against 20,000 draws: within 4 standard errors; 0 for who holds nothing."""
    shifts, rates, loads = np.array([1.0, 2.0, 0.5]), np.array([1.0, 0.5, 3.0]), np.array([2.0, 3.0, 0.0])
    rng = np.random.default_rng(0)
    came = (loads * (shifts + rng.standard_exponential((20_000, 3)) / rates) <= 8.0) @ loads
    expected = planning.expected_results(loads, shifts, rates, 8.0)
    assert abs(came.mean() - expected) < 4 * came.std() / np.sqrt(len(came))
    assert planning.expected_results(loads, shifts, rates, 1.0) == 0.0


def test_completion_by_hand() -> None:
    """Both workers hold everything: done when the first has computed all three. Or one does not cover."""
    law = PerWorker([ShiftedExponential(1.0, 1e9), ShiftedExponential(2.0, 1e9)])
    assert planning.completion(law, [3, 3], 3, 4) == pytest.approx(3.0)
    assert planning.completion(law, [0, 3], 3, 4) == pytest.approx(6.0)
    found = planning.completion(law, [2, 2], 3, 400, rng=1)
    assert found[np.isfinite(found)] == pytest.approx(4.0)
    p = planning.subsets_cover_probability([2, 2], 3)
    assert abs(np.isfinite(found).mean() - p) < 4 * np.sqrt(p * (1 - p) / 400)
    once = planning.completion(law, [2, 2], 3, 10, resample_each_iteration=False)
    assert once == pytest.approx(4.0)  # drawn until it covers


def test_the_scheme_with_these_loads_is_earlier_than_the_papers() -> None:
    """One draw of the placement, 100 iterations of both: each result when ready, or all at the worker's end."""
    law = PerWorker([ShiftedExponential(2.0, 1.0)] * 8 + [ShiftedExponential(2.0, 20.0)] * 2)
    loads = planning.allocate(np.full(10, 2.0), [1.0] * 8 + [20.0] * 2, planning.coverage_target(20)).whole(20)
    papers = planning.completion(law, loads, 20, 100, rng=0, resample_each_iteration=False)
    scheme = schemes.coupon(10, 20, loads.tolist())
    table = np.stack([own.sample(np.random.default_rng(i), 100) for i, own in enumerate(law.sources)], axis=1)
    own = scheme.duration(table[:, :, None], np.zeros_like(table))
    assert own.mean() < papers.mean()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: planning.allocate([1.0, 0.0], [1.0, 1.0], 5), r"shifts=\[1.0, 0.0\] must be positive"),
        (lambda: planning.allocate([1.0], [np.inf], 5), r"rates=\[inf\] must be positive and finite"),
        (lambda: planning.allocate([1.0, 2.0], [1.0], 5), "must have one number per worker"),
        (lambda: planning.allocate(1.0, 1.0, 5), "must have one number per worker"),
        (lambda: planning.allocate([1.0], [1.0], 0), "target=0 must be > 0"),
        (lambda: planning.allocate([1e-12], [1e-3], 5), "the times have no least part"),
        (lambda: planning.expected_results([1.0], [1.0, 1.0], [1.0, 1.0], 1.0), r"loads=\[1.0\] must be >= 0 and have"),
        (lambda: planning.coverage_target(0), "partitions=0 must be >= 1"),
        (lambda: planning.coverage_target(5, -1.0), "constant=-1.0 must be > 0"),
        (lambda: planning.balanced([1.0, -1.0], 5), r"speeds=\[1.0, -1.0\] must be positive"),
        (lambda: planning.completion(ShiftedExponential(1.0, 1.0), [3], 2, 5), r"loads=\[3\] must be at most"),
        (lambda: planning.completion(ShiftedExponential(1.0, 1.0), [1], 2, 5, 0, False), "must add up to at least"),
    ],
)
def test_bad_arguments_are_named(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()  # type: ignore[operator]
