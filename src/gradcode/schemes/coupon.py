"""Generalised batched coupon's collector: uneven workers hold random partitions, and the master collects each once.

Source: Li, Mousavi Kalan, Avestimehr, Soltanolkotabi 2018 (arXiv 1710.09990), of which the abstract was read; the
generalised scheme is RECONSTRUCTED (bcc.md section 4). Mapping of letters: their n workers are our N, their m units our
K partitions, r_i the loads. The scheme for even workers is :func:`gradcode.codes.batched_coupon` under ``coded``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gradcode.codes import checks
from gradcode.codes.coupon import covering_subsets
from gradcode.codes.stability import growth
from gradcode.protocol import Abandon, Combination, Floats, Iteration, Layout, Order, Reply, Scheme
from gradcode.schemes.decoding import weighted_sum
from gradcode.schemes.registry import scheme

if TYPE_CHECKING:
    from torch import Tensor

_AT_ONCE = 1_000_000  # times of workers that are gone through together


class CouponCollector:
    """Workers send the gradients of their partitions one by one; the first of each counts, and all of them are it.

    Partitions overlap in any way, so nothing can be added up before it is sent. Whatever has come from somebody is
    abandoned at the others at once, be it under way or not begun (OURS); so the master receives each partition once,
    and workers go on to what is still missing. In the paper a worker's results come together when it has computed all
    of them, and everything that comes before the last partition counts as communication; here each result comes when
    it is ready, which is earlier (:func:`gradcode.planning.coupon.completion` has the paper's time).

    At ``deadline`` the sum of what has come is taken; if nothing has, the first reply ends the iteration.

    Args:
        placement: for each worker the partitions that it holds, in the order in which it computes them; perhaps none.
        partitions: K.
        deadline: seconds, or None.

    Raises:
        ValueError: a partition that nobody holds, or a worker twice; a deadline that is not positive.

    >>> CouponCollector([[0, 1], [2, 1]], partitions=3)
    coupon(workers=2, partitions=3, loads=2)
    """

    error = float("nan")
    exact = False
    done = True

    def __init__(self, placement: Sequence[npt.ArrayLike], partitions: int, deadline: float | None = None) -> None:
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        self.workers = checks.integer("workers", len(placement), 1)
        self.partitions = checks.integer("partitions", partitions, 1)
        self.placement = _checked(placement, self.partitions)
        self.deadline = deadline
        self._loads = [len(held) for held in self.placement]
        # A worker's rows and slots lie side by side, one for each partition that it holds.
        self._first = np.cumsum([0, *self._loads]).tolist()
        self.layout = Layout(rows=self._first[-1], slots=self._first[-1])
        self._scaled: tuple[Combination | None, list[Combination]] = (None, [])
        self._holders: dict[int, list[int]] = {}  # partition -> slots in which it was ordered
        self._collected: dict[int, int] = {}  # partition -> the row that it came in
        self._late = False
        self._iteration: Iteration | None = None

    def __repr__(self) -> str:
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        low, high = min(self._loads), max(self._loads)
        loads = str(low) if low == high else f"{low}..{high}"
        return f"coupon(workers={self.workers}, partitions={self.partitions}, loads={loads}{deadline})"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Order | Abandon]:
        self.done, self._late, self._iteration = False, False, iteration
        self._holders, self._collected = {partition: [] for partition in iteration.target}, {}
        single, orders = self._combinations(iteration.target), []
        for worker in iteration.workers:
            for slot, partition in enumerate(self.placement[worker], self._first[worker]):
                if partition in self._holders:
                    self._holders[partition].append(slot)
                    orders.append(Order(worker, iteration.serial, slot, slot, single[partition]))
        return orders

    def receive(self, reply: Reply) -> Sequence[Order | Abandon]:
        (partition,) = reply.order.combination
        self._collected[partition] = reply.order.row
        self.done = self._late or len(self._collected) == len(self._holders)
        others = tuple(slot for slot in self._holders[partition] if slot != reply.order.slot)
        return [Abandon(others)] if others else ()

    def lose(self, worker: int) -> Sequence[Order | Abandon]:
        """What a lost worker has sent stays; what it has not is open, and given again when it is back."""
        return ()

    def expire(self) -> Sequence[Order | Abandon]:
        self._late = True
        self.done = bool(self._collected)
        return ()

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        import torch

        assert self._iteration is not None
        weights = np.zeros(self.layout.rows)
        weights[list(self._collected.values())] = 1.0
        weighted_sum(rows, weights, out)
        # The bound of gradcode.codes.stability for messages of one partition.
        rounding = growth(len(self._collected) + 3, torch.finfo(out.dtype).eps / 2)
        if rows.dtype != out.dtype:  # a message is rounded once more
            rounding = (1 + rounding) * (1 + torch.finfo(rows.dtype).eps / 2) - 1
        missing = [partition for partition in self._holders if partition not in self._collected]
        self.exact = not self._iteration.sizes[missing].any()
        self.error = rounding if self.exact else 1 + rounding

    def _combinations(self, target: Combination) -> list[Combination]:
        """Each partition's part of the target; the same objects every time, so that clusters send them once."""
        if self._scaled[0] != target:
            self._scaled = (target, [Combination({j: 1.0}).of(target) for j in range(self.partitions)])
        return self._scaled[1]

    # How long it takes

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, N) per message -> (samples,).

        Every worker computes and sends one partition after the other, without those that have come from others. Equal,
        draw by draw, to the event-by-event simulation with instant abandoning. inf: some partition never comes.
        """
        pace, message = compute[:, :, 0], communicate[:, : self.workers]
        size = max(1, _AT_ONCE // max(self.workers, self.partitions))
        pieces = [
            self._durations(pace[begin : begin + size], message[begin : begin + size])
            for begin in range(0, len(pace), size)
        ]
        return np.concatenate([np.zeros(0), *pieces])

    def _durations(self, pace: Floats, message: Floats) -> Floats:
        """From reply to reply: of all workers' next ones the first counts, and whoever is at that partition goes on."""
        samples, none = np.arange(len(pace)), self.partitions
        sequence = np.full((self.workers, max(self._loads) + 1), none)
        for worker, held in enumerate(self.placement):
            sequence[worker, : len(held)] = held
        place = np.zeros(pace.shape, dtype=np.intp)
        at = np.tile(sequence[:, 0], (len(pace), 1))  # the partition that each worker is at; none: it has ended
        ends = np.where(at < none, pace + message, np.inf)
        collected = np.zeros((len(pace), none + 1), dtype=bool)
        first: Floats = ends.min(axis=1)
        now = first
        for _ in range(self.partitions):
            quickest = ends.argmin(axis=1)  # at equal times by worker
            now, come = ends[samples, quickest], at[samples, quickest]
            collected[samples, come] = come < none
            movers = here = np.nonzero((at == come[:, None]) & (at < none))
            while len(here[0]):
                place[here] += 1
                at[here] = sequence[here[1], place[here]]
                known = collected[here[0], at[here]]
                here = (here[0][known], here[1][known])
            ends[movers] = np.where(at[movers] < none, now[movers[0]] + pace[movers] + message[movers], np.inf)
        late = np.inf if self.deadline is None else self.deadline
        return np.where(now <= late, now, np.maximum(late, first))

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if state:
            raise ValueError(f"{self!r} keeps no state between iterations, got {sorted(state)}")


def _checked(placement: Sequence[npt.ArrayLike], partitions: int) -> list[list[int]]:
    """Each worker's partitions as a list.

    Raises:
        ValueError: one that is not from 0 to K − 1, or that a worker holds twice, or nobody.
    """
    held = [np.asarray(own, dtype=np.int64).tolist() for own in placement]
    for worker, own in enumerate(held):
        if len(set(own)) < len(own) or not all(0 <= partition < partitions for partition in own):
            raise ValueError(f"placement[{worker}]={own} must be different partitions from 0 to {partitions - 1}")
    missing = sorted(set(range(partitions)).difference(*held))
    if missing:
        raise ValueError(f"placement: nobody holds partitions {missing}; each of {partitions} needs a worker")
    return held


@scheme(
    "coupon",
    summary="workers hold as many random partitions as suits them, and send each by itself; the first of each counts",
    trade_off="uneven workers without coordination, and no straggler costs more than its own copies; K messages per "
    "iteration, and a row of the gradient's length for every partition that a worker holds",
)
def coupon(
    workers: int,
    partitions: int,
    loads: int | Sequence[int],
    deadline: float | None = None,
    *,
    on_uncovered: Literal["resample", "raise", "round_robin"] = "resample",
    seed: int = 0,
) -> CouponCollector:
    """The generalised batched coupon's collector; see :class:`CouponCollector`.

    Args:
        workers: N.
        partitions: K.
        loads: r_i, partitions of each worker, from 0 to K; one number for all. For uneven workers
            :func:`gradcode.planning.coupon.allocate` gives them.
        deadline: seconds, or None.
        on_uncovered: what to do when a partition is drawn by nobody; see
            :func:`gradcode.codes.coupon.covering_subsets`.
        seed: of the draw, which is made once.

    Raises:
        ValueError: an argument is out of range, or a partition stays uncovered.

    >>> coupon(workers=4, partitions=6, loads=[2, 2, 4, 6])
    coupon(workers=4, partitions=6, loads=2..6)
    """
    rng = np.random.default_rng(checks.integer("seed", seed, 0))
    placement = covering_subsets(loads, workers, partitions, on_uncovered=on_uncovered, rng=rng)
    return CouponCollector(placement, partitions, deadline)
