"""What the master remembers of its voters: where their gradients are from, how smooth they are, and what they sent."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from gradcode.protocol import Floats
from gradcode.schemes.decoding import PIECE, squared_norm, weighted_sum

if TYPE_CHECKING:
    from torch import Tensor


AFRESH = 100
"""Iterations after which a running sum is added up afresh from its table."""
_EVERY = 5  # iterations; in one of so many a second gradient is computed for an estimate
_WINDOW = 10  # changes of a voter's gradient that its estimated smoothness is the largest of


class Shares:
    """The weight with which each partition counts: n_j/n of the first iteration, from then on.

    What was stored in an iteration would else keep that iteration's weights. An epoch's last, smaller one may have a
    single partition with all the samples that are left.

    Args:
        partitions: K.
    """

    def __init__(self, partitions: int) -> None:
        self._first: npt.NDArray[np.int64] | None = None
        self._partitions = partitions

    def scales(self, sizes: npt.NDArray[np.int64]) -> Floats:
        """(K,) what turns a gradient of this iteration, weighted n_j/n, into one so weighted; 0 without a sample."""
        if self._first is None:
            self._first = np.array(sizes)
        counts = np.where(sizes > 0, sizes, 1) * int(self._first.sum())
        return np.where(sizes > 0, self._first * int(sizes.sum()) / counts, 0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"first": None if self._first is None else self._first.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._first = None if state["first"] is None else np.array(state["first"], dtype=np.int64)


class Points:
    """θ̂_v: the parameters at which each voter's gradient was computed last; voters may share one.

    Args:
        voters: V.
    """

    def __init__(self, voters: int) -> None:
        self._of: list[Tensor | None] = [None] * voters

    def distances(self, parameters: Tensor) -> Floats:
        """(V,) ‖θ̂_v − θ‖²; inf where a voter has no gradient yet."""
        known: dict[int, float] = {}
        found = np.full(len(self._of), np.inf)
        for voter, point in enumerate(self._of):
            if point is not None:
                if id(point) not in known:
                    known[id(point)] = squared_norm(point, parameters)
                found[voter] = known[id(point)]
        return found

    def move(self, voters: Iterable[int], point: Tensor) -> None:
        """These voters' gradients are now those at ``point``, which is not changed any more."""
        for voter in voters:
            self._of[voter] = point

    def state_dict(self) -> dict[str, Any]:
        points = {id(point): point for point in self._of if point is not None}
        places = {key: place for place, key in enumerate(points)}
        return {
            "points": list(points.values()),
            "of": [None if point is None else places[id(point)] for point in self._of],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._of = [None if place is None else state["points"][place] for place in state["of"]]


class Smoothness:
    """L_v of each voter: given, or estimated.

    The estimate is the largest of the last 10 quotients (change of the voter's gradient) / (distance that the
    parameters moved). It is a lower bound of what the rule needs, so what follows from it is empirical. Until there is
    one it is inf, and the voter is selected. A gradient that has not changed at all says nothing.

    Args:
        voters: V.
        values: one number for all, or (V,); None: estimated.

    Raises:
        ValueError: a constant is not positive, or there is another number of them.
    """

    def __init__(self, voters: int, values: float | Sequence[float] | None) -> None:
        self.estimated = values is None
        self.values: Floats = np.full(voters, np.inf)
        self._seen: list[deque[float]] = [deque(maxlen=_WINDOW) for _ in range(voters)]
        if values is not None:
            given = np.asarray(values, dtype=np.float64)
            if given.shape not in ((), (voters,)) or not np.all((given > 0) & np.isfinite(given)):
                raise ValueError(
                    f"smoothness={given.tolist()} must be a positive number, or one for each of the {voters} voters"
                )
            self.values[:] = given

    def __repr__(self) -> str:
        shown = [f"{value:.6g}" for value in self.values]
        return f"[{', '.join(shown)}]" if len(set(shown)) > 1 else shown[0]

    def wanted(self, voter: int, iteration: int) -> bool:
        """Whether a second gradient should be computed for the estimate: in every fifth iteration, and at first."""
        return self.estimated and (iteration % _EVERY == 0 or not np.isfinite(self.values[voter]))

    def changes(self, distances: Floats) -> Floats:
        """(V,) L_v²·‖θ̂_v − θ‖²: bounds of the squared changes; inf where a gradient or a constant is missing."""
        with np.errstate(invalid="ignore"):
            return np.nan_to_num(self.values**2 * distances, nan=0.0, posinf=np.inf)  # inf·0: nothing has moved

    def note(self, voter: int, change: float, distance: float) -> None:
        """A voter's gradient has changed by so much, squared, where the parameters moved so far, squared."""
        if self.estimated and distance > 0 and 0 < change < np.inf:
            self._seen[voter].append(float(np.sqrt(change / distance)))
            self.values[voter] = max(self._seen[voter])

    def state_dict(self) -> dict[str, Any]:
        return {"seen": [list(seen) for seen in self._seen]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.estimated:
            self._seen = [deque(seen, maxlen=_WINDOW) for seen in state["seen"]]
            self.values = np.array([max(seen, default=np.inf) for seen in self._seen])


class Table:
    """ĝ_v, what each voter sent last, and Σ_v w_v·ĝ_v, which is added up afresh every 100 iterations.

    Args:
        weights: w, (V,).
    """

    def __init__(self, weights: npt.NDArray[np.float64]) -> None:
        self.weights = weights
        self.stored = np.zeros(len(weights), dtype=np.bool_)
        self.rows: Tensor | None = None  # (V, L)
        self.total: Tensor | None = None  # (L,)
        self._age = 0

    def take(self, fresh: dict[int, Tensor], like: Tensor) -> None:
        """Voter -> what it has sent; ``like`` (L,) is of the gradient's dtype."""
        if self.rows is None or self.total is None:
            self.rows, self.total = like.new_zeros(len(self.weights), like.shape[0]), like.new_zeros(like.shape[0])
        afresh = self._age % AFRESH == AFRESH - 1 or 2 * len(fresh) > len(self.weights)
        self._age += 1
        for voter, row in fresh.items():
            self.stored[voter] = True
            self._replace(self.rows[voter], row[: like.shape[0]], None if afresh else self.weights[voter])
        if afresh:
            weighted_sum(self.rows, np.where(self.stored, self.weights, 0.0), self.total)

    def change(self, voter: int, row: Tensor) -> float:
        """‖row − ĝ_v‖²; NaN: nothing is stored of it."""
        if self.rows is None or not self.stored[voter]:
            return float("nan")
        old = self.rows[voter]
        return squared_norm(row[: old.shape[0]], old)

    def _replace(self, old: Tensor, new: Tensor, weight: float | None) -> None:
        assert self.total is not None
        if weight is None:
            old.copy_(new)
            return
        for begin in range(0, old.shape[0], PIECE):
            piece = slice(begin, begin + PIECE)
            fresh = new[piece].to(old.dtype)
            self.total[piece].add_(fresh - old[piece], alpha=weight)
            old[piece] = fresh

    def state_dict(self) -> dict[str, Any]:
        rows, total = (None if own is None else own.clone() for own in (self.rows, self.total))
        return {"stored": self.stored.tolist(), "rows": rows, "total": total, "age": self._age}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stored = np.array(state["stored"], dtype=np.bool_)
        self.rows, self.total = (None if state[own] is None else state[own].clone() for own in ("rows", "total"))
        self._age = int(state["age"])
