"""Stage 1: who begins with which partitions, and how long they are waited for (two_stage.md 3.1 and 3.2)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np

from gradcode.codes.second_stage import shares
from gradcode.protocol import Floats

Rule = Literal["fixed", "shift", "quantile"]
RULES: tuple[Rule, ...] = ("fixed", "shift", "quantile")
Granularity = Literal["worker", "partition"]
GRANULARITIES: tuple[Granularity, ...] = ("worker", "partition")


@dataclass(frozen=True, eq=False)
class Plan:
    """How an iteration begins.

    Args:
        speeds: (N,) estimated partitions per second.
        shared: group of workers of stage 1 -> their partitions, the same for all of it; those without any are left out.
        reserve: the workers that stand by, by index.
        wait: T₁, seconds; inf: all are waited for, or ``completions``.
        completions: c, groups whose report begins stage 2; 0: none does.
        partitions: all that are wanted, in order.
    """

    speeds: Floats
    shared: dict[tuple[int, ...], tuple[int, ...]]
    reserve: tuple[int, ...]
    wait: float
    completions: int
    partitions: tuple[int, ...]

    @cached_property
    def parts(self) -> dict[int, tuple[int, ...]]:
        """Worker of stage 1 -> its partitions."""
        return {worker: part for group, part in self.shared.items() for worker in group}

    @cached_property
    def group_of(self) -> dict[int, tuple[int, ...]]:
        """Worker of stage 1 -> its group."""
        return {worker: group for group in self.shared for worker in group}


def assign(
    speeds: Floats,
    partitions: Sequence[int],
    active: int,
    workers: Collection[int],
    away: Collection[int] = (),
    replication: int = 1,
) -> tuple[dict[tuple[int, ...], tuple[int, ...]], tuple[int, ...]]:
    """The partitions of each group of workers of stage 1, and the workers that stand by.

    The ``active`` fastest begin, of equals those of smaller index, who is ``away`` last. By index they are cut into
    groups of ``replication`` or a few more, which share the partitions in proportion to the speed of the fastest in
    each, in contiguous blocks.
    """
    ranked = sorted(workers, key=lambda worker: (worker in away, -speeds[worker], worker))
    chosen, reserve = sorted(ranked[:active]), tuple(sorted(ranked[active:]))
    count = max(1, len(chosen) // replication)
    cuts = [len(chosen) * i // count for i in range(count + 1)]
    groups = [tuple(chosen[begin:end]) for begin, end in pairwise(cuts)]
    loads = shares([max(speeds[worker] for worker in own) for own in groups], len(partitions), len(partitions))
    ends = np.cumsum(loads).tolist()
    shared = {
        group: tuple(partitions[end - load : end])
        for group, load, end in zip(groups, loads.tolist(), ends, strict=True)
        if load
    }
    return shared, reserve


@dataclass(frozen=True)
class Waiting:
    """How long stage 1 is waited for.

    Args:
        rule: "fixed": ``seconds``; "shift": as long as 1 − e⁻³ of the workers that do not straggle need for the largest
            load, whose times per partition have ``shift`` and ``rate`` (seconds, and per second); "quantile": the
            ``quantile`` of the latest times per partition, times the largest load.
        seconds, shift, rate, quantile: see there.

    Raises:
        ValueError: what the rule needs is missing or out of its range.
    """

    rule: Rule
    seconds: float | None = None
    shift: float | None = None
    rate: float | None = None
    quantile: float = 0.9

    def __post_init__(self) -> None:
        if self.rule == "fixed" and not (self.seconds is not None and self.seconds > 0):
            raise ValueError(f'wait={self.seconds!r} must be a positive number of seconds with rule="fixed"')
        if self.rule != "fixed" and self.seconds is not None:
            raise ValueError(f'wait={self.seconds!r} goes with rule="fixed" alone; rule={self.rule!r} finds its own')
        if self.rule == "shift" and not (
            self.shift is not None and self.shift >= 0 and self.rate is not None and self.rate > 0
        ):
            raise ValueError(
                f'rule="shift" needs shift={self.shift!r} of 0 or more and rate={self.rate!r} above 0: those of the '
                f'seconds per partition of a worker that does not straggle; where they are not known, take "quantile"'
            )
        if not 0 < self.quantile <= 1:
            raise ValueError(f"quantile={self.quantile!r} must be above 0 and at most 1")

    def time(self, largest: int, recent: Floats) -> float:
        """T₁ for the largest load, after these times per partition; inf while nothing is known."""
        if self.rule == "fixed":
            assert self.seconds is not None
            return self.seconds
        if self.rule == "shift":
            assert self.shift is not None and self.rate is not None
            return largest * (self.shift + 3 / self.rate)
        return largest * float(np.quantile(recent, self.quantile)) if len(recent) else np.inf
