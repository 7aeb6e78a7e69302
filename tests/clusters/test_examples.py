"""The example for Ray as a user runs it: by script and by configuration, with the local cluster's parameters."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import gradcode
from gradcode.cli.config import load
from gradcode.cli.run import run
from gradcode.training import checkpoint

EXAMPLES = Path(__file__).parents[2] / "examples"
HANG = 240.0  # seconds: far more than it takes


@pytest.fixture
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("ray_digits", EXAMPLES / "ray_digits.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_script_trains_alike_on_both_clusters(tmp_path: Path) -> None:
    command = [sys.executable, str(EXAMPLES / "ray_digits.py")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=HANG, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    local, _, on_ray = said.partition("Ray\n")
    assert local.count("epoch") == 5 and local.splitlines()[1:] == on_ray.splitlines()[:-1]
    assert float(said.split()[-1]) < 1e-5


def test_the_script_says_where_the_parameters_differ(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    found = iter([torch.ones(3), torch.tensor([1.0, 1.0, 1.0001])])
    monkeypatch.setattr(script, "train", lambda cluster: next(found))
    monkeypatch.setattr(sys, "argv", ["ray_digits.py"])
    with pytest.raises(SystemExit, match="should give the same parameters"):
        script.main()


@pytest.mark.usefixtures("kept_actors")
def test_the_configuration_is_the_same_training(script: ModuleType, tmp_path: Path) -> None:
    run(load(EXAMPLES / "ray_digits.toml", []), tmp_path / "run")
    state = checkpoint.load(tmp_path / "run" / "checkpoint.safetensors")["model"]
    found = nn.utils.parameters_to_vector(list(state.values()))
    expected = script.train(gradcode.SimulatedCluster(script.WORKERS))
    assert float((found - expected).norm() / expected.norm()) < 1e-5
