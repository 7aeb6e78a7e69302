"""Column codes: B is built partition by partition from a matrix C with C B = 1 (Wang et al. 2019)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gradcode.codes.code import Array, GradientCode, Indices
from gradcode.codes.stability import PATTERNS, Worst

Floats = NDArray[np.float64]


def solve_columns(mixing: Floats, held: NDArray[np.bool_]) -> Floats:
    """The encoding B (N, M) with C B = 1 and the support given (gradient_codes.md 2.8, RECONSTRUCTED there).

    Args:
        mixing: C, (s+1, N); the s+1 columns of the holders of any partition must be independent.
        held: (N, M), s+1 workers per column.
    """
    size, (workers, columns) = len(mixing), held.shape
    holders = np.nonzero(held.T)[1].reshape(columns, size)
    systems = mixing.T[holders].transpose(0, 2, 1)  # (M, s+1, s+1)
    values = np.linalg.solve(systems, np.ones((columns, size, 1)))[..., 0]
    matrix = np.zeros((workers, columns))
    matrix[holders, np.arange(columns)[:, None]] = values
    return matrix


def decoding_space(mixing: Floats) -> tuple[Floats, Floats]:
    """Offset (N,) and orthonormal null rows (s, N) of the decoding vectors a = Cᵀλ with λᵀ1 = 1.

    C B = 1 makes aᵀB = λᵀ1 = 1 for each of them; that they vanish on the stragglers leaves λ a null vector of
    C[:, stragglers], the decoder of the paper.
    """
    size = len(mixing)
    differences = np.linalg.qr(np.column_stack([np.ones(size), np.eye(size)[:, 1:]]))[0][:, 1:]  # λᵀ1 = 0
    basis = np.linalg.qr(mixing.T @ differences)[0]  # (N, s)
    offset = mixing.mean(axis=0)
    return offset - basis @ (basis.T @ offset), basis.T


class StaircaseCode(GradientCode):
    """The column code of a mixing matrix C of small integers; stable at every size (ours).

    Workers lie one after another along s + 1 laps around the data. A worker within lap l has the column e_l
    of C, one that runs over from lap l into the next, a bridge, has e_l − e_{l+1}.

    - Encoding: every partition is held once per lap. The system of its holders has diagonal ±1, and off the
      diagonal no two entries face each other, since no worker holds a partition twice; so its determinant is
      ±1, and the coefficients are integers of at most s + 1.
    - Decoding: a = Cᵀλ with Σλ = 1. A straggler within lap l forces λ_l = 0, a straggling bridge forces λ_l =
      λ_{l+1}. Laps joined by straggling bridges form runs; a run with a straggler inside is dead. Each
      straggler costs at most one of the s + 1 runs, so s of them leave one alive: λ = 1/length on the
      shortest. All weights are at most 1.

    Where workers tile every lap exactly there are no bridges, and this is repetition with coefficients 0 and
    1. As there, decoding reads no more messages than it needs, and often succeeds with fewer than N − s.

    Args:
        held: (N, M) which worker holds which column of partitions, s + 1 workers per column.
        sizes, dtype: as in `GradientCode`.
        laps: for each worker the laps of its first and last partition; None for one that holds nothing.
        order: as in `AffineCode`.
    """

    def __init__(
        self,
        held: NDArray[np.bool_],
        sizes: Indices,
        dtype: str,
        *,
        laps: list[tuple[int, int] | None],
        stragglers: int,
        order: Indices | None = None,
    ) -> None:
        mixing = np.zeros((stragglers + 1, len(laps)))
        for worker, lap in enumerate(laps):
            if lap is not None:
                mixing[lap[0], worker] = 1
                if lap[0] != lap[1]:
                    mixing[lap[1], worker] = -1
        matrix = np.rint(solve_columns(mixing, held))
        if order is not None:
            mixing, matrix, laps = mixing[:, order], matrix[order], [laps[i] for i in order]
        super().__init__(matrix, sizes, stragglers, dtype)
        self._mixing = mixing
        self._laps = laps
        self._bridged = {lap[0] for lap in laps if lap is not None and lap[0] != lap[1]}

    def _solve(self, alive: Indices) -> Array | None:
        run = self._living_run(frozenset(alive.tolist()))
        return None if run is None else self._mean_of(*run)

    def _beyond(self, alive: frozenset[int]) -> bool:
        return self._living_run(alive) is not None

    def _worst(self) -> Worst:
        # Every run of bridged laps can be forced, if each other lap has a worker inside: the bridges of the run
        # straggle, and one inside each other lap. So this is the maximum, or at least a bound.
        runs = [(first, last) for first in range(self.tolerance + 1) for last in self._reach(first)]
        step = -(-len(runs) // PATTERNS)
        tried = runs[::step]
        found = self._assess(np.stack([self._mean_of(*run) for run in tried]))
        place = int(found.error.argmax())
        first, last = tried[place]
        inside = {lap[0]: i for i, lap in enumerate(self._laps) if lap is not None and lap[0] == lap[1]}
        lost = [i for lap, i in inside.items() if not first <= lap <= last]
        bridges = [
            i for i, lap in enumerate(self._laps) if lap is not None and lap[0] != lap[1] and first <= lap[0] < last
        ]
        error, condition = float(found.error[place]), float(found.condition[place])
        return Worst(error, condition, tuple(sorted(lost + bridges)), len(tried), exhaustive=step == 1)

    def _reach(self, first: int) -> list[int]:
        """The laps at which a run that begins with lap ``first`` may end."""
        last = first
        while last in self._bridged:
            last += 1
        return list(range(first, last + 1))

    def _mean_of(self, first: int, last: int) -> Array:
        """The decoding vector of λ = 1/length on laps first, …, last; 0 on the bridges between them."""
        weights: Array = self._mixing[first : last + 1].sum(axis=0) / (last - first + 1)
        return weights

    def _living_run(self, alive: frozenset[int]) -> tuple[int, int] | None:
        """The shortest run of joined laps without a straggler inside; the first among equals."""
        dead: set[int] = set()
        joined: set[int] = set()
        for worker, lap in enumerate(self._laps):
            if lap is not None and worker not in alive:
                (dead if lap[0] == lap[1] else joined).add(lap[0])
        best: tuple[int, int] | None = None
        first = 0
        while first <= self.tolerance:
            last = first
            while last in joined:
                last += 1
            living = dead.isdisjoint(range(first, last + 1))
            if living and (best is None or last - first < best[1] - best[0]):
                best = (first, last)
            first = last + 1
        return best
