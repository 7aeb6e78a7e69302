"""Listeners write what the reports say, whole after every iteration and however training ends."""

from __future__ import annotations

import io
import json
import math
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gradcode.delays import Delays, DelayTable, Deterministic
from gradcode.errors import GradcodeError
from gradcode.protocol import Report, Work
from gradcode.reporting import (
    MetricsFile,
    Progress,
    Summary,
    TraceFile,
    WaitingForAll,
    plots,
    read_metrics,
    read_trace,
    record,
)
from gradcode.reporting.progress import seconds

NAN = float("nan")


def report(number: int, start: float | None = None, **changes: Any) -> Report:
    """One second per iteration: worker 0 answers after half of it, 1 at its end, 2 is abandoned, 3 has no work."""
    values: dict[str, Any] = {
        "iteration": number,
        "epoch": number // 10,
        "start": 1.25 * number if start is None else start,
        "time": 1.0,
        "loss": 1.0 / (number + 1),
        "arrivals": np.array([0.5, 1.0, NAN, NAN]),
        "stragglers": (2,),
        "lost": (),
        "decode_time": 0.125,
        "master_time": 0.01,
        "decode_error": 1e-7,
        "exact": True,
        "bytes_up": 80,
        "bytes_down": 120,
        "computations": 3,
        "overruns": 1,
        "order_statistic": 0.875,
        "fluid": 0.25,
        "work": (
            Work(1, 0.0, 1.0, "compute"),
            Work(0, 0.0, 0.5, "compute"),
            Work(2, -0.125, 1.0, "abandon"),
        ),
    }
    return Report(**(values | changes))


# metrics.jsonl


def test_a_record_holds_everything_but_the_work() -> None:
    values = record(report(3))
    assert values.keys() == (set(Report.__slots__) - {"work"}) | {"latest_work"}
    assert values["arrivals"] == [0.5, 1.0, None, None] and values["stragglers"] == [2]
    assert record(report(3, refused=(1, 2)))["refused"] == [1, 2] and values["refused"] == []
    assert record(report(3, corrupt=(3,)))["corrupt"] == [3] and values["corrupt"] == []
    assert values["latest_work"] == 1.0


def test_what_json_cannot_hold_is_null(tmp_path: Path) -> None:
    with MetricsFile(tmp_path / "metrics.jsonl") as metrics:
        metrics(report(0, decode_error=math.inf, order_statistic=NAN, work=()))
    text = (tmp_path / "metrics.jsonl").read_text()
    values = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert values["decode_error"] is None and values["order_statistic"] is None and values["latest_work"] is None


def test_every_line_is_there_at_once(tmp_path: Path) -> None:
    metrics = MetricsFile(tmp_path / "metrics.jsonl")
    for number in range(3):
        metrics(report(number))
        assert len(read_metrics(tmp_path / "metrics.jsonl")) == number + 1
    metrics.close()
    metrics.close()


def test_a_resumed_file_is_cut_and_its_clock_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    with MetricsFile(path) as metrics:
        for number in range(5):
            metrics(report(number))
    with path.open("a") as file:
        file.write('{"iteration": 5, "epo')  # a crash in the middle of a line
    with MetricsFile(path, keep=3) as metrics:
        assert [values["iteration"] for values in metrics.kept] == [0, 1, 2]
        metrics(report(3, start=0.25))
    records = read_metrics(path)
    assert [values["iteration"] for values in records] == [0, 1, 2, 3]
    assert records[3]["start"] == records[2]["start"] + records[2]["time"] + 0.25


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"iteration": 0}\nnonsense\n{"iteration": 2}\n')
    with pytest.raises(GradcodeError, match=r"line 2.*nonsense"):
        read_metrics(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
@pytest.mark.parametrize("kind", [MetricsFile, TraceFile])
def test_a_full_disk_is_said_once_and_closing_is_quiet(tmp_path: Path, kind: type[MetricsFile | TraceFile]) -> None:
    listener = kind(tmp_path / "file")
    os.dup2(os.open("/dev/full", os.O_WRONLY), listener._file._file.fileno())
    with pytest.raises(GradcodeError, match=r"cannot write .*file: No space left.*--resume"):
        listener(report(0))
    listener._file.close()


# trace.json


def written(path: Path, count: int = 3) -> list[dict[str, Any]]:
    with TraceFile(path) as trace:
        for number in range(count):
            trace(report(number))
    events: list[dict[str, Any]] = json.loads(path.read_text())
    return events


def test_the_trace_is_valid_chrome_trace_format(tmp_path: Path) -> None:
    events = written(tmp_path / "trace.json")
    for event in events:
        assert event["ph"] in ("X", "M") and isinstance(event["pid"], int) and isinstance(event["tid"], int)
        if event["ph"] == "X":
            assert event["ts"] >= 0 and event["dur"] >= 0 and event["args"]["iteration"] in range(3)
    names = {event["args"]["name"] for event in events if event["name"] == "thread_name"}
    assert names == {"master", "worker 0", "worker 1", "worker 2", "worker 3"}
    assert events == read_trace(tmp_path / "trace.json")


def test_each_track_is_without_gaps_and_overlaps(tmp_path: Path) -> None:
    events = [event for event in written(tmp_path / "trace.json") if event["ph"] == "X"]
    kinds = {0: {"wait", "decode", "step"}, 1: {"compute", "idle"}, 2: {"compute", "idle"}}
    kinds |= {3: {"abandon", "idle"}, 4: {"idle"}}
    for tid, expected in kinds.items():
        track = sorted((e["ts"], e["ts"] + e["dur"], e["name"]) for e in events if e["tid"] == tid)
        assert {name for _, _, name in track} == expected
        assert all(before[1] == after[0] for before, after in pairwise(track))


def test_spans_are_microseconds_of_the_clusters_clock(tmp_path: Path) -> None:
    events = written(tmp_path / "trace.json")
    found = {(e["tid"], e["name"]): (e["ts"], e["dur"]) for e in events if e.get("args", {}).get("iteration") == 1}
    assert found[1, "compute"] == (1.25e6, 0.5e6)
    assert found[0, "wait"] == (1.25e6, 1e6)
    assert found[0, "decode"] == (2.25e6, 0.125e6)
    assert found[0, "step"] == (2.375e6, 0.125e6)
    assert found[3, "abandon"] == (1.125e6, 1.125e6)  # it began before the iteration did


def test_a_virtual_clock_leaves_no_room_for_decoding(tmp_path: Path) -> None:
    with TraceFile(tmp_path / "trace.json") as trace:
        for number in range(3):
            trace(report(number, start=float(number)))
    decodes = [event for event in read_trace(tmp_path / "trace.json") if event["name"] == "decode"]
    assert [event["dur"] for event in decodes] == [0.0, 0.0, 0.125e6]
    assert decodes[0]["args"]["decode_seconds"] == 0.125


def test_a_crashed_trace_can_be_read_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "trace.json"
    crashed = TraceFile(path)
    for number in range(5):
        crashed(report(number))
    assert json.loads(path.read_text().rstrip().rstrip(",") + "]")  # the array form without its end
    with path.open("a") as file:
        file.write(',\n{"name": "comp')
    with TraceFile(path, keep=3) as trace:
        trace(report(3, start=0.0))
    events = json.loads(path.read_text())
    waits = [event for event in events if event["name"] == "wait"]
    assert [event["args"]["iteration"] for event in waits] == [0, 1, 2, 3]
    assert waits[3]["ts"] >= waits[2]["ts"] + waits[2]["dur"]
    assert sum(event["name"] == "thread_name" for event in events) == 5


def test_the_trace_is_bounded(tmp_path: Path) -> None:
    with TraceFile(tmp_path / "trace.json", limit=60) as trace:
        for number in range(100):
            trace(report(number))
    events = json.loads((tmp_path / "trace.json").read_text())
    assert len(events) == 61 and "full" in events[-1]["name"] and events[-1]["ph"] == "i"


# Sums and progress


def test_a_summary_adds_up() -> None:
    summary = Summary()
    for number in range(4):
        lost, refused = (3,) if number == 1 else (), (1, 2) if number == 3 else ()
        corrupt = (0,) if number > 1 else ()
        summary(
            report(
                number, stragglers=(2,) if number else (2, 3), lost=lost, refused=refused, corrupt=corrupt, clipped=5
            )
        )
    values = summary.as_dict()
    assert values["iterations"] == 4 and values["mean_time"] == 1.0
    assert values["stragglers"] == [0, 0, 4, 1] and values["lost"] == [0, 0, 0, 1]
    assert values["refused"] == [0, 1, 1, 0] and values["corrupt"] == [2, 0, 0, 0]
    assert values["bytes_up"] == 320 and values["computations"] == 12 and values["clipped"] == summary.clipped == 20
    assert values["overruns_share"] == pytest.approx(1 / 3)
    assert values["mean_fluid"] == 0.25 and values["inexact_iterations"] == 0
    json.dumps(values, allow_nan=False)


def test_a_summary_of_records_is_that_of_reports() -> None:
    reports, records = Summary(), Summary()
    for number in range(3):
        reports(report(number))
        records.add(json.loads(json.dumps(record(report(number)))))
    assert reports.as_dict() == records.as_dict()


def test_waiting_for_all_with_known_delays() -> None:
    table = DelayTable.from_array([[1.0, 2.0, 7.0, 3.0], [1.0, 1.0, 1.0, 4.0]])
    waiting = WaitingForAll(table, workers=4, partitions=8)
    summary = Summary(waiting)
    summary(report(0))
    summary(report(1))
    assert waiting.known
    assert summary.waiting_for_all == 2 * 7.0 + 2 * 4.0  # two partitions per worker
    assert summary.saved == pytest.approx(1 - 2.0 / 22.0)


def test_waiting_for_a_worker_that_never_answers() -> None:
    table = Delays(Deterministic(1.0)).table(4, 0)
    assert WaitingForAll(table, 4, 4)(record(report(0))) == 1.0
    dead = DelayTable.from_array([[1.0, 1.0, 1.0, math.inf]])
    summary = Summary(WaitingForAll(dead, 4, 4))
    summary(report(0))
    assert summary.saved == 1.0 and summary.as_dict()["mean_waiting_for_all"] is None


def test_waiting_for_all_without_delays_is_what_was_seen() -> None:
    late = report(0, work=(Work(2, 0.0, 3.5, "abandon"),))
    waiting = WaitingForAll()
    assert not waiting.known and waiting(record(late)) == 3.5 and waiting(record(report(0, work=()))) == 1.0


@pytest.mark.parametrize("terminal", [False, True])
def test_progress_says_what_matters(terminal: bool) -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=100, color_system=None)
    with Progress(3, console=console, interval=0.0) as progress:
        for number in range(3):
            progress(report(number))
        progress.say("epoch 1/1: accuracy 0.5")
    shown = text.getvalue()
    for expected in ("iteration 3/3", "loss 0.3333", "1.00 s per iteration", "waiting for all", "epoch 1/1: accuracy"):
        assert expected in shown.replace("\x1b[1m", "")
    assert ("2 (3x)" in shown) != terminal and ("straggled in 100%" in shown) == terminal


@pytest.mark.parametrize("why", ["refused", "corrupt"])
@pytest.mark.parametrize(("terminal", "said"), [(False, "{} 2 (1x)"), (True, "✗ {}")])
def test_progress_names_workers_whose_replies_are_not_used(terminal: bool, said: str, why: str) -> None:
    text = io.StringIO()
    with Progress(1, console=Console(file=text, force_terminal=terminal, width=200, color_system=None)) as progress:
        progress(report(0, **{why: (2,)}))
    assert said.format(why) in text.getvalue()


def test_plain_lines_are_few() -> None:
    text = io.StringIO()
    with Progress(1000, console=Console(file=text, width=200), interval=3600.0) as progress:
        for number in range(1000):
            progress(report(number))
    assert text.getvalue().count("\n") == 1


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0005, "0.5 ms"), (0.25, "250 ms"), (59.0, "59.00 s"), (60.0, "1:00 min"), (7261.0, "2:01 h"), (math.inf, "–")],
)
def test_seconds(value: float, text: str) -> None:
    assert seconds(value) == text


# Pictures


def test_plots_draw_what_the_reports_say(tmp_path: Path) -> None:
    runs = {"uncoded": [report(n) for n in range(4)], "coded": [report(n, start=0.5 * n, time=0.4) for n in range(4)]}
    curves = {"uncoded": ([0.0, 1.0], [0.1, 0.9]), "coded": ([0.0, 0.5], [0.1, 0.9])}
    figures = {
        "timeline": plots.timeline(runs, seconds=6.0),
        "curves": plots.curves(curves, "accuracy"),
        "arrivals": plots.arrivals(runs),
        "comparison": plots.comparison(runs, curves, "accuracy", level=0.5),
    }
    for name, figure in figures.items():
        plots.save(figure, tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert all(axes.get_ylabel() for axes in figure.get_axes())
        assert figure.get_axes()[-1].get_xlabel()
    bars = figures["timeline"].get_axes()[0].collections
    widths = [path.get_extents().width for collection in bars for path in collection.get_paths()]
    assert widths.count(0.5) == 4  # worker 0 in each iteration


def test_a_worker_that_never_arrives_can_be_plotted(tmp_path: Path) -> None:
    figure = plots.arrivals({"coded": [report(0)]})
    plots.save(figure, tmp_path / "arrivals.svg")
    labels = [label.get_text() for label in figure.get_axes()[0].get_xticklabels()]
    assert labels == ["0\n0% late", "1\n0% late", "2\n100% late", "3\n0% late"]
