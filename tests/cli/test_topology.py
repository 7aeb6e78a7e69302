"""cluster.topology, and the schemes for edge nodes: what a configuration may say, and how a wrong one is answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gradcode.cli import build
from gradcode.cli.config import load
from gradcode.cli.run import run
from gradcode.errors import ConfigError, GradcodeError
from gradcode.schemes.coded import Coded
from gradcode.topology import Branch, shape_of

CLUSTER = 'cluster={kind="simulated", topology=[3, 3, 3, 3]%s}'
TREE = CLUSTER % ""
NESTED = 'cluster={kind="simulated", topology=[[2, 2], 3]}'
FLAT = 'cluster={kind="simulated", workers=12}'
HIERARCHICAL = 'scheme={name="hierarchical", edge_stragglers=1, worker_stragglers=1%s}'
GREEDY = 'scheme={name="greedy", edge_stragglers=%d, worker_stragglers=1}'
CODED = 'scheme={name="coded", code={name="hierarchical", edge_stragglers=1, worker_stragglers=1%s}}'


def plan(config: Path, *overrides: str) -> build.Plan:
    return build.plan(load(config, list(overrides)))


def resolved(config: Path, *overrides: str) -> dict[str, Any]:
    found: dict[str, Any] = load(config, list(overrides)).resolved()["cluster"]
    return found


@pytest.mark.parametrize("kind", ["local", "ray", "simulated"])
def test_a_topology_counts_the_workers_of_every_kind(config: Path, kind: str) -> None:
    given = load(config, [f'cluster={{kind="{kind}", topology=[[2, 2], 3]}}'])
    assert given.config.cluster.workers == 7
    assert given.config.cluster.tree == Branch.of([[2, 2], 3])
    assert build.cluster(given, None).topology == Branch.of([[2, 2], 3])
    assert given.resolved()["cluster"]["topology"] == [[2, 2], 3]


def test_workers_may_be_said_beside_a_topology(config: Path) -> None:
    assert resolved(config, CLUSTER % ", workers=12") == resolved(config, TREE)
    assert load(config).config.cluster.tree == Branch.of(4)


def test_hierarchical_has_its_edge_nodes_from_the_topology(config: Path) -> None:
    scheme = plan(config, HIERARCHICAL % "", TREE).scheme
    assert shape_of(scheme) == (3, 3, 3, 3) and scheme.partitions == 12 and scheme.deadline is None
    assert isinstance(scheme, Coded) and scheme.code.tolerance == 1
    more = plan(config, HIERARCHICAL % ", partitions=24, variant='random', rng=5, deadline=2.5", TREE).scheme
    assert more.partitions == 24 and more.deadline == 2.5
    assert "variant='random', rng=5" in repr(more)
    capped = plan(config, HIERARCHICAL % ", partitions=13, capped=true", TREE).scheme
    assert capped.partitions == 13


def test_drawn_codes_take_the_seed_of_the_configuration(config: Path) -> None:
    assert "rng=3" in repr(plan(config, HIERARCHICAL % ", variant='random'", TREE).scheme)


def test_other_schemes_for_a_topology(config: Path) -> None:
    assert shape_of(plan(config, GREEDY % 2, TREE).scheme) == (3, 3, 3, 3)
    flat = plan(config, CODED % "", TREE).scheme  # the same code, with edge nodes that only pass on
    assert shape_of(flat) == 12 and flat.partitions == 12
    assert shape_of(plan(config, NESTED).scheme) == 7
    elastic = plan(config, TREE, "scheme.elastic={}").scheme
    assert repr(elastic).startswith("elastic(coded(fractional_repetition(workers=12")


def test_the_delays_know_the_edge_nodes(config: Path) -> None:
    delays = "compute=0.1, edges=[0.1, {latency=0.2}, 0.3, 0.4], relay='shared'"
    table = plan(config, CLUSTER % f", delays={{{delays}}}").table
    assert table is not None and table.edges == 4
    assert table.uplink(0).tolist() == [0.1, 0.2, 0.3, 0.4]
    assert table.relay(0)[[0, 2, 3, 11]].tolist() == [0.1, 0.1, 0.2, 0.4]
    one = plan(config, CLUSTER % ", delays={compute=0.1, edges=0.5}").table
    assert one is not None and one.uplink(0).tolist() == [0.5] * 4


# --set arguments, the key that the message must name with its value, and what else it must say.
WRONG = [
    (["cluster.topology=12"], "cluster.topology = 12", "must be a list"),
    (["cluster.topology=[]"], "cluster.topology = []", "a number of workers from 1, or a list"),
    (['cluster={kind="simulated", topology=[3, 2.5]}'], "cluster.topology = [3, 2.5]: 2.5", "number of workers"),
    (['cluster={kind="simulated", topology=[3, [0]]}'], "cluster.topology = [3, [0]]: 0", "number of workers"),
    ([CLUSTER % ", workers=4"], "cluster.workers = 4", "must be 12, as in topology = [3, 3, 3, 3], or be left out"),
    (["cluster={}"], "cluster.workers", "missing"),
    ([HIERARCHICAL % "", FLAT], "cluster.topology is missing", "such as topology = [3, 3, 4]"),
    ([GREEDY % 1, FLAT], "cluster.topology is missing", "scheme 'greedy' is for edge nodes"),
    ([CODED % "", FLAT], "cluster.topology is missing", "code 'hierarchical' is for edge nodes"),
    ([HIERARCHICAL % "", NESTED], "cluster.topology = [[2, 2], 3]", "one level"),
    ([GREEDY % 1, NESTED], "cluster.topology = [[2, 2], 3]", "one level"),
    (['scheme={name="hierarchical", worker_stragglers=1}', TREE], "scheme.edge_stragglers is missing", "[scheme]"),
    ([HIERARCHICAL % "", "scheme.edge_stragglers=4", TREE], "scheme.edge_stragglers = 4", "edge_stragglers=3"),
    ([HIERARCHICAL % "", "scheme.worker_stragglers=3", TREE], "scheme.worker_stragglers = 3", "worker_stragglers=2"),
    (
        ['scheme={name="hierarchical", edge_stragglers=1, worker_stragglers=0}', "cluster={topology=[8, 1, 1]}"],
        "scheme.edge_stragglers = 1",
        "must be at most 0 (F2)",
    ),
    ([HIERARCHICAL % ", partitions=7", TREE], "scheme.partitions = 7", "partitions=6 (or another multiple of 6)"),
    ([HIERARCHICAL % ", edge_straglers=1", TREE], "scheme.edge_straglers = 1", 'did you mean "edge_stragglers"'),
    ([HIERARCHICAL % ", dedline=1", TREE], "scheme.dedline = 1", 'did you mean "deadline"'),
    ([HIERARCHICAL % ", deadline=-1", TREE], "scheme.deadline = -1", "positive number of seconds"),
    ([HIERARCHICAL % ", variant='best'", TREE], 'scheme.variant = "best"', "'lagrange'"),
    ([HIERARCHICAL % ", workers_per_edge=[3]", TREE], "scheme.workers_per_edge = [3]", "cluster.topology"),
    ([CODED % ", workers_per_edge=[3]", TREE], "scheme.code.workers_per_edge = [3]", "cluster.topology"),
    (
        [HIERARCHICAL % ", code={name='uncoded'}", TREE],
        'scheme.code = {name = "uncoded"}',
        "schemes with a code: coded",
    ),
    ([GREEDY % 4, TREE], "scheme.edge_stragglers = 4", "from 0 to 3"),
    ([HIERARCHICAL % ", elastic={}", TREE], "scheme.elastic = {}", "cluster.topology fixes which workers"),
    ([GREEDY % 1, "scheme.elastic={}", TREE], "scheme.elastic = {}", "cluster.topology fixes which workers"),
    ([CODED % "", "scheme.elastic={}", TREE], "scheme.elastic = {}", "needs a scheme for 11 of the 12 workers"),
    (["cluster.delays={edges=0.5}"], "cluster.delays.edges = 0.5", "without cluster.topology there are none"),
    ([CLUSTER % ", delays={edges=[0.5]}"], "cluster.delays.edges = [0.5]", "one per edge node; there are 4"),
    ([CLUSTER % ", delays={relay='al'}"], "cluster.delays.relay='al'", "independent, shared"),
]


@pytest.mark.parametrize(("overrides", "key", "said"), WRONG, ids=[" ".join(wrong[0]) for wrong in WRONG])
def test_what_is_wrong_is_one_clear_message(config: Path, overrides: list[str], key: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan(config, *overrides)
    message = str(caught.value)
    assert str(config) in message and key in message and said in message


def test_codes_that_edge_nodes_cannot_carry_are_refused_before_anything_is_left(config: Path) -> None:
    """Complex coefficients, which two vectors of real numbers would be needed for."""
    folder = config.parent / "run"
    with pytest.raises(GradcodeError, match=r'scheme\.nodes = "unity": .*give its code real coefficients'):
        run(load(config, [HIERARCHICAL % ", variant='lagrange', nodes='unity'", TREE]), folder)
    assert not folder.exists()


def test_a_training_over_edge_nodes_is_that_of_plain_workers(config: Path) -> None:
    """The same partitions, so the same losses, up to rounding, whoever straggled at either level."""
    delays = ', delays={compute={law="pareto", shape=2.0, scale=0.1}, edges=[0.1, 0.1, 5.0, 0.1]}'
    losses: dict[str, list[float]] = {}
    last: dict[str, Any] = {}
    for name, overrides in {
        "plain": ['scheme={name="uncoded"}', FLAT],
        "edges": [HIERARCHICAL % "", CLUSTER % delays],
    }.items():
        run(load(config, overrides), config.parent / name)
        lines = (config.parent / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
        last = json.loads(lines[-1])
    assert losses["edges"] == pytest.approx(losses["plain"], rel=1e-5)
    assert len(last["arrivals"]) == 4 and 2 in last["stragglers"]
