"""Candidate clusters, and how stragglers are spread over them: against the exact optimum, and by hand."""

from __future__ import annotations

from itertools import permutations, product
from typing import Any

import networkx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gradcode.schemes.clustered import Regrouping, shifted
from gradcode.schemes.clustered.candidates import table_of

BY_HAND = [[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 3], [2, 0], [3, 1], [0, 3], [1, 0], [2, 1], [3, 2]]
"""dynamic_clustering.md 9.1."""


def flags(workers: int, stragglers: Any) -> np.ndarray:
    return np.isin(np.arange(workers), list(stragglers))


def counts(rows: np.ndarray, stragglers: np.ndarray, clusters: int) -> list[int]:
    return np.bincount(rows[stragglers] % clusters, minlength=clusters).tolist()


def squares(rows: np.ndarray, stragglers: np.ndarray, clusters: int) -> int:
    return sum(count**2 for count in counts(rows, stragglers, clusters))


def cheapest(table: list[list[int]], stragglers: np.ndarray, clusters: int) -> int:
    """The smallest sum of squares, by the flow of dynamic_clustering.md 4.2: unit arcs of costs 1, 3, 5, …"""
    workers, size = len(table), len(table) // clusters
    graph = networkx.DiGraph()
    graph.add_node("out", demand=workers)
    for cluster in range(clusters):
        graph.add_edge(("cluster", cluster), "out", capacity=size)
        for step in range(size):
            graph.add_edge(("entry", cluster), ("step", cluster, step), capacity=1, weight=2 * step + 1)
            graph.add_edge(("step", cluster, step), ("cluster", cluster), capacity=1)
    for worker, own in enumerate(table):
        graph.add_node(worker, demand=-1)
        for cluster in own:
            graph.add_edge(worker, ("entry" if stragglers[worker] else "cluster", cluster), capacity=1)
    return int(networkx.min_cost_flow_cost(graph))


@pytest.mark.parametrize(("workers", "clusters"), [(8, 4), (12, 4), (20, 5), (6, 6), (9, 3)])
def test_candidates_are_spread_evenly(workers: int, clusters: int) -> None:
    """Section 3: n different ones, each cluster for n·l workers, within a row and layer a circular shift."""
    size = workers // clusters
    for number in range(1, clusters + 1):
        table = shifted(workers, clusters, number)
        assert table.shape == (workers, number) and (table[:, 0] == np.arange(workers) % clusters).all()
        assert all(len(set(own)) == number for own in table.tolist())
        assert np.bincount(table.ravel()).tolist() == [number * size] * clusters
        shifts = (table.reshape(size, clusters, number) - np.arange(clusters)[:, None]) % clusters
        assert (shifts == shifts[:, :1]).all()
    if size > 1 and clusters > 2:
        pairs = shifted(workers, clusters, 2).reshape(size, clusters, 2)
        assert (pairs[0] != pairs[1]).any()  # those that share a home do not share all alternatives


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        (0, "candidates=0 must be an integer, between 1 and 4"),
        (5, r"candidates=5 must be an integer, between 1 and 4 \(there are 4 clusters\)"),
        ([[0]] * 3, "must be a number, or one list of clusters for each of 12 workers"),
        ([[0, 0], *BY_HAND[1:]], r"candidates\[0\]=\[0, 0\] must be different clusters from 0 to 3"),
        ([*BY_HAND[:-1], [2, 3]], r"candidates\[11\]=\[2, 3\].* the first of them the worker's home, 3"),
        ([[0, 4], *BY_HAND[1:]], r"candidates\[0\]=\[0, 4\]"),
    ],
)
def test_wrong_candidates_are_refused(given_: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table_of(given_, 12, 4)


def test_regrouping_by_hand() -> None:
    """Section 9.1: three stragglers at home in cluster 0; the three workers it names make room."""
    assert shifted(12, 4, 2).tolist() == BY_HAND
    assert table_of(None, 12, 4) == shifted(12, 4, 3).tolist() and table_of(None, 4, 2) == [[0, 1], [1, 0]] * 2
    stragglers = flags(12, {0, 4, 8})
    rows = Regrouping(BY_HAND, 4).rows(stragglers)
    members = [np.flatnonzero(rows % 4 == cluster).tolist() for cluster in range(4)]
    assert members == [[0, 3, 6], [1, 5, 9], [2, 4, 10], [7, 8, 11]]
    assert counts(rows, stragglers, 4) == [1, 0, 1, 1]
    assert rows[[0, 3, 6]].tolist() == [0, 4, 8]  # members take the slots in the order of their indices


def test_a_straggler_that_would_have_to_move_has_all_placed_anew() -> None:
    """Section 11: the listing ends at (2, 0, 2, 1), a sum of 9 where 7 is possible."""
    stragglers = flags(8, {1, 2, 4, 5, 6})
    regrouping = Regrouping(shifted(8, 4, 2).tolist(), 4)
    assert sorted(counts(listed(regrouping, stragglers), stragglers, 4)) == [0, 1, 2, 2]
    assert squares(regrouping.rows(stragglers), stragglers, 4) == 7


def listed(regrouping: Regrouping, stragglers: np.ndarray) -> np.ndarray:
    """What section 4.1 gives as it is listed: step 5 moves stragglers where it must."""
    slow = np.flatnonzero(stragglers).tolist()
    placement = regrouping.placement()
    placement.fill(slow, evenly=True)
    placement.improve()
    for worker in np.flatnonzero(~stragglers).tolist():
        assert placement.fill([worker], fixed=slow) or placement.fill([worker])
    return regrouping.numbered(placement.place)


@pytest.mark.parametrize(("candidates", "share"), [(2, 0.026), (3, 0.0003)])
def test_how_often_the_listing_is_not_optimal(candidates: int, share: float) -> None:
    """Section 11's shares, K = 20, P = 5, half of them straggling, from 4000 patterns there and 2000 here.

    Two binomial shares differ by less than 4·√(share(1 − share)(1/4000 + 1/2000)).
    """
    table, patterns = shifted(20, 5, candidates).tolist(), 2000
    regrouping, rng, worse = Regrouping(table, 5), np.random.default_rng(1), 0
    for _ in range(patterns):
        stragglers = rng.random(20) < 0.5
        found, best = listed(regrouping, stragglers), regrouping.rows(stragglers)
        worse += squares(found, stragglers, 5) > squares(best, stragglers, 5)
    assert abs(worse / patterns - share) <= 4 * np.sqrt(share * (1 - share) * (1 / 4000 + 1 / patterns))
    assert worse or candidates == 3


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[list[int]], int, np.ndarray]:
    """Any table of candidates with the home first, and any stragglers."""
    clusters, size = draw(st.integers(1, 5)), draw(st.integers(1, 4))
    everyone = range(clusters)
    table = []
    for worker in range(clusters * size):
        others = [cluster for cluster in everyone if cluster != worker % clusters]
        table.append([worker % clusters, *draw(st.lists(st.sampled_from(others), unique=True))] if others else [0])
    slow = draw(st.lists(st.booleans(), min_size=len(table), max_size=len(table)))
    return table, clusters, np.array(slow)


@settings(max_examples=150)
@given(problems(), st.sampled_from(["flag", "flag+rank"]), st.integers(0, 9))
def test_no_assignment_spreads_stragglers_more_evenly(
    problem: tuple[list[list[int]], int, np.ndarray], rule: str, seed: int
) -> None:
    table, clusters, stragglers = problem
    seconds = np.random.default_rng(seed).permutation(len(table)) + 1.0 if rule == "flag+rank" else None
    rows = Regrouping(table, clusters).rows(stragglers, seconds)
    assert sorted(rows.tolist()) == list(range(len(table)))
    assert all(row % clusters in own for row, own in zip(rows.tolist(), table, strict=True))
    assert squares(rows, stragglers, clusters) == cheapest(table, stragglers, clusters)


@settings(max_examples=60)
@given(st.integers(1, 4), st.lists(st.booleans(), min_size=8, max_size=8), st.booleans())
def test_fixed_slots_are_optimal_too(candidates: int, slow: list[bool], ranked: bool) -> None:
    """Against all pairs of permutations of the two slots' workers."""
    table, stragglers = shifted(8, 4, candidates).tolist(), np.array(slow)
    seconds = np.arange(8.0) if ranked else None
    rows = Regrouping(table, 4, "slot").rows(stragglers, seconds)
    assert sorted(rows.tolist()) == list(range(8)) and (rows // 4 == np.arange(8) // 4).all()
    assert all(row % 4 in own for row, own in zip(rows.tolist(), table, strict=True))
    allowed = [
        [p for p in permutations(range(4)) if all(p[i] in table[4 * slot + i] for i in range(4))] for slot in range(2)
    ]
    best = min(squares(np.array([*one, *other]), stragglers, 4) for one, other in product(*allowed))
    assert squares(rows, stragglers, 4) == best


@pytest.mark.parametrize("storage", ["cluster", "slot"])
def test_everybody_stays_at_home_without_stragglers_or_candidates(storage: Any) -> None:
    for candidates in (1, 3):
        regrouping = Regrouping(shifted(12, 4, candidates).tolist(), 4, storage)
        assert regrouping.rows(np.zeros(12)).tolist() == list(range(12))
    slow = np.arange(12) % 4 == 0
    for seconds in (None, np.arange(12.0)):
        assert Regrouping(shifted(12, 4, 1).tolist(), 4, storage).rows(slow, seconds).tolist() == list(range(12))


@pytest.mark.parametrize("seed", range(20))
def test_the_slowest_by_rank_go_to_different_clusters(seed: int) -> None:
    """Section 4.3, all compatible: of the P slowest one each, of the next P likewise."""
    seconds = np.random.default_rng(seed).exponential(1.0, 20)
    clusters = Regrouping(shifted(20, 5, 5).tolist(), 5).rows(np.zeros(20), seconds) % 5
    for own in np.argsort(-seconds).reshape(4, 5):
        assert sorted(clusters[own].tolist()) == [0, 1, 2, 3, 4]


def test_by_flag_and_rank_the_others_fill_up_from_the_slowest() -> None:
    """Stragglers 0 and 3 share home 0: one moves. Then 5 and 4, the slowest, into the smallest clusters."""
    table = shifted(6, 3, 3).tolist()
    rows = Regrouping(table, 3).rows(flags(6, {0, 3}), np.array([9.0, 1.0, 2.0, 9.0, 3.0, 4.0]))
    # 0 -> 0, 3 -> 1; sizes (1, 1, 0): 5 -> 2; (1, 1, 1): 4 -> 0; (2, 1, 1): 2 -> 1; 1 -> 2.
    assert (rows % 3).tolist() == [0, 2, 1, 1, 0, 2]


def test_an_unknown_storage_is_refused() -> None:
    with pytest.raises(ValueError, match="storage='worker' must be one of 'cluster', 'slot'"):
        Regrouping(BY_HAND, 4, "worker")  # type: ignore[arg-type]
