"""Configurations to try, and the command line as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

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
def cli() -> Cli:
    """``gradcode ...`` in a process of its own."""

    def run(*arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gradcode.cli", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **options)  # type: ignore[call-overload]

    return run
