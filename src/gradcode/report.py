"""How an iteration went: what a cluster knows of it, and what whoever listens is told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Work:
    """One stretch of a worker's time, in seconds since the iteration's start (negative: it began before).

    ``kind`` is ``"compute"`` (ended in a reply) or ``"abandon"`` (ended because nobody wanted it any more).
    """

    worker: int
    start: float
    stop: float
    kind: str


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """How an iteration went on its cluster, before decoding.

    Where there are edge nodes, those take the workers' place here, except in the numbers of computations.

    Args:
        time: seconds from the start until the scheme was done.
        arrivals: (N,) seconds at which each worker's last reply came, or had been received where that takes time;
            NaN: none did.
        stragglers: workers that had an order and were not waited for.
        lost: workers lost during the iteration or, with real processes, since the one before.
        refused: workers of whose replies one or more were refused: of a wrong shape or dtype, or not finite.
        corrupt: workers whose replies contradict those that the scheme trusts, where it looks for such; what they said
            is in neither ``statistics`` nor ``losses``.
        statistics: weighted mean over the partitions that were heard of, weights n_j; (S,).
        losses: of each of them, by partition.
        bytes_up: to the master: payloads, and a few bytes for each reply without one.
        bytes_down: from it: parameters, and kept vectors that a worker did not have.
        uploads, notices: replies with a payload, and without one (skips, notices of what is held).
        downloads: workers that were sent the parameters.
        computations: partition computations whose end the master has heard of, abandoned ones included; where only a
            block of the gradient was computed, its share of the cost.
        overruns: partitions, or shares of them, whose real computing was longer than the time they were to take (mode
            ``emulate``).
        work: what is known of the workers' time.
        sending: seconds of real time that the master took to start the scheme and send the first orders.
        last: ``time.monotonic()`` at which the last needed reply was ready at its worker (simulated: now).
        clipped: coordinates of the uploads that a codec of a fixed range clipped, which is a bias that no
            ``decode_error`` knows of.
        compute, communicate, start: (N, stages), (links,) and (N,), the delays of this iteration where they are known:
            those of all workers, the links of edge nodes after those of the workers, and before when workers began
            nothing.
    """

    time: float
    arrivals: Floats
    stragglers: tuple[int, ...]
    lost: tuple[int, ...]
    statistics: Floats
    bytes_up: int
    bytes_down: int
    computations: float
    overruns: float
    work: tuple[Work, ...]
    sending: float
    last: float
    compute: Floats | None = None
    communicate: Floats | None = None
    start: Floats | None = None
    refused: tuple[int, ...] = ()
    corrupt: tuple[int, ...] = ()
    uploads: int = 0
    notices: int = 0
    downloads: int = 0
    clipped: int = 0
    losses: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class Report:
    """What one iteration was. Callbacks, logs, plots and the planner read reports and nothing else.

    Where the master's children are edge nodes, those take the workers' place, except in ``computations``.

    Args:
        iteration, epoch: counted from 0.
        start: seconds on the cluster's clock at which the iteration began.
        time: seconds until the gradient could be decoded.
        loss: mean loss over the samples that were heard of, before the step; NaN if no reply held a sample. Of a lazy
            scheme: over all partitions, each as it was heard of last.
        arrivals: (N,) seconds of each worker's reply, NaN if abandoned.
        stragglers, lost, refused: workers not waited for; workers lost; workers a reply of which was refused.
        corrupt: workers whose replies contradict the others', where the scheme looks for such (``schemes.draco``).
        decode_time: seconds of real time to decode.
        master_time: the master's own part of the iteration, seconds of real time: sending the first orders, and from
            the last needed reply until every ``p.grad`` was filled.
        decode_error: bound on ‖ĝ − g‖ / Σ_j‖g_j‖; ``exact``: nothing but rounding is in it.
        bytes_up, bytes_down, uploads, notices, downloads, clipped, computations, overruns, work: as in
            :class:`Outcome`.
        order_statistic: the scheme's own duration for the delays of this iteration, which leaves out the time that the
            master takes to receive replies and that of an uplink; NaN where they are not known, or workers start late.
        fluid: the earliest time at which the work finished by all workers adds up to one pass; NaN where the delays are
            not known.
    """

    iteration: int
    epoch: int
    start: float
    time: float
    loss: float
    arrivals: Floats
    stragglers: tuple[int, ...]
    lost: tuple[int, ...]
    decode_time: float
    master_time: float
    decode_error: float
    exact: bool
    bytes_up: int
    bytes_down: int
    computations: float
    overruns: float
    order_statistic: float
    fluid: float
    work: tuple[Work, ...] = ()
    refused: tuple[int, ...] = ()
    corrupt: tuple[int, ...] = ()
    uploads: int = 0
    notices: int = 0
    downloads: int = 0
    clipped: int = 0
