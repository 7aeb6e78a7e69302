"""Sequential gradient coding: what too many stragglers left undone is done again a few iterations later.

Source: Krishnan, Ebrahimi and Khisti 2023 (arXiv 2211.13802), SR-SGC, *selective repetition*, of which abstract and
code were read (gradient_codes.md 5). Mapping of letters: their n workers are our N, their rounds our iterations. Their
multiplexed scheme (M-SGC) is not here. Where the pattern leaves the model the paper waits for everybody in that round;
here nobody is waited for before a job is due (OURS), and an iteration also ends when nothing more is needed (OURS).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcode import codes
from gradcode.codes import checks
from gradcode.protocol import Action, Floats, Iteration, Keep, Layout, Occasion, Order, Reply, Scheme, Version
from gradcode.schemes.coded import Coded
from gradcode.schemes.registry import scheme

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class _Job:
    """The gradient of one iteration: its own once it is decoded, until then the rows that have come of it."""

    occasion: Occasion
    gradient: Tensor | None = None
    rows: dict[int, Tensor] = field(default_factory=dict)
    quality: list[Any] = field(default_factory=list)  # of the gradient: its error, and whether it is exact


class SelectiveRepetition:
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

    Raises:
        ValueError: an argument is out of its range.

    >>> SelectiveRepetition(workers=8, burst=1, window=2, stragglers=4).code
    fractional_repetition(workers=8, stragglers=2, partitions=8)
    """

    error = float("nan")
    exact = False
    done = True

    def __init__(
        self,
        workers: int,
        burst: int,
        window: int,
        stragglers: int,
        partitions: int | None = None,
        patience: float = 1.0,
    ) -> None:
        checks.integer("burst", burst, 1)
        if (checks.integer("window", window, burst + 1) - 1) % burst:
            raise ValueError(
                f"window={window} must be one above a multiple of burst={burst}: for example "
                f"{window - (window - 1) % burst}"
            )
        checks.integer("stragglers", stragglers, 1, checks.integer("workers", workers, 2) - 1)
        if not 0 <= patience < float("inf"):
            raise ValueError(f"patience={patience!r} must be 0 or more: the share of the first reply's time to wait on")
        self.workers, self.burst, self.window, self.stragglers = workers, burst, window, stragglers
        self.patience = patience
        tolerance = -(-burst * stragglers // (window - 1 + burst))
        self.code = codes.fractional_repetition(workers, tolerance, workers if partitions is None else partitions)
        self._rows = Coded(self.code)
        self.partitions = self._rows.partitions
        self.layout = Layout(rows=workers, slots=workers, kept=burst + 1, stale=True)
        self.deadline: float | None = None
        self._jobs: deque[_Job] = deque()  # those of the last B iterations
        self._count = 0  # numbers what is kept
        self._job = _Job(Occasion(Version(0, 0), 0))  # of this iteration
        self._repeating: frozenset[int] = frozenset()
        self._came: set[int] = set()
        self._open: set[int] = set()
        self._missed = [0] * workers  # iterations on end that each has not answered
        self._late = False
        self._iteration: Iteration | None = None

    def __repr__(self) -> str:
        partitions = "" if self.partitions == self.workers else f", partitions={self.partitions}"
        patience = "" if self.patience == 1.0 else f", patience={self.patience}"
        return (
            f"sequential(workers={self.workers}, burst={self.burst}, window={self.window}, "
            f"stragglers={self.stragglers}{partitions}{patience})"
        )

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def due(self) -> int | None:
        """The iteration whose gradient this one gives; None: it is one of the first B."""
        return self._jobs[0].occasion.number if len(self._jobs) == self.burst else None

    @property
    def repeating(self) -> tuple[int, ...]:
        """The workers that do their part of the job that is due, in this iteration or the last one."""
        return tuple(sorted(self._repeating))

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._count += 1
        self._iteration = iteration
        # Of the entries the jobs at hand use B.
        used = {job.occasion.version.entry for job in self._jobs}
        entry = next(entry for entry in range(self.burst + 1) if entry not in used)
        self._job = _Job(Occasion(Version(entry, self._count), iteration.number))
        self.done, self.deadline, self._late, self._came = False, None, False, set()
        orders = [order for order in self._rows.start(iteration) if isinstance(order, Order)]
        self._open = {order.worker for order in orders}
        self._repeating = self._to_repeat(self._open.difference(iteration.away))
        again = None if self.due is None else self._jobs[0].occasion
        return [
            Keep(self._job.occasion.version),
            *(replace(order, at=again) if order.worker in self._repeating else order for order in orders),
        ]

    def receive(self, reply: Reply) -> Sequence[Action]:
        if self.deadline is None:
            self.deadline = (1 + self.patience) * reply.time
        self._came.add(reply.order.worker)
        self._open.discard(reply.order.worker)
        self._judge()
        return ()

    def lose(self, worker: int) -> Sequence[Action]:
        """A straggler; its row comes if it is back in time."""
        self._open.discard(worker)
        self._judge()
        return ()

    def expire(self) -> Sequence[Action]:
        self._late = True
        self._judge()
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        import torch

        length = out.shape[0]
        assert self._iteration is not None
        fresh = self._came - self._repeating
        if self.code.decodable(fresh):
            self._job.gradient = torch.empty_like(out)
            _, *self._job.quality = self._rows.decode(fresh, self._iteration, rows, self._job.gradient)
        else:  # the next iteration writes over these rows
            self._job.rows = {worker: rows[worker, :length].clone() for worker in fresh}
        self._missed = [0 if worker in self._came else count + 1 for worker, count in enumerate(self._missed)]
        self._jobs.append(self._job)
        if len(self._jobs) <= self.burst:
            out.zero_()
            self.error, self.exact = 0.0, True
            return
        job = self._jobs.popleft()
        if job.gradient is not None:
            out.copy_(job.gradient)
        else:
            table = rows.new_empty(self.workers, length)
            late = {worker: rows[worker, :length] for worker in self._came & self._repeating}
            for worker, row in (job.rows | late).items():
                table[worker] = row
            _, *job.quality = self._rows.decode({*job.rows, *late}, self._iteration, table, out)
        self.error, self.exact = job.quality

    def _to_repeat(self, there: set[int]) -> frozenset[int]:
        """Those that do their part of the job that is due: as many as complete N − s of its rows.

        Who has not answered for long is asked last (OURS; the paper takes any).
        """
        if self.due is None or self._jobs[0].gradient is not None:
            return frozenset()
        have = self._jobs[0].rows.keys()
        owing = self.workers - self.code.tolerance - len(have)
        return frozenset(sorted(there.difference(have), key=lambda worker: (self._missed[worker], worker))[:owing])

    def _judge(self) -> None:
        if self.due is not None and not self._decodable(self._jobs[0]):
            return
        settled = self._late or not self._open or self.code.decodable(self._came - self._repeating)
        self.done = bool(self._came) and settled

    def _decodable(self, job: _Job) -> bool:
        return job.gradient is not None or self.code.decodable(job.rows.keys() | (self._came & self._repeating))

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
        """The jobs of the last B iterations: gradients, or rows, and where their parameters are kept."""
        jobs = [
            {
                "occasion": [*job.occasion.version, job.occasion.number],
                "gradient": None if job.gradient is None else job.gradient.clone(),
                "workers": list(job.rows),
                "rows": [row.clone() for row in job.rows.values()],
                "quality": list(job.quality),
            }
            for job in self._jobs
        ]
        return {"jobs": jobs, "count": self._count, "missed": list(self._missed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the jobs of ``state``.

        Raises:
            ValueError: it is not that of this scheme.
        """
        if "jobs" not in state or len(state["jobs"]) > self.burst:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self._jobs.clear()
        for own in state["jobs"]:
            entry, version, number = own["occasion"]
            gradient = None if own["gradient"] is None else own["gradient"].clone()
            rows = dict(zip(own["workers"], (row.clone() for row in own["rows"]), strict=True))
            self._jobs.append(_Job(Occasion(Version(entry, version), number), gradient, rows, list(own["quality"])))
        self._missed = list(state["missed"])
        # Workers may know what was kept in a run that was given up.
        self._count = max(self._count, int(state["count"]))


@scheme(
    "sequential",
    summary="codes for few stragglers; what more of them left undone is done again a few iterations later",
    trade_off="less work than a code for all stragglers; the gradient is that of `burst` iterations before",
)
def sequential(
    workers: int, burst: int, window: int, stragglers: int, partitions: int | None = None, patience: float = 1.0
) -> SelectiveRepetition:
    """Sequential gradient coding by selective repetition; see :class:`SelectiveRepetition`.

    Args:
        workers: N.
        burst: B, iterations on end that a worker may straggle, and the delay of the gradient.
        window: W, in any so many iterations at most ``stragglers`` workers straggle; W − 1 is a multiple of B.
        stragglers: λ.
        partitions: K; None: N.
        patience: a worker slower than 1 + patience times the fastest is a straggler.

    Raises:
        ValueError: an argument is out of its range.
    """
    return SelectiveRepetition(workers, burst, window, stragglers, partitions, patience)
