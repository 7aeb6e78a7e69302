"""``gradcode plan block`` as a user runs it."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli.conftest import Cli
from gradcode.cli.app import app
from gradcode.delays import ShiftedExponential
from gradcode.planning import block_coordinate as planning

WORKERS, COORDINATES = 6, 4000
LAW = ShiftedExponential(0.04, 3.0)
UNITS = (WORKERS, 1 / COORDINATES)
EXPONENTIAL = 'law = "shifted_exponential"\nshift = 0.04\nrate = 3.0'


def written(
    tmp_path: Path, law: str = EXPONENTIAL, head: str = f"workers = {WORKERS}\ncoordinates = {COORDINATES}"
) -> Path:
    path = tmp_path / "setting.toml"
    path.write_text(f"{head}\n[delays.compute]\n{law}\n")
    return path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["plan", "block", *map(str, arguments)])


def number(text: str, pattern: str) -> float:
    found = re.search(pattern, text)
    assert found, f"{pattern} is not in\n{text}"
    return float(found[1])


def sizes_in(text: str) -> list[int]:
    found = re.search(r'name = "block_coordinate", sizes = (\[.*?\])', text)
    assert found, text
    sizes: list[int] = json.loads(found[1])
    return sizes


def test_the_optimum_and_what_it_saves(process: Cli, tmp_path: Path) -> None:
    ended = process("plan", "block", written(tmp_path))
    assert ended.returncode == 0 and not ended.stderr
    best = planning.optimal(LAW, WORKERS, COORDINATES, *UNITS)
    assert sizes_in(ended.stdout) == best.sizes.tolist()
    single = planning.for_network(LAW, WORKERS, COORDINATES)
    for name, value, partitions in (
        ("optimum", best.value, 6),
        (f"one level, {single.level}", single.value, single.level + 1),
        ("uncoded", single.uncoded, 1),
    ):
        assert number(ended.stdout, rf"\n {re.escape(name)} +([\d.]+) ") == pytest.approx(value, rel=1e-3)
        assert number(ended.stdout, rf"\n {re.escape(name)} +[\d.]+ +[\d.]+ +(\d+)") == partitions
    assert f"blocks take {1 - best.value / single.value:.1%} less time than the best single level, 5" in ended.stdout
    assert number(ended.stdout, r"no blocks can take less than ([\d.]+) s; gap: ") == pytest.approx(
        best.bound, rel=1e-5
    )
    assert "each worker holds 6 of 6 partitions" in ended.stdout and "P(done" not in ended.stdout


def test_a_cap_on_what_workers_hold(tmp_path: Path) -> None:
    ended = run(written(tmp_path), "--highest", "2")
    assert ended.exit_code == 0, ended.output
    best = planning.optimal(LAW, WORKERS, COORDINATES, *UNITS, levels=range(3))
    assert sizes_in(ended.stdout) == best.sizes.tolist() and best.sizes[2] > 0 and not best.sizes[3:].any()
    assert "of levels up to 2 can take less than" in ended.stdout and "holds 3 of 6 partitions" in ended.stdout
    capped = planning.for_network(LAW, WORKERS, COORDINATES, highest=2)
    assert number(ended.stdout, rf"\n one level, {capped.level} +([\d.]+) ") == pytest.approx(capped.value, rel=1e-3)


def test_probabilities_and_files(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "plan"
    ended = run(written(tmp_path), "--threshold", "0.5", "--output", folder)
    assert ended.exit_code == 0, ended.output
    likely = planning.most_likely(LAW, WORKERS, COORDINATES, 0.5, *UNITS)
    assert number(ended.stdout, r"\n likeliest +[\d.]+ +[\d.]+ +\d+ +([\d.]+)") == pytest.approx(likely.value, abs=1e-4)
    with (folder / "plan.csv").open(newline="") as file:
        blocks = list(csv.DictReader(file))
    assert [int(row["likeliest"]) for row in blocks] == likely.sizes.tolist()
    assert list(blocks[0]) == ["stragglers", "optimum", "x^(t)", "x^(f)", "x^(lg)", "likeliest"]
    with (folder / "ways.csv").open(newline="") as file:
        ways = {row["way"]: row for row in csv.DictReader(file)}
    large = planning.round_sizes(planning.by_large_threshold(WORKERS, COORDINATES))
    expected = planning.completion_probability(large, LAW, 0.5, *UNITS)
    assert float(ways["x^(lg)"]["probability"]) == expected
    assert float(ways["uncoded"]["probability"]) == pytest.approx(float(LAW.cdf(0.5)) ** WORKERS, rel=1e-9)
    assert max(ways, key=lambda way: float(ways[way]["probability"])) == "likeliest"
    assert min(ways, key=lambda way: float(ways[way]["seconds"])) == "optimum"
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert ElementTree.parse(folder / "plan.svg").getroot().tag.endswith("svg")


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ('law = "deterministic"\nseconds = 1.0', 'one level for all. do not code: [scheme] name = "uncoded"'),
        ('law = "weibull"\nshape = 0.3\nscale = 1.0', "one level for all. tolerate 5: [scheme]"),
        ('law = "weibull"\nshape = 8.0\nscale = 1.0\nshift = 5.0', "blocks save no more than 0."),
    ],
)
def test_blocks_that_are_not_worth_it(tmp_path: Path, law: str, said: str) -> None:
    ended = run(written(tmp_path, law))
    assert ended.exit_code == 0, ended.output
    assert said in ended.stdout and "block_coordinate" not in ended.stdout


def test_a_network_takes_one_level(tmp_path: Path) -> None:
    folder = tmp_path / "plan"
    ended = run(written(tmp_path), "--network", "--threshold", "0.5", "--output", folder)
    assert ended.exit_code == 0, ended.output
    best = planning.for_network(LAW, WORKERS, COORDINATES)
    assert best.level == 5
    assert "no mixture of levels is quicker" in ended.stdout and "block_coordinate" not in ended.stdout
    assert 'tolerate 5: [scheme] name = "coded", [scheme.code] stragglers = 5' in ended.stdout
    assert number(ended.stdout, r"expected time: ([\d.]+) s, uncoded") == pytest.approx(best.value, rel=1e-3)
    assert "likeliest to be done in 0.5 s: level 5, " in ended.stdout
    with (folder / "ways.csv").open(newline="") as file:
        seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
    means = [(level + 1) * LAW.mean_order_statistic(WORKERS - level, WORKERS) for level in range(WORKERS)]
    assert seconds == pytest.approx(means, rel=1e-6)
    with (folder / "plan.csv").open(newline="") as file:
        assert [int(row["level 5"]) for row in csv.DictReader(file)] == list(best.sizes)
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")


def test_a_network_that_should_not_code(tmp_path: Path) -> None:
    ended = run(written(tmp_path, 'law = "pareto"\nshape = 3.0\nscale = 0.1'), "--network")
    assert ended.exit_code == 0 and "do not code" in ended.stdout


def test_what_has_no_mean(tmp_path: Path) -> None:
    """T_(N) of a Pareto law of shape 0.8 has none, and x^(f) of an exponential law does not exist."""
    ended = run(written(tmp_path, 'law = "pareto"\nshape = 0.8\nscale = 1.0'))
    assert ended.exit_code == 0 and "uncoded: not finite" in ended.stdout and sizes_in(ended.stdout)[0] == 0
    ended = run(written(tmp_path, 'law = "exponential"\nrate = 1.0'))
    assert ended.exit_code == 0 and "x^(t)" in ended.stdout and "x^(f)" not in ended.stdout
    hopeless = written(tmp_path, 'law = "pareto"\nshape = 0.1\nscale = 1.0')
    for options in ([], ["--network"]):
        ended = run(hopeless, *options)
        assert ended.exit_code == 1 and "finite" in ended.stderr and "Pareto(shape=0.1" in ended.stderr


def test_many_workers_are_abridged(tmp_path: Path) -> None:
    ended = run(written(tmp_path, head="workers = 40\ncoordinates = 4000"))
    assert ended.exit_code == 0 and " … " in ended.stdout
    table = ended.stdout.split("expected time")[0].splitlines()
    assert len(table) < 20 and any(line.split()[:2] == ["39", "1"] for line in table)


@pytest.mark.parametrize(
    ("head", "law", "said"),
    [
        ("workers = 1\ncoordinates = 9", EXPONENTIAL, "workers = 1 must be an integer, at least 2"),
        ("workers = 4\ncoordinates = 0.5", EXPONENTIAL, "coordinates = 0.5 must be an integer, at least 1"),
        ("workers = 4", EXPONENTIAL, "coordinates is missing"),
        ("workers = 4\ncoordinates = 9\nlevels = 3", EXPONENTIAL, "levels = 3: unknown key; known are workers, coord"),
        ("workers = 4\ncoordinates = 9\ncordinates = 3", EXPONENTIAL, 'did you mean "coordinates"?'),
        ("workers = 4\ncoordinates = 9", 'law = "gauss"', "delays.compute.law='gauss' must be one of determ"),
        ("workers = 4\ncoordinates = 9", 'law = "exponential"\nrate = -1.0', "delays.compute: rate=-1.0 must be > 0"),
        (
            "workers = 4\ncoordinates = 9",
            'law = "persistent"\nfactors = { 0 = 3.0 }\nbase = { law = "exponential", rate = 1.0 }',
            'delays.compute = {law = "persistent"',
        ),
        (
            "workers = 4\ncoordinates = 9",
            f"{EXPONENTIAL}\n[delays.communicate]\nlatency = 1.0",
            "delays.communicate = {",
        ),
        ("workers = 4\ncoordinates = 9", 'law = "deterministic"\nseconds = 0.0', "delays.compute: the mean times"),
        ("workers = = 4", "", "is not TOML"),
    ],
)
def test_a_wrong_setting_is_one_message(tmp_path: Path, head: str, law: str, said: str) -> None:
    path = written(tmp_path, law, head)
    ended = run(path)
    assert ended.exit_code == 1 and not ended.stdout
    assert ended.stderr.startswith(f"error: {path}") and said in ended.stderr and ended.stderr.count("\n") == 1


def test_delays_that_are_missing_and_options_out_of_range(tmp_path: Path) -> None:
    path = tmp_path / "setting.toml"
    path.write_text("workers = 4\ncoordinates = 9\n")
    assert "delays is missing" in run(path).stderr
    path = written(tmp_path)
    for options, said in (
        (["--highest", "6"], "--highest 6 must lie in 0..5"),
        (["--highest", "-1"], "--highest -1 must lie in 0..5"),
        (["--threshold", "0"], "--threshold 0.0 must be > 0"),
        (["--threshold", "nan"], "--threshold nan must be > 0"),
        (["--threshold", "0.001"], "--threshold 0.001: threshold must be at least 40 times what it is"),
    ):
        ended = run(path, *options)
        assert ended.exit_code == 1 and not ended.stdout
        assert ended.stderr.startswith(f"error: {said}") and ended.stderr.count("\n") == 1
    assert run(tmp_path / "none.toml").stderr.startswith("error: cannot read the setting")
    taken = tmp_path / "taken"
    taken.touch()
    assert f"error: cannot write into {taken}: " in run(path, "--output", taken).stderr


def test_usage_errors_end_with_2(tmp_path: Path) -> None:
    assert run().exit_code == 2
    assert run(written(tmp_path), "--highest", "two").exit_code == 2
