"""A training in a run folder: files, listeners, resuming."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from gradcode.cli import build
from gradcode.cli.config import Given, changed
from gradcode.errors import CheckpointError, ConfigError, GradcodeError
from gradcode.reporting import MetricsFile, Progress, Summary, TraceFile, WaitingForAll

CHECKPOINT, METRICS, TRACE = "checkpoint.safetensors", "metrics.jsonl", "trace.json"
RESOLVED, SUMMARY = "resolved.json", "summary.json"
_FILES = (CHECKPOINT, METRICS, TRACE, RESOLVED, SUMMARY)

# What may be changed when a run is resumed: the numbers stay the same.
_CLUSTER = ("address", "max_restarts", "on_shortfall", "patience", "placement", "resources", "runtime_env")
_FREE = ("epochs", "output", "checkpoint", *(f"cluster.{key}" for key in (*_CLUSTER, "start_timeout", "threads")))


def run(given: Given, folder: Path, resume: bool = False, overwrite: bool = False) -> None:
    """Trains as configured and leaves everything in ``folder``.

    Raises:
        GradcodeError: the configuration, the folder or the training; the message says what to do.
        KeyboardInterrupt: Ctrl-C, once there is a checkpoint to go on from, with a word on how.
    """
    _check_folder(given, folder, resume, overwrite)
    plan = build.plan(given)
    console = Console()
    with ExitStack() as stack:
        try:
            _train(given, folder, resume, plan, console, stack)
        except KeyboardInterrupt:
            stack.close()
            if (folder / CHECKPOINT).exists():
                raise KeyboardInterrupt("go on with --resume") from None
            raise


def _train(given: Given, folder: Path, resume: bool, plan: build.Plan, console: Console, stack: ExitStack) -> None:
    from gradcode.catalog import Evaluation
    from gradcode.trainer import EpochResult, Trainer

    parts = build.learning(given)
    config = given.config
    console.print(f"{plan.scheme!r} on {config.cluster.workers} {config.cluster.kind} workers", highlight=False)
    session = stack.enter_context(build.session(given, plan, parts))
    trainer = Trainer(
        session,
        parts.optimizer,
        scheduler=parts.scheduler,
        scheduler_every=config.scheduler.every if config.scheduler else "epoch",
        evaluate=Evaluation(parts.test, parts.loss),
        checkpoint_path=folder / CHECKPOINT,
        checkpoint_every=config.checkpoint.every,
    )
    if resume:
        trainer.resume()
    keep, total = session.iteration, config.epochs * session.iterations_per_epoch
    reply = plan.scheme.layout.row_bytes(session.objective.length, session.objective.itemsize)
    tree = session.cluster.topology
    above, names = (tree.above, tree.names) if any(plan.scheme.inner) else ((), tree.flat.names)
    summary = Summary(WaitingForAll(plan.table, config.cluster.workers, plan.scheme.partitions, reply, above))
    (folder / SUMMARY).unlink(missing_ok=True)
    metrics = stack.enter_context(MetricsFile(folder / METRICS, keep))
    for values in metrics.kept:
        summary.add(values)
    _write(folder / RESOLVED, given.resolved() | {"output": str(folder)})
    trace = stack.enter_context(TraceFile(folder / TRACE, keep, names=names))
    if not resume:
        trainer.save()  # so that there is always something to go on from
    progress = stack.enter_context(Progress(total, summary, console, names=names))
    session.listeners += [metrics, trace, summary, progress]

    def tell(result: EpochResult) -> None:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in result.metrics.items())
        progress.say(f"epoch {result.epoch + 1}/{config.epochs}: loss {result.loss:.4f}, {figures}")

    trainer.on_epoch.append(tell)
    results = trainer.fit(config.epochs)
    progress.close()
    ended = summary.as_dict() | {"epochs": len(results), "metrics": dict(results[-1].metrics)}
    _write(folder / SUMMARY, ended)
    console.print(f"done: {folder}", highlight=False, soft_wrap=True)


def _check_folder(given: Given, folder: Path, resume: bool, overwrite: bool) -> None:
    """Refuses to mix two runs in one folder."""
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{given.source}: output = {str(folder)!r} is a file: name a folder")
    there = [name for name in _FILES if (folder / name).exists()]
    if resume:
        _check_same(given, folder / RESOLVED)
    elif there and not overwrite:
        raise ConfigError(
            f"{given.source}: output = {str(folder)!r} holds a run already ({', '.join(there)}): go on with it by "
            f"--resume, choose another folder by --output, or replace it by --overwrite"
        )


def _check_same(given: Given, path: Path) -> None:
    """A resumed run must be the one that was begun.

    Raises:
        CheckpointError: there is none, or the configuration is another one; names the keys.
    """
    try:
        before: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"there is no run in {path.parent}: leave out --resume to begin one") from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}): leave out --resume and begin anew") from error
    others = [
        f"{key} was {old}, is {new}" for key, old, new in changed(before, given.resolved()) if not key.startswith(_FREE)
    ]
    if others:
        raise CheckpointError(
            f"{given.source}: {path.parent} holds a run of another configuration: {'; '.join(others)}. Resume with the "
            f"same configuration, or begin a new run with --output"
        )


def _write(path: Path, values: dict[str, Any]) -> None:
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(values, indent=2, allow_nan=False, default=str) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        reason = error.strerror or error
        raise GradcodeError(f"cannot write {path}: {reason}. Make room or choose another folder") from error
