"""``gradcode train``: a training by configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def train(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.toml", help="The configuration.", show_default=False)],
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the run folder's last checkpoint.")] = False,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Override a key, such as optimizer.lr=0.1; may be repeated."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="The run folder, instead of the configuration's.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in the run folder.")] = False,
) -> None:
    """Train a model as CONFIG.toml says; metrics, trace, checkpoint and summary are left in the run folder."""
    if resume and overwrite:
        raise typer.BadParameter("--resume goes on with a run, --overwrite replaces it: choose one of them")
    from gradcode.cli.config import load
    from gradcode.cli.run import run

    given = load(config, overrides or ())
    run(given, output or Path(given.config.output), resume=resume, overwrite=overwrite)
