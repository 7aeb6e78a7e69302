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
import numpy.typing as npt

from gradcode.codes import checks
from gradcode.codes.stability import growth
from gradcode.protocol import (
    Abandon,
    Action,
    Combination,
    Compare,
    Floats,
    Iteration,
    Layout,
    Order,
    Reply,
    Scheme,
)
from gradcode.schemes.decoding import squared_norm, unit_of
from gradcode.schemes.grouping import groups_of
from gradcode.schemes.lazy.references import LastPoints, LastSent, NoReferences, References
from gradcode.schemes.lazy.rule import Rule
from gradcode.schemes.lazy.voters import Points, Shares, Smoothness, Table

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
        self.groups = groups_of(workers, redundancy)
        self.workers, self.redundancy = workers, redundancy
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        if not notice >= 0:
            raise ValueError(f"notice={notice!r} must be a share of a message's time, 0 or more")
        total = self.workers if partitions is None else checks.integer("partitions", partitions, self.groups)
        cuts = checks.even_cuts(total, self.groups).tolist()
        self.partitions, self.deadline, self._notice = total, deadline, notice
        self.rule, self.side, self.minibatches = rule, side, minibatches
        self.oldest = None if oldest is None else checks.integer("oldest", oldest, 1)
        self.smoothness = Smoothness(self.groups, None) if smoothness is None else smoothness
        self._shards = [Combination(dict.fromkeys(range(start, stop), 1.0)) for start, stop in pairwise(cuts)]
        self._members = [range(group * self.redundancy, (group + 1) * self.redundancy) for group in range(self.groups)]
        self._references: References = NoReferences(self.groups)
        if minibatches and (side == "worker" or self.smoothness.estimated):
            self._references = LastPoints(self.groups)
        elif side == "worker":
            self._references = LastSent(self.groups)
        self.layout = Layout(
            rows=self.workers,
            slots=self.workers,
            kept=self._references.entries,
            history=rule.history,
            stale=True,
        )
        self._shares = Shares(self.partitions)
        self._table = Table(np.ones(self.groups))
        self._points = Points(self.groups)
        self._ages = np.zeros(self.groups, dtype=np.int64)  # iterations since each was sent
        self._count = 0  # starts
        self._iteration: Iteration | None = None
        self._here: Tensor | None = None  # parameters of this iteration
        self._distances: Floats = np.full(self.groups, np.inf)
        self._asked: list[int] | None = None  # groups; None: no iteration has begun
        self._compared: dict[int, Compare | None] = {}  # of those asked
        self._due: set[int] = set()  # groups that are waited for beyond the deadline
        self._usual = True  # partitions have the samples that they mostly have
        self._replies: dict[int, Reply] = {}  # group -> the first
        self._expired = 0

    def __repr__(self) -> str:
        name = "lag" if self.redundancy == 1 else "glag"
        group = "" if self.redundancy == 1 else f", redundancy={self.redundancy}"
        partitions = "" if self.partitions == self.workers else f", partitions={self.partitions}"
        return f"{name}(workers={self.workers}{group}, rule={self.side!r}, {self.rule!r}{partitions}{self._options})"

    @property
    def _options(self) -> str:
        given = self.side == "server" and not self.smoothness.estimated
        smoothness = f", smoothness={self.smoothness!r}" if given else ""
        batches = "" if self.minibatches else ", minibatches=False"
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        oldest = "" if self.oldest is None else f", oldest={self.oldest}"
        return f"{smoothness}{batches}{oldest}{deadline}"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def awaits(self) -> int:
        """Replies that must still come at least; see :class:`gradcode.protocol.Scheme`."""
        if self._expired or self.redundancy > 1 or self._asked is None:
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
    def due(self) -> frozenset[int]:
        """Groups that are waited for beyond the deadline."""
        return frozenset(self._due)

    @property
    def total(self) -> Tensor | None:
        """Σ_g ĝ_g, (L,)."""
        return self._table.total

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.done, self._expired, self._iteration = False, 0, iteration
        self._replies, self._count = {}, self._count + 1
        threshold, new = self.rule.threshold(iteration.step), ~self._table.stored
        shares, whole = self._weighted(iteration)
        due = new if self.oldest is None else new | (self._ages >= self.oldest)
        self._asked = np.flatnonzero(new | (whole & (due | self._changed(iteration, threshold)))).tolist()
        self._due = set(np.flatnonzero(due).tolist())
        self.done = not self._asked
        if self.done:
            return ()
        self._compared = {
            group: None if new[group] else self._against(group, shares[group], threshold, bool(due[group]))
            for group in self._asked
        }
        orders = [
            Order(worker, iteration.serial, worker, worker, shares[group], compare=self._compared[group])
            for group in self._asked
            for worker in self._members[group]
            if worker in iteration.workers
        ]
        return [*self._references.keep(self._count, self._table), *orders]

    def _weighted(self, iteration: Iteration) -> tuple[list[Combination], npt.NDArray[np.bool_]]:
        """Each group's share, with the weights that partitions always have; and who has samples of all of its own."""
        scales = self._shares.scales(iteration.sizes)
        self._usual = bool(np.all(scales == 1.0))
        if self._usual:
            return self._shards, np.ones(self.groups, dtype=np.bool_)
        shares = [Combination({j: value * scales[j] for j, value in own.items() if scales[j]}) for own in self._shards]
        whole = [len(share) == len(own) for share, own in zip(shares, self._shards, strict=True)]
        return shares, np.array(whole)

    def _changed(self, iteration: Iteration, threshold: float) -> npt.NDArray[np.bool_]:
        """Whose gradient may have changed enough, as far as the master knows."""
        if self.side == "worker":
            return np.ones(self.groups, dtype=np.bool_)
        assert iteration.step.parameters is not None
        self._here = iteration.step.parameters.clone()
        self._distances = self._points.distances(self._here)
        return self.smoothness.changes(self._distances) > threshold

    def _against(self, group: int, share: Combination, threshold: float, due: bool) -> Compare | None:
        """What a group's gradient is compared with, and whether it is sent anyway."""
        if self.side == "server" and not self.smoothness.wanted(group, self._count):
            return None
        if self.side == "worker" and due:
            return None
        assert self._iteration is not None
        only = threshold if self.side == "worker" else None
        return self._references.against(group, share, self._iteration.number, only)

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
        """Groups that have not answered count as unchanged, if they have sent something before.

        At the deadline somebody must have answered, and groups that are due are waited for. Where there is none, or it
        has passed before, nobody is left that could answer.
        """
        self._expired += 1
        self._settle()
        return ()

    def _settle(self) -> None:
        assert self._asked is not None
        missing = {group for group in self._asked if group not in self._replies}
        left = self._expired > (self.deadline is not None)
        late = left or (self._expired > 0 and bool(self._replies) and not missing & self._due)
        self.done = not missing or (late and all(self._table.stored[group] for group in missing))

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        assert self._asked is not None
        sent = {group: self._replies[group].order.worker for group in self.selected}
        fresh = {group: rows[worker] for group, worker in sent.items()}
        self._learn(fresh)
        self._table.take(fresh, out)
        self._sum(rows, out)
        for group, worker in sent.items():
            self._ages[group] = 0
            self._references.sent(group, worker, self._count)
        self._ages += 1
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
            change = self._replies[group].change if self.minibatches else self._table.change(group, row)
            self.smoothness.note(group, change, float(self._distances[group]))

    def _judge(self, rows: Tensor, out: Tensor, norm: float) -> None:
        """‖Σ_g ĝ_g − g‖ ≤ Σ ‖change of what was not sent‖, and Σ_j ‖g_j‖ ≥ ‖g‖."""
        steps = self.groups + max(map(len, self._shards)) + 3
        old = [group for group in range(self.groups) if group not in self.selected]
        self.exact, self.error = not old and self._usual, growth(steps, unit_of(rows, out))
        if self.exact:
            return
        off = sum(map(self._change, old)) if self._usual else float("inf")
        self.error += off / (norm - off) if off < norm else float("inf")

    def _change(self, group: int) -> float:
        """A bound on how far a group's stored gradient is from its present one; inf: none is known."""
        if self.minibatches:  # what is stored is of other samples
            return float("inf")
        if group in self._replies:
            return float(np.sqrt(self._replies[group].change))
        if self.side == "server" and not self.smoothness.estimated:
            return float(np.sqrt(self.smoothness.changes(self._distances)[group]))
        return float("inf")

    # How long it takes, and what outlives an iteration

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration, (samples, N, stages) and (samples, N) per message -> (samples,).

        Of one like the last: of the groups that were asked in it, the latest of which each's quickest worker brings the
        answer; of all groups, before the first. Equal, draw by draw, to the event-by-event simulation with instant
        abandoning, as far as a skip takes ``notice`` of a message's time. Nobody asked: 0.
        """
        pace, time = compute[:, :, 0], np.zeros(len(compute))
        first, needed = np.full(len(compute), np.inf), np.zeros(len(compute))
        for group, load in zip(self.asked, self.loads, strict=True):
            members = list(self._members[group])
            reply = self._replies.get(group)
            message = communicate[:, members]
            if reply is not None and reply.payload is None:
                message = self._notice * message if self._notice else np.zeros(message.shape)
            answer = (load * pace[:, members] + message).min(axis=1)
            time, first = np.maximum(time, answer), np.minimum(first, answer)
            if group in self._due:
                needed = np.maximum(needed, answer)
        if self.deadline is None or not self.asked:
            return time
        late = np.maximum.reduce([np.full(len(compute), self.deadline), first, needed])
        return np.where(time <= self.deadline, time, late)

    @property
    def loads(self) -> tuple[int, ...]:
        """Gradients that each of a group that is asked computes, in the order of ``asked``."""
        twice = [self._references.twice and self._compared.get(group) is not None for group in self.asked]
        return tuple(len(self._shards[group]) * (1 + own) for group, own in zip(self.asked, twice, strict=True))

    def state_dict(self) -> dict[str, Any]:
        return {
            "shares": self._shares.state_dict(),
            "table": self._table.state_dict(),
            "points": self._points.state_dict(),
            "rule": self.rule.state_dict(),
            "smoothness": self.smoothness.state_dict(),
            "references": self._references.state_dict(),
            "ages": self._ages.tolist(),
            "count": self._count,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state.get("ages", ())) != self.groups:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self._shares.load_state_dict(state["shares"])
        self._table.load_state_dict(state["table"])
        self._points.load_state_dict(state["points"])
        self.rule.load_state_dict(state["rule"])
        self.smoothness.load_state_dict(state["smoothness"])
        self._references.load_state_dict(state["references"])
        self._ages = np.array(state["ages"], dtype=np.int64)
        # Versions are numbered by it: workers may know those of a run that was given up.
        self._count = max(self._count, int(state["count"]))
