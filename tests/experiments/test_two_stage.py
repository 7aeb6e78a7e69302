"""The experiment on two-stage coding: its numbers agree, its files are there, its draws are those of a cluster."""

from __future__ import annotations

import csv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest
import torch

import gradcode
from gradcode import codes, schemes
from gradcode.experiments import Comparisons, Request, by_name
from gradcode.experiments.curves import Task
from gradcode.experiments.two_stage.setting import (
    PARTITIONED,
    VARIANTS,
    K,
    Law,
    N,
    S,
    cyclic,
    fixed,
    run,
    uncoded,
    wait_for,
)
from gradcode.experiments.two_stage.times import EXPECTED
from gradcode.experiments.two_stage.training import interval
from gradcode.experiments.two_stage.trials import BATCH, CYCLIC, IGNORE, LAW, METHODS, sorted_by_class, trial
from gradcode.experiments.two_stage.uplinks import Watched, fair
from gradcode.network import RoundRobin, Slot, wire
from gradcode.training import LeastSquares, Sampling

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
    for table in (
        "comparison",
        "times",
        "utilisation",
        "sweeps",
        "partitions",
        "accuracy",
        "iterations",
        "differences",
    ):
        with (folder / f"{table}.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        assert len(rows) > (8 if table == "partitions" else 10) and len({len(row) for row in rows}) == 1
        assert table != "comparison" or len(rows) == 1 + len(found)
    for picture in ("sweeps", "training"):
        assert (folder / f"{picture}.png").read_bytes().startswith(b"\x89PNG")
        assert ElementTree.parse(folder / f"{picture}.svg").getroot().tag.endswith("svg")


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


@pytest.mark.parametrize("method", METHODS)
def test_what_is_noted_of_an_iteration(method: str) -> None:
    """A training through a wire of four messages a slot of 5 ms, without fading: what is noted can be told from it."""
    task, radio = Task.of(None), wire(N, bytes_per_second=4 * 5200 / 0.005, slot=0.005, channels=4)
    found = trial(task, METHODS[method](0.065 + 0.02), RoundRobin(radio), seed=1, iterations=4)
    assert found.lost == pytest.approx(0, abs=1e-6) and len(found.notes) == 4
    staged = method.startswith("two-stage")
    for own, report in zip(found.notes, found.curve.reports, strict=True):
        assert sum(own.parts) == pytest.approx(report.time) and (staged or own.parts[0] == 0)
        # Its last message is admitted in one slot and served in a later one, all in one.
        assert 0.005 < own.parts[2] <= 0.005 * 5 and own.parts[1] >= 0.01
        assert own.heard.sum() <= own.traffic.offered.sum() / 5200 <= 2 * N
        assert own.busy <= N * report.time + 1e-9 and own.useful <= own.started
    if method == "uncoded":
        assert all((own.useful, own.started, own.used) == (K, K, N) for own in found.notes)
        assert found.utilisation[[0, 2]].tolist() == pytest.approx([1, 1])
    if method == IGNORE:
        assert all((own.useful, own.used) == (K * (N - S) / N, N - S) for own in found.notes)
    if method == CYCLIC:
        assert all(own.useful == K and own.used <= own.heard.sum() for own in found.notes)
        assert all(own.started <= 3 * K for own in found.notes)
    assert 0 < found.channels_used < 1 and found.largest_queue <= 2 * 5200


def test_what_is_noted_of_two_stages_is_what_their_course_tells() -> None:
    """Over a wire so quick that messages take next to no time, begun computations and used messages are those of it."""
    radio = wire(N, bytes_per_second=1e12, slot=1e-6, channels=N)
    scheme, iterations = fixed(wait=6.5 * LAW.unit), 12
    found = trial(Task.of(None), scheme, RoundRobin(radio), seed=2, iterations=iterations)
    own = run(scheme, LAW.draws(iterations, 2))
    assert [note.started for note in found.notes] == own.started.tolist() and (own.late > 0).any()
    assert [note.used for note in found.notes] == own.used.tolist()
    assert [note.busy for note in found.notes] == pytest.approx(own.busy.tolist(), abs=N * 1e-4)
    assert found.parts.sum() == pytest.approx(own.time.mean(), abs=1e-4)


def test_watching_changes_nothing() -> None:
    """The same queues, slot by slot, though one takes over from another half-way; seen are their extremes."""
    bare, watched, other = fair(), Watched(fair()), Watched(fair())
    rng, most = np.random.default_rng(0), np.zeros((3, N))
    for number in range(60):
        slot = Slot(rng.random(N) * 4, bare.radio.channel.sample(rng, (N,)), rng.random(N) * 48e-6)
        flow, seen = bare.step(slot), watched.step(slot)
        assert all(np.array_equal(one, two) for one, two in zip(flow, seen, strict=True))
        assert watched.queues.same(bare.queues)
        most = np.maximum(most, [bare.queues.data, bare.queues.virtual, bare.queues.energy])
        if number == 30:
            other.load_state_dict(watched.state_dict())
            watched = other
    assert np.array_equal(watched.most, most) and watched.shares > 0 and watched.joules > 0
    assert (watched.margin >= 0).all() and (watched.least > bare.radio.power_max * bare.radio.slot).all()


def test_sorted_data_is_dealt_out_by_class() -> None:
    """Every sample once, and each partition has one class, or two that are neighbours."""
    task = Task.of(None)
    held = sorted_by_class(task, seed=3).split.train
    sampling = Sampling(len(held), K, BATCH, 3, drop_last=True)
    classes = [sorted({int(held[i][1]) for i in sampling.shard(partition)}) for partition in range(K)]
    assert all(own[-1] - own[0] <= 1 for own in classes) and [own[0] for own in classes] == sorted(
        o[0] for o in classes
    )
    inputs = [torch.stack([image for image, _ in data]).flatten(1) for data in (held, task.split.train)]
    assert torch.equal(*(own.sort(dim=0).values for own in inputs))


def test_the_interval_is_student_s() -> None:
    """Of 1 to 5: mean 3, standard error √(2.5/5), and 2.776445 of them with 4 degrees of freedom."""
    mean, half = interval(np.arange(1.0, 6.0))
    assert mean == 3 and half == pytest.approx(2.776445 * np.sqrt(0.5), rel=1e-6)


def test_one_stage_is_what_the_schemes_take() -> None:
    compute = Law().draws(200)
    nothing = np.zeros(compute.shape[:2])
    plain = schemes.uncoded(N, partitions=40)
    assert np.array_equal(uncoded(compute).time, plain.duration(compute, nothing))
    code = schemes.coded(codes.cyclic_mds(N, 2, partitions=40, max_error=1.0))  # needs N − s, like the spec's
    assert np.array_equal(cyclic(compute).time, code.duration(compute, nothing))
    few = wait_for(compute, 8, 4)
    assert (few.used == 8).all() and (few.started <= few.ordered).all() and (few.time < uncoded(compute).time).all()
