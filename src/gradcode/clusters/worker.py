"""How a worker carries out orders, on every cluster: combination, block, codec, hold and grant, memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from gradcode.clusters.past import PastGradients, Shelf, add
from gradcode.protocol import Block, Codec, Coefficient, Combination, Floats, Layout, Occasion, Order, Source


class EndOfPartition(Protocol):
    """Called after each partition; waits as injected delays want, and says whether the order is still wanted."""

    def __call__(self, order: Order, cost: float = 1.0) -> bool:
        """``cost``: of what was computed, as a share of the whole gradient."""
        ...


class MissingError(LookupError):
    """A memory is not known here: this worker was started again in between."""


class Held(NamedTuple):
    """A result that waits until it is granted or refused."""

    combination: Combination
    vector: Tensor
    statistics: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """A finished order. ``sent`` is the number of payload bytes in the row; None: a skip or a notice."""

    order: Order
    sent: int | None
    statistics: Floats
    change: float = float("nan")
    clipped: int = 0


class Rows(Protocol):
    """Reply rows as a worker writes them: all of a shared array, or its own, made at need."""

    dtype: torch.dtype

    @property
    def shape(self) -> Sequence[int]: ...

    def __getitem__(self, row: int) -> Tensor: ...


class Memories(Protocol):
    """What a worker remembers, two copies of it per row."""

    def read(self, row: int, copy: int) -> Tensor:
        """(length,), to be read.

        Raises:
            MissingError: this worker does not know it.
        """
        ...

    def write(self, row: int, copy: int) -> Tensor:
        """(length,), to be written."""
        ...


class SharedMemories:
    """Memories in one array that outlives the worker: (memory rows, 2, length)."""

    def __init__(self, array: Tensor) -> None:
        self._array = array

    def read(self, row: int, copy: int) -> Tensor:
        return self._array[row, copy]

    write = read


class OrderBook:
    """Carries out the orders of one worker.

    Where a combination has one real coefficient per partition for the whole row, the source accumulates straight into
    the row. Blocks, codecs, held results, complex coefficients and rows of another dtype go through a scratch
    vector; a partition that several orders of one message need is then computed once.

    Args:
        worker: its index.
        source: where gradients come from, bound to the parameters.
        layout: of the scheme.
        rows: (rows, width) in the dtype of replies, or (rows, bytes) uint8 where the scheme has a codec.
        memory: what it remembers, or None.
        seed: the session's, part of a codec's key.
        like: any tensor of the gradient's dtype on the CPU.
        shelf: where it finds what the master keeps, or None.
    """

    def __init__(
        self,
        worker: int,
        source: Source,
        layout: Layout,
        rows: Rows,
        memory: Memories | None,
        seed: int,
        like: Tensor,
        shelf: Shelf | None = None,
    ) -> None:
        self.worker, self.source, self.layout, self.seed = worker, source, layout, seed
        self.rows, self.memory, self.like = rows, memory, like
        if layout.codec is not None:
            _load(layout.codec, like)
        self._past = PastGradients(source, shelf, like)
        self.computed = 0.0
        self._serial = -1
        self._held: dict[int, Held] = {}
        self._kept: dict[int, int] = {}  # partition -> the held slot that is its gradient
        self._sum: Tensor | None = None
        self._summed: dict[int, tuple[Coefficient, Floats]] = {}  # partitions in the sum; none: it may be anything
        self._partitions: dict[int, tuple[Tensor, Floats]] = {}
        self._scratch: Tensor | None = None

    def begin(self, serial: int) -> None:
        """Forgets what belonged to an older serial and takes the new parameters."""
        if serial != self._serial:
            self._serial = serial
            self._held.clear()
            self._kept.clear()
            self._partitions.clear()
            self._summed.clear()
            self.source.refresh()

    def forget(self) -> None:
        """What a worker that was started again knows: nothing."""
        self._held.clear()
        self._kept.clear()
        self._partitions.clear()
        self._past.forget()
        self._summed.clear()

    @property
    def full_size(self) -> int:
        """Bytes of a whole row."""
        return self.rows.shape[1] * self.rows.dtype.itemsize

    def size(self, order: Order) -> int:
        """Payload bytes of the answer to ``order``, unless it is a skip or a notice; with a codec, at most."""
        if order.block is None:
            return self.full_size
        length = order.block.stop - order.block.start
        if order.codec is not None:
            return order.codec.size(length, self.like.element_size())
        return length * self.rows.dtype.itemsize

    def load(self, order: Order, later: Collection[Order] = ()) -> float:
        """Partitions that ``order`` makes this worker compute: all, but those another order has left for it.

        Those of which only a block is needed, by this order and ``later`` ones of its message, count by their cost;
        past gradients count if they are not remembered.
        """
        more = self._past.missing(order)
        if self._direct(order):
            return float(len(order.combination) + more)
        there = self._still_wanted(order) if order.running else {}
        fresh = [partition for partition in order.combination if partition not in there and not self._knows(partition)]
        return float(sum(self._cost(self._needed(order, partition, later)) for partition in fresh) + more)

    def _needed(self, order: Order, partition: int, later: Collection[Order]) -> Block | None:
        """The coordinates of a partition's gradient that are to be computed now; None: all."""
        if self.source.separable or order.block is None:
            return order.block
        blocks = [order.block]
        for other in later:
            if other.serial == order.serial and partition in other.combination:
                if other.block is None:
                    return None
                blocks.append(other.block)
        return Block(min(own.start for own in blocks), max(own.stop for own in blocks))

    def _cost(self, block: Block | None) -> float:
        return 1.0 if block is None else self.source.cost(block)

    def payload(self, order: Order, sent: int | None) -> Tensor | None:
        """The ``sent`` bytes of the answer to ``order``, where they lie in its row; None: nothing was sent."""
        if sent is None:
            return None
        begin = self._begin_of(order)
        return self.rows[order.row].view(torch.uint8)[begin : begin + sent]

    def carry_out(
        self, order: Order, number: int, end_of_partition: EndOfPartition, later: Collection[Order] = ()
    ) -> Answer | None:
        """The answer to ``order`` in iteration ``number``, or None if it was abandoned on the way.

        ``later`` are the orders of the same message still to come.

        Raises:
            MissingError: the memory that the order names is not known here.
        """
        self.begin(order.serial)
        self._past.begin(order)
        self._settle(order)
        if not order.combination:
            if order.hold:
                return Answer(order, None, np.empty((0, self.source.statistics)))
            vector = self._like(self.source.length).zero_()
            return self._answer(order, number, vector, np.empty((0, self.source.statistics)))
        if order.at is not None:
            return self._again(order, order.at, end_of_partition)
        if order.running:
            return self._running(order, number, end_of_partition)
        if self._at_once(order):
            return self._hold(order, number, end_of_partition)
        if self._direct(order):
            return self._straight(order, number, end_of_partition)
        return self._through_scratch(order, number, end_of_partition, later)

    def _again(self, order: Order, at: Occasion, end_of_partition: EndOfPartition) -> Answer | None:
        """What was ordered in an earlier iteration; its gradients are no other order's."""
        self._partitions.clear()
        with self._past.visit(at.version):
            if self._direct(order):
                return self._straight(order, at.number, end_of_partition)
            return self._through_scratch(order, at.number, end_of_partition, ())

    def _direct(self, order: Order) -> bool:
        kept = order.hold or order.running
        plain = order.codec is None and order.block is None and not kept and self.layout.fold == 1
        alone = not order.subtract and order.remember is None
        return plain and alone and order.combination.real and self.rows.dtype == self.like.dtype

    def _at_once(self, order: Order) -> bool:
        """Whether what is to be held can be computed straight into the buffer in which it is."""
        if not order.hold or order.subtract or order.compare is not None or order.remember is not None:
            return False
        return list(order.combination.values()) == [1.0] and not self._knows(next(iter(order.combination)))

    def _hold(self, order: Order, number: int, end_of_partition: EndOfPartition) -> Answer | None:
        (partition,) = order.combination
        vector = self._like(self.source.length)
        statistics = self.source.accumulate(number, partition, 1.0, vector, True)[None]
        self.source.finish(vector)
        self.computed += 1
        if not end_of_partition(order):
            return None
        self._held[order.slot], self._kept[partition] = Held(order.combination, vector, statistics), order.slot
        return Answer(order, None, statistics)

    def _straight(self, order: Order, number: int, end_of_partition: EndOfPartition) -> Answer | None:
        out = self.rows[order.row]
        statistics = np.empty((len(order.combination), self.source.statistics))
        for index, (partition, coefficient) in enumerate(order.combination.items()):
            assert isinstance(coefficient, float)
            statistics[index] = self.source.accumulate(number, partition, coefficient, out, index == 0)
            self.computed += 1
            if not end_of_partition(order):
                return None
        self.source.finish(out)
        out[self.source.length :].zero_()
        found = self._past.compare(order, out, self._counting(order, end_of_partition))
        if found is None:
            return None
        return Answer(order, out.shape[0] * out.element_size() if found.send else None, statistics, found.change)

    def _through_scratch(
        self, order: Order, number: int, end_of_partition: EndOfPartition, later: Collection[Order]
    ) -> Answer | None:
        needed: set[int] = set()
        if not (self.source.separable and order.block is not None):  # else a later block costs no more by itself
            needed = {j for other in later if other.serial == order.serial for j in other.combination}
        # What is held is a gradient as it is; what is sent may be packed or folded.
        whole = self.source.length if order.hold else self.layout.width(self.source.length)
        start, stop = (0, whole) if order.block is None or order.hold or self.layout.packed else order.block
        ends = self.source.length if self.layout.fold > 1 else stop
        vector = self._like(stop - start).zero_()
        counting = self._counting(order, end_of_partition)
        # What is compared is the result before anything is taken off it.
        apart = order.subtract and order.compare is not None and order.compare.reference != order.subtract
        whole_vector = torch.zeros_like(vector) if apart else vector
        statistics = np.empty((len(order.combination), self.source.statistics))
        for index, (partition, coefficient) in enumerate(order.combination.items()):
            fresh = not self._knows(partition)
            block = self._needed(order, partition, later)
            gradient, statistics[index] = self._gradient(number, partition, block, keep=partition in needed)
            if fresh and not end_of_partition(order, self._cost(block)):
                return None
            if order.remember is not None:
                # Not before: an order that is not wanted any more may have read parameters in the middle of a step.
                self._past.remember(partition, order.remember, number, gradient)
            if whole_vector is not vector:
                add(whole_vector, gradient, coefficient, self.source.length)
            change = self._past.change(order, partition, coefficient, gradient, counting)
            if change is None:
                return None
            add(vector, change[start:ends], coefficient, self.source.length)
        for partition in [j for j in self._partitions if j not in needed]:
            del self._partitions[partition]
        if order.hold:
            self._held[order.slot] = Held(order.combination, vector, statistics)
            if list(order.combination.values()) == [1.0]:
                self._kept[next(iter(order.combination))] = order.slot
            return Answer(order, None, statistics)
        found = self._past.compare(order, whole_vector, counting)
        if found is None:
            return None
        if not found.send:
            return Answer(order, None, statistics, found.change)
        return self._answer(order, number, vector, statistics, start, found.change)

    def _counting(self, order: Order, end_of_partition: EndOfPartition) -> Callable[[], bool]:
        """Counts a past gradient that was computed again, and says whether ``order`` is still wanted."""

        def counting() -> bool:
            self.computed += 1
            return end_of_partition(order)

        return counting

    def _gradient(self, number: int, partition: int, block: Block | None, keep: bool) -> tuple[Tensor, Floats]:
        """A partition's gradient, of which ``block`` is right, and the rest may be anything."""
        if partition in self._partitions:
            return self._partitions[partition]
        if self._knows(partition):
            held = self._held[self._kept[partition]]
            return held.vector, held.statistics[0]
        if keep:
            out = self._like(self.source.length)
        else:
            if self._scratch is None:
                self._scratch = self._like(self.source.length)
            out = self._scratch
        statistics = self.source.accumulate(number, partition, 1.0, out, True, block)
        self.source.finish(out)
        self.computed += self._cost(block)
        if keep:
            self._partitions[partition] = (out, statistics)
        return out, statistics

    def _knows(self, partition: int) -> bool:
        """Whether the partition's gradient lies here, from another order of this iteration."""
        return partition in self._partitions or self._kept.get(partition) in self._held

    def _settle(self, order: Order) -> None:
        """What was granted is added to the running sum, and what was refused is let go."""
        for slot in order.refused:
            self._held.pop(slot, None)
        for slot in order.granted:
            held = self._held.pop(slot, None)
            if held is not None:
                self._add(held.combination, held.vector, held.statistics)

    def _add(
        self, combination: Combination, vector: Tensor, statistics: Floats, coefficient: Coefficient = 1.0
    ) -> None:
        """Adds coefficient·vector, which is ``combination``, to the running sum.

        What is in the sum already was withdrawn in between: the sum begins anew.
        """
        # While it is written nothing is in it: a sum that failed half way is not to be trusted.
        before, self._summed = self._summed, {}
        if self._sum is None:
            self._sum = self._like(self.source.length)
        if not before or not before.keys().isdisjoint(combination):
            before = {}
            self._sum.zero_()
        add(self._sum, vector, coefficient, self.source.length)
        for (partition, own), values in zip(combination.items(), statistics, strict=True):
            before[partition] = own, values
        self._summed = before

    def _still_wanted(self, order: Order) -> dict[int, tuple[Coefficient, Floats]]:
        """What is in the running sum; nothing, if something in it is not in the combination of ``order``."""
        agrees = all(order.combination.get(partition) == own for partition, (own, _) in self._summed.items())
        return self._summed if agrees else {}

    def _running(self, order: Order, number: int, end_of_partition: EndOfPartition) -> Answer | None:
        """The running sum, brought to the combination of ``order``."""
        self._summed = self._still_wanted(order)
        for partition, coefficient in order.combination.items():
            if partition in self._summed:
                continue
            fresh = not self._knows(partition)
            gradient, statistics = self._gradient(number, partition, None, keep=False)
            if fresh and not end_of_partition(order):
                return None
            self._add(Combination({partition: coefficient}), gradient, statistics[None], coefficient)
            self._held.pop(self._kept.get(partition, -1), None)
        assert self._sum is not None
        return self._answer(order, number, self._sum, np.array([self._summed[own][1] for own in order.combination]))

    def _answer(
        self,
        order: Order,
        number: int,
        vector: Tensor,
        statistics: Floats,
        begins: int = 0,
        change: float = float("nan"),
    ) -> Answer:
        """``vector`` holds the coordinates from ``begins`` on."""
        start, stop = order.block or (0, vector.shape[0])
        row, part = self.rows[order.row], vector[start - begins : stop - begins]
        if order.codec is None:
            row[start:stop].copy_(part)
            return Answer(order, part.shape[0] * row.element_size(), statistics, change)
        read = written = None
        if order.codec.remembers:
            if self.memory is None:
                raise ValueError(f"{order.codec!r} remembers, but the scheme's layout asks for no memory rows")
            known = order.memory >= 0
            written = self.memory.write(order.row, 1 - order.memory if known else 0)[start:stop]
            read = self.memory.read(order.row, order.memory)[start:stop] if known else torch.zeros_like(written)
        size, begin = order.codec.size(stop - start, vector.element_size()), self._begin_of(order)
        key = (self.seed, number, self.worker)
        count = getattr(order.codec, "clipped", None)
        clipped = 0 if count is None else count(part, read)
        sent = order.codec.encode(part, row[begin : begin + size], read, written, key)
        # A bool is an int in Python, but True is not one byte.
        bytes_sent = (size if sent else None) if isinstance(sent, bool) else sent
        return Answer(order, bytes_sent, statistics, change, clipped)

    def _begin_of(self, order: Order) -> int:
        """The byte of its row at which the answer begins."""
        if order.block is None or not order.block.start:
            return 0
        if order.codec is not None:
            return order.codec.size(order.block.start, self.like.element_size())
        return order.block.start * self.rows.dtype.itemsize

    def _like(self, size: int) -> Tensor:
        return self.like.new_empty(size)


def _load(codec: Codec, like: Tensor) -> None:
    """Codes a zero: what a codec loads or compiles for its first message would make an iteration late."""
    zero = like.new_zeros(1)
    memory = zero.clone() if codec.remembers else None
    out = torch.empty(codec.size(1, zero.element_size()), dtype=torch.uint8)
    codec.encode(zero, out, memory, None if memory is None else memory.clone(), (0, 0, 0))
