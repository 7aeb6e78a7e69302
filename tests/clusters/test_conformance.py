"""One suite for all clusters: the same arrivals give the same gradients, and they are the plain ones."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error, straggling
from gradcode import codes, schemes
from gradcode.training.sampling import Sampling

WORKERS, STRAGGLERS, SEED, BATCH = 8, 2, 11, 48
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}
EVERY_SET = [set_ for size in range(STRAGGLERS + 1) for set_ in combinations(range(WORKERS), size)]


def exact_codes(dtype: torch.dtype) -> dict[str, Any]:
    """Every exact code of the registry for N = 8, s = 2 that its constructor accepts for ``dtype``, or its refusal."""
    name = str(dtype).removeprefix("torch.")
    options: dict[str, Any] = {"dtype": name, "max_error": TOLERANCE[dtype]}
    made: dict[str, Any] = {}
    for entry in codes.REGISTRY.values():
        if not entry.exact or entry.name in ("uncoded", "batched_coupon"):
            continue
        arguments: dict[str, Any] = {"stragglers": STRAGGLERS, **options}
        if entry.name == "heterogeneous":
            arguments |= {"speeds": [1, 1, 1, 1, 2, 2, 2, 2], "partitions": WORKERS}
        else:
            arguments["workers"] = WORKERS
        if entry.name == "clustered":
            arguments["clusters"] = 2
        if entry.name == "communication_efficient":
            arguments |= {"load": 4, "reduction": 2}
        if entry.name == "hierarchical":
            arguments = {"workers_per_edge": [3, 2, 3], "edge_stragglers": 1, "worker_stragglers": 1, **options}
        if entry.name == "fractional_repetition":
            arguments = {"workers": WORKERS, "stragglers": STRAGGLERS, "dtype": name}  # never refused
        try:
            made[entry.name] = entry.constructor(**arguments)
        except ValueError as refusal:
            made[entry.name] = refusal
    return made


CASES = [
    pytest.param(name, dtype, id=f"{name}-{str(dtype).removeprefix('torch.')}")
    for dtype in TOLERANCE
    for name in exact_codes(dtype)
]


@pytest.mark.parametrize(("name", "dtype"), CASES)
def test_every_straggler_set_gives_the_plain_gradient(kind: str, name: str, dtype: torch.dtype) -> None:
    code = exact_codes(dtype)[name]
    if isinstance(code, ValueError):
        assert "stragglers" in str(code) or "dtype" in str(code)
        pytest.skip(f"refused: {code}")
    model, dataset = cnn(dtype), images(dtype=dtype)
    reference = cnn(dtype)
    sampling = Sampling(len(dataset), code.partitions, BATCH, SEED)
    cluster = CLUSTERS[kind](WORKERS, delays=straggling(EVERY_SET, WORKERS))
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        BATCH,
        schemes.coded(code),
        cluster,
        SEED,
        listeners=[reports.append],
    ) as session:
        steps = (step for _ in iter(int, 1) for step in session.epoch())
        for number, stragglers in enumerate(EVERY_SET):
            next(steps).backward()
            wanted = plain_gradients(reference, dataset, sampling, number)
            assert relative_error(decoded(model), wanted) <= TOLERANCE[dtype], (stragglers, code)
            assert set(stragglers) <= set(reports[-1].stragglers)
            assert reports[-1].exact
            assert reports[-1].decode_error <= TOLERANCE[dtype]


def trained(kind: str) -> torch.Tensor:
    """The parameters after three epochs on a cluster of this kind; the same workers are silent on every one."""
    rng = np.random.default_rng(5)
    patterns = [tuple(sorted(rng.choice(WORKERS, STRAGGLERS, replace=False).tolist())) for _ in range(12)]
    model, dataset = cnn(), images()
    scheme = schemes.coded(codes.cyclic_mds(WORKERS, STRAGGLERS, max_error=1e-4))
    stragglers = []
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        BATCH,
        scheme,
        CLUSTERS[kind](WORKERS, delays=straggling(patterns, WORKERS)),
        SEED,
        listeners=[lambda report: stragglers.append(report.stragglers)],
    ) as session:
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        for _ in range(3):
            for step in session.epoch():
                step.backward()
                optimizer.step()
    assert stragglers == patterns
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_clusters_agree_on_the_same_arrivals(kind: str) -> None:
    """The same workers are silent in the same iterations: training ends at the same parameters on every cluster."""
    found, expected = trained(kind), trained("simulated")
    assert float((found - expected).norm() / expected.norm()) < 1e-6


@pytest.mark.serial
def test_deadline_takes_the_least_squares_gradient(kind: str) -> None:
    """Three workers too many are silent: after the deadline the decoding is inexact and says how far off."""
    patterns = [(0, 1, 2, 4, 5)] * 3
    code = codes.cyclic_repetition(WORKERS, STRAGGLERS, dtype="float32", max_error=float("inf"))
    model, dataset = cnn(), images()
    sampling = Sampling(len(dataset), WORKERS, BATCH, SEED)
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        BATCH,
        schemes.coded(code, deadline=0.3),
        CLUSTERS[kind](WORKERS, delays=straggling(patterns, WORKERS)),
        SEED,
        listeners=[reports.append],
    ) as session:
        for step, _ in zip(session.epoch(), patterns, strict=False):
            step.backward()
            wanted = plain_gradients(model, dataset, sampling, step.number)
            expected = code.decode([3, 6, 7])
            weights = torch.from_numpy(expected.weights @ code.encoding)
            best = (torch.stack(wanted).double() * weights[:, None]).sum(0)
            assert float((decoded(model).double() - best).norm() / best.norm()) < 1e-5
            assert relative_error(decoded(model), wanted) <= reports[-1].decode_error
            assert not reports[-1].exact
            assert 0.3 <= reports[-1].time < 3.0


def test_fastest_uses_the_first_k(kind: str) -> None:
    """Three workers are silent, and five replies are all there are: the samples behind them are rescaled."""
    patterns = [(5, 6, 7), (0, 2, 4), (1, 6, 7), (0, 1, 2)]
    model, dataset = cnn(), images()
    sampling = Sampling(len(dataset), WORKERS, BATCH, SEED)
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        BATCH,
        schemes.fastest(WORKERS, k=5),
        CLUSTERS[kind](WORKERS, delays=straggling(patterns, WORKERS)),
        SEED,
        listeners=[reports.append],
    ) as session:
        for step, silent in zip(session.epoch(), patterns, strict=True):
            step.backward()
            wanted = plain_gradients(model, dataset, sampling, step.number)
            sizes = sampling.sizes(step.number)
            heard = sorted(set(range(WORKERS)) - set(silent))
            expected = sum(wanted[w] for w in heard) * (sizes.sum() / sizes[heard].sum())
            assert reports[-1].stragglers == silent
            assert float((decoded(model) - expected).norm() / expected.norm()) < 1e-5


def test_the_first_k_blocks_are_the_plain_gradients(kind: str) -> None:
    """Three workers are silent, and with them the coordinates of their blocks; they have no part in the gradient."""
    patterns = [(5, 6, 7), (0, 2, 4)]
    model, dataset = cnn(), images()
    length = sum(p.numel() for p in model.parameters())
    scheme = schemes.fastest_blocks(WORKERS, k=5, length=length, partitions=2)
    sampling = Sampling(len(dataset), 2, BATCH, SEED)
    cluster = CLUSTERS[kind](WORKERS, delays=straggling(patterns, WORKERS))
    with gradcode.Session(model, nn.CrossEntropyLoss(), dataset, BATCH, scheme, cluster, SEED) as session:
        for step, silent in zip(session.epoch(), patterns, strict=False):
            step.backward()
            expected = sum(plain_gradients(model, dataset, sampling, step.number))
            for worker in silent:
                expected[slice(*scheme.blocks[worker])] = 0.0
            assert scheme.responders == tuple(sorted(set(range(WORKERS)) - set(silent)))
            # A parameter of which nobody computed anything took no part: its gradient is None.
            found = [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]
            flat = torch.cat([gradient.flatten() for gradient in found])
            assert float((flat - expected).norm() / expected.norm()) < 1e-5


def test_predicted_time_is_the_time(kind: str) -> None:
    """``duration`` on the delays of an iteration is the simulated time exactly, the emulated time nearly."""
    delays = gradcode.delays.Pareto(shape=2.0, scale=0.02)
    reports: list[gradcode.Report] = []
    options = {"delay_mode": "emulate"} if kind != "simulated" else {}
    with gradcode.Session(
        cnn(),
        nn.CrossEntropyLoss(),
        images(),
        BATCH,
        schemes.coded(codes.fractional_repetition(WORKERS, 3)),
        CLUSTERS[kind](WORKERS, delays=delays, **options),
        SEED,
        listeners=[reports.append],
    ) as session:
        for step in session.epoch():
            step.backward()
    for report in reports:
        assert report.fluid <= report.order_statistic
        if kind == "simulated":
            assert report.time == report.order_statistic
        else:
            assert report.time >= report.order_statistic
    assert [report.bytes_up > 0 for report in reports] == [True] * len(reports)


def test_reports_survive_a_whole_epoch(kind: str) -> None:
    """The samples of an epoch are seen once, whatever its last iteration looks like."""
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        cnn(),
        nn.CrossEntropyLoss(),
        images(samples=101),
        24,
        schemes.coded(codes.fractional_repetition(WORKERS, 1)),
        CLUSTERS[kind](WORKERS),
        SEED,
        listeners=[reports.append],
    ) as session:
        losses = [float(step.backward()) for step in session.epoch()]
    assert [report.loss for report in reports] == pytest.approx(losses)
    assert [report.iteration for report in reports] == list(range(session.iterations_per_epoch))
