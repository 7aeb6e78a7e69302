"""Schemes to be elastic, and how the tests play a cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradcode import codes, schemes
from gradcode.protocol import Abandon, Combination, Iteration, Layout, Order, Reply, Scheme

K = 8
EVERYBODY = tuple(range(8))


def repetition(workers: int) -> Scheme:
    code = codes.fractional_repetition(workers, min(2, workers - 1), partitions=K, dtype="float64")
    return schemes.coded(code)


def cyclic(workers: int) -> Scheme:
    code = codes.cyclic_repetition(workers, min(1, workers - 1), partitions=K, dtype="float64")
    return schemes.coded(code)


def uncoded(workers: int) -> Scheme:
    return schemes.uncoded(workers, partitions=K)


class TwoRows:
    """Every worker sends its partitions in two rows, the second one after the first has come; all are needed."""

    deadline: float | None = None
    error, exact, done = 0.0, True, True

    def __init__(self, workers: int) -> None:
        self.workers, self.partitions = workers, K
        self.layout = Layout(rows=2 * workers, slots=2 * workers)

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    def order(self, worker: int, half: int) -> Order:
        mine = range(worker, K, self.workers)
        return Order(
            worker,
            self.serial,
            half * self.workers + worker,
            half * self.workers + worker,  # a worker's rows are not neighbours
            Combination(dict.fromkeys(list(mine)[half::2], 1.0)),
        )

    def start(self, iteration: Iteration) -> list[Order]:
        self.serial, self.done, self.left = iteration.serial, False, 2 * self.workers
        return [self.order(worker, 0) for worker in range(self.workers)]

    def receive(self, reply: Reply) -> list[Order]:
        self.left -= 1
        self.done = not self.left
        return [self.order(reply.order.worker, 1)] if reply.order.slot < self.workers else []

    def lose(self, worker: int) -> tuple[()]:
        return ()

    def expire(self) -> tuple[()]:
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        torch.sum(rows, dim=0, out=out)

    def duration(self, compute: np.ndarray, communicate: np.ndarray) -> np.ndarray:
        return np.full(len(compute), np.nan)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


BUILDS: dict[str, Callable[[int], Scheme]] = {
    "repetition": repetition,
    "cyclic": cyclic,
    "uncoded": uncoded,
    "two rows": TwoRows,  # type: ignore[dict-item]
}


def iteration_of(number: int = 0, workers: Sequence[int] = EVERYBODY, away: Sequence[int] = ()) -> Iteration:
    target = Combination(dict.fromkeys(range(K), 1.0))
    return Iteration(number, 100 + number, target, tuple(workers), np.full(K, 2), away=tuple(away))


def orders_of(actions: Sequence[Order | Abandon]) -> list[Order]:
    return [action for action in actions if isinstance(action, Order)]


def answer(scheme: Scheme, order: Order) -> Sequence[Order | Abandon]:
    return scheme.receive(Reply(order, torch.zeros(1, dtype=torch.uint8), 1.0, np.zeros((len(order.combination), 1))))


def carry_out(scheme: Scheme, iteration: Iteration) -> list[Order]:
    """An iteration in which everybody who is not away answers; the orders of its start."""
    first = orders_of(scheme.start(iteration))
    waiting = list(first)
    while waiting and not scheme.done:
        order = waiting.pop(0)
        if order.worker not in iteration.away:
            waiting += orders_of(answer(scheme, order))
    return first
