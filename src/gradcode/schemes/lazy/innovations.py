"""LAGC: gradient coding of what has changed.

Source: Zhang and Simeone 2021, of which the abstract was read; both rules here are RECONSTRUCTED (lagc.md 5). Mapping
of letters: their M workers and partitions are our N and K, F_r = M − r + 1 the messages that a code of load r waits
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gradcode.codes import GradientCode, checks
from gradcode.codes.stability import growth
from gradcode.protocol import (
    Action,
    Combination,
    Compare,
    Floats,
    Iteration,
    Keep,
    Layout,
    Order,
    Past,
    Reply,
    Scheme,
    Version,
)
from gradcode.schemes.coded import Coded
from gradcode.schemes.decoding import squared_norm, unit_of, weighted_sum
from gradcode.schemes.lazy.rule import Rule
from gradcode.schemes.lazy.running_sum import RunningSum
from gradcode.schemes.lazy.voters import Points, Shares, Smoothness

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["coded", "switch"]


class Origin(NamedTuple):
    """Where a partition's gradient was computed last: at which parameters, on which samples, counted how much."""

    at: Version
    number: int
    scale: float


class Innovations:
    """Partitions whose gradients have changed enough are selected; their holders send coded sums of the changes.

    The rule is applied by the master: partition j is selected if L_j²·‖θ̂_j − θ‖² passes the threshold, θ̂_j being
    where its gradient was computed last. Only those who hold a selected partition are sent the parameters. With the
    mode

    - ``"coded"`` worker i sends Σ_j B_ij·(g_j(θ) − g_j(θ̂_j)) over the selected partitions that it holds. Who holds
      none would send 0, so the master may count it among those that have answered, and decodes as soon as the code can.
    - ``"switch"`` worker j computes its own partition j alone, and the master waits for all that are selected, as LAG
      does; but if more are selected than messages are needed to decode, everybody sends a row of the code.

    Where all partitions are selected rows are sent whole, and the sum begins anew from their decoding. Else the decoded
    change is added to it. Where rounding may have spoilt the sum (:class:`RunningSum`) all partitions are selected.

    A worker keeps the gradients that it has computed, for they are taken off later. Those it lacks, because it was
    abandoned or has been started again, it computes anew at the parameters that the master keeps, on the same samples.
    So a lost worker costs time, never a wrong sum.

    Args:
        code: B; of N workers and K partitions. ``"switch"`` needs K = N, and worker j to hold partition j.
        rule: when a gradient has changed enough; its voters are the partitions.
        smoothness: L_j of the partitions' own objectives. An estimate is of all partitions in a message together, and
            ascribed to each.
        mode: see above.
        minibatches: whether iterations have samples of their own. The smoothness is then estimated from two gradients
            on the same samples, which costs a further gradient of each selected partition.
        oldest: iterations after which a partition is selected anyway; None: none.
        deadline: seconds after which what cannot be decoded counts as unchanged; None: none.

    Raises:
        ValueError: the mode and the code do not go together, or an argument is out of its range.
    """

    error = float("nan")
    exact = False
    done = True

    def __init__(
        self,
        code: GradientCode,
        rule: Rule,
        smoothness: Smoothness | None = None,
        mode: Mode = "coded",
        *,
        minibatches: bool = True,
        oldest: int | None = None,
        deadline: float | None = None,
    ) -> None:
        checks.choice("mode", mode, ("coded", "switch"))
        if code.reduction > 1:
            raise ValueError(
                f"{code!r} has shorter messages (reduction={code.reduction}); lazy schemes need whole ones"
            )
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        if code.reduction > 1:
            raise ValueError(f"{code!r} mixes parts of gradients in its messages, which cannot be added up as changes")
        if mode == "switch" and code.partitions != code.workers:
            raise ValueError(
                f"partitions={code.partitions} must be workers={code.workers} with mode='switch', where each worker "
                f"has one partition of its own"
            )
        if mode == "switch" and any(j not in held for j, held in enumerate(code.placement)):
            raise ValueError(f"{code!r} does not place partition j on worker j for every j, which mode='switch' needs")
        self.code, self.rule, self.mode, self.deadline = code, rule, mode, deadline
        self.workers, self.partitions = code.workers, code.partitions
        self.smoothness = Smoothness(self.partitions, None) if smoothness is None else smoothness
        self.minibatches = minibatches
        self.oldest = None if oldest is None else checks.integer("oldest", oldest, 1)
        self._coded = Coded(code)
        # One entry is for the parameters of now.
        self.layout = Layout(
            rows=self.workers,
            slots=self.workers,
            packed=self._coded.layout.packed,
            kept=self.partitions + 1,
            history=rule.history,
            stale=True,
        )
        self._shares = Shares(self.partitions)
        self._points = Points(self.partitions)
        self._past: list[Origin | None] = [None] * self.partitions
        self._sum = RunningSum()
        self._ages = np.zeros(self.partitions, dtype=np.int64)  # iterations since each was computed
        self._decoded = float("nan")  # error of the last decoding
        self._count = 0  # starts; they number the versions
        self._cut: dict[tuple[int, ...], list[Combination]] = {}  # partitions -> what each worker holds of them
        self._iteration: Iteration | None = None
        self._scales: Floats = np.ones(self.partitions)
        self._sampled = np.ones(self.partitions, dtype=np.bool_)  # partitions with samples in this iteration
        self._selected: tuple[int, ...] | None = None  # None: no iteration has begun
        self._due: set[int] = set()  # partitions that are waited for beyond the deadline
        self._distances: Floats = np.full(self.partitions, np.inf)
        self._here: Tensor | None = None
        self._now: Version | None = None
        self._orders: dict[int, Order] = {}  # worker -> its order
        self._replies: dict[int, Reply] = {}
        self._expired = 0

    def __repr__(self) -> str:
        mode = "" if self.mode == "coded" else f", mode={self.mode!r}"
        smoothness = "" if self.smoothness.estimated else f", smoothness={self.smoothness!r}"
        batches = "" if self.minibatches else ", minibatches=False"
        oldest = "" if self.oldest is None else f", oldest={self.oldest}"
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        return f"lagc({self.code!r}, {self.rule!r}{mode}{smoothness}{batches}{oldest}{deadline})"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def selected(self) -> tuple[int, ...]:
        """Partitions whose gradients are sent in this iteration, coded."""
        return self._selected or ()

    @property
    def due(self) -> frozenset[int]:
        """Partitions that are waited for beyond the deadline."""
        return frozenset(self._due)

    @property
    def total(self) -> Tensor | None:
        """Σ_j g_j(θ̂_j), (L,) float64; None before the first iteration."""
        return self._sum.total

    @property
    def loads(self) -> tuple[int, ...]:
        """(N,) gradients that each worker computes in this iteration, those that it only compares with included."""
        if not self.selected:
            return (0,) * self.workers
        orders = [self._orders.get(worker) for worker in range(self.workers)]
        return tuple(
            len(share) * (2 if self.minibatches and order is not None and order.compare is not None else 1)
            for share, order in zip(self._held(), orders, strict=True)
        )

    @property
    def one_each(self) -> bool:
        """Whether each worker that computes has a partition of its own, and all are waited for."""
        few = len(self.selected) <= self.workers - self.code.tolerance
        return self.mode == "switch" and (few or not self._sampled.all())

    @property
    def whole(self) -> bool:
        """Whether all partitions are in the messages, so that the sum begins anew."""
        return len(self.selected) == self.partitions or (self.mode == "switch" and not self.one_each)

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.done, self._expired, self._iteration = False, 0, iteration
        self._replies, self._orders, self._count = {}, {}, self._count + 1
        parameters = iteration.step.parameters
        assert parameters is not None
        scales = self._shares.scales(iteration.sizes)
        self._sampled, self._scales = scales > 0, np.where(scales > 0, scales, 1.0)
        self._distances = self._points.distances(parameters)
        new = np.isinf(self._distances)
        due = new if self.oldest is None else new | (self._ages >= self.oldest)
        changed = self.smoothness.changes(self._distances) > self.rule.threshold(iteration.step)
        chosen = new | (self._sampled & (due | changed | self._sum.spoilt))
        self._selected = tuple(np.flatnonzero(chosen).tolist())
        self._due = set(np.flatnonzero(chosen & due).tolist())
        self.done = not self._selected
        if self.done:
            return ()
        self._here = parameters.clone()
        used = {past.at.entry for past in self._past if past is not None}
        self._now = Version(min(set(range(self.partitions + 1)) - used), self._count)
        held = self._held()
        self._orders = {worker: self._order(worker, held[worker]) for worker in iteration.workers if held[worker]}
        return [Keep(self._now), *self._orders.values()]

    def _held(self) -> list[Combination]:
        """What each worker computes of the selected partitions."""
        chosen = tuple(range(self.partitions)) if self.whole else self.selected
        usual = bool(np.all(self._scales == 1.0))
        if self.one_each:
            own = [{worker: self._scales[worker].item()} if worker in chosen else {} for worker in range(self.workers)]
            return [Combination(share) for share in own]
        if usual and chosen in self._cut:
            return self._cut[chosen]
        among = set(chosen)
        cut = [
            Combination({j: value * self._scales[j].item() for j, value in share.items() if j in among})
            for share in self._coded.shares
        ]
        if usual:  # the same objects every time, so that clusters send them once
            if len(self._cut) >= 256:
                self._cut.clear()
            self._cut[chosen] = cut
        return cut

    def _order(self, worker: int, share: Combination) -> Order:
        assert self._iteration is not None
        number = self._iteration.number
        known = {j: past for j in share if (past := self._past[j]) is not None}
        taken_off = {j: share[j] / self._scales[j].item() * past.scale for j, past in known.items()}
        stored = tuple(Past(j, taken_off[j], past.at, past.number) for j, past in known.items())
        compare = None
        # Without mini-batches it is what is taken off anyway.
        wanted = not self.minibatches or any(self.smoothness.wanted(j, self._count) for j in share)
        if self.smoothness.estimated and wanted and len(known) == len(share):
            now = tuple(Past(j, share[j], past.at, number) for j, past in known.items())
            compare = Compare(now if self.minibatches else stored)
        return Order(
            worker,
            self._iteration.serial,
            worker,
            worker,
            share,
            compare=compare,
            subtract=() if self.whole else stored,
            remember=self._now,
        )

    def receive(self, reply: Reply) -> Sequence[Action]:
        self._replies[reply.order.worker] = reply
        self._settle()
        return ()

    def lose(self, worker: int) -> Sequence[Action]:
        return ()

    def expire(self) -> Sequence[Action]:
        """What cannot be decoded yet counts as unchanged, once everything has been sent once.

        At the deadline somebody must have answered, and partitions that are due are waited for. Where there is none,
        or it has passed before, nobody is left that could answer.
        """
        self._expired += 1
        self._settle()
        return ()

    def _settle(self) -> None:
        left = self._expired > (self.deadline is not None)
        late = self._sum.total is not None and (left or (self._expired > 0 and self._replies and not self._due))
        self.done = self._decodable or bool(late)

    @property
    def _decodable(self) -> bool:
        assert self._iteration is not None
        if self.one_each:
            return set(self.selected) <= self._replies.keys()
        return self._coded.suffice(self._answered, self._iteration)

    @property
    def _answered(self) -> set[int]:
        """Workers whose message is known: it has come, or it would be zero."""
        if self.whole:
            return set(self._replies)
        held = self._held()
        return {worker for worker in range(self.workers) if worker in self._replies or not held[worker]}

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        fresh: Sequence[int] = ()
        if self.selected and self._decodable:
            fresh = range(self.partitions) if self.whole else self.selected
            self._add(rows, out)
            self._learn()
            assert self._iteration is not None and self._now is not None and self._here is not None
            for j in fresh:
                self._past[j] = Origin(self._now, self._iteration.number, self._scales[j].item())
                self._ages[j] = 0
            self._points.move(fresh, self._here)
        assert self._sum.total is not None
        out.copy_(self._sum.total)
        self._ages += 1
        size = squared_norm(out)
        self.rule.note(size)
        self._judge(fresh, size**0.5)

    def _add(self, rows: Tensor, out: Tensor) -> None:
        """Adds the decoded change to the sum, or begins the sum anew."""
        assert self._iteration is not None
        weights: npt.NDArray[Any] = np.zeros(self.workers)
        if self.one_each:
            weights[list(self.selected)] = 1.0
            weighted_sum(rows, weights, out)
            self._decoded = growth(len(self.selected) + 2, unit_of(rows, out))
        else:
            zero = self._answered - self._replies.keys()
            weights, self._decoded, _ = self._coded.decode(self._answered, self._iteration, rows, out, zero)
        rounding = self._rounding(weights, rows, out)
        if self._sum.total is None or self.whole:
            self._sum.begin(out, rounding, squared_norm(out) ** 0.5)
        else:
            self._sum.add(out, rounding)

    def _rounding(self, weights: npt.NDArray[Any], rows: Tensor, out: Tensor) -> float:
        """By how much the decoding may be off, by the sizes of the messages."""
        used = np.flatnonzero(weights).tolist()
        steps = self.code.load + len(used) + (6 if self.layout.packed else 2)
        size = sum(abs(weights[worker].item()) * squared_norm(rows[worker]) ** 0.5 for worker in used)
        return growth(steps, unit_of(rows, out)) * float(size)

    def _learn(self) -> None:
        """A message's change is at most Σ_j |B_ij|·L_j·‖θ̂_j − θ‖."""
        for worker, reply in self._replies.items():
            if reply.order.compare is not None and worker in self._orders:
                own = {j: np.abs(value) / self._scales[j] for j, value in reply.order.combination.items()}
                way = float(sum(value * self._distances[j] ** 0.5 for j, value in own.items()))
                for j in own:
                    self.smoothness.note(j, reply.change, way**2)

    def _judge(self, fresh: Sequence[int], norm: float) -> None:
        """‖Σ_j g_j(θ̂_j) − g‖ ≤ Σ L_j‖θ̂_j − θ‖ over what is not fresh, and Σ_j ‖g_j‖ ≥ ‖g‖."""
        self._sum.judge(norm)
        usual = bool(np.all(self._scales == 1.0) and self._sampled.all())
        self.exact = len(fresh) == self.partitions and usual
        if self.exact:
            self.error = self._decoded
            return
        old = [j for j in range(self.partitions) if j not in fresh]
        off = float("inf")
        if usual and not self.minibatches and not self.smoothness.estimated:
            off = self._sum.drift + float(np.sqrt(self.smoothness.changes(self._distances)[old]).sum())
        self.error = off / (norm - off) if off < norm else float("inf")

    # How long it takes, and what outlives an iteration

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, N) per message -> (samples,).

        Of one like the last, in which the same partitions are selected; of all partitions, before the first. Workers
        are taken to have every gradient that is to be taken off; where one was abandoned, and has to compute it anew,
        the iteration takes longer.
        """
        pace, message = compute[:, :, 0], communicate[:, : self.workers]
        if self._selected is None:
            return self._coded.duration(compute, communicate)
        if not self._selected:
            return np.zeros(len(pace))
        loads = np.array(self.loads)
        idle = np.inf if self.whole else 0.0  # who would send zero has answered at once
        finish = np.where(loads > 0, loads * pace + message, idle)
        time = finish.max(axis=1) if self.one_each else self._coded.completion(finish)
        if self.deadline is None or self._due:
            return time
        first = np.where(loads > 0, finish, np.inf).min(axis=1)
        return np.where(time <= self.deadline, time, np.minimum(time, np.maximum(self.deadline, first)))

    def state_dict(self) -> dict[str, Any]:
        return {
            "shares": self._shares.state_dict(),
            "sum": self._sum.state_dict(),
            "points": self._points.state_dict(),
            "rule": self.rule.state_dict(),
            "smoothness": self.smoothness.state_dict(),
            "past": [None if past is None else [*past.at, past.number, past.scale] for past in self._past],
            "ages": self._ages.tolist(),
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state.get("past", ())) != self.partitions:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self._shares.load_state_dict(state["shares"])
        self._sum.load_state_dict(state["sum"])
        self._points.load_state_dict(state["points"])
        self.rule.load_state_dict(state["rule"])
        self.smoothness.load_state_dict(state["smoothness"])
        self._past = [None if past is None else Origin(Version(*past[:2]), *past[2:]) for past in state["past"]]
        self._ages = np.array(state["ages"], dtype=np.int64)
        # Versions are numbered by it: workers may know those of a run that was given up.
        self._count = max(self._count, int(state["count"]))
