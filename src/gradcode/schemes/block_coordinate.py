"""Block coordinate gradient coding: later coordinates tolerate more stragglers, and slow workers' first blocks count.

Source: Wang, Cui, Li, Zou, Xiong 2023 (block_coordinate.md 2 and 3). Mapping of letters: their M samples are ours in an
iteration, their shards our partitions (or groups of neighbours), L, N and s as ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcode.codes import BlockCode
from gradcode.protocol import Abandon, Block, Floats, Iteration, Layout, Order, Reply, Scheme, Source
from gradcode.schemes.coded import Coded
from gradcode.schemes.decoding import weighted_sum
from gradcode.schemes.registry import scheme

if TYPE_CHECKING:
    from torch import Tensor


class BlockCoordinate:
    """Every worker sends block after block, each as soon as it is ready; each is decoded by a code of its own.

    A block that tolerates n stragglers is there when N − n workers have sent it, or fewer where they can be decoded.
    From then on nobody computes it any more; when all are there the iteration ends.

    Where blocks by themselves cost no more than together (linear and logistic regression), a worker computes them one
    by one, for level n on n + 1 partitions (block_coordinate.md 2). Through a network a backward pass begins at the
    output, so a worker goes partition by partition: of its first one it computes everything, of the (n + 1)-th only the
    blocks from level n on, the ones near the output (block_coordinate.md 16.10).

    Args:
        code: of :func:`gradcode.codes.block`; Σ x_n is the number of parameters.
        source: the objective, asked what blocks cost, for :meth:`duration`; None: as if every coordinate cost the same
            and were computed by itself.
    """

    deadline: float | None = None
    error = float("nan")
    exact = False
    done = True

    def __init__(self, code: BlockCode, source: Source | None = None) -> None:
        self.code = code
        self.workers, self.partitions = code.workers, code.partitions
        self._blocks = [Block(level.start, level.stop) for level in code.levels]
        self._length = self._blocks[-1].stop
        if source is not None and source.length != self._length:
            raise ValueError(f"{code!r} has {self._length} coordinates, the objective has {source.length}")
        self._codes = [Coded(level.code) for level in code.levels]
        self._count = len(self._blocks)
        self.layout = Layout(rows=self.workers, slots=self.workers * self._count, length=self._length)
        self._loads = self._costs(source)
        self._arrived: list[set[int]] = []
        self._left: set[int] = set()
        self._iteration: Iteration | None = None

    def __repr__(self) -> str:
        return f"block_coordinate({self.code!r})"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    def start(self, iteration: Iteration) -> Sequence[Order | Abandon]:
        self.done, self._iteration = False, iteration
        self._arrived = [set() for _ in self._blocks]
        self._left = set(range(self._count))
        shares = [code._combinations(iteration.target) for code in self._codes]
        return [
            Order(worker, iteration.serial, self._slot(worker, level), worker, shares[level][worker], block)
            for worker in iteration.workers
            for level, block in enumerate(self._blocks)
        ]

    def receive(self, reply: Reply) -> Sequence[Order | Abandon]:
        assert self._iteration is not None
        worker, level = divmod(reply.order.slot, self._count)
        self._arrived[level].add(worker)
        if level not in self._left or not self._codes[level].suffice(self._arrived[level], self._iteration):
            return ()
        self._left.discard(level)
        self.done = not self._left
        others = (each for each in self._iteration.workers if each not in self._arrived[level])
        return [Abandon(tuple(self._slot(each, level) for each in others))]

    def lose(self, worker: int) -> Sequence[Order | Abandon]:
        return ()

    def expire(self) -> Sequence[Order | Abandon]:
        """Least squares of every block that anybody has sent."""
        self.done = all(self._arrived)
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        assert self._iteration is not None
        self.error, self.exact = 0.0, True
        for code, block, arrived in zip(self._codes, self._blocks, self._arrived, strict=True):
            weights, error, exact = code._weights(arrived, self._iteration)
            weighted_sum(rows[:, block.start : block.stop], np.asarray(weights, dtype=np.float64), out[slice(*block)])
            # Of all blocks together: by Minkowski's inequality no block's bound is exceeded.
            self.error, self.exact = max(self.error, error), self.exact and exact

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, N) per message -> (samples,).

        At most the runtime of block_coordinate.md 3, where a worker does not skip what can be decoded already. Equal,
        draw by draw, to the event-by-event simulation with instant abandoning, if a block's message takes as long as a
        whole row's.
        """
        pace = compute[:, :, 0]
        begin, done = np.zeros(pace.shape), np.zeros(pace.shape, dtype=np.intp)
        times, everyone = np.zeros(len(pace)), np.arange(self.workers)
        for level, code in enumerate(self._codes):
            finish = begin + self._loads[everyone, done, level] * pace + communicate
            decoded = code.completion(np.where(np.isnan(finish), np.inf, finish))[:, None]
            times = np.maximum(times, decoded[:, 0])
            # Who has not ended when the block can be decoded goes on to the next one, or does not even begin.
            begin = np.where(finish <= decoded, finish, np.maximum(begin, decoded))
            done = np.where(finish <= decoded, level + 1, done)
        return times

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{self!r} keeps no state between iterations, got {sorted(state)}")

    def _slot(self, worker: int, level: int) -> int:
        return worker * self._count + level

    def _costs(self, source: Source | None) -> Floats:
        """(N, levels + 1, levels) units of load of each worker's blocks, after so many levels and no more."""
        loads = np.zeros((self.workers, self._count + 1, self._count))
        for worker in range(self.workers):
            held = [len(code.shares[worker]) for code in self._codes]
            for level, block in enumerate(self._blocks):
                if source is None or source.separable:
                    share = (block.stop - block.start) / self._length if source is None else source.cost(block)
                    loads[worker, :, level] = held[level] * share
                else:
                    # Partitions of lower levels are held by higher ones: nothing is computed twice.
                    new = held[level] - np.array([0, *held])
                    loads[worker, :, level] = new * source.cost(Block(block.start, self._length))
        return loads


@scheme(
    "block_coordinate",
    summary="blocks of coordinates, each with a code of its own: what slow workers have done counts",
    trade_off="exact and quicker than any single code; workers hold up to all partitions, and send a message per block",
)
def block_coordinate(code: BlockCode, source: Source | None = None) -> BlockCoordinate:
    """Optimised block coordinate gradient coding; see :class:`BlockCoordinate`.

    Raises:
        ValueError: the objective has another number of coordinates than the code.
    """
    return BlockCoordinate(code, source)
