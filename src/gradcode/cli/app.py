"""The commands, and how each tells of what went wrong."""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any, ParamSpec

import typer

import gradcode
from gradcode.cli.codes import codes
from gradcode.cli.plan import hierarchical
from gradcode.cli.plan_block import block
from gradcode.cli.reproduce import reproduce
from gradcode.cli.train import train
from gradcode.errors import GradcodeError, GradcodeWarning

P = ParamSpec("P")

app = typer.Typer(
    name="gradcode",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train PyTorch models on slow, uneven and unreliable workers with gradient coding.",
)


def plain(command: Callable[P, None]) -> Callable[P, None]:
    """An error of the user's input or of the training becomes one message, Ctrl-C one line; a bug its traceback."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            with warnings.catch_warnings():
                warnings.showwarning = functools.partial(_show, warnings.showwarning)
                command(*args, **kwargs)
        except GradcodeError as error:
            print(f"error: {error}", file=sys.stderr)
            raise typer.Exit(1) from None
        except KeyboardInterrupt as interrupt:
            print("; ".join(["interrupted", *map(str, interrupt.args)]), file=sys.stderr)
            raise typer.Exit(130) from None

    return run


def _show(usual: Callable[..., None], message: Warning | str, category: type[Warning], *where: Any) -> None:
    if issubclass(category, GradcodeWarning):
        print(f"warning: {message}", file=sys.stderr)
    else:
        usual(message, category, *where)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"gradcode {gradcode.__version__}")
        raise typer.Exit()


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Train PyTorch models on slow, uneven and unreliable workers with gradient coding."""


app.command()(plain(train))
app.command()(plain(codes))
app.command()(plain(reproduce))

planning = typer.Typer(no_args_is_help=True, help="Choose a method's parameters for machines whose delays are known.")
planning.command()(plain(hierarchical))
planning.command()(plain(block))
app.add_typer(planning, name="plan")
