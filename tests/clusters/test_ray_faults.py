"""Twelve faulty inputs and states of the Ray cluster: each has an error that says what to do, and leaves nothing."""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from clusters.ray_faults import DEAD, MARK, filling, interrupted, joining, marked, settled, training
from gradcode.errors import GradcodeWarning

TESTS = Path(__file__).parents[1]
HANG = 250.0  # seconds: nothing here takes so long

pytestmark = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="looks at processes through /proc")


@contextmanager
def own_process(function: Callable[[], Any]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The function in a process of its own, which may leave nothing behind, and the mark of all that it starts."""
    mark = uuid.uuid4().hex
    name = function.__name__
    program = f"import json; from clusters import ray_faults as own; print(json.dumps(own.{name}()), flush=True)"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=TESTS,
        env=os.environ
        | {MARK: mark, "PYTHONPATH": os.pathsep.join(filter(None, [str(TESTS), os.environ.get("PYTHONPATH")]))},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        with process:
            try:
                yield process, mark
            finally:
                process.kill()
    finally:
        gone = settled(lambda: not marked(mark), 20)
        left = marked(mark)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    assert gone, left


@functools.cache
def ran(function: Callable[[], dict[str, Any]]) -> tuple[int, str, str]:
    """How the function's process ended, and what it printed."""
    with own_process(function) as (process, mark):
        try:
            out, err = process.communicate(timeout=HANG)
        except subprocess.TimeoutExpired:
            for pid in marked(mark):
                os.kill(pid, signal.SIGKILL)
            out, err = process.communicate()
            err += f"\nnot done after {HANG:g} s"
    return process.returncode, out, err


def told_by(function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    code, out, err = ran(function)
    assert code == 0, err
    told: dict[str, Any] = json.loads(out.splitlines()[-1])
    return told


CASES = [
    (joining, "dead", "GradcodeError", rf"address='{DEAD}'.*refused.*`ray start --head`.*\"HOST:6379\".*address=None"),
    (joining, "auto", "GradcodeError", rf"address='auto'.*nobody answers at {DEAD}.*`ray start --head`"),
    (joining, "nameless", "GradcodeError", r"no-such-host.invalid:6379.*`ray start --head`"),
    (joining, "odd", "GradcodeError", r"address='6379'.*\"HOST:6379\""),
    (joining, "nothing runs", "GradcodeError", r"Could not find any running Ray instance.*`ray start --head`"),
    (joining, "version", "GradcodeError", r"Version mismatch.*1\.2\.3.*3\.4\.5.*same versions of Ray and Python"),
    (joining, "too large", "WorkerError", r"\[0\] were not ready.*num_cpus=2.*[Aa]sk for less with resources="),
    (joining, "too many", "WorkerError", r"3 workers.*3 CPU \(it has 2\).*[Aa]sk for less with resources="),
    (training, "too many GPUs", "GradcodeError", r"512 GPU \(it has \d+\).*ask for less with resources="),
    (training, "runtime_env", "GradcodeError", r"runtime_env={.*no/such/folder must be an existing directory"),
    (training, "lock", "GradcodeError", r"dataset.*cannot pickle '_thread.lock' object.*top of a module"),
    (training, "generator", "GradcodeError", r"dataset.*cannot pickle 'generator' object.*top of a module"),
    (training, "state", "GradcodeError", r"dataset.*the samples stay in this room.*top of a module"),
    (training, "model", "GradcodeError", r"model.*cannot pickle 'generator' object.*top of a module"),
    (training, "module", "WorkerError", r"worker \d could not start.*No module named 'only_here'.*runtime_env="),
    (training, "NaN", "NonFiniteLoss", r"the reply of worker 1.*not finite.*Look at the learning rate"),
    (training, "misshapen", "WorkerError", r"worker 1 sent.*\(8,\) of float64 in place of \(9,\) of float64"),
    (training, "all lost", "Shortfall", r"\[0, 1\] are lost.*start more workers"),
    (filling, "dataset", "GradcodeError", r"no room.*--object-store-memory"),
    (filling, "parameters", "GradcodeError", r"no room.*--object-store-memory"),
    (filling, "reply", "WorkerError", r"(?i)worker 0 .*full"),
]


@pytest.mark.parametrize(
    ("group", "case", "kind", "error"), CASES, ids=[f"{own[0].__name__}-{own[1]}" for own in CASES]
)
def test_an_error_says_what_to_do_and_nothing_is_left(
    group: Callable[[], dict[str, Any]], case: str, kind: str, error: str
) -> None:
    told = told_by(group)[case]
    assert told.get("kind") == kind
    assert re.search(error, told["error"], re.DOTALL)
    assert len(told["error"]) < 3000
    assert not told["left"]
    assert told["seconds"] < 90  # Ray by itself would try for minutes to reach an address where nobody is


def test_what_a_running_ray_lacks_is_said_while_it_waits() -> None:
    (warning,) = told_by(joining)["too many"]["warnings"]
    assert re.search(r"3 CPU \(it has 2\).*waiting up to 1 s for nodes", warning)


def test_replies_that_cannot_be_used_are_dropped_and_their_workers_excluded() -> None:
    told = told_by(training)["tolerated"]
    assert "error" not in told
    assert told["actors"] == 6 and not told["left"]
    assert told["exact"] and told["worst"] < 1e-12
    assert told["alive"] == [0, 2, 3, 5]
    refused = [worker for workers in told["refused"] for worker in workers]
    assert {worker: refused.count(worker) for worker in refused} == {1: 3, 4: 3}
    assert not told["refused"][-1]
    patterns = [
        r"(?s)refused in iteration \d.*worker 1 holds numbers that are not finite",
        r"(?s)refused in iteration \d.*worker 4 is an array \(8,\) of float64 in place of \(9,\)",
        r"worker 1 is excluded: its last 3 replies were refused",
        r"worker 4 is excluded: its last 3 replies were refused",
    ]
    for pattern in patterns:
        assert sum(bool(re.search(pattern, warning)) for warning in told["warnings"]) == 1
    assert len(told["warnings"]) == len(patterns)


def test_without_ray_it_says_what_to_install(tmp_path: Path) -> None:
    config = tmp_path / "train.toml"
    config.write_text(
        'epochs = 1\nbatch_size = 8\noutput = "run"\n[model]\nname = "mlp"\n[data]\nname = "synthetic"\n'
        '[optimizer]\nname = "SGD"\nlr = 0.1\n[scheme]\nname = "uncoded"\n[cluster]\nkind = "ray"\nworkers = 2\n'
    )
    program = (
        "import sys; sys.modules['ray'] = None\n"
        "import gradcode, gradcode.clusters, gradcode.cli\n"
        "try: gradcode.RayCluster\n"
        "except gradcode.GradcodeError as error: print(error)\n"
        "sys.argv = ['gradcode', 'train', 'train.toml']\n"
        "gradcode.cli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert "pip install 'gradcode[ray]'" in done.stdout
    assert done.returncode == 1
    assert "pip install 'gradcode[ray]'" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_port_that_is_not_rays_is_waited_for_aloud(monkeypatch: pytest.MonkeyPatch) -> None:
    """``ray.init`` waits for minutes there, and cannot be told not to: somebody should say so."""
    ray_connection = pytest.importorskip("gradcode.clusters.ray_connection")
    monkeypatch.setattr(ray_connection, "_ANSWER", 0.05)
    monkeypatch.setattr(ray_connection.ray, "init", lambda **_: time.sleep(0.5))
    with socket.create_server(("127.0.0.1", 0)) as dashboard:
        address = f"127.0.0.1:{dashboard.getsockname()[1]}"
        with pytest.warns(GradcodeWarning, match=rf"{address}.*port 6379 by default") as caught:
            ray_connection._connect(address, 1, None)
    assert len(caught) == 1


def test_ctrl_c_and_the_end_of_the_master_leave_no_actor() -> None:
    def line(process: subprocess.Popen[str]) -> Any:
        assert process.stdout is not None and process.stderr is not None
        text = process.stdout.readline()
        return json.loads(text or process.stderr.read())

    with own_process(interrupted) as (process, mark):
        assert len(line(process)) == 2
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        told = line(process)
        assert told["interrupted"] and not told["left"], told
        pids = line(process)
        assert set(pids) < set(marked(mark))
        process.kill()
        assert settled(lambda: not set(pids) & set(marked(mark)), 60)
        # Two agents of Ray's own end by themselves, minutes later.
        assert settled(lambda: all("Agent" in line for line in marked(mark).values()), 60), marked(mark)
        for pid in marked(mark):
            os.kill(pid, signal.SIGKILL)
