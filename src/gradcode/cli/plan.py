"""``gradcode plan``: the best parameters for machines whose delays are known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

    from gradcode.planning.hierarchical import Plan, System

_ROWS = 12  # of a table, at most
_CELL = 8  # characters of a column, its margins included
_SMALL = 200  # workers for which the code itself is quickly made


class Objective(StrEnum):
    mean = "mean"
    exact = "exact"


class Tail(StrEnum):
    fixed = "fixed"
    load = "load"


def hierarchical(
    system: Annotated[Path, typer.Argument(metavar="SYSTEM.toml", help="The machines.", show_default=False)],
    objective: Annotated[
        Objective, typer.Option("--objective", help="mean: every time at its mean (JNCSS); exact: expected times.")
    ] = Objective.mean,
    tail: Annotated[
        Tail, typer.Option("--tail", help="Whether the random part of computing is fixed or grows with the load.")
    ] = Tail.fixed,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write plan.csv, plan.png and plan.svg there.")
    ] = None,
) -> None:
    """Choose how many edge nodes and workers a hierarchical code should do without, for the machines in SYSTEM.toml."""
    from rich.console import Console

    from gradcode.errors import ConfigError
    from gradcode.planning.hierarchical import System, plan

    machines = System.from_toml(system)
    try:
        chosen = plan(machines, objective.value, tail.value)
    except ValueError as error:
        raise ConfigError(f"{system}: {error}") from None
    console = Console()
    workers = f"{machines.workers} workers under {len(machines.edges)} edge nodes"
    print(f"{workers}, {machines.partitions} partitions")
    print("\n".join(_heading(chosen)))
    console.print(_table(chosen, console.width))
    for line in _findings(chosen):
        print(line)
    if output is not None:
        _write(chosen, output)
        print(f"plan.csv, plan.png and plan.svg are in {output}")


def _heading(plan: Plan) -> list[str]:
    """What the table's numbers are."""
    what = "expected time" if plan.objective == "exact" else "time with every part at its mean"
    marks = ["-: not feasible"] * (not plan.system.feasible.all())
    marks += ["~: estimated from draws"] * (plan.objective == "exact" and not plan.exact[plan.system.feasible].all())
    return [
        "; ".join([f"{what} in seconds, {plan.tail} tail", *marks]),
        "down: edge stragglers; across: worker stragglers of each edge node",
    ]


def _table(plan: Plan, width: int) -> Table:
    """The values, or as many of them as fit: those around the choice and those at the ends."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1))
    s_e, s_w = plan.choice
    rows = _around(s_e, plan.table.shape[0], _ROWS)
    columns = _around(s_w, plan.table.shape[1], (width - 5) // _CELL)
    table.add_column("", justify="right", style="bold", no_wrap=True)
    for column in columns:
        table.add_column("…" if column is None else str(column), justify="right", no_wrap=True)
    for row in rows:
        if row is None:
            table.add_row(*["…"] * (len(columns) + 1))
        else:
            table.add_row(str(row), *(_cell(plan, row, column) for column in columns))
    return table


def _cell(plan: Plan, row: int, column: int | None) -> Text:
    from rich.text import Text

    if column is None:
        return Text("…")
    value = float(plan.table[row, column])
    if math.isnan(value):
        return Text("-", style="dim")
    guessed = plan.objective == "exact" and not plan.exact[row, column]
    style = "bold green" if (row, column) == plan.choice else ""
    return Text(f"{'~' if guessed else ''}{value:.3g}", style=style)


def _around(chosen: int, length: int, most: int) -> list[int | None]:
    """Indices to show, at most so many: all, or those at the ends and around the chosen one; None for a gap."""
    if length <= most:
        return list(range(length))
    shown: list[int | None] = []
    for window in range(most, 0, -1):
        begin = min(max(chosen - window // 2, 0), length - window)
        shown = []
        for index in sorted({0, length - 1, *range(begin, begin + window)}):
            if shown and shown[-1] != index - 1:
                shown.append(None)
            shown.append(index)
        if len(shown) <= most:
            break
    return shown


def _findings(plan: Plan) -> list[str]:
    """What the table comes to, in words."""
    system, s_e, s_w = plan.system, plan.edge_stragglers, plan.worker_stragglers
    time = plan.expected_time()
    coded = plan.choice != (0, 0)
    lines = [
        f"choice: edge_stragglers={s_e}, worker_stragglers={s_w}; load: {plan.load} of {system.partitions} partitions"
    ]
    if not coded:
        lines.append(f"expected time: {_number(time)} s")
        lines.append(_why_not(plan))
    elif not system.feasible[0, 0]:
        lines.append(
            f"expected time: {_number(time)} s; uncoded cannot be compared, for partitions = {system.partitions} is no "
            f"multiple of the {system.workers} workers"
        )
    else:
        uncoded = plan.expected_time(0, 0)
        lines.append(f"expected time: {_number(time)} s; uncoded: {_number(uncoded)} s")
        faster = f"coding makes an iteration {_number(uncoded / time)} times as fast"
        lines.append(faster if time < uncoded else "do not code like this: uncoded is quicker; try --objective exact")
        lines.append(f"predicted stragglers: {_stragglers(plan)}")
    if plan.objective == "mean":
        within = f"at most {_number(plan.bound)} s (bound ε) from its expected time"
        lines.append(f"value of the choice: {_number(plan.value)} s, {within}")
    if coded and system.workers <= _SMALL:
        try:
            plan.code()
        except ValueError as error:
            lines.append(f"warning: not with float32 messages: {error}")
    return lines


def _why_not(plan: Plan) -> str:
    """What it means that (0, 0) was chosen."""
    if plan.objective == "exact":
        return "do not code: nothing is expected to be quicker than to wait for everybody"
    if _alike(plan.system):
        return (
            "warning: this says nothing. The means of equal machines are best without coding, whatever their delays, "
            "for means cannot see that a machine is late now and then; use --objective exact"
        )
    return "do not code, as far as means can tell; --objective exact looks at the whole distributions"


def _stragglers(plan: Plan) -> str:
    """The edge nodes, and the workers under each, that will not be waited for if everything takes its mean."""
    parts = [_listed("edge node", plan.straggling_edges)] if plan.straggling_edges else []
    alike: dict[tuple[int, ...], list[int]] = {}
    for edge, workers in enumerate(plan.straggling_workers):
        if workers:
            alike.setdefault(workers, []).append(edge)
    parts += [f"{_listed('worker', own)} of {_listed('edge node', edges)}" for own, edges in alike.items()]
    return "; ".join(parts[:_ROWS] + ["…"] * (len(parts) > _ROWS))


def _listed(what: str, numbers: Sequence[int]) -> str:
    """``("worker", [0, 1, 2, 5])`` -> "workers 0-2, 5"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    shown = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"{what}{'s' * (len(numbers) > 1)} {shown}"


def _alike(system: System) -> bool:
    return len(set(system.edges)) == 1 and len(set(system.edges[0].workers)) == 1


def _number(value: float) -> str:
    return f"{value:.4g}"


def _write(plan: Plan, folder: Path) -> None:
    """The table as CSV and as a picture."""
    import csv

    from gradcode.errors import GradcodeError
    from gradcode.planning.hierarchical import heat_map

    figure = heat_map(plan)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "plan.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["edge_stragglers", "worker_stragglers", "load", "seconds", "exact", "chosen"])
            for (s_e, s_w), value in _entries(plan):
                load = plan.system.load(s_e, s_w)
                exact, chosen = bool(plan.exact[s_e, s_w]), (s_e, s_w) == plan.choice
                writer.writerow([s_e, s_w, load, repr(value), int(exact), int(chosen)])
        for ending in ("png", "svg"):
            figure.savefig(folder / f"plan.{ending}", dpi=150)
    except OSError as error:
        raise GradcodeError(f"cannot write into {folder}: {error.strerror or error}. Choose another folder") from error


def _entries(plan: Plan) -> list[tuple[tuple[int, int], float]]:
    """((s_e, s_w), value) of all that is feasible."""
    rows, columns = plan.table.shape
    pairs = [(s_e, s_w) for s_e in range(rows) for s_w in range(columns)]
    return [(pair, float(plan.table[pair])) for pair in pairs if not math.isnan(plan.table[pair])]
