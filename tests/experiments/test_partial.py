"""The experiment on partial stragglers: its numbers agree, its files are there, its parts are what they say."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from gradcode.codes import chunks
from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.partial import (
    ERRORS,
    TIMES,
    Mean,
    finishers,
    least_squares_error,
    paces,
    root_deficit,
)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparisons, Path, list[str]]:
    """The whole experiment, once."""
    folder, told = tmp_path_factory.mktemp("partial"), list[str]()
    return by_name("partial").run(Request(folder, quick=True, tell=told.append)), folder, told


def test_every_number_agrees(quick: tuple[Comparisons, Path, list[str]]) -> None:
    """Of fixed seeds; means within 4 standard errors of both, the spread between graphs and orders included."""
    found, _, _ = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    assert sum(name.startswith("time, ") for name in names) == sum(len(row.reported) for row in TIMES)
    assert sum(name.startswith("error, ") for name in names) >= sum(len(row.reported) for row in ERRORS)
    # About twice as quick as whole workers, and orders by matchings better than random ones, as reported.
    times = {item.name.removeprefix("time, "): item.found for item in found if item.name.startswith("time, ")}
    for row in TIMES:
        if len(row.reported) == 3:
            whole, best, random = (
                times[f"{row.name}: {name}"]
                for name in ("whole worker", "partial, best order", "partial, random order")
            )
            assert 1.8 < whole / best < 2.6 and best < random


def test_tables_and_the_figure_are_there(quick: tuple[Comparisons, Path, list[str]]) -> None:
    found, folder, told = quick
    for table in ("comparison", "times", "errors", "orders"):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        lines = (folder / f"{table}.md").read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(rows) + 1 and len({len(row) for row in rows}) == 1
        assert table != "comparison" or len(rows) == 1 + len(found)
    assert (folder / "errors.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "errors.svg").getroot().tag.endswith("svg")
    assert any("graph 300" in line for line in told)


def test_paces_have_as_many_failed_workers_as_wanted() -> None:
    """Exponential of mean 1 otherwise: within 5 standard errors."""
    pace = paces(np.random.default_rng(0), 2000, 10, 3)
    assert (np.isinf(pace).sum(axis=1) == 3).all()
    assert np.isinf(pace).any(axis=0).all()
    assert abs(pace[np.isfinite(pace)].mean() - 1) < 5 / np.sqrt(14_000)


def test_the_root_deficit_is_what_least_squares_leave() -> None:
    rng = np.random.default_rng(1)
    order = chunks.matching_order(chunks.random_regular_assignment(20, 4, rng))
    pace = paces(rng, 10, 20, 3)
    for parts in (1, 2, 3):
        found = root_deficit(finishers(pace, order, (1, 2, 4)), parts)
        shared = chunks.shared_matrix(20, parts, rng)
        for run, own in enumerate(pace):
            for column, time in enumerate((1, 2, 4)):
                finished = (order > 0) & (own[:, None] * np.maximum(order, 1) <= time)
                assert chunks.coefficients(finished, shared).residual == pytest.approx(found[run, column], abs=1e-9)
    assert found.max() > 1


def test_whole_workers_errors_are_those_of_least_squares() -> None:
    rng = np.random.default_rng(2)
    held = chunks.random_regular_assignment(12, 3, rng)
    pace = paces(rng, 10, 12, 2)
    found = least_squares_error(pace, held, (2, 4))
    for run, own in enumerate(pace):
        for column, time in enumerate((2, 4)):
            rows = held[3 * own <= time].astype(float)
            weights = np.linalg.lstsq(rows.T, np.ones(12), rcond=None)[0]
            assert found[run, column] == pytest.approx(np.linalg.norm(rows.T @ weights - 1), abs=1e-4)


def test_a_mean_knows_runs_from_draws() -> None:
    """Draws of standard deviation 2, runs of 1: the tolerance covers another draw, not only another run."""
    rng = np.random.default_rng(3)
    mean = Mean.of(rng.standard_normal((400, 1)) * 2 + rng.standard_normal((400, 50)))
    assert mean.within == pytest.approx(1.0, rel=0.1) and mean.between == pytest.approx(4.0, rel=0.3)
    assert mean.error == pytest.approx(np.sqrt(4 / 400), rel=0.2)
    assert mean.tolerance(50, 0.0) == pytest.approx(4 * np.sqrt(4 + 1 / 50), rel=0.2)
    nothing = Mean.of(np.zeros((3, 10)))
    assert nothing.tolerance(1000, 5e-4) == 5e-4
    assert nothing.tolerance(1000, 5e-4, 0.001) == pytest.approx(4 * np.sqrt(0.001 * 0.999 / 1000) + 5e-4)
