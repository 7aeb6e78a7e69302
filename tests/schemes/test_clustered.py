"""Clustered gradient coding: what it learns, whom it moves, and the gradients and times that come of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations, product
from typing import Any

import numpy as np
import pytest
import torch

import gradcode
from gradcode import codes, delays, schemes
from gradcode.codes import ClusteredCode
from gradcode.codes.affine import AffineCode, from_matrix
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.protocol import Combination, Iteration, Order, Reply
from gradcode.schemes.clustered import Clustered
from gradcode.training import LeastSquares

BURSTS = delays.GilbertElliott(delays.ShiftedExponential(1.0, 10.0), fail=0.05, recover=0.15, slowdown=10.0)


def code(workers: int = 12, clusters: int = 4, stragglers: int = 1, **options: Any) -> ClusteredCode:
    return codes.clustered(workers, clusters, stragglers, variant="random", dtype="float64", **options)


def start(scheme: Clustered, number: int = 0, away: tuple[int, ...] = ()) -> list[Order]:
    everyone = tuple(range(scheme.workers))
    target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
    sizes = np.ones(scheme.partitions, dtype=np.int64)
    return list(scheme.start(Iteration(number, number + 5, target, everyone, sizes, away=away)))  # type: ignore[arg-type]


def answer(scheme: Clustered, orders: list[Order], seconds: dict[int, float]) -> float:
    """Replies in the order of their times until it is done; the time of the last one."""
    for worker in sorted(seconds, key=lambda own: (seconds[own], own)):
        (order,) = (own for own in orders if own.worker == worker)
        scheme.receive(Reply(order, torch.zeros(1, dtype=torch.uint8), seconds[worker], np.zeros((1, 1))))
        if scheme.done:
            return seconds[worker]
    raise AssertionError("not decodable")


def run(
    scheme: Any, table: DelayTable, iterations: int, losses: Any = (), worst: float = 1e-8, **options: Any
) -> list[gradcode.Report]:
    """Reports of gradients that are all checked against the plain one."""
    rng = np.random.default_rng(0)
    matrix, target = rng.standard_normal((48, 5)), rng.standard_normal(48)
    objective = LeastSquares(matrix, target, scheme.partitions)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(scheme.workers, table, losses=losses, **options)
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        (parameter,) = objective.trainable
        for number in range(iterations):
            theta = parameter.detach().numpy().copy().ravel()
            session._backward(number)
            plain = matrix.T @ (matrix @ theta - target) / 48
            found = parameter.grad.numpy().ravel()
            scale = np.linalg.norm(matrix * (matrix @ theta - target)[:, None], axis=1).sum() / 48
            assert np.linalg.norm(found - plain) <= min(worst, reports[-1].decode_error) * scale
            assert reports[-1].exact and (losses or reports[-1].time == reports[-1].order_statistic)
            with torch.no_grad():
                parameter -= 0.05 * parameter.grad
    return reports


def test_the_three_schemes_by_hand() -> None:
    """Section 9.1: 2 s for a healthy worker, 20 for a straggler; plain coding and fixed clusters wait for one."""
    stragglers = np.isin(np.arange(12), [0, 4, 8])
    compute = np.where(stragglers, 10.0, 1.0)[None, :, None]
    everybody = np.zeros((1, 12))
    assert schemes.coded(codes.cyclic_mds(12, 1, dtype="float64")).duration(compute, everybody) == 20.0
    for candidates, seconds, moved in ((1, 20.0, ()), (2, 2.0, (3, 4, 6, 8))):
        scheme = Clustered(code(), candidates, knowledge=lambda _: stragglers)
        orders = start(scheme)
        assert scheme.duration(compute, everybody) == seconds and scheme.moved == moved
        assert sorted(order.worker for order in orders) == list(range(12))
        assert all(len(order.combination) == scheme.code.load == 2 for order in orders)
    assert scheme.assignment.tolist() == [0, 1, 2, 0, 2, 1, 0, 3, 3, 1, 2, 3]


def test_a_cluster_is_decoded_by_hand() -> None:
    """Section 9.2, in each of two clusters: any two of the messages 5, −1, 6 give 11."""
    matrix = np.array([[0.5, 1, 0], [0, 1, -1], [0.5, 0, 1]])
    offset, null = from_matrix(matrix, 1)
    within = AffineCode(matrix, np.ones(3, dtype=np.int64), 1, "float64", offset=offset, null=null, generic=True)
    both = ClusteredCode(within, 2)
    gradients = np.array([2, 4, 5, 2, 4, 5])
    messages = both.encoding @ gradients
    assert messages.tolist() == [5, 5, -1, -1, 6, 6]
    for first in range(3):
        for second in range(3):
            lost = {2 * first, 2 * second + 1}
            decoding = both.decode(set(range(6)) - lost)
            assert decoding.exact and decoding.weights @ messages == pytest.approx(22)
            assert not decoding.weights[list(lost)].any()
    assert both.tolerance == 1 and both.fewest == 4 and not both.decodable({0, 1, 3, 5})


def test_bursts_as_by_hand() -> None:
    """Section 9.3, from the chain that the delays have; 4 standard errors of 200,000 states, 6.7 iterations apart."""
    assert BURSTS.share == pytest.approx(0.25)
    states = BURSTS.states(np.random.default_rng(0), 2000, 100)
    again = states[2:][states[:-2]]
    # States of a chain of memory 0.8 are worth (1 − 0.8)/(1 + 0.8) independent ones each.
    assert abs(again.mean() - 0.73) < 4 * np.sqrt(0.73 * 0.27 / (len(again) / 9))


def test_it_learns_from_who_was_late() -> None:
    """Whose message had not come, and who came later than twice the median."""
    scheme = Clustered(code(), 2)
    seconds = dict.fromkeys(range(12), 1.0) | {4: 9.0, 8: 5.0, 1: 2.0, 2: 2.1}
    assert answer(scheme, start(scheme), seconds) == 5.0 and scheme.assignment.tolist() == [*range(4)] * 3
    start(scheme, 1)
    # 4 and 8 share home 0, 2 is alone in 2: 2 stays, 4 could join 2 but stays in 0, 8 goes to 3.
    assert {worker: int(scheme.assignment[worker]) for worker in (2, 4, 8)} == {2: 2, 4: 0, 8: 3}
    assert 8 in scheme.moved and len(scheme.moved) == len(set(scheme.moved))
    speeds = scheme.history.speeds
    assert speeds[0] == 2.0 and speeds[8] == 0.4 and speeds[4] < 2.0


def test_who_is_away_is_believed_to_straggle() -> None:
    scheme = Clustered(code(), 2)
    start(scheme, away=(0, 4))
    assert {int(scheme.assignment[worker]) for worker in (0, 4)} == {0, 2}


def test_without_anything_known_all_are_at_home() -> None:
    for rule in ("flag", "rank", "flag+rank"):
        scheme = Clustered(code(), 2, rule=rule)
        start(scheme)
        assert scheme.moved == () and scheme.assignment.tolist() == [*range(4)] * 3


def test_by_rank_the_slowest_are_spread_without_being_stragglers() -> None:
    """1.0 to 1.9 s: nobody is later than twice the median, yet 0, 4 and 8 come to different clusters."""
    seconds = dict.fromkeys(range(12), 1.0) | {0: 1.9, 4: 1.8, 8: 1.7}
    moved = {}
    for rule in ("flag", "rank", "flag+rank"):
        scheme = Clustered(code(stragglers=0), 4, rule=rule)
        answer(scheme, start(scheme), seconds)
        start(scheme, 1)
        moved[rule] = len({int(scheme.assignment[worker]) for worker in (0, 4, 8)})
    assert moved == {"flag": 1, "rank": 3, "flag+rank": 3}


CASES: dict[str, Callable[[], Clustered]] = {
    "static": lambda: Clustered(code(), 1),
    "flag": lambda: Clustered(code(), 2),
    "rank": lambda: Clustered(code(), 3, rule="rank"),
    "flag+rank": lambda: Clustered(code(partitions=20), 3, rule="flag+rank"),
    "slots": lambda: Clustered(code(), 3, storage="slot"),
    "repetition": lambda: schemes.clustered(codes.clustered(12, 3, 1, 15, dtype="float64")),
    "one cluster": lambda: Clustered(code(8, 1, 2), 1),
    "wait for all": lambda: Clustered(code(stragglers=0), 4),
    "packed": lambda: Clustered(ClusteredCode(codes.cyclic_mds(6, 3, dtype="float64"), 2)),
    "short messages": lambda: Clustered(ClusteredCode(codes.communication_efficient(4, 4, 1, 2, dtype="float64"), 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_exact_and_durations_those_of_the_simulation(name: str) -> None:
    """Section 9.4, in every iteration, and as many messages as workers, at the code's load."""
    scheme = CASES[name]()
    moved = []
    original = scheme.start

    def watch(iteration: Iteration) -> Any:
        orders = original(iteration)
        moved.append(scheme.moved)
        assert len(orders) == scheme.workers
        for order in orders:  # type: ignore[union-attr]
            assert set(order.combination) <= set(scheme.placement[order.worker].tolist())
            assert int(scheme.assignment[order.worker]) in scheme.candidates[order.worker]
            assert scheme.storage == "cluster" or order.worker // 4 == scheme._rows[order.worker] // 4
        return orders

    scheme.start = watch  # type: ignore[method-assign]
    table = delays.as_table(BURSTS, scheme.workers, seed=3)
    run(scheme, table, 40)
    assert any(moved) == (name not in ("static", "one cluster")) and moved[0] == ()


def test_one_cluster_is_plain_coding_and_no_straggler_waits_for_all() -> None:
    table = delays.as_table(BURSTS, 8, seed=5)
    ours = [report.time for report in run(Clustered(code(8, 1, 2)), table, 15)]
    plain = schemes.coded(codes.cyclic_mds(8, 2, dtype="float64"))
    assert ours == [report.time for report in run(plain, table, 15)]
    waiting = [report.time for report in run(Clustered(code(8, 2, 0), 2), table, 15)]
    assert waiting == [report.time for report in run(schemes.uncoded(8), table, 15)]


def test_fixed_clusters_are_the_code_by_itself() -> None:
    table = delays.as_table(BURSTS, 12, seed=6)
    ours, plain = (run(own, table, 15) for own in (Clustered(code(), 1), schemes.coded(code())))
    assert [report.time for report in ours] == [report.time for report in plain]


def test_the_deadline_takes_the_least_squares_of_what_has_come() -> None:
    """0 and 4 never answer: cluster 0 has one message of three, of which as much is taken as can be."""
    scheme = Clustered(codes.clustered(12, 4, 1, dtype="float64", variant="cyclic"), 2, deadline=3.0)
    orders = start(scheme)
    for order in orders:
        if order.worker not in (0, 4):
            scheme.receive(Reply(order, torch.zeros(1, dtype=torch.uint8), 1.0, np.zeros((1, 1))))
    assert not scheme.done
    scheme.expire()
    rows, out = torch.full((12, 2), torch.nan, dtype=torch.float64), torch.empty(2, dtype=torch.float64)
    gradients = np.outer(np.arange(1, 13), [1.0, -1.0])
    for order in orders:
        if order.worker not in (0, 4):
            rows[order.worker] = torch.from_numpy(sum(value * gradients[j] for j, value in order.combination.items()))
    scheme.gradient(rows, out)
    decoding = scheme.code.decode(set(range(12)) - {0, 4})
    assert scheme.done and not scheme.exact and scheme.error == decoding.error
    np.testing.assert_allclose(out, (decoding.weights @ scheme.code.encoding) @ gradients, atol=1e-12)
    start(scheme, 1)
    assert {int(scheme.assignment[worker]) for worker in (0, 4)} == {0, 2}  # what was missed is learnt all the same
    assert scheme.history.speeds[0] == pytest.approx(2 / 3)


def test_a_lost_worker_moves_out_of_the_way() -> None:
    """0 is lost and stays away, 4 of the same cluster is slow: the next iterations wait for neither."""
    seconds = np.ones((4, 12))
    seconds[:, 4] = 30.0
    scheme = Clustered(code(), 2)
    reports = run(scheme, DelayTable.from_array(seconds), 3, losses=[(0, 0, 0.5)], restart=1000.0)
    assert reports[0].time == 60.0 and [report.time for report in reports[1:]] == [2.0, 2.0]
    fixed = Clustered(code(), 1)
    reports = run(fixed, DelayTable.from_array(seconds), 2, losses=[(0, 0, 0.5)], restart=1000.0)
    assert [report.time for report in reports] == [60.0, 60.0]


def test_a_cluster_of_dead_workers_is_a_shortfall() -> None:
    seconds = np.ones((1, 12))
    seconds[0, [0, 4]] = np.inf
    with pytest.raises(Shortfall):
        run(Clustered(code(), 2), DelayTable.from_array(seconds), 1)


def test_what_it_has_learnt_is_in_the_checkpoint() -> None:
    whole, first, second = (Clustered(code(), 3, rule="flag+rank") for _ in range(3))
    rng = np.random.default_rng(2)
    each = [dict(enumerate(rng.exponential(1.0, 12))) for _ in range(4)]
    for number, seconds in enumerate(each):
        answer(whole, start(whole, number), seconds)
        own = first if number < 2 else second
        if number == 2:
            second.load_state_dict(first.state_dict())
        answer(own, start(own, number), seconds)
        assert own.assignment.tolist() == whole.assignment.tolist() and own.moved == whole.moved
    assert second.state_dict() == whole.state_dict()
    with pytest.raises(ValueError, match="the state is not that of clustered"):
        first.load_state_dict({})


def test_what_workers_hold() -> None:
    """Section 2: r at home, n·r by slot, n·l by cluster, in partitions."""
    big = codes.clustered(20, 5, 1, variant="random")
    held = {(n, kind): Clustered(big, n, storage=kind).memory for n in (1, 3) for kind in ("cluster", "slot")}
    assert held == {(1, "slot"): 2, (1, "cluster"): 4, (3, "slot"): 6, (3, "cluster"): 12}
    assert all(len(own) == 12 for own in Clustered(big, 3).placement)


def test_it_can_be_elastic() -> None:
    def build(workers: int) -> Clustered:
        return Clustered(codes.clustered(workers, 2 if workers % 2 == 0 else 1, 1, 8, dtype="float64"), 1)

    scheme = schemes.elastic(build, 4, patience=0)
    reports = run(scheme, DelayTable.from_array(np.ones((4, 4))), 3, losses=[(0, 1, 0.5)], restart=100.0)
    assert len(scheme.members) == 3 and reports[-1].exact


def test_repr_and_refusals() -> None:
    made = schemes.clustered(codes.clustered(12, 4, 1), 2, 1.5, rule="rank", storage="slot", slow=3.0, weight=1.0)
    assert repr(made) == (
        "clustered(clustered(workers=12, clusters=4, stragglers=1), candidates=2, deadline=1.5, rule='rank', "
        "storage='slot', slow=3.0, weight=1.0)"
    )
    table = [[0, 1], [1, 0], [0], [1]]
    assert repr(schemes.clustered(codes.clustered(4, 2, 0), table)) == (
        f"clustered(clustered(workers=4, clusters=2, stragglers=0), candidates={table})"
    )
    for wrong, message in (
        ({"rule": "fast"}, "rule='fast' must be one of 'flag', 'rank', 'flag\\+rank'"),
        ({"storage": "disk"}, "storage='disk' must be one of"),
        ({"slow": 0.5}, "slow=0.5 must be 1 or more"),
        ({"weight": 0.0}, "weight=0.0 must be above 0"),
        ({"deadline": -1.0}, "deadline=-1.0 must be a positive number"),
    ):
        with pytest.raises(ValueError, match=message):
            schemes.clustered(codes.clustered(12, 4, 1), **wrong)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 5, 1), r"clusters=5 must divide workers=12: one of \[1, 2, 3, 4, 6, 12\]"),
        ((12, 4, 3), r"stragglers=3 must be an integer, between 0 and 2 \(one of 3 workers in a cluster must answer\)"),
        ((12, 4, 1, 14), "partitions=14 must be a multiple of clusters=4"),
        ((12, 4, 1, 8), "partitions=8 must be an integer, at least 12"),
    ],
)
def test_codes_that_cannot_be_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        codes.clustered(*arguments)


@pytest.mark.parametrize(
    "within",
    [
        codes.fractional_repetition(4, 1),
        codes.cyclic_repetition(4, 2, variant="random", dtype="float64"),
        codes.cyclic_mds(4, 2, dtype="float64"),
        codes.communication_efficient(4, 4, 1, 2, dtype="float64"),
    ],
    ids=lambda code: code.name,
)
def test_no_decoding_with_enough_in_each_cluster_has_a_larger_error_bound(within: codes.GradientCode) -> None:
    """All sets of up to s stragglers in each of two clusters."""
    both = ClusteredCode(within, 2)
    few = [lost for size in range(within.tolerance + 1) for lost in combinations(range(4), size)]
    for first, second in product(few, few):
        lost = {2 * j for j in first} | {2 * j + 1 for j in second}
        decoding = both.decode(set(range(8)) - lost)
        assert decoding.exact and decoding.error <= both.worst.error
    assert set(both.worst.stragglers) == {2 * j + c for j in within.worst.stragglers for c in (0, 1)}


def test_which_code_a_cluster_has() -> None:
    """Repetition where s + 1 divides the size, else a cyclic one of the same load."""
    assert codes.clustered(8, 2, 1).within.fewest == 2 and codes.clustered(8, 2, 2).load == 3
    assert codes.clustered(8, 2, 2, variant="repetition").load == 4
    assert codes.clustered(8, 2, 1, variant="random", dtype="float64").fewest == 6
    with pytest.raises(ValueError, match=r"stragglers=2 must be smaller.* max_error=1\.0e-12"):
        codes.clustered(8, 2, 2, max_error=1e-12)
