"""The tree of master, edge nodes and workers: numbers, chains and shapes, for any nesting."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcode import codes, schemes
from gradcode.schemes.coded import Coded
from gradcode.topology import Branch, shape_of, tree

TOPOLOGIES = st.recursive(
    st.integers(1, 4), lambda inner: st.lists(inner | st.none(), min_size=1, max_size=4), max_leaves=12
)


def count(topology: Any) -> tuple[int, int]:
    """Workers and edge nodes, the way a reader counts them."""
    if not isinstance(topology, list):
        return topology, 0
    below = [(1, 0) if entry is None else count(entry) for entry in topology]
    return sum(workers for workers, _ in below), sum(edges for _, edges in below) + sum(e is not None for e in topology)


@given(TOPOLOGIES)
def test_workers_are_numbered_from_left_to_right_and_parents_before_their_children(topology: Any) -> None:
    branch = Branch.of(topology)
    workers, edges = count(topology)
    assert branch.workers == tuple(range(workers))
    assert [edge.edge for edge in branch.edges] == list(range(edges))
    for edge in branch.edges:
        assert edge.workers == tuple(range(edge.workers[0], edge.workers[-1] + 1))
        assert all(below.edge > edge.edge for below in edge.edges)


@given(TOPOLOGIES)
def test_above_are_the_edge_nodes_that_a_worker_is_below_the_nearest_first(topology: Any) -> None:
    branch = Branch.of(topology)
    chains = [sorted((edge.edge for edge in branch.edges if w in edge.workers), reverse=True) for w in branch.workers]
    assert [list(chain) for chain in branch.above] == chains
    for edge in branch.edges:  # seen from an edge node, the chains end below it
        own = [chain[: chain.index(edge.edge)] for chain in (branch.above[w] for w in edge.workers)]
        assert list(edge.above) == own


@given(TOPOLOGIES)
def test_a_shape_makes_the_same_tree_again(topology: Any) -> None:
    branch = Branch.of(topology)
    assert Branch.of(branch.shape) == branch
    assert Branch.of(branch.shape).shape == branch.shape
    for edge in branch.edges:
        again = Branch.of(edge.shape)
        assert (len(again.workers), len(again.edges)) == (len(edge.workers), len(edge.edges))


@given(TOPOLOGIES)
def test_flat_has_the_workers_and_no_edge_nodes(topology: Any) -> None:
    branch = Branch.of(topology)
    assert branch.flat.children == branch.workers and branch.flat.edges == ()
    assert set(branch.flat.above) == {()}
    assert branch.flat.shape == len(branch.workers)


def test_a_tree_by_hand() -> None:
    branch = Branch.of([2, [1, None, 3], None])
    assert branch.shape == (2, (1, None, 3), None)
    assert branch.workers == tuple(range(8))
    assert [edge.workers for edge in branch.edges] == [(0, 1), (2, 3, 4, 5, 6), (2,), (4, 5, 6)]
    assert branch.above == ((0,), (0,), (2, 1), (1,), (3, 1), (3, 1), (3, 1), ())
    assert branch.edge == -1 and branch.children[2] == 7
    assert Branch.of(3) == Branch((0, 1, 2)) == Branch.of([None, None, None])


NONE = [[], 0, -2, True, 2.5, "three", [2, 0], [2, []], [[2, "x"]], [2.0], None, [[None], [-1]]]


@pytest.mark.parametrize("topology", NONE, ids=repr)
def test_what_is_no_topology_is_refused(topology: Any) -> None:
    with pytest.raises(ValueError, match=r"^topology: .* must be a number of workers from 1, or a list"):
        Branch.of(topology)


def test_the_tree_of_a_cluster() -> None:
    assert tree(4, None) == Branch.of(4)
    assert tree(None, [2, 2]) == tree(4, [2, 2]) == Branch.of([2, 2])
    with pytest.raises(ValueError, match="workers=5 must be 4, as in topology="):
        tree(5, [2, 2])
    with pytest.raises(ValueError, match="workers=None must be given, or a topology"):
        tree(None, None)
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        tree(0, None)


def test_the_shape_that_a_scheme_is_made_for() -> None:
    assert shape_of(schemes.uncoded(5)) == 5
    assert shape_of(schemes.hierarchical(codes.hierarchical([3, 3, 6], 1, 2))) == (3, 3, 6)
    assert shape_of(schemes.greedy([2, 4], 1, 0)) == (2, 4)
    inner = Coded(codes.uncoded(2, partitions=2), names=[0, 1])
    above = Coded(codes.uncoded(1, partitions=2), names=[0, 1], inner=[inner])
    assert shape_of(Coded(codes.uncoded(2, partitions=4), inner=[above, None])) == ((2,), None)


def test_children_have_the_names_that_people_call_them_by() -> None:
    assert Branch.of([2, None, [1, 1]]).names == ("edge node 0", "worker 2", "edge node 1")
    assert Branch.of(2).names == ("worker 0", "worker 1")
