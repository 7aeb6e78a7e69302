"""Trainings through a radio uplink, and what is noted of each iteration (two_stage.md, section 7)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from torch.utils.data import TensorDataset

from gradcode import catalog, codes, schemes
from gradcode.clusters import SimulatedCluster
from gradcode.experiments.curves import Curve, Task, train
from gradcode.experiments.two_stage.setting import K, Law, N, S, fixed
from gradcode.experiments.two_stage.uplinks import Watched
from gradcode.network import Controller, Radio, Traffic, Uplink
from gradcode.network.presets import KILOBYTE
from gradcode.protocol import Floats, Report
from gradcode.schemes import TwoStage
from gradcode.schemes.rows import RowScheme
from gradcode.training import Sampling

LAW = Law(unit=0.01)
BATCH, RATE = 320, 0.5

UNCODED, CYCLIC, IGNORE = "uncoded", f"cyclic repetition, s = {S}", f"ignore {S} slowest"
FRESH, ALL = "two-stage, fresh", "two-stage, all"

Tried = TwoStage | RowScheme

METHODS: dict[str, Callable[[float], Tried]] = {
    FRESH: lambda wait: fixed(pool="fresh", wait=wait),
    ALL: lambda wait: fixed(pool="all", wait=wait),
    f"{FRESH}, learned": lambda wait: schemes.two_stage(N, S, K, pool="fresh"),
    f"{ALL}, learned": lambda wait: schemes.two_stage(N, S, K, pool="all"),
    CYCLIC: lambda wait: schemes.coded(codes.cyclic_repetition(N, S, K, variant="random", dtype="float64")),
    UNCODED: lambda wait: schemes.uncoded(N, K),
    IGNORE: lambda wait: schemes.fastest(N, N - S, K),
}
"""Made with T₁ = ``wait`` seconds, where it is neither learned nor without meaning."""


class Note(NamedTuple):
    """Of one iteration.

    Args:
        parts: seconds of the message that ended it: until a worker began to compute it (what of stage 2 is: all of
            stage 1), until it was computed, and until it had come.
        useful, started: partition computations, counted once where they are in the gradient; and all that were begun.
        busy: seconds in which workers computed, all together.
        used: messages that the gradient was made of.
        heard: (N,) workers of whom a message came.
        traffic: in the uplink.
    """

    parts: tuple[float, float, float]
    useful: float
    started: float
    busy: float
    used: int
    heard: npt.NDArray[np.bool_]
    traffic: Traffic


@dataclass(frozen=True, eq=False)
class Trial:
    """A training: its curve, its notes, and at its end the uplink's state, that of :class:`.uplinks.Watched`."""

    curve: Curve
    notes: tuple[Note, ...]
    uplink: dict[str, Any]
    radio: Radio

    @property
    def seconds(self) -> float:
        """Mean time of an iteration."""
        return float(np.mean([report.time for report in self.curve.reports]))

    @property
    def parts(self) -> Floats:
        """(3,) means of them."""
        return np.asarray(np.mean([note.parts for note in self.notes], axis=0))

    @property
    def utilisation(self) -> Floats:
        """(3,) the definitions of section 7, each a ratio of sums over all iterations.

        Useful computations to those started; busy time to all time of all workers; messages used to messages sent,
        where a message is sent as far as the uplink has admitted it.
        """
        useful, started, busy, used = (
            sum(getattr(note, name) for note in self.notes) for name in ("useful", "started", "busy", "used")
        )
        time = sum(report.time for report in self.curve.reports)
        sent = sum(note.traffic.admitted.sum() for note in self.notes) / self.curve.gradient_bytes
        return np.array([useful / started, busy / (N * time), used / sent])

    @property
    def heard(self) -> Floats:
        """(N,) the share of iterations in which a message of the worker came."""
        return np.asarray(np.mean([note.heard for note in self.notes], axis=0))

    @property
    def lost(self) -> float:
        """Bytes admitted, less those served and those in the queues."""
        admitted, served = (
            sum(getattr(note.traffic, name).sum() for note in self.notes) for name in ("admitted", "served")
        )
        return float(admitted - served - self.notes[-1].traffic.backlog.sum())

    @property
    def channels_used(self) -> float:
        """The share of all channels and slots in which somebody sent."""
        return float(self.uplink["controller"]["shares"] / (self.radio.channels * self.uplink["number"]))

    @property
    def watts(self) -> float:
        """W that a worker spent on sending, on average over workers and time."""
        return float(self.uplink["controller"]["joules"] / (N * self.radio.slot * self.uplink["number"]))

    @property
    def left(self) -> float:
        """J that a battery holds at the end, on average."""
        return float(np.mean(self.uplink["controller"]["controller"]["energy"]))

    @property
    def largest_queue(self) -> float:
        """Bytes in the longest data queue of all slots."""
        return KILOBYTE * float(np.max(self.uplink["controller"]["most"][0]))

    def accuracy(self, times: Floats) -> Floats:
        """Test accuracy at each of these times: that of the last step before."""
        steps = np.searchsorted(self.curve.times, times, side="right") - 1
        return np.array(self.curve.accuracies)[steps]


def note(scheme: Tried, cluster: SimulatedCluster, report: Report) -> Note:
    """What a report, the scheme and the cluster tell of an iteration that has just ended."""
    last = int(np.nanargmax(report.arrivals))
    own = [work for work in report.work if work.worker == last and work.kind == "compute"]
    computed, begun = max((work.stop, work.start) for work in own)
    used = scheme.used if isinstance(scheme, TwoStage) else np.count_nonzero(scheme.weights(scheme.responders))
    assert cluster.traffic is not None
    return Note(
        (begun, computed - begun, report.time - computed),
        K if report.exact else K * used / N,  # ignored workers have K/N each
        # Whoever was stopped was in the middle of a partition, which is not among those that ended.
        report.computations + sum(work.kind == "abandon" for work in report.work),
        sum(work.stop - work.start for work in report.work),
        int(used),
        np.isfinite(report.arrivals),
        cluster.traffic,
    )


def trial(task: Task, scheme: Tried, controller: Controller, seed: int, iterations: int) -> Trial:
    """One training; delays, channel, samples and start depend on the seed alone."""
    cluster = SimulatedCluster(N, LAW.table(seed), uplink=Uplink(Watched(controller), KILOBYTE), seed=seed)
    notes: list[Note] = []

    def listen(report: Report) -> None:
        notes.append(note(scheme, cluster, report))

    curve = train(
        task, scheme, cluster, iterations=iterations, batch_size=BATCH, rate=RATE, seed=seed, listeners=[listen]
    )
    return Trial(curve, tuple(notes), cluster.state_dict()["uplink"], controller.radio)


def sorted_by_class(task: Task, seed: int) -> Task:
    """The same samples, so arranged that the session deals them out to the partitions in order of their class.

    Ten workers with 4 of 40 partitions each then have about a digit each.
    """
    train, test = task.split
    samples = len(train)  # type: ignore[arg-type]
    sampling = Sampling(samples, K, BATCH, seed, drop_last=True)
    dealt = np.concatenate([sampling.shard(partition) for partition in range(K)])
    order = np.empty(samples, dtype=np.int64)
    order[dealt] = np.argsort([int(target) for _, target in train], kind="stable")  # type: ignore[attr-defined]
    return Task(task.name, catalog.Split(TensorDataset(*train[order]), test))
