"""The choice of both tolerances: JNCSS, which replaces times by their means, and the choice by the true expectation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from gradcode.planning.hierarchical.expected import expected_time
from gradcode.planning.hierarchical.sampling import draw, means, times_of
from gradcode.planning.hierarchical.system import Floats, System, Tail

if TYPE_CHECKING:
    from gradcode.codes.hierarchical import HierarchicalCode
    from gradcode.protocol import Scheme

Objective = Literal["mean", "exact"]

_FINALISTS = 8
_ROUND = 3e8  # times drawn in a round of the screening
_DRAWS = (16, 4096)  # fewest and most draws of a round


@dataclass(frozen=True, eq=False)
class Plan:
    """A choice of tolerances, and what it was chosen from.

    ``table`` (n, min m_i) has a value for each (s_e, s_w), NaN where F1 to F3 forbid it: with ``objective="mean"`` the
    objective of JNCSS, with ``"exact"`` E[T], integrated where ``exact`` is true and estimated from draws elsewhere.
    ``straggling_workers[i]`` are the workers of edge node i, counted from 0 there, that the means say it will not wait
    for; ``straggling_edges`` the edge nodes that the master will not wait for. ``bound`` is that of
    :func:`error_bound` at the chosen load, in seconds.
    """

    system: System = field(repr=False)
    objective: Objective
    tail: Tail
    edge_stragglers: int
    worker_stragglers: int
    load: int
    value: float
    table: Floats = field(repr=False)
    exact: NDArray[np.bool_] = field(repr=False)
    straggling_edges: tuple[int, ...]
    straggling_workers: tuple[tuple[int, ...], ...] = field(repr=False)
    bound: float

    @property
    def choice(self) -> tuple[int, int]:
        """(s_e, s_w)."""
        return self.edge_stragglers, self.worker_stragglers

    def expected_time(self, edge_stragglers: int | None = None, worker_stragglers: int | None = None) -> float:
        """E[T] in seconds: of the choice, or of another pair; from the table where that has it.

        Raises:
            ValueError: the pair is not feasible, and which one is.
        """
        s_e = self.edge_stragglers if edge_stragglers is None else edge_stragglers
        s_w = self.worker_stragglers if worker_stragglers is None else worker_stragglers
        self.system.load(s_e, s_w)
        if self.exact[s_e, s_w]:
            return float(self.table[s_e, s_w])
        return expected_time(self.system, s_e, s_w, self.tail)

    def code(self, **options: Any) -> HierarchicalCode:
        """The hierarchical code for the choice, over all edge nodes and workers.

        Args:
            options: of :func:`gradcode.codes.hierarchical`, such as ``dtype="float64"``.

        Raises:
            ValueError: the code amplifies rounding too much for its dtype; says which dtype or which nearby choice
                holds. The planner looks at times only.
        """
        from gradcode import codes

        sizes = self.system.workers_per_edge
        return codes.hierarchical(sizes, *self.choice, partitions=self.system.partitions, **options)

    def scheme(self, **options: Any) -> Scheme:
        """The scheme that runs :meth:`code`, with the same options and errors."""
        from gradcode import schemes

        return schemes.hierarchical(self.code(**options))


def plan(
    system: System, objective: Objective = "mean", tail: Tail = "fixed", rng: np.random.Generator | int = 0
) -> Plan:
    """Chooses how many stragglers to tolerate at each layer.

    ``"mean"`` is JNCSS (spec, section 5; RECONSTRUCTED): every random time is replaced by its mean, and all feasible
    pairs are compared. It cannot see variance: on a homogeneous system it always returns (0, 0), though coding may
    help. ``"exact"`` (OURS) compares true expectations: all pairs are screened on common draws, the better part of
    them on more and more, and the last few, with (0, 0) and the choice of JNCSS among them, are integrated.

    Args:
        system: the machines.
        objective: ``"mean"`` or ``"exact"``.
        tail: whether the random part of computing is ``"fixed"`` or grows with the ``"load"``.
        rng: for the screening: a generator, or the seed of one.

    Raises:
        ValueError: no pair is feasible, and which number of partitions would help; an unknown objective or tail.
    """
    if objective not in ("mean", "exact"):
        raise ValueError(f"objective={objective!r} must be 'mean' or 'exact'")
    choices = np.argwhere(system.feasible)
    if not len(choices):
        system.load(0, 0)  # raises, for nothing is feasible
    table = np.full(system.feasible.shape, np.nan)
    exact = np.zeros(table.shape, dtype=bool)
    values = times_of(system, means(system, tail), choices)[:, 0]
    best = int(values.argmin())  # the first of equals, in the order of (s_e, s_w)
    if objective == "exact":
        values, finalists = _screened(system, tail, choices, best, np.random.default_rng(rng))
        for number in finalists:
            values[number] = expected_time(system, int(choices[number, 0]), int(choices[number, 1]), tail)
        exact[tuple(choices[finalists].T)] = True
        best = int(finalists[values[finalists].argmin()])
    table[tuple(choices.T)] = values
    s_e, s_w = map(int, choices[best])
    load = system.load(s_e, s_w)
    edges, workers = _predicted(system, s_e, s_w, load, tail)
    return Plan(
        system=system,
        objective=objective,
        tail=tail,
        edge_stragglers=s_e,
        worker_stragglers=s_w,
        load=load,
        value=float(values[best]),
        table=table,
        exact=exact,
        straggling_edges=edges,
        straggling_workers=workers,
        bound=error_bound(system, load, tail),
    )


def error_bound(system: System, load: float, tail: Tail = "fixed") -> float:
    """ε ≥ |E[T] − the objective of JNCSS| at that load, for every pair: √ΣVar T_ij + √ΣVar N_i·τ_i.

    So the choice of JNCSS is worse than the best pair by at most the sum of both pairs' ε (spec, 5.1; RECONSTRUCTED).
    It is loose.
    """
    own = system.columns
    random = (load if tail == "load" else 1) / own.rate
    workers = random**2 + own.attempt**2 * own.failure / (1 - own.failure) ** 2
    links = own.link_attempt**2 * own.link_failure / (1 - own.link_failure) ** 2
    return float(np.sqrt(workers.sum()) + np.sqrt(links.sum()))


def _screened(
    system: System, tail: Tail, choices: NDArray[np.intp], least: int, rng: np.random.Generator
) -> tuple[Floats, NDArray[np.intp]]:
    """E[T] of all choices from draws, and the numbers of the few to integrate.

    Every round has the best quarter of the round before, on new draws, as many as the work of a round allows. All that
    are left share all draws, so what they have in common does not blur their order.
    """
    sums, total = np.zeros(len(choices)), np.zeros(len(choices))
    left = np.arange(len(choices))
    while True:
        loads = len(np.unique((choices[left] + 1).prod(axis=1)))
        number = int(np.clip(_ROUND / (system.columns.compute.size * loads), *_DRAWS))
        sums[left] += _summed(system, tail, choices[left], number, rng)
        total[left] += number
        order = left[np.argsort(sums[left] / total[left], kind="stable")]
        left = np.sort(order[: max(len(left) // 4, _FINALISTS)])
        if len(left) <= _FINALISTS:
            break
    finalists = np.union1d(left, [least])
    if (choices[0] == 0).all():
        finalists = np.union1d(finalists, [0])
    return sums / total, finalists


def _summed(system: System, tail: Tail, choices: NDArray[np.intp], number: int, rng: np.random.Generator) -> Floats:
    """The sum of the times of so many draws, (choices,), drawn in pieces that stay in memory's reach."""
    size = max((1 << 20) // system.columns.compute.size, 1)
    sums = np.zeros(len(choices))
    for begin in range(0, number, size):
        sums += times_of(system, draw(system, tail, min(size, number - begin), rng), choices).sum(axis=1)
    return sums


def _predicted(
    system: System, s_e: int, s_w: int, load: int, tail: Tail
) -> tuple[tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """The edge nodes, and the workers of each, with the largest means; of equals the later ones."""
    mean = means(system, tail)
    times = (mean.slope * load + mean.offset)[0]
    ends, workers = np.zeros(len(system.edges)), []
    for i, m in enumerate(system.workers_per_edge):
        order = np.argsort(times[i, :m], kind="stable")
        ends[i] = times[i, order[m - 1 - s_w]] + mean.link[0, i]
        workers.append(tuple(sorted(map(int, order[m - s_w :]))))
    edges = np.argsort(ends, kind="stable")[len(ends) - s_e :]
    return tuple(sorted(map(int, edges))), tuple(workers)
