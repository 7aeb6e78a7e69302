"""Configurations to try, and the command line as a user runs it."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from gradcode.cli import main

SIMULATED = """
seed = 3
epochs = 2
batch_size = 32
output = "{output}"
[model]
name = "mlp"
arguments = {{ hidden = [8], dropout = 0.2 }}
[data]
name = "synthetic"
samples = 160
features = 5
[optimizer]
name = "SGD"
lr = 0.1
momentum = 0.9
[scheduler]
name = "StepLR"
step_size = 1
[scheme]
name = "coded"
[scheme.code]
name = "fractional_repetition"
stragglers = 1
[cluster]
kind = "simulated"
workers = 4
[cluster.delays]
law = "pareto"
shape = 2.0
scale = 0.1
"""

Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A quick training on a simulated cluster; its run folder is ``run`` beside it."""
    path = tmp_path / "train.toml"
    path.write_text(SIMULATED.format(output=(tmp_path / "run").as_posix()))
    return path


@pytest.fixture
def local_config(config: Path) -> Path:
    """The same on a local cluster."""
    text = config.read_text().replace('kind = "simulated"', 'kind = "local"').replace("scale = 0.1", "scale = 0.01")
    config.write_text(text)
    return config


@pytest.fixture
def cli(monkeypatch: pytest.MonkeyPatch) -> Cli:
    """``gradcode ...``, its output and status, without the seconds in which a process of its own would load torch."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = ["gradcode", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", command)
        out, err = io.StringIO(), io.StringIO()
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            main()
        status = ended.value.code
        assert status is None or isinstance(status, int)
        return subprocess.CompletedProcess(command, status or 0, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def process() -> Cli:
    """The same in a process of its own, where that matters."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gradcode.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload]

    return run
