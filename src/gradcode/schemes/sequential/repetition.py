"""SR-SGC, *selective repetition*: rows that too many stragglers left undone are computed B iterations later."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcode import codes
from gradcode.codes import checks
from gradcode.protocol import Floats, Iteration, Occasion, Order, Version
from gradcode.schemes.coded import Coded
from gradcode.schemes.sequential.jobs import Sequential, check_model, described

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class _Job:
    """The gradient of one iteration: its own once it is decoded, until then the rows that have come of it."""

    occasion: Occasion
    gradient: Tensor | None = None
    rows: dict[int, Tensor] = field(default_factory=dict)
    quality: tuple[float, bool] = (float("nan"), False)  # of the gradient: its error, and whether it is exact


class SelectiveRepetition(Sequential[_Job]):
    """Gradient codes of few stragglers, whose undecoded iterations are repaired B iterations later.

    Job t is the gradient of iteration t. Its rows are those of a gradient code that stands s stragglers, fewer than
    there may be. If more than s are missing at the end of iteration t, then in iteration t + B as many of the workers
    that owe it as are needed compute their row of job t, at the parameters and samples of iteration t, in place of
    that of job t + B. So the load is (s + 1)/N where a code for λ stragglers needs (λ + 1)/N.

    **The gradient of iteration t is that of job t − B**: taken at the parameters of B iterations before. In the paper
    B + 1 or more models are trained in turn, none of which sees a delay; a session has one, and its training is that
    of gradient descent with delay B. In the first B iterations the gradient is 0.

    An iteration ends when the jobs t − B and t can be decoded; or once (1 + ``patience``) times the time of its first
    reply has passed, and job t − B can be decoded; that is waited for. Under the bursty model, at most λ different
    stragglers within any W iterations and no worker over more than B iterations on end, it is never waited for.

    Args:
        workers: N.
        burst: B.
        window: W, with W − 1 a multiple of B.
        stragglers: λ < N; s = ⌈Bλ/(W − 1 + B)⌉.
        partitions: K, as of :func:`gradcode.codes.fractional_repetition`, the code; None: N.
        patience: μ, of who is a straggler: slower than 1 + μ times the fastest.
        dtype: of the messages, for the bound of the error.

    Raises:
        ValueError: an argument is out of its range.

    >>> SelectiveRepetition(workers=4, burst=1, window=2, stragglers=2).load
    0.5
    """

    def __init__(
        self,
        workers: int,
        burst: int,
        window: int,
        stragglers: int,
        partitions: int | None = None,
        patience: float = 1.0,
        *,
        dtype: str = "float32",
    ) -> None:
        check_model(workers, burst, window, stragglers, checks.integer("workers", workers, 2) - 1)
        if (window - 1) % burst:
            raise ValueError(
                f"window={window} must be one above a multiple of burst={burst}: for example "
                f"{window - (window - 1) % burst}"
            )
        self.burst, self.window, self.stragglers = burst, window, stragglers
        tolerance = -(-burst * stragglers // (window - 1 + burst))
        total = workers if partitions is None else partitions
        self.code = codes.fractional_repetition(workers, tolerance, total, dtype=dtype)
        super().__init__(workers, burst, patience, packed=False, orders=1)
        self._rows = Coded(self.code)
        self.partitions = self._rows.partitions
        self._job = self._begin(Occasion(Version(0, 0), 0))  # of this iteration
        self._repeating: frozenset[int] = frozenset()
        self._missed = [0] * workers  # iterations on end that each has not answered

    def __repr__(self) -> str:
        return described(self, *([f"partitions={self.partitions}"] if self.partitions != self.workers else []))

    @property
    def repeating(self) -> tuple[int, ...]:
        """The workers that do their part of the job that is due, in this iteration or the last one."""
        return tuple(sorted(self._repeating))

    @property
    def load(self) -> float:
        return self.code.load / self.partitions

    def _begin(self, occasion: Occasion) -> _Job:
        return _Job(occasion)

    def _orders(self, iteration: Iteration) -> list[Order]:
        orders = [order for order in self._rows.start(iteration) if isinstance(order, Order)]
        self._repeating = self._to_repeat({order.worker for order in orders}.difference(iteration.away))
        again = None if self.due is None else self._jobs[0].occasion
        return [replace(order, at=again) if order.worker in self._repeating else order for order in orders]

    def _to_repeat(self, there: set[int]) -> frozenset[int]:
        """Those that do their part of the job that is due: as many as complete N − s of its rows.

        Who has not answered for long is asked last (OURS; the paper takes any).
        """
        if self.due is None or self._jobs[0].gradient is not None:
            return frozenset()
        have = self._jobs[0].rows.keys()
        owing = self.workers - self.code.tolerance - len(have)
        return frozenset(sorted(there.difference(have), key=lambda worker: (self._missed[worker], worker))[:owing])

    def _enough(self) -> bool:
        if self.due is None or self._jobs[0].gradient is not None:
            return True
        return self.code.decodable(self._jobs[0].rows.keys() | (self._came & self._repeating))

    def _complete(self) -> bool:
        return self.code.decodable(self._came - self._repeating)

    def _book(self, rows: Tensor, out: Tensor) -> None:
        import torch

        assert self._iteration is not None
        fresh = self._came - self._repeating
        if self.code.decodable(fresh):
            self._job.gradient = torch.empty_like(out)
            found = self._rows.decode(fresh, self._iteration, rows, self._job.gradient)
            self._job.quality = found.error, found.exact
        else:  # the next iteration writes over these rows
            self._job.rows = {worker: rows[worker, : out.shape[0]].clone() for worker in fresh}
        self._missed = [0 if worker in self._came else count + 1 for worker, count in enumerate(self._missed)]

    def _finish(self, job: _Job, rows: Tensor, out: Tensor) -> tuple[float, bool]:
        if job.gradient is not None:
            out.copy_(job.gradient)
            return job.quality
        assert self._iteration is not None
        length = out.shape[0]
        table = rows.new_empty(self.workers, length)
        late = {worker: rows[worker, :length] for worker in self._came & self._repeating}
        for worker, row in (job.rows | late).items():
            table[worker] = row
        found = self._rows.decode({*job.rows, *late}, self._iteration, table, out)
        return found.error, found.exact

    # Beyond an iteration

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration before which no job is left undecoded; (samples, N, stages), (samples, N).

        One that has to repair a job takes longer where those that repeat their part are slow.
        """
        decodable = self._rows.duration(compute, communicate)
        first = np.array([len(held) for held in self.code.placement]) * compute[:, :, 0] + communicate
        ended: Floats = np.minimum(decodable, (1 + self.patience) * first.min(axis=1))
        return ended

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"missed": list(self._missed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._missed = list(state["missed"])

    def _saved(self, job: _Job) -> dict[str, Any]:
        return {
            "gradient": None if job.gradient is None else job.gradient.clone(),
            "workers": list(job.rows),
            "rows": [row.clone() for row in job.rows.values()],
            "quality": list(job.quality),
        }

    def _restored(self, occasion: Occasion, saved: dict[str, Any]) -> _Job:
        gradient = None if saved["gradient"] is None else saved["gradient"].clone()
        rows = dict(zip(saved["workers"], (row.clone() for row in saved["rows"]), strict=True))
        error, exact = saved["quality"]
        return _Job(occasion, gradient, rows, (error, exact))
