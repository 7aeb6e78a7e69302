"""LAG and G-LAG: a voter, which is a worker or a group of them, sends its gradient only if it has changed.

Sources: Chen, Giannakis, Sun, Yin 2018 (LAG; its abstract and released code were read), Zhang and Simeone 2021 (G-LAG;
the abstract was read), Zhu, Zhang, Simeone, Wang 2022 (mini-batches; abstract and released script were read): lagc.md
3, 4, 8.
Mapping of letters: their M workers are our N, M/r groups of r workers; one unit of work is a partition.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gradcode.codes import checks
from gradcode.protocol import (
    Abandon,
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
from gradcode.schemes.decoding import squared_norm
from gradcode.schemes.grouping import not_a_divisor
from gradcode.schemes.lazy.rule import Rule
from gradcode.schemes.lazy.voters import Points, Smoothness, Table

if TYPE_CHECKING:
    from torch import Tensor

Side = Literal["worker", "server"]


class Groups:
    """N/r groups of r workers; all of a group compute the same sum of its partitions, and the first one answers for it.

    The gradient is Σ_g ĝ_g, of what each group sent last; a group sends again if its gradient has changed enough. On
    the side of the ``"worker"`` all compute, compare with what their group sent last, and may answer by a skip. On the
    side of the ``"server"`` the change is bounded by L_g·‖θ̂_g − θ‖, and groups that are not selected are not even sent
    the parameters.

    Mini-batches change their gradients even if nothing has been learnt. So with them a group's gradients at two
    parameters are compared, those of now and those of its last upload, both on the samples of now (CADA's rule,
    RECONSTRUCTED in lagc.md 8). That costs a second gradient each time. Without mini-batches what is compared is what
    was sent.

    What a group sent stays with the master, and so do the parameters it was computed at. A lost worker takes nothing
    with it: a group's answer is the same whoever of it answers.

    Args:
        workers: N.
        redundancy: r, a divisor of N; 1: every worker is a group of its own.
        rule: when a gradient has changed enough; its voters are the groups.
        side: who applies the rule.
        smoothness: L_g of the groups' own objectives, for the server's side.
        minibatches: whether iterations have samples of their own, see above. On the server's side this is how the
            smoothness is estimated.
        oldest: iterations after which a group sends anyway; None: none.
        partitions: K ≥ N/r, cut into runs of nearly equal length, one per group; None: N.
        deadline: seconds after which groups that have not answered count as unchanged; None: none.
        notice: how long a skip takes, as a share of a message's time; for :meth:`duration` alone.
    """

    error = float("nan")
    exact = False
    done = True

    def __init__(
        self,
        workers: int,
        redundancy: int,
        rule: Rule,
        side: Side = "worker",
        smoothness: Smoothness | None = None,
        *,
        minibatches: bool = True,
        oldest: int | None = None,
        partitions: int | None = None,
        deadline: float | None = None,
        notice: float = 0.0,
    ) -> None:
        self.workers = checks.integer("workers", workers, 1)
        self.redundancy = checks.integer("redundancy", redundancy, 1, self.workers)
        if self.workers % self.redundancy:
            raise ValueError(not_a_divisor(self.workers, self.redundancy))
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        if not notice >= 0:
            raise ValueError(f"notice={notice!r} must be a share of a message's time, 0 or more")
        self.groups = self.workers // self.redundancy
        total = self.workers if partitions is None else checks.integer("partitions", partitions, self.groups)
        cuts = checks.even_cuts(total, self.groups).tolist()
        self.partitions, self.deadline, self._notice = total, deadline, notice
        self.rule, self.side, self.minibatches = rule, side, minibatches
        self.oldest = None if oldest is None else checks.integer("oldest", oldest, 1)
        self.smoothness = Smoothness(self.groups, None) if smoothness is None else smoothness
        self._shards = [Combination(dict.fromkeys(range(start, stop), 1.0)) for start, stop in pairwise(cuts)]
        self._members = [range(group * self.redundancy, (group + 1) * self.redundancy) for group in range(self.groups)]
        measured = self.smoothness.estimated and minibatches
        self._compares = side == "worker" or measured
        # At kept parameters, or with kept vectors; one entry is for the parameters of now.
        self._revisits = self._compares and minibatches
        kept = self.groups + 1 if self._revisits else self.groups if self._compares else 0
        self.layout = Layout(
            rows=self.workers,
            slots=self.workers,
            kept=kept,
            history=rule.history,
            stale=True,
        )
        self._table = Table(np.ones(self.groups))
        self._points = Points(self.groups)
        self._kept: list[Version | None] = [None] * self.groups  # what each group is compared with
        self._origins: dict[int, int] = {}  # group -> who has sent what is not kept yet
        self._ages = np.zeros(self.groups, dtype=np.int64)
        self._count = 0  # starts; they number the versions
        self._iteration: Iteration | None = None
        self._here: Tensor | None = None  # parameters of this iteration
        self._distances: Floats = np.full(self.groups, np.inf)
        self._now: Version | None = None
        self._asked: list[int] | None = None  # groups; None: no iteration has begun
        self._compared: dict[int, Compare | None] = {}  # of those asked
        self._new: set[int] = set()  # groups that had sent nothing before this iteration
        self._replies: dict[int, Reply] = {}  # group -> the first
        self._late = False

    def __repr__(self) -> str:
        name = "lag" if self.redundancy == 1 else "glag"
        group = "" if self.redundancy == 1 else f", redundancy={self.redundancy}"
        partitions = "" if self.partitions == self.workers else f", partitions={self.partitions}"
        return f"{name}(workers={self.workers}{group}, rule={self.side!r}, {self.rule!r}{partitions}{self._options})"

    @property
    def _options(self) -> str:
        batches = "" if self.minibatches else ", minibatches=False"
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        oldest = "" if self.oldest is None else f", oldest={self.oldest}"
        return f"{batches}{oldest}{deadline}"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def awaits(self) -> int:
        """Replies that must still come at least; see :class:`gradcode.protocol.Scheme`."""
        if self._late or self.redundancy > 1 or self._asked is None:
            return 1  # the others of a group are told at once that nobody needs them
        return max(1, len(self._asked) - len(self._replies))

    @property
    def asked(self) -> tuple[int, ...]:
        """Groups that had orders in this iteration; all, before the first."""
        return tuple(range(self.groups)) if self._asked is None else tuple(self._asked)

    @property
    def selected(self) -> tuple[int, ...]:
        """Groups whose gradient was sent in this iteration."""
        return tuple(sorted(group for group, reply in self._replies.items() if reply.payload is not None))

    @property
    def stored(self) -> Tensor | None:
        """ĝ, (N/r, L): what each group sent last; None before the first iteration."""
        return self._table.rows

    @property
    def total(self) -> Tensor | None:
        """Σ_g ĝ_g, (L,)."""
        return self._table.total

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.done, self._late, self._iteration = False, False, iteration
        self._replies, self._count = {}, self._count + 1
        stored = self._table.stored
        due = ~stored if self.oldest is None else ~stored | (self._ages >= self.oldest)
        threshold = self.rule.threshold(iteration.step)
        asked = np.ones(self.groups, dtype=np.bool_)
        if self.side == "server":
            assert iteration.step.parameters is not None
            self._distances = self._points.distances(iteration.step.parameters)
            with np.errstate(invalid="ignore"):  # inf·0: unknown, but nothing has moved
                changes = np.nan_to_num(self.smoothness.values**2 * self._distances, nan=0.0, posinf=np.inf)
            asked = due | (changes > threshold)
            self._here = iteration.step.parameters.clone() if asked.any() else None
        self._asked = np.flatnonzero(asked).tolist()
        self._new = set(np.flatnonzero(~stored).tolist())
        self._compared = {group: None if due[group] else self._against(group, threshold) for group in self._asked}
        self.done = not self._asked
        if self.done:
            return ()
        orders: list[Action] = [
            Order(
                worker,
                iteration.serial,
                worker,
                worker,
                self._shards[group],
                compare=self._compared[group],
            )
            for group in self._asked
            for worker in self._members[group]
            if worker in iteration.workers
        ]
        return [*self._keep(), *orders]

    def _against(self, group: int, threshold: float) -> Compare | None:
        """What a group's gradient is compared with."""
        kept = self._kept[group]
        if kept is None or not self._compares:
            return None
        if self.side == "server" and not self.smoothness.wanted(group, self._count):
            return None
        if not self._revisits:
            return Compare(kept, threshold)
        assert self._iteration is not None
        past = tuple(Past(j, share, kept, self._iteration.number) for j, share in self._shards[group].items())
        return Compare(past, threshold if self.side == "worker" else None)

    def _keep(self) -> list[Action]:
        """The parameters of now, if they will be looked at again; or what groups have sent since the last start."""
        if self._revisits:
            used = {kept.entry for kept in self._kept if kept is not None}
            self._now = Version(min(set(range(self.groups + 1)) - used), self._count)
            return [Keep(self._now)]
        actions: list[Action] = []
        if self._compares and self._table.rows is not None:
            for group, origin in self._origins.items():
                kept = self._kept[group]
                assert kept is not None
                actions.append(Keep(kept, self._table.rows[group], origin))
        self._origins = {}
        return actions

    def receive(self, reply: Reply) -> Sequence[Action]:
        group = reply.order.worker // self.redundancy
        if group in self._replies:
            return ()
        self._replies[group] = reply
        self._settle()
        others = tuple(worker for worker in self._members[group] if worker != reply.order.worker)
        return [Abandon(others)] if others else ()

    def lose(self, worker: int) -> Sequence[Action]:
        return ()

    def expire(self) -> Sequence[Action]:
        """Groups that have not answered count as unchanged, once each has sent something."""
        self._late = True
        self._settle()
        return ()

    def _settle(self) -> None:
        assert self._asked is not None
        left = [group for group in self._asked if group not in self._replies]
        self.done = not left or (self._late and all(self._table.stored[group] for group in left))

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        assert self._asked is not None
        sent = {group: self._replies[group].order.worker for group in self.selected}
        fresh = {group: rows[worker] for group, worker in sent.items()}
        self._learn(fresh)
        self._table.take(fresh, out)
        self._sum(rows, out)
        self._ages += 1
        for group, worker in sent.items():
            self._ages[group] = 0
            if self._revisits:
                self._kept[group] = self._now
            elif self._compares:
                self._kept[group], self._origins[group] = Version(group, self._count), worker
        if self._here is not None:
            self._points.move(fresh, self._here)
        size = squared_norm(out)
        self.rule.note(size)
        self._judge(rows, out, size**0.5)

    def _sum(self, rows: Tensor, out: Tensor) -> None:
        assert self._table.total is not None
        out.copy_(self._table.total)

    def _learn(self, fresh: dict[int, Tensor]) -> None:
        """How much the gradients have changed, for estimates of their smoothness."""
        if self.side == "worker" or not self.smoothness.estimated:
            return
        for group, row in fresh.items():
            change = self._replies[group].change if self._revisits else self._table.change(group, row)
            self.smoothness.note(group, change, float(self._distances[group]))

    def _judge(self, rows: Tensor, out: Tensor, norm: float) -> None:
        """‖Σ_g ĝ_g − g‖ ≤ Σ ‖change of what was not sent‖, and Σ_j ‖g_j‖ ≥ ‖g‖."""
        import torch

        unit = max(torch.finfo(own.dtype).eps for own in (rows, out)) / 2
        steps = self.groups + max(map(len, self._shards)) + 3
        old = [group for group in range(self.groups) if group not in self.selected]
        self.exact, self.error = not old, steps * unit / (1 - steps * unit)
        if not old:
            return
        off = sum(map(self._change, old))
        self.error += off / (norm - off) if off < norm else float("inf")

    def _change(self, group: int) -> float:
        """A bound on how far a group's stored gradient is from its present one; inf: none is known."""
        if self.minibatches:  # what is stored is of other samples
            return float("inf")
        if group in self._replies:
            return float(np.sqrt(self._replies[group].change))
        if self.side == "server":
            bound = float(self.smoothness.values[group] * self._distances[group] ** 0.5)
            return float("inf") if np.isnan(bound) else bound
        return float("inf")

    # How long it takes, and what outlives an iteration

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, N) per message -> (samples,).

        Of one like the last: of the groups that were asked in it, the latest of which each's quickest worker brings the
        answer; of all groups, before the first. Equal, draw by draw, to the event-by-event simulation with instant
        abandoning, as far as a skip takes ``notice`` of a message's time. Nobody asked: 0.
        """
        pace, time = compute[:, :, 0], np.zeros(len(compute))
        needed = np.zeros(len(compute))  # of groups that have sent nothing before
        for group in self.asked:
            members = list(self._members[group])
            reply = self._replies.get(group)
            message = communicate[:, members]
            if reply is not None and reply.payload is None:
                message = self._notice * message if self._notice else np.zeros(message.shape)
            first = (self._load(group) * pace[:, members] + message).min(axis=1)
            time = np.maximum(time, first)
            if group in self._new:
                needed = np.maximum(needed, first)
        if self.deadline is None:
            return time
        return np.where(time <= self.deadline, time, np.maximum(self.deadline, needed))

    def _load(self, group: int) -> int:
        """Gradients that a worker of the group computes."""
        twice = self._revisits and self._compared.get(group) is not None
        return len(self._shards[group]) * (2 if twice else 1)

    def state_dict(self) -> dict[str, Any]:
        return {
            "table": self._table.state_dict(),
            "points": self._points.state_dict(),
            "rule": self.rule.state_dict(),
            "smoothness": self.smoothness.state_dict(),
            "kept": [None if kept is None else list(kept) for kept in self._kept],
            "origins": [[group, worker] for group, worker in self._origins.items()],
            "ages": self._ages.tolist(),
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state.get("kept", ())) != self.groups:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self._table.load_state_dict(state["table"])
        self._points.load_state_dict(state["points"])
        self.rule.load_state_dict(state["rule"])
        self.smoothness.load_state_dict(state["smoothness"])
        self._kept = [None if kept is None else Version(*kept) for kept in state["kept"]]
        self._origins = dict(state["origins"])
        self._ages, self._count = np.array(state["ages"], dtype=np.int64), int(state["count"])
