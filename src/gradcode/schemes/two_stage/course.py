"""Many iterations at once, from the times of their workers: what the state machine does, draw by draw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

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
    cover_of: Callable[[tuple[int, ...], dict[int, tuple[int, ...]]], Cover | None],
    lengths: Sequence[float],
    compute: Floats,
    communicate: Floats,
    deadline: float | None,
    notice: float | None = None,
) -> Course:
    """The iterations of these draws, (samples, N, stages) seconds per partition and (samples, N) per message.

    Args:
        plan: how they begin.
        cover_of: stage 2 where these workers are late, some with sums that come in any case; None: there is none.
        lengths: of stage 2 as multiples of stage 1's, by how many groups are late (:meth:`.Rules.length`).
        deadline: T_max, or None.
        notice: what a notice takes of a message's time, where workers report each partition; None: they do not.
    """
    samples, workers = compute.shape[:2]
    end = np.inf if deadline is None else deadline
    loads, begun = np.zeros((2, samples, workers)), np.zeros((2, samples, workers))  # partitions, since when; by stage
    groups, everybody = list(plan.shared), sorted(plan.parts)
    part_loads = np.array([len(part) for part in plan.shared.values()])
    loads[0][:, everybody] = [len(plan.parts[worker]) for worker in everybody]
    first = np.full((samples, workers), np.inf)
    reports = np.full((samples, len(groups), 1), np.inf)
    if notice is None:
        first[:, everybody] = _ends(0.0, loads[0][:, everybody], compute[:, everybody, 0], communicate[:, everybody])
    else:  # groups of one
        message = communicate[:, everybody]
        reports, first[:, everybody] = _reports(part_loads, compute[:, everybody, 0], notice * message, message)
    soonest = np.stack([first[:, list(group)].min(axis=1) for group in groups], axis=1)
    stage1, late, ended_by = _stage_one(plan, soonest)
    limit = stage1 * (1 + np.array(lengths)[late.sum(axis=1)])
    counted = _counted(reports, part_loads, stage1, ended_by, limit)
    # All have come, or the deadline is there before stage 2 can begin.
    time = soonest.max(axis=1)
    used, missing = np.full(samples, len(groups)), np.zeros(samples, dtype=np.int64)
    arrivals = np.stack([first, np.full_like(first, np.inf)])
    staged = np.zeros(samples, dtype=np.bool_)
    again = np.flatnonzero(late.any(axis=1) & (stage1 <= end) & ~((stage1 == plan.wait) & (stage1 == end)))
    patterns, which = np.unique(np.where(late, counted, -1)[again], axis=0, return_inverse=True)
    for number, pattern in enumerate(patterns.tolist()):
        late_ones = [(place, worker) for place, own in enumerate(groups) if pattern[place] >= 0 for worker in own]
        sums = {worker: plan.parts[worker][: pattern[place]] for place, worker in late_ones if pattern[place]}
        cover = cover_of(tuple(worker for _, worker in late_ones), sums)
        if cover is None:
            continue
        own = again[which.ravel() == number]
        staged[own], missing[own] = True, len(cover.columns)
        second = compute[own, :, min(1, compute.shape[2] - 1)]
        begun[1][own] = stage1[own, None]
        loads[1][np.ix_(own, list(cover.pool))] = cover.loads
        for place, worker in late_ones:
            if worker in sums and worker in cover.left:
                # Its sum is sent when the last of it is done; then comes what is left.
                loads[0][own, worker], loads[1][own, worker] = len(sums[worker]), len(cover.left[worker])
                sent = reports[own, place, len(sums[worker]) - 1] + communicate[own, worker]
                arrivals[0][own, worker] = begun[1][own, worker] = sent
        arrivals[1][own] = np.where(
            loads[1][own] > 0, _ends(begun[1][own], loads[1][own], second, communicate[own, :workers]), np.inf
        )
        time[own], used[own] = _decoded(cover, arrivals[:, own])
        used[own] += pattern.count(-1)
    # Of a group that has reported in stage 1 the others stop.
    stop = np.full_like(first, np.inf)
    for place, mates in enumerate(groups):
        for worker in mates if len(mates) > 1 else ():
            stopped = (first[:, list(mates)].argmin(axis=1) != mates.index(worker)) & ~(late[:, place] & staged)
            arrivals[0][stopped, worker], stop[stopped, worker] = np.inf, soonest[stopped, place]
    time = np.where(time <= end, time, np.maximum(end, arrivals.min(axis=(0, 2))))
    stage1 = np.where(staged, stage1, time)
    started, busy = np.zeros(samples), np.zeros(samples)
    for stage, over in enumerate((np.minimum(time[:, None], stop), time[:, None])):
        pace = compute[:, :, min(stage, compute.shape[2] - 1)]
        with np.errstate(divide="ignore", invalid="ignore"):
            since = np.where((loads[stage] > 0) & np.isfinite(begun[stage]), over - begun[stage], -np.inf)
            elapsed = since.clip(0.0)
            begun_ones = np.nan_to_num(np.floor(elapsed / pace), nan=np.inf) + 1
            taken = np.where(loads[stage] > 0, loads[stage] * pace, 0.0)
        # What could begin only when all was over did not.
        at_it = (since > 0) | ((since == 0) & (pace == 0))
        started += np.where(at_it, np.minimum(loads[stage], begun_ones), 0.0).sum(axis=1)
        busy += np.minimum(taken, elapsed).sum(axis=1)
    return Course(
        time=time,
        stage1=stage1,
        late=np.where(staged, late @ np.array([len(group) for group in groups]), 0),
        missing=missing,
        ordered=loads.sum(axis=(0, 2)).astype(np.int64),
        started=started,
        busy=busy,
        sent=(arrivals <= time[:, None]).sum(axis=(0, 2)),
        used=used,
    )


def _ends(begun: Floats | float, loads: npt.NDArray[Any], pace: Floats, communicate: Floats) -> Floats:
    """When messages come; rounded as the events are."""
    with np.errstate(invalid="ignore"):  # no load on a worker that never answers
        ends: Floats = begun + loads * pace + communicate
    return ends


def _reports(loads: Counts, pace: Floats, notice: Floats, message: Floats) -> tuple[Floats, Floats]:
    """When each partition but the last is reported, (samples, W₁, largest load), inf: it is not; and the sum comes."""
    ends, time, sent = np.full((*pace.shape, int(loads.max())), np.inf), np.zeros(pace.shape), np.empty(pace.shape)
    for position in range(ends.shape[2]):  # one after the other, to be rounded as the events are
        sent = np.where(position == loads - 1, time + pace + message, sent)
        time = time + pace + notice
        ends[:, :, position] = np.where(position < loads - 1, time, np.inf)
    return ends, sent


def _counted(reports: Floats, loads: Counts, stage1: Floats, ended_by: Counts, limit: Floats) -> Counts:
    """(samples, W₁) of how many partitions a late worker is to send the sum: of those reported, and of the next one.

    0 where none is reported, or at its pace the next one is not by the ``limit``.
    """
    end, everyone = stage1[:, None, None], np.arange(len(loads))
    before = (reports == end) & (everyone < ended_by[:, None])[:, :, None]  # at equal times by worker
    reported = ((reports < end) | before).sum(axis=2)
    told = np.take_along_axis(reports, np.maximum(reported - 1, 0)[:, :, None], axis=2)[:, :, 0]
    soon = (reported + 1) * (told / np.maximum(reported, 1)) <= limit[:, None]
    return np.where((reported > 0) & soon, np.minimum(reported + 1, loads), 0)


def _stage_one(plan: Plan, first: Floats) -> tuple[Floats, npt.NDArray[np.bool_], Counts]:
    """(samples,) when it ends, (samples, W₁) who is late then, and (samples,) by whose report, W₁: by time.

    At equal times reports come by worker, and before T₁.
    """
    ends, late = np.full(len(first), plan.wait), first > plan.wait
    ended_by = np.full(len(first), first.shape[1])
    if 0 < plan.completions < first.shape[1]:
        order = np.argsort(first, axis=1, kind="stable")
        counted = np.take_along_axis(first, order[:, plan.completions - 1, None], axis=1)[:, 0]
        sooner = (counted <= plan.wait) & np.isfinite(counted)
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.arange(first.shape[1])[None], axis=1)
        ends, late = np.where(sooner, counted, ends), np.where(sooner[:, None], rank >= plan.completions, late)
        ended_by = np.where(sooner, order[:, plan.completions - 1], ended_by)
    return ends, late & np.isfinite(ends)[:, None], ended_by


def _decoded(cover: Cover, arrivals: Floats) -> tuple[Floats, Counts]:
    """(samples,) when messages that come at these times, (2, samples, N), are enough; and how many count then.

    Of a worker the sum comes before what it does in stage 2.
    """
    samples = arrivals.shape[1]
    times, used = np.full(samples, np.inf), np.zeros(samples, dtype=np.int64)
    messages = [(worker, -1) for worker in cover.sums] + [(worker, cover.bits[worker]) for worker in cover.workers]
    messages.sort()
    stages = [int(bit >= 0 and (worker in cover.sums or worker not in cover.left)) for worker, bit in messages]
    come = arrivals[stages, :, [worker for worker, _ in messages]].T
    order = np.argsort(come, axis=1, kind="stable")
    for sample, places in enumerate(order.tolist()):
        arrived, owing = 0, len(cover.sums)
        for place in places:
            at = come[sample, place]
            if np.isinf(at):
                break
            bit = messages[place][1]
            if bit < 0:
                owing -= 1
            else:
                arrived |= bit
            if not owing and cover.decodable(arrived):
                times[sample] = at
                used[sample] = np.count_nonzero(cover.solve(arrived).weights) + len(cover.sums)
                break
    return times, used
