"""Coupon's collector on every cluster: exact gradients from whoever comes first, and workers lost on the way."""

from __future__ import annotations

import os
import signal
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import codes, schemes
from gradcode.delays import DelayTable
from gradcode.protocol import Reply
from gradcode.schemes import CouponCollector
from gradcode.training.sampling import Sampling

BATCH, SEED = 48, 3


class Watching:
    """Wraps a scheme: keeps its replies, and kills a worker when another one's first reply has come."""

    def __init__(self, scheme: Any) -> None:
        self._scheme = scheme
        self.replies: list[Reply] = []
        self.pids: Any = None
        self.victim = -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def start(self, iteration: Any) -> Any:
        self.replies = []
        return self._scheme.start(iteration)

    def receive(self, reply: Reply) -> Any:
        self.replies.append(reply)
        if self.victim >= 0 and reply.order.worker != self.victim:
            os.kill(self.pids[self.victim], signal.SIGKILL)
            self.victim = -1
        return self._scheme.receive(reply)


class Trial:
    """A session, its plain gradients, and the scheme that is watched."""

    def __init__(self, kind: str, scheme: Any, dtype: torch.dtype = torch.float32, **options: Any) -> None:
        self.model, self.reference = cnn(dtype), cnn(dtype)
        self.dataset, self.scheme = images(dtype=dtype), Watching(scheme)
        self.sampling = Sampling(len(self.dataset), scheme.partitions, BATCH, SEED)
        self.reports: list[gradcode.Report] = []
        self.cluster = CLUSTERS[kind](scheme.workers, **options)
        self.session = gradcode.Session(
            self.model,
            nn.CrossEntropyLoss(),
            self.dataset,
            BATCH,
            self.scheme,
            self.cluster,
            SEED,
            listeners=[self.reports.append],
        )
        self.scheme.pids = getattr(self.cluster, "pids", None)

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *error: object) -> None:
        self.session.close()

    def errors(self, iterations: int) -> list[float]:
        """Of that many iterations' gradients, relative."""
        found = []
        for step in islice(self.session.epoch(), iterations):
            step.backward()
            wanted = plain_gradients(self.reference, self.dataset, self.sampling, step.number)
            found.append(relative_error(decoded(self.model), wanted))
        return found

    @property
    def size(self) -> int:
        """Bytes of a message."""
        return sum(parameter.numel() * parameter.element_size() for parameter in self.model.parameters())


def test_gradients_are_exact_whoever_comes_first(kind: str) -> None:
    """Uneven loads and paces: each partition is received once, from somebody that holds it."""
    scheme = schemes.coupon(4, 8, [1, 3, 5, 8], seed=2)
    rng = np.random.default_rng(4)
    table = DelayTable.from_array(rng.exponential(0.02, (3, 4)))
    with Trial(kind, scheme, torch.float64, delays=table) as trial:
        assert all(error <= scheme.error < 1e-13 for error in trial.errors(3))
        for report in trial.reports:
            assert report.exact and report.bytes_up == 8 * trial.size
        came = [reply.order for reply in trial.scheme.replies]
        assert sorted(next(iter(order.combination)) for order in came) == list(range(8))
        assert all(next(iter(order.combination)) in scheme.placement[order.worker] for order in came)
        if kind == "simulated":
            assert all(report.time == report.order_statistic for report in trial.reports)


def test_a_worker_killed_before_it_has_sent() -> None:
    """What others hold comes from them, what it alone holds comes from it when it is back."""
    placement = [[0, 1], [1, 2], [2]]
    paces = DelayTable.from_array([[0.8, 0.02, 0.02]])
    with Trial("local", CouponCollector(placement, 3), delays=paces) as trial:
        trial.scheme.victim = 0
        (error,) = trial.errors(1)
        (report,) = trial.reports
        assert error <= report.decode_error < 1e-5 and report.exact and report.lost == (0,)
        sources = {next(iter(reply.order.combination)): reply.order.worker for reply in trial.scheme.replies}
        assert sources[0] == 0 and sources[1] == 1


def test_a_worker_lost_before_it_has_sent_simulated() -> None:
    """At 0.4 s of 0.5: its own partition is begun anew after 1 s, the other one comes from worker 1 at 0.25."""
    placement, paces = [[0, 1], [1, 2], [2]], DelayTable.from_array([[0.5, 0.25, 0.25]])
    with Trial("simulated", CouponCollector(placement, 3), delays=paces, losses=[(0, 0, 0.4)], restart=1.0) as trial:
        assert trial.errors(1)[0] < 1e-6
        (report,) = trial.reports
        assert report.exact and report.lost == (0,) and report.time == pytest.approx(0.4 + 1.0 + 0.5)
        assert [reply.order.worker for reply in trial.scheme.replies] == [1, 2, 0]


def test_a_silent_worker_is_only_missed_where_it_is_alone() -> None:
    """The deadline takes what has come."""
    scheme = CouponCollector([[0, 1], [1, 2], [2]], 3, deadline=2.0)
    paces = DelayTable.from_array([[np.inf, 0.25, 0.25]])
    with Trial("simulated", scheme, torch.float64, delays=paces) as trial:
        trial.errors(1)
        wanted = plain_gradients(trial.reference, trial.dataset, trial.sampling, 0)
        assert float((decoded(trial.model) - wanted[1] - wanted[2]).norm()) < 1e-12
        (report,) = trial.reports
        assert report.time == 2.0 and not report.exact and report.decode_error == pytest.approx(1.0)


def test_what_waits_to_be_received_is_given_up_when_another_has_come() -> None:
    """Both copies of partition 0 come at 1, one is received, and the other makes nobody wait."""
    paces = DelayTable.from_array([[1.0, 1.0, 1.0]], receive=0.5)
    with Trial("simulated", CouponCollector([[0], [0], [1]], 2), delays=paces) as trial:
        assert trial.errors(1)[0] < 1e-6
        assert trial.reports[0].time == 2.0 and trial.reports[0].bytes_up == 2 * trial.size


@pytest.mark.parametrize("kind", ["simulated", "local"])
def test_batches_end_at_coverage_and_copies_count_as_received(kind: str) -> None:
    """The scheme for even workers, whatever the order in which they come."""
    code = codes.batched_coupon(8, 8, 2, rng=5)
    batch = [int(held[0]) for held in code.placement]
    table = DelayTable.from_array(np.random.default_rng(6).exponential(0.05, (3, 8)))
    with Trial(kind, schemes.coded(code), delays=table) as trial:
        assert all(error < 1e-6 for error in trial.errors(3))
        for report in trial.reports:
            order = [worker for worker in np.argsort(report.arrivals) if np.isfinite(report.arrivals[worker])]
            seen = [batch[worker] for worker in order]
            assert len(set(seen)) == 4 and len(set(seen[:-1])) == 3
            assert report.exact and report.bytes_up == len(seen) * trial.size
        assert any(report.bytes_up > 4 * trial.size for report in trial.reports) or kind == "local"
