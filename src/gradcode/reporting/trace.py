"""``trace.json``: who did what and when, in the Chrome trace event format, which Perfetto opens.

One track per worker (compute, abandon, idle) and one for the master (wait, decode, step). The file is the format's
array form, one event per line: its readers accept an array without end, so that it opens after a crash, too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gradcode.errors import GradcodeError
from gradcode.protocol import Report
from gradcode.reporting.lines import LineFile

_PROCESS = 1
_MASTER = 0
_COLOURS = {"compute": "thread_state_running", "abandon": "terrible", "idle": "grey", "decode": "good"}
_SHORTEST = 1e-6  # seconds: a gap below it is rounding, not idleness


def read_trace(path: Path | str) -> list[dict[str, Any]]:
    """The events of a trace, finished or not.

    Raises:
        GradcodeError: the file cannot be read.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GradcodeError(f"cannot read {path}: {error}") from error
    events = []
    for line in lines:
        text = line.strip().rstrip(",")
        if text in ("", "[", "]"):
            continue
        try:
            events.append(json.loads(text))
        except ValueError:
            break  # cut off by a crash
    return events


class TraceFile:
    """A listener that writes the time of every worker and of the master.

    Times are those of the cluster's clock: real, or virtual on a simulated cluster, where decoding takes none.

    Args:
        path: of the file.
        keep: events of iterations before this one stay, the others are cut off; time goes on where they ended.
        limit: events after which nothing more is written but a mark that says so; 250,000 are about 35 MB.
        names: of the master's children; default: "worker 0" and so on.

    Raises:
        GradcodeError: the file cannot be written, or what is to be kept cannot be read.
    """

    def __init__(self, path: Path | str, keep: int = 0, limit: int = 250_000, names: Sequence[str] = ()) -> None:
        self._children = names
        kept: list[dict[str, Any]] = []
        if keep and Path(path).exists():
            kept = [event for event in read_trace(path) if event.get("args", {}).get("iteration", -1) < keep]
        spans = [event for event in kept if event["ph"] == "X"]
        self._offset = max((event["ts"] + event["dur"] for event in spans), default=0.0) / 1e6
        self._named = {event["tid"] for event in kept if event["ph"] == "M"}
        self._busy: dict[int, float] = {}
        for event in spans:
            self._busy[event["tid"]] = max(self._busy.get(event["tid"], 0.0), (event["ts"] + event["dur"]) / 1e6)
        self._left = limit - len(kept)
        self._before: Report | None = None
        texts = [json.dumps(event) for event in kept]
        self._first = not texts
        self._file = LineFile(path, ["[\n", ",\n".join(texts)] if texts else ["[\n"])
        self._open = True

    def __call__(self, report: Report) -> None:
        if self._left <= 0:
            return
        events = self._names(len(report.arrivals)) + self._master(report.start)
        for work in sorted(report.work, key=lambda work: work.start):
            events += self._worker(report, work.worker + 1, work.start, work.stop, work.kind)
        self._before = report
        self._write(events)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the tracks and the array. May be called twice.

        Raises:
            GradcodeError: the end cannot be written; the file can be read without it.
        """
        if not self._open:
            return
        self._open = False
        try:
            last = self._before
            if last is not None and self._left > 0:
                events = self._master(math.inf)
                for tid in range(1, len(last.arrivals) + 1):
                    end = self._offset + last.start + last.time
                    events += self._idle(tid, end, last.iteration)
                self._write(events)
            self._file.write("\n]\n")
        finally:
            self._file.close()

    def _write(self, events: list[dict[str, Any]]) -> None:
        if len(events) > self._left:
            events = [
                *events[: self._left],
                {
                    "name": "the trace is full and ends here",
                    "ph": "i",
                    "s": "g",
                    "ts": events[-1].get("ts", 0.0),
                    "pid": _PROCESS,
                    "tid": _MASTER,
                },
            ]
        self._left -= len(events)
        if not events:
            return
        separator = "" if self._first else ",\n"
        self._first = False
        self._file.write(separator + ",\n".join(json.dumps(event) for event in events))

    def _names(self, workers: int) -> list[dict[str, Any]]:
        names = ["master", *(self._children or (f"worker {worker}" for worker in range(workers)))]
        events: list[dict[str, Any]] = []
        for tid, name in enumerate(names):
            if tid not in self._named:
                self._named.add(tid)
                track = {"ph": "M", "pid": _PROCESS, "tid": tid}
                events.append({"name": "thread_name", **track, "args": {"name": name}})
                events.append({"name": "thread_sort_index", **track, "args": {"sort_index": tid}})
        return events

    def _master(self, next_start: float) -> list[dict[str, Any]]:
        """The iteration before, whose end is known once the next begins."""
        if self._before is None:
            return []
        report = self._before
        begin = self._offset + report.start
        end, following = begin + report.time, self._offset + next_start
        decoded = min(end + report.decode_time, following)
        events = [
            _span("wait", _MASTER, begin, end, report.iteration, loss=report.loss, stragglers=list(report.stragglers)),
            _span("decode", _MASTER, end, decoded, report.iteration, decode_seconds=report.decode_time),
        ]
        if math.isfinite(following):
            events.append(_span("step", _MASTER, decoded, following, report.iteration))
        return events

    def _worker(self, report: Report, tid: int, start: float, stop: float, kind: str) -> list[dict[str, Any]]:
        """One stretch of work, and the idleness before it."""
        begin, end = self._offset + report.start + start, self._offset + report.start + stop
        begin = max(begin, self._busy.get(tid, 0.0))
        if not math.isfinite(end) or end <= begin:
            return []
        events = [*self._idle(tid, begin, report.iteration), _span(kind, tid, begin, end, report.iteration)]
        self._busy[tid] = end
        return events

    def _idle(self, tid: int, until: float, iteration: int) -> list[dict[str, Any]]:
        since = self._busy.get(tid, self._offset)
        if until - since < _SHORTEST:
            return []
        self._busy[tid] = until
        return [_span("idle", tid, since, until, iteration)]


def _span(name: str, tid: int, start: float, stop: float, iteration: int, **details: Any) -> dict[str, Any]:
    event: dict[str, Any] = {
        "name": name,
        "ph": "X",
        "ts": round(start * 1e6, 3),
        "dur": round(max(0.0, stop - start) * 1e6, 3),
        "pid": _PROCESS,
        "tid": tid,
        "args": {"iteration": iteration, **details},
    }
    if name in _COLOURS:
        event["cname"] = _COLOURS[name]
    return event
