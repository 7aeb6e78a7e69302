"""Scripted delays: who is slow and who dies, and when; the vocabulary of tests and demonstrations."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from gradcode.delays.bounds import count, nonnegative, positive, require
from gradcode.delays.law import Floats, Sampler, Source
from gradcode.delays.laws import Deterministic
from gradcode.delays.process import Process, stretched


class Event(NamedTuple):
    """In these iterations the worker's duration is multiplied by ``factor``, then ``seconds`` are added."""

    worker: int
    iterations: range | frozenset[int]
    factor: float
    seconds: float


@dataclass(frozen=True)
class Script(Process):
    """A base, and events that change it; each method returns a new script with one event more.

    >>> from gradcode.delays import script
    >>> play = script().slow(worker=1, iterations=range(1, 3), seconds=0.3).die(worker=0, iteration=2)
    >>> play.sample(np.random.default_rng(0), 3, workers=2).tolist()
    [[0.0, 0.0], [0.0, 0.3], [inf, 0.3]]
    """

    base: Source
    events: tuple[Event, ...] = ()

    def __post_init__(self) -> None:
        require(isinstance(self.base, Source), "base", self.base, "be a law or a process")

    def slow(self, worker: int, iterations: int | Iterable[int], seconds: float = 0.0, factor: float = 1.0) -> Script:
        """In these iterations the worker takes ``factor`` times as long, and ``seconds`` more."""
        nonnegative("seconds", seconds, finite=False)
        positive("factor", factor, finite=False)
        event = Event(count("worker", worker), _iterations(iterations), factor, seconds)
        return replace(self, events=(*self.events, event))

    def die(self, worker: int, iteration: int | Iterable[int]) -> Script:
        """The worker never answers in this iteration, or these: its duration is inf."""
        return self.slow(worker, iteration, seconds=float("inf"))

    @property
    def workers(self) -> int | None:
        return self.base.workers

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        self._check_workers(workers)
        for event in self.events:
            require(event.worker < workers, "worker", event.worker, f"be < workers={workers}")
        return _Scripted(self.base.start(rng, workers, stages), self.events)


class _Scripted:
    def __init__(self, base: Sampler, events: tuple[Event, ...]) -> None:
        self._base, self._events, self._position = base, events, 0

    def next(self, iterations: int) -> Floats:
        times = self._base.next(iterations).copy()
        now = range(self._position, self._position + iterations)
        self._position = now.stop
        for event in self._events:
            rows = [i - now.start for i in now if i in event.iterations]
            changed = stretched(times[rows, event.worker], event.factor) + event.seconds
            times[rows, event.worker] = changed
        return times


def script(base: Source | None = None) -> Script:
    """A script without events over ``base``; None: no delay but what the events say."""
    return Script(Deterministic(0.0) if base is None else base)


def _iterations(given: int | Iterable[int]) -> range | frozenset[int]:
    if isinstance(given, range):
        return given
    chosen = frozenset(given) if isinstance(given, Iterable) else frozenset([given])
    return frozenset(count("iteration", i) for i in chosen)
