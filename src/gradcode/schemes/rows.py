"""What schemes share whose workers each send one row: a fixed combination per worker, decoded by a weighted sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradcode.codes.stability import growth, norm_bound
from gradcode.protocol import (
    Action,
    Coefficient,
    Combination,
    Floats,
    Iteration,
    Layout,
    Order,
    Reply,
    Scheme,
)
from gradcode.schemes.decoding import folded_sum, packed_sum, weighted_sum
from gradcode.topology import Branch, shape_of

if TYPE_CHECKING:
    from torch import Tensor


class Weights(NamedTuple):
    """How to combine the rows that arrived; ``weights`` is (N,), or (N, fold), and zero where nothing arrived."""

    weights: npt.NDArray[np.float64] | npt.NDArray[np.complex128]
    error: float
    exact: bool


class RowScheme(ABC):
    """One order per worker and iteration; ends when the arrived rows suffice, or with the deadline.

    Its workers may be edge nodes, which split what they are asked for by schemes of their own.

    A subclass answers three questions: do these rows suffice, with which weights, and when would given finishing
    times suffice. If nothing has arrived at the deadline, the first reply ends the iteration.
    """

    partitions: int
    error = float("nan")
    exact = False
    done = True
    _fewest = 1  # rows without which nothing can be decoded
    _roundoff = 2.0**-24  # what the errors of ``_weights`` allow for: that of float32

    def __init__(
        self,
        shares: Sequence[Mapping[int, Coefficient]],
        deadline: float | None,
        packed: bool = False,
        inner: Sequence[Scheme | None] = (),
        fold: int = 1,
    ) -> None:
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        self.workers = len(shares)
        self.layout = Layout(rows=self.workers, slots=self.workers, packed=packed, fold=fold)
        self.deadline = deadline
        self._inner = tuple(inner)
        self.shares = [Combination(share) for share in shares]
        self._scaled: tuple[Combination | None, list[Combination]] = (None, [])
        self._loads = np.array([len(share) for share in self.shares], dtype=np.float64)
        self._arrived: set[int] = set()
        self._late = False
        self._iteration: Iteration | None = None

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return self._inner

    @property
    def awaits(self) -> int:
        """Replies that must still come at least; see :class:`gradcode.protocol.Scheme`."""
        return 1 if self._late else max(1, self._fewest - len(self._arrived))

    @property
    def responders(self) -> tuple[int, ...]:
        """Who has answered in this iteration, or in the last one: the workers whose rows are there."""
        return tuple(sorted(self._arrived))

    def weights(self, workers: Iterable[int]) -> Floats:
        """(N,) or (N, fold) with which these workers' rows alone, of this iteration or the last one, are added up.

        They estimate the target from fewer rows than the scheme has waited for.

        Raises:
            ValueError: there has been no iteration, or one of them has not answered in it.
        """
        chosen = set(workers)
        if self._iteration is None or not chosen <= self._arrived:
            raise ValueError(f"workers={sorted(chosen)} must be among those that have answered, {self.responders}")
        return np.asarray(self._weights(chosen, self._iteration).weights)

    @abstractmethod
    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        """Whether the rows of these workers give the gradient."""

    @abstractmethod
    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        """The best use of the rows of these workers, also where they do not suffice."""

    @abstractmethod
    def completion(self, finish: Floats) -> Floats:
        """(samples, N) times of the rows -> (samples,) the first time at which they suffice; inf: never."""

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.done, self._late, self._iteration = False, False, iteration
        self._arrived = set()
        combinations = self._combinations(iteration.target)
        return [
            Order(worker, iteration.serial, worker, worker, combinations[worker])
            for worker in iteration.workers
            if combinations[worker]
        ]

    def receive(self, reply: Reply) -> Sequence[Action]:
        assert self._iteration is not None
        self._arrived.add(reply.order.worker)
        self.done = self._late or self.suffice(self._arrived, self._iteration)
        return ()

    def lose(self, worker: int) -> Sequence[Action]:
        return ()

    def expire(self) -> Sequence[Action]:
        self._late = True
        self.done = bool(self._arrived)
        return ()

    @property
    def fixed_weights(self) -> Floats | None:
        """(N,) with which a worker's row counts in this iteration, whoever else answers; None: it depends on that."""
        return None

    def finish(self) -> npt.NDArray[Any]:
        """(N,) weights of the rows that have arrived; ``error`` and ``exact`` are then those of their sum."""
        assert self._iteration is not None
        weights, self.error, self.exact = self._weights(self._arrived, self._iteration)
        return weights

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        weights = self.finish()
        self._add_up(weights, rows, out)
        self.error += self._coarseness(weights, rows, out)

    def decode(
        self, arrived: set[int], iteration: Iteration, rows: Tensor, out: Tensor, zero: Collection[int] = ()
    ) -> Weights:
        """Adds up the ``rows`` of these workers into ``out``; those of ``zero`` are known to be 0, and are not read."""
        weights, error, exact = self._weights(arrived, iteration)
        if len(zero):
            weights = weights.copy()
            weights[list(zero)] = 0
        self._add_up(weights, rows, out)
        return Weights(weights, error + self._coarseness(weights, rows, out), exact)

    def _add_up(self, weights: npt.NDArray[Any], rows: Tensor, out: Tensor) -> None:
        if self.layout.fold > 1:
            folded_sum(rows, weights, out, self.layout.width(out.shape[0]), self.layout.packed)
        elif self.layout.packed:
            packed_sum(rows, np.asarray(weights, dtype=np.complex128), out)
        else:
            weighted_sum(rows, np.asarray(weights, dtype=np.float64), out)

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, links) -> (samples,).

        Worker i ends after load_i·compute_i + communicate_i, an edge node when its own scheme does and its message has
        passed. Equal, draw by draw, to the event-by-event simulation with instant abandoning. inf: some draw never
        ends.
        """
        finish = self._finish(compute, communicate)
        complete = self.completion(finish)
        if self.deadline is None:
            return complete
        first = finish.min(axis=1)
        return np.where(complete <= self.deadline, complete, np.maximum(self.deadline, first))

    def _finish(self, compute: Floats, communicate: Floats) -> Floats:
        """(samples, children) times at which the children's answers would come."""
        if not any(self._inner):
            with np.errstate(invalid="ignore"):  # no load on a worker that never answers
                finish = self._loads * compute[:, :, 0] + communicate
            return np.where(self._loads > 0, finish, np.inf)
        # Workers are numbered from left to right, and so are links: all workers', then those of edge nodes, each
        # followed by the ones below it.
        finish, worker, edge = np.empty((len(compute), self.workers)), 0, compute.shape[1]
        for child, (load, scheme) in enumerate(zip(self._loads, self._inner, strict=True)):
            if scheme is None:
                finish[:, child] = load * compute[:, worker, 0] + communicate[:, worker]
                worker += 1
                continue
            below = Branch.of(shape_of(scheme))
            own, next_edge = slice(worker, worker + len(below.workers)), edge + 1 + len(below.edges)
            links = np.concatenate([communicate[:, own], communicate[:, edge + 1 : next_edge]], axis=1)
            finish[:, child] = scheme.duration(compute[:, own], links) + communicate[:, edge]
            worker, edge = own.stop, next_edge
        return np.where(self._loads > 0, finish, np.inf)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{self!r} keeps no state between iterations, got {sorted(state)}")

    def _coarseness(self, weights: npt.NDArray[Any], rows: Tensor, out: Tensor) -> float:
        """What rows of fewer bits than ``_weights`` allowed for (bfloat16) add to the error.

        The bound of :mod:`gradcode.codes.stability`: each message is rounded once where it is added up in more bits,
        else at every step of encoding and decoding.
        """
        import torch

        unit = torch.finfo(rows.dtype).eps / 2
        if unit <= self._roundoff:
            return 0.0
        parts = self.layout.fold
        amplification = np.zeros((self.partitions, parts, parts))
        magnitudes = np.abs(weights).reshape(self.workers, parts)
        used = np.flatnonzero(magnitudes.any(axis=1)).tolist()
        for worker in used:
            for partition, coefficient in self.shares[worker].items():
                amplification[partition] += np.outer(magnitudes[worker], np.abs(coefficient))
        steps = 1.0
        if rows.dtype == out.dtype:
            steps = self._loads.max() * parts + len(used) + (6 if self.layout.packed else 2)
        return growth(steps, unit) * float(norm_bound(amplification).max())

    def _combinations(self, target: Combination) -> list[Combination]:
        """Each worker's share of the target; the same objects every time, so that clusters send them once."""
        if self._scaled[0] != target:
            scaled = [share.of(target) for share in self.shares]
            self._scaled = (target, scaled)
        return self._scaled[1]
