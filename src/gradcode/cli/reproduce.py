"""``gradcode reproduce``: a paper's experiment, its numbers beside the expected ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from gradcode.experiments import Comparisons


def reproduce(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The experiment; without it they are listed.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer draws and iterations: under a minute.")] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", metavar="DIR", help="Folder for tables and figures; default: runs/reproduce/NAME."),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", metavar="DIR", help="Folder with the files of MNIST or CIFAR-10, to train on those too."
        ),
    ] = None,
) -> None:
    """Run a paper's experiment: tables and figures are left in a folder, numbers stand beside the expected ones.

    Ends with status 1 if a number does not agree.
    """
    from rich.console import Console

    from gradcode import experiments

    console = Console()
    if name is None:
        console.print(_list())
        return
    chosen = experiments.by_name(name)
    folder = output or Path("runs/reproduce") / name
    found = chosen.run(experiments.Request(folder, quick, data, lambda line: print(line, flush=True)))
    console.print(_table(chosen.source, found))
    print(f"tables and figures are in {folder}")
    print(found.verdict)
    if not found.agree:
        raise typer.Exit(1)


def _list() -> Table:
    from rich.table import Table

    from gradcode.experiments import EXPERIMENTS

    table = Table(title="gradcode reproduce NAME", title_justify="left", title_style="bold", show_lines=True)
    table.add_column("name", style="bold cyan", no_wrap=True)
    table.add_column("what it is")
    table.add_column("source")
    for entry in EXPERIMENTS.values():
        table.add_row(entry.name, entry.summary, entry.source)
    return table


def _table(source: str, found: Comparisons) -> Table:
    from rich.markup import escape
    from rich.table import Table

    from gradcode.experiments.comparison import shown

    table = Table(title=escape(source), title_justify="left", title_style="bold")
    table.add_column("number")
    for column in ("expected", "found", "± allowed", "unit"):
        table.add_column(column, justify="left" if column == "unit" else "right", no_wrap=True)
    for item in found:
        style = None if item.agrees else "bold red"
        numbers = map(shown, (item.expected, item.found, item.tolerance))
        table.add_row(escape(item.name), *numbers, item.unit, style=style)
    return table
