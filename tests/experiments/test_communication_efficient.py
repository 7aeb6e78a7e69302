"""The experiment on communication-efficient codes: its numbers agree, its files are there, its parts do their work."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.communication_efficient.errors import build, errors, patterns
from gradcode.experiments.communication_efficient.times import OPTIMA, OTHERS

Done = tuple[Comparisons, Path]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The whole experiment, once."""
    folder = tmp_path_factory.mktemp("communication_efficient")
    return by_name("communication_efficient").run(Request(folder, quick=True)), folder


def test_every_number_agrees(quick: Done) -> None:
    found, _ = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    assert {time for *_, time in (*OPTIMA.values(), *OTHERS.values())} <= {item.expected for item in found}


def test_tables_and_the_figure_are_there(quick: Done) -> None:
    found, folder = quick
    for table in ("comparison", "exactness", "scaling", "times", "training"):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 3 and len({len(row) for row in rows}) == 1
        assert table != "comparison" or len(rows) == 1 + len(found)
    assert (folder / "training.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "training.svg").getroot().tag.endswith("svg")


def test_all_sets_up_to_1500_and_some_beyond() -> None:
    rng = np.random.default_rng(0)
    assert len(set(patterns(12, 3, 5, rng))) == 220
    some = list(patterns(40, 3, 5, rng))
    assert len(some) == 45 and some[39] == (39, 0, 1) and all(len(set(own)) == 3 for own in some)


def test_errors_see_what_is_lost() -> None:
    """One straggler more than the code tolerates leaves an error of the gradient's size; within it only rounding."""
    code = build("fourier_centred", 6, 1, 2)
    lost, kept = (max(errors(code, [own], np.float64, np.random.default_rng(1))) for own in [(0, 1), (0,)])
    assert lost > 0.05 and kept < 1e-14
    single = max(errors(code, [(0,)], np.float32, np.random.default_rng(1)))
    assert 1e-9 < single < 1e-5
