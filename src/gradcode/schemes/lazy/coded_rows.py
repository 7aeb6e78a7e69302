"""LAG whose voters are the rows of a gradient code, so that not all that are selected must be waited for.

Source: the timing called wait_F in lagc.md 5, after a function that the released script of Zhu, Zhang, Simeone, Wang
2022 carries unused: of n selected workers with r partitions each, the min(n, M − r + 1)-th is waited for. What is sent,
and why so many suffice, is OURS.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gradcode.codes import GradientCode
from gradcode.protocol import Floats
from gradcode.schemes.coded import Coded
from gradcode.schemes.lazy.groups import Groups
from gradcode.schemes.lazy.rule import Rule
from gradcode.schemes.lazy.voters import Smoothness, Table

if TYPE_CHECKING:
    from torch import Tensor


class CodedRows(Groups):
    """Worker i votes with its row c_i = Σ_j B_ij·g_j; the gradient is Σ_i a_i·ĉ_i of the rows sent last, with aᵀB = 1ᵀ.

    The master selects rows as LAG does, a row being as smooth as |a_i|·Σ_j |B_ij|·L_j. If the new rows alone can be
    decoded, their decoding is the gradient, and the rest of those selected need not be waited for.

    Args:
        code: B, real; N workers.
        rule: its voters are the workers.
        smoothness: L_j of the partitions' own objectives, one number or (K,); None: estimated of each row.
        minibatches, oldest, deadline: as those of :class:`Groups`.

    Raises:
        ValueError: the code is complex, or its messages are shorter than a gradient.
    """

    def __init__(
        self,
        code: GradientCode,
        rule: Rule,
        smoothness: Floats | None = None,
        *,
        minibatches: bool = True,
        oldest: int | None = None,
        deadline: float | None = None,
    ) -> None:
        if np.iscomplexobj(code.encoding):
            raise ValueError(f"{code!r} has complex coefficients; mode='wait_F' needs a real code")
        if code.reduction > 1:
            raise ValueError(
                f"{code!r} has shorter messages (reduction={code.reduction}); lazy schemes need whole ones"
            )
        encoding = np.asarray(code.encoding, dtype=np.float64)
        weights = np.asarray(np.linalg.lstsq(encoding.T, np.ones(code.partitions), rcond=None)[0], dtype=np.float64)
        values = None
        if smoothness is not None:
            values = np.abs(weights) * (np.abs(encoding) @ np.broadcast_to(smoothness, code.partitions))
            values = np.maximum(values, np.finfo(np.float64).tiny)  # a row of weight 0 is never sent again
        super().__init__(
            code.workers,
            1,
            rule,
            "server",
            Smoothness(code.workers, None if values is None else values.tolist()),
            minibatches=minibatches,
            oldest=oldest,
            partitions=code.partitions,
            deadline=deadline,
        )
        self.code = code
        self._coded = Coded(code)
        self._shards = self._coded.shares
        self._table = Table(weights)
        self._decoded = float("nan")  # error of the last decoding

    def __repr__(self) -> str:
        return f"lagc({self.code!r}, mode='wait_F', {self.rule!r}{self._options})"

    @property
    def awaits(self) -> int:
        return 1

    @property
    def _fresh(self) -> bool:
        """Whether the new rows can be decoded."""
        assert self._iteration is not None
        return self._coded.suffice(set(self._replies), self._iteration)

    def _settle(self) -> None:
        super()._settle()
        self.done = self.done or self._fresh

    def _sum(self, rows: Tensor, out: Tensor) -> None:
        super()._sum(rows, out)
        if self._fresh:
            assert self._iteration is not None
            _, self._decoded, _ = self._coded.decode(set(self._replies), self._iteration, rows, out)

    def _judge(self, rows: Tensor, out: Tensor, norm: float) -> None:
        super()._judge(rows, out, norm)
        if self._fresh and self._usual:
            self.exact, self.error = True, self._decoded

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Of an iteration in which the same rows are selected; see :meth:`Groups.duration`."""
        finish = np.full(compute.shape[:2], np.inf)
        for worker, load in zip(self.asked, self.loads, strict=True):
            finish[:, worker] = load * compute[:, worker, 0] + communicate[:, worker]
        return np.minimum(super().duration(compute, communicate), self._coded.completion(finish))
