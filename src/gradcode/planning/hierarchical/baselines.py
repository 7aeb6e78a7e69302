"""What an iteration takes with other schemes on the same machines (spec, section 6; RECONSTRUCTED from their names)."""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

from gradcode.planning.hierarchical.expected import Answers, check_tail, time_at
from gradcode.planning.hierarchical.integration import NEGLIGIBLE, mean_time
from gradcode.planning.hierarchical.system import Edge, Floats, System, Tail, columns_of

Baseline = Literal["uncoded", "greedy", "cgc_w", "cgc_e", "standard", "hgc"]
Relay = Literal["independent", "shared"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)


def baseline_time(
    system: System,
    name: Baseline,
    edge_stragglers: int = 1,
    worker_stragglers: int = 1,
    tail: Tail = "fixed",
    relay: Relay = "independent",
) -> float:
    """E[T] of an iteration with the named scheme, computed as by :func:`expected_time`.

    | name | load D | waits for |
    |---|---|---|
    | ``uncoded`` | K/M | everybody |
    | ``greedy`` | K/M | all but s_w workers per edge node, all but s_e edge nodes; the gradient is not exact |
    | ``cgc_w`` | K(s_w+1)/M | all but s_w workers per edge node, all edge nodes |
    | ``cgc_e`` | K(s_e+1)/M | all workers, all but s_e edge nodes |
    | ``standard`` | K(s+1)/M | all but s of the M workers: a flat code, edge nodes pass each message on |
    | ``hgc`` | K(s_e+1)(s_w+1)/M | all but s_w workers per edge node, all but s_e edge nodes |

    Args:
        system: the machines.
        name: one of these.
        edge_stragglers: s_e; not used by ``uncoded`` and ``cgc_w``.
        worker_stragglers: s_w; not used by ``uncoded`` and ``cgc_e``.
        tail: whether the random part of computing is ``"fixed"`` or grows with the ``"load"``.
        relay: for ``standard``: whether each message has attempts of its own behind the edge node (``"independent"``)
            or all of an edge node have the same number (``"shared"``).

    Raises:
        ValueError: an unknown name, or a choice that is not feasible, and which one is.
    """
    check_tail(tail)
    s_e, s_w = edge_stragglers, worker_stragglers
    if name == "uncoded":
        return time_at(system, system.load(0, 0), 0, 0, tail)
    if name == "cgc_w":
        return time_at(system, system.load(0, s_w), 0, s_w, tail)
    if name == "cgc_e":
        return time_at(system, system.load(s_e, 0), s_e, 0, tail)
    if name == "hgc":
        return time_at(system, system.load(s_e, s_w), s_e, s_w, tail)
    if name == "greedy":
        system.load(s_e, s_w)  # the same patterns as a code would tolerate
        return time_at(system, system.load(0, 0), s_e, s_w, tail)
    if name != "standard":
        raise ValueError(f"name={name!r} must be one of {', '.join(map(repr, BASELINES))}")
    if relay not in ("independent", "shared"):
        raise ValueError(f"relay={relay!r} must be 'independent' or 'shared'")
    system.load(s_e, s_w)
    s = flat_tolerance(system, s_e, s_w)
    # A flat code over relays is a hierarchy in which every worker has an edge node to itself.
    flat = System(
        tuple(Edge((worker,), edge.attempt, edge.failure) for edge in system.edges for worker in edge.workers),
        system.partitions,
    )
    load = flat.load(s, 0)
    return time_at(flat, load, s, 0, tail) if relay == "independent" else _shared(system, load, s, tail)


def flat_tolerance(system: System, edge_stragglers: int, worker_stragglers: int) -> int:
    """The stragglers a flat code must tolerate for the same patterns: the s_e largest edge nodes and s_w of each other.

    Source: the spec's section 2.2 (RECONSTRUCTED).
    """
    largest = sorted(system.workers_per_edge, reverse=True)[:edge_stragglers]
    return sum(largest) + worker_stragglers * (len(system.edges) - edge_stragglers)


def _shared(system: System, load: int, stragglers: int, tail: Tail) -> float:
    """E[T] of a flat code whose messages through one edge node need the same number of attempts.

    Given that number the messages are independent, and edge nodes are in any case. So the number of messages that are
    late is, per edge node, a mixture over the attempts, and over all edge nodes a sum of independent numbers.
    """
    kinds = tuple(dict.fromkeys(system.edges))
    answers = Answers(columns_of(kinds), load, tail)

    def of_edge(kind: int, times: Floats) -> Floats:
        """P(c of its messages are late), (c, points)."""
        attempt, p = kinds[kind].attempt, kinds[kind].failure
        mixed, left, k = np.zeros((len(kinds[kind].workers) + 1, len(times))), 1.0, 1
        while left > NEGLIGIBLE / 1000:  # less than what ends the search for the end below
            weight = (1 - p) * left if attempt else left
            late = answers.late(times - k * attempt, np.full(len(times), kind))[: len(kinds[kind].workers)]
            mixed, left, k = mixed + weight * _counts(late), left - weight, k + 1
        return mixed

    def late(times: Floats) -> Floats:
        each = [of_edge(kind, times) for kind in range(len(kinds))]
        total = np.ones((1, len(times)))
        for edge in system.edges:
            own = each[kinds.index(edge)]
            summed = np.zeros((len(total) + len(own) - 1, len(times)))
            for count, probability in enumerate(own):
                summed[count : count + len(total)] += probability * total
            total = summed[: stragglers + 1]
        return np.asarray(np.clip(1 - total.sum(axis=0), 0.0, 1.0))

    first = np.sort([start for i, edge in enumerate(system.edges) for start in _firsts(answers, kinds, i, edge)])
    start = float(first[len(first) - 1 - stragglers])
    stop = start + float(answers.scale.max()) + max(edge.attempt / (1 - edge.failure) for edge in system.edges)
    while late(np.array([stop])) > NEGLIGIBLE:
        stop = start + 2 * (stop - start)
    attempts = sum(1 + np.log(NEGLIGIBLE) / np.log(edge.failure or NEGLIGIBLE) for edge in kinds)
    return mean_time(late, start, stop, work=float(attempts) * max(system.workers_per_edge) * (stragglers + 1))


def _firsts(answers: Answers, kinds: tuple[Edge, ...], number: int, edge: Edge) -> Floats:
    """When the messages through an edge node can arrive at the earliest."""
    return np.asarray(answers.first[: len(edge.workers), kinds.index(edge)] + edge.attempt)


def _counts(late: Floats) -> Floats:
    """P(exactly c of independent events happen), (events + 1, points)."""
    counts = np.zeros((len(late) + 1, late.shape[1]))
    counts[0] = 1.0
    for number, own in enumerate(late):
        moved = counts[: number + 1] * own
        counts[: number + 1] -= moved
        counts[1 : number + 2] += moved
    return counts
