"""The experiment on two-stage coding: its numbers agree, its files are there, its draws are those of a cluster."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

import gradcode
from gradcode import codes, schemes
from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.two_stage.setting import PARTITIONED, VARIANTS, Law, N, cyclic, fixed, run, uncoded, wait_for
from gradcode.experiments.two_stage.times import EXPECTED
from gradcode.training import LeastSquares

Done = tuple[Comparisons, Path]


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The whole experiment, once."""
    folder = tmp_path_factory.mktemp("two_stage")
    return by_name("two_stage").run(Request(folder, quick=True)), folder


def test_every_number_agrees(quick: Done) -> None:
    """Of fixed seeds; within 4 standard errors of both where a number is drawn, else to the digits given."""
    found, _ = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    assert {row[0] for row in EXPECTED.values()} <= {item.expected for item in found}


def test_tables_and_figures_are_there(quick: Done) -> None:
    found, folder = quick
    for table in ("comparison", "times", "utilisation", "sweeps", "partitions"):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > (8 if table == "partitions" else 10) and len({len(row) for row in rows}) == 1
        assert table != "comparison" or len(rows) == 1 + len(found)
    assert (folder / "sweeps.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "sweeps.svg").getroot().tag.endswith("svg")


def test_utilisation_lies_between_zero_and_one(quick: Done) -> None:
    with (quick[1] / "utilisation.csv").open(newline="", encoding="utf-8") as file:
        rows = {row[0]: [float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]}
    assert set(rows) == {*EXPECTED, *PARTITIONED, "ignore 2 slowest"}
    assert all(0 < share <= 1 for own in rows.values() for share in own[1:])
    assert rows["uncoded"][0] == 1 and rows["uncoded"][1] == 1 and rows["CRS s=2"][0] == 3
    # Redundancy only where somebody is late leaves more of what is computed useful.
    assert rows["M1=8, all, any_s"][1] > rows["CRS s=1"][1]


@pytest.mark.parametrize("name", [*VARIANTS, *PARTITIONED])
def test_the_draws_are_those_of_a_simulated_cluster(name: str) -> None:
    """Both stages of it: every iteration takes as long there, and computes what was begun."""
    scheme, law, iterations = fixed(**(VARIANTS | PARTITIONED)[name]), Law(), 30
    rng = np.random.default_rng(0)
    objective = LeastSquares(rng.standard_normal((80, 2)), rng.standard_normal(80), scheme.partitions)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(N, law.table(seed=5))
    session = gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append])
    for number in range(iterations):
        session._backward(number)
        assert reports[-1].exact
    own = run(scheme, law.draws(iterations, seed=5))
    assert [report.time for report in reports] == own.time.tolist()
    assert [report.uploads for report in reports] == own.sent.tolist()
    assert (own.late > 0).any() and not (own.late > 0).all()


def test_one_stage_is_what_the_schemes_take() -> None:
    compute = Law().draws(200)
    nothing = np.zeros(compute.shape[:2])
    plain = schemes.uncoded(N, partitions=40)
    assert np.array_equal(uncoded(compute).time, plain.duration(compute, nothing))
    code = schemes.coded(codes.cyclic_mds(N, 2, partitions=40, max_error=1.0))  # needs N − s, like the spec's
    assert np.array_equal(cyclic(compute).time, code.duration(compute, nothing))
    few = wait_for(compute, 8, 4)
    assert (few.used == 8).all() and (few.started <= few.ordered).all() and (few.time < uncoded(compute).time).all()
