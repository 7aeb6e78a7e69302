"""Who is below whom: a master, edge nodes, workers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gradcode.protocol import Scheme

Shape = int | tuple["Shape | None", ...]
"""A number of workers, or what is below each child; None: that child is a worker."""


@dataclass(frozen=True)
class Branch:
    """A master, or an edge node, and its children.

    Workers are numbered from left to right over the whole tree, edge nodes from 0 with parents before their children.

    Args:
        children: a worker's number, or the branch of an edge node.
        edge: this edge node's number; −1: the master.
    """

    children: tuple[int | Branch, ...]
    edge: int = -1

    @classmethod
    def of(cls, topology: int | Sequence[Any]) -> Branch:
        """The tree that a user writes as a number of workers, or a list with one entry per edge node.

        An entry is an edge node's number of workers, a list again, or None for a worker without edge node.

        Raises:
            ValueError: an entry is something else, or there is nobody.

        >>> Branch.of([2, [1, 3]]).shape
        (2, (1, 3))
        """
        return _Numbering().branch(topology, -1)

    @cached_property
    def workers(self) -> tuple[int, ...]:
        """The numbers of all workers below, from left to right."""
        return tuple(
            worker for child in self.children for worker in (child.workers if isinstance(child, Branch) else (child,))
        )

    @cached_property
    def edges(self) -> tuple[Branch, ...]:
        """All edge nodes below, parents before their children."""
        return tuple(edge for child in self.children if isinstance(child, Branch) for edge in (child, *child.edges))

    @cached_property
    def shape(self) -> Shape:
        """What is below: a number of workers, or the shape of each child."""
        if not self.edges:
            return len(self.children)
        return tuple(child.shape if isinstance(child, Branch) else None for child in self.children)

    @cached_property
    def above(self) -> tuple[tuple[int, ...], ...]:
        """For each worker, from left to right, the edge nodes between it and this master, the nearest first."""
        return tuple(self._chains(()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """What people call the children."""
        return tuple(
            f"edge node {child.edge}" if isinstance(child, Branch) else f"worker {child}" for child in self.children
        )

    @cached_property
    def flat(self) -> Branch:
        """The same workers without the edge nodes between."""
        return Branch(self.workers, self.edge)

    def _chains(self, chain: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        for child in self.children:
            if isinstance(child, Branch):
                yield from child._chains((child.edge, *chain))
            else:
                yield chain


class _Numbering:
    def __init__(self) -> None:
        self._workers = self._edges = 0

    def branch(self, topology: int | Sequence[Any], edge: int) -> Branch:
        if isinstance(topology, list | tuple) and topology:
            return Branch(tuple(self._child(entry) for entry in topology), edge)
        if isinstance(topology, int) and not isinstance(topology, bool) and topology >= 1:
            first, self._workers = self._workers, self._workers + topology
            return Branch(tuple(range(first, self._workers)), edge)
        raise ValueError(
            f"topology: {topology!r} must be a number of workers from 1, or a list with what is below each edge node, "
            f"such as [3, 3, 4] for three edge nodes"
        )

    def _child(self, entry: Any) -> int | Branch:
        if entry is None:
            self._workers += 1
            return self._workers - 1
        self._edges += 1
        return self.branch(entry, self._edges - 1)


def shape_of(scheme: Scheme) -> Shape:
    """The shape of the tree that a scheme is made for."""
    if not any(scheme.inner):
        return scheme.workers
    return tuple(None if inner is None else shape_of(inner) for inner in scheme.inner)


def tree(workers: int | None, topology: int | Sequence[Any] | None) -> Branch:
    """The tree of a cluster, from what its user gave.

    Raises:
        ValueError: neither is given, or they contradict each other.
    """
    if topology is None:
        if workers is None:
            raise ValueError("workers=None must be given, or a topology such as [3, 3, 4] for three edge nodes")
        if workers < 1:
            raise ValueError(f"workers={workers} must be at least 1")
        return Branch.of(workers)
    branch = Branch.of(topology)
    if workers is not None and workers != len(branch.workers):
        raise ValueError(f"workers={workers} must be {len(branch.workers)}, as in topology={topology}, or be left out")
    return branch
