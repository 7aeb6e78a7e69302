"""Generalised coupon's collector: its placement, the rules of an iteration, and its duration against the simulation."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import codes, schemes
from gradcode.codes.coupon import covering_subsets
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.protocol import Abandon, Combination, Iteration, Order, Reply
from gradcode.schemes import CouponCollector
from gradcode.training import LeastSquares

PLACEMENT = [[0, 1, 2], [2, 3], [], [3, 1, 0]]


def begin(scheme: CouponCollector, target: Combination | None = None, sizes: np.ndarray | None = None) -> list[Order]:
    wanted = target or Combination(dict.fromkeys(range(scheme.partitions), 1.0))
    sizes = np.full(scheme.partitions, 2) if sizes is None else sizes
    actions = scheme.start(Iteration(0, 5, wanted, tuple(range(scheme.workers)), sizes))
    orders = [action for action in actions if isinstance(action, Order)]
    assert len(orders) == len(actions) and all(order.serial == 5 for order in orders)
    return orders


def answer(scheme: CouponCollector, order: Order) -> tuple[int, ...]:
    """The slots that are then abandoned."""
    actions = scheme.receive(Reply(order, torch.zeros(1, dtype=torch.uint8), 1.0, np.zeros((1, 1))))
    assert all(isinstance(action, Abandon) for action in actions) and len(actions) <= 1
    return actions[0].slots if actions else ()


def decoded(scheme: CouponCollector, orders: list[Order], dtype: torch.dtype = torch.float64) -> np.ndarray:
    """What the scheme makes of the rows of ``orders``, where partition j has the gradient (j + 1, 10(j + 1))."""
    rows = torch.full((scheme.layout.rows, 2), torch.nan, dtype=dtype)
    for order in orders:
        ((partition, coefficient),) = order.combination.items()
        assert isinstance(coefficient, float)
        rows[order.row] = torch.tensor([1.0, 10.0]) * coefficient * (partition + 1)
    out = torch.full((2,), torch.nan, dtype=torch.float64)
    scheme.gradient(rows, out)
    return out.numpy()


def test_orders_are_single_partitions_in_the_order_of_computing() -> None:
    scheme = CouponCollector(PLACEMENT, 4)
    orders = begin(scheme)
    assert [(order.worker, *order.combination.items()) for order in orders] == [
        (worker, (partition, 1.0)) for worker, held in enumerate(PLACEMENT) for partition in held
    ]
    assert [order.slot for order in orders] == [order.row for order in orders] == list(range(8))
    assert scheme.layout.rows == scheme.layout.slots == 8
    again = begin(scheme)
    assert all(a.combination is b.combination for a, b in zip(orders, again, strict=True))  # built and sent once
    assert orders[2].combination is orders[3].combination


def test_the_first_of_each_counts_and_the_others_are_abandoned() -> None:
    scheme = CouponCollector(PLACEMENT, 4)
    orders = begin(scheme)
    taken = [orders[0], orders[5], orders[3], orders[6]]  # partitions 0, 3, 2, 1
    abandoned = [answer(scheme, taken[0]), answer(scheme, taken[1]), answer(scheme, taken[2])]
    assert abandoned == [(7,), (4,), (2,)] and not scheme.done
    assert answer(scheme, taken[3]) == (1,) and scheme.done
    assert decoded(scheme, taken).tolist() == [10.0, 100.0]
    assert scheme.exact and 0 < scheme.error < 1e-14


def test_a_target_scales_and_leaves_out() -> None:
    scheme = CouponCollector(PLACEMENT, 4)
    orders = begin(scheme, Combination({0: 2.0, 3: -1.0}))
    assert [tuple(order.combination) for order in orders] == [(0,), (3,), (3,), (0,)]
    answer(scheme, orders[0])
    assert not scheme.done
    answer(scheme, orders[1])
    assert scheme.done and decoded(scheme, orders[:2]).tolist() == [-2.0, -20.0]


def test_at_a_deadline_the_sum_of_what_has_come_is_taken() -> None:
    scheme = CouponCollector(PLACEMENT, 4, deadline=2.0)
    assert scheme.deadline == 2.0
    orders = begin(scheme)
    answer(scheme, orders[5])
    assert scheme.expire() == () and scheme.done
    assert decoded(scheme, [orders[5]]).tolist() == [4.0, 40.0]
    assert not scheme.exact and 1 < scheme.error < 1 + 1e-14
    orders = begin(scheme)
    assert scheme.expire() == () and not scheme.done  # nothing has come: the first reply ends it
    answer(scheme, orders[0])
    assert scheme.done and not scheme.lose(3)
    # Partitions without a sample, at an epoch's end, are not missed.
    orders = begin(scheme, sizes=np.array([0, 0, 3, 0]))
    answer(scheme, orders[2])
    assert scheme.expire() == () and scheme.done
    assert decoded(scheme, [orders[2]]).tolist() == [3.0, 30.0] and scheme.exact


def test_the_error_bounds_what_rounding_does() -> None:
    """400 partitions with gradients of all sizes, float32 and bfloat16 messages, added up in float32."""
    rng = np.random.default_rng(0)
    gradients = torch.from_numpy(rng.standard_normal((400, 50)) * 10.0 ** rng.uniform(-3, 3, (400, 1)))
    scheme = schemes.coupon(20, 400, 80, on_uncovered="round_robin")
    orders = begin(scheme)
    for order in orders:
        if next(iter(order.combination)) not in scheme._collected:
            answer(scheme, order)
    assert scheme.done
    for dtype in (torch.float32, torch.bfloat16):
        rows = torch.full((scheme.layout.rows, 50), torch.nan, dtype=dtype)
        for partition, row in scheme._collected.items():
            rows[row] = gradients[partition].to(dtype)
        out = torch.empty(50, dtype=torch.float32)
        scheme.gradient(rows, out)
        error = float((out.double() - gradients.sum(0)).norm() / gradients.norm(dim=1).sum())
        assert error <= scheme.error and scheme.exact
        assert scheme.error < (1e-4 if dtype == torch.float32 else 0.01)


# Placement


@pytest.mark.parametrize("on_uncovered", ["resample", "round_robin"])
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_everything_is_held_by_somebody_and_nothing_twice(on_uncovered: str, data: st.DataObject) -> None:
    partitions = data.draw(st.integers(1, 6))
    loads = data.draw(st.lists(st.integers(0, partitions), min_size=1, max_size=6))
    loads[0] = partitions if on_uncovered == "resample" else min(partitions, max(loads[0], partitions - sum(loads[1:])))
    subsets = covering_subsets(loads, len(loads), partitions, on_uncovered=on_uncovered, rng=data.draw(st.integers(0)))
    assert [len(own) for own in subsets] == loads
    assert all(len(set(own.tolist())) == len(own) for own in subsets)
    assert set(np.concatenate(subsets).tolist()) == set(range(partitions))


def test_draws_are_uniform_and_in_random_order() -> None:
    """Each ordered pair of 4 partitions as often as any other: within 4 standard errors of 1/12 each."""
    draws = 3000
    rng = np.random.default_rng(1)
    pairs = [tuple(covering_subsets([2, 4], 2, 4, rng=rng)[0].tolist()) for _ in range(draws)]
    for pair in permutations(range(4), 2):
        assert abs(pairs.count(pair) / draws - 1 / 12) < 4 * np.sqrt(1 / 12 * 11 / 12 / draws)


def test_seeds_and_refusals() -> None:
    first, same, other = (schemes.coupon(5, 10, 4, seed=seed) for seed in (3, 3, 4))
    assert first.placement == same.placement != other.placement
    assert repr(first) == "coupon(workers=5, partitions=10, loads=4)"
    uneven = schemes.coupon(2, 3, [1, 3], deadline=0.5)
    assert repr(uneven) == "coupon(workers=2, partitions=3, loads=1..3, deadline=0.5)"
    for build, message in [
        (lambda: schemes.coupon(3, 6, 7), r"loads\[0\]=7 must be an integer, between 0 and 6"),
        (lambda: schemes.coupon(3, 6, [2, 2]), "one for each of workers=3; got 2"),
        (lambda: schemes.coupon(3, 6, 1), "loads=1 must add up to at least partitions=6, got 3"),
        (lambda: schemes.coupon(3, 6, [1, 2, 2]), r"loads=\[1, 2, 2\] must add up to at least partitions=6, got 5"),
        (lambda: schemes.coupon(20, 40, 2), "loads=2 must be larger: workers=20 did not cover 40 partitions in 1000"),
        (lambda: schemes.coupon(2, 4, 2, on_uncovered="raise", seed=1), "in 1 draws .*on_uncovered='round_robin'"),
        (lambda: schemes.coupon(2, 3, 2, on_uncovered="never"), "on_uncovered='never' must be one of"),
        (lambda: schemes.coupon(2, 3, 3, deadline=0.0), "deadline=0.0 must be a positive number"),
        (lambda: CouponCollector([[0, 0], [1]], 2), r"placement\[0\]=\[0, 0\] must be different partitions"),
        (lambda: CouponCollector([[0], [2]], 3), r"nobody holds partitions \[1\]"),
        (lambda: first.load_state_dict({"a": 1}), "keeps no state"),
    ]:
        with pytest.raises(ValueError, match=message):
            build()
    assert first.state_dict() == {} and first.inner == ()
    first.load_state_dict({})


# Duration


def simulated(scheme: CouponCollector, compute: np.ndarray, communicate: np.ndarray) -> list[float]:
    """Seconds that the simulated cluster takes with these delays; inf: it never ends."""
    rng = np.random.default_rng(0)
    objective = LeastSquares(rng.standard_normal((24, 2)), rng.standard_normal(24), scheme.partitions)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(scheme.workers, DelayTable.from_array(compute, communicate))
    session = gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append])
    times = []
    for number in range(len(compute)):
        try:
            session._backward(number)
        except Shortfall:
            times.append(np.inf)
            continue
        times.append(reports[-1].time)
        assert reports[-1].time == reports[-1].order_statistic
        if scheme.exact:
            wanted = objective.gradient(objective.model.theta.data)
            assert float((objective.model.theta.grad - wanted).norm()) < 1e-9 * float(wanted.norm())
            assert reports[-1].bytes_up == scheme.partitions * scheme.layout.row_bytes(2, 8)  # each once
    return times


def draws(seed: int, infinite: float, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """(25, 6) seconds of computing a partition and of a message."""
    rng = np.random.default_rng(seed)
    compute, communicate = rng.exponential(1.0, (2, 25, 6))
    if ties:
        compute, communicate = np.ceil(2 * compute) / 2, np.floor(2 * communicate) / 2
    compute[rng.random(compute.shape) < infinite] = np.inf
    return compute, communicate


@pytest.mark.parametrize("late", [False, True], ids=["", "deadline"])
@pytest.mark.parametrize("loads", [6, [0, 1, 3, 5, 7, 8]], ids=["even", "uneven"])
def test_duration_is_the_simulation(loads: int | list[int], late: bool) -> None:
    compute, communicate = draws(0, 0.0, False)
    usual = np.sort(schemes.coupon(6, 8, loads).duration(compute[:, :, None], communicate))
    deadline = float(usual[10]) if late else None
    scheme, found = schemes.coupon(6, 8, loads, deadline), []
    for seed, (infinite, ties) in enumerate([(0.0, False), (0.3, False), (0.0, True), (0.5, True)]):
        compute, communicate = draws(seed, infinite, ties)
        found.append(simulated(scheme, compute, communicate))
        assert scheme.duration(compute[:, :, None], communicate).tolist() == found[-1]
    if deadline is None:
        assert len(set(found[0])) == 25 and np.isfinite(found[0]).all() and np.isinf(found[3]).any()
    else:
        assert sum(time < deadline for time in found[0]) == 10 and deadline in found[1]


paces = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 3.0, float("inf")]), min_size=4, max_size=4)


@given(paces, paces.map(lambda seconds: [min(own, 2.0) for own in seconds]), st.integers(0, 2**20))
@settings(max_examples=60, deadline=None)
def test_duration_with_many_ties(compute: list[float], communicate: list[float], seed: int) -> None:
    scheme = schemes.coupon(4, 5, [5, 1, 3, 2], seed=seed)
    rows = np.array([compute]), np.array([communicate])
    assert scheme.duration(rows[0][:, :, None], rows[1]).tolist() == simulated(scheme, *rows)


def test_duration_by_hand() -> None:
    """Worker 1 is slow at partition 2 when worker 0 sends it at 3, goes on to partition 3, and ends at 3 + 4."""
    scheme = CouponCollector([[0, 1, 2], [2, 3]], 4)
    none = np.zeros((1, 2))
    assert scheme.duration(np.array([[[1.0], [4.0]]]), none).tolist() == [7.0]
    assert scheme.duration(np.array([[[1.0], [1.5]]]), none).tolist() == [3.0]  # 0, 1 at 1, 2; 2, 3 at 1.5, 3
    assert scheme.duration(np.zeros((0, 2, 1)), np.zeros((0, 2))).shape == (0,)


def test_each_when_ready_is_earlier_than_all_at_the_end() -> None:
    """On the same draws; the paper's time is the largest over partitions of the quickest holder's last end."""
    rng = np.random.default_rng(2)
    scheme = schemes.coupon(10, 12, [2, 3, 4, 5, 6, 2, 3, 4, 5, 6])
    pace = rng.exponential(1.0, (200, 10)) + 0.5
    held = np.array([[partition in own for partition in range(12)] for own in scheme.placement])
    ends = pace * [len(own) for own in scheme.placement]
    together = np.where(held, ends[:, :, None], np.inf).min(axis=1).max(axis=1)
    own = scheme.duration(pace[:, :, None], np.zeros_like(pace))
    assert (own <= together + 1e-9).all() and (own < 0.9 * together).mean() > 0.5


# The code for even workers


@pytest.mark.parametrize(("order", "threshold"), [((2, 0, 1, 3), 2), ((0, 1, 3, 2), 4)])
def test_the_worked_example(order: tuple[int, ...], threshold: int) -> None:
    """bcc.md section 8: gradients 1, 2, 3, 4; workers hold the batches (0, 0, 1, 0) of two partitions each."""
    code = next(
        code
        for code in (codes.batched_coupon(4, 4, 2, rng=seed) for seed in range(200))
        if [held.tolist()[0] // 2 for held in code.placement] == [0, 0, 1, 0]
    )
    assert [code.decodable(order[:k]) for k in range(1, 5)] == [k >= threshold for k in range(1, 5)]
    messages = code.encoding @ [1.0, 2.0, 3.0, 4.0]
    assert messages.tolist() == [3.0, 3.0, 7.0, 3.0]
    assert code.decode(order[:threshold]).weights @ messages == 10.0
    # On a cluster: it stops there, and copies that came before count as received.
    compute = np.empty((1, 4))
    compute[0, list(order)] = [1.0, 2.0, 3.0, 4.0]
    objective = LeastSquares(np.eye(4), np.ones(4), 4)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(4, DelayTable.from_array(compute))
    scheme = schemes.coded(code)
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        next(session.epoch()).backward()
    (report,) = reports
    assert report.time == 2 * threshold == report.order_statistic and report.exact
    assert report.bytes_up == threshold * scheme.layout.row_bytes(4, 8)
    assert set(report.stragglers) == set(order[threshold:])


def test_it_can_be_elastic_where_loads_are_even() -> None:
    """Worker 2 is away for long: the others draw anew, and take it in when it is back."""
    objective = LeastSquares(np.eye(6), np.ones(6), 6)
    scheme = schemes.elastic(lambda workers: schemes.coupon(workers, 6, 4), 4, patience=0)
    cluster = gradcode.SimulatedCluster(4, DelayTable.from_array([[1.0] * 4]), losses=[(1, 2, 0.5)], restart=9.0)
    members = []
    with gradcode.Session.of(objective, scheme, cluster) as session:
        for number in range(8):
            session._backward(number)
            members.append(scheme.members)
            wanted = objective.gradient(objective.model.theta.data)
            assert scheme.exact and float((objective.model.theta.grad - wanted).norm()) < 1e-9 * float(wanted.norm())
    assert members[0] == members[-1] == (0, 1, 2, 3) and (0, 1, 3) in members
