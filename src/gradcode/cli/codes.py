"""``gradcode codes``: what there is to choose from."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gradcode import schemes
from gradcode.codes import REGISTRY


def codes() -> None:
    """List the codes and schemes with what each trades."""
    console = Console()
    console.print(_schemes())
    console.print(_codes())


def _schemes() -> Table:
    table = _table('Schemes: \\[scheme] name = "..."')
    table.add_column("scheme", style="bold cyan", no_wrap=True)
    table.add_column("what it does")
    table.add_column("trade-off")
    for entry in schemes.available():
        table.add_row(entry.name, entry.summary, entry.trade_off)
    return table


def _codes() -> Table:
    table = Table(
        title='Codes: \\[scheme.code] name = "..."', title_justify="left", title_style="bold", show_lines=True
    )
    table.add_column("code", style="bold cyan", no_wrap=True)
    table.add_column("what it is, and what it trades")
    for name, entry in sorted(REGISTRY.items()):
        facts = {
            "exact": "yes" if entry.exact else "no, approximate",
            "tolerance": entry.tolerance,
            "load": f"{entry.load} (partitions per worker)",
            "needs": entry.needs,
            "choose": entry.choose,
        }
        lines = [f"[dim]{fact}:[/] {escape(text)}" for fact, text in facts.items() if text]
        table.add_row(name, "\n".join([escape(entry.summary), *lines]))
    return table


def _table(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", show_lines=True)
