"""Ray on several nodes: real raylets on one machine, one of which is taken away and given back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gradcode.cli.config import load
from gradcode.cli.run import run
from gradcode.training import checkpoint

TESTS = Path(__file__).parents[1]


def test_losing_a_node_costs_no_iteration_and_a_new_one_is_taken_in() -> None:
    """2 of 8 workers vanish with their node in the middle of an iteration, under a tolerance of 2."""
    command = [sys.executable, "-m", "clusters.node_loss"]
    ran = subprocess.run(command, cwd=TESTS, capture_output=True, text=True, timeout=250)
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.strip().splitlines()[-1])
    victims = set(told["victims"])
    assert len(victims) == 2
    # Nothing changes in the numbers, whoever was there.
    assert told["error"] < 1e-6
    assert all(seen["exact"] for seen in told["seen"])
    # They were lost, found no room, and the others went on.
    lost = {worker for seen in told["seen"][: told["without"]] for worker in seen["lost"]}
    assert set(told["buried"]) == victims == set(told["away"])
    assert lost == victims
    for seen in told["seen"][4 : told["without"]]:
        assert not victims & set(seen["answered"])
    # In the first iteration that began with their actors ready they had work.
    assert told["back"] > 0
    worked = told["seen"][told["back"]]["worked"] + told["seen"][told["back"] + 1]["worked"]
    assert victims <= set(worked)


CONFIG = """
seed = 3
epochs = 3
batch_size = 32
output = "{output}"
[model]
name = "mlp"
[data]
name = "synthetic"
samples = 640
features = 5
[optimizer]
name = "SGD"
lr = 0.1
[checkpoint]
every = 1
[scheme]
name = "coded"
[scheme.code]
name = "fractional_repetition"
stragglers = 1
[cluster]
kind = "{kind}"
workers = 2
delays = 0.05
"""


def test_losing_the_masters_own_node_loses_no_iteration(tmp_path: Path) -> None:
    """Parameters have their first copy there. Ray ends the program, and the run goes on from its checkpoint."""
    configs = {kind: tmp_path / f"{kind}.toml" for kind in ("ray", "simulated")}
    for kind, path in configs.items():
        path.write_text(CONFIG.format(kind=kind, output=(tmp_path / kind).as_posix()))

    def gradcode(*options: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "gradcode.cli", "train", str(configs["ray"]), *options]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    kept = tmp_path / "ray" / "checkpoint.safetensors"
    master = gradcode()
    wait_for(kept.exists, master)
    started = children_called("raylet", master.pid)
    assert len(started) == 1
    os.kill(started[0], signal.SIGKILL)
    assert master.wait(60) != 0
    interrupted = checkpoint.load(kept)["session"]["iteration"]
    assert 0 < interrupted < 60
    again = gradcode("--resume")
    run(load(configs["simulated"], []), tmp_path / "simulated")
    output, _ = again.communicate(timeout=120)
    assert again.returncode == 0, output
    found, wanted = (
        torch.cat([value.flatten() for value in checkpoint.load(tmp_path / kind / kept.name)["model"].values()])
        for kind in ("ray", "simulated")
    )
    assert float((found - wanted).norm() / wanted.norm()) < 1e-6


def wait_for(condition: Callable[[], bool], alive: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        assert alive is None or alive.poll() is None, alive.communicate()[0]
        time.sleep(0.05)


def children_called(name: str, parent: int) -> list[int]:
    listed = subprocess.run(["ps", "-eo", "pid,ppid,comm"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()[1:]]
    return [int(row[0]) for row in rows if int(row[1]) == parent and row[2] == name]
