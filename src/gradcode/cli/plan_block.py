"""``gradcode plan block``: the best block sizes for workers whose delays are known."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gradcode.cli.plan import _around, _number
from gradcode.cli.plan_block_setting import Asked, read
from gradcode.errors import ConfigError, GradcodeError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt
    from matplotlib.figure import Figure
    from rich.table import Table

    from gradcode.planning.block_coordinate import Optimum

    Sizes = npt.NDArray[np.intp]

_ROWS = 14  # of a table, at most
_LITTLE = 0.01  # what blocks must save to be worth a message each
_TIE = 1e-6
_COLOURS = {"optimum": "black", "x^(t)": "#0072B2", "x^(f)": "#56B4E9", "x^(lg)": "#E69F00", "likeliest": "#D55E00"}


@dataclass(frozen=True)
class Way:
    """A way to run an iteration: expected seconds, P(done in time) where asked for, and the (N,) blocks."""

    name: str
    seconds: float
    probability: float | None
    sizes: Sizes

    @property
    def partitions(self) -> int:
        """How many each worker holds."""
        return int(self.sizes.nonzero()[0][-1]) + 1


@dataclass(frozen=True)
class Answer:
    """Ways of several blocks, the optimum first (none for a network); ways of one level; and findings in words."""

    profiles: list[Way]
    levels: list[Way]
    findings: list[str]

    @property
    def ways(self) -> list[Way]:
        """All."""
        return self.profiles + self.levels

    @property
    def best(self) -> Way:
        """The quickest; of equals the one of one level."""
        return min(self.levels + self.profiles, key=lambda way: way.seconds)


def block(
    setting: Annotated[
        Path, typer.Argument(metavar="SETTING.toml", help="Workers, coordinates and delays.", show_default=False)
    ],
    highest: Annotated[
        int | None,
        typer.Option("--highest", metavar="N", help="The highest level allowed; workers hold one partition more."),
    ] = None,
    threshold: Annotated[
        float | None, typer.Option("--threshold", metavar="SECONDS", help="Also: how likely it is to be done by then.")
    ] = None,
    network: Annotated[
        bool, typer.Option("--network", help="The gradient comes by backward passes, not coordinate by coordinate.")
    ] = False,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="DIR", help="Write plan.csv, ways.csv, plan.png and .svg there.")
    ] = None,
) -> None:
    """Choose how many coordinates should tolerate how many stragglers, for the workers in SETTING.toml."""
    from rich.console import Console

    asked = read(setting, highest, threshold)
    answer = _of_network(asked) if network else _of_coordinates(asked)
    print(f"{asked.workers} workers, {asked.coordinates} coordinates; seconds per partition: {asked.law!r}")
    console = Console()
    if answer.profiles:
        console.print(_profile(asked, answer.profiles))
    console.print(_compared(asked, answer))
    for line in answer.findings:
        print(line)
    if output is not None:
        _write(asked, answer, output)
        print(f"plan.csv, ways.csv, plan.png and plan.svg are in {output}")


def _of_coordinates(asked: Asked) -> Answer:
    """For coordinates that are computed one by one."""
    from gradcode.planning import block_coordinate as planning

    workers, coordinates, law = asked.workers, asked.coordinates, asked.law
    units, levels = _units(asked), list(range(asked.highest + 1))
    try:
        best = planning.optimal(law, workers, coordinates, *units, levels=levels)
    except ValueError as error:
        raise ConfigError(f"{asked.source}: delays.compute: {error}") from None
    profiles = [_way(asked, "optimum", best.sizes)]
    for name, closed in (("x^(t)", planning.by_time), ("x^(f)", planning.by_frequency)):
        try:
            sizes = closed(law, workers, coordinates, levels)
        except ValueError:  # it does not exist
            continue
        profiles.append(_way(asked, name, planning.round_sizes(sizes)))
    if asked.threshold is not None:
        try:
            likely = planning.most_likely(law, workers, coordinates, asked.threshold, *units, levels=levels)
        except ValueError as error:
            raise ConfigError(f"--threshold {asked.threshold}: {error}") from None
        large = planning.by_large_threshold(workers, coordinates, levels)
        profiles.append(_way(asked, "x^(lg)", planning.round_sizes(large)))
        profiles.append(_way(asked, "likeliest", likely.sizes))
    single = planning.for_network(law, workers, coordinates, highest=asked.highest).level
    ones = [_level(asked, single, f"one level, {single}"), _level(asked, 0, "uncoded")]
    return Answer(profiles, ones, _findings(asked, best, profiles[0], *ones))


def _of_network(asked: Asked) -> Answer:
    """For backward passes: one level for all."""
    from gradcode.planning import block_coordinate as planning

    plan = planning.for_network(asked.law, asked.workers, asked.coordinates, highest=asked.highest)
    if plan.value == float("inf"):
        raise ConfigError(
            f"{asked.source}: delays.compute: no level up to {asked.highest} has a finite expected time under "
            f"{asked.law!r}"
        )
    levels = [_level(asked, level, f"level {level}") for level in range(asked.highest + 1)]
    lines = [
        "backward passes reach the parameters nearest to the input last, so that no mixture of levels is quicker than "
        "the best level for all",
        _advice(levels[plan.level], levels[0]),
    ]
    if asked.threshold is not None:
        likely = max(levels, key=lambda way: way.probability or 0.0)
        lines.append(f"likeliest to be done in {_number(asked.threshold)} s: {likely.name}, {_chance(likely)}")
    return Answer([], levels, lines)


def _units(asked: Asked) -> tuple[float, float]:
    """Samples and cycles for which the gradient of a partition, all coordinates, takes one draw of the law."""
    return asked.workers, 1 / asked.coordinates


def _way(asked: Asked, name: str, sizes: Sizes) -> Way:
    from gradcode.planning import block_coordinate as planning

    seconds = planning.expected_runtime(sizes, asked.law, *_units(asked))
    chance = None
    if asked.threshold is not None:
        chance = planning.completion_probability(sizes, asked.law, asked.threshold, *_units(asked))
    return Way(name, seconds, chance, sizes)


def _level(asked: Asked, level: int, name: str) -> Way:
    """All coordinates on one level."""
    import numpy as np

    return _way(asked, name, np.eye(asked.workers, dtype=np.intp)[level] * asked.coordinates)


def _findings(asked: Asked, best: Optimum, optimum: Way, single: Way, uncoded: Way) -> list[str]:
    """What the numbers come to, in words."""
    lines = []
    saved = 1 - optimum.seconds / single.seconds
    if saved <= _TIE:
        lines.append(f"no blocks: nothing is quicker than one level for all. {_advice(single, uncoded)}")
    elif saved < _LITTLE:
        lines.append(f"blocks save no more than {saved:.2%} against one level for all. {_advice(single, uncoded)}")
    else:
        against = f"uncoded, {_seconds(uncoded)}"
        if single.partitions > 1:
            against = f"the best single level, {single.partitions - 1}; uncoded: {_seconds(uncoded)}"
        lines.append(f"blocks take {saved:.1%} less time than {against}")
        lines.append(f'in a configuration: [scheme] name = "block_coordinate", sizes = {optimum.sizes.tolist()}')
    least = "no blocks can take less than" if best.exact else "lower bound, estimated from draws:"
    within = "" if asked.highest == asked.workers - 1 else f" of levels up to {asked.highest}"
    lines.append(f"{least.replace(' can', f'{within} can')} {best.bound:.6g} s; gap: {max(best.gap, 0.0):.1e}")
    held = f"each worker holds {optimum.partitions} of {asked.workers} partitions for the optimum"
    lines.append(held + ("; --highest caps it" if optimum.partitions > 1 else ""))
    return lines


def _advice(single: Way, uncoded: Way) -> str:
    """What to use where one level is enough."""
    level = single.partitions - 1
    if level == 0:
        return f'do not code: [scheme] name = "uncoded"; expected time: {_seconds(uncoded)}'
    return (
        f'tolerate {level}: [scheme] name = "coded", [scheme.code] stragglers = {level}; expected time: '
        f"{_seconds(single)}, uncoded: {_seconds(uncoded)}"
    )


def _seconds(way: Way) -> str:
    return f"{_number(way.seconds)} s" if way.seconds < float("inf") else "not finite"


def _profile(asked: Asked, profiles: Sequence[Way]) -> Table:
    """Coordinates per level; if there are many, of the first, the middle and the last."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1))
    table.add_column("stragglers", justify="right", style="bold", no_wrap=True)
    table.add_column("waits for", justify="right", no_wrap=True)
    for way in profiles:
        table.add_column(way.name, justify="right", no_wrap=True)
    for level in _around(asked.highest // 2, asked.highest + 1, _ROWS):
        if level is None:
            table.add_row(*["…"] * (len(profiles) + 2))
        else:
            table.add_row(str(level), str(asked.workers - level), *(str(way.sizes[level]) for way in profiles))
    return table


def _compared(asked: Asked, answer: Answer) -> Table:
    """All ways, side by side."""
    from rich.table import Table

    table = Table(box=None, padding=(0, 1))
    table.add_column("", no_wrap=True)
    chance = [] if asked.threshold is None else [f"P(done in {_number(asked.threshold)} s)"]
    for column in ("expected time (s)", "/ best", "partitions held", *chance):
        table.add_column(column, justify="right")
    ways, best = answer.ways, answer.best
    for place in _around(ways.index(best), len(ways), _ROWS):
        if place is None:
            table.add_row(*["…"] * (4 + len(chance)))
            continue
        way = ways[place]
        cells = [_number(way.seconds), f"{way.seconds / best.seconds:.3f}", str(way.partitions)]
        cells += [_chance(way)] * len(chance)
        table.add_row(way.name, *cells, style="bold green" if way is best else None)
    return table


def _chance(way: Way) -> str:
    if way.probability is None:
        return ""
    return f"{way.probability:.4f}" if way.probability >= 1e-4 else f"{way.probability:.1e}"


def _write(asked: Asked, answer: Answer, folder: Path) -> None:
    """Blocks and times as CSV, and both as a picture."""
    import csv

    figure = _picture(asked, answer) if answer.profiles else _curve(answer)
    columns = answer.profiles or [answer.best]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "plan.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["stragglers", *(way.name for way in columns)])
            writer.writerows([level, *(way.sizes[level] for way in columns)] for level in range(asked.workers))
        with (folder / "ways.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["way", "seconds", "partitions", "probability"])
            for way in answer.ways:
                chance = "" if way.probability is None else repr(way.probability)
                writer.writerow([way.name, repr(way.seconds), way.partitions, chance])
        for ending in ("png", "svg"):
            figure.savefig(folder / f"plan.{ending}", dpi=150)
    except OSError as error:
        raise GradcodeError(f"cannot write into {folder}: {error.strerror or error}. Choose another folder") from error


def _picture(asked: Asked, answer: Answer) -> Figure:
    """The blocks' shares of the coordinates, and the expected times."""
    import numpy as np

    from gradcode.experiments.pictures import blank

    figure = blank(10.5, 4.2)
    left, right = figure.subplots(1, 2, width_ratios=(3, 2))
    levels = np.arange(asked.highest + 1)
    for way in answer.profiles:
        shares = np.where(way.sizes[levels] > 0, way.sizes[levels] / asked.coordinates, np.nan)
        left.plot(levels, shares, "o-", color=_COLOURS[way.name], markersize=4, label=way.name)
    left.set_yscale("log")
    left.set_xlabel("stragglers that the block tolerates")
    left.set_ylabel("share of the coordinates")
    left.legend(frameon=False)
    finite = [way for way in answer.ways if np.isfinite(way.seconds)]
    right.barh([way.name for way in finite], [way.seconds for way in finite], color="#A6CBE3")
    right.invert_yaxis()
    right.set_xlabel("expected time (s)")
    _tidy(figure)
    return figure


def _curve(answer: Answer) -> Figure:
    """Expected time against the one level of all parameters; the star is the best."""
    from gradcode.experiments.pictures import blank

    figure = blank(6.5, 4)
    axes = figure.subplots()
    axes.plot(range(len(answer.levels)), [way.seconds for way in answer.levels], "o-", color="#0072B2")
    axes.plot(answer.best.partitions - 1, answer.best.seconds, "*", markersize=15, color="#D55E00", label="the best")
    axes.set_xlabel("stragglers that all parameters tolerate")
    axes.set_ylabel("expected time (s)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _tidy(figure)
    return figure


def _tidy(figure: Figure) -> None:
    """Whole levels below the first axes, no frame."""
    from matplotlib.ticker import MaxNLocator

    figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in figure.axes:
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
