"""``metrics.jsonl``: one JSON object per iteration."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from gradcode.errors import GradcodeError
from gradcode.protocol import Report
from gradcode.reporting.lines import LineFile

_PLAIN = (
    "iteration",
    "epoch",
    "start",
    "time",
    "loss",
    "decode_time",
    "master_time",
    "decode_error",
    "exact",
    "bytes_up",
    "bytes_down",
    "uploads",
    "notices",
    "downloads",
    "clipped",
    "computations",
    "overruns",
    "order_statistic",
    "fluid",
)


def record(report: Report) -> dict[str, Any]:
    """The report as JSON can hold it: all of it but ``work``, of which only ``latest_work`` is kept.

    ``arrivals`` has one entry per worker, null where it did not answer; NaN and infinity are null.
    ``latest_work`` is the last second of the iteration at which any worker was seen working.
    """
    values: dict[str, Any] = {name: _plain(getattr(report, name)) for name in _PLAIN}
    values["arrivals"] = [_plain(seconds) for seconds in report.arrivals.tolist()]
    values["stragglers"] = list(report.stragglers)
    values["lost"] = list(report.lost)
    values["refused"] = list(report.refused)
    values["corrupt"] = list(report.corrupt)
    values["latest_work"] = _plain(max((work.stop for work in report.work), default=math.nan))
    return values


def read_metrics(path: Path | str) -> list[dict[str, Any]]:
    """The records of a ``metrics.jsonl``, in order; a last line that a crash cut off is left out.

    Raises:
        GradcodeError: the file cannot be read, or another line is no record.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise GradcodeError(f"cannot read {path}: {error}") from error
    records = []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            values["iteration"]
        except (ValueError, KeyError, TypeError):
            if number == len(lines):
                break
            raise GradcodeError(f"{path}, line {number}, is no record of an iteration: {line[:60]!r}") from None
        records.append(values)
    return records


class MetricsFile:
    """A listener that writes one line per iteration, each whole before training goes on.

    Args:
        path: of the file.
        keep: records of iterations before this one stay, the others are cut off: where a resumed run goes on. Its
            clock goes on where theirs ended.

    Raises:
        GradcodeError: the file cannot be written, or what is to be kept cannot be read.
    """

    def __init__(self, path: Path | str, keep: int = 0) -> None:
        self.kept: list[dict[str, Any]] = []
        if keep and Path(path).exists():
            self.kept = [values for values in read_metrics(path) if values["iteration"] < keep]
        self._offset = self.kept[-1]["start"] + self.kept[-1]["time"] if self.kept else 0.0
        self._file = LineFile(path, [_line(values) for values in self.kept])

    def __call__(self, report: Report) -> None:
        values = record(report)
        values["start"] += self._offset
        self._file.write(_line(values))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """May be called twice."""
        self._file.close()


def _line(values: dict[str, Any]) -> str:
    return json.dumps(values, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    """``value``, or None for what JSON cannot hold."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
