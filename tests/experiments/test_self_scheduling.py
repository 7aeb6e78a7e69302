"""The experiment on self-scheduling: its numbers agree, its files are there, its parts are what they say."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from gradcode import codes, schemes
from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.self_scheduling.setting import Draws, Ratio
from gradcode.experiments.self_scheduling.times import EXPECTED, LIMITS, LONGER, ORDERS, Given

Done = tuple[Comparisons, Path]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The whole experiment, once."""
    folder = tmp_path_factory.mktemp("self_scheduling")
    return by_name("self_scheduling").run(Request(folder, quick=True)), folder


def test_every_number_agrees(quick: Done) -> None:
    """Of fixed seeds; within 5 % or 4 standard errors of both, as self_scheduling.md has it."""
    found, _ = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    rows = [text for table in EXPECTED.values() for text in table.values()]
    rows += [text for table in LIMITS.values() for text in table.values()]
    cells = " ".join([*rows, LONGER, *ORDERS.values()]).split()
    assert {Given.read(text).value for text in cells if text != "-"} <= {item.expected for item in found}


def test_tables_and_figures_are_there(quick: Done) -> None:
    found, folder = quick
    for table, lines in (("comparison", len(found)), ("times", 16), ("limits", 6)):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) == 1 + lines and len({len(row) for row in rows}) == 1
    assert (folder / "limits.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "limits.svg").getroot().tag.endswith("svg")


def test_given_numbers_know_their_digits() -> None:
    assert Given.read("2.9") == (2.9, 0.05, None) and Given.read("10.5").rounding == 0.05
    assert Given.read("1.264(.002)") == (1.264, pytest.approx(0.0005), 0.002)


def test_standard_error_is_that_of_the_bootstrap() -> None:
    """Of a ratio of correlated means; 400 resamplings know it to 4/√(2·400) = 14 %."""
    rng = np.random.default_rng(0)
    fluid = 1 + rng.random(500)
    times = fluid * (1.2 + 0.3 * rng.random(500)) + 0.2 * rng.random(500)
    own = Ratio.of(times, fluid)
    again = [times[pick].mean() / fluid[pick].mean() for pick in rng.integers(0, 500, (400, 500))]
    assert own.value == times.mean() / fluid.mean()
    assert own.error() == pytest.approx(np.std(again), rel=0.14) and own.error(2000) == pytest.approx(own.error() / 2)


@pytest.mark.parametrize("model", ["A", "B", "C", "D"])
def test_known_times(model: str) -> None:
    """r = 1 waits for everybody's pieces and notices, and the exact code is the best of those for s = 1 to 4."""
    draws = Draws.of(model, 6, 50, seed=1)
    everybody = (draws.start + draws.seconds + 8 * 0.002).max(axis=1)
    assert draws.self_scheduling(1).value == pytest.approx(draws.ratio(everybody).value)
    coded = [schemes.coded(codes.cyclic_mds(6, s, dtype="float64")) for s in (1, 2, 3, 4)]
    times = [own.duration(draws.seconds[:, :, None], draws.start) for own in coded]
    assert draws.exact_code().value == pytest.approx(min(draws.ratio(own).value for own in times))


def test_draws_are_those_of_the_models() -> None:
    """Means of 20,000 times and starts, within 4 standard errors."""
    n, root = 20_000, np.sqrt(20_000)
    slow = Draws.of("B", 4, n // 4, seed=0).seconds / [3, 1, 1, 1]
    assert slow.min() >= 0.1 and abs(slow.mean() - 0.12) < 4 * 0.02 / root
    late = Draws.of("D", 4, n // 4, seed=0)
    assert abs((late.start > 0).mean() - 0.2) < 4 * 0.4 / root
    begins = late.start[late.start > 0]
    assert abs(begins.mean() - 0.3) < 4 * 0.3 / np.sqrt(len(begins))
    assert 0 < np.ptp(late.seconds) <= 1e-8 and not Draws.of("A", 4, 9, seed=0).start.any()
    assert (Draws.of("D", 4, 9, seed=0, jitter=False).seconds == 0.1).all()
    states = Draws.of("Gilbert-Elliott", 4, n // 4, seed=0).seconds > 0.5
    assert abs(states.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75) / root
