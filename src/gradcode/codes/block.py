"""Block coordinate gradient coding: a code of its own for each block of coordinates, more tolerant along the way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import SupportsIndex

from gradcode.codes import checks
from gradcode.codes.code import GradientCode
from gradcode.codes.cyclic import cyclic_repetition


@dataclass(frozen=True, slots=True)
class Level:
    """The coordinates ``start`` to before ``stop``, which ``stragglers`` workers may leave out.

    Attributes:
        stragglers: s_l of these coordinates, the level n.
        start, stop: of the block.
        code: its gradient code, of N workers.
    """

    stragglers: int
    start: int
    stop: int
    code: GradientCode


class BlockCode:
    """Levels of redundancy along the coordinates (block_coordinate.md 2).

    Worker j holds partitions j, j+1, … (mod N) for its highest level, and of those the first n + 1 for level n.

    Attributes:
        sizes: (N,) x_n, how many coordinates tolerate n stragglers.
        workers, partitions: N and K.
        levels: those that are not empty, in the order in which a worker computes them.
        load: partitions that a worker must hold.
    """

    def __init__(self, sizes: tuple[int, ...], levels: tuple[Level, ...]) -> None:
        self.sizes, self.levels = sizes, levels
        self.workers, self.partitions = levels[0].code.workers, levels[0].code.partitions
        self.load = max(level.code.load for level in levels)

    def __repr__(self) -> str:
        few = {level.stragglers: level.stop - level.start for level in self.levels}
        return f"block(workers={self.workers}, partitions={self.partitions}, coordinates={few})"


def block(
    sizes: Sequence[SupportsIndex],
    workers: SupportsIndex | None = None,
    partitions: SupportsIndex | None = None,
    *,
    dtype: str = "float32",
    max_error: float | None = None,
) -> BlockCode:
    """Block coordinate gradient coding (Wang, Cui, Li, Zou, Xiong 2023; block_coordinate.md 2).

    Level n is the cyclic repetition code for n stragglers: uncoded for 0, the sum of everything for N − 1.
    Which sizes are best for given delays is a question of :mod:`gradcode.planning.block_coordinate`.

    Args:
        sizes: (N,) x_n ≥ 0: coordinates that tolerate n stragglers, the first ones of the vector first; Σ x_n = L.
        workers: N, if it is to be checked.
        partitions: K ≥ N, grouped into N runs of nearly equal size; N by default.
        dtype: of the messages.
        max_error: the largest accepted error bound of each level, as in `cyclic_repetition`.

    Raises:
        ValueError: a size is negative, all are 0, there is not one per worker, or a level's error bound passes
            ``max_error``.

    >>> code = block([4, 0, 6])
    >>> [(level.stragglers, level.start, level.stop) for level in code.levels], code.load
    ([(0, 0, 4), (2, 4, 10)], 3)
    """
    x = tuple(checks.integer(f"sizes[{n}]", size, 0) for n, size in enumerate(sizes))
    N = len(x)
    if workers is not None and checks.integer("workers", workers, 1) != N:
        raise ValueError(f"sizes of {N} levels must be as many as workers={workers}: levels 0 to N − 1")
    if not sum(x):
        raise ValueError(f"sizes={list(x)} must have a coordinate in at least one level")
    levels = []
    for n, (size, stop) in enumerate(zip(x, accumulate(x), strict=True)):
        if not size:
            continue
        try:
            code = cyclic_repetition(N, n, partitions, dtype=dtype, max_error=max_error)
        except ValueError as error:
            raise ValueError(f"sizes[{n}]={size} must be 0: {error}") from error
        levels.append(Level(n, stop - size, stop, code))
    return BlockCode(x, tuple(levels))
