"""Gradient coding: every worker sends its row of an encoding matrix, and the master decodes as soon as it can."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradcode import codes
from gradcode.codes import GradientCode
from gradcode.codes.stability import roundoff
from gradcode.protocol import Floats, Iteration, Scheme
from gradcode.schemes.registry import scheme
from gradcode.schemes.rows import RowScheme, Weights


class Coded(RowScheme):
    """Stops at the first set of replies that ``code`` can decode, not at a fixed count.

    After ``deadline`` seconds it takes the least-squares gradient of what has arrived and reports its error.

    Args:
        code: which combinations the children send, and how they are decoded.
        deadline: seconds, or None.
        names: (K,) the numbers that the code's partitions have in the data, where they are only some of them; None: 0
            to K − 1.
        inner: the schemes of children that are edge nodes, None for a worker; empty: all are workers.

    >>> from gradcode import codes
    >>> Coded(codes.fractional_repetition(workers=6, stragglers=2))
    coded(fractional_repetition(workers=6, stragglers=2))
    """

    def __init__(
        self,
        code: GradientCode,
        deadline: float | None = None,
        *,
        names: Sequence[int] | None = None,
        inner: Sequence[Scheme | None] = (),
    ) -> None:
        encoding, names = code.encoding, range(code.partitions) if names is None else names
        shares = [
            {int(names[j]): tuple(own) if isinstance(own := encoding[child, j].tolist(), list) else own for j in held}
            for child, held in enumerate(code.placement)
        ]
        super().__init__(shares, deadline, packed=np.iscomplexobj(encoding), inner=inner, fold=code.reduction)
        self.partitions = 1 + max(map(int, names))
        self.code = code
        self._roundoff = roundoff(code.dtype)
        # A worker that holds nothing never answers, and is not missed.
        self._idle = frozenset(worker for worker, held in enumerate(code.placement) if not len(held))
        self._fewest = max(code.fewest - len(self._idle), 1)
        self._enough = max(code.workers - code.tolerance - len(self._idle), 1)

    def __repr__(self) -> str:
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        return f"coded({self.code!r}{deadline})"

    @property
    def fixed_weights(self) -> Floats | None:
        everybody = self.deadline is None and self._fewest == self.workers
        return np.asarray(self.code.decode(range(self.workers)).weights) if everybody else None

    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return len(arrived) >= self._fewest and self.code.decodable(self._idle | arrived)

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        decoding = self.code.decode(arrived)
        return Weights(decoding.weights, decoding.error, decoding.exact)

    def completion(self, finish: Floats) -> Floats:
        if self._fewest == self._enough and not self._idle:
            return np.asarray(np.partition(finish, self._enough - 1, axis=1)[:, self._enough - 1])
        # What can be decoded stays decodable when more arrives, so the first time is found by bisection.
        order = np.argsort(finish, axis=1, kind="stable")
        result = np.full(len(finish), np.inf)
        for sample, (times, workers) in enumerate(zip(finish, order, strict=True)):
            arrived = workers[: int(np.isfinite(times).sum())].tolist()
            low, high = 0, len(arrived)
            if not self._idle:
                low, high = min(self._fewest, high) - 1, min(self._enough, high)
            if high < self._enough and not self.code.decodable(self._idle.union(arrived)):
                continue
            while high - low > 1:
                middle = (low + high) // 2
                if self.code.decodable(self._idle.union(arrived[:middle])):
                    high = middle
                else:
                    low = middle
            result[sample] = times[arrived[high - 1]]
        return result


@scheme(
    "coded",
    summary="gradient coding: exact as soon as the replies can be decoded",
    trade_off="each worker computes s+1 times as much; no s stragglers can delay an iteration",
)
def coded(code: GradientCode, deadline: float | None = None) -> Coded:
    """Gradient coding with any :mod:`gradcode.codes` code; see :class:`Coded`.

    Raises:
        ValueError: ``deadline`` is not a positive number of seconds.
    """
    return Coded(code, deadline)


@scheme(
    "uncoded",
    summary="plain synchronous training: every partition on one worker, wait for all",
    trade_off="least work and exact; one slow worker delays everybody",
)
def uncoded(workers: int, partitions: int | None = None) -> Coded:
    """Waits for all: plain synchronous training.

    Raises:
        ValueError: as :func:`gradcode.codes.uncoded`.
    """
    return Coded(codes.uncoded(workers, partitions=partitions))
