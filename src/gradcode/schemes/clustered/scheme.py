"""The master's rules: learn from an iteration who is slow, form the clusters of the next one, decode each of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from gradcode.codes import ClusteredCode, checks
from gradcode.codes.code import Indices
from gradcode.delays import SpeedHistory
from gradcode.protocol import Action, Combination, Floats, Iteration
from gradcode.schemes.clustered.candidates import table_of
from gradcode.schemes.clustered.regrouping import Regrouping, Storage
from gradcode.schemes.coded import Coded
from gradcode.schemes.observed import ObservedCoded
from gradcode.schemes.rows import Weights

if TYPE_CHECKING:
    from torch import Tensor

Rule = Literal["flag", "rank", "flag+rank"]
RULES = ("flag", "rank", "flag+rank")

_DEFAULTS = {"deadline": None, "rule": "flag", "storage": "cluster", "slow": 2.0, "weight": 0.3}

Knowledge = Callable[[int], npt.ArrayLike]
"""The number of an iteration -> (N,) who is believed to straggle in it."""


class Clustered(ObservedCoded):
    """Gradient coding in clusters that are formed anew for every iteration.

    A cluster that has more stragglers than its code stands holds everybody up, while others have none. So before each
    iteration the master spreads those that it believes to straggle over the clusters. A worker sends one message, and
    computes as much, as without; but it must hold the data of all clusters that it may join.

    Whom it believes to straggle, it learns from the iteration before: whose message had not come when it ended, or
    came later than ``slow`` times the median of those that came; and who is lost. In the first iteration all are at
    home, which is worker k in cluster k mod P; with ``candidates=1`` (GC-SC) they stay there.

    Args:
        code: of :func:`gradcode.codes.clustered`.
        candidates: n, clusters that a worker may join, its home among them (:func:`.candidates.shifted`); or a table
            of them, a list per worker, home first. None: 3, or all where there are fewer.
        deadline: seconds after which the least squares of what has come are taken; None: none.
        rule: "flag": spread those that are believed to straggle, who else moves moves to make room; "rank": spread all
            in the order of their estimated times; "flag+rank": the stragglers first, then the others by their times.
        storage: "cluster": a worker holds all data of its candidates and may take any slot there; "slot": only its own
            slot's part, so that it changes places only with those that have the same slot.
        slow: times the median.
        weight: of the newest time in a worker's estimate; see :class:`gradcode.delays.SpeedHistory`.
        knowledge: who is believed to straggle, in place of what was observed: for simulations, where the states of the
            workers are known.

    Raises:
        ValueError: an argument is out of its range.

    >>> from gradcode import codes
    >>> Clustered(codes.clustered(workers=12, clusters=4, stragglers=1), candidates=2)
    clustered(clustered(workers=12, clusters=4, stragglers=1), candidates=2)
    """

    def __init__(
        self,
        code: ClusteredCode,
        candidates: int | Sequence[Sequence[int]] | None = None,
        deadline: float | None = None,
        *,
        rule: Rule = "flag",
        storage: Storage = "cluster",
        slow: float = 2.0,
        weight: float = 0.3,
        knowledge: Knowledge | None = None,
    ) -> None:
        super().__init__(code, deadline)
        checks.choice("rule", rule, RULES)
        if not slow >= 1:
            raise ValueError(f"slow={slow!r} must be 1 or more: times the median, from which on a worker straggles")
        self.clusters, self.rule, self.storage, self.slow = code.clusters, rule, storage, slow
        self.candidates = table_of(candidates, self.workers, code.clusters)
        self._few = candidates is None or isinstance(candidates, int)
        self._knowledge = knowledge
        self._regrouping = Regrouping(self.candidates, code.clusters, storage)
        self._within = Coded(code.within)
        self._row_loads = self._loads
        self.history = SpeedHistory(self.workers, weight)
        self._believed: npt.NDArray[np.bool_] | None = None  # who straggles in the next iteration; None: not known yet
        self._seat(np.arange(self.workers))
        self.moved: tuple[int, ...] = ()

    def __repr__(self) -> str:
        given = [repr(self.code), f"candidates={len(self.candidates[0]) if self._few else self.candidates}"]
        for name, default in _DEFAULTS.items():
            value = self.history.weight if name == "weight" else getattr(self, name)
            given += [] if value == default else [f"{name}={value!r}"]
        return f"clustered({', '.join(given)})"

    # Who computes what

    @property
    def assignment(self) -> Indices:
        """(N,) the cluster of each worker, in this iteration or the last one."""
        return self._rows % self.clusters

    @cached_property
    def placement(self) -> tuple[Indices, ...]:
        """For each worker the sorted partitions that it may have to compute."""
        held = []
        for worker, own in enumerate(self.candidates):
            slots = [worker // self.clusters] if self.storage == "slot" else range(self.workers // self.clusters)
            rows = [slot * self.clusters + cluster for cluster in own for slot in slots]
            held.append(np.unique(np.concatenate([self.code.placement[row] for row in rows])))
        return tuple(held)

    @property
    def memory(self) -> int:
        """The largest number of partitions that a worker must hold; its load is how many it computes."""
        return max(map(len, self.placement))

    def _seat(self, rows: Indices) -> None:
        """Worker i computes the code's row ``rows[i]``."""
        self._rows, self._occupants = rows, np.argsort(rows)
        self._loads = self._row_loads[rows]

    def _combinations(self, target: Combination) -> list[Combination]:
        of_rows = super()._combinations(target)
        return [of_rows[row] for row in self._rows]

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        before = self.assignment
        absent = np.ones(self.workers, dtype=np.bool_)
        absent[list(set(iteration.workers).difference(iteration.away))] = False
        believed = self._believed
        if self._knowledge is not None:
            believed = np.asarray(self._knowledge(iteration.number), dtype=np.bool_)
        if believed is not None or absent.any():
            known = absent if believed is None else believed | absent
            seconds = None if self.rule == "flag" or self._believed is None else 1 / self.history.speeds
            self._seat(self._regrouping.rows(known & (self.rule != "rank"), seconds))
        self.moved = tuple(np.flatnonzero(self.assignment != before).tolist())
        return super().start(iteration)

    def _learn(self, end: float) -> None:
        """Who is believed to straggle next, and how fast everybody is, from who has come and when."""
        came = ~np.isnan(self._times)
        self._believed = ~came | (self._times > self.slow * np.median(self._times[came]))
        for worker, load in enumerate(self._loads):
            if came[worker]:
                self.history.finished(worker, load, self._times[worker])
            else:
                self.history.unfinished(worker, load, end)

    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return super().suffice({int(self._rows[worker]) for worker in arrived}, iteration)

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        found = super()._weights({int(self._rows[worker]) for worker in arrived}, iteration)
        return found._replace(weights=found.weights[self._rows])

    def _coarseness(self, weights: npt.NDArray[Any], rows: Tensor, out: Tensor) -> float:
        return super()._coarseness(weights[self._occupants], rows, out)

    def completion(self, finish: Floats) -> Floats:
        of_rows = finish[:, self._occupants]
        each = [self._within.completion(of_rows[:, cluster :: self.clusters]) for cluster in range(self.clusters)]
        return np.asarray(np.max(each, axis=0))

    # Beyond an iteration

    def state_dict(self) -> dict[str, Any]:
        """Whom it believes to straggle, the speeds, and who is in which cluster."""
        believed = None if self._believed is None else self._believed.tolist()
        return {"believed": believed, "history": self.history.state_dict(), "rows": self._rows.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Knows what another knew.

        Raises:
            ValueError: the state is not that of this scheme.
        """
        if sorted(state.get("rows", ())) != list(range(self.workers)):
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        believed = state["believed"]
        self._believed = None if believed is None else np.array(believed, dtype=np.bool_)
        self.history.load_state_dict(state["history"])
        self._seat(np.array(state["rows"]))
