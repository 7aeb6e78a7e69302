"""``gradcode plan hierarchical`` as a user runs it."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from gradcode.cli.plan import _around, _listed
from gradcode.planning.hierarchical import plan, two_types_system

Cli = Callable[..., subprocess.CompletedProcess[str]]

EXAMPLE = Path(__file__).parents[2] / "examples" / "hierarchical_system.toml"
EQUAL = """
partitions = {partitions}
[[edges]]
count = {edges}
attempt = 0.1
failure = {failure}
[[edges.workers]]
count = {workers}
compute = 0.01
rate = {rate}
"""


@pytest.fixture
def equal(tmp_path: Path) -> Callable[..., Path]:
    def write(edges: int = 2, workers: int = 3, partitions: int = 6, rate: str = "20.0", failure: float = 0.1) -> Path:
        path = tmp_path / "system.toml"
        path.write_text(EQUAL.format(edges=edges, workers=workers, partitions=partitions, rate=rate, failure=failure))
        return path

    return write


def test_the_example(process: Cli) -> None:
    ended = process("plan", "hierarchical", EXAMPLE)
    assert ended.returncode == 0 and not ended.stderr
    assert "choice: edge_stragglers=1, worker_stragglers=2; load: 6 of 40 partitions" in ended.stdout
    assert "expected time: 0.3092 s; uncoded: 0.8722 s\ncoding makes an iteration 2.821 times as fast" in ended.stdout
    assert "predicted stragglers: edge node 3; workers 8-9 of edge nodes 0-3" in ended.stdout
    assert "value of the choice: 0.2367 s, at most 0.5564 s (bound ε)" in ended.stdout
    assert "0.825" in ended.stdout and "~" not in ended.stdout and "not feasible" not in ended.stdout


def test_exact_and_its_files(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plan"
    ended = cli("plan", "hierarchical", EXAMPLE, "--objective", "exact", "--tail", "load", "--output", folder)
    assert ended.returncode == 0, ended.stderr
    assert (
        "warning" not in ended.stdout
        and "choice: edge_stragglers=1, worker_stragglers=9" in ended.stdout
        and "estimated from draws" in ended.stdout
    )
    expected = plan(two_types_system(), "exact", "load")
    with (folder / "plan.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["seconds"]) for row in rows] == expected.table.ravel().tolist()
    assert [int(row["exact"]) for row in rows] == expected.exact.ravel().astype(int).tolist()
    chosen = next(row for row in rows if row["chosen"] == "1")
    assert (chosen["edge_stragglers"], chosen["worker_stragglers"], chosen["load"]) == ("1", "9", "20")
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "plan.svg").getroot().tag.endswith("svg")


def test_a_choice_that_rounding_forbids(cli: Cli) -> None:
    ended = cli("plan", "hierarchical", EXAMPLE, "--objective", "exact")
    assert ended.returncode == 0 and "choice: edge_stragglers=2, worker_stragglers=2" in ended.stdout
    assert "warning: not with float32 messages: " in ended.stdout and "dtype='float64' holds" in ended.stdout


def test_equal_machines_and_means(cli: Cli, equal: Callable[..., Path]) -> None:
    ended = cli("plan", "hierarchical", equal())
    assert ended.returncode == 0
    assert "warning: this says nothing" in ended.stdout and "--objective exact" in ended.stdout
    assert "do not code" not in ended.stdout


def test_do_not_code(cli: Cli, equal: Callable[..., Path]) -> None:
    ended = cli("plan", "hierarchical", equal(rate="inf", failure=0.0), "--objective", "exact")
    assert ended.returncode == 0
    assert "do not code" in ended.stdout and "predicted stragglers" not in ended.stdout


def test_a_large_table_is_abridged(cli: Cli, equal: Callable[..., Path]) -> None:
    ended = cli("plan", "hierarchical", equal(edges=30, workers=40, partitions=1200))
    assert ended.returncode == 0 and max(map(len, ended.stdout.splitlines()[:16])) <= 80
    assert " … " in ended.stdout and "\n 29 " in ended.stdout and " 39 \n" in ended.stdout


def test_infeasible_entries(cli: Cli, tmp_path: Path) -> None:
    """Four partitions for 1 + 1 + 2 workers: (2, 0) would give the third edge node six of them."""
    path = tmp_path / "system.toml"
    worker = "[[edges.workers]]\ncompute = 0.01\n"
    path.write_text(f"[[edges]]\ncount = 2\n{worker}[[edges]]\n{worker}count = 2\n")
    folder = tmp_path / "plan"
    ended = cli("plan", "hierarchical", path, "--output", folder)
    assert ended.returncode == 0 and "-: not feasible" in ended.stdout
    assert len((folder / "plan.csv").read_text().splitlines()) == 1 + 2


def test_uncoded_is_not_feasible(cli: Cli, equal: Callable[..., Path]) -> None:
    ended = cli("plan", "hierarchical", equal(partitions=4))
    assert ended.returncode == 0
    assert "uncoded cannot be compared, for partitions = 4 is no multiple of the 6 workers" in ended.stdout


@pytest.mark.parametrize(
    ("partitions", "said"),
    [("1", "no choice is feasible with partitions=1: take a multiple of 5"), ("0.5", "partitions = 0.5 must be")],
)
def test_a_wrong_system_is_one_message(cli: Cli, tmp_path: Path, partitions: str, said: str) -> None:
    path = tmp_path / "system.toml"
    workers = "[[edges]]\n[[edges.workers]]\ncompute = 1\ncount = "
    path.write_text(f"partitions = {partitions}\n{workers}2\n{workers}3\n")
    ended = cli("plan", "hierarchical", path)
    assert ended.returncode == 1 and not ended.stdout
    assert ended.stderr.startswith(f"error: {path}: ") and said in ended.stderr and ended.stderr.count("\n") == 1


def test_a_missing_file_and_a_folder_that_is_a_file(cli: Cli, tmp_path: Path) -> None:
    ended = cli("plan", "hierarchical", tmp_path / "none.toml")
    assert ended.returncode == 1 and ended.stderr.startswith("error: cannot read the system")
    taken = tmp_path / "taken"
    taken.touch()
    ended = cli("plan", "hierarchical", EXAMPLE, "--output", taken)
    assert ended.returncode == 1 and ended.stderr.startswith(f"error: cannot write into {taken}: ")


def test_usage_errors_end_with_2(cli: Cli) -> None:
    assert cli("plan").returncode == 2
    assert cli("plan", "hierarchical").returncode == 2
    assert cli("plan", "hierarchical", EXAMPLE, "--objective", "best").returncode == 2


@pytest.mark.parametrize("length", [1, 2, 5, 12, 13, 100])
def test_the_shown_part_of_a_table(length: int) -> None:
    for most in (5, 8, 12):
        for chosen in range(length):
            shown = _around(chosen, length, most)
            numbers = [index for index in shown if index is not None]
            assert len(shown) <= most and {0, chosen, length - 1} <= set(numbers)
            assert numbers == sorted(numbers) and None not in (shown[0], shown[-1])
            gaps = np.diff(numbers) > 1
            assert gaps.sum() == shown.count(None)


def test_runs_of_numbers() -> None:
    assert _listed("worker", [3]) == "worker 3"
    assert _listed("edge node", [0, 1, 2, 5, 7, 8]) == "edge nodes 0-2, 5, 7-8"


def test_other_commands_do_not_load_what_planning_needs() -> None:
    program = "import sys, gradcode.cli.app\nassert not {'gradcode.planning', 'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
