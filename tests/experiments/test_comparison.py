"""Numbers beside expected ones: what counts as agreement, the last line, and the files."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import pytest

from gradcode.errors import ConfigError, GradcodeError
from gradcode.experiments import EXPERIMENTS, Comparison, Comparisons, by_name, write_table
from gradcode.experiments.comparison import shown


@pytest.mark.parametrize(
    ("expected", "found", "tolerance", "deviation"),
    [
        (10, 11, 2, 0.5),
        (10, 8, 2, 1.0),
        (10, 13, 2, 1.5),
        (3, 3, 0, 0),
        (3, 4, 0, math.inf),
        (3, math.nan, 1, math.inf),
    ],
)
def test_deviation_is_a_share_of_the_tolerance(
    expected: float, found: float, tolerance: float, deviation: float
) -> None:
    item = Comparison("it", expected, found, tolerance)
    assert item.deviation == deviation
    assert item.agrees == (deviation <= 1)


def test_the_verdict_counts_and_names_the_worst() -> None:
    found = Comparisons()
    assert found.verdict == "nothing was compared"
    found.add("first", 1.0, 1.0, 0.1, "ms")
    found.add("second", 20.0, 20.5, 1.0, "ms")
    assert found.agree
    assert found.verdict.startswith("2 of 2 numbers agree; the worst deviation is 0.50 of what is allowed: second")
    found.add("third", 1.0, 2.0, 0.0)
    assert not found.agree and found.verdict.startswith("2 of 3") and "third, expected 1, found 2" in found.verdict


def test_tables_are_written_as_csv_and_markdown(tmp_path: Path) -> None:
    found = Comparisons()
    found.add("a, b|c", 1.25, 1.5, 0.1, "s", "a guess")
    found.write(tmp_path / "new" / "comparison")
    with (tmp_path / "new" / "comparison.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    assert row["number"] == "a, b|c" and row["found"] == "1.5" and row["agrees"] == "NO"
    lines = (tmp_path / "new" / "comparison.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 3 and lines[2].startswith(r"| a, b\|c | s | 1.25 | 1.5 |")
    assert {line.replace(r"\|", "").count("|") for line in lines} == {9}


def test_a_table_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(GradcodeError, match=r"cannot write the table .*choose another folder"):
        write_table(tmp_path / "file" / "table", ["a"], [["1"]])


def test_numbers_are_shown_with_the_digits_that_matter() -> None:
    assert [shown(value) for value in (3.0, 405.981, 1.4142, 2.3e-16, math.inf, math.nan)] == [
        "3",
        "405.98",
        "1.414",
        "2.3e-16",
        "inf",
        "nan",
    ]


def test_experiments_have_names() -> None:
    assert by_name("hierarchical") is EXPERIMENTS["hierarchical"]
    with pytest.raises(ConfigError, match=r"no experiment 'hierarchal'; known are .*did you mean 'hierarchical'"):
        by_name("hierarchal")
