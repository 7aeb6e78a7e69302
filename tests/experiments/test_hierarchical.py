"""The experiment on hierarchical coding: its delays are the runtime model, its numbers agree, its files are there."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import gradcode
from gradcode import codes, schemes
from gradcode.catalog import DataError, Split
from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.curves import Task, train
from gradcode.experiments.hierarchical.methods import METHODS, SETTINGS, delays_of, draw, durations
from gradcode.planning.hierarchical import Edge, System, Tail, Worker, two_types_system

SMALL = System((Edge((Worker(0.02, 20.0, 0.01, 0.1),) * 3, 0.02, 0.1),) * 4, partitions=12)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> tuple[Comparisons, Path, list[str]]:
    """The whole experiment, once."""
    folder, told = tmp_path_factory.mktemp("hierarchical"), list[str]()
    return by_name("hierarchical").run(Request(folder, quick=True, tell=told.append)), folder, told


def test_every_number_agrees(quick: tuple[Comparisons, Path, list[str]]) -> None:
    """Of fixed seeds; simulated times within 4 standard errors, as the issue of this experiment asks."""
    found, _, _ = quick
    assert not [item for item in found if not item.agrees], found.verdict
    names = [item.name for item in found]
    assert len(set(names)) == len(names)
    for method in METHODS:
        for setting in SETTINGS:
            assert {f"{method.name}, {setting}: {how}" for how in ("integrated", "simulated")} <= set(names)
    (hgc, flat) = (
        next(item.found for item in found if item.name == f"{name}: vectors at the master")
        for name in ("HGC (1,1)", "Standard GC (s=13), independent relay")
    )
    assert hgc / flat == pytest.approx(3 / 27, rel=0.01)


def test_tables_and_figures_are_there(quick: tuple[Comparisons, Path, list[str]]) -> None:
    found, folder, told = quick
    for table in ("comparison", "times", "messages", "training-digits"):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        lines = (folder / f"{table}.md").read_text(encoding="utf-8").splitlines()
        assert len(lines) == len(rows) + 1 and len({len(row) for row in rows}) == 1
        assert len(rows) == 1 + {"comparison": len(found), "training-digits": 2 * len(METHODS)}.get(table, len(METHODS))
    maps = [f"tolerances-{system}-{tail}" for system in ("sys-h", "sys-t") for tail in ("fixed", "load")]
    for figure in ("times", "training-digits", *maps):
        assert (folder / f"{figure}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(folder / f"{figure}.svg").getroot().tag.endswith("svg")
    assert any("SYS-T load" in line for line in told)


@pytest.mark.parametrize("tail", get_args(Tail))
@pytest.mark.parametrize("load", [1, 6])
def test_the_delays_are_the_runtime_model(tail: Tail, load: int) -> None:
    """P(T_ij ≤ t) by the sum of the spec's section 4.1, of a quick and a slow worker; within 5 standard errors."""
    number = 20_000
    rows = draw(two_types_system(), tail, number, seed=3)
    times = load * rows.compute[:, :, 0] + rows.link.fixed
    for worker, (c, rate, attempt, p) in {0: (0.01, 100.0, 0.05, 0.1), 9: (0.05, 20.0, 0.05, 0.5)}.items():
        own = rate / load if tail == "load" else rate
        for quantile in (0.1, 0.5, 0.9):
            t = float(np.quantile(times[:, worker], quantile)) + 1e-3
            terms = [
                (1 - p) * p ** (k - 1) * -np.expm1(-own * max(0.0, t - c * load - k * attempt)) for k in range(1, 60)
            ]
            share = sum(terms)
            seen = np.mean(times[:, worker] <= t)
            assert abs(seen - share) < 5 * np.sqrt(share * (1 - share) / number)
    uplink = rows.edges.fixed
    attempts = uplink / [0.1, 0.1, 0.1, 0.5]
    assert np.allclose(attempts, np.rint(attempts)) and attempts.min() == 1
    spread = np.sqrt([0.1**2 * 0.1 / 0.81] * 3 + [0.5**2 * 0.2 / 0.64])
    means = np.array([0.1 / 0.9] * 3 + [0.5 / 0.8])
    assert np.all(np.abs(uplink.mean(axis=0) - means) < 5 * spread / np.sqrt(number))


def test_relays_shared_or_not_change_nothing_else() -> None:
    apart, shared = (draw(SMALL, "fixed", 200, 0, relay) for relay in ("independent", "shared"))
    assert np.array_equal(apart.link.fixed, shared.link.fixed) and np.array_equal(apart.edges.fixed, shared.edges.fixed)
    assert np.array_equal(shared.relay.fixed, np.repeat(shared.edges.fixed, 3, axis=1))
    assert not np.array_equal(apart.relay.fixed, shared.relay.fixed)


def test_a_flat_scheme_has_the_relays_on_its_way() -> None:
    rows = draw(SMALL, "fixed", 50, 0)
    uncoded = durations(schemes.uncoded(12), rows)
    assert np.allclose(uncoded, (rows.compute[:, :, 0] + rows.link.fixed + rows.relay.fixed).max(axis=1))


def test_predicted_time_holds_on_a_local_cluster() -> None:
    """The short form of benchmarks/hierarchical.py: medians over the iterations within 10 %."""
    # A machine whose cores are busy elsewhere can be late in any iteration, hence the best of three.
    for scheme in (
        schemes.hierarchical(codes.hierarchical([3, 3, 3, 3], 1, 1)),
        schemes.coded(codes.fractional_repetition(12, 2)),
    ):
        assert any(0.99 < median_ratio(scheme, seed) < 1.1 for seed in range(3))


def median_ratio(scheme: Any, seed: int) -> float:
    reports: list[gradcode.Report] = []
    cluster = gradcode.LocalCluster(topology=[3] * 4, delays=delays_of(SMALL), delay_mode="emulate", seed=seed)
    generator = torch.Generator().manual_seed(seed)
    dataset = TensorDataset(torch.randn(336, 4, generator=generator), torch.randn(336, 1, generator=generator))
    with gradcode.Session(
        nn.Linear(4, 1), nn.MSELoss(), dataset, 48, scheme, cluster, listeners=[reports.append]
    ) as session:
        for step in session.epoch():
            step.backward()
    assert len(reports) == 7
    return float(np.median([report.time / report.order_statistic for report in reports[1:]]))


def test_training_is_the_same_whoever_straggles() -> None:
    inputs = torch.linspace(-1, 1, 96).reshape(24, 4)
    split = Split(TensorDataset(inputs, torch.arange(24) % 3), TensorDataset(inputs, torch.arange(24) % 3))
    curves = []
    for scheme in (schemes.uncoded(12), schemes.hierarchical(codes.hierarchical([3] * 4, 1, 1))):
        cluster = gradcode.SimulatedCluster(topology=[3] * 4, delays=delays_of(SMALL))
        curves.append(train(Task("digits", split), scheme, cluster, iterations=5, batch_size=12, rate=0.5, every=2))
    plain, coded = curves
    assert plain.losses == pytest.approx(coded.losses, rel=1e-6) and plain.losses[-1] < plain.losses[0]
    assert plain.times != coded.times and plain.times[0] == 0.0
    assert len(plain.reports) == 5 and len(plain.times) == 4  # before, after 2, 4, and at the end
    assert coded.gradient_bytes == 8 * (4 * 3 + 3)
    assert plain.reached(0.0) == 0.0 and np.isnan(plain.reached(1.1))


def test_local_data_are_found_or_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"neither MNIST nor CIFAR-10 in {tmp_path}"):
        Task.of(tmp_path)
    (tmp_path / "data_batch_1.bin").write_bytes(bytes(3073))
    with pytest.raises(DataError, match=r"data_batch_2\.bin is missing"):
        Task.of(tmp_path)
    (tmp_path / "data_batch_1.bin").unlink()
    header = bytes((0, 0, 8, 3)) + np.array([2, 28, 28], dtype=">u4").tobytes()
    (tmp_path / "train-images-idx3-ubyte").write_bytes(header + bytes(2 * 28 * 28))
    with pytest.raises(DataError, match=r"train-labels-idx1-ubyte is missing"):
        Task.of(tmp_path)
    for part in ("train", "t10k"):
        (tmp_path / f"{part}-images-idx3-ubyte").write_bytes(header + bytes(2 * 28 * 28))
        labels = bytes((0, 0, 8, 1)) + np.array([2], dtype=">u4").tobytes() + bytes((0, 9))
        (tmp_path / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    task = Task.of(tmp_path)
    assert task.name == "mnist"
    assert task.model(0)(torch.zeros(1, 1, 28, 28)).shape == (1, 10)
    assert task.model(0)(torch.zeros(1, 1, 28, 28)).dtype == torch.float64
