"""LAGC: gradient coding of what has changed.

Source: Zhang and Simeone 2021, of which the abstract was read; both rules here are RECONSTRUCTED (lagc.md 5). Mapping
    of
letters: their M workers and partitions are our N and K, F_r = M − r + 1 the messages that a code of load r waits for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradcode.codes import GradientCode, checks
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
from gradcode.schemes.decoding import packed_sum, squared_norm, weighted_sum
from gradcode.schemes.lazy.rule import Rule
from gradcode.schemes.lazy.voters import Points, Smoothness

if TYPE_CHECKING:
    from torch import Tensor

Mode = Literal["coded", "switch"]


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
    change is added to it. The sum is kept in float64: what rounding it gathers is that of the messages, each relative
    to a change, which become smaller and smaller; there is no table from which it could be added up afresh.

    A worker keeps the gradients that it has computed, for they are taken off later. Those it lacks, because it was
    abandoned or has been started again, it computes anew at the parameters that the master keeps, on the same samples.
    So a lost worker costs time, never a wrong sum.

    Args:
        code: B; of N workers and K partitions. ``"switch"`` needs K = N.
        rule: when a gradient has changed enough; its voters are the partitions.
        smoothness: L_j of the partitions' own objectives. An estimate is of all partitions in a message together, and
            ascribed to each.
        mode: see above.
        minibatches: whether iterations have samples of their own. The smoothness is then estimated from two gradients
            on the same samples, which costs a further gradient of each selected partition.
        oldest: iterations after which a partition is selected anyway; None: none.
        deadline: seconds after which what cannot be decoded counts as unchanged; None: none.
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
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        if mode == "switch" and code.partitions != code.workers:
            raise ValueError(
                f"partitions={code.partitions} must be workers={code.workers} with mode='switch', where each worker "
                f"has one partition of its own"
            )
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
        self._points = Points(self.partitions)
        self._past: list[tuple[Version, int] | None] = [None] * self.partitions  # where, and on which samples
        self._total: Tensor | None = None  # (L,) float64
        self._ages = np.zeros(self.partitions, dtype=np.int64)
        self._count = 0  # starts; they number the versions
        self._shares: dict[tuple[int, ...], list[Combination]] = {}
        self._iteration: Iteration | None = None
        self._selected: tuple[int, ...] | None = None  # None: no iteration has begun
        self._distances: Floats = np.full(self.partitions, np.inf)
        self._here: Tensor | None = None
        self._now: Version | None = None
        self._orders: dict[int, Order] = {}  # worker -> its order
        self._replies: dict[int, Reply] = {}
        self._late, self._first = False, True

    def __repr__(self) -> str:
        mode = "" if self.mode == "coded" else f", mode={self.mode!r}"
        batches = "" if self.minibatches else ", minibatches=False"
        oldest = "" if self.oldest is None else f", oldest={self.oldest}"
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        return f"lagc({self.code!r}, {self.rule!r}{mode}{batches}{oldest}{deadline})"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def selected(self) -> tuple[int, ...]:
        """Partitions whose gradients are sent in this iteration, coded."""
        return self._selected or ()

    @property
    def total(self) -> Tensor | None:
        """Σ_j g_j(θ̂_j), (L,) float64; None before the first iteration."""
        return self._total

    @property
    def loads(self) -> tuple[int, ...]:
        """(N,) selected partitions that each worker computes in this iteration."""
        return tuple(len(share) for share in self._combinations()) if self.selected else (0,) * self.workers

    @property
    def one_each(self) -> bool:
        """Whether each worker that computes has a partition of its own, and all are waited for."""
        return self.mode == "switch" and len(self.selected) <= self.workers - self.code.tolerance

    @property
    def whole(self) -> bool:
        """Whether all partitions are in the messages, so that the sum begins anew."""
        return len(self.selected) == self.partitions or (self.mode == "switch" and not self.one_each)

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.done, self._late, self._iteration = False, False, iteration
        self._replies, self._orders, self._count = {}, {}, self._count + 1
        self._first = self._total is None
        parameters = iteration.step.parameters
        assert parameters is not None
        threshold = self.rule.threshold(iteration.step)
        self._distances = self._points.distances(parameters)
        due = np.isinf(self._distances)
        if self.oldest is not None:
            due |= self._ages >= self.oldest
        with np.errstate(invalid="ignore"):  # inf·0: unknown, but nothing has moved
            changes = np.nan_to_num(self.smoothness.values**2 * self._distances, nan=0.0, posinf=np.inf)
        self._selected = tuple(np.flatnonzero(due | (changes > threshold)).tolist())
        self.done = not self._selected
        if self.done:
            return ()
        self._here = parameters.clone()
        used = {past[0].entry for past in self._past if past is not None}
        self._now = Version(min(set(range(self.partitions + 1)) - used), self._count)
        shares = self._combinations()
        self._orders = {worker: self._order(worker, shares[worker]) for worker in iteration.workers if shares[worker]}
        return [Keep(self._now), *self._orders.values()]

    def _combinations(self) -> list[Combination]:
        """What each worker computes of the selected partitions."""
        chosen = tuple(range(self.partitions)) if self.whole else self.selected
        if self.one_each:
            return [Combination({worker: 1.0} if worker in chosen else {}) for worker in range(self.workers)]
        if chosen not in self._shares:
            if len(self._shares) >= 256:
                self._shares.clear()
            among = set(chosen)
            self._shares[chosen] = [
                Combination({j: value for j, value in share.items() if j in among}) for share in self._coded._shares
            ]
        return self._shares[chosen]

    def _order(self, worker: int, share: Combination) -> Order:
        assert self._iteration is not None
        number = self._iteration.number
        known = {j: past for j in share if (past := self._past[j]) is not None}
        off = () if self.whole else tuple(Past(j, share[j], *past) for j, past in known.items())
        compare = None
        # Without mini-batches it is what is taken off anyway.
        wanted = not self.minibatches or any(self.smoothness.wanted(j, self._count) for j in share)
        if self.smoothness.estimated and wanted and len(known) == len(share):
            samples = {j: number if self.minibatches else past[1] for j, past in known.items()}
            compare = Compare(tuple(Past(j, share[j], known[j][0], samples[j]) for j in known))
        return Order(
            worker,
            self._iteration.serial,
            worker,
            worker,
            share,
            compare=compare,
            subtract=off,
            remember=self._now,
        )

    def receive(self, reply: Reply) -> Sequence[Action]:
        self._replies[reply.order.worker] = reply
        self._settle()
        return ()

    def lose(self, worker: int) -> Sequence[Action]:
        return ()

    def expire(self) -> Sequence[Action]:
        """What cannot be decoded yet counts as unchanged, once everything has been sent once."""
        self._late = True
        self._settle()
        return ()

    def _settle(self) -> None:
        self.done = self._decodable or (self._late and not self._first)

    @property
    def _decodable(self) -> bool:
        assert self._iteration is not None
        if self.one_each:
            return set(self.selected) <= self._replies.keys()
        return self._coded._suffice(self._answered, self._iteration)

    @property
    def _answered(self) -> set[int]:
        """Workers whose message is known: it has come, or it would be zero."""
        if self.whole:
            return set(self._replies)
        shares = self._combinations()
        return {worker for worker in range(self.workers) if worker in self._replies or not shares[worker]}

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        if self.selected and self._decodable:
            self._add(rows, out)
            self._learn()
            assert self._iteration is not None and self._now is not None and self._here is not None
            fresh = range(self.partitions) if self.whole else self.selected
            for j in fresh:
                self._past[j], self._ages[j] = (self._now, self._iteration.number), -1
            self._points.move(fresh, self._here)
        assert self._total is not None
        out.copy_(self._total)
        self._ages += 1
        size = squared_norm(out)
        self.rule.note(size)
        self._judge(size**0.5)

    def _add(self, rows: Tensor, out: Tensor) -> None:
        """Adds the decoded change to the sum, or begins the sum anew."""
        import torch

        if self.one_each:
            weights = np.zeros(self.workers)
            weights[list(self.selected)] = 1.0
        else:
            decoding = self.code.decode(self._answered)
            heard = np.zeros(self.workers, dtype=np.bool_)
            heard[list(self._replies)] = True
            weights = np.where(heard, decoding.weights, 0)
        if self.layout.packed:
            packed_sum(rows, np.asarray(weights, dtype=np.complex128), out)
        else:
            weighted_sum(rows, np.asarray(weights, dtype=np.float64), out)
        if self._total is None or self.whole:
            self._total = out.to(torch.float64, copy=True)
        else:
            self._total += out

    def _learn(self) -> None:
        """A message's change is at most Σ_j |B_ij|·L_j·‖θ̂_j − θ‖."""
        for worker, reply in self._replies.items():
            if reply.order.compare is not None and worker in self._orders:
                way = sum(np.abs(value) * self._distances[j] ** 0.5 for j, value in reply.order.combination.items())
                for j in reply.order.combination:
                    self.smoothness.note(j, reply.change, float(way) ** 2)

    def _judge(self, norm: float) -> None:
        """‖Σ_j g_j(θ̂_j) − g‖ ≤ Σ L_j‖θ̂_j − θ‖ over what is not fresh, and Σ_j ‖g_j‖ ≥ ‖g‖."""
        fresh = range(self.partitions) if self.whole else self.selected
        decoded = bool(self.selected) and self._decodable
        old = [j for j in range(self.partitions) if not decoded or j not in fresh]
        rounding = 0.0 if self.one_each or not decoded else self.code.decode(self._answered).error
        self.exact, self.error = not old, rounding
        if old:
            with np.errstate(invalid="ignore"):
                changes = np.nan_to_num(self.smoothness.values[old] * self._distances[old] ** 0.5, nan=np.inf)
            off = float("inf") if self.minibatches else float(changes.sum())
            self.error += off / (norm - off) if off < norm else float("inf")

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
        shares = self._combinations()
        finish = np.zeros(pace.shape)  # at once, where a worker would send zero
        for worker, share in enumerate(shares):
            order = self._orders.get(worker)
            twice = order is not None and order.compare is not None and self.minibatches
            if share:
                finish[:, worker] = len(share) * (2 if twice else 1) * pace[:, worker] + message[:, worker]
            elif self.whole:
                finish[:, worker] = np.inf
        time = finish.max(axis=1) if self.one_each else self._coded._completion(finish)
        if self.deadline is None or self._first:
            return time
        return np.minimum(time, self.deadline)

    def state_dict(self) -> dict[str, Any]:
        return {
            "total": None if self._total is None else self._total.clone(),
            "points": self._points.state_dict(),
            "rule": self.rule.state_dict(),
            "smoothness": self.smoothness.state_dict(),
            "past": [None if past is None else [*past[0], past[1]] for past in self._past],
            "ages": self._ages.tolist(),
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state.get("past", ())) != self.partitions:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self._total = state["total"]
        self._points.load_state_dict(state["points"])
        self.rule.load_state_dict(state["rule"])
        self.smoothness.load_state_dict(state["smoothness"])
        self._past = [None if past is None else (Version(*past[:2]), past[2]) for past in state["past"]]
        self._ages, self._count = np.array(state["ages"], dtype=np.int64), int(state["count"])
