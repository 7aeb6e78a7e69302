"""How far the workers of stage 1 have come, where they report each partition (two_stage.md 3.3)."""

from __future__ import annotations

from collections.abc import Mapping


class Progress:
    """What each worker has reported of its part, and how much of it is to count if it is late.

    Every partition of a part but the last is held and reported; with the last one the sum is sent.

    Args:
        parts: worker -> its partitions, in the order in which it computes them.
    """

    def __init__(self, parts: Mapping[int, tuple[int, ...]]) -> None:
        self._parts = parts
        self._ahead = {worker: list(part[:-1]) for worker, part in parts.items()}  # yet to be reported
        self._reported: dict[int, list[int]] = {worker: [] for worker in parts}
        self._told: dict[int, float] = {}  # when, the last one

    def report(self, worker: int, partition: int, time: float) -> None:
        self._ahead[worker].remove(partition)
        self._reported[worker].append(partition)
        self._told[worker] = time

    def forget(self, worker: int) -> None:
        """It was lost: what it has reported it will compute again, but not before it sends its sum."""
        if worker in self._parts:
            self._reported[worker] = []

    def counted(self, worker: int, limit: float) -> tuple[int, ...]:
        """What it has reported and the one it is at; nothing if that is none, or lasts beyond ``limit``."""
        reported = self._reported[worker]
        if not reported or (len(reported) + 1) * (self._told[worker] / len(reported)) > limit:
            return ()
        part, ahead = self._parts[worker], self._ahead[worker]
        return tuple(own for own in part if own in reported or own == ahead[0]) if ahead else part

    def later(self, worker: int) -> list[int]:
        """What it is to hold and has not begun."""
        return self._ahead[worker][1:]
