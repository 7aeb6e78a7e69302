"""Elastic schemes to the gradient: under histories of losses and returns, and on clusters."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from elastic_cases import BUILDS, EVERYBODY, K, TwoRows, answer, carry_out, cyclic, iteration_of, orders_of, uncoded
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import gradcode
from gradcode import schemes
from gradcode.clusters.driver import Ledger, Standing, iterate
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.protocol import Abandon, Event, Iteration, Loss, Order, Reply, Scheme
from gradcode.training import LeastSquares

LENGTH = 5


# The gradient


class Stage:
    """A cluster of nothing but rows and the driver, which checks that a row has one owner and a slot one use.

    Workers come and go by ``chance``; ``gone`` are those that never return.
    """

    def __init__(self, scheme: schemes.Elastic, chance: random.Random) -> None:
        self.scheme, self.chance = scheme, chance
        self.rows = torch.full((scheme.layout.rows, LENGTH + 3), torch.nan, dtype=torch.float64)[:, :LENGTH]
        self.standing = Standing()
        self.gone: set[int] = set()
        self.away: set[int] = set()

    def iteration(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """(decoded, plain) gradient of one iteration under losses and returns."""
        everybody = set(range(self.scheme.workers))
        alive = sorted(everybody - self.gone)
        iteration = iteration_of(number, alive, sorted(self.away))
        gradients = np.random.default_rng(number).standard_normal((K, LENGTH))
        self.rows.fill_(torch.nan)
        unheard_of = {*self.away}  # who came back in this iteration is only known by an answer
        ledger = Ledger(self.scheme.workers, iteration, 1, self.scheme.layout.slots, self.standing)
        driver = iterate(self.scheme, ledger)
        losses = self.chance.choice([0, 0, 1, 2, 3, 6])
        wait = next(driver)
        try:
            while True:
                ready = [order for order in wait.open.values() if order.worker not in self.away | self.gone]
                if losses and self.chance.random() < 0.4:
                    losses -= 1
                    event: Event = self._loss(everybody)
                    unheard_of.add(event.worker)
                elif ready:
                    order = self.chance.choice(ready)
                    unheard_of.discard(order.worker)
                    event = self._reply(order, gradients)
                else:
                    assert everybody - self.gone <= unheard_of, "somebody is there, but everybody waits for the others"
                    if not self.away:
                        raise Shortfall("the last orders were those of a worker that is gone for good")
                    self.away.discard(self.chance.choice(sorted(self.away)))
                    continue
                wait = driver.send(event)
        except StopIteration:
            pass
        for worker in sorted(self.away):
            if self.chance.random() < 0.3:
                self.away.discard(worker)
        out = torch.full((LENGTH,), torch.nan, dtype=torch.float64)
        self.scheme.gradient(self.rows, out)
        return out.numpy(), gradients.sum(0)

    def _loss(self, everybody: set[int]) -> Loss:
        up = sorted(everybody - self.gone - self.away) or sorted(everybody - self.gone)
        worker = self.chance.choice(up)
        returning = len(everybody - self.gone) == 1 or self.chance.random() < 0.8
        (self.away if returning else self.gone).add(worker)
        if not returning:
            self.away.discard(worker)
        for row, owner in self.standing.owners.items():
            if owner == worker and row not in self.scheme._arrived.values():
                self.rows[row] = torch.nan  # it died over it
        return Loss(worker, 0.0, returning)

    def _reply(self, order: Order, gradients: np.ndarray) -> Reply:
        combined = sum((c * gradients[j] for j, c in order.combination.items()), np.zeros(LENGTH))
        self.rows[order.row] = torch.from_numpy(combined)
        return Reply(order, self.rows[order.row].view(torch.uint8), 0.0, np.zeros((len(order.combination), 1)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", list(BUILDS))
@settings(max_examples=60)
@given(workers=st.integers(1, 8), patience=st.integers(0, 3), chance=st.randoms(use_true_random=False))
def test_whatever_the_history_the_gradient_is_the_plain_sum(
    name: str, workers: int, patience: int, chance: random.Random
) -> None:
    scheme = schemes.elastic(BUILDS[name], workers, patience)
    stage = Stage(scheme, chance)
    for number in range(12):
        try:
            found, plain = stage.iteration(number)
        except Shortfall:
            return
        np.testing.assert_allclose(found, plain, rtol=1e-9, atol=1e-9)
        assert scheme.exact
    rows_each = scheme.layout.rows // workers
    assert all(row // rows_each == worker for row, worker in stage.standing.owners.items())


def decode(scheme: schemes.Elastic, rows: Tensor) -> Tensor:
    """Checks the sum of K partitions whose gradients are ones; returns the rows that the present scheme was given."""
    seen: list[Tensor] = []
    present: Any = scheme.present
    gradient = present.gradient
    present.gradient = lambda rows, out: (seen.append(rows), gradient(rows, out))
    out = torch.empty(rows.shape[1])
    scheme.gradient(rows, out)
    assert out.tolist() == [K] * len(out)
    return seen[0]


@pytest.mark.parametrize(
    ("away", "copied"),
    [((), False), ((6, 7), False), ((0,), False), ((1, 3, 5, 7), False), ((3,), True), ((0, 4), True)],
)
def test_rows_are_copied_only_where_members_have_gaps_between_them(away: tuple[int, ...], copied: bool) -> None:
    scheme = schemes.elastic(uncoded, 8, patience=0)
    orders = carry_out(scheme, iteration_of(away=away))
    rows = torch.full((8, 4), torch.nan)
    for order in orders:
        rows[order.row] = float(len(order.combination))
    seen = decode(scheme, rows)
    assert len(seen) == 8 - len(away)
    assert (rows.data_ptr() <= seen.data_ptr() < rows.data_ptr() + rows.nbytes) == (not copied)


def test_two_rows_that_have_arrived_do_not_tell_where_the_others_are() -> None:
    def build(workers: int) -> Scheme:
        return schemes.fastest(workers, min(2, workers), partitions=K)

    scheme = schemes.elastic(build, 8, patience=0)
    orders = orders_of(scheme.start(iteration_of(away=[2, 3])))
    rows = torch.full((8, 4), torch.nan)
    for order in (orders[0], orders[2]):
        rows[order.row] = float(len(order.combination))
        answer(scheme, order)
    assert [orders[0].row, orders[2].row] == [0, 4] and scheme.done
    assert len(decode(scheme, rows)) == 6


def test_a_skip_is_not_copied() -> None:
    scheme = schemes.elastic(TwoRows, 8, patience=0)
    orders = orders_of(scheme.start(iteration_of(away=[3])))
    for order in orders:
        scheme.receive(Reply(order, None, 1.0, np.zeros((len(order.combination), 1))))
    rows = torch.zeros(scheme.layout.rows, 4)
    scheme.gradient(rows, torch.empty(4))
    assert scheme._gathered is None


# On clusters


def least_squares() -> LeastSquares:
    rng = np.random.default_rng(0)
    return LeastSquares(rng.standard_normal((64, 3)), rng.standard_normal(64), K)


def gradients_of(scheme: Scheme, cluster: Any, iterations: int) -> tuple[list[Tensor], list[gradcode.Report]]:
    """The gradient of every iteration of a short training."""
    reports: list[gradcode.Report] = []
    gradients: list[Tensor] = []
    with gradcode.Session.of(least_squares(), scheme, cluster, listeners=[reports.append]) as session:
        optimizer = torch.optim.SGD(session.model.parameters(), lr=0.1)
        while len(gradients) < iterations:
            for step in session.epoch():
                step.backward()
                gradients.append(torch.cat([p.grad.flatten() for p in session.model.parameters()]).clone())  # type: ignore[union-attr]
                optimizer.step()
    return gradients[:iterations], reports[:iterations]


def test_on_a_simulated_cluster_losses_beyond_the_tolerance_cost_one_more_pass() -> None:
    seconds = DelayTable.from_array(np.ones((6, 8)))
    plain, quiet = gradients_of(uncoded(8), gradcode.SimulatedCluster(8, seconds), 6)
    losses = [(1, 3, 0.5), (4, 0, 0.2), (4, 7, 0.4)]
    cluster = gradcode.SimulatedCluster(8, seconds, losses=losses, restart=2.4)
    found, reports = gradients_of(schemes.elastic(uncoded, 8), cluster, 6)
    for one, other in zip(plain, found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-12)
    assert [report.time for report in quiet] == [1.0] * 6
    # 7 or 6 workers need 2 seconds for 8 partitions; waiting for the lost ones would take until 3.9 and 3.8.
    assert [report.time for report in reports] == [1.0, 3.0, 1.0, 1.0, 3.0, 1.0]


class Killing(schemes.Elastic):
    """Kills workers at the first reply of iteration 1."""

    victims: tuple[int, ...] = (1, 5, 6)
    cluster: gradcode.LocalCluster

    def start(self, iteration: Iteration) -> Sequence[Order | Abandon]:
        self.armed = iteration.number == 1
        return super().start(iteration)

    def receive(self, reply: Reply) -> Sequence[Order | Abandon]:
        if self.armed:
            self.armed = False
            for victim in self.victims:
                pid = self.cluster.pids[victim]
                assert pid is not None
                os.kill(pid, signal.SIGKILL)
        return super().receive(reply)


def test_on_a_local_cluster_killed_workers_are_done_without_and_taken_in_again() -> None:
    """Worker 0 answers at once; three of the others are killed in their sleep, two more than the code tolerates."""
    plain, _ = gradients_of(uncoded(8), gradcode.SimulatedCluster(8), 3)
    seconds = np.zeros((3, 8))
    seconds[1] = [0.0, *[0.2] * 7]
    scheme = Killing(cyclic, 8)
    scheme.cluster = cluster = gradcode.LocalCluster(8, delays=DelayTable.from_array(seconds))
    with gradcode.Session.of(least_squares(), scheme, cluster) as session:
        optimizer = torch.optim.SGD(session.model.parameters(), lr=0.1)

        def go(number: int) -> tuple[int, ...]:
            gradcode.Step(session, number).backward()
            found = torch.cat([p.grad.flatten() for p in session.model.parameters()])  # type: ignore[union-attr]
            torch.testing.assert_close(found, plain[number], rtol=1e-5, atol=1e-6)
            return scheme.members

        assert go(0) == EVERYBODY
        optimizer.step()
        assert go(1) == (0, 2, 3, 4, 7)
        optimizer.step()
        end = time.monotonic() + 60  # a worker needs seconds to start
        while go(2) != EVERYBODY and time.monotonic() < end:
            time.sleep(0.05)
        assert scheme.members == EVERYBODY
