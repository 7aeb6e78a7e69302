"""The uplink's experiment: its numbers agree, its files are there."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.uplink.alone import EXPECTED, TRADEOFFS


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparisons, Path]:
    folder = tmp_path_factory.mktemp("uplink")
    return by_name("uplink").run(Request(folder, quick=True)), folder


def test_every_number_agrees(quick: tuple[Comparisons, Path]) -> None:
    """Of fixed seeds; means within 4 standard errors of both."""
    found, _ = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    assert {f"utility, V = {v}" for v in TRADEOFFS} <= set(names)
    assert sum("bound of" in name for name in names) == 5 and sum("neither served" in name for name in names) == 8
    assert sum(name.endswith("bytes lost") for name in names) == 28


def test_tables_and_the_figure_are_there(quick: tuple[Comparisons, Path]) -> None:
    _, folder = quick
    for table, rows in (("tradeoff", len(TRADEOFFS)), ("baselines", 7), ("loop", 24), ("harvesting", 4)):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
        assert len(lines) == rows + 1 and len({len(line) for line in lines}) == 1
        assert len((folder / f"{table}.md").read_text(encoding="utf-8").splitlines()) == rows + 2
    assert all(len(own) == len(TRADEOFFS) for own in EXPECTED.values())
    assert (folder / "tradeoff.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "tradeoff.svg").getroot().tag.endswith("svg")
