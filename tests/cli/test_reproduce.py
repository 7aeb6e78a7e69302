"""``gradcode reproduce``: what it prints, where it writes, how it ends."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.conftest import Cli
from gradcode.cli.app import app
from gradcode.experiments import EXPERIMENTS, Comparisons, Experiment, Request


class Stub:
    """An experiment that remembers what it was asked."""

    def __init__(self, found: float) -> None:
        self.found = found
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Comparisons:
        self.requests.append(request)
        request.tell("drawing [bold]")
        found = Comparisons()
        found.add("time [s]", 2.0, self.found, 0.5, "ms")
        return found


def register(monkeypatch: pytest.MonkeyPatch, stub: Stub) -> None:
    monkeypatch.setitem(EXPERIMENTS, "stub", Experiment("stub", "a stub", "nobody 2024 [1]", stub))


def test_numbers_stand_beside_the_expected_ones_and_the_last_line_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Stub(2.25)
    register(monkeypatch, stub)
    done = CliRunner().invoke(app, ["reproduce", "stub"])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[0] == "drawing [bold]" and "nobody 2024 [1]" in done.output
    (row,) = (line for line in lines if "time [s]" in line and "worst" not in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["time [s]", "2", "2.25", "0.5", "ms"]
    assert lines[-1].startswith("1 of 1 numbers agree; the worst deviation is 0.50 of what is allowed")
    (request,) = stub.requests
    assert request.output == Path("runs/reproduce/stub") and not request.quick and request.data is None


def test_options_reach_the_experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub = Stub(2.0)
    register(monkeypatch, stub)
    arguments = ["reproduce", "stub", "--quick", "--output", str(tmp_path), "--data", "somewhere"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    (request,) = stub.requests
    assert (request.output, request.quick, request.data) == (tmp_path, True, Path("somewhere"))


def test_disagreement_is_a_status(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch, Stub(3.0))
    done = CliRunner().invoke(app, ["reproduce", "stub"])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("0 of 1 numbers agree")


def test_the_experiments_are_listed_and_unknown_ones_refused(cli: Cli) -> None:
    listed = cli("reproduce")
    assert listed.returncode == 0 and "hierarchical" in listed.stdout
    refused = cli("reproduce", "hierarchal")
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert refused.stderr.startswith("error: there is no experiment 'hierarchal'")
    assert "did you mean 'hierarchical'?" in refused.stderr
