"""Many iterations at once, from the times of their workers: what the state machine does, draw by draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.protocol import Floats
from gradcode.schemes.two_stage.cover import Cover
from gradcode.schemes.two_stage.plan import Plan

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Course:
    """What became of so many iterations; everything has the shape (samples,).

    Args:
        time: seconds; inf: it never ends.
        stage1: seconds after which stage 2 began; where it did not, ``time``.
        late: workers that were late at the end of stage 1; 0: there was no stage 2.
        missing: their partitions, K_u.
        ordered: partition computations ordered in both stages.
        started: those that were begun before the end.
        busy: seconds in which workers computed, all together.
        sent: messages that came before the end, or with it.
        used: those of them that the gradient was made of.
    """

    time: Floats
    stage1: Floats
    late: Counts
    missing: Counts
    ordered: Counts
    started: Floats
    busy: Floats
    sent: Counts
    used: Counts


def run(
    plan: Plan,
    cover_of: Callable[[tuple[int, ...]], Cover | None],
    compute: Floats,
    communicate: Floats,
    deadline: float | None,
) -> Course:
    """The iterations of these draws, (samples, N, stages) seconds per partition and (samples, N) per message.

    Args:
        plan: how they begin.
        cover_of: stage 2 where these workers are late; None: there is none.
        deadline: T_max, or None.
    """
    samples, workers = compute.shape[:2]
    end = np.inf if deadline is None else deadline
    loads = np.zeros((2, samples, workers))  # partitions, by stage
    chosen = sorted(plan.parts)
    loads[0][:, chosen] = [len(plan.parts[worker]) for worker in chosen]
    first = np.where(loads[0] > 0, _ends(0.0, loads[0], compute[:, :, 0], communicate), np.inf)
    stage1, late = _stage_one(plan, first[:, chosen])
    # All have come, or the deadline is there before stage 2 can begin.
    time = first[:, chosen].max(axis=1)
    used, missing = np.full(samples, len(chosen)), np.zeros(samples, dtype=np.int64)
    arrivals = np.stack([first, np.full_like(first, np.inf)])
    staged = np.zeros(samples, dtype=np.bool_)
    again = np.flatnonzero(late.any(axis=1) & (stage1 <= end) & ~((stage1 == plan.wait) & (stage1 == end)))
    patterns, group = np.unique(late[again], axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns):
        cover = cover_of(tuple(np.array(chosen)[pattern].tolist()))
        if cover is None:
            continue
        own = again[group.ravel() == number]
        staged[own], missing[own] = True, len(cover.columns)
        pool = list(cover.pool)
        loads[1][np.ix_(own, pool)] = cover.loads
        pace = compute[own, :, min(1, compute.shape[2] - 1)]
        second = _ends(stage1[own, None], loads[1][own], pace, communicate[own])
        arrivals[1][own] = np.where(loads[1][own] > 0, second, np.inf)
        rows = np.where(loads[1][own] > 0, arrivals[1][own], np.inf)
        rows[:, list(cover.late)] = first[np.ix_(own, list(cover.late))]
        time[own], used[own] = _decoded(cover, rows)
        used[own] += len(chosen) - len(cover.late)
    time = np.where(time <= end, time, np.maximum(end, arrivals.min(axis=(0, 2))))
    stage1 = np.where(staged, stage1, time)
    started, busy = np.zeros(samples), np.zeros(samples)
    for stage, begun in enumerate((np.zeros(samples), stage1)):
        pace = compute[:, :, min(stage, compute.shape[2] - 1)]
        with np.errstate(divide="ignore", invalid="ignore"):
            elapsed = np.where(np.isfinite(begun), time - begun, 0.0)[:, None]
            begun_ones = np.nan_to_num(np.floor(elapsed / pace), nan=np.inf) + 1
            taken = np.where(loads[stage] > 0, loads[stage] * pace, 0.0)
        started += np.minimum(loads[stage], begun_ones).sum(axis=1)
        busy += np.minimum(taken, elapsed).sum(axis=1)
    return Course(
        time=time,
        stage1=stage1,
        late=np.where(staged, late.sum(axis=1), 0),
        missing=missing,
        ordered=loads.sum(axis=(0, 2)).astype(np.int64),
        started=started,
        busy=busy,
        sent=(arrivals <= time[:, None]).sum(axis=(0, 2)),
        used=used,
    )


def _ends(begun: Floats | float, loads: Floats, pace: Floats, communicate: Floats) -> Floats:
    """When messages come; rounded as the events are."""
    with np.errstate(invalid="ignore"):  # no load on a worker that never answers
        ends: Floats = begun + loads * pace + communicate[:, : loads.shape[1]]
    return ends


def _stage_one(plan: Plan, first: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """(samples,) when it ends, and (samples, W₁) who is late then; at equal times reports come by worker."""
    ends, late = np.full(len(first), plan.wait), first > plan.wait
    if 0 < plan.completions < first.shape[1]:
        order = np.argsort(first, axis=1, kind="stable")
        counted = np.take_along_axis(first, order[:, plan.completions - 1, None], axis=1)[:, 0]
        sooner = (counted <= plan.wait) & np.isfinite(counted)
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(first.shape[1])[None], axis=1)
        ends, late = np.where(sooner, counted, ends), np.where(sooner[:, None], rank >= plan.completions, late)
    return ends, late & np.isfinite(ends)[:, None]


def _decoded(cover: Cover, rows: Floats) -> tuple[Floats, Counts]:
    """(samples,) when rows that come at these times, (samples, N), give what is missing; and how many it is made of."""
    times, used = np.full(len(rows), np.inf), np.zeros(len(rows), dtype=np.int64)
    workers = sorted(cover.workers)
    order = np.argsort(rows[:, workers], axis=1, kind="stable")
    for sample, places in enumerate(order.tolist()):
        arrived = 0
        for place in places:
            worker = workers[place]
            at = rows[sample, worker]
            if np.isinf(at):
                break
            arrived |= cover.bits[worker]
            if cover.decodable(arrived):
                times[sample] = at
                used[sample] = np.count_nonzero(cover.solve(arrived).weights)
                break
    return times, used
