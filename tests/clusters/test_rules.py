"""The rules of the protocol, on every cluster, by schemes that use one part of it each."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.toy_schemes import (
    ErrorFeedback,
    Grants,
    SampledReplies,
    SecondStage,
    SignCodec,
    Signs,
    Skipping,
    TwoBlocks,
)
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error, straggling
from gradcode.clusters.driver import NOTICE_BYTES
from gradcode.delays import DelayTable
from gradcode.training.sampling import Sampling

WORKERS, SEED, BATCH = 4, 5, 32


class Trial:
    """A session with a toy, and the plain gradients of its iterations."""

    def __init__(self, kind: str, scheme: Any, **options: Any) -> None:
        self.model, self.dataset, self.scheme = cnn(), images(), scheme
        self.sampling = Sampling(len(self.dataset), WORKERS, BATCH, SEED)
        self.reports: list[gradcode.Report] = []
        self.cluster = CLUSTERS[kind](WORKERS, **options)
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
        self.steps = (step for _ in iter(int, 1) for step in self.session.epoch())

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()

    def go(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The decoded gradient of one iteration, and the partitions' plain ones."""
        step = next(self.steps)
        step.backward()
        wanted = plain_gradients(cnn_like(self.model), self.dataset, self.sampling, step.number)
        return decoded(self.model), wanted

    def move(self) -> None:
        """An optimizer step: the next iteration is at other parameters."""
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter.sub_(parameter.grad, alpha=0.1)


def cnn_like(model: nn.Module) -> nn.Module:
    copy = cnn()
    copy.load_state_dict(model.state_dict())
    return copy


LENGTH = sum(p.numel() for p in cnn().parameters())


def test_blocks_of_one_row_come_from_different_orders(kind: str) -> None:
    with Trial(kind, TwoBlocks(WORKERS, LENGTH)) as trial:
        for _ in range(4):
            found, wanted = trial.go()
            assert relative_error(found, wanted) < 1e-6
            # A partition that two orders of a worker name is computed once per worker.
            assert trial.reports[-1].bytes_up == WORKERS * LENGTH * 4
            trial.move()


def test_codec_replies_are_bytes(kind: str) -> None:
    scheme = Signs(WORKERS)
    with Trial(kind, scheme) as trial:
        for _ in range(3):
            found, wanted = trial.go()
            expected = sum(g.abs().mean() * torch.where(g >= 0, 1.0, -1.0) for g in wanted)
            # A coordinate of about zero may round to either sign; there are few of those.
            wrong = (found - expected).abs() > 1e-5 * expected.abs().max()
            assert wrong.float().mean() < 0.01
            size = SignCodec().size(LENGTH, 4)
            assert scheme.payloads == dict.fromkeys(range(WORKERS), size)
            assert trial.reports[-1].bytes_up == WORKERS * size
            trial.move()


def test_messages_of_a_codec_may_be_shorter_than_their_row(kind: str) -> None:
    """Just the bytes of each message travel and are counted, and they are the same on every cluster."""
    scheme = SampledReplies(WORKERS)
    with Trial(kind, scheme) as trial:
        for number in range(3):
            found, wanted = trial.go()
            expected, size = torch.zeros(LENGTH), scheme.codec.size(LENGTH, 4)
            for worker, gradient in enumerate(wanted):
                out = torch.zeros(size, dtype=torch.uint8)
                used = scheme.codec.encode(gradient, out, None, None, (SEED, number, worker))
                # The worker's own gradient may differ in its last bits, and with it who is kept.
                assert abs(len(scheme.payloads[worker]) - used) <= 0.02 * used < 0.02 * size
                scheme.codec.compressor.add([out[:used]], [1.0], expected)
            assert float((found - expected).norm() / expected.norm()) < 0.05
            assert trial.reports[-1].bytes_up == sum(map(len, scheme.payloads.values()))
            trial.move()


def test_memory_is_committed_by_the_master(kind: str) -> None:
    """Error feedback with a straggler in every iteration: what it computed in vain leaves no trace in its memory.

    The memories after each iteration are those of a plain computation in which it did not take part.
    """
    rng = np.random.default_rng(2)
    patterns = [(int(rng.integers(WORKERS)),) for _ in range(6)]
    seconds = np.zeros((len(patterns), WORKERS))
    for row, (worker,) in zip(seconds, patterns, strict=True):
        row[worker] = 2.0  # it has computed and written its memory, but its message comes too late
    scheme = ErrorFeedback(WORKERS, k=WORKERS - 1)
    with Trial(kind, scheme, delays=DelayTable.from_array(np.zeros_like(seconds), seconds)) as trial:
        memories = torch.zeros(WORKERS, LENGTH)
        for (late,) in patterns:
            found, wanted = trial.go()
            assert trial.reports[-1].stragglers == (late,)
            expected = torch.zeros(LENGTH)
            for worker in set(range(WORKERS)) - {late}:
                memories[worker] = (wanted[worker] + memories[worker]) / 2
                expected += memories[worker]
            assert float((found - expected).norm() / expected.norm()) < 1e-5
            trial.move()
        kept = torch.stack([trial.cluster.memory[w, scheme.copy[w]] for w in range(WORKERS)])
        assert float((kept - memories).norm() / memories.norm()) < 1e-5


def test_skips_are_replies_without_payload(kind: str) -> None:
    scheme = Skipping(WORKERS)
    with Trial(kind, scheme) as trial:
        for number in range(4):
            found, wanted = trial.go()
            if number % 2 == 0:
                expected = torch.stack(wanted).sum(0)
                assert trial.reports[-1].bytes_up == WORKERS * LENGTH * 4
            else:
                assert trial.reports[-1].bytes_up == WORKERS * NOTICE_BYTES
                assert (trial.reports[-1].uploads, trial.reports[-1].notices) == (0, WORKERS)
            assert float((found - expected).norm() / expected.norm()) < 1e-5
            assert np.isfinite(trial.reports[-1].loss)
            trial.move()


def test_only_granted_results_are_in_the_sums(kind: str) -> None:
    with Trial(kind, Grants(WORKERS)) as trial:
        for _ in range(5):
            found, wanted = trial.go()
            assert relative_error(found, wanted) < 1e-6
            trial.move()


@pytest.mark.serial
def test_new_orders_at_the_deadline(kind: str) -> None:
    """Two workers are silent: at the deadline another one is given their partitions."""
    with Trial(kind, SecondStage(WORKERS), delays=straggling([(1, 3), (0, 1), (), (2,)], WORKERS)) as trial:
        for pattern in [(1, 3), (0, 1), (), (2,)]:
            found, wanted = trial.go()
            assert relative_error(found, wanted) < 1e-6
            assert trial.reports[-1].stragglers == pattern
            assert (trial.reports[-1].time >= SecondStage.deadline) == bool(pattern)
            trial.move()


class Killing:
    """Wraps a scheme: at its n-th reply of an iteration a worker is lost, by SIGKILL or by the script."""

    awaits = 1  # it wants to see every reply as it comes

    def __init__(self, scheme: Any, victim: int, at: int) -> None:
        self._scheme, self.victim, self.at = scheme, victim, at
        self.cluster: Any = None
        self.losses = 0
        self.killed: set[int] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def start(self, iteration: Any) -> Any:
        self.replies = 0
        return self._scheme.start(iteration)

    def receive(self, reply: Any) -> Any:
        actions = self._scheme.receive(reply)
        self.replies += 1
        if self.replies == self.at and self.cluster is not None:
            victim = self.cluster.pids[self.victim]
            if victim is not None and victim not in self.killed:  # else it is on its way back from the last time
                self.killed.add(victim)
                os.kill(victim, signal.SIGKILL)
        return actions

    def lose(self, worker: int) -> Any:
        self.losses += 1
        assert worker == self.victim
        return self._scheme.lose(worker)


@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_lost_workers_grants_are_free_again(kind: str, at: int) -> None:
    """Worker 1 dies between its notices and its sum: nothing is counted twice and nothing is missing."""
    scheme = Killing(Grants(WORKERS), victim=1, at=at)
    seconds = DelayTable.from_array(np.full((1, WORKERS), 0.02))
    options: dict[str, Any] = {}
    if kind == "simulated":
        options["losses"] = [(number, 1, 0.004 + 0.005 * at) for number in range(3)]
    with Trial(kind, scheme, delays=seconds, **options) as trial:
        if kind != "simulated":
            scheme.cluster = trial.cluster
        for _ in range(3):
            found, wanted = trial.go()
            assert relative_error(found, wanted) < 1e-6
            trial.move()
        assert trial.reports[-1].lost in ((1,), ())
        if kind == "simulated":
            assert scheme.losses >= (1 if at < 7 else 0)
            return
        # Others may have computed everything before its death is known: that is then seen between two iterations.
        deadline = time.monotonic() + 60
        while not scheme.losses and set(trial.cluster.pids) & scheme.killed and time.monotonic() < deadline:
            trial.cluster.alive()
        assert scheme.losses or not set(trial.cluster.pids) & scheme.killed


def test_a_lost_worker_gets_its_open_orders_again(kind: str) -> None:
    """Waiting for all, with one of them killed in every iteration: it is started again and answers in time."""
    scheme = Killing(gradcode.schemes.uncoded(WORKERS), victim=2, at=1)
    slow = np.full((1, WORKERS), 0.01)
    slow[0, 2] = 0.2
    options: dict[str, Any] = {}
    if kind == "simulated":
        options["losses"] = [(number, 2, 0.1) for number in range(3)]
    with Trial(kind, scheme, delays=DelayTable.from_array(slow), **options) as trial:
        if kind != "simulated":
            scheme.cluster = trial.cluster
        for number in range(3):
            found, wanted = trial.go()
            assert relative_error(found, wanted) < 1e-6
            assert trial.reports[-1].lost == (2,)
            assert scheme.losses == number + 1
            assert trial.reports[-1].time >= 0.2
            trial.move()


def test_a_serial_is_never_used_again(kind: str) -> None:
    """One iteration run twice at different parameters: the second has nothing of the first in it."""
    seconds = np.full((1, WORKERS), 0.001)
    seconds[0, 0] = 0.06
    scheme = gradcode.schemes.coded(gradcode.codes.fractional_repetition(WORKERS, 1))
    with Trial(kind, scheme, delays=DelayTable.from_array(seconds)) as trial:
        step = next(trial.steps)
        for _ in range(10):
            step.backward()
            wanted = plain_gradients(cnn_like(trial.model), trial.dataset, trial.sampling, step.number)
            assert relative_error(decoded(trial.model), wanted) < 1e-6
            trial.move()


def test_both_clusters_refuse_alike(kind: str) -> None:
    make = CLUSTERS[kind]
    with pytest.raises(ValueError, match="workers=0 must be at least 1"):
        make(0)
    with pytest.raises(ValueError, match="on_shortfall='sleep' must be one of wait, approximate, raise"):
        make(2, on_shortfall="sleep")
    with pytest.raises(ValueError, match="is for 8 workers, the cluster has 4"):
        Trial(kind, gradcode.schemes.uncoded(8))
    with pytest.raises(ValueError, match="workers=4 must be 3"):
        Trial(kind, gradcode.schemes.uncoded(4), delays=DelayTable.from_array(np.zeros((2, 3))))


def test_scripted_losses_are_checked() -> None:
    with pytest.raises(ValueError, match=r"losses: \(0, 4, 0.1\) must be \(iteration, worker, seconds\)"):
        gradcode.SimulatedCluster(4, losses=[(0, 4, 0.1)])
    assert gradcode.SimulatedCluster(4, losses=[[1.0, 2.0, 0.5]])._losses == [(1, 2, 0.5)]
