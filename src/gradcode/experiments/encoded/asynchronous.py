"""Asynchronous gradient descent with bounded staleness, in simulated time: a baseline without rounds."""

from __future__ import annotations

import heapq
from typing import NamedTuple

import numpy as np
import torch

from gradcode.delays import DelayTable
from gradcode.experiments.encoded.problems import Problem
from gradcode.protocol import Floats
from gradcode.training import LeastSquares


class Course(NamedTuple):
    """Seconds, and the objective at them."""

    clock: Floats
    values: Floats


def asynchronous(problem: Problem, table: DelayTable, staleness: int, rate: float, seconds: float) -> Course:
    """Each worker has a part of the data and steps by its gradient when it is done, at parameters that it read before.

    A worker may be at most ``staleness`` of its own rounds ahead of the slowest one (stale synchronous parallel), else
    it waits. Its step is its share of a full gradient step, so that as many steps as workers are about one of those.

    Args:
        problem: cut into as many parts as the table has workers.
        table: row r says how long everybody's r-th round takes; a part is a unit of load.
        staleness: ≥ 0 rounds.
        rate: of a full step.
        seconds: when to stop.

    Returns:
        The objective at the start and after every full round of steps.
    """
    workers, samples = table.workers, len(problem.targets)
    parts = [
        LeastSquares(problem.features[rows], problem.targets[rows], 1, problem.regularisation)
        for rows in np.array_split(np.arange(samples), workers)
    ]
    theta, rounds = torch.zeros_like(problem.optimum), np.zeros(workers, dtype=np.int64)
    read = [theta] * workers
    due = [(_round(table, worker, 0), worker) for worker in range(workers)]
    heapq.heapify(due)
    waiting: list[int] = []
    clock, values, steps = [0.0], [problem.value(theta)], 0
    while due and due[0][0] <= seconds:
        now, worker = heapq.heappop(due)
        share = parts[worker].samples / samples
        theta = theta - rate * share * parts[worker].gradient(read[worker])
        rounds[worker] += 1
        waiting.append(worker)
        ready = [own for own in waiting if rounds[own] - rounds.min() <= staleness]
        waiting = [own for own in waiting if own not in ready]
        for own in ready:
            read[own] = theta
            heapq.heappush(due, (now + _round(table, own, int(rounds[own])), own))
        steps += 1
        if steps % workers == 0:
            clock.append(now)
            values.append(problem.value(theta))
    return Course(np.array(clock), np.array(values))


def _round(table: DelayTable, worker: int, number: int) -> float:
    return float(table.compute(number)[worker, 0] + table.communicate(number)[worker])
