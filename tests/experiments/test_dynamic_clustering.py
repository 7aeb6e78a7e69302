"""The experiment on dynamic clustering: its numbers agree, its files are there, its parts are what they say."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.dynamic_clustering import exact
from gradcode.experiments.dynamic_clustering.setting import N, by_flag, by_rank, counts, draw, home, moved, plain, times
from gradcode.experiments.dynamic_clustering.times import EXACT, EXPECTED, SHARES, UNEQUAL

Done = tuple[Comparisons, Path]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The whole experiment, once."""
    folder = tmp_path_factory.mktemp("dynamic_clustering")
    return by_name("dynamic_clustering").run(Request(folder, quick=True)), folder


def test_every_number_agrees(quick: Done) -> None:
    """Of fixed seeds; within 4 standard errors of both where a number is drawn, else to the digits given."""
    found, _ = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    expected = {item.expected for item in found}
    assert {own for row in EXPECTED.values() for own in row} | set(EXACT.values()) <= expected
    assert {own for row in SHARES.values() for own in row.values()} <= expected
    assert {own for row in UNEQUAL.values() for own in row if own is not None} <= expected


def test_tables_and_figures_are_there(quick: Done) -> None:
    found, folder = quick
    for table in ("comparison", "times", "unequal", "workers", "training"):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > 3 and len({len(row) for row in rows}) == 1
        assert table != "comparison" or len(rows) == 1 + len(found)
    for figure in ("stragglers", "training"):
        assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(folder / f"{figure}.svg").getroot().tag.endswith("svg")


def test_times_are_order_statistics() -> None:
    """Worker k takes k seconds: the second slowest of all, or of the cluster that 4, 9, 14 and 19 are in."""
    seconds = np.arange(20.0)[None]
    assert plain(seconds, 2) == 2 * 18 and times(seconds, home(1), 2) == 2 * 14
    together = np.array([[*range(5, 20), *range(5)]])  # the same clusters, other slots
    assert times(seconds, together, 2) == 2 * 14
    swapped = home(1)
    swapped[0, [4, 13]] = swapped[0, [13, 4]]
    assert times(seconds, swapped, 2) == 2 * 14 and counts(seconds > 12, swapped).tolist() == [[1, 1, 1, 1, 3]]
    assert moved(np.concatenate([home(1), swapped])) == 2


def test_rank_follows_the_times_before() -> None:
    """Constant times of all: from the second iteration on the five slowest are apart, with flags these first."""
    seconds = np.tile(np.arange(20.0) + 1, (3, 1))
    rows = by_rank(seconds, 5, weight=1.0)
    assert (rows[0] == np.arange(20)).all() and sorted(rows[1][15:] % 5) == [0, 1, 2, 3, 4]
    flags = np.zeros((3, 20), dtype=bool)
    flags[1, [0, 5, 10]] = True
    rows = by_rank(seconds, 5, 1.0, flags)
    assert len(set(rows[1][[0, 5, 10]] % 5)) == 3
    assert (by_flag(flags, 1) == home(3)).all()


def test_closed_form_of_the_share_by_all_states() -> None:
    """Of one cluster: what becomes of each of its members, one by one."""
    fail, recover = 0.05, 0.15
    for before, load in product(range(5), (2, 3)):
        turn = [1 - recover] * before + [fail] * (4 - before)
        total = 0.0
        for states in product((0, 1), repeat=4):
            if sum(states) < load:
                total += np.prod([p if state else 1 - p for p, state in zip(turn, states, strict=True)])
        assert exact._stays_good(before, load, fail, recover) == pytest.approx(total)
    assert exact.share_dynamic(2, 0.0) == pytest.approx(exact.share_fixed(2))


def test_draws_have_their_memory() -> None:
    """Correlation of the states of two iterations; 4 standard errors of 40,000 pairs, the share's of 1/(1 − m) each."""
    drawn = draw(0.8, 2000, np.random.default_rng(0))
    assert (drawn.states[:-1] == drawn.before[1:]).all()
    stay = drawn.states[drawn.before].mean()
    assert abs(stay - 0.85) < 4 * np.sqrt(0.85 * 0.15 / drawn.before.sum())
    assert abs(drawn.states.mean() - 0.25) < 4 * np.sqrt(0.25 * 0.75 * 9 / (2000 * N))
    quick = drawn.seconds[~drawn.states]
    assert quick.min() >= 1.0 and abs(quick.mean() - 1.1) < 4 * 0.1 / np.sqrt(len(quick))
    assert drawn.seconds[drawn.states].min() >= 10.0
