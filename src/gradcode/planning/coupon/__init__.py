"""Batched coupon's collector: how many workers are waited for, how long that takes, and how much each should hold.

    method = batched_coupon(workers=50, partitions=50, load=10)
    method.mean_threshold                                       # 11.41 workers instead of cyclic repetition's 41
    method.expected_time(delays.ShiftedExponential(1.0, 1.0), receive=0.5)
    chosen = allocate(shifts, rates, target=coverage_target(500))
    schemes.coupon(100, 500, chosen.whole(500).tolist())

Source: Li, Mousavi Kalan, Avestimehr, Soltanolkotabi, "Near-Optimal Straggler Mitigation for Distributed Gradient
Methods", arXiv 1710.09990, of which the abstract could be read. The scheme and its generalisation are RECONSTRUCTED;
every formula here is DERIVED in the project's bcc.md, and what a docstring calls OURS is not in it either.

The paper's letters: m partitions, n workers, load r, B = ⌈m/r⌉ batches, K the recovery threshold (workers that are
enough), C the communication load (vectors received until then), a the shift and μ the rate of a worker's law. The
probabilities of a draw, ``cover_probability`` and ``mean_threshold``, are in :mod:`gradcode.codes.coupon`.
"""

from gradcode.planning.coupon.allocation import Allocation, allocate, balanced, coverage_target, expected_results
from gradcode.planning.coupon.sampling import (
    Estimate,
    collecting_times,
    completion,
    draw_subset_thresholds,
    draw_thresholds,
    monte_carlo,
)
from gradcode.planning.coupon.threshold import (
    grouped_probabilities,
    lower_bound,
    mean_threshold_if_covered,
    subsets_cover_probability,
    subsets_mean_threshold,
    subsets_threshold_probabilities,
    threshold_probabilities,
    threshold_variance,
)
from gradcode.planning.coupon.times import (
    Method,
    batched_coupon,
    cyclic_repetition,
    fractional_repetition,
    random_subsets,
    received,
    uncoded,
)

__all__ = [
    "Allocation",
    "Estimate",
    "Method",
    "allocate",
    "balanced",
    "batched_coupon",
    "collecting_times",
    "completion",
    "coverage_target",
    "cyclic_repetition",
    "draw_subset_thresholds",
    "draw_thresholds",
    "expected_results",
    "fractional_repetition",
    "grouped_probabilities",
    "lower_bound",
    "mean_threshold_if_covered",
    "monte_carlo",
    "random_subsets",
    "received",
    "subsets_cover_probability",
    "subsets_mean_threshold",
    "subsets_threshold_probabilities",
    "threshold_probabilities",
    "threshold_variance",
    "uncoded",
]
