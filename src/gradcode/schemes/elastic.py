"""A scheme that is rebuilt for the workers that are there."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gradcode.errors import GradcodeWarning
from gradcode.protocol import Abandon, Action, Floats, Iteration, Order, Reply, Scheme

if TYPE_CHECKING:
    from torch import Tensor


class _Fitted:
    """The scheme for one number of workers, and which of its rows is whose.

    Rows are given to workers as the scheme's orders name them: worker i's first row is its row 0, and so on.
    """

    def __init__(self, scheme: Scheme, rows_each: int) -> None:
        self.scheme, self._rows_each = scheme, rows_each
        self._places: dict[int, tuple[int, int]] = {}  # row -> worker, which of the worker's rows
        self._used = [0] * scheme.workers

    def place(self, order: Order) -> int:
        """Which of its worker's rows the order's row is.

        Raises:
            ValueError: the row is another worker's, or the worker has no rows left; or the order is a held one.
        """
        if order.hold or order.running:
            raise ValueError(
                f"{self.scheme!r} holds results until they are granted ({order!r}), which cannot be elastic: a worker "
                f"would go on adding to its sum when the iteration begins anew"
            )
        if order.row not in self._places:
            if self._used[order.worker] == self._rows_each:
                raise ValueError(
                    f"{self.scheme!r} gives worker {order.worker} more than {self._rows_each} rows ({order!r}): an "
                    f"elastic scheme's rows must be spread evenly over its workers"
                )
            self._places[order.row] = (order.worker, self._used[order.worker])
            self._used[order.worker] += 1
        worker, place = self._places[order.row]
        if worker != order.worker:
            raise ValueError(f"row {order.row} of {order!r} belongs to worker {worker}")
        return place


class Elastic:
    """Rebuilds a scheme for the workers that are there, at the start of an iteration.

    Its *members* are the workers that the present scheme is built for, numbered anew from 0. One that is missing for
    more than ``patience`` iterations in a row (at their start it is gone, or still being started again) leads to a
    scheme for those that are there. One that is back, or new, is taken in at the next start. As the number of
    partitions stays, which samples are in which partition of which iteration stays, and so do the gradients of an
    exact scheme.

    If in an iteration only lost members could still bring it to its end, it is begun anew at once for those that are
    there: what they have sent is computed again, with fewer workers.

    Where ``build`` raises ValueError for a number of workers, the scheme that there is stays, and a GradcodeWarning
    says so once.

    >>> from gradcode import codes, schemes
    >>> def build(workers):
    ...     code = codes.fractional_repetition(workers, stragglers=min(2, workers - 1), partitions=8)
    ...     return schemes.coded(code)
    >>> schemes.elastic(build, workers=8)
    elastic(coded(fractional_repetition(workers=8, stragglers=2, partitions=8)), patience=10)
    """

    exact = False
    error = float("nan")

    def __init__(self, build: Callable[[int], Scheme], workers: int, patience: int = 10) -> None:
        if workers < 1:
            raise ValueError(f"workers={workers!r} must be at least 1")
        if patience != int(patience) or patience < 0:
            raise ValueError(f"patience={patience!r} must be a number of iterations, 0 or more")
        self.workers, self.patience = workers, int(patience)
        self._build = build
        self._whole = whole = build(workers)
        _check_alone(whole, workers)
        self.partitions = whole.partitions
        self._rows_each = -(-whole.layout.rows // workers)
        # An iteration is begun anew at most once for every worker but one, and a slot is used once in it.
        self.layout = replace(whole.layout, rows=workers * self._rows_each, slots=workers * whole.layout.slots)
        self._fitted = _Fitted(whole, self._rows_each)
        self._fits: dict[int, _Fitted | None] = {workers: self._fitted}  # None: there is none for so many
        self._refusals: dict[int, str] = {}  # why, until it is told
        self._members = tuple(range(workers))
        self._missed = [0] * workers  # iterations in a row
        self.done, self.deadline = whole.done, whole.deadline
        self._iteration: Iteration | None = None
        self._there: set[int] = set()
        self._open: dict[int, Order] = {}  # slot -> the present scheme's order
        self._arrived: dict[int, int] = {}  # the present scheme's row -> row
        self._attempts = 0
        self._offset = 0
        self._late = False
        self._expired: float | None = None  # the deadline that has passed
        self._gathered: Tensor | None = None
        if workers > 1:
            self._fit(workers - 1)  # so that schemes which do not go together are refused at once

    def __repr__(self) -> str:
        return f"elastic({self._whole!r}, patience={self.patience})"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def members(self) -> tuple[int, ...]:
        """The workers that the present scheme is built for, in the order of its own numbers for them."""
        return self._members

    @property
    def awaits(self) -> int:
        """Replies that must still come at least; see :class:`gradcode.protocol.Scheme`.

        No more than those who are there can give: after the last of them the iteration may have to begin anew.
        """
        coming = sum(self._members[order.worker] in self._there for order in self._open.values())
        return max(1, min(coming, int(getattr(self.present, "awaits", 1))))

    @property
    def corrupt(self) -> tuple[int, ...]:
        """Workers whose replies contradict the others'; see :class:`gradcode.protocol.Scheme`."""
        return tuple(self._members[worker] for worker in getattr(self.present, "corrupt", ()))

    @property
    def present(self) -> Scheme:
        """The scheme for the members."""
        return self._fitted.scheme

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Order | Abandon]:
        self._iteration, self._there = iteration, set(iteration.workers) - set(iteration.away)
        self._attempts, self._late, self._expired = 0, False, None
        self._review()
        return self._go_on(self._begin())

    def receive(self, reply: Reply) -> Sequence[Order | Abandon]:
        order = self._open.pop(reply.order.slot)
        self._there.add(reply.order.worker)  # a lost one may be back before anybody gave its orders up
        if reply.payload is not None:
            self._arrived[order.row] = reply.order.row
        return self._go_on(self._translate(self.present.receive(replace(reply, order=order))))

    def lose(self, worker: int) -> Sequence[Order | Abandon]:
        self._there.discard(worker)
        if worker not in self._members:
            return ()
        return self._go_on(self._translate(self.present.lose(self._members.index(worker))))

    def expire(self) -> Sequence[Order | Abandon]:
        self._late, self._expired = True, self.deadline
        return self._go_on(self._translate(self.present.expire()))

    def _review(self) -> None:
        """Who is a member from this start on."""
        members = set(self._members)
        for worker in range(self.workers):
            missing = worker in members and worker not in self._there
            self._missed[worker] = self._missed[worker] + 1 if missing else 0
        candidates = [members | self._there]
        if max(self._missed) > self.patience:
            candidates.insert(0, self._there)
        for wanted in candidates:
            if wanted == members or self._rebuild(wanted):
                break

    def _begin(self) -> list[Order | Abandon]:
        """The present scheme's start of this iteration, in slots that were not used in it."""
        assert self._iteration is not None
        self._open, self._arrived = {}, {}
        self._offset = self._attempts * self._whole.layout.slots
        self._attempts += 1
        numbers = {worker: number for number, worker in enumerate(self._members)}
        alive = tuple(numbers[worker] for worker in self._members if worker in self._iteration.workers)
        away = tuple(number for number in alive if self._members[number] not in self._there)
        return self._translate(self.present.start(replace(self._iteration, workers=alive, away=away)))

    def _go_on(self, actions: list[Order | Abandon]) -> list[Order | Abandon]:
        """Begins the iteration anew if only members that are not there could still bring it to its end."""
        self.done, self.deadline = self.present.done, self.present.deadline
        ahead = self.deadline is not None and self.deadline != self._expired
        if self.done or ahead or self._there.issuperset(self._members):
            return actions
        if any(self._members[order.worker] in self._there for order in self._open.values()):
            return actions
        given_up = tuple(self._open)
        if not self._rebuild(self._there):
            return actions
        actions += [Abandon(given_up)] if given_up else []
        actions += self._begin()
        if self._late:
            actions += self._translate(self.present.expire())
        self.done, self.deadline = self.present.done, self.present.deadline
        return actions

    def _translate(self, actions: Iterable[Action]) -> list[Order | Abandon]:
        """The present scheme's actions with workers, slots and rows as the cluster numbers them."""
        translated: list[Order | Abandon] = []
        for action in actions:
            if isinstance(action, Order):
                worker, slot = self._members[action.worker], self._offset + action.slot
                row = worker * self._rows_each + self._fitted.place(action)
                self._open[slot] = action
                translated.append(replace(action, worker=worker, slot=slot, row=row))
            elif isinstance(action, Abandon):
                slots = tuple(self._offset + slot for slot in action.slots)
                for slot in slots:
                    self._open.pop(slot, None)
                translated.append(Abandon(slots))
        return translated

    # The scheme for those that are there

    def _rebuild(self, workers: Iterable[int]) -> bool:
        """Makes these the members; False if there is no scheme for as many."""
        members = tuple(sorted(workers))
        fitted = self._fit(len(members)) if members else None
        if fitted is None:
            reason = self._refusals.pop(len(members), None)
            if reason is not None:
                warnings.warn(
                    f"there is no scheme for the {len(members)} workers that are there, so the one for "
                    f"{len(self._members)} stays and may have to wait for the others: {reason}",
                    GradcodeWarning,
                    stacklevel=2,
                )
            return False
        self._members, self._fitted = members, fitted
        return True

    def _fit(self, number: int) -> _Fitted | None:
        if number not in self._fits:
            self._fits[number] = None
            try:
                scheme = self._build(number)
            except ValueError as error:
                self._refusals[number] = str(error)
            else:
                self._check(scheme, number)
                self._fits[number] = _Fitted(scheme, self._rows_each)
        return self._fits[number]

    def _check(self, scheme: Scheme, number: int) -> None:
        """Whether the scheme for fewer workers goes with the one for all of them.

        Raises:
            ValueError: it does not; says in what.
        """
        _check_alone(scheme, number)
        whole, own = self._whole.layout, scheme.layout
        if scheme.partitions != self.partitions:
            raise ValueError(
                f"build({number}) has {scheme.partitions} partitions, build({self.workers}) has {self.partitions}: "
                f"their number must stay, or the data would be cut anew; give partitions={self.partitions}"
            )
        for name in ("codec", "packed", "fold", "history"):
            first, second = getattr(whole, name), getattr(own, name)
            if first != second:
                raise ValueError(
                    f"build({number}) has {name}={second!r}, build({self.workers}) has {name}={first!r}: the rows of "
                    f"both must be of one kind"
                )
        if own.rows > number * self._rows_each:
            raise ValueError(
                f"build({number}) has {own.rows} rows, more than {self._rows_each} for each worker, as many as "
                f"build({self.workers}) has"
            )
        if own.slots > whole.slots:
            raise ValueError(f"build({number}) has {own.slots} slots, build({self.workers}) only {whole.slots}")

    # The gradient

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        scheme = self.present
        scheme.gradient(self._view(rows), out)
        self.error, self.exact = scheme.error, scheme.exact

    def _view(self, rows: Tensor) -> Tensor:
        """The rows as the present scheme numbers them; what did not arrive may be anything."""
        number = self.present.layout.rows
        start, step = self._progression()
        if start >= 0 and start + step * (number - 1) < len(rows):
            return rows[start : start + step * (number - 1) + 1 : step]
        # Members with gaps between them: what arrived is copied, which costs about as much as decoding again, on
        # each iteration until all are back or the gap is at an end of the rows.
        pitch = rows.stride(0)
        kept = self._gathered
        if kept is None or kept.shape != (len(rows), pitch) or kept.dtype != rows.dtype:
            kept = self._gathered = rows.new_empty(len(rows), pitch)
        gathered = kept[:number, : rows.shape[1]]
        for own, row in self._arrived.items():
            gathered[own].copy_(rows[row])
        return gathered

    def _progression(self) -> tuple[int, int]:
        """(start, step) with row = start + step · own row for all that arrived; start −1: there are none."""
        if not self._arrived:
            return 0, 1
        (own, row), *others = sorted(self._arrived.items())
        step = (others[0][1] - row) // (others[0][0] - own) if others else 1
        start = row - step * own
        if step < 1 or any(start + step * a != b for a, b in others):
            return -1, 1
        return start, step

    # Beyond an iteration

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration of the members, if they stay; see :class:`gradcode.protocol.Scheme`."""
        members = list(self._members)
        return self.present.duration(compute[:, members], communicate[:, members])

    def state_dict(self) -> dict[str, Any]:
        """Who the members are, how long they are missed, and what the schemes remember, by number of workers."""
        inner = {str(number): fit.scheme.state_dict() for number, fit in self._fits.items() if fit is not None}
        return {"members": list(self._members), "missed": list(self._missed), "inner": inner}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the members of ``state``.

        Raises:
            ValueError: it is not that of this scheme.
        """
        members, missed = set(state.get("members", ())), list(state.get("missed", ()))
        if not members or not members <= set(range(self.workers)) or len(missed) != self.workers:
            raise ValueError(f"members={sorted(members)}, missed={missed} are not those of {self!r}")
        for number, own in state["inner"].items():
            fit = self._fit(int(number))
            if fit is None:
                raise ValueError(f"the state has a scheme for {number} workers, which {self!r} has not")
            fit.scheme.load_state_dict(own)
        if not self._rebuild(members):
            raise ValueError(f"the state has {len(members)} members, for which {self!r} has no scheme")
        self._missed = missed


def _check_alone(scheme: Scheme, number: int) -> None:
    """Whether a scheme can be elastic.

    Raises:
        ValueError: it cannot; says why.
    """
    if any(scheme.inner):
        raise ValueError(
            f"{scheme!r} cannot be elastic: it has edge nodes, and which workers are under which is fixed by the "
            f"cluster's topology. Without elastic, who is lost is a straggler until it is back"
        )
    if scheme.workers != number:
        raise ValueError(f"build({number}) gave {scheme!r}, which is for {scheme.workers} workers, not {number}")
    if scheme.layout.stale or scheme.layout.kept:
        raise ValueError(
            f"{scheme!r} cannot be elastic: its gradient holds what workers have sent in earlier iterations, which a "
            f"scheme for another number of workers does not have"
        )
    if scheme.layout.memory:
        raise ValueError(
            f"{scheme!r} cannot be elastic: its workers remember (layout.memory={scheme.layout.memory}), and what a "
            f"worker remembers belongs to the number that it has in this scheme"
        )


def elastic(build: Callable[[int], Scheme], workers: int, patience: int = 10) -> Elastic:
    """The scheme ``build`` gives, rebuilt for the workers that are there; see :class:`Elastic`.

    Args:
        build: the scheme for a number of workers, always with the same number of partitions. It may raise ValueError
            for a number that it has no scheme for.
        workers: N, of the cluster.
        patience: iterations in a row that a member may be missing before the others go on without it. 0: none.

    Refused are schemes with edge nodes, with memory rows (error feedback, stale gradients), with held orders, or with
    rows that are not spread evenly over their workers: a worker has ⌈rows / N⌉ of its own, as no row ever goes from
    one worker to another.

    Raises:
        ValueError: an argument is out of range, ``build(workers)`` raises it, or a scheme is one of those refused or
            does not go with the one for all workers. What only its orders show is raised at its first use.
    """
    return Elastic(build, workers, patience)
