"""The experiment on encoded optimisation at a small scale, and its parts by themselves."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from gradcode import delays, solvers
from gradcode.codes import encoders
from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.encoded import asynchronous, fixed, measured, problems, spectra, spread, stragglers
from gradcode.experiments.encoded.scale import Scale
from gradcode.reporting import plots

SMALL = Scale(
    spectra=2,
    fixed=3,
    adversarial=0,
    seeds=2,
    ks=(12,),
    gradient=40,
    second=15,
    coordinates=12,
    rest=12,
    timed=1,
    paced=3,
)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparisons, Path, list[str]]:
    """Once; with fewer subsets than extreme eigenvalues are expected for, and figures drawn quickly."""
    folder, told = tmp_path_factory.mktemp("encoded"), list[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spectra, "SUBSETS", 8)
        patch.setattr(plots, "save", drawn_once)
        return measured(Request(folder, tell=told.append), SMALL), folder, told


def drawn_once(figure: Figure, path: Path) -> None:
    if path.suffix == ".png":
        figure.set_layout_engine("none")
        figure.savefig(path, dpi=50)


def test_numbers_agree_that_do_not_need_more(small: tuple[Comparisons, Path, list[str]]) -> None:
    """Not the extremes of few eigenvalues, and what takes more steps."""
    found, _, _ = small
    names = [item.name for item in found]
    assert len(set(names)) == len(names) > 80
    few = ("smallest", "spectrum, gaussian", "spectrum, paley")
    late = ("LASSO", "descent, random", "descent, fixed stragglers, hadamard")
    early = [item for item in found if any(own in item.name for own in few + late)]
    assert not [item for item in found if not item.agrees and item not in early], found.verdict
    assert len(found) - len(early) > 50


def test_tables_and_figures_are_there(small: tuple[Comparisons, Path, list[str]]) -> None:
    found, folder, told = small
    for table in ("comparison", "frames", "spectra", "fixed", "neighbourhoods", "lasso", "coordinates", "times"):
        lines = list(csv.reader((folder / f"{table}.csv").open(encoding="utf-8")))
        assert len(lines) > 2 and len({len(line) for line in lines}) == 1
        assert (folder / f"{table}.md").exists()
        if table == "comparison":
            assert len(lines) == len(found) + 1
    for figure in ("spectra", "fixed", "neighbourhoods", "coordinates", "times"):
        assert (folder / f"{figure}.png").stat().st_size > 5_000
    assert any("LASSO" in line for line in told)
    assert by_name("encoded").summary


def test_the_worst_case_is_encodings_and_random_stragglers_are_replications(
    small: tuple[Comparisons, Path, list[str]],
) -> None:
    """The spec's reading, in our numbers: paired by data, so that four draws and two seeds show it."""
    _, folder, _ = small
    worst = {row["placement"]: float(row["ours ± s.d."].split()[0]) for row in rows(folder / "fixed.csv")}
    assert worst["hadamard"] < worst["replication"] < worst["uncoded"]
    ends = {(row["delays"], row["method"]): float(row["f/f* − 1 at the end"]) for row in rows(folder / "times.csv")}
    assert ends["two pairs lost", "hadamard"] < ends["two pairs lost", "replication"]
    assert ends["a quarter lost", "replication"] < ends["a quarter lost", "hadamard"]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_descent_under_the_worst_set_ends_at_its_least_squares() -> None:
    rng = np.random.default_rng(0)
    problem, sets = problems.small(rng), np.array([[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11], np.arange(4, 16)])
    replicated = fixed._ratios(problem, problems.ENCODERS["replication"](128, rng), sets)
    assert replicated.tolist() == pytest.approx([1.0, 1.0], abs=1e-12)  # both sets have all eight parts
    encoder = problems.ENCODERS["hadamard"](128, rng)
    ratios = fixed._ratios(problem, encoder, sets)
    assert (ratios > 1.001).all()
    assert fixed._descent(problem, encoder, sets[1].tolist()) == pytest.approx(ratios[1], abs=1e-4)


def test_the_lasso_optimum_has_no_descent() -> None:
    problem = problems.lasso(np.random.default_rng(1))
    w, slope = problem.optimum, problem.uncoded.gradient(problem.optimum)
    torch.testing.assert_close(slope[w != 0], -0.1 * w[w != 0].sign(), rtol=1e-9, atol=1e-12)
    assert float(slope[w == 0].abs().max()) <= 0.1
    assert (problem.truth != 0).sum() == 10 and problem.best == problem.value(w) < problem.value(0.99 * w)


def test_placements_have_the_workers_and_the_copies() -> None:
    problem, rng = problems.small(np.random.default_rng(2)), np.random.default_rng(3)
    for name, (partitions, copies) in {"uncoded": (16, 1), "replication": (8, 2), "hadamard": (16, 1)}.items():
        objective, scheme = problem.placed(problems.ENCODERS[name](128, rng), 12)
        assert (objective.partitions, scheme.workers) == (partitions, 16)
        assert repr(scheme) == f"fastest(workers=16, k=12{', replicas=2' if copies == 2 else ''})"
    found = problems.solve(
        lambda session: solvers.gradient_descent(session, 3),
        problem.placed(encoders.replication(128, 1), 16),
        delays.Deterministic(1.0),
        0,
    )
    assert found.clock.tolist() == [0.0, 1.0, 2.0, 3.0]


def test_asynchronous_steps_in_lockstep_are_gradient_descent() -> None:
    """No staleness and equal workers: sixteen partial steps from the same parameters are one whole step."""
    problem = problems.small(np.random.default_rng(4))
    table = delays.Delays(delays.Deterministic(1.0)).table(16, 0)
    course = asynchronous.asynchronous(problem, table, 0, 0.3, 3.0)
    w, values = torch.zeros(20, dtype=torch.float64), [problem.value(torch.zeros(20, dtype=torch.float64))]
    for _ in range(3):
        w = w - 0.3 * problem.uncoded.gradient(w)
        values.append(problem.value(w))
    assert course.clock.tolist() == [0.0, 1.0, 2.0, 3.0]
    np.testing.assert_allclose(course.values, values, rtol=1e-10)


@pytest.mark.parametrize("staleness", [0, 2])
def test_nobody_runs_ahead_of_the_slowest_by_more_than_the_staleness(staleness: int) -> None:
    """Fifteen workers of 1 s per round and one that never ends its first: they end after as many rounds and one."""
    problem = problems.small(np.random.default_rng(5))
    table = delays.Delays(delays.slow(delays.Deterministic(1.0), {15: np.inf})).table(16, 0)
    course = asynchronous.asynchronous(problem, table, staleness, 0.1, 100.0)
    assert len(course.clock) == 1 + 15 * (staleness + 1) // 16
    assert course.clock[-1] <= staleness + 1


def test_tolerances() -> None:
    drawn = np.array([1.0, 3.0])
    assert spread.tolerance(drawn, 0.5) == pytest.approx(4 * np.sqrt(2) * np.sqrt(1.5) + 0.5)
    assert spread.relative(2.0, 0.25, 3, 0.1) == pytest.approx(4 * 0.5 * np.sqrt(4 / 3) + 0.1)
    assert spread.relative(-1e-17, 0.25, 3, 0.1) == pytest.approx(0.1)


def test_f1_counts_what_was_found_and_what_was_not() -> None:
    assert stragglers._f1(np.array([1, 1, 0, 0]) > 0, np.array([1, 0, 1, 0]) > 0) == 0.5
