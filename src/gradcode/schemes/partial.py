"""Partial stragglers with whole gradients: what a slow worker has finished counts, in one message, coded afterwards.

Source: Ramamoorthy, Meng, Girimaji 2024, of which the abstract and the authors' simulation notebook were read; the
protocol is RECONSTRUCTED from the notebook (block_coordinate.md 15). Mapping of letters: their m workers are our N,
their N chunks our K partitions, ℓ the parts of a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gradcode.codes import checks, chunks
from gradcode.codes.stability import EXACT, growth
from gradcode.protocol import Abandon, Combination, Floats, Iteration, Layout, Order, Reply, Scheme
from gradcode.schemes.decoding import folded_sum
from gradcode.schemes.registry import scheme

if TYPE_CHECKING:
    from torch import Tensor

Actions = list[Order | Abandon]

_AT_ONCE = 4_000_000  # times that are sorted together


class PartialStragglers:
    """Workers do chunk after chunk and say when each is done; then each sends one message of what it has.

    Each chunk is a partition. A worker keeps the gradients of the chunks it has finished, as many as its load. Once ℓ
    workers have finished every chunk, everybody stops. The master then knows who has finished what, and asks each of
    them for one message of ⌈L/ℓ⌉ coordinates, with coefficients made for just that; they give the sum. At ``deadline``
    it asks for the least squares of what is finished; if nothing is, of the first chunk that will be.

    A lost worker has forgotten what it held, so what it had finished is ordered again. If its message was asked for and
    has not come, the others' are void: they are asked anew, once every chunk has ℓ finishers again. That holds for
    ``repeats`` losses in an iteration. After further ones what was finished goes on to count, and a worker that is back
    computes again what its message needs; one that is gone for good is then missing for the rest of the iteration.

    Args:
        order: (N, K), the position from 1 at which a worker computes a chunk, 0 where it does not hold it; see
            :mod:`gradcode.codes.chunks`.
        parts: ℓ ≥ 1.
        deadline: seconds, or None.
        seed: of the matrix R that decodes.
        repeats: losses in one iteration after which what was finished is ordered again.
        notice: how long saying that a chunk is done takes, as a share of a message's time; for :meth:`duration` alone.
    """

    error = float("nan")
    exact = False
    done = True
    residual = float("nan")
    """Of the last messages asked for: sqrt(Σ_i max(ℓ − finishers of chunk i, 0)), the error of the coefficients."""

    def __init__(
        self,
        order: npt.ArrayLike,
        parts: int = 1,
        deadline: float | None = None,
        *,
        seed: int = 0,
        repeats: int = 3,
        notice: float = 0.0,
    ) -> None:
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        if not notice >= 0:
            raise ValueError(f"notice={notice!r} must be a share of a message's time, 0 or more")
        self.order = np.asarray(order, dtype=np.int64)
        self._sequence = _sequences(self.order)
        self.workers, self.partitions = self.order.shape
        self.shared = chunks.steady_matrix(self.order > 0, parts, seed)
        self.parts = self.shared.shape[1]
        self.deadline, self._notice = deadline, notice
        self._repeats = checks.integer("repeats", repeats, 0)
        self._load = max(map(len, self._sequence))
        # What is given at first, and again for each loss.
        each = sum(map(len, self._sequence)) + self.workers
        self.layout = Layout(rows=self.workers, slots=(1 + self._repeats) * each, fold=self.parts)
        self._single = [Combination({chunk: 1.0}) for chunk in range(self.partitions)]
        self._iteration: Iteration | None = None
        self._finished = np.zeros(self.order.shape, dtype=bool)
        self._open: dict[int, int] = {}  # slot of a held order -> its chunk
        self._asked: dict[int, int] | None = None  # worker -> slot of its message; None: nobody is asked yet
        self._waiting: set[int] = set()  # workers whose message has not come
        self._found: chunks.Coefficients | None = None
        self._late = False
        self._slots = self._losses = self._missing = 0

    def __repr__(self) -> str:
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        return (
            f"partial(workers={self.workers}, partitions={self.partitions}, load={self._load}, "
            f"parts={self.parts}{deadline})"
        )

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def awaits(self) -> int:
        """Replies that must still come at least; see :class:`gradcode.protocol.Scheme`."""
        if self._asked is not None:
            return max(1, len(self._waiting))
        return 1 if self._late else max(1, self._missing)

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Order | Abandon]:
        self.done, self._late, self._iteration = False, False, iteration
        self._finished[:] = False
        self._open, self._asked, self._waiting = {}, None, set()
        self._slots = self._losses = 0
        self._wanted = np.array([chunk for chunk in range(self.partitions) if chunk in iteration.target])
        self._count()
        return self._compute()

    def receive(self, reply: Reply) -> Sequence[Order | Abandon]:
        worker, slot = reply.order.worker, reply.order.slot
        if slot not in self._open:
            self._waiting.discard(worker)
            self.done = not self._waiting
            return ()
        chunk = self._open.pop(slot)
        self._missing -= int(self._finished[:, chunk].sum()) < self.parts
        self._finished[worker, chunk] = True
        return self._ask() if self._late or not self._missing else ()

    def lose(self, worker: int) -> Sequence[Order | Abandon]:
        if self._losses == self._repeats:
            # The driver gives again what is open, and a message computes again what it needs and nobody holds.
            return ()
        forgotten, void = self._finished[worker].copy(), worker in self._waiting
        self._finished[worker] = False
        if not void and (self._asked is not None or not forgotten.any()):
            return ()
        self._losses += 1
        self._count()
        if not void:
            return [self._hold(worker, chunk) for chunk in self._sequence[worker] if forgotten[chunk]]
        assert self._asked is not None
        actions: Actions = [Abandon(tuple(self._asked[each] for each in sorted(self._waiting)))]
        self._asked, self._waiting = None, set()
        return actions + (self._ask() if self._enough() else self._compute())

    def expire(self) -> Sequence[Order | Abandon]:
        """The least squares of what is finished."""
        self._late = True
        return self._ask() if self._asked is None and self._enough() else ()

    def _enough(self) -> bool:
        return bool(self._finished.any()) if self._late else not self._missing

    def _count(self) -> None:
        """How many finishers are missing, of all chunks together."""
        finishers = self._finished[:, self._wanted].sum(axis=0)
        self._missing = int(np.maximum(self.parts - finishers, 0).sum())

    def _slot(self) -> int:
        self._slots += 1
        return self._slots - 1

    def _hold(self, worker: int, chunk: int) -> Order:
        assert self._iteration is not None
        slot = self._slot()
        self._open[slot] = chunk
        return Order(worker, self._iteration.serial, slot, worker, self._single[chunk], hold=True)

    def _compute(self) -> Actions:
        """Orders for all that is wanted and not finished."""
        assert self._iteration is not None
        return [
            self._hold(worker, chunk)
            for worker in self._iteration.workers
            for chunk in self._sequence[worker]
            if chunk in self._iteration.target and not self._finished[worker, chunk]
        ]

    def _ask(self) -> Actions:
        """Everybody stops; whoever has finished something sends one message of it."""
        assert self._iteration is not None
        actions: Actions = [Abandon(tuple(self._open))] if self._open else []
        self._open = {}
        finished = self._finished[:, self._wanted]
        self._found = chunks.coefficients(finished, self.shared)
        self.residual = float(np.sqrt(self._missing))
        self._asked = {}
        for worker in np.flatnonzero(finished.any(axis=1)).tolist():
            mine = np.flatnonzero(finished[worker])
            values = self._found.values[mine, worker].tolist()
            message = Combination(dict(zip(self._wanted[mine].tolist(), map(tuple, values), strict=True)))
            slot = self._asked[worker] = self._slot()
            share = message.of(self._iteration.target)
            actions.append(Order(worker, self._iteration.serial, slot, worker, share))
        self._waiting = set(self._asked)
        return actions

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        assert self._asked is not None
        weights = np.zeros_like(self.shared)
        weights[list(self._asked)] = self.shared[list(self._asked)]
        folded_sum(rows, weights, out, self.layout.width(out.shape[0]))
        self._judge(rows, out)

    def _judge(self, rows: Tensor, out: Tensor) -> None:
        """The bound of :mod:`gradcode.codes.stability`, in norms of the ℓ × ℓ matrices that chunks go through."""
        import torch

        assert self._asked is not None and self._found is not None
        unit, coarse = torch.finfo(out.dtype).eps / 2, torch.finfo(rows.dtype).eps / 2
        messages = len(self._asked)
        rounding = growth(self.parts * self._load + messages + 2, unit)
        if rows.dtype != out.dtype:  # a message is rounded once more
            rounding = (1 + rounding) * (1 + coarse) - 1
        found, evaluation = self._found, growth(messages + 2, 2.0**-53)
        bounds = found.deviation + rounding * found.amplification + evaluation * (found.amplification + 1)
        self.error = float(bounds.max(initial=0.0))
        self.exact = not self._missing and bool(found.deviation.max(initial=0.0) <= EXACT)

    # How long it takes

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, N) per message -> (samples,).

        Everybody stops at max_i (the ℓ-th smallest over the holders j of w_j·O_ij), or at the deadline; then the
        slowest of those that have finished something brings its message. Equal, draw by draw, to the event-by-event
        simulation with instant abandoning if messages take no time, or those of all sizes as long (``notice=1``); else
        as far as a notice takes ``notice`` of a message's time.
        """
        pace, message = compute[:, :, 0], communicate[:, : self.workers]
        size = max(1, _AT_ONCE // int((self.order > 0).sum()))
        pieces = [
            self._durations(pace[begin : begin + size], message[begin : begin + size])
            for begin in range(0, len(pace), size)
        ]
        return np.concatenate([np.zeros(0), *pieces])

    def _durations(self, pace: Floats, message: Floats) -> Floats:
        notice = self._notice * message if self._notice else 0.0
        ends, time = np.empty((*pace.shape, self._load)), np.zeros(pace.shape)
        for position in range(self._load):  # one after the other, to be rounded as the events are
            time = ends[:, :, position] = time + pace + notice
        stop, last = self._covered(ends)
        first = np.where(self.order.any(axis=1), ends[:, :, 0], np.inf)
        everyone = np.arange(self.workers)
        # At equal times notices come by worker.
        takes_part = (first < stop[:, None]) | ((first == stop[:, None]) & (everyone <= last[:, None]))
        if self.deadline is not None:
            late = stop > self.deadline
            nothing = late & (first.min(axis=1) > self.deadline)
            takes_part[late] = first[late] <= self.deadline
            takes_part[nothing] = everyone == first[nothing].argmin(axis=1)[:, None]
            stop = np.where(late, np.maximum(self.deadline, first.min(axis=1)), stop)
        arrivals: Floats = np.where(takes_part, stop[:, None] + message, stop[:, None]).max(axis=1)
        return arrivals

    def _covered(self, ends: Floats) -> tuple[Floats, npt.NDArray[np.intp]]:
        """(samples,) when every chunk has ℓ finishers, and by whose notice; ``ends`` (samples, N, load)."""
        held = self.order > 0
        most = int(held.sum(axis=0).max())
        holders = np.argsort(~held, axis=0, kind="stable")[:most].T  # (K, most), by worker
        positions = np.take_along_axis(self.order.T, holders, axis=1)
        times = np.where(positions > 0, ends[:, holders, positions - 1], np.inf)
        place = np.argsort(times, axis=2, kind="stable")[:, :, self.parts - 1]
        covered = np.take_along_axis(times, place[:, :, None], axis=2)[:, :, 0]
        by = holders[np.arange(self.partitions), place]
        stop: Floats = covered.max(axis=1)
        return stop, np.where(covered == stop[:, None], by, -1).max(axis=1)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{self!r} keeps no state between iterations, got {sorted(state)}")


def completion(pace: Floats, order: npt.ArrayLike, parts: int = 1, whole: bool = False) -> Floats:
    """When everybody may stop, without messages and deadline: (samples, N) seconds per chunk -> (samples,).

    The closed form of block_coordinate.md 15: max_i of the ℓ-th smallest w_j·O_ij over the holders j of chunk i.

    Args:
        pace: w, seconds that a worker takes for each of its chunks.
        order: O, (N, K).
        parts: ℓ.
        whole: only workers count that have finished all their chunks, δ_j in place of O_ij: the baseline.
    """
    positions = np.asarray(order)
    held = positions > 0
    if whole:
        positions = np.where(held, held.sum(axis=1)[:, None], 0)
    most = int(held.sum(axis=0).max())
    holders = np.argsort(~held, axis=0, kind="stable")[:most].T
    chosen = np.take_along_axis(positions.T, holders, axis=1).astype(np.float64)
    times = pace[:, holders] * np.where(chosen > 0, chosen, np.inf)
    latest: Floats = np.partition(times, parts - 1, axis=2)[:, :, parts - 1].max(axis=1)
    return latest


def _sequences(order: npt.NDArray[np.int64]) -> list[list[int]]:
    """Each worker's chunks in the order of computing.

    Raises:
        ValueError: a worker's positions are not 1, 2, …, or nobody holds a chunk.
    """
    if order.ndim != 2 or not order.size:
        raise ValueError(f"order must be a matrix (workers, chunks), got shape {order.shape}")
    sequences = [np.argsort(own)[len(own) - np.count_nonzero(own) :].tolist() for own in order]
    for worker, (own, sequence) in enumerate(zip(order, sequences, strict=True)):
        if own[sequence].tolist() != list(range(1, len(sequence) + 1)):
            raise ValueError(
                f"order: the chunks of worker {worker} are at {sorted(own[own != 0].tolist())}, they must be at 1, 2, "
                f"… and 0 where it does not hold a chunk"
            )
    return sequences


@scheme(
    "partial",
    summary="workers finish one chunk after the other; one message each, coded for what is finished",
    trade_off="what slow workers have done counts, messages may be 1/ℓ long; workers keep their chunks' gradients, and "
    "send when the last chunk is there, not before",
)
def partial(
    workers: int,
    degree: int,
    parts: int = 1,
    deadline: float | None = None,
    *,
    assignment: Literal["cyclic", "random_regular"] = "cyclic",
    order: Literal["matchings", "natural", "random"] = "matchings",
    seed: int = 0,
    repeats: int = 3,
    notice: float = 0.0,
) -> PartialStragglers:
    """Partial stragglers with whole gradients; see :class:`PartialStragglers`.

    There are as many chunks as workers, each with ``degree`` holders; others through the class itself.

    Args:
        workers: N.
        degree: chunks on each worker, and holders of each chunk.
        parts: ℓ, from 1 to ``degree``: a message has the ℓ-th part of the gradient's length, and every chunk must be
            finished by ℓ workers. With more than one, roundings are amplified by a random matrix (see ``error``).
        deadline: seconds, or None.
        assignment: "cyclic", or at random with the same degrees.
        order: "matchings": every chunk once at each position; "natural": from the worker's own number on; "random".
        seed: of all that is random here.
        repeats, notice: see the class.

    Raises:
        ValueError: an argument is out of its range.

    >>> partial(workers=8, degree=3, parts=2)
    partial(workers=8, partitions=8, load=3, parts=2)
    """
    rng = np.random.default_rng(seed)
    checks.choice("assignment", assignment, ("cyclic", "random_regular"))
    checks.choice("order", order, ("matchings", "natural", "random"))
    if assignment == "cyclic":
        held = chunks.cyclic_assignment(workers, degree)
    else:
        held = chunks.random_regular_assignment(workers, degree, rng)
    if order == "matchings":
        positions = chunks.matching_order(held)
    else:
        positions = chunks.natural_order(held) if order == "natural" else chunks.random_order(held, rng)
    return PartialStragglers(positions, parts, deadline, seed=seed, repeats=repeats, notice=notice)
