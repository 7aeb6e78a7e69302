"""The master's rules: begin without redundancy, and code only what is missing when the others have finished."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from gradcode.codes import checks
from gradcode.codes.second_stage import KINDS
from gradcode.codes.stability import EXACT, growth
from gradcode.delays import SpeedHistory
from gradcode.protocol import Abandon, Action, Combination, Floats, Iteration, Layout, Order, Reply, Scheme
from gradcode.schemes.decoding import weighted_sum
from gradcode.schemes.two_stage import course
from gradcode.schemes.two_stage.cover import MODES, POOLS, Cover, Rules
from gradcode.schemes.two_stage.plan import GRANULARITIES, RULES, Granularity, Plan, Waiting, assign
from gradcode.schemes.two_stage.progress import Progress

if TYPE_CHECKING:
    from torch import Tensor

_PLANS = 64  # stage 2 of so many sets of late workers is kept


class TwoStage:
    """Two stages: partitions without redundancy first, then a code over what is missing.

    **Stage 1.** The ``active`` fastest workers share the partitions, each in one worker's hands alone, in proportion to
    their estimated speeds; the others stand by. It ends when all have reported, after T₁ (``waiting``), or with the
    report number ``completions``.

    **Stage 2.** What late workers have is missing; the pool computes it again, each partition on s₂ + 1 workers, with
    coefficients that give the sum whichever s₂ of them are lost. Late workers are not stopped: theirs counts if it
    comes. The iteration ends with the first message that makes the sum of what is missing decodable.

    With mode "any_s" and N − active ≥ s (pool "fresh") the gradient is exact whichever s workers never answer: if none
    of them is late in stage 1, all of stage 1 comes in the end; else at most s − 1 of the pool are missing.

    **Replication.** With d₁ > 1 groups of d₁ workers or a few more have the same partitions in stage 1. The first of a
    group to report is enough, and the others of it stop; only what no group has reported is missing. If that never
    comes by itself, d₁ workers never answer, so with mode "any_s" only s − d₁ of the pool may be lost. (OURS: the spec
    names replication, not how, two_stage.md 10.) It does not go with granularity "partition".

    A lost worker is a straggler until it is back; more than s that do not come back are a shortfall, unless
    :func:`gradcode.schemes.elastic` begins anew without them.

    **Granularity "partition".** Workers hold the gradient of each partition that they have finished, say so, and send
    the sum with the last one, as ever. A late worker that has reported some is asked for the sum of these and of the
    one it is at, so that only what it has not begun is missing. With that it goes on, and sends it in a second message,
    which counts if it comes. One that at its pace will be at it for longer than stage 2 would take without it is left
    alone, and all of its part is missing, as ever. There is no more than one message per worker and stage, but a notice
    for each partition.

    **Who has reported must live to send its sum**, of which there is no copy: a lost worker computes it again when it
    is back, but one that falls silent is not made up for. The gradient is exact whichever s workers never answer as
    long as these have reported nothing. (OURS: that what it is at is not missing, for no sum can come before that, and
    that slow ones are left alone.)

    Slots and rows: i for worker i's part of stage 1, N + i for that of stage 2 and for what a late worker does after
    its sum. Slots 2N + i: that sum, in row i; 3N + j: partition j, held. The speeds of an iteration, the time of its
    messages included, are learned at the next ``start``.

    **Every worker may be asked for any partition**, so all must be able to read all data, as with
    ``sampling="global"``; what that moves is the ``missing``·(s₂ + 1) partitions of stage 2.

    Args:
        workers: N.
        partitions: K.
        active: M₁ < N, or N.
        waiting: T₁; where nothing is known for it yet, M₁ − s reports begin stage 2 (OURS).
        completions: c; 0: only T₁ does.
        rules: of stage 2.
        deadline: T_max, seconds after which the least squares of what has come is taken; None: none.
        weight: of the newest speed in the estimates; None: all workers are taken to be equally fast.
        granularity: what is missing of a late worker's part: "worker": all of it; "partition": what it has not begun,
            if it has reported any.
        notice: how long saying that a partition is done takes, as a share of a message's time; for :meth:`duration`
            alone.

    Raises:
        ValueError: an argument is out of its range.
    """

    error = float("nan")
    exact = False
    done = True

    def __init__(
        self,
        workers: int,
        partitions: int,
        active: int,
        waiting: Waiting,
        completions: int = 0,
        rules: Rules | None = None,
        deadline: float | None = None,
        weight: float | None = 0.3,
        granularity: Granularity = "worker",
        notice: float = 0.0,
    ) -> None:
        self.workers = checks.integer("workers", workers, 1)
        self.partitions = checks.integer("partitions", partitions, 1)
        self.active = checks.integer("active", active, 1, workers, f"there are {workers} workers")
        self.completions = checks.integer("completions", completions, 0, active - 1, f"active={active} report")
        self.rules = Rules(0) if rules is None else rules
        checks.integer("stragglers", self.rules.stragglers, 0, workers - 1, f"one of workers={workers} must answer")
        checks.choice("pool", self.rules.pool, POOLS)
        checks.choice("mode", self.rules.mode, MODES)
        checks.choice("coefficients", self.rules.coefficients, KINDS)
        checks.choice("rule", waiting.rule, RULES)
        checks.integer("replication", self.rules.replication, 1, active, f"active={active} begin")
        if self.rules.replication > 1 and granularity == "partition":
            raise ValueError(
                f'replication={self.rules.replication} must be 1 with granularity="partition": what a worker has '
                f"reported would be counted for all that have it"
            )
        self.granularity = checks.choice("granularity", granularity, GRANULARITIES)
        if not notice >= 0:
            raise ValueError(f"notice={notice!r} must be a share of a message's time, 0 or more")
        if deadline is not None and not deadline > 0:
            raise ValueError(f"deadline={deadline!r} must be a positive number of seconds, or None to have none")
        self.waiting, self._end, self._notice = waiting, deadline, notice
        self.deadline = deadline
        self.learns = weight is not None
        self.history = SpeedHistory(workers, 0.3 if weight is None else weight)
        slots = 2 * workers if granularity == "worker" else 3 * workers + partitions
        self.layout = Layout(rows=2 * workers, slots=slots)
        self._covers: dict[tuple[Any, ...], Cover | None] = {}
        self._plan: Plan | None = None
        self._iteration: Iteration | None = None
        self._watched: list[tuple[int, float, float, bool]] = []  # of an iteration in a checkpoint
        self._begin()

    def __repr__(self) -> str:
        given = [f"workers={self.workers}", f"partitions={self.partitions}", f"stragglers={self.rules.stragglers}"]
        given += [f"active={self.active}", f"rule={self.waiting.rule!r}"]
        given += [f"wait={self.waiting.seconds}"] if self.waiting.seconds is not None else []
        given += [f"pool={self.rules.pool!r}", f"mode={self.rules.mode!r}"]
        given += ["granularity='partition'"] if self.granularity == "partition" else []
        given += [f"replication={self.rules.replication}"] if self.rules.replication > 1 else []
        return f"two_stage({', '.join(given)})"

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def awaits(self) -> int:
        """Replies that must still come at least; see :class:`gradcode.protocol.Scheme`."""
        if self._plan is None or self._staged or self._final:
            return 1
        expected = len(self._plan.shared)
        return max(1, (self._plan.completions or expected) - len(self._first))

    @property
    def late(self) -> tuple[int, ...]:
        """The workers that had not reported when stage 1 ended, in this iteration or the last one."""
        return () if self._cover is None else self._cover.late

    @property
    def missing(self) -> tuple[int, ...]:
        """Their partitions that stage 2 has computed."""
        return () if self._cover is None else self._cover.columns

    @property
    def tolerance_reduced(self) -> bool:
        """Whether the pool was too small for the tolerance that the mode asks for."""
        return self._cover is not None and self._cover.reduced

    # One iteration

    def _begin(self) -> None:
        self._first: dict[int, float] = {}  # worker -> when its message of stage 1 came
        self._second: dict[int, float] = {}
        self._progress: Progress | None = None
        self._owing: set[int] = set()  # late workers whose sum has not come
        self._cover: Cover | None = None
        self._staged = self._final = False
        self._now = self._stage2 = 0.0
        self._arrived = 0

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._learn()
        self._begin()
        self.done, self._iteration = False, iteration
        plan = self._prepare(iteration.target, iteration.workers, iteration.away)
        self.deadline = self._sooner(plan.wait) if self._pool_at_best(plan) else self._end
        if self.granularity == "worker":
            return [self._order(worker, 0, dict.fromkeys(part, 1.0)) for worker, part in plan.parts.items()]
        self._progress, orders = Progress(plan.parts), list[Action]()
        for worker, part in plan.parts.items():
            orders += [self._hold(worker, partition) for partition in part[:-1]]
            orders.append(self._sum(worker, worker, part))
        return orders

    def receive(self, reply: Reply) -> Sequence[Action]:
        assert self._plan is not None
        worker, slot = reply.order.worker, reply.order.slot
        self._now = max(self._now, reply.time)
        if self._progress is not None and reply.order.hold:
            (partition,) = reply.order.combination
            self._progress.report(worker, partition, reply.time)
            return ()
        first = not self.workers <= slot < 2 * self.workers
        (self._first if first else self._second)[worker] = reply.time
        if self._cover is not None:
            if first and worker in self._owing:
                self._owing.discard(worker)
            else:
                self._arrived |= self._cover.bits[worker]
            self.done = self._final or (not self._owing and self._cover.decodable(self._arrived))
        else:
            self.done = self._final or len(self._first) == len(self._plan.shared)
            mates = tuple(own for own in self._plan.group_of[worker] if own != worker)
            actions: list[Action] = [Abandon(mates)] if mates else []
            if not self.done and not self._staged and len(self._first) == self._plan.completions:
                actions += self._stage_two()
            return actions
        return ()

    def lose(self, worker: int) -> Sequence[Action]:
        """A straggler, in whichever stage; what it was asked for is given again if it comes back."""
        if self._progress is not None and not self._staged:
            self._progress.forget(worker)
        return ()

    def expire(self) -> Sequence[Action]:
        """T₁, or the deadline after which the least squares of what has come is taken."""
        self._now = max(self._now, self.deadline or 0.0)
        if not self._staged and self.deadline is not None and self.deadline != self._end:
            return self._stage_two()
        self._final = True
        self.done = bool(self._first or self._second)
        return ()

    def _stage_two(self) -> Sequence[Action]:
        assert self._plan is not None
        self._staged, self.deadline, self._stage2 = True, self._end, self._now
        late = tuple(worker for group in self._plan.shared if self._first.keys().isdisjoint(group) for worker in group)
        sums: dict[int, tuple[int, ...]] = {}
        if self._progress is not None:
            limit = self._now * (1 + self.rules.length(self._plan, len(late)))
            sums = {worker: own for worker in late if (own := self._progress.counted(worker, limit))}
        self._cover = self._cover_of(late, sums)
        if self._cover is None:
            return ()
        columns, orders = self._cover.columns, self._ask(self._cover)
        for worker, row in zip(self._cover.pool, self._cover.rows, strict=False):
            held = np.flatnonzero(row).tolist()
            if held:
                orders.append(self._order(worker, 1, {columns[j]: float(row[j]) for j in held}))
        return orders

    def _ask(self, cover: Cover) -> list[Action]:
        """Late workers are asked for their sums, and then go on with what is left; who is at its last has its order."""
        self._owing = set(cover.sums)
        actions: list[Action] = []
        for worker, own in cover.sums.items():
            if worker in cover.left:
                assert self._progress is not None
                held = [3 * self.workers + partition for partition in self._progress.later(worker)]
                actions.append(Abandon((*held, worker)))
                actions.append(self._sum(worker, 2 * self.workers + worker, own))
                actions.append(self._sum(worker, self.workers + worker, cover.left[worker]))
        return actions

    def _hold(self, worker: int, partition: int) -> Order:
        assert self._iteration is not None
        slot, single = 3 * self.workers + partition, Combination({partition: 1.0})
        return Order(worker, self._iteration.serial, slot, worker, single, hold=True)

    def _sum(self, worker: int, slot: int, partitions: Sequence[int]) -> Order:
        """Of partitions some of which may be held: those with a coefficient for each part of the message, the one."""
        assert self._iteration is not None
        combination = Combination(dict.fromkeys(partitions, (1.0,))).of(self._iteration.target)
        return Order(worker, self._iteration.serial, slot, slot % (2 * self.workers), combination)

    def _order(self, worker: int, stage: int, coefficients: dict[int, float]) -> Order:
        assert self._iteration is not None
        place = stage * self.workers + worker
        combination = Combination(coefficients).of(self._iteration.target)
        return Order(worker, self._iteration.serial, place, place, combination)

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        import torch

        assert self._plan is not None
        weights, plan = np.zeros(self.layout.rows), self._plan
        # Late workers whose message of stage 1 is a row of the cover.
        rows_of = set() if self._cover is None else set(self._cover.late) - set(self._cover.sums)
        summed = [worker for worker in self._first if worker not in rows_of]
        weights[summed] = 1.0
        amplification, gap = 1.0 if summed else 0.0, 0.0
        load = max(map(len, plan.parts.values()))
        if self._cover is not None:
            found = self._cover.solve(self._arrived)
            for worker, weight in zip(self._cover.workers, found.weights, strict=True):
                weights[worker if worker in rows_of else self.workers + worker] = weight
            gap, load = float(found.gap.max(initial=0)), max(load, int(self._cover.loads.max(initial=0)))
            amplification = max(amplification, float(found.amplification.max(initial=0)))
        if self._owing or (self._cover is None and len(summed) < len(plan.shared)):
            gap = max(gap, 1.0)
        weighted_sum(rows, weights, out)
        # The bound of gradcode.codes.stability.
        used = int(np.count_nonzero(weights))
        rounding = growth(load + used + 2, torch.finfo(out.dtype).eps / 2)
        if rows.dtype != out.dtype:  # a message is rounded once more
            rounding = (1 + rounding) * (1 + torch.finfo(rows.dtype).eps / 2) - 1
        self.exact = gap <= EXACT
        self.error = gap + rounding * amplification + growth(used + 2, 2.0**-53) * (amplification + 1)

    # Who does what

    def plan(self) -> Plan:
        """How the present iteration began, or the last one; before the first: how one of all workers would begin."""
        if self._plan is None:
            target = Combination(dict.fromkeys(range(self.partitions), 1.0))
            return self._prepare(target, range(self.workers))
        return self._plan

    def _prepare(self, target: Combination, workers: Collection[int], away: Collection[int] = ()) -> Plan:
        speeds = self.history.speeds if self.learns else np.ones(self.workers)
        partitions = tuple(sorted(target))
        # As many stand by as if all were there.
        active = max(1, min(self.active, len(workers) - (self.workers - self.active)))
        shared, reserve = assign(speeds, partitions, active, workers, away, self.rules.replication)
        wait = self.waiting.time(max(map(len, shared.values()), default=0), self.history.recent)
        completions = self.completions
        if not completions and np.isinf(wait):
            completions = max(1, len(shared) - self.rules.stragglers)
        plan = Plan(speeds, shared, reserve, wait, completions, partitions)
        old = self._plan
        same = old is not None and (old.shared, old.reserve) == (shared, reserve) and np.array_equal(old.speeds, speeds)
        if not same or len(self._covers) > _PLANS:
            self._covers = {}
        self._plan = plan
        return plan

    def _cover_of(self, late: tuple[int, ...], sums: dict[int, tuple[int, ...]]) -> Cover | None:
        """Stage 2 where these are late and send such sums in any case; None: there is nobody for it."""
        assert self._plan is not None
        key = (late, *sums.items())
        if key not in self._covers:
            cover = Cover(self._plan, late, self.rules, sums)
            self._covers[key] = cover if cover.pool else None
        return self._covers[key]

    def _pool_at_best(self, plan: Plan) -> bool:
        return bool(plan.reserve) or self.rules.pool == "all"

    def _sooner(self, wait: float) -> float | None:
        end = np.inf if self._end is None else self._end
        return None if np.isinf(min(wait, end)) else min(wait, end)

    # How long it takes

    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """Seconds of an iteration begun as the present one, (samples, N, stages) and (samples, N) -> (samples,).

        Equal, draw by draw, to the event-by-event simulation with instant abandoning; with granularity "partition" as
        far as a notice takes ``notice`` of a message's time. inf: it never ends.
        """
        return self.course(compute, communicate).time

    def course(self, compute: Floats, communicate: Floats) -> course.Course:
        """What becomes of iterations begun as the present one; the arguments are those of :meth:`duration`."""
        plan, notice = self.plan(), self._notice if self.granularity == "partition" else None
        lengths = [self.rules.length(plan, late) for late in range(1 + len(plan.parts))]
        return course.run(plan, self._cover_of, lengths, compute, communicate, self._end, notice)

    # Beyond an iteration

    def _observed(self) -> list[tuple[int, float, float, bool]]:
        """What the last iteration says of speeds: (worker, partitions, seconds, whether it finished)."""
        if self._plan is None or self._iteration is None:
            return self._watched
        seen = []
        for worker, part in self._plan.parts.items():
            mates = [own for own in self._plan.group_of[worker] if own != worker and own in self._first]
            stopped = min((self._first[own] for own in mates), default=self._now)
            split = self._cover is not None and worker in self._cover.sums and worker in self._cover.left
            ends = self._second if split else self._first
            seen.append((worker, float(len(part)), ends.get(worker, stopped), worker in ends))
        if self._cover is not None:
            seen += [
                (worker, float(load), self._second.get(worker, self._now) - self._stage2, worker in self._second)
                for worker, load in zip(self._cover.pool, self._cover.loads.tolist(), strict=True)
                if load
            ]
        return seen

    def _learn(self) -> None:
        for worker, load, seconds, finished in self._observed():
            (self.history.finished if finished else self.history.unfinished)(worker, load, seconds)
        self._watched, self._iteration = [], None

    def state_dict(self) -> dict[str, Any]:
        """What is known of the workers' speeds, and what the last iteration will add to it."""
        return {"history": self.history.state_dict(), "watched": [list(own) for own in self._observed()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the speeds of ``state``.

        Raises:
            ValueError: it is not that of this scheme.
        """
        if set(state) != {"history", "watched"} or len(state["history"]["speeds"]) != self.workers:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self.history.load_state_dict(state["history"])
        self._watched = [(int(i), float(load), float(time), bool(end)) for i, load, time, end in state["watched"]]
        self._iteration = self._plan = None
        self._covers = {}
        self._begin()
