"""The experiments by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradcode.errors import ConfigError
from gradcode.experiments.comparison import Comparisons


def _silently(line: str) -> None:
    """Nobody wants to be told."""


@dataclass(frozen=True)
class Request:
    """What is asked of an experiment.

    Args:
        output: the folder for tables and figures; it is made.
        quick: fewer draws and iterations: well under a minute, with wider tolerances where they come from draws.
        data: a folder with local data sets, for experiments that can use them.
        tell: is given one line now and then about what is going on.
    """

    output: Path
    quick: bool = False
    data: Path | None = None
    tell: Callable[[str], None] = _silently


@dataclass(frozen=True)
class Experiment:
    """A registered experiment: ``run`` writes tables and figures and returns its numbers beside the expected ones."""

    name: str
    summary: str
    source: str
    run: Callable[[Request], Comparisons]


EXPERIMENTS: dict[str, Experiment] = {}
"""Name -> experiment."""


def experiment(
    name: str, *, summary: str, source: str
) -> Callable[[Callable[[Request], Comparisons]], Callable[[Request], Comparisons]]:
    """Registers a function as the experiment ``name``.

    Args:
        name: what the command line calls it.
        summary: one line.
        source: the paper, and where the expected numbers come from.
    """

    def register(run: Callable[[Request], Comparisons]) -> Callable[[Request], Comparisons]:
        EXPERIMENTS[name] = Experiment(name, summary, source, run)
        return run

    return register


def by_name(name: str) -> Experiment:
    """The experiment of that name.

    Raises:
        ConfigError: there is none; names those that are there.
    """
    if name in EXPERIMENTS:
        return EXPERIMENTS[name]
    near = difflib.get_close_matches(name, EXPERIMENTS, n=1)
    meant = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(f"there is no experiment {name!r}; known are {', '.join(map(repr, sorted(EXPERIMENTS)))}{meant}")
