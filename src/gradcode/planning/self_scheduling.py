"""Self-scheduling: how many replicas and micro-partitions for known delays, and whether to replicate at all.

    chosen = choose(delays.ShiftedExponential(0.1, 10.0), workers=8, latency=0.002)
    chosen.best.kind, chosen.best.replication, chosen.best.micro, chosen.best.seconds / chosen.fluid
    print(chosen.verdict)
    scheme = chosen.best.scheme()

Source: a method of this project (self_scheduling.md). More micro-partitions divide the work better, and each costs a
notice: m is near the square root of a share's seconds over a notice's, and found by simulation around that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from gradcode import schemes
from gradcode.codes import checks
from gradcode.delays import Delays, DelayTable, as_table
from gradcode.delays.bounds import nonnegative
from gradcode.delays.law import Floats, Source
from gradcode.planning import sequential
from gradcode.protocol import Scheme
from gradcode.schemes import fluid_bound

__all__ = ["Choice", "Method", "choose", "replay"]

Kind = Literal["uncoded", "coded", "self_scheduling"]
Machines = DelayTable | Delays | Source | Sequence[Source]

_KINDS: tuple[Kind, ...] = ("uncoded", "coded", "self_scheduling")
_LITTLE = 0.01  # what must be saved to be worth more replicas, or more notices
_STEP, _STEPS = math.sqrt(2), 20  # from one m to the next, and how often at most
_SPAN = 2  # so many are tried to either side at first


@dataclass(frozen=True)
class Method:
    """A method with its parameters.

    Attributes:
        kind: "uncoded", "coded" by the code that :mod:`gradcode.planning.sequential` takes, or "self_scheduling".
        workers: N.
        replication: shares that a worker holds: r, or s + 1 where it is "coded".
        micro: m, micro-partitions of a share; 1 for the others.
        ahead: of self-scheduling.
        seconds: mean time of an iteration.
    """

    kind: Kind
    workers: int
    replication: int = 1
    micro: int = 1
    ahead: int = 0
    seconds: float = float("nan")

    def scheme(self, **options: Any) -> Scheme:
        """The scheme, with more ``options`` of its constructor, or of the code's where it is "coded".

        Raises:
            ValueError: as that: the planner looks at times only, and rounding may not allow a code.
        """
        if self.kind == "uncoded":
            return schemes.uncoded(self.workers, **options)
        if self.kind == "coded":
            code = sequential.Method("coded", self.workers, self.replication / self.workers, self.replication - 1)
            return code.scheme(**options)
        return schemes.self_scheduling(self.workers, self.replication, self.micro, **{"ahead": self.ahead, **options})


@dataclass(frozen=True)
class Choice:
    """All that were tried, the quickest first, and the mean fluid bound in seconds, which nothing can beat."""

    methods: tuple[Method, ...]
    fluid: float

    @property
    def best(self) -> Method:
        """The simplest of those that are at most 1 % slower than the quickest: the fewest replicas, then notices."""
        quick = [own for own in self.methods if own.seconds * (1 - _LITTLE) <= self.methods[0].seconds]
        return min(quick, key=lambda own: (_KINDS.index(own.kind), own.replication, own.micro))

    @property
    def by_kind(self) -> dict[Kind, Method]:
        """The quickest of each kind, the quickest kind first."""
        found: dict[Kind, Method] = {}
        for method in self.methods:
            found.setdefault(method.kind, method)
        return found

    @property
    def verdict(self) -> str:
        """What to do, in a line."""
        best, others = self.best, dict(self.by_kind)
        del others[best.kind]
        advice = {
            "uncoded": "do not replicate: wait for everybody",
            "coded": f"do not self-schedule: take a code for {best.replication - 1} stragglers",
            "self_scheduling": f"self-scheduling with replication={best.replication}, micro={best.micro}",
        }[best.kind]
        beside = "".join(f"; {own.kind} {own.seconds:.4g} s" for own in others.values())
        return f"{advice}, {best.seconds:.4g} s, {best.seconds / self.fluid:.3g} of the fluid bound{beside}"


def choose(
    delays: Machines,
    workers: int,
    latency: float,
    *,
    message: float = 0.0,
    storage: int = 3,
    largest: int = 64,
    ahead: int = 0,
    iterations: int = 300,
    seed: int = 0,
) -> Choice:
    """The quickest of uncoded training, exact codes, and self-scheduling with r replicas and m micro-partitions.

    All have the same draws. The best of many on them looks better than it is: :func:`replay` it on others.

    Args:
        delays: seconds of a whole share, which grow in proportion to the work, and of starting late: a law, a process,
            ``Delays``, or a recorded table, ``DelayTable.from_array(seconds, start=...)``, both (iterations, N).
        workers: N.
        latency: λ, seconds for which a worker stands still per micro-partition: until its notice is answered; with
            orders in hand (``ahead``) only what it takes to say so.
        message: seconds of a worker's gradient, or its sum.
        storage: shares that a worker can hold.
        largest: of the m tried.
        ahead: of self-scheduling.
        iterations, seed: of the draws, if ``delays`` is no table; of a table its first ``iterations``.

    Raises:
        ValueError: an argument is out of its range, or nobody ever ends.

    >>> from gradcode.delays import Deterministic, ShiftedExponential
    >>> choose(ShiftedExponential(0.1, 10.0), 6, latency=0.002, iterations=100).best.kind
    'self_scheduling'
    >>> choose(Deterministic(0.1), 6, latency=0.002).verdict
    'do not replicate: wait for everybody, 0.1 s, 1 of the fluid bound; self_scheduling 0.102 s; coded 0.2 s'
    """
    times = _Times(delays, workers, latency, message, iterations, seed)
    most = min(checks.integer("storage", storage, 1), times.workers)
    checks.integer("largest", largest, 1)
    tried = [times.timed(Method("uncoded", times.workers))]
    tried += [times.timed(Method("coded", times.workers, load)) for load in range(2, most + 1)]
    begin = min(float(largest), max(1.0, math.sqrt(times.share / latency))) if latency else float(largest)
    ladder = sorted({min(largest, max(1, round(begin * _STEP**step))) for step in range(-_STEPS, _STEPS + 1)})
    for replication in range(2, most + 1):
        tried += _search(times, Method("self_scheduling", times.workers, replication, ahead=ahead), ladder, begin)
    tried.sort(key=lambda method: method.seconds)
    if np.isinf(tried[0].seconds):
        raise ValueError(f"storage={storage}: in some iteration nobody who holds a share ever ends; allow more")
    return Choice(tuple(tried), float(times.fluid.mean()))


def replay(
    delays: Machines,
    method: Method,
    latency: float,
    *,
    message: float = 0.0,
    iterations: int = 300,
    seed: int = 0,
) -> Floats:
    """(iterations,) seconds that ``method`` takes; arguments as in :func:`choose`.

    Raises:
        ValueError: an argument is out of its range.
    """
    return _Times(delays, method.workers, latency, message, iterations, seed).of(method)


def _search(times: _Times, method: Method, ladder: Sequence[int], begin: float) -> list[Method]:
    """``method`` with m of the ladder around ``begin``, and on to a side as long as the quickest lies there."""
    place = min(range(len(ladder)), key=lambda index: abs(ladder[index] - begin))
    low, high = place - _SPAN, place + _SPAN
    tried: dict[int, Method] = {}
    while True:
        for micro in ladder[max(0, low) : high + 1]:
            if micro not in tried:
                tried[micro] = times.timed(replace(method, micro=micro))
        best = ladder.index(min(tried, key=lambda micro: tried[micro].seconds))
        if best == low > 0:
            low -= _SPAN
        elif best == high < len(ladder) - 1:
            high += _SPAN
        else:
            return list(tried.values())


class _Times:
    """What methods take on the draws."""

    def __init__(
        self, delays: Machines, workers: int, latency: float, message: float, iterations: int, seed: int
    ) -> None:
        table = as_table(delays, checks.integer("workers", workers, 2), seed)
        nonnegative("latency", latency)
        nonnegative("message", message)
        checks.integer("iterations", iterations, 1)
        self.workers, self._latency, self._message = table.workers, latency, message
        self._seconds = table.window(0, iterations)[0][:, :, 0]
        self._start = np.array([table.start(number) for number in range(iterations)])
        self.fluid = fluid_bound(self._seconds, workers, self._start)
        ends = self._seconds[np.isfinite(self._seconds)]
        if not np.isfinite(self.fluid).all() or not ends.min() > 0:
            raise ValueError(
                f"delays={delays!r}: a share must take more than 0 seconds, and in every iteration somebody must end"
            )
        self.share = float(np.median(ends))

    def of(self, method: Method) -> Floats:
        """(iterations,) seconds."""
        scheme = method.scheme(dtype="float64") if method.kind == "coded" else method.scheme()
        if isinstance(scheme, schemes.SelfScheduling):
            return scheme.granted(self._seconds / method.micro, self._latency, self._start)[0] + self._message
        return scheme.duration(self._seconds[:, :, None], self._start + self._message)

    def timed(self, method: Method) -> Method:
        """With its mean time."""
        return replace(method, seconds=float(self.of(method).mean()))
