"""M-SGC, *multiplexed*: most of a job is computed uncoded, tried again where it is missing, and the rest is coded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradcode import codes
from gradcode.codes import GradientCode, checks
from gradcode.codes.stability import growth
from gradcode.protocol import Combination, Floats, Iteration, Occasion, Order, Version
from gradcode.schemes.coded import Coded
from gradcode.schemes.decoding import weighted_sum
from gradcode.schemes.sequential.jobs import Sequential, check_model, described

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(slots=True)
class _Job:
    """The gradient of one iteration: the sum of what has come of it so far."""

    occasion: Occasion
    delivered: npt.NDArray[np.bool_]  # (N, W − 1): each worker's private chunks
    total: Tensor | None = None
    error: float = 0.0  # the largest of what its groups were decoded with
    exact: bool = True


class Multiplexed(Sequential[_Job]):
    """Each worker has chunks of its own, which it tries until they have come, and then parts of coded groups.

    Job t is the gradient of iteration t. Its data is cut into W − 1 private chunks for each worker and B groups, each
    of them the data of a gradient code that stands λ stragglers. In each of the W − 1 + B iterations t to t + T,
    T = W − 2 + B, a worker has one task of job t: the first of its private chunks that it still owes; once it owes
    none, its row of group b in iteration t + W − 1 + b. (The paper goes through the private chunks in turn and repeats
    afterwards, which are as many tasks.) So an iteration holds a task of W − 1 + B jobs for every worker, all equally
    large, and the load of the iteration is

        (λ + 1)(W − 1 + B) / (N(B + (W − 1)(λ + 1))),   and   (W − 1 + B) / (N(W − 1)) with λ = N,

    where there are no groups (gradient_codes.md 5). As λ grows that tends to (1 + B/(W − 1))/N: nearly uncoded.

    **The gradient of iteration t is that of job t − T**, at the parameters of T iterations before; in the first T
    iterations it is 0. In the paper T + 1 or more models are trained in turn, none of which sees a delay.

    An iteration ends when all have answered, or once (1 + ``patience``) times the time of the first that has done all
    its tasks has passed. Waited for is what would leave a job undone: a private chunk with no iteration left for it, a
    group that cannot be decoded, a worker that would owe chunks when its rows of a group are needed and λ others do.
    Nobody is waited for under the bursty model, at most λ different stragglers within any W iterations and no worker
    over more than B on end; nor if at most λ straggle within any W − 1 + B and none in more than B of them (derived by
    this project).

    A worker sends W − 1 + B messages of the gradient's length in each iteration: one for each of its tasks. A task
    that came counts, though its worker may be a straggler at the others (OURS).

    Args:
        workers: N.
        burst: B.
        window: W > B.
        stragglers: λ ≤ N. The code is :func:`gradcode.codes.fractional_repetition` where λ + 1 divides N, else
            :func:`gradcode.codes.cyclic_mds`, whose load is (λ + 1)/N for any N but whose rounding refuses large ones.
        partitions: K, cut as evenly as they can be into the units that chunks and groups consist of; None: as many as
            there are units, N(W − 1) + BN/(λ + 1) where λ + 1 divides N, else N(B + (W − 1)(λ + 1)).
        patience: μ, of who is a straggler: slower than 1 + μ times the fastest.
        dtype, max_error: of the code.

    Raises:
        ValueError: an argument is out of its range, or the code is refused.

    >>> Multiplexed(workers=4, burst=1, window=2, stragglers=2).load
    0.375
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
        max_error: float | None = None,
    ) -> None:
        check_model(workers, burst, window, stragglers, checks.integer("workers", workers, 2))
        self.burst, self.window, self.stragglers, self.dtype = burst, window, stragglers, dtype
        divides = workers % (stragglers + 1) == 0
        # In units: what a private chunk holds, and what a group does.
        chunk, group = (1, workers // (stragglers + 1)) if divides else (stragglers + 1, workers)
        if stragglers == workers:
            chunk, group = 1, 0
        private = workers * (window - 1) * chunk
        self._fewest = private + burst * group
        total = self._fewest if partitions is None else partitions
        self.partitions = checks.integer("partitions", total, self._fewest, because="one for each unit")
        cuts = checks.even_cuts(self.partitions, self._fewest).tolist()
        runs = [range(cuts[unit], cuts[unit + chunk]) for unit in range(0, private, chunk)]
        self._chunks = [runs[worker * (window - 1) : (worker + 1) * (window - 1)] for worker in range(workers)]
        self._groups: list[Coded] = []
        for unit in range(private, self._fewest, group or 1):
            names = range(cuts[unit], cuts[unit + group])
            code = self._groups[-1].code if self._groups else None
            if code is None or code.partitions != len(names):
                code = _code(workers, stragglers, len(names), divides, dtype, max_error)
            self._groups.append(Coded(code, names=names))
        packed = any(own.layout.packed for own in self._groups)
        super().__init__(workers, window - 2 + burst, patience, packed, orders=window - 1 + burst)
        held = [[*self._chunks[worker], *(own.shares[worker] for own in self._groups)] for worker in range(workers)]
        self._loads = np.array([sum(map(len, own)) for own in held])
        self._job = self._begin(Occasion(Version(0, 0), 0))  # of this iteration
        self._private: dict[int, int] = {}  # slot -> the private chunk that was ordered; other slots are coded
        self._scaled: tuple[Combination | None, list[list[Combination]], list[list[Combination]]] = (None, [], [])

    def __repr__(self) -> str:
        partitions = [f"partitions={self.partitions}"] if self.partitions != self._fewest else []
        dtype = [f"dtype={self.dtype!r}"] if self.dtype != "float32" else []
        return described(self, *partitions, "kind='multiplexed'", *dtype)

    @property
    def load(self) -> float:
        return float(self._loads.max()) / self.partitions

    @property
    def _at_hand(self) -> Iterator[tuple[int, _Job]]:
        """(m, the job that is m iterations old), the oldest first."""
        jobs = [*self._jobs, self._job]
        return zip(range(len(jobs) - 1, -1, -1), jobs, strict=True)

    def _begin(self, occasion: Occasion) -> _Job:
        return _Job(occasion, np.zeros((self.workers, self.window - 1), dtype=np.bool_))

    def _group_at(self, age: int) -> int | None:
        """The group whose rows are computed of a job of this age; None: it is too young, or there are no groups."""
        return age - (self.window - 1) if self._groups and age >= self.window - 1 else None

    def _orders(self, iteration: Iteration) -> list[Order]:
        private, coded = self._combinations(iteration.target)
        self._private, orders = {}, []
        for age, job in self._at_hand:
            group = self._group_at(age)
            for worker in iteration.workers:
                slot = age * self.workers + worker
                owed = np.flatnonzero(~job.delivered[worker])
                if len(owed):
                    self._private[slot] = int(owed[0])
                    task = private[worker][owed[0]]
                elif group is not None:
                    task = coded[group][worker]
                else:
                    continue
                at = job.occasion if age else None
                orders.append(Order(worker, iteration.serial, slot, slot, task, at=at))
        return orders

    def _enough(self) -> bool:
        """Whether each job can still be ended in time, if from now on everybody answers.

        It can if nobody owes more private chunks than there are iterations left; if no more than λ are so far behind
        that they will owe some when rows of the next group are computed; and if the present group can be decoded.
        """
        for age, job in self._at_hand:
            private, coded = self._came_of(age)
            owed = (~job.delivered).sum(axis=1)
            owed[list(private)] -= 1
            if owed.max() > self.delay - age:
                return False
            behind = owed > max(self.window - 2 - age, 0)
            if self._groups and age < self.delay and np.count_nonzero(behind) > self.stragglers:
                return False
            group = self._group_at(age)
            if group is not None and not self._groups[group].code.decodable(coded):
                return False
        return True

    def _came_of(self, age: int) -> tuple[dict[int, int], set[int]]:
        """What has come of the job of this age: worker -> its private chunk, and the workers whose rows have."""
        private: dict[int, int] = {}
        coded: set[int] = set()
        for worker in range(self.workers):
            slot = age * self.workers + worker
            if slot in self._came and slot in self._private:
                private[worker] = self._private[slot]
            elif slot in self._came:
                coded.add(worker)
        return private, coded

    def _book(self, rows: Tensor, out: Tensor) -> None:
        import torch

        assert self._iteration is not None
        for age, job in self._at_hand:
            if job.total is None:
                job.total = torch.zeros_like(out)
            private, coded = self._came_of(age)
            own = rows[age * self.workers : (age + 1) * self.workers]
            if private:
                weights = np.zeros(self.workers)
                weights[list(private)] = 1.0
                weighted_sum(own, weights, job.total, add=True)
                job.delivered[list(private), list(private.values())] = True
            group = self._group_at(age)
            if group is not None:
                found = self._groups[group].decode(coded, self._iteration, own, out)
                job.total.add_(out)
                job.error, job.exact = max(job.error, found.error), job.exact and found.exact
            job.error = max(job.error, self._rounding(rows, out))

    def _rounding(self, rows: Tensor, out: Tensor) -> float:
        """The bound of :mod:`gradcode.codes.stability` for the plain sum of private chunks of an iteration."""
        import torch

        longest = max(len(chunk) for own in self._chunks for chunk in own)
        rounding = growth(longest + self.workers + 2, torch.finfo(out.dtype).eps / 2)
        if rows.dtype != out.dtype:  # a message is rounded once more
            rounding = (1 + rounding) * (1 + torch.finfo(rows.dtype).eps / 2) - 1
        return rounding

    def _finish(self, job: _Job, rows: Tensor, out: Tensor) -> tuple[float, bool]:
        import torch

        assert job.total is not None
        out.copy_(job.total)
        # The parts of T + 1 iterations, each with an error of its own, were added up one by one.
        adding = growth(2 * (self.delay + 1), torch.finfo(out.dtype).eps / 2)
        return (1 + job.error) * (1 + adding) - 1, job.exact

    def _combinations(self, target: Combination) -> tuple[list[list[Combination]], list[list[Combination]]]:
        """The parts of the target: [worker][chunk], and [group][worker].

        The same objects every time, so that clusters send them once.
        """
        if self._scaled[0] != target:
            ones = [[Combination(dict.fromkeys(chunk, 1.0)) for chunk in own] for own in self._chunks]
            private = [[chunk.of(target) for chunk in own] for own in ones]
            coded = [[share.of(target) for share in group.shares] for group in self._groups]
            self._scaled = (target, private, coded)
        return self._scaled[1:]

    # Beyond an iteration

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration in which nothing is done again; (samples, N, stages), (samples, N).

        The first T iterations have less to do.
        """
        messages = self.window - 1 + len(self._groups)
        ends = self._loads * compute[:, :, 0] + messages * communicate[:, : self.workers]
        ended: Floats = np.minimum(ends.max(axis=1), (1 + self.patience) * ends.min(axis=1))
        return ended

    def _saved(self, job: _Job) -> dict[str, Any]:
        return {
            "delivered": job.delivered.tolist(),
            "total": None if job.total is None else job.total.clone(),
            "quality": [job.error, job.exact],
        }

    def _restored(self, occasion: Occasion, saved: dict[str, Any]) -> _Job:
        total = None if saved["total"] is None else saved["total"].clone()
        return _Job(occasion, np.array(saved["delivered"], dtype=np.bool_), total, *saved["quality"])


def _code(
    workers: int, stragglers: int, partitions: int, divides: bool, dtype: str, max_error: float | None
) -> GradientCode:
    """That of a group.

    Raises:
        ValueError: its rounding may pass the limit.
    """
    if divides:
        return codes.fractional_repetition(workers, stragglers, partitions, dtype=dtype)
    try:
        return codes.cyclic_mds(workers, stragglers, partitions, dtype=dtype, max_error=max_error)
    except ValueError as error:
        raise ValueError(
            f"stragglers={stragglers} + 1 does not divide workers={workers}, so that groups need a cyclic code, which "
            f"is refused; take stragglers with {workers} % (stragglers + 1) == 0, or all workers: {error}"
        ) from error
