"""Systems: what they allow, how they are refused, and as files."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from gradcode.errors import ConfigError
from gradcode.planning.hierarchical import Edge, System, Worker, two_types_system

EXAMPLE = Path(__file__).parents[2] / "examples" / "hierarchical_system.toml"


def sized(sizes: tuple[int, ...], partitions: int) -> System:
    return System(tuple(Edge((Worker(1.0),) * m) for m in sizes), partitions)


def test_feasible_pairs_of_the_spec() -> None:
    """Its sections 2.1 and 9.2."""
    for sizes, choice, partitions, load in (
        ((3, 3, 3), (1, 1), 9, 4),
        ((4, 4, 4), (1, 2), 12, 6),
        ((2, 2, 2), (1, 1), 3, 2),
        ((3, 3, 6), (1, 2), 12, 6),
        ((2, 4, 6), (0, 1), 12, 2),
        ((1, 1, 2), (1, 0), 4, 2),
    ):
        system = sized(sizes, partitions)
        assert system.feasible[choice] and system.load(*choice) == load


@pytest.mark.parametrize("sizes", [(3, 3), (1, 2, 3), (2, 2, 5), (8, 1, 1)])
@pytest.mark.parametrize("partitions", [1, 6, 9, 12, 20])
def test_a_pair_is_feasible_or_refused_with_a_nearest_one(sizes: tuple[int, ...], partitions: int) -> None:
    system = sized(sizes, partitions)
    assert system.feasible.shape == (len(sizes), min(sizes))
    for s_e in range(len(sizes) + 2):
        for s_w in range(max(sizes) + 2):
            if s_e < len(sizes) and s_w < min(sizes) and system.feasible[s_e, s_w]:
                assert system.load(s_e, s_w) == partitions * (s_e + 1) * (s_w + 1) / sum(sizes)
                continue
            with pytest.raises(ValueError, match=r"is not feasible: F[123], ") as refusal:
                system.load(s_e, s_w)
            said = str(refusal.value)
            if not system.feasible.any():
                assert f"take a multiple of {sum(sizes)} partitions" in said
                continue
            a, b = (
                int(part.partition(";")[0].rpartition("=")[2]) for part in said.split("choice is ")[1].split(",")[:2]
            )
            assert system.feasible[a, b]
            distances = np.abs(np.argwhere(system.feasible) - (s_e, s_w)).sum(axis=1)
            assert abs(a - s_e) + abs(b - s_w) == distances.min()


@pytest.mark.parametrize(
    ("sizes", "partitions", "choice", "said"),
    [
        ((2, 2), 4, (2, 0), "F1, edge_stragglers must be at most 1, for one of 2 edge nodes must answer; the nearest "
         "feasible choice is edge_stragglers=1, worker_stragglers=0"),
        ((3, 2), 5, (0, 2), "F1, worker_stragglers must be at most 1, for one of the 2 workers of edge node 1"),
        ((8, 1, 1), 10, (1, 0), "F2, edge node 0 has 8 of 10 workers"),
        ((3, 3), 2, (0, 0), "F3, the load would be K(s_e+1)(s_w+1)/M = 2·1·1/6 partitions, which is no integer"),
        ((3, 1), 2, (0, 0), "F3, edge node 0 would hold K(s_e+1)m_i/M = 2·1·3/4 partitions, which is no integer"),
    ],
)  # fmt: skip
def test_refusals_name_the_condition(
    sizes: tuple[int, ...], partitions: int, choice: tuple[int, int], said: str
) -> None:
    with pytest.raises(ValueError) as refusal:
        sized(sizes, partitions).load(*choice)
    assert said in str(refusal.value)


@pytest.mark.parametrize("choice", [(-1, 0), (0, 0.5)])
def test_a_tolerance_is_a_number_of_nodes(choice: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=r"_stragglers=(-1|0.5) must be"):
        sized((2, 2), 4).load(*choice)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"compute": -1.0}, "compute=-1.0 must be >= 0"),
        ({"compute": 1.0, "rate": 0.0}, "rate=0.0 must be > 0"),
        ({"compute": 1.0, "attempt": math.inf}, "attempt=inf must be"),
        ({"compute": 1.0, "failure": 1.0}, "failure=1.0 must lie in [0, 1)"),
    ],
)
def test_wrong_workers(arguments: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError) as refusal:
        Worker(**arguments)
    assert said in str(refusal.value)


def test_wrong_systems() -> None:
    with pytest.raises(ValueError, match=r"workers=\(\) must have at least one"):
        Edge(())
    with pytest.raises(ValueError, match=r"edges=\(\) must have at least one"):
        System((), 1)
    with pytest.raises(ValueError, match="partitions=0 must be >= 1"):
        System((Edge((Worker(1.0),)),), 0)


def test_the_example_is_the_spec_s_system() -> None:
    assert System.from_toml(EXAMPLE) == two_types_system()


SMALL = """
[[edges]]
[[edges.workers]]
compute = 0.5
count = 2
"""


def test_defaults_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "system.toml"
    path.write_text(SMALL)
    assert System.from_toml(path) == System((Edge((Worker(0.5),) * 2),), 2)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("compute = 0.5", "", "edges[0].workers[0].compute is missing"),
        ("0.5", '"fast"', 'edges[0].workers[0].compute = "fast" must be a number'),
        ("0.5", "-1", "edges[0].workers[0].compute = -1 must be >= 0"),
        ("0.5", "nan", "edges[0].workers[0].compute = NaN must be a number"),
        ("compute", "computee", 'edges[0].workers[0].computee = 0.5: unknown key; known are count, compute, rate, '
         'attempt, failure; did you mean "compute"?'),
        ("count = 2", "count = 0", "edges[0].workers[0].count = 0 must be an integer, at least 1"),
        ("count = 2", "count = true", "edges[0].workers[0].count = true must be an integer"),
        ("count = 2", "failure = 1", "edges[0].workers[0].failure = 1 must lie in [0, 1)"),
        ("[[edges]]", "[[edges]]\ncount = 1.5", "edges[0].count = 1.5 must be an integer"),
        ("[[edges]]", "[[edges]]\nrate = 1.5", "edges[0].rate = 1.5: unknown key; known are count, attempt"),
        ("[[edges]]", "[[edges]]\nfailure = -0.1", "edges[0].failure = -0.1 must lie in [0, 1)"),
        ("[[edges]]", "partitions = 0\n[[edges]]", "partitions = 0 must be >= 1"),
        ("[[edges]]", "partitions = 1.5\n[[edges]]", "partitions = 1.5 must be a whole number"),
        ("[[edges]]", "partition = 2\n[[edges]]", 'partition = 2: unknown key; known are partitions, edges; did you'),
        ("[[edges.workers]]\ncompute = 0.5\ncount = 2", "", "edges[0].workers is missing: begin each with a line "
         "[[edges.workers]]"),
        ("[[edges.workers]]\ncompute = 0.5\ncount = 2", "workers = 3", "edges[0].workers = 3 must be tables"),
        (SMALL, "", "edges is missing: begin each with a line [[edges]]"),
        (SMALL, "edges = []", "edges = [] must be tables"),
        (SMALL, "edges = [", "is not TOML"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_one_message(tmp_path: Path, old: str, new: str, said: str) -> None:
    path = tmp_path / "system.toml"
    assert old in SMALL
    path.write_text(SMALL.replace(old, new))
    with pytest.raises(ConfigError) as refusal:
        System.from_toml(path)
    assert str(refusal.value).startswith(str(path)) and said in str(refusal.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read the system .*none\.toml: No such file"):
        System.from_toml(tmp_path / "none.toml")


def test_planning_needs_no_torch_and_no_matplotlib() -> None:
    program = (
        "import sys\nfrom gradcode.planning.hierarchical import plan, two_types_system\n"
        "plan(two_types_system(), 'exact')\nassert not {'torch', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
