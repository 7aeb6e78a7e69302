"""Stage 2: who computes what is still missing, and what can be made of the rows that come (two_stage.md 4.1 to 4.3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gradcode.codes.second_stage import Kind, second_stage
from gradcode.codes.stability import EXACT
from gradcode.protocol import Floats
from gradcode.schemes.two_stage.plan import Plan

Pool = Literal["fresh", "all"]
POOLS: tuple[Pool, ...] = ("fresh", "all")
Mode = Literal["any_s", "budget", "fixed"]
MODES: tuple[Mode, ...] = ("any_s", "budget", "fixed")


@dataclass(frozen=True)
class Rules:
    """How stage 2 is set up.

    Args:
        stragglers: s.
        pool: "fresh": those that stood by; "all": then those that have finished, too.
        mode: "any_s": s − d₁ of the pool may be lost, which with late results is exact for any s stragglers; "fixed":
            s of the pool; "budget": s less those that are late.
        coefficients: the kind of :func:`gradcode.codes.second_stage.second_stage`.
        seed: of them.
        replication: d₁, workers of stage 1 that have the same partitions.
    """

    stragglers: int
    pool: Pool = "fresh"
    mode: Mode = "any_s"
    coefficients: Kind = "harmonic"
    seed: int = 0
    replication: int = 1

    def tolerance(self, late: int) -> int:
        """s₂, before it is cut to what the pool allows.

        With "any_s" s − d₁: if a part is missing whose workers never answer, of which there are d₁, so many of the
        others never do.
        """
        if self.mode == "fixed":
            return self.stragglers
        return max(0, self.stragglers - (self.replication if self.mode == "any_s" else late))

    def length(self, plan: Plan, late: int) -> float:
        """Of stage 2 as a multiple of stage 1's, if all parts of so many late workers are missing and all are alike."""
        pool = len(plan.reserve) + (len(plan.parts) - late if self.pool == "all" else 0)
        return late * (min(self.tolerance(late), pool - 1) + 1) / pool if pool else 0.0


class Solution(NamedTuple):
    """The best use of some rows.

    Args:
        weights: (workers of the cover,).
        gap: (K_u,) distances of the partitions' coefficients from 1.
        amplification: (K_u,) Σ |weight·coefficient|.
    """

    weights: Floats
    gap: Floats
    amplification: Floats


class Cover:
    """The rows that give what is missing: those of stage 2, and what late workers were to send anyway.

    Args:
        plan: of the iteration.
        late: the workers of stage 1 that have not reported when it ends, nor has any that has the same partitions.
        rules: of stage 2.
        sums: of late workers, those of their partitions of which they send the sum in any case; none: of none.

    Each of ``workers``, the pool and then the late ones to which something is left beside their sums, has one row of
    ``rows`` (workers, K_u) over the missing partitions ``columns``. Sets of them are written as numbers: bit i says
    whether worker ``workers[i]`` is in it.
    """

    def __init__(
        self, plan: Plan, late: Sequence[int], rules: Rules, sums: Mapping[int, Sequence[int]] | None = None
    ) -> None:
        self.late, self.sums = tuple(sorted(late)), {} if sums is None else sums
        left = {w: tuple(j for j in plan.parts[w] if j not in self.sums.get(w, ())) for w in self.late}
        self.left = {worker: own for worker, own in left.items() if own}
        """Late worker -> its partitions that are missing."""
        self.columns = tuple(sorted({partition for own in self.left.values() for partition in own}))
        others = tuple(worker for worker in sorted(plan.parts) if worker not in self.late)
        self.pool = plan.reserve + (others if rules.pool == "all" else ())
        wanted, most = rules.tolerance(len(self.late)), len(self.pool) - 1
        self.reduced = wanted > most
        encoding = np.zeros((len(self.pool), len(self.columns)))
        if self.pool and self.columns:
            speeds = plan.speeds[list(self.pool)]
            code = second_stage(speeds, len(self.columns), min(wanted, most), kind=rules.coefficients, seed=rules.seed)
            encoding = code.encoding
        own = [np.isin(self.columns, part).astype(np.float64) for part in self.left.values()]
        self.workers = self.pool + tuple(self.left)
        self.rows: Floats = np.vstack([encoding, *own])
        self.loads: npt.NDArray[np.int64] = (encoding != 0).sum(axis=1)
        """(pool,) partitions of each in stage 2."""
        self.bits = {worker: 1 << i for i, worker in enumerate(self.workers)}
        self._touched = [sum(1 << int(j) for j in np.flatnonzero(row)) for row in self.rows]
        self._solutions: dict[int, Solution] = {}
        self._decodable: dict[int, bool] = {}

    def decodable(self, arrived: int) -> bool:
        """Whether these rows give the sum of what is missing."""
        found = self._decodable.get(arrived)
        if found is None:
            touched = 0
            for i in self._members(arrived):
                touched |= self._touched[i]
            # Least squares only where every partition is in some row.
            whole = touched == (1 << len(self.columns)) - 1
            found = self._decodable[arrived] = whole and bool(self.solve(arrived).gap.max(initial=0) < EXACT)
        return found

    def solve(self, arrived: int) -> Solution:
        """The least squares of these rows: the general decoder of two_stage.md 4.3."""
        found = self._solutions.get(arrived)
        if found is None:
            members, weights = self._members(arrived), np.zeros(len(self.rows))
            if members and self.columns:
                rows = self.rows[members]
                weights[members] = np.linalg.lstsq(rows.T, np.ones(len(self.columns)), rcond=None)[0]
                # What is zero but for rounding is not read.
                weights[np.abs(weights) < 1e-12 * np.abs(weights).max()] = 0.0
            gap = np.abs(weights @ self.rows - 1)
            found = self._solutions[arrived] = Solution(weights, gap, np.abs(weights) @ np.abs(self.rows))
        return found

    def _members(self, arrived: int) -> list[int]:
        return [i for i in range(len(self.rows)) if arrived >> i & 1]
