"""A worker's running sum: what is granted is in it, what was refused or withdrawn is not."""

from __future__ import annotations

import weakref
from collections import defaultdict
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import gradcode
from clusters.zoo import cnn, images
from gradcode import schemes
from gradcode.clusters.worker import Answer, OrderBook
from gradcode.delays import DelayTable
from gradcode.protocol import Combination, Layout, Order

LENGTH, PIECES = 5, 6


class Given:
    """A source whose gradients are given; it raises at a partition that is ``broken``, with the buffer half written."""

    length, partitions, statistics, separable = LENGTH, PIECES, 1, False

    def __init__(self) -> None:
        self.gradients = torch.from_numpy(np.random.default_rng(5).integers(-50, 50, (PIECES, LENGTH)).astype(float))
        self.broken = -1

    def refresh(self) -> None: ...

    def finish(self, out: Tensor) -> None: ...

    def cost(self, block: Any) -> float:
        return 1.0

    def accumulate(
        self, number: int, partition: int, coefficient: float, out: Tensor, first: bool, block: Any = None
    ) -> np.ndarray:
        if partition == self.broken:
            out.fill_(torch.nan)
            raise RuntimeError("broken")
        out[:LENGTH].copy_(coefficient * self.gradients[partition]) if first else out.add_(self.gradients[partition])
        return np.array([float(partition)])


class Worker:
    """A worker's book beside what its master believes of it."""

    def __init__(self) -> None:
        self.source, self.rows, self.slots = Given(), torch.zeros(1, LENGTH, dtype=torch.float64), 0
        self.book = OrderBook(
            0, self.source, Layout(1, 10_000), self.rows, None, 0, torch.zeros(0, dtype=torch.float64)
        )  # type: ignore[arg-type]
        self.held: dict[int, int] = {}  # partition -> slot
        self.granted: list[int] = []  # partitions
        self.told: tuple[list[int], list[int]] = ([], [])

    def carry_out(self, combination: Combination, abandoned: bool = False, **options: Any) -> Answer | None:
        granted, refused = (tuple(slots) for slots in self.told)
        self.told = ([], [])
        self.slots += 1
        order = Order(0, 7, self.slots, 0, combination, granted=granted, refused=refused, **options)
        return self.book.carry_out(order, 0, lambda order, cost=1.0: not abandoned)

    def compute(self, partition: int, abandoned: bool = False) -> None:
        if self.carry_out(Combination({partition: 1.0}), abandoned, hold=True) is not None:
            self.held[partition] = self.slots

    def settle(self, partition: int, grant: bool) -> None:
        slot = self.held.pop(partition)
        self.told[not grant].append(slot)
        self.granted += [partition] * grant

    def withdraw(self) -> None:
        """The master takes it for lost, though it lives on."""
        self.held, self.granted, self.told = {}, [], ([], [])

    def check(self) -> None:
        """Its message is the sum of what is granted to it, to the bit: these are integers."""
        answer = self.carry_out(Combination(dict.fromkeys(sorted(self.granted), 1.0)), running=True)
        assert answer is not None and answer.sent == 8 * LENGTH
        assert answer.statistics[:, 0].tolist() == sorted(self.granted)
        assert torch.equal(self.rows[0], self.source.gradients[self.granted].sum(0))


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_message_is_the_sum_of_what_is_granted_whatever_came_before(data: st.DataObject) -> None:
    worker = Worker()
    for _ in range(data.draw(st.integers(1, 25))):
        kinds = ["compute", "abandon", "break", "withdraw", "restart", "message"] + ["settle"] * 3 * bool(worker.held)
        kind = data.draw(st.sampled_from(kinds))
        free = [own for own in range(PIECES) if own not in worker.held and own not in worker.granted]
        if kind in ("compute", "abandon", "break") and free:
            partition = data.draw(st.sampled_from(free))
            worker.source.broken = partition if kind == "break" else -1
            try:
                worker.compute(partition, abandoned=kind == "abandon")
            except RuntimeError:
                worker.withdraw()
            worker.source.broken = -1
        elif kind == "settle":
            worker.settle(data.draw(st.sampled_from(sorted(worker.held))), data.draw(st.booleans()))
        elif kind == "withdraw":
            worker.withdraw()
        elif kind == "restart":  # beyond the losses that withdraw anything
            worker.book.forget()
        elif kind == "message" and worker.granted:
            worker.check()
    if worker.granted:
        worker.check()


def test_a_sum_whose_adding_up_failed_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adding fails half way through the vector: the message is computed again."""
    worker = Worker()
    for partition in range(3):
        worker.compute(partition)
        worker.settle(partition, True)

    def half(vector: Tensor, gradient: Tensor, coefficient: float, whole: int) -> None:
        vector[: LENGTH // 2].add_(gradient[: LENGTH // 2])
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("gradcode.clusters.worker.add", half)
        with pytest.raises(MemoryError):
            worker.compute(4)
    computed = worker.book.computed
    worker.check()
    assert worker.book.computed > computed


@pytest.mark.parametrize("ahead", [0, 1])
def test_a_worker_needs_few_vectors(ahead: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its sum, what it computes, what it has yet to hear of: 2 + ahead, of r·m = 24; copies are refused on the way."""
    alive: dict[OrderBook, list[weakref.ref[Tensor]]] = defaultdict(list)
    most = 0
    make = OrderBook._like

    def watched(self: OrderBook, size: int) -> Tensor:
        nonlocal most
        vector = make(self, size)
        alive[self] = [own for own in alive[self] if own() is not None] + [weakref.ref(vector)]
        most = max(most, len(alive[self]))
        return vector

    monkeypatch.setattr(OrderBook, "_like", watched)
    seconds = np.random.default_rng(3).exponential(1.0, (4, 6)) + 0.1
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(6, delays=DelayTable.from_array(seconds))
    scheme = schemes.self_scheduling(6, 3, 8, ahead=ahead)
    with gradcode.Session(
        cnn(), nn.CrossEntropyLoss(), images(), 96, scheme, cluster, 0, listeners=[reports.append]
    ) as session:
        for step, _ in zip((step for _ in iter(int, 1) for step in session.epoch()), seconds, strict=False):
            step.backward()
    assert len(reports) == 4 and all(report.exact for report in reports)
    assert any(report.notices > scheme.partitions for report in reports)  # copies
    assert most == 2 + ahead
