"""Edge nodes on every cluster: the same arrivals give the plain gradient, whoever straggles, dies or is stopped."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import codes, delays, schemes
from gradcode.delays import DelayTable
from gradcode.schemes.coded import Coded
from gradcode.topology import Branch
from gradcode.training.sampling import Sampling

SEED, BATCH = 7, 48


class Run:
    """A session on a tree, and the plain gradients of its iterations."""

    def __init__(self, kind: str, scheme: Any, topology: list[Any], dtype: torch.dtype = torch.float32, **options: Any):
        self.model, self.dataset, self.reference = cnn(dtype), images(dtype=dtype), cnn(dtype)
        self.sampling = Sampling(len(self.dataset), scheme.partitions, BATCH, SEED)
        self.reports: list[gradcode.Report] = []
        self.cluster = CLUSTERS[kind](topology=topology, **options)
        self.session = gradcode.Session(
            self.model,
            nn.CrossEntropyLoss(),
            self.dataset,
            BATCH,
            scheme,
            self.cluster,
            SEED,
            listeners=[self.reports.append],
        )
        self._steps = (step for _ in iter(int, 1) for step in self.session.epoch())

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()

    def error(self) -> float:
        """Of one more iteration's gradient, relative."""
        step = next(self._steps)
        step.backward()
        return relative_error(
            decoded(self.model), plain_gradients(self.reference, self.dataset, self.sampling, step.number)
        )


@pytest.fixture(params=["simulated", "local"])
def near(request: pytest.FixtureRequest) -> str:
    """Without Ray, whose edge nodes take many seconds to start."""
    return str(request.param)


def patterns(per_edge: list[int], edge_stragglers: int, worker_stragglers: int) -> Iterator[tuple[set[int], set[int]]]:
    """Every set of ``edge_stragglers`` edge nodes, with ``worker_stragglers`` workers of each other one."""
    first = np.cumsum([0, *per_edge])
    for edges in combinations(range(len(per_edge)), edge_stragglers):
        others = [range(first[i], first[i + 1]) for i in range(len(per_edge)) if i not in edges]
        for chosen in product(*(combinations(mine, worker_stragglers) for mine in others)):
            yield set(edges), {int(worker) for mine in chosen for worker in mine}


def never(tree: Branch, missing: list[tuple[set[int], set[int]]]) -> DelayTable:
    """Iteration i: the edge nodes and workers of ``missing[i]`` never answer, the others at once."""
    compute, uplink = np.zeros((len(missing), len(tree.workers))), np.zeros((len(missing), len(tree.edges)))
    for row, (edges, workers) in enumerate(missing):
        compute[row, sorted(workers)] = np.inf
        uplink[row, sorted(edges)] = np.inf
    return DelayTable.from_array(compute, edges=uplink, above=tree.above)


CASES = [
    ("simulated", [3, 3, 3], (1, 1), torch.float32),
    ("simulated", [3, 3, 6], (1, 2), torch.float64),
    ("simulated", [1, 1, 2], (1, 0), torch.float64),
    ("local", [3, 3, 3], (1, 1), torch.float32),
    ("local", [2, 4], (0, 1), torch.float64),
    ("ray", [2, 2], (1, 1), torch.float32),
]


@pytest.mark.parametrize(("where", "per_edge", "tolerance", "dtype"), CASES)
def test_every_pattern_gives_the_plain_gradient(
    where: str,
    per_edge: list[int],
    tolerance: tuple[int, int],
    dtype: torch.dtype,
    request: pytest.FixtureRequest,
) -> None:
    tree, missing = Branch.of(per_edge), list(patterns(per_edge, *tolerance))
    if where == "ray":
        request.getfixturevalue("kept_actors")
    scheme = schemes.hierarchical(codes.hierarchical(per_edge, *tolerance, dtype=str(dtype).removeprefix("torch.")))
    with Run(where, scheme, per_edge, dtype, delays=never(tree, missing)) as run:
        for edges, _ in missing:
            assert run.error() <= (1e-5 if dtype == torch.float32 else 1e-10)
            report = run.reports[-1]
            assert edges <= set(report.stragglers) and report.exact
            assert report.arrivals.shape == (len(per_edge),)


def three_levels() -> Coded:
    """Two edge nodes over two edge nodes of two workers each; one worker under each lowest may straggle."""

    def edge(names: list[int]) -> Coded:
        pairs = [names[:2], names[2:]]
        inner = [Coded(codes.fractional_repetition(2, 1), names=pair) for pair in pairs]
        return Coded(codes.uncoded(2, partitions=4), names=names, inner=inner)

    return Coded(codes.uncoded(2, partitions=8), inner=[edge([0, 1, 2, 3]), edge([4, 5, 6, 7])])


def test_three_levels(near: str) -> None:
    topology = [[2, 2], [2, 2]]
    tree = Branch.of(topology)
    assert len(tree.edges) == 6 and tree.above[5] == (4, 3)
    missing = [(set[int](), {a, 2 + b, 4 + c, 6 + d}) for a, b, c, d in product(range(2), repeat=4)][::3]
    with Run(near, three_levels(), topology, delays=never(tree, missing)) as run:
        for _ in missing:
            assert run.error() <= 1e-5
            assert run.reports[-1].stragglers == ()


def test_the_simulated_time_is_the_schemes_duration_draw_by_draw() -> None:
    law = delays.ShiftedExponential(0.1, 5.0)
    links = [delays.Link(0.1, failure=0.2), delays.Link(0.3, failure=0.1), delays.Link(0.05), delays.Link(0.2)]
    given = delays.Delays(law, delays.Link(0.05, failure=0.1), edges=links)
    scheme = schemes.hierarchical(codes.hierarchical([3, 4, 5, 4], 1, 2, dtype="float64"))
    with Run("simulated", scheme, [3, 4, 5, 4], delays=given) as run:
        for _ in range(40):
            assert run.error() <= 1e-5
    assert all(report.time == report.order_statistic for report in run.reports)
    assert all(report.fluid < report.time for report in run.reports)


@pytest.mark.parametrize("relay", ["independent", "shared"])
def test_edge_nodes_that_only_pass_on_add_their_links_to_every_message(relay: Any) -> None:
    uplink = delays.Link(1.0, failure=0.5)
    given = delays.Delays(delays.Deterministic(0.1), edges=uplink, relay=relay)
    scheme = schemes.coded(codes.fractional_repetition(6, 1))
    with Run("simulated", scheme, [3, 3], delays=given) as run:
        for _ in range(30):
            assert run.error() <= 1e-5
    assert all(report.time == report.order_statistic for report in run.reports)
    different = [len(set(report.arrivals[:3][~np.isnan(report.arrivals[:3])])) for report in run.reports]
    assert max(different) <= 1 if relay == "shared" else max(different) > 1


def test_greedy_is_the_rescaled_sum_of_what_arrived(kind: str) -> None:
    tree = Branch.of([3, 3])
    missing = [({1}, {0, 4})]
    scheme = schemes.greedy([3, 3], 1, 1)
    with Run(kind, scheme, [3, 3], delays=never(tree, missing)) as run:
        run.error()
        parts = plain_gradients(run.reference, run.dataset, run.sampling, 0)
        sizes = run.sampling.sizes(0)
        wanted = (parts[1] + parts[2]) * (sizes.sum() / sizes[[1, 2]].sum())
        assert float((decoded(run.model) - wanted).norm() / wanted.norm()) < 1e-5
        assert not run.reports[-1].exact


def test_the_master_receives_a_vector_per_edge_node_instead_of_one_per_worker(near: str) -> None:
    """n − s_e against N − s vectors, counted in bytes (hierarchical.md 2.2 and 9.3)."""
    per_edge, received = [4, 4, 4], {}
    code = codes.hierarchical(per_edge, 1, 1)
    # Random coefficients: one with small integers may decode from fewer messages than N − s.
    flat = codes.cyclic_repetition(12, code.tradeoff().flat_stragglers, variant="random", dtype="float64")
    tree = Branch.of(per_edge)
    for name, scheme in {"edges": schemes.hierarchical(code), "flat": schemes.coded(flat)}.items():
        with Run(near, scheme, per_edge, delays=never(tree, [({2}, {0, 4})])) as run:
            assert run.error() <= 1e-5
            received[name] = run.reports[-1].bytes_up / (4 * run.cluster.parameters.numel())
    assert received["edges"] == pytest.approx(2, abs=0.02)
    # 4 workers of the lost edge node and 1 of each other may straggle.
    assert received["flat"] == pytest.approx(6, abs=0.06)


def test_a_scheme_without_the_clusters_edge_nodes_is_refused() -> None:
    scheme = schemes.hierarchical(codes.hierarchical([2, 2], 1, 0))
    for topology in ([2, 3], [[2], 2]):
        with pytest.raises(ValueError, match=r"topology=\(2, 2\)"):
            Run("simulated", scheme, topology)
    with pytest.raises(ValueError, match="for edge nodes"):
        gradcode.Session(
            cnn(), nn.CrossEntropyLoss(), images(), BATCH, scheme, gradcode.SimulatedCluster(4), check_loss=False
        )
    outer = codes.cyclic_mds(3, 1)
    complex_outer = Coded(outer, inner=[Coded(codes.uncoded(2, 2), names=list(held)) for held in outer.placement])
    with pytest.raises(ValueError, match="is no layout for a scheme with edge nodes"):
        Run("simulated", complex_outer, [2, 2, 2])


def test_topologies_that_make_no_sense_are_refused() -> None:
    for topology in ([], [0], ["two"], [2, -1], [True]):
        with pytest.raises(ValueError, match="topology: "):
            gradcode.SimulatedCluster(topology=topology)
    with pytest.raises(ValueError, match="must be 5, as in topology"):
        gradcode.SimulatedCluster(4, topology=[2, 3])
    with pytest.raises(ValueError, match="workers=None must be given"):
        gradcode.SimulatedCluster()


def test_a_lost_edge_node_takes_its_workers_along_in_the_simulator() -> None:
    scheme = schemes.hierarchical(codes.hierarchical([2, 2, 2], 1, 0))
    given = delays.Delays(delays.Deterministic(1.0))
    losses = [(0, 6, 0.5), (1, 7, 0.5), (1, 8, 0.5)]  # edge nodes 0; then 1 and 2, which is one too many
    with Run("simulated", scheme, [2, 2, 2], delays=given, losses=losses, restart=10.0) as run:
        assert run.error() <= 1e-5 and run.reports[-1].lost == (0,)
        time_of_all = run.reports[-1].time
        assert run.error() <= 1e-5 and run.reports[-1].lost == (1, 2)
        assert run.reports[-1].time >= 10.0 > time_of_all


def test_an_edge_node_whose_workers_send_nan_says_so(near: str) -> None:
    scheme = schemes.hierarchical(codes.hierarchical([2, 2], 0, 0))
    dataset = torch.utils.data.TensorDataset(torch.full((40, 3), float("nan")), torch.zeros(40))
    session = gradcode.Session(
        nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)),
        nn.MSELoss(),
        dataset,
        20,
        scheme,
        CLUSTERS[near](topology=[2, 2], on_shortfall="raise"),
        check_loss=False,
    )
    with session, pytest.raises(gradcode.errors.NonFiniteLoss, match="not finite"):
        next(iter(session.epoch())).backward()


def test_an_edge_node_that_falls_short_is_left_out_and_not_taken_for_exact(near: str) -> None:
    """ "approximate": of a worker that is refused, its edge node's row is not made up, and the report says so."""
    scheme = schemes.hierarchical(codes.hierarchical([2, 2], 0, 0))
    inputs = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    dataset = torch.utils.data.TensorDataset(inputs, torch.zeros(40))
    sampling = Sampling(40, 4, 20, SEED)
    inputs[torch.from_numpy(sampling.indices(0, 0))] = float("nan")
    reports: list[gradcode.Report] = []
    session = gradcode.Session(
        nn.Sequential(nn.Linear(3, 1), nn.Flatten(0)),
        nn.MSELoss(),
        dataset,
        20,
        scheme,
        CLUSTERS[near](topology=[2, 2], on_shortfall="approximate"),
        SEED,
        check_loss=False,
        listeners=[reports.append],
    )
    with session, pytest.warns(gradcode.GradcodeWarning) if near == "local" else nullcontext():
        next(iter(session.epoch())).backward()
    assert not reports[0].exact and reports[0].decode_error >= 0.5
    assert np.isnan(reports[0].arrivals).tolist() == [True, False]


def stop(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)


def resume(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


@pytest.mark.serial
@pytest.mark.parametrize(("where", "iterations"), [("local", 50), ("ray", 20)])
def test_an_edge_node_killed_and_a_worker_of_each_stopped_in_every_iteration(where: str, iterations: int) -> None:
    """4 edge nodes × 3 workers: one edge node is killed whenever it is there, in mid-iteration, and one worker of each
    other is stopped; after half of the iterations another edge node has its turn.

    A partition takes 20 ms, an edge node's restart far more: who waits for one is seen.
    """
    per_edge, pause = [3, 3, 3, 3], 0.02
    code = codes.hierarchical(per_edge, 1, 1)
    random = np.random.default_rng(5)
    killed = victim = 0
    late = []
    with Run(where, schemes.hierarchical(code), per_edge, delays=delays.Deterministic(pause)) as run:
        run.error()
        for number in range(iterations):
            if number % (iterations // 2) == 0:
                while run.cluster.away():
                    run.cluster.alive()
                    time.sleep(0.05)
                victim = int(random.integers(4))
            pids, there = run.cluster.pids, victim not in run.cluster.away()
            stopped = [pids[3 * edge + int(random.integers(3))] for edge in range(4) if edge != victim]
            stop(stopped)
            timer = threading.Timer(pause, os.kill, (run.cluster.edge_pids[victim], signal.SIGKILL))
            if there:
                timer.start()
                killed += 1
            assert run.error() <= 1e-5
            resume(stopped)
            timer.cancel()
            assert victim in run.reports[-1].stragglers
            late.append(run.reports[-1].time)
    assert killed >= 2  # on Ray an edge node needs seconds to come back with its workers
    # Three partitions of an edge node's workers, and whatever a busy machine adds; never a restart.
    assert np.median(late) < 10 * code.load * pause, late


def test_leaving_leaves_no_process_behind_also_with_stopped_workers() -> None:
    with Run("local", schemes.hierarchical(codes.hierarchical([2, 2], 1, 0)), [2, 2]) as run:
        assert run.error() <= 1e-5
        everyone = [*run.cluster.pids, *run.cluster.edge_pids]
        stop([everyone[0], everyone[5]])
    assert not [pid for pid in everyone if runs(pid)]


def runs(pid: int) -> bool:
    """Whether a process is there and has not ended: nobody may have asked yet how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False
