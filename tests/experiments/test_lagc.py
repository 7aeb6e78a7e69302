"""The experiment on lazy aggregation: its tables where they are quick, and its data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gradcode.catalog import DataError
from gradcode.experiments import Comparisons, Request
from gradcode.experiments.lagc import iteration, problems, sensitivity, totals
from gradcode.experiments.lagc.curves import tension


def test_totals_agree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some of the quick ones; counts are not within 2 % only, they are the same."""
    names = ("LAG-WK", "LAG-PS", "LAGC(3) coded", "G-LAG(3) PS")
    monkeypatch.setattr(totals, "QUICK", names)
    found = Comparisons()
    complete = totals.to_accuracy(Request(tmp_path, quick=True), found)
    assert found.agree, found.verdict
    assert set(complete) == set(names)
    exact = [item for item in found if item.name.endswith(("iterations", "uploads", "downloads", "units"))]
    assert len(exact) == 4 * len(names)
    assert all(item.found == item.expected for item in exact)
    tension(Request(tmp_path, quick=True), complete)
    for name in ("totals.md", "gaps.csv", "tension.png", "pareto-exponential.svg"):
        assert (tmp_path / name).stat().st_size > 100


def test_times_of_an_iteration_agree(tmp_path: Path) -> None:
    found = Comparisons()
    iteration.times(Request(tmp_path, quick=True), found)
    assert found.agree, found.verdict
    assert len(found) > 50


@pytest.mark.parametrize(
    ("name", "xi"), [("G-LAG(6) PS", 0.5), ("LAG-WK", 2.0), ("G-LAG(6) PS", 1.0)], ids=["small", "large", "too large"]
)
def test_rows_of_sensitivity(name: str, xi: float) -> None:
    wanted = sensitivity.SENSITIVITY[name][xi]
    own = sensitivity._run(name, problems.diagonal(), xi, 600)
    assert own.reached == (wanted is not None)
    assert wanted is None or (own.iterations, own.uploads) == wanted


def data(folder: Path, missing: str = "") -> None:
    """Files of the real sets' sizes with drawn numbers."""
    rng = np.random.default_rng(0)
    for name, samples in problems.LINEAR.items():
        if name != missing:
            np.savetxt(
                folder / name, rng.standard_normal((samples, 9)), delimiter="," if name == "bodyfat.txt" else " "
            )


def test_real_data_are_read_and_cut(tmp_path: Path) -> None:
    data(tmp_path)
    tables = problems.real_data(tmp_path)
    problem = problems.linear(tables, 9)
    assert problem.workers == 9 and problem.objective.length == 8
    assert problem.objective.sizes(0).tolist() == [168] * 3 + [84] * 3 + [139] * 3
    found, said = Comparisons(), []
    request = Request(tmp_path / "out", quick=True, tell=said.append)
    assert problems.real_data(None) == {}
    assert sensitivity._real(request, found, {}) == [] and "E3 (real data) is left out" in said[0]
    for name in problems.LOGISTIC:
        table = np.random.default_rng(1).standard_normal((60, 9))
        table[:, -1] = np.sign(table[:, -1])
        np.savetxt(tmp_path / name, table)
    assert problems.logistic(problems.real_data(tmp_path)).workers == 18


@pytest.mark.parametrize("missing", problems.LINEAR)
def test_a_missing_file_is_named(tmp_path: Path, missing: str) -> None:
    data(tmp_path, missing)
    with pytest.raises(DataError, match=f"{missing} is missing .*E3 needs housing.txt, bodyfat.txt, abalone.txt"):
        problems.real_data(tmp_path)


def test_files_that_are_no_tables(tmp_path: Path) -> None:
    data(tmp_path)
    (tmp_path / "bodyfat.txt").write_text("age, weight\n1, 2\n")
    with pytest.raises(DataError, match=r"bodyfat\.txt is no table of numbers"):
        problems.real_data(tmp_path)
    np.savetxt(tmp_path / "bodyfat.txt", np.ones((251, 9)))
    with pytest.raises(DataError, match=r"bodyfat\.txt has 251 samples of 9 numbers; there must be 252 of 9 or more"):
        problems.real_data(tmp_path)
