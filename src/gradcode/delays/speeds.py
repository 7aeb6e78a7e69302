"""What workers have shown of their speed so far."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np

from gradcode.delays.bounds import positive
from gradcode.delays.law import Floats


class SpeedHistory:
    """A running estimate of each worker's speed, in partitions per second.

    An observed speed counts with ``weight``, what was known before with the rest. That a worker has *not* finished
    something in a time can only lower its estimate. A worker of which nothing is known yet is taken to be as fast as
    those that are known are on average.

    Source: two_stage.md, 4.4 step 6 (RECONSTRUCTED there), with its β as ``weight``; dynamic_clustering.md, 4.3.

    Args:
        workers: N.
        weight: of the newest observation, in (0, 1].
        initial: partitions per second that are taken for granted before anything is observed; None: nothing is.
        window: how many of the latest times per partition are kept, of all workers together (:attr:`recent`).

    Raises:
        ValueError: an argument is out of its range.

    >>> history = SpeedHistory(workers=2, weight=0.5)
    >>> history.finished(0, load=4, seconds=2.0)
    >>> history.speeds.tolist()
    [2.0, 2.0]
    >>> history.unfinished(1, load=4, seconds=8.0)
    >>> history.speeds.tolist()
    [2.0, 1.25]
    """

    def __init__(self, workers: int, weight: float = 0.3, initial: float | None = None, window: int = 50) -> None:
        if not 0 < weight <= 1:
            raise ValueError(f"weight={weight} must be above 0 and at most 1: how much the newest observation counts")
        if initial is not None:
            positive("initial", initial)
        self.weight = weight
        self._speeds = np.full(workers, np.nan if initial is None else initial)
        self._recent: deque[float] = deque(maxlen=window)

    @property
    def speeds(self) -> Floats:
        """(N,) estimated partitions per second; all 1 before anything is known."""
        known = self._speeds[~np.isnan(self._speeds)]
        return np.where(np.isnan(self._speeds), known.mean() if len(known) else 1.0, self._speeds)

    @property
    def recent(self) -> Floats:
        """The latest seconds per partition of whoever finished, oldest first."""
        return np.array(self._recent)

    def finished(self, worker: int, load: float, seconds: float) -> None:
        """``worker`` took ``seconds`` for ``load`` partitions; what took no time says nothing."""
        if seconds > 0 and load > 0:
            self._recent.append(seconds / load)
            known = self._speeds[worker]
            self._speeds[worker] = load / seconds if np.isnan(known) else self._mixed(known, load / seconds)

    def unfinished(self, worker: int, load: float, seconds: float) -> None:
        """``worker`` has not finished ``load`` partitions in ``seconds``."""
        if seconds > 0 and load > 0:
            known = load / seconds if np.isnan(self._speeds).all() else self.speeds[worker]
            self._speeds[worker] = min(known, self._mixed(known, load / seconds))

    def _mixed(self, known: float, speed: float) -> float:
        return float((1 - self.weight) * known + self.weight * speed)

    def state_dict(self) -> dict[str, Any]:
        """Everything that is known."""
        return {"speeds": self._speeds.tolist(), "recent": list(self._recent)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Knows what another knew."""
        self._speeds[:] = state["speeds"]
        self._recent.clear()
        self._recent.extend(state["recent"])
