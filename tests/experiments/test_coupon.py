"""The experiment on batched coupon's collector: its numbers agree, its files are there, its parts are what they say."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.coupon.messages import TOTALS, break_even, simulate
from gradcode.experiments.coupon.thresholds import ROWS, SUBSETS
from gradcode.experiments.coupon.times import EXPECTED, LAW, WAYS, batches_of, collected

Done = tuple[Comparisons, Path, list[str]]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The whole experiment, once."""
    folder, told = tmp_path_factory.mktemp("bcc"), list[str]()
    return by_name("bcc").run(Request(folder, quick=True, tell=told.append)), folder, told


def test_every_number_agrees(quick: Done) -> None:
    """Of fixed seeds; what is drawn within 4 standard errors of both, what is computed to the digits given."""
    found, _, told = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    expected = {item.expected for item in found}
    for row in ROWS:
        assert {row.batches, row.mean, row.drawn, row.if_covered, row.cover, row.cyclic, row.bound} <= expected
    assert {row.mean for row in SUBSETS} <= expected
    assert {own for closed, drawn, _ in EXPECTED.values() for own in (closed, drawn)} <= expected
    assert {own for totals in TOTALS.values() for own in totals} <= expected
    assert {119.80, 5.167, 5.901, 744.44, 32.11, 36.67, 730.6, 875.1, 1662.9, 1026.0, 0.186} <= expected
    assert any("training" in line for line in told)


def test_tables_and_figures_are_there(quick: Done) -> None:
    found, folder, _ = quick
    for table in ("comparison", "thresholds", "subsets", "times", "messages", "uneven", "training"):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        lines = (folder / f"{table}.md").read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(rows) + 1 and len({len(row) for row in rows}) == 1
        assert table != "comparison" or len(rows) == 1 + len(found)
    for figure in ("thresholds", "messages", "uneven", "training"):
        assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(folder / f"{figure}.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize("name", WAYS)
def test_a_queue_takes_no_longer_than_computing_and_receiving_one_after_the_other(name: str) -> None:
    """On the simulated cluster, iteration by iteration; and it takes what the recursion says."""
    for seed, cost in enumerate((0.1, 2.0)):
        trial = simulate(name, cost, 3, seed)
        assert (trial.times <= trial.bound + 1e-9).all() and (trial.times < trial.bound - cost).any()
        assert (trial.times >= trial.bound - cost * (trial.vectors - 1) - 1e-9).all()  # the last one, at least
        assert trial.times == pytest.approx(trial.predicted, rel=1e-12)
        assert (trial.vectors == np.rint(trial.vectors)).all()


def test_what_is_collected_by_hand() -> None:
    """Twenty workers with two batches: the first two of one batch, then one of the other."""
    finish = np.arange(1.0, 21.0)[None]
    choices = np.array([0, 0] + [1] * 18)
    times, vectors = collected("batched coupon", finish, choices)
    assert times.tolist() == [3.0] and vectors.tolist() == [3.0]
    assert collected("batched coupon", finish, choices, 5.0)[0].tolist() == [16.0]
    assert collected("fractional repetition", finish, np.random.default_rng(0))[0].tolist() == [2.0]
    assert collected("cyclic repetition", finish, choices)[0].tolist() == [11.0]
    assert collected("uncoded", finish, choices, 0.5)[1].tolist() == [20.0]
    scheme = WAYS["fractional repetition"].scheme(20, 0)
    assert batches_of(scheme).tolist() == [0, 1] * 10


def test_the_break_even_is_where_both_take_as_long() -> None:
    few, many = WAYS["batched coupon"].plan(50), WAYS["uncoded"].plan(50)
    assert few.expected_time(LAW, break_even()) == pytest.approx(many.expected_time(LAW, break_even()))
