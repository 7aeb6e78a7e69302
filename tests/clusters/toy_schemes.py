"""Small schemes that use one part of the protocol each: the methods that will need it come later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gradcode.compression import Plain, Sampled
from gradcode.protocol import Abandon, Block, Combination, Floats, Iteration, Layout, Order, Reply, Scheme

Actions = Sequence[Order | Abandon]


class Toy:
    """What the toys share: they have no deadline, no state and no opinion on time."""

    deadline: float | None = None
    error, exact, done = 0.0, True, True
    layout: Layout

    def __init__(self, workers: int) -> None:
        self.workers = self.partitions = workers
        self.iteration: Iteration | None = None

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    def begin(self, iteration: Iteration) -> None:
        self.iteration, self.done = iteration, False

    def receive(self, reply: Reply) -> Actions:
        raise NotImplementedError

    def lose(self, worker: int) -> Actions:
        return ()

    def expire(self) -> Actions:
        return ()

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        return np.full(len(compute), np.nan)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        assert not state


def one(partition: int) -> Combination:
    return Combination({partition: 1.0})


class TwoBlocks(Toy):
    """Worker w sends its own partition's first half and its neighbour's second half: two orders into one row."""

    def __init__(self, workers: int, length: int) -> None:
        super().__init__(workers)
        self.length, self.half = length, length // 2
        self.layout = Layout(rows=workers, slots=2 * workers)

    def start(self, iteration: Iteration) -> Actions:
        self.begin(iteration)
        self.left = set(range(2 * self.workers))
        first, second = Block(0, self.half), Block(self.half, self.length)
        orders: list[Order] = []
        for w in range(self.workers):
            neighbour = (w + 1) % self.workers
            orders.append(Order(w, iteration.serial, 2 * w, w, one(w), first))
            orders.append(Order(w, iteration.serial, 2 * w + 1, w, one(neighbour), second))
        return orders

    def receive(self, reply: Reply) -> Actions:
        self.left.discard(reply.order.slot)
        self.done = not self.left
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        torch.sum(rows[:, : self.length], dim=0, out=out)


class SignCodec:
    """One bit per coordinate and the mean magnitude: a reply that is not a float vector.

    A process must have coded a single zero before anything else: what a codec loads first is not to be waited for.
    """

    remembers = False
    loaded = False

    def size(self, length: int, itemsize: int) -> int:
        return 4 + -(-length // 8)

    def encode(
        self, vector: Tensor, out: Tensor, memory: Tensor | None, remembered: Tensor | None, key: tuple[int, ...]
    ) -> bool:
        SignCodec.loaded = SignCodec.loaded or len(vector) == 1
        if not SignCodec.loaded:
            raise RuntimeError("the codec has not been tried before the first order")
        out[:4] = vector.abs().mean().float().view(1).view(torch.uint8)
        out[4:] = torch.from_numpy(np.packbits(vector.numpy() >= 0))
        return True

    @staticmethod
    def decode(row: Tensor, length: int) -> Tensor:
        signs = torch.from_numpy(np.unpackbits(row[4:].numpy(), count=length).astype(np.float32) * 2 - 1)
        return signs * row[:4].clone().view(torch.float32)


class Signs(Toy):
    """Everybody's partition by its signs, added up."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.codec = SignCodec()
        self.layout = Layout(rows=workers, slots=workers, codec=self.codec)
        self.payloads: dict[int, int] = {}

    def start(self, iteration: Iteration) -> Actions:
        self.begin(iteration)
        self.payloads = {}
        return [Order(w, iteration.serial, w, w, one(w), codec=self.codec) for w in range(self.workers)]

    def receive(self, reply: Reply) -> Actions:
        assert reply.payload is not None
        self.payloads[reply.order.worker] = reply.payload.numel()
        self.done = len(self.payloads) == self.workers
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        out.copy_(sum(SignCodec.decode(row, out.shape[0]) for row in rows))


class HalfCodec:
    """Sends half of gradient plus memory and remembers the other half: error feedback at its plainest."""

    remembers = True

    def size(self, length: int, itemsize: int) -> int:
        return length * itemsize

    def encode(
        self, vector: Tensor, out: Tensor, memory: Tensor | None, remembered: Tensor | None, key: tuple[int, ...]
    ) -> bool:
        assert memory is not None
        assert remembered is not None
        whole = vector + memory
        out.copy_((whole / 2).view(torch.uint8))
        remembered.copy_(whole / 2)
        return True


class ErrorFeedback(Toy):
    """Waits for k; flips the memory of those whose reply it used, and of nobody else."""

    def __init__(self, workers: int, k: int) -> None:
        super().__init__(workers)
        self.k, self.codec = k, HalfCodec()
        self.layout = Layout(rows=workers, slots=workers, codec=self.codec, memory=workers)
        self.copy = [0] * workers
        self.used: set[int] = set()

    def start(self, iteration: Iteration) -> Actions:
        self.begin(iteration)
        self.used = set()
        return [
            Order(w, iteration.serial, w, w, one(w), codec=self.codec, memory=self.copy[w]) for w in range(self.workers)
        ]

    def receive(self, reply: Reply) -> Actions:
        self.used.add(reply.order.worker)
        self.done = len(self.used) == self.k
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        out.zero_()
        for worker in self.used:
            out += rows[worker].view(out.dtype)
            self.copy[worker] = 1 - self.copy[worker]


class EvenCodec:
    """Skips in odd iterations."""

    remembers = False

    def size(self, length: int, itemsize: int) -> int:
        return length * itemsize

    def encode(
        self, vector: Tensor, out: Tensor, memory: Tensor | None, remembered: Tensor | None, key: tuple[int, ...]
    ) -> bool:
        if key[1] % 2:
            return False
        out.copy_(vector.view(torch.uint8))
        return True


class Skipping(Toy):
    """Takes every worker's gradient, and the one it last sent where the worker has nothing to send."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.codec = EvenCodec()
        self.layout = Layout(rows=workers, slots=workers, codec=self.codec)
        self.kept: Tensor | None = None
        self.answers: list[bool] = []

    def start(self, iteration: Iteration) -> Actions:
        self.begin(iteration)
        self.answers = []
        return [Order(w, iteration.serial, w, w, one(w), codec=self.codec) for w in range(self.workers)]

    def receive(self, reply: Reply) -> Actions:
        self.answers.append(reply.payload is not None)
        self.done = len(self.answers) == self.workers
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        if self.kept is None or all(self.answers):
            self.kept = torch.stack([row.clone().view(out.dtype) for row in rows]).sum(0)
        out.copy_(self.kept)


class SampledReplies(Toy):
    """Everybody's partition through a codec whose messages differ in length, added up."""

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.codec = Plain(Sampled(variance_budget=1.0))
        self.layout = Layout(rows=workers, slots=workers, codec=self.codec)
        self.payloads: dict[int, Tensor] = {}

    def start(self, iteration: Iteration) -> Actions:
        self.begin(iteration)
        self.payloads = {}
        return [Order(w, iteration.serial, w, w, one(w), codec=self.codec) for w in range(self.workers)]

    def receive(self, reply: Reply) -> Actions:
        assert reply.payload is not None
        self.payloads[reply.order.worker] = reply.payload
        self.done = len(self.payloads) == self.workers
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        self.codec.compressor.add(list(self.payloads.values()), [1.0] * self.workers, out.zero_())


class Grants(Toy):
    """Held orders, notices, grants and sums: each partition is computed by two workers, the first notice is granted.

    When all are granted each owner is asked for its sum. A lost worker's grants are free again: another holder computes
    them, and a sum it has sent before is superseded by a later one with the new grant in it.
    """

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        self.layout = Layout(rows=workers, slots=64 * workers)

    def start(self, iteration: Iteration) -> Actions:
        self.begin(iteration)
        self.slots = 0
        self.owner: dict[int, int] = {}
        self.new: dict[int, list[int]] = {w: [] for w in range(self.workers)}  # granted, not yet in an asked sum
        self.asked: dict[int, int] = {}
        self.summed: set[int] = set()
        orders = []
        for w in range(self.workers):
            orders += [self.held(w, w), self.held(w, (w + 1) % self.workers)]
        return orders

    def order(self, worker: int, combination: Combination, **options: Any) -> Order:
        assert self.iteration is not None
        self.slots += 1
        return Order(worker, self.iteration.serial, self.slots - 1, worker, combination, **options)

    def held(self, worker: int, partition: int) -> Order:
        return self.order(worker, one(partition), hold=True)

    def receive(self, reply: Reply) -> Actions:
        order = reply.order
        if order.hold:
            assert reply.payload is None
            (partition,) = order.combination
            if partition not in self.owner:
                self.owner[partition] = order.worker
                self.new[order.worker].append(order.slot)
        elif self.asked.get(order.worker) == order.slot:
            self.summed.add(order.worker)
        return self.collect()

    def collect(self) -> Actions:
        orders = []
        if len(self.owner) == self.partitions:
            for worker in sorted(set(self.owner.values())):
                if self.new[worker]:
                    mine = Combination({j: 1.0 for j, owner in self.owner.items() if owner == worker})
                    order = self.order(worker, mine, running=True, granted=tuple(self.new[worker]))
                    self.new[worker], self.asked[worker] = [], order.slot
                    self.summed.discard(worker)
                    orders.append(order)
            self.done = self.summed >= set(self.owner.values())
        return orders

    def lose(self, worker: int) -> Actions:
        mine = [partition for partition, owner in self.owner.items() if owner == worker]
        self.new[worker] = []
        self.summed.discard(worker)
        actions: list[Order | Abandon] = []
        if worker in self.asked:
            actions.append(Abandon((self.asked.pop(worker),)))
        for partition in mine:
            del self.owner[partition]
            holders = {partition, (partition - 1) % self.workers}
            actions.append(self.held(min(holders - {worker}), partition))
        return actions

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        out.zero_()
        for worker in set(self.owner.values()):
            out += rows[worker, : out.shape[0]]


class SecondStage(Toy):
    """At the deadline, the partitions that are missing are ordered from a worker that has answered."""

    deadline = 0.5

    def __init__(self, workers: int) -> None:
        super().__init__(workers)
        # A helper's second answer must not overwrite its first: every worker has a second row.
        self.layout = Layout(rows=2 * workers, slots=2 * workers)

    def start(self, iteration: Iteration) -> Actions:
        self.begin(iteration)
        self.have: dict[int, int] = {}
        self.second = False
        return [Order(w, iteration.serial, w, w, one(w)) for w in range(self.workers)]

    def receive(self, reply: Reply) -> Actions:
        if self.second and reply.order.row < self.workers:
            return ()  # late: somebody else has its partition in a sum
        self.have.update(dict.fromkeys(reply.order.combination, reply.order.row))
        self.done = len(self.have) == self.partitions
        return ()

    def expire(self) -> Actions:
        assert self.iteration is not None
        self.second = True
        helper = min(self.have)
        missing = Combination({j: 1.0 for j in range(self.partitions) if j not in self.have})
        order = Order(helper, self.iteration.serial, self.workers + helper, self.workers + helper, missing)
        return [Abandon(tuple(missing)), order]

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        out.zero_()
        for row in set(self.have.values()):
            out += rows[row, : out.shape[0]]
