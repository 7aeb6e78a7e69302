"""What a training was, added up over its iterations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gradcode.delays import DelayTable
from gradcode.protocol import Report
from gradcode.reporting.metrics import record
from gradcode.schemes import uncoded


class WaitingForAll:
    """How long an iteration would have taken if the master had waited for every worker.

    With the delays known: the duration of uncoded training on the same draw of the delays. Otherwise the last second
    at which a worker was seen working, which abandoned work cuts short: a lower bound.

    Args:
        table: the delays of the cluster; None: not known.
        workers, partitions: N and K ≥ N, of the uncoded training compared with.
        message_bytes: bytes of one reply.
        above: for each worker the edge nodes that add its reply up with others', the nearest first; empty: none do.
    """

    def __init__(
        self,
        table: DelayTable | None = None,
        workers: int = 0,
        partitions: int = 0,
        message_bytes: float = 0.0,
        above: Sequence[Sequence[int]] = (),
    ) -> None:
        self.known = table is not None and partitions >= workers > 0
        self._table, self._bytes = table, message_bytes
        self._uncoded = uncoded(workers, partitions) if self.known else None
        self._above = above

    def __call__(self, values: Mapping[str, Any]) -> float:
        """Seconds for the iteration of this record (see :func:`gradcode.reporting.record`)."""
        if self._table is None or self._uncoded is None:
            return float(max(values["time"], values["latest_work"] or 0.0))
        number = values["iteration"]
        compute, communicate = self._table.window(number, number + 1, self._bytes)
        communicate = communicate + self._table.start(number)  # its one message is as much later
        # The last worker's reply has all of its way to go, alone or in a sum that waits for it.
        if self._above:
            uplink = self._table.uplink(number, self._bytes)
            communicate = communicate + [float(uplink[list(chain)].sum()) for chain in self._above]
        else:
            communicate = communicate + self._table.relay(number, self._bytes)
        return float(self._uncoded.duration(compute, communicate)[0])


_COUNTED = ("bytes_up", "bytes_down", "uploads", "notices", "downloads", "clipped", "computations", "overruns")


class Summary:
    """A listener that adds up what the reports say.

    Args:
        waiting: what waiting for all would have taken; default: judged by what the reports show.
    """

    def __init__(self, waiting: WaitingForAll | None = None) -> None:
        self.waiting = waiting or WaitingForAll()
        self.iterations = 0
        self.time = 0.0
        self.waiting_for_all = 0.0
        self.stragglers: dict[int, int] = {}
        self.losses: dict[int, int] = {}
        self.refused: dict[int, int] = {}
        self.corrupt: dict[int, int] = {}
        self.workers = 0
        self.last: dict[str, Any] = {}
        self._totals = dict.fromkeys(_COUNTED, 0)
        self._inexact = 0
        self._worst = 0.0
        self._bounds = dict.fromkeys(("order_statistic", "fluid"), 0.0)

    def __call__(self, report: Report) -> None:
        self.add(record(report))

    def add(self, values: Mapping[str, Any]) -> None:
        """Adds one record, as of ``metrics.jsonl``."""
        self.iterations += 1
        self.workers = len(values["arrivals"])
        self.time += values["time"]
        self.waiting_for_all += self.waiting(values)
        named = {"stragglers": self.stragglers, "lost": self.losses, "refused": self.refused, "corrupt": self.corrupt}
        for name, counts in named.items():
            for worker in values.get(name, ()):  # a file of before may lack one
                counts[worker] = counts.get(worker, 0) + 1
        for name in self._totals:
            self._totals[name] += values.get(name, 0)
        for name in self._bounds:
            self._bounds[name] += math.nan if values[name] is None else values[name]
        self._inexact += not values["exact"]
        error = values["decode_error"]
        self._worst = max(self._worst, math.inf if error is None else error)
        self.last = dict(values)

    @property
    def mean_time(self) -> float:
        """Seconds per iteration; NaN before the first."""
        return self.time / self.iterations if self.iterations else math.nan

    @property
    def saved(self) -> float:
        """The share of the time that not waiting for all has saved, up to 1; negative where it has cost time."""
        if not self.waiting_for_all:
            return 0.0
        return 1.0 - self.time / self.waiting_for_all

    @property
    def clipped(self) -> int:
        """Coordinates that codecs of a fixed range have clipped."""
        return int(self._totals["clipped"])

    @property
    def overruns(self) -> float:
        """Partitions whose real computing took longer than the time they were given, as a share of all."""
        return self._totals["overruns"] / max(1, self._totals["computations"])

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON can hold it; times in seconds, null where unknown or infinite."""

        def plain(value: float) -> float | None:
            return float(value) if np.isfinite(value) else None

        count = max(1, self.iterations)
        return {
            "iterations": self.iterations,
            "time": self.time,
            "mean_time": plain(self.mean_time),
            "mean_order_statistic": plain(self._bounds["order_statistic"] / count),
            "mean_fluid": plain(self._bounds["fluid"] / count),
            "mean_waiting_for_all": plain(self.waiting_for_all / count),
            "waiting_for_all_known": self.waiting.known,
            "saved": plain(self.saved),
            "stragglers": [self.stragglers.get(worker, 0) for worker in range(self.workers)],
            "lost": [self.losses.get(worker, 0) for worker in range(self.workers)],
            "refused": [self.refused.get(worker, 0) for worker in range(self.workers)],
            "corrupt": [self.corrupt.get(worker, 0) for worker in range(self.workers)],
            "inexact_iterations": self._inexact,
            "worst_decode_error": plain(self._worst),
            "overruns_share": self.overruns,
            **self._totals,
            "loss": self.last.get("loss"),
        }
