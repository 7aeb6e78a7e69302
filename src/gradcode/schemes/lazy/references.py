"""What a voter's gradient is compared with: what it sent last, or what it would be at the parameters of then."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from gradcode.protocol import Action, Combination, Compare, Keep, Past, Version
from gradcode.schemes.lazy.voters import Table


class References(ABC):
    """Keeps, for the workers, what voters are compared with.

    Args:
        voters: V.
    """

    twice = False
    """Whether a comparison costs a second gradient."""

    def __init__(self, voters: int) -> None:
        self._kept: list[Version | None] = [None] * voters

    @property
    @abstractmethod
    def entries(self) -> int:
        """What is kept at a time, at most."""

    @abstractmethod
    def keep(self, start: int, table: Table) -> list[Action]:
        """What to keep from this ``start`` on; starts are numbered, and never go back."""

    @abstractmethod
    def against(self, voter: int, share: Combination, number: int, threshold: float | None) -> Compare | None:
        """What the voter's ``share`` is compared with in iteration ``number``; None: there is nothing."""

    @abstractmethod
    def sent(self, voter: int, worker: int, start: int) -> None:
        """``worker`` has sent the voter's gradient."""

    def state_dict(self) -> dict[str, Any]:
        return {"kept": [None if kept is None else list(kept) for kept in self._kept]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._kept = [None if kept is None else Version(*kept) for kept in state["kept"]]


class NoReferences(References):
    """The master decides by itself."""

    entries = 0

    def keep(self, start: int, table: Table) -> list[Action]:
        return []

    def against(self, voter: int, share: Combination, number: int, threshold: float | None) -> Compare | None:
        return None

    def sent(self, voter: int, worker: int, start: int) -> None:
        """Nothing is compared with it."""


class LastSent(References):
    """The vectors that voters sent last, an entry for each."""

    def __init__(self, voters: int) -> None:
        super().__init__(voters)
        self._fresh: dict[int, int] = {}  # voter -> who has sent what is not kept yet

    @property
    def entries(self) -> int:
        return len(self._kept)

    def keep(self, start: int, table: Table) -> list[Action]:
        actions: list[Action] = []
        for voter, worker in self._fresh.items():
            kept = self._kept[voter]
            assert kept is not None and table.rows is not None
            actions.append(Keep(kept, table.rows[voter], worker))
        self._fresh = {}
        return actions

    def against(self, voter: int, share: Combination, number: int, threshold: float | None) -> Compare | None:
        kept = self._kept[voter]
        return None if kept is None else Compare(kept, threshold)

    def sent(self, voter: int, worker: int, start: int) -> None:
        self._kept[voter], self._fresh[voter] = Version(voter, start), worker

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "fresh": [[voter, worker] for voter, worker in self._fresh.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._fresh = dict(state["fresh"])


class LastPoints(References):
    """The parameters at which voters' gradients were sent, and one entry more for those of now."""

    twice = True

    def __init__(self, voters: int) -> None:
        super().__init__(voters)
        self._now = Version(0, 0)

    @property
    def entries(self) -> int:
        return len(self._kept) + 1

    def keep(self, start: int, table: Table) -> list[Action]:
        used = {kept.entry for kept in self._kept if kept is not None}
        self._now = Version(min(set(range(self.entries)) - used), start)
        return [Keep(self._now)]

    def against(self, voter: int, share: Combination, number: int, threshold: float | None) -> Compare | None:
        kept = self._kept[voter]
        if kept is None:
            return None
        return Compare(tuple(Past(j, value, kept, number) for j, value in share.items()), threshold)

    def sent(self, voter: int, worker: int, start: int) -> None:
        self._kept[voter] = self._now
