"""What is known of the machines, and which tolerances they allow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gradcode.delays.bounds import count, nonnegative, positive, probability, require

Floats = NDArray[np.float64]
Tail = Literal["fixed", "load"]


@dataclass(frozen=True)
class Worker:
    """A worker and its link to the edge node: T = compute·D + X + N·attempt for D partitions (spec, section 4).

    X is exponential: with ``tail="fixed"`` of this rate whatever D, with ``tail="load"`` of rate / D. N counts the
    attempts until one does not fail. The paper-side letters are c, γ, τ and p.

    Args:
        compute: seconds per partition that pass in any case, ≥ 0.
        rate: of the exponential part, per second, > 0; infinite: no such part.
        attempt: seconds of one attempt to send the answer, ≥ 0.
        failure: probability that an attempt fails, in [0, 1).

    Raises:
        ValueError: names the argument, its value and what it must satisfy.
    """

    compute: float
    rate: float = math.inf
    attempt: float = 0.0
    failure: float = 0.0

    def __post_init__(self) -> None:
        nonnegative("compute", self.compute)
        positive("rate", self.rate, finite=False)
        nonnegative("attempt", self.attempt)
        probability("failure", self.failure, certain=False)


@dataclass(frozen=True)
class Edge:
    """An edge node: its workers, and its link to the master (paper-side: τ_i, p_i).

    Args:
        workers: at least one.
        attempt: seconds of one attempt to send the sum to the master, ≥ 0.
        failure: probability that an attempt fails, in [0, 1).

    Raises:
        ValueError: names the argument, its value and what it must satisfy.
    """

    workers: tuple[Worker, ...]
    attempt: float = 0.0
    failure: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "workers", tuple(self.workers))
        require(len(self.workers) > 0, "workers", self.workers, "have at least one worker")
        nonnegative("attempt", self.attempt)
        probability("failure", self.failure, certain=False)


@dataclass(frozen=True, eq=False)
class Columns:
    """The parameters as arrays: (n, m) of workers, (n,) of links; m is that of the largest edge.

    A smaller edge is filled up with workers that answer at once: they change no "all but s_w have answered".
    """

    compute: Floats
    rate: Floats
    attempt: Floats
    failure: Floats
    link_attempt: Floats
    link_failure: Floats


@dataclass(frozen=True)
class System:
    """Edge nodes with their workers, and the number of partitions.

    Nothing here depends on the unit of time, as long as it is one; elsewhere in gradcode it is the second.

    Args:
        edges: the edge nodes, at least one.
        partitions: K ≥ 1. A multiple of the number of workers allows the most choices (F3 then always holds).

    Raises:
        ValueError: names the argument, its value and what it must satisfy.
    """

    edges: tuple[Edge, ...]
    partitions: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "edges", tuple(self.edges))
        require(len(self.edges) > 0, "edges", self.edges, "have at least one edge node")
        object.__setattr__(self, "partitions", count("partitions", self.partitions, 1))

    @classmethod
    def homogeneous(
        cls,
        edges: int,
        workers: int,
        worker: Worker,
        attempt: float = 0.0,
        failure: float = 0.0,
        partitions: int | None = None,
    ) -> System:
        """So many equal edge nodes with so many equal workers each.

        Args:
            edges: number of edge nodes, ≥ 1.
            workers: of each, ≥ 1.
            worker: all of them.
            attempt, failure: of the links to the master.
            partitions: K; as many as workers by default.
        """
        edges, workers = count("edges", edges, 1), count("workers", workers, 1)
        edge = Edge((worker,) * workers, attempt, failure)
        return cls((edge,) * edges, edges * workers if partitions is None else partitions)

    @classmethod
    def from_toml(cls, path: Path | str) -> System:
        """The system that a TOML file describes; its keys are in docs/planning.md.

        Raises:
            ConfigError: names the file, the key, its value and what is allowed.
        """
        from gradcode.planning.hierarchical.file import read

        return read(Path(path))

    @cached_property
    def workers_per_edge(self) -> tuple[int, ...]:
        """m_i, (n,)."""
        return tuple(len(edge.workers) for edge in self.edges)

    @cached_property
    def workers(self) -> int:
        """M, all workers."""
        return sum(self.workers_per_edge)

    @cached_property
    def columns(self) -> Columns:
        """The parameters as arrays."""
        return columns_of(self.edges)

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Which (s_e, s_w) are possible, (n, min m_i): F1 is the shape, F2 and F3 the entries (spec, 2.1)."""
        m = np.array(self.workers_per_edge, dtype=object)  # of Python's integers: no product overflows
        outer = np.arange(1, len(self.edges) + 1, dtype=object)
        inner = np.arange(1, int(min(m)) + 1, dtype=object)
        fits = (outer * max(m) <= self.workers).astype(bool)
        whole = (self.partitions * outer[:, None] * m % self.workers == 0).astype(bool).all(axis=1)
        even = (self.partitions * outer[:, None] * inner % self.workers == 0).astype(bool)
        return np.asarray(even & (fits & whole)[:, None])

    def load(self, edge_stragglers: int, worker_stragglers: int) -> int:
        """D = K(s_e + 1)(s_w + 1) / M, the partitions of every worker.

        Raises:
            ValueError: the choice is not feasible; says which condition fails (F1 to F3) and names the nearest choice
                that is.
        """
        given = f"edge_stragglers={edge_stragglers}, worker_stragglers={worker_stragglers}"
        s_e, s_w = count("edge_stragglers", edge_stragglers), count("worker_stragglers", worker_stragglers)
        if reason := self._obstacle(s_e, s_w):
            raise ValueError(f"{given} is not feasible: {reason}; {self._nearest(s_e, s_w)}")
        return self.partitions * (s_e + 1) * (s_w + 1) // self.workers

    def _obstacle(self, s_e: int, s_w: int) -> str:
        """Which condition fails, and why; empty for a feasible choice."""
        n, m, K, M = len(self.edges), self.workers_per_edge, self.partitions, self.workers
        if s_e > n - 1:
            return f"F1, edge_stragglers must be at most {n - 1}, for one of {n} edge nodes must answer"
        if s_w > min(m) - 1:
            least = m.index(min(m))
            return (
                f"F1, worker_stragglers must be at most {min(m) - 1}, for one of the {min(m)} workers of edge node "
                f"{least} must answer"
            )
        if (s_e + 1) * max(m) > M:
            return (
                f"F2, edge node {m.index(max(m))} has {max(m)} of {M} workers, and {s_e + 1} times that share of the "
                f"partitions is more than all"
            )
        for i, own in enumerate(m):
            if K * (s_e + 1) * own % M:
                share = f"edge node {i} would hold K(s_e+1)m_i/M = {K}·{s_e + 1}·{own}/{M} partitions"
                return f"F3, {share}, which is no integer"
        if K * (s_e + 1) * (s_w + 1) % M:
            return (
                f"F3, the load would be K(s_e+1)(s_w+1)/M = {K}·{s_e + 1}·{s_w + 1}/{M} partitions, which is no integer"
            )
        return ""

    def _nearest(self, s_e: int, s_w: int) -> str:
        """The nearest feasible choice, in words; of equally near ones the first."""
        multiple = f"a multiple of {self.workers} partitions, one or more per worker, always satisfies F3"
        pairs = np.argwhere(self.feasible)
        if not len(pairs):
            return f"no choice is feasible with partitions={self.partitions}: take {multiple}"
        a, b = pairs[np.abs(pairs - (s_e, s_w)).sum(axis=1).argmin()]
        nearest = f"the nearest feasible choice is edge_stragglers={a}, worker_stragglers={b}"
        return f"{nearest}; {multiple}" if self.partitions % self.workers else nearest


def columns_of(edges: tuple[Edge, ...]) -> Columns:
    """The parameters of these edges as arrays."""
    most = max(len(edge.workers) for edge in edges)
    table = np.zeros((4, len(edges), most))
    table[1] = math.inf
    for i, edge in enumerate(edges):
        own = [(worker.compute, worker.rate, worker.attempt, worker.failure) for worker in edge.workers]
        table[:, i, : len(own)] = np.transpose(own)
    links = np.array([(edge.attempt, edge.failure) for edge in edges], dtype=float).T
    return Columns(*table, *links)


def homogeneous_system() -> System:
    """SYS-H of the spec's section 7, in seconds: 4 edge nodes × 10 equal workers. Its numbers are OURS."""
    return System.homogeneous(4, 10, Worker(compute=0.010, rate=20.0, attempt=0.050, failure=0.1), 0.100, 0.1)


def two_types_system() -> System:
    """SYS-T of the spec's section 7, in seconds: under each of 4 edge nodes 8 fast and 2 slow workers. OURS."""
    fast = Worker(compute=0.010, rate=100.0, attempt=0.050, failure=0.1)
    slow = Worker(compute=0.050, rate=20.0, attempt=0.050, failure=0.5)
    workers = (fast,) * 8 + (slow,) * 2
    return System((Edge(workers, 0.100, 0.1),) * 3 + (Edge(workers, 0.500, 0.2),), 40)
