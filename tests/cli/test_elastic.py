"""[scheme.elastic]: any scheme, rebuilt for the workers that are there."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gradcode import schemes
from gradcode.cli import build
from gradcode.cli.config import load
from gradcode.cli.run import run
from gradcode.errors import ConfigError
from gradcode.protocol import Combination, Iteration

ELASTIC = "scheme.elastic={}"


def of(config: Path, *overrides: str, workers: int) -> schemes.Elastic:
    """The configured scheme when only the first ``workers`` are there and patience is over."""
    scheme = build.plan(load(config, [*overrides, "scheme.elastic.patience=0"])).scheme
    assert isinstance(scheme, schemes.Elastic)
    target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
    scheme.start(Iteration(0, 0, target, tuple(range(workers)), np.full(scheme.partitions, 2)))
    assert scheme.members == tuple(range(workers))
    return scheme


def test_patience_is_ten_iterations_unless_it_is_said(config: Path) -> None:
    inside = "coded(fractional_repetition(workers=4, stragglers=1))"
    assert repr(build.plan(load(config)).scheme) == inside
    assert repr(build.plan(load(config, [ELASTIC])).scheme) == f"elastic({inside}, patience=10)"
    assert repr(build.plan(load(config, ["scheme.elastic.patience=3"])).scheme) == f"elastic({inside}, patience=3)"


def test_partitions_stay_and_stragglers_fall_to_what_fewer_workers_allow(config: Path) -> None:
    code = "coded(fractional_repetition(workers=%d, stragglers=%d, partitions=%d))"
    three = ["scheme.code.stragglers=3"]
    assert repr(of(config, *three, workers=3).present) == code % (3, 2, 4)
    assert repr(of(config, *three, workers=1).present) == code % (1, 0, 4)
    assert repr(of(config, "scheme.partitions=8", workers=3).present) == code % (3, 1, 8)
    assert repr(of(config, "scheme.code.partitions=8", workers=2).present) == code % (2, 1, 8)


def test_k_falls_to_what_fewer_workers_allow(config: Path) -> None:
    fastest = 'scheme={name="fastest", k=3}'
    assert repr(of(config, fastest, workers=3).present) == "fastest(workers=3, k=3)"
    smaller = of(config, fastest, workers=2)
    assert repr(smaller.present) == "fastest(workers=2, k=2)" and smaller.partitions == 4


@pytest.mark.parametrize(
    ("overrides", "key", "said"),
    [
        (["scheme.elastic.patience=-1"], "scheme.elastic.patience = -1", "at least 0"),
        (["scheme.elastic.patience=1.5"], "scheme.elastic.patience = 1.5", "integer"),
        (["scheme.elastic.pattience=1"], "scheme.elastic.pattience = 1", 'did you mean "patience"'),
        (["scheme.elastic=3"], "scheme.elastic = 3", "table [scheme.elastic]"),
        (
            ['scheme.code={name="heterogeneous", speeds=[1, 1, 2, 2], partitions=8}', ELASTIC],
            "scheme.elastic = {}",
            "needs a scheme for 3 of the 4 workers, too: build(3) gave coded(heterogeneous(",
        ),
        (
            ['scheme.code={name="bernoulli", replication=4}', ELASTIC],
            "scheme.elastic = {}",
            "needs a scheme for 3 of the 4 workers, too: scheme.code.replication = 4",
        ),
    ],
)
def test_what_is_wrong_is_one_clear_message(config: Path, overrides: list[str], key: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build.plan(load(config, overrides))
    message = str(caught.value)
    assert str(config) in message and key in message and said in message


def test_a_training_with_losses_beyond_the_tolerance(config: Path) -> None:
    """The parameters' path is that of the undisturbed training, loss by loss."""
    losses: dict[str, list[float]] = {}
    lost: dict[str, list[list[int]]] = {}
    for name, overrides in {
        "plain": [],
        "elastic": [ELASTIC, "cluster.losses=[[1, 0, 0.0], [1, 2, 0.0], [6, 1, 0.0], [6, 3, 0.0]]"],
    }.items():
        run(load(config, [*overrides, "cluster.restart=0.5"]), config.parent / name)
        lines = (config.parent / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [json.loads(line)["loss"] for line in lines]
        lost[name] = [json.loads(line)["lost"] for line in lines if json.loads(line)["lost"]]
    assert losses["elastic"] == pytest.approx(losses["plain"], rel=1e-5)
    assert lost == {"plain": [], "elastic": [[0, 2], [1, 3]]}
