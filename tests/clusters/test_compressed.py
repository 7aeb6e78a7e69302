"""Compressed messages on every cluster: what error feedback promises, the bytes that travel, and who is killed."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, straggling
from gradcode import schemes
from gradcode.compression import Compressor, Differences, ErrorFeedback, GroupedSign, Half, OneBit, RandomK, TopK
from gradcode.training.sampling import Sampling

WORKERS, SEED, BATCH, RATE = 4, 3, 32, 0.1
PATTERNS = [(number % WORKERS,) if number % 3 else () for number in range(8)]

COMPRESSORS: dict[str, Compressor] = {
    "sign": GroupedSign(32),
    "top": TopK(density=0.1),
    "one bit": OneBit(),
    "half": Half(torch.bfloat16),
}


class Training:
    """A network trained by plain SGD with compressed messages; one worker never answers in most iterations."""

    def __init__(self, kind: str, scheme: Any, patterns: list[tuple[int, ...]] = PATTERNS) -> None:
        self.scheme, self.model, self.data = scheme, cnn(), images()
        self.reference = cnn()
        self.sampling = Sampling(len(self.data), scheme.partitions, BATCH, SEED)
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=RATE)
        self.reports: list[gradcode.Report] = []
        self.cluster = CLUSTERS[kind](WORKERS, delays=straggling(patterns, WORKERS))
        self.session = gradcode.Session(
            self.model,
            nn.CrossEntropyLoss(),
            self.data,
            BATCH,
            scheme,
            self.cluster,
            SEED,
            optimizer=self.optimizer,
            listeners=[self.reports.append],
        )
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()

    @property
    def parameters(self) -> Tensor:
        return torch.cat([p.detach().flatten() for p in self.model.parameters()]).double()

    @property
    def memories(self) -> Tensor:
        """(N, L) e_i, each worker's memory that counts."""
        both = self.cluster.memory
        zero = torch.zeros_like(both[0, 0])
        return torch.stack([both[w, c] if c >= 0 else zero for w, c in enumerate(self.scheme._copies)]).double()

    def go(self) -> tuple[int, list[Tensor]]:
        """One iteration and step; its number, and every partition's gradient at the parameters before it."""
        step = next(self.steps)
        self.reference.load_state_dict(self.model.state_dict())
        gradients = plain_gradients(self.reference, self.data, self.sampling, step.number)
        step.backward()
        self.optimizer.step()
        return step.number, [g.double() for g in gradients]


@pytest.mark.parametrize("name", COMPRESSORS)
def test_less_what_is_remembered_nothing_was_compressed(kind: str, name: str) -> None:
    """One_bit.md, eq. 10: θ̃ = θ − γ·Σ_i w_i·e_i moves by −γ·Σ_{i∈U} w_i·h_i, whoever straggles."""
    inner = schemes.sgc(WORKERS, 2, quorum=3, allocation="cyclic")
    with Training(kind, schemes.compressed(inner, ErrorFeedback(COMPRESSORS[name]))) as training:
        encoding, weight = torch.tensor(inner.code.encoding), 4 / 3
        virtual = training.parameters
        for _ in range(len(PATTERNS)):
            _, gradients = training.go()
            answered = [w for w, at in enumerate(training.reports[-1].arrivals) if not np.isnan(at)]
            assert len(answered) == 3
            virtual = virtual - RATE * weight * (encoding[answered] @ torch.stack(gradients)).sum(0)
            found = training.parameters - RATE * weight * training.memories.sum(0)
            assert float((found - virtual).norm() / virtual.norm()) < 1e-5
        assert name == "half" or float(training.memories.norm()) > 0


def test_memories_stay_in_units_of_the_parameters(kind: str) -> None:
    """The identity with a schedule: γ changes between a memory and its use, also where a worker was away meanwhile."""
    inner = schemes.sgc(WORKERS, 2, quorum=3, allocation="cyclic")
    with Training(kind, schemes.compressed(inner, ErrorFeedback(GroupedSign(32)))) as training:
        virtual, encoding = training.parameters, torch.tensor(inner.code.encoding)
        for number in range(len(PATTERNS)):
            rate = training.optimizer.param_groups[0]["lr"] = RATE * 0.8**number
            _, gradients = training.go()
            answered = [w for w, at in enumerate(training.reports[-1].arrivals) if not np.isnan(at)]
            virtual = virtual - rate * 4 / 3 * (encoding[answered] @ torch.stack(gradients)).sum(0)
            scales = torch.from_numpy(np.nan_to_num(training.scheme._scales))
            found = training.parameters - (scales[:, None] * training.memories).sum(0)
            assert float((found - virtual).norm() / virtual.norm()) < 1e-5


BUILDS: dict[str, Callable[[], Any]] = {
    "uncoded, half": lambda: schemes.compressed(schemes.uncoded(WORKERS), Half(torch.bfloat16)),
    "uncoded, one bit": lambda: schemes.compressed(schemes.uncoded(WORKERS), OneBit()),
    "uncoded, random": lambda: schemes.compressed(schemes.uncoded(WORKERS), RandomK(density=0.2)),
    "differences": lambda: schemes.compressed(schemes.uncoded(WORKERS), Differences(RandomK(density=0.2), 0.2)),
    "one_bit": lambda: schemes.one_bit(WORKERS, 2, quorum=4),
    "coco_ef": lambda: schemes.coco_ef(WORKERS, 2, quorum=4),
    "coco_ef, top": lambda: schemes.coco_ef(WORKERS, 2, quorum=4, density=0.05),
}


@pytest.mark.parametrize("name", BUILDS)
def test_clusters_decode_the_same(kind: str, name: str) -> None:
    """What is random follows from seed, iteration and worker; so gradients agree to rounding, and bytes exactly."""
    found, bytes_up = gradients_of(kind, BUILDS[name])
    expected, expected_bytes = gradients_of("simulated", BUILDS[name])
    assert bytes_up == expected_bytes
    for own, other in zip(found, expected, strict=True):
        assert float((own - other).norm() / other.norm()) < 1e-5


def gradients_of(kind: str, build: Callable[[], Any]) -> tuple[list[Tensor], list[int]]:
    with Training(kind, build(), [()]) as training:
        gradients = []
        for _ in range(3):  # without steps: a rounding error may turn a sign
            next(training.steps).backward()
            gradients.append(decoded(training.model).double())
        return gradients, [report.bytes_up for report in training.reports]


def test_bytes_are_those_of_the_packed_bits(kind: str) -> None:
    with Training(kind, schemes.coco_ef(WORKERS, 2, quorum=4, group=64), [()]) as training:
        training.go()
        length = sum(p.numel() for p in training.model.parameters())
        packed = GroupedSign(64).size(length, 4)
        assert training.reports[-1].bytes_up == WORKERS * packed
        assert 20 < 4 * length / packed < 32


def test_reports_count_what_is_clipped(kind: str) -> None:
    reference, data = cnn(), images()
    sampling = Sampling(len(data), WORKERS, BATCH, SEED)
    magnitudes = torch.stack(plain_gradients(reference, data, sampling, 0)).abs().flatten().sort().values
    clipped = 50  # with the bound half-way between two coordinates, which rounding does not reach
    bound = float(magnitudes[-clipped - 1 : -clipped + 1].mean())
    with Training(kind, schemes.compressed(schemes.uncoded(WORKERS), OneBit("fixed", bound)), [()]) as training:
        training.go()
        assert training.reports[0].clipped == clipped
    if kind == "simulated":
        with Training(kind, schemes.compressed(schemes.uncoded(WORKERS), OneBit()), [()]) as training:
            training.go()
            assert training.reports[0].clipped == 0


def test_only_what_arrives_counts_as_clipped() -> None:
    """Worker 0 never answers in iteration 0."""
    scheme = schemes.compressed(schemes.fastest(WORKERS, WORKERS - 1), OneBit("fixed", 1e-30))
    with Training("simulated", scheme, [(0,)]) as training:
        _, gradients = training.go()
        assert training.reports[0].clipped == sum(int((g != 0).sum()) for g in gradients[1:])


@pytest.mark.parametrize("kind", ["local", "ray"], indirect=True)
def test_a_killed_workers_memory_is_there_or_begins_anew(kind: str) -> None:
    """On the local cluster it lies with the master, and the identity goes on; on Ray γ·w·e of the killed is lost."""
    inner = schemes.sgc(WORKERS, 2, quorum=WORKERS, allocation="cyclic")
    with Training(kind, schemes.compressed(inner, ErrorFeedback(GroupedSign(32))), [()]) as training:
        virtual = training.parameters
        for number in range(7):
            if number in (2, 4):
                victim = training.cluster.pids[number % WORKERS]
                assert victim is not None
                if kind == "ray":  # what it remembers was not made good, and never will be
                    virtual = virtual + RATE * training.memories[number % WORKERS]
                os.kill(victim, signal.SIGKILL)
            _, gradients = training.go()
            assert not np.isnan(training.reports[-1].arrivals).any()
            virtual = virtual - RATE * torch.stack(gradients).sum(0)
            found = training.parameters - RATE * training.memories.sum(0)
            assert float((found - virtual).norm() / virtual.norm()) < 1e-5, number
        assert sum(len(report.lost) for report in training.reports) == 2


def test_a_resumed_training_remembers(kind: str) -> None:
    build = BUILDS["coco_ef"]
    with Training(kind, build(), [()]) as training:
        for _ in range(3):
            training.go()
        state = training.session.state_dict()
        weights = {key: value.clone() for key, value in training.model.state_dict().items()}
        training.go()
        expected = decoded(training.model)
    with Training(kind, build(), [()]) as resumed:
        resumed.session.load_state_dict(state)
        resumed.model.load_state_dict(weights)
        resumed.steps = (step for _ in iter(int, 1) for step in resumed.session.epoch())
        resumed.go()
        assert float((decoded(resumed.model) - expected).norm() / expected.norm()) < 1e-5
