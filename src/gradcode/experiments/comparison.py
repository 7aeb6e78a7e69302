"""Numbers found beside numbers expected, and tables as files."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gradcode.errors import GradcodeError


@dataclass(frozen=True)
class Comparison:
    """A number beside the one expected.

    Args:
        name: what it is, with the method and the setting.
        expected, found: both in ``unit``.
        tolerance: the largest |found − expected| that counts as agreement, ≥ 0.
        unit: empty for a plain number.
        why: where the tolerance comes from.
    """

    name: str
    expected: float
    found: float
    tolerance: float
    unit: str = ""
    why: str = ""

    @property
    def deviation(self) -> float:
        """|found − expected| as a share of the tolerance: up to 1 is agreement; inf for NaN."""
        distance = abs(self.found - self.expected)
        if math.isnan(distance):
            return math.inf
        if self.tolerance > 0:
            return distance / self.tolerance
        return math.inf if distance else 0.0

    @property
    def agrees(self) -> bool:
        """Whether it is within the tolerance."""
        return self.deviation <= 1.0


@dataclass
class Comparisons:
    """All numbers of an experiment, in the order in which they were found."""

    items: list[Comparison] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Comparison]:
        return iter(self.items)

    def add(
        self, name: str, expected: float, found: float, tolerance: float, unit: str = "", why: str = ""
    ) -> Comparison:
        """Adds a number; the arguments are those of :class:`Comparison`."""
        self.items.append(Comparison(name, float(expected), float(found), float(tolerance), unit, why))
        return self.items[-1]

    @property
    def agree(self) -> bool:
        """Whether all do."""
        return all(item.agrees for item in self.items)

    @property
    def verdict(self) -> str:
        """One line: how many agree, and the worst deviation."""
        if not self.items:
            return "nothing was compared"
        right = sum(item.agrees for item in self.items)
        worst = max(self.items, key=lambda item: item.deviation)
        return (
            f"{right} of {len(self.items)} numbers agree; the worst deviation is {worst.deviation:.2f} of what is "
            f"allowed: {worst.name}, expected {shown(worst.expected)}, found {shown(worst.found)} {worst.unit}".rstrip()
        )

    def write(self, stem: Path) -> None:
        """``stem``.csv and .md, one line per number."""
        header = ("number", "unit", "expected", "found", "tolerance", "share of tolerance", "agrees", "tolerance is")
        write_table(
            stem,
            header,
            (
                (
                    item.name,
                    item.unit,
                    shown(item.expected),
                    shown(item.found),
                    shown(item.tolerance),
                    shown(item.deviation),
                    "yes" if item.agrees else "NO",
                    item.why,
                )
                for item in self.items
            ),
        )


def write_table(stem: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table as ``stem``.csv and as Markdown, ``stem``.md; the folder is made.

    Raises:
        GradcodeError: they cannot be written.
    """
    lines = [list(header), *map(list, rows)]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        with stem.with_suffix(".csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
        stem.with_suffix(".md").write_text("\n".join(markdown(lines)) + "\n", encoding="utf-8")
    except OSError as error:
        raise GradcodeError(
            f"cannot write the table {stem}.csv: {error.strerror or error}; choose another folder"
        ) from error


def markdown(lines: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table; the first of ``lines`` is its header."""
    header, *rows = ["| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines]
    return [header, "|" + "---|" * len(lines[0]), *rows]


def shown(value: float) -> str:
    """A number with the digits that matter."""
    if abs(value) < 1e6 and value == round(value):
        return str(round(value))
    return f"{value:.2f}" if 10 <= abs(value) < 1e6 else f"{value:.4g}"
