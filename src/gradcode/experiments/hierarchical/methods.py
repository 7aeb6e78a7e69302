"""The methods compared, on which systems, and how long they take there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from gradcode import codes, schemes
from gradcode.delays import Delays, Deterministic, Link, ShiftedExponential
from gradcode.delays.law import Law
from gradcode.delays.table import Relay, Rows
from gradcode.planning import hierarchical as planning
from gradcode.planning.hierarchical import Objective, Plan, System, Tail
from gradcode.protocol import Floats, Scheme
from gradcode.topology import Branch

SYSTEMS: dict[str, Callable[[], System]] = {
    "SYS-H": planning.homogeneous_system,
    "SYS-T": planning.two_types_system,
}
TAILS: tuple[Tail, ...] = ("fixed", "load")
FIXED = (1, 1)
"""(s_e, s_w) of the schemes whose tolerance is given by hand."""
MS = 1e3  # milliseconds per second


class Setting(NamedTuple):
    """A system of the spec's section 7, and how the random part of computing grows."""

    system: str
    tail: Tail

    def __str__(self) -> str:
        return f"{self.system} {self.tail}"


SETTINGS = [Setting(system, tail) for system in SYSTEMS for tail in TAILS]


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        name: of the row; working names, see the module's source.
        expected: milliseconds per iteration in each of ``SETTINGS`` (OURS).
        integrated: (system, tail) -> E[T] in seconds.
        scheme: (system, tail, variant of its codes) -> what runs it.
        relay: how its messages pass edge nodes that only pass them on; None: its edge nodes decode.
        sampled: standard error of the expected number in milliseconds, where it is from draws.
    """

    name: str
    expected: tuple[float, float, float, float]
    integrated: Callable[[System, Tail], float]
    scheme: Callable[[System, Tail, str], Scheme]
    relay: Relay | None = None
    sampled: float = 0.0


@lru_cache
def chosen(system: System, objective: Objective, tail: Tail) -> Plan:
    """The plan for a system, made once."""
    return planning.plan(system, objective, tail)


def layered(system: System, edge_stragglers: int, worker_stragglers: int, variant: str) -> Scheme:
    """Two layers of coding over all edge nodes and workers.

    The model waits for exactly m_i − s_w workers and n − s_e edge nodes. That is what ``variant="lagrange"`` needs;
    "auto" takes repetition where it can, which can often be decoded earlier.
    """
    # Trainings here are in float64, which forgives any amplification that occurs.
    code = codes.hierarchical(
        system.workers_per_edge,
        edge_stragglers,
        worker_stragglers,
        partitions=system.partitions,
        variant=variant,
        dtype="float64",
        max_error=float("inf"),
    )
    return schemes.hierarchical(code)


def flat(system: System, variant: str) -> Scheme:
    """A code over all workers that survives the patterns of ``FIXED``; edge nodes only pass messages on.

    The MDS code waits for exactly N − s messages, as the model does. Its amplification, up to 4e7, is for float64 only.
    """
    s = codes.hierarchical(system.workers_per_edge, *FIXED, partitions=system.partitions).tradeoff().flat_stragglers
    if variant == "auto":
        return schemes.coded(codes.fractional_repetition(system.workers, s, partitions=system.partitions))
    exact = codes.cyclic_mds(system.workers, s, partitions=system.partitions, dtype="float64", max_error=float("inf"))
    return schemes.coded(exact)


def by_hand(name: planning.Baseline, relay: planning.Relay = "independent") -> Callable[[System, Tail], float]:
    """E[T] of a baseline at the tolerances of ``FIXED``."""
    return lambda system, tail: planning.baseline_time(system, name, *FIXED, tail, relay)


def with_tolerance(edge_stragglers: int, worker_stragglers: int) -> Callable[[System, Tail, str], Scheme]:
    """Two layers at given tolerances."""
    return lambda system, tail, variant: layered(system, edge_stragglers, worker_stragglers, variant)


def as_planned(objective: Objective) -> Callable[[System, Tail, str], Scheme]:
    """Two layers at the tolerances of a plan."""
    return lambda system, tail, variant: layered(system, *chosen(system, objective, tail).choice, variant)


METHODS = (
    Method("Uncoded", (405.98, 405.98, 872.22, 872.22), by_hand("uncoded"), with_tolerance(0, 0)),
    Method(
        "Greedy (1,1), inexact",
        (284.45, 284.45, 320.19, 320.19),
        by_hand("greedy"),
        lambda system, tail, variant: schemes.greedy(system.workers_per_edge, *FIXED, partitions=system.partitions),
    ),
    Method("CGC-W (s_w=1)", (343.13, 470.60, 830.36, 862.19), by_hand("cgc_w"), with_tolerance(0, FIXED[1])),
    Method("CGC-E (s_e=1)", (349.97, 504.69, 490.43, 585.48), by_hand("cgc_e"), with_tolerance(FIXED[0], 0)),
    Method(
        "Standard GC (s=13), independent relay",
        (366.62, 1076.72, 697.74, 806.87),
        by_hand("standard"),
        lambda system, tail, variant: flat(system, variant),
        "independent",
    ),
    Method(
        "Standard GC (s=13), shared relay",
        (369.67, 1076.34, 742.12, 866.63),
        by_hand("standard", "shared"),
        lambda system, tail, variant: flat(system, variant),
        "shared",
        0.30,
    ),
    Method("HGC (1,1)", (314.45, 624.35, 467.57, 601.71), by_hand("hgc"), with_tolerance(*FIXED)),
    Method(
        "HGC-JNCSS",
        (405.98, 405.98, 309.17, 458.93),
        lambda system, tail: chosen(system, "mean", tail).expected_time(),
        as_planned("mean"),
    ),
    Method(
        "HGC-exact",
        (294.52, 383.28, 295.82, 424.92),
        lambda system, tail: chosen(system, "exact", tail).value,
        as_planned("exact"),
    ),
)


def delays_of(system: System, tail: Tail = "fixed", relay: Relay = "independent") -> Delays:
    """The spec's runtime model (section 4, RECONSTRUCTED) as delays of a cluster.

    With the fixed tail the exponential part does not grow with the load, and so belongs to the message: N attempts
    take (N − 1)·attempt for those that fail, and attempt + X for the one that does not.
    """

    def exponential(shift: float, rate: float) -> Law:
        return ShiftedExponential(shift, rate) if np.isfinite(rate) else Deterministic(shift)

    workers = [worker for edge in system.edges for worker in edge.workers]
    edges = [Link(edge.attempt, failure=edge.failure) for edge in system.edges]
    if tail == "load":
        return Delays(
            [exponential(own.compute, own.rate) for own in workers],
            [Link(own.attempt, failure=own.failure) for own in workers],
            edges=edges,
            relay=relay,
        )
    return Delays(
        [Deterministic(own.compute) for own in workers],
        [Link(exponential(own.attempt, own.rate), failure=own.failure, timeout=own.attempt) for own in workers],
        edges=edges,
        relay=relay,
    )


def draw(system: System, tail: Tail, number: int, seed: int, relay: Relay = "independent") -> Rows:
    """So many iterations of the delays; those of workers and edge nodes do not depend on ``relay``."""
    above = Branch.of(list(system.workers_per_edge)).above
    return delays_of(system, tail, relay).sampler(np.random.default_rng(seed), system.workers, above).next(number)


def durations(scheme: Scheme, rows: Rows) -> Floats:
    """(iterations,) seconds that the scheme takes on these draws."""
    if any(scheme.inner):
        return scheme.duration(rows.compute, np.concatenate([rows.link.fixed, rows.edges.fixed], axis=1))
    return scheme.duration(rows.compute, rows.link.fixed + rows.relay.fixed)
