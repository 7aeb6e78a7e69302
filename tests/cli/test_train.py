"""``gradcode train``: what it leaves, how it resumes, and how it ends when it cannot go on."""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from gradcode.cli.config import load
from gradcode.cli.run import run
from gradcode.delays import Delays, Pareto
from gradcode.errors import CheckpointError, ConfigError, GradcodeError
from gradcode.reporting import Progress, read_metrics, read_trace
from gradcode.training import checkpoint

from .conftest import Cli


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def train(config: Path, *overrides: str, folder: str = "run", **options: bool) -> Path:
    path = config.parent / folder
    run(load(config, overrides), path, **options)
    return path


def numbers(folder: Path) -> tuple[list[Any], dict[str, torch.Tensor]]:
    """What must be the same however often a run was interrupted."""
    keys = ("iteration", "epoch", "loss", "time", "stragglers", "arrivals", "computations", "bytes_up")
    records = [[values[key] for key in keys] for values in read_metrics(folder / "metrics.jsonl")]
    return records, checkpoint.load(folder / "checkpoint.safetensors")["model"]


def same(first: Path, second: Path) -> None:
    (records, model), (others, other) = numbers(first), numbers(second)
    assert records == others
    assert model.keys() == other.keys()
    assert all(torch.equal(model[name], other[name]) for name in model)
    starts = [[values["start"] for values in read_metrics(folder / "metrics.jsonl")] for folder in (first, second)]
    assert starts[0] == pytest.approx(starts[1])


def test_a_run_leaves_everything(config: Path) -> None:
    folder = train(config)
    records = read_metrics(folder / "metrics.jsonl")
    assert [values["iteration"] for values in records] == list(range(len(records))) and len(records) == 8
    assert all(len(values["arrivals"]) == 4 and values["exact"] for values in records)
    assert any(None in values["arrivals"] for values in records)
    json.loads((folder / "trace.json").read_text())
    assert json.loads((folder / "resolved.json").read_text())["optimizer"]["lr"] == 0.1
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["iterations"] == 8 and summary["epochs"] == 2
    assert sum(summary["stragglers"]) == sum(len(values["stragglers"]) for values in records)
    compute, _ = Delays(Pareto(shape=2.0, scale=0.1)).table(workers=4, seed=3).window(0, 8)
    slowest = compute.max(axis=(1, 2))
    assert summary["mean_waiting_for_all"] == pytest.approx(slowest.mean())
    assert summary["saved"] == pytest.approx(1 - summary["mean_time"] / slowest.mean())
    assert checkpoint.load(folder / "checkpoint.safetensors")["session"]["iteration"] == 8


def test_local_cluster_gives_the_same_training(local_config: Path) -> None:
    folder = train(local_config)
    local = [values["loss"] for values in read_metrics(folder / "metrics.jsonl")]
    text = local_config.read_text().replace('kind = "local"', 'kind = "simulated"')
    local_config.write_text(text)
    simulated = train(local_config, folder="simulated")
    assert local == pytest.approx([values["loss"] for values in read_metrics(simulated / "metrics.jsonl")], rel=1e-5)
    names = {event["name"] for event in read_trace(folder / "trace.json") if event["tid"] > 0}
    assert {"compute", "idle", "thread_name"} <= names


def test_resume_after_an_epoch_equals_uninterrupted(config: Path) -> None:
    whole = train(config, folder="whole")
    parts = train(config, "epochs=1", folder="parts")
    assert len(read_metrics(parts / "metrics.jsonl")) == 4
    train(config, folder="parts", resume=True)
    same(whole, parts)


@pytest.mark.parametrize("every", [None, 3])
def test_resume_after_an_interruption_equals_uninterrupted(
    config: Path, monkeypatch: pytest.MonkeyPatch, every: int | None
) -> None:
    overrides = [] if every is None else [f"checkpoint.every={every}"]
    whole = train(config, *overrides, folder="whole")

    def interrupt(self: Progress, report: Any) -> None:
        if report.iteration == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "__call__", interrupt)
        with pytest.raises(KeyboardInterrupt, match="go on with --resume"):
            train(config, *overrides, folder="parts")
    parts = config.parent / "parts"
    assert len(read_metrics(parts / "metrics.jsonl")) == 6
    json.loads((parts / "trace.json").read_text())
    train(config, *overrides, folder="parts", resume=True)
    same(whole, parts)
    spans = [event for event in read_trace(parts / "trace.json") if event["name"] == "wait"]
    assert [event["args"]["iteration"] for event in spans] == list(range(8))


def test_a_worker_that_never_answers(config: Path) -> None:
    delays = 'cluster.delays={law="persistent", base={law="pareto", shape=2.0, scale=0.1}, factors={2=inf}}'
    folder = train(config, delays, "epochs=1")
    assert json.loads((folder / "summary.json").read_text())["mean_waiting_for_all"] is None
    resolved = json.loads((folder / "resolved.json").read_text())
    assert resolved["cluster"]["delays"]["factors"] == {"2": "inf"}
    train(config, delays, resume=True)
    assert all(2 in values["stragglers"] for values in read_metrics(folder / "metrics.jsonl"))


def test_a_run_is_not_written_over(config: Path) -> None:
    folder = train(config)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError, match=r"--resume.*--output.*--overwrite"):
        train(config)
    assert (folder / "metrics.jsonl").read_bytes() == before
    train(config, "epochs=1", overwrite=True)
    assert len(read_metrics(folder / "metrics.jsonl")) == 4


def test_overwrite_loses_nothing_if_the_new_run_cannot_begin(config: Path) -> None:
    folder = train(config)
    before = (folder / "metrics.jsonl").read_bytes()
    with pytest.raises(ConfigError):
        train(config, "batch_size=2", overwrite=True)
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_resume_of_another_configuration_names_the_key(config: Path) -> None:
    train(config)
    with pytest.raises(CheckpointError, match=r"optimizer\.lr was 0\.1, is 0\.2"):
        train(config, "optimizer.lr=0.2", resume=True)


def test_resume_without_a_run(config: Path) -> None:
    with pytest.raises(CheckpointError, match="leave out --resume"):
        train(config, resume=True)


@pytest.mark.parametrize("damage", ["cut", "foreign", "empty"])
def test_a_damaged_checkpoint_costs_nothing_else(config: Path, damage: str) -> None:
    from safetensors.torch import save_file

    folder = train(config)
    file, metrics = folder / "checkpoint.safetensors", (folder / "metrics.jsonl").read_bytes()
    if damage == "foreign":
        save_file({"weight": torch.zeros(3)}, file)
    else:
        file.write_bytes(file.read_bytes()[: 100 if damage == "cut" else 0])
    with pytest.raises(CheckpointError, match=r"checkpoint\.safetensors"):
        train(config, resume=True)
    assert (folder / "metrics.jsonl").read_bytes() == metrics


def test_a_loss_that_is_not_finite(cli: Cli, config: Path) -> None:
    ended = cli("train", config, "--set", "optimizer.lr=1e30")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: the loss or the gradient of iteration")
    assert "Traceback" not in ended.stderr and ended.stderr.count("\n") == 1


@pytest.mark.parametrize("limit", [500, 3000])
def test_a_full_disk(process: Cli, config: Path, limit: int) -> None:
    """Files cannot grow beyond ``limit`` bytes: below a checkpoint's size, and below that of the metrics."""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    ended = process("train", config, preexec_fn=full)
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: cannot write") and "Make room" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_full_disk_keeps_the_checkpoint(process: Cli, config: Path) -> None:
    folder = train(config, "epochs=1")
    size = (folder / "metrics.jsonl").stat().st_size + 200
    kept = (folder / "checkpoint.safetensors").read_bytes()

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    ended = process("train", config, "--resume", preexec_fn=full)
    assert ended.returncode == 1 and "Make room" in ended.stderr and "Traceback" not in ended.stderr
    assert (folder / "checkpoint.safetensors").read_bytes() == kept
    assert len(read_metrics(folder / "metrics.jsonl")) >= 4


def test_ctrl_c(local_config: Path, process: Cli) -> None:
    folder = local_config.parent / "run"
    command = [sys.executable, "-m", "gradcode.cli", "train", str(local_config), "--set", "epochs=100000"]
    master = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        while not (folder / "metrics.jsonl").exists() or len((folder / "metrics.jsonl").read_bytes()) < 4000:
            assert master.poll() is None, master.communicate()[1]
            time.sleep(0.05)
        family = _descendants(master.pid)
        assert len(family) >= 4
        master.send_signal(signal.SIGINT)
        _, errors = master.communicate(timeout=60)
    finally:
        master.kill()
    assert master.returncode == 130
    assert errors == "interrupted; go on with --resume\n"
    left = family & _all_processes().keys()
    assert not left
    json.loads((folder / "trace.json").read_text())
    done = len(read_metrics(folder / "metrics.jsonl"))
    ended = process("train", local_config, "--resume", "--set", f"epochs={done // 4 + 2}")
    assert ended.returncode == 0, ended.stderr
    assert [v["iteration"] for v in read_metrics(folder / "metrics.jsonl")] == list(range((done // 4 + 2) * 4))


def _all_processes() -> dict[int, int]:
    """Process -> parent, of those that are not merely waiting to be reaped."""
    listed = subprocess.run(["ps", "-eo", "pid=,ppid=,stat="], capture_output=True, text=True, check=True)
    rows = [line.split() for line in listed.stdout.splitlines()]
    return {int(pid): int(parent) for pid, parent, state in rows if not state.startswith("Z")}


def _descendants(pid: int) -> set[int]:
    parents, family = _all_processes(), {pid}
    while grown := {child for child, parent in parents.items() if parent in family} - family:
        family |= grown
    return family - {pid}


def test_usage_errors_end_with_2(cli: Cli, config: Path) -> None:
    assert cli("train").returncode == 2
    assert cli("train", config, "--nonsense").returncode == 2
    both = cli("train", config, "--resume", "--overwrite")
    assert both.returncode == 2 and "Traceback" not in both.stderr


def test_wrong_input_ends_with_1_and_one_message(cli: Cli, config: Path) -> None:
    ended = cli("train", config, "--set", "scheme.code.stragglers=4")
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"error: {config} with --set: scheme.code.stragglers = 4 must be")
    assert "Traceback" not in ended.stderr and ended.stdout == ""


@pytest.mark.parametrize("arguments", [["--help"], ["codes"], ["train", "--help"]])
def test_light_commands_import_no_torch(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom gradcode.cli import main\n"
        "assert not {'typer', 'torch', 'rich'} & sys.modules.keys()\n"
        f"sys.argv = ['gradcode', *{arguments!r}]\n"
        "try:\n    main()\nfinally:\n    print('TORCH' if 'torch' in sys.modules else 'LIGHT')\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.endswith("LIGHT\n")


def test_other_platforms_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from gradcode.cli import main

    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(SystemExit, match="Linux and macOS"):
        main()


def test_errors_of_the_run_folder(config: Path) -> None:
    (config.parent / "run").write_text("a file")
    with pytest.raises(GradcodeError, match="is a file"):
        train(config)
