"""What one sees while training: a live display on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from gradcode.protocol import Report
from gradcode.reporting.summary import Summary

_SHOWN = 16  # workers in the live display; of more, those who straggle most
_BAR = 12


class Progress:
    """A listener that shows iteration, loss, iteration time, who straggled, time saved and time left.

    Args:
        total: iterations of the whole training.
        summary: where the sums come from; it must be told of a report before this. Default: one of its own.
        console: where to write; default: standard output.
        interval: seconds between two plain lines, where the console is no terminal.
        names: of the master's children; default: "worker 0" and so on.
    """

    def __init__(
        self,
        total: int,
        summary: Summary | None = None,
        console: Console | None = None,
        interval: float = 5.0,
        names: Sequence[str] = (),
    ) -> None:
        self._names = names
        self._total = total
        self._own = summary is None
        self._summary = summary or Summary()
        self._console = console or Console()
        self._interval = interval
        self._live: Live | None = None
        self._report: Report | None = None
        self._began = self._spoke = time.monotonic()
        self._first = -1

    def __enter__(self) -> Self:
        self._began = self._spoke = time.monotonic()
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=8, get_renderable=self._picture)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leaves the last picture standing. May be called twice."""
        if self._live is not None:
            live, self._live = self._live, None
            live.stop()

    def __call__(self, report: Report) -> None:
        if self._own:
            self._summary(report)
        if self._first < 0:
            self._first = report.iteration
        self._report = report
        now = time.monotonic()
        last = report.iteration + 1 >= self._total
        if self._live is None and (last or now - self._spoke >= self._interval):
            self._spoke = now
            self._console.print(self._line(report), soft_wrap=True, highlight=False)

    def say(self, text: str) -> None:
        """A line that stays, above the display."""
        self._console.print(text, soft_wrap=True, highlight=False)

    def _line(self, report: Report) -> str:
        parts = [
            f"iteration {report.iteration + 1}/{self._total}",
            f"loss {report.loss:.4f}",
            f"{seconds(self._summary.mean_time)} per iteration",
            self._saving(),
        ]
        named = {
            "stragglers": self._summary.stragglers,
            "refused": self._summary.refused,
            "corrupt": self._summary.corrupt,
        }
        for name, counts in named.items():
            if counts:
                most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:4]
                parts.append(f"{name} " + ", ".join(f"{worker} ({count}x)" for worker, count in most))
        if self._summary.clipped:
            parts.append(f"{self._summary.clipped} coordinates clipped")
        if (left := self._left(report)) is not None:
            parts.append(f"{seconds(left)} left")
        return ", ".join(parts)

    def _saving(self) -> str:
        summary = self._summary
        waiting = summary.waiting_for_all / max(1, summary.iterations)
        if math.isinf(waiting):
            return "waiting for all would never end"
        least = "" if summary.waiting.known else "at least "
        if summary.saved < 0:
            return f"waiting for all: {least}{seconds(waiting)}"
        return f"waiting for all: {least}{seconds(waiting)} ({summary.saved:.0%} saved)"

    def _left(self, report: Report) -> float | None:
        """Seconds of real time until the end, at the pace so far."""
        done = report.iteration + 1 - self._first
        elapsed = time.monotonic() - self._began
        remaining = self._total - report.iteration - 1
        return elapsed / done * remaining if done and remaining > 0 else None

    def _picture(self) -> Group:
        report = self._report
        if report is None:
            return Group(Text("starting the workers ...", style="dim"))
        head = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._total, completed=report.iteration + 1, width=30)
        left = self._left(report)
        head.add_row(
            Text(f"iteration {report.iteration + 1}/{self._total}", style="bold"),
            bar,
            Text(f"epoch {report.epoch + 1}"),
            Text("" if left is None else f"{seconds(left)} left", style="dim"),
        )
        figures = Table.grid(padding=(0, 2))
        figures.add_row(
            f"loss [bold]{report.loss:.4f}[/]",
            f"[bold]{seconds(self._summary.mean_time)}[/] per iteration (now {seconds(report.time)})",
            self._saving(),
        )
        return Group(head, figures, self._workers(report))

    def _workers(self, report: Report) -> Table:
        """A row per worker: what it did in this iteration, and how often it has straggled."""
        count, straggled = len(report.arrivals), self._summary.stragglers
        shown = sorted(sorted(range(count), key=lambda worker: -straggled.get(worker, 0))[:_SHOWN])
        table = Table.grid(padding=(0, 1))
        for worker in shown:
            share = straggled.get(worker, 0) / max(1, self._summary.iterations)
            filled = round(share * _BAR)
            table.add_row(
                self._names[worker] if self._names else f"worker {worker}",
                _mark(report, worker),
                Text("━" * filled, style="red") + Text("━" * (_BAR - filled), style="green"),
                Text(f"straggled in {share:.0%}", style="dim"),
            )
        if count > len(shown):
            table.add_row(f"and {count - len(shown)} more", "", "", "")
        return table


def seconds(value: float) -> str:
    """A duration as people say it.

    >>> seconds(0.0123), seconds(2.5), seconds(125.0), seconds(7300.0)
    ('12.3 ms', '2.50 s', '2:05 min', '2:01 h')
    """
    if not math.isfinite(value):
        return "–"
    if value < 1:
        return f"{value * 1000:.3g} ms"
    if value < 60:
        return f"{value:.2f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes}:{rest:02d} min"
    return f"{minutes // 60}:{minutes % 60:02d} h"


def _mark(report: Report, worker: int) -> Any:
    if worker in report.lost:
        return Text("✗ lost", style="bold red")
    if worker in report.refused:
        return Text("✗ refused", style="bold red")
    if worker in report.corrupt:
        return Text("✗ corrupt", style="bold red")
    if worker in report.stragglers:
        return Text("○ straggler", style="yellow")
    arrival = float(report.arrivals[worker])
    return Text("  idle" if math.isnan(arrival) else f"● {seconds(arrival)}", style="green")
