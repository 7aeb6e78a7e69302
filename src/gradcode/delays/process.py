"""How durations go on over iterations and workers: a base law or process, and what is done to it.

=======================  ========================================================================
Bernoulli                each worker is slow now and then, without memory
Occasional               what takes time now and then only, without memory
GilbertElliott           each worker is slow for a while, then fast for a while (Markov chain)
Persistent               some workers are always slower
PerWorker                every worker has its own law or process
=======================  ========================================================================

Processes nest: ``Persistent(GilbertElliott(ShiftedExponential(...), ...), {7: 3.0})``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import count, positive, probability, require
from gradcode.delays.law import ROWS, Floats, Sampler, Source, split

Flags = npt.NDArray[np.bool_]


class Process(Source):
    """A source whose durations depend on worker or iteration."""

    def sample(self, rng: np.random.Generator, iterations: int, workers: int | None = None) -> Floats:
        """(iterations, N) seconds per unit of load.

        Raises:
            ValueError: N unknown, or not the number of workers that the process is made for.
        """
        count("iterations", iterations)
        workers = self.workers if workers is None else workers
        if workers is None:
            raise ValueError(f"workers=None must be given for {self!r}")
        sampler = self.start(rng, workers)
        times = np.empty((iterations, workers))
        for first in range(0, iterations, ROWS):
            part = times[first : first + ROWS]
            part[:] = sampler.next(len(part))
        return times


@dataclass(frozen=True)
class Bernoulli(Process):
    """Each worker is slow in each iteration with a probability, whatever was before.

    Args:
        base: the durations of a worker that is not slow.
        probability: of being slow, in [0, 1].
        slowdown: factor on the duration of a slow worker, > 0; inf: it does not answer.

    >>> from gradcode.delays import Bernoulli, Deterministic
    >>> times = Bernoulli(Deterministic(1.0), 0.25, 10.0).sample(np.random.default_rng(0), 1000, workers=4)
    >>> set(times.ravel().tolist()) == {1.0, 10.0}
    True
    """

    base: Source
    probability: float
    slowdown: float

    def __post_init__(self) -> None:
        _source("base", self.base)
        probability("probability", self.probability)
        positive("slowdown", self.slowdown, finite=False)

    @property
    def workers(self) -> int | None:
        return self.base.workers

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        own, base = split(rng, 2)

        def flags(iterations: int) -> Flags:
            return own.random((iterations, workers)) < self.probability

        return _Flagged(self.base.start(base, workers, stages), flags, self.slowdown)


@dataclass(frozen=True)
class Occasional(Process):
    """What each worker in each iteration is spared, but for a probability, whatever was before.

    Args:
        base: the durations of those that are not.
        probability: of taking any time, in [0, 1].

    >>> from gradcode.delays import Deterministic, Occasional
    >>> times = Occasional(Deterministic(1.0), 0.25).sample(np.random.default_rng(0), 1000, workers=4)
    >>> set(times.ravel().tolist()) == {0.0, 1.0}
    True
    """

    base: Source
    probability: float

    def __post_init__(self) -> None:
        _source("base", self.base)
        probability("probability", self.probability)

    @property
    def workers(self) -> int | None:
        return self.base.workers

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        own, base = split(rng, 2)

        def flags(iterations: int) -> Flags:
            return own.random((iterations, workers)) >= self.probability

        return _Flagged(self.base.start(base, workers, stages), flags, 0.0)


@dataclass(frozen=True)
class GilbertElliott(Process):
    """Each worker has a chain of two states, normal and slow, with a memory from iteration to iteration.

    The share of slow workers is fail / (fail + recover), a slow spell lasts 1 / recover iterations on
    average, and states d iterations apart have correlation (1 − fail − recover)^d. The chains start in that
    stationary share.
    Source: Gilbert 1960, Elliott 1963; as a straggler model, Buyukates et al. 2022.

    Args:
        base: the durations of a worker in the normal state.
        fail: probability to turn from normal to slow between two iterations, in [0, 1].
        recover: probability to turn back, in [0, 1]; fail + recover > 0.
        slowdown: factor on the duration of a slow worker, > 0; inf: it does not answer.

    >>> from gradcode.delays import Deterministic, GilbertElliott
    >>> process = GilbertElliott(Deterministic(1.0), fail=0.05, recover=0.15, slowdown=10.0)
    >>> round(process.share, 12)
    0.25
    """

    base: Source
    fail: float
    recover: float
    slowdown: float

    def __post_init__(self) -> None:
        _source("base", self.base)
        probability("fail", self.fail)
        probability("recover", self.recover)
        require(self.fail + self.recover > 0, "fail + recover", self.fail + self.recover, "be > 0")
        positive("slowdown", self.slowdown, finite=False)

    @property
    def workers(self) -> int | None:
        return self.base.workers

    @property
    def share(self) -> float:
        """The stationary probability of the slow state."""
        return self.fail / (self.fail + self.recover)

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        own, base = split(rng, 2)
        chain = _Chain(self, own, workers)
        return _Flagged(self.base.start(base, workers, stages), chain.next, self.slowdown)

    def states(self, rng: np.random.Generator, iterations: int, workers: int) -> Flags:
        """(iterations, N) who is slow: the states behind ``sample`` with an equally seeded generator."""
        own, _ = split(rng, 2)
        return _Chain(self, own, count("workers", workers, 1)).next(count("iterations", iterations))


class _Chain:
    def __init__(self, process: GilbertElliott, rng: np.random.Generator, workers: int) -> None:
        self._fail, self._stay, self._rng = process.fail, 1 - process.recover, rng
        self._state: Flags = rng.random(workers) < process.share

    def next(self, iterations: int) -> Flags:
        """Who is slow in the next ``iterations``.

        A worker's next state is ``u < fail`` from normal and ``u < stay`` from slow, with one uniform u for
        both. Where the two agree the state is known whatever came before; between such moments it is kept
        (fail ≤ stay) or flips in every iteration. So no loop over the iterations is needed.
        """
        if iterations == 0:
            return np.empty((0, len(self._state)), dtype=bool)
        u = self._rng.random((iterations, len(self._state)))
        slow = u < min(self._fail, self._stay)
        known = slow | (u >= max(self._fail, self._stay))
        row = np.arange(1, iterations + 1)[:, None]
        last = np.maximum.accumulate(np.where(known, row, 0), axis=0)  # 0: the state before the first row
        states: Flags = np.take_along_axis(np.vstack([self._state, slow]), last, axis=0)
        if self._fail > self._stay:
            states ^= (row - last) % 2 == 1
        self._state = states[-1]
        return states


class _Flagged:
    """Multiplies the durations of the flagged workers."""

    def __init__(self, base: Sampler, flags: Callable[[int], Flags], slowdown: float) -> None:
        self._base, self._flags, self._slowdown = base, flags, slowdown

    def next(self, iterations: int) -> Floats:
        times = self._base.next(iterations)
        flags = self._flags(iterations)
        flags = flags.reshape(flags.shape + (1,) * (times.ndim - flags.ndim))  # a state holds in all stages
        return np.where(flags, stretched(times, self._slowdown), times)


@dataclass(frozen=True)
class Persistent(Process):
    """Some workers are always slower.

    Args:
        base: the durations of all others.
        factors: worker → factor on its durations, > 0; inf: it never answers.

    >>> from gradcode.delays import Deterministic, Persistent
    >>> Persistent(Deterministic(1.0), {2: 5.0}).sample(np.random.default_rng(0), 1, workers=3).tolist()
    [[1.0, 1.0, 5.0]]
    """

    base: Source
    factors: Mapping[int, float]

    def __post_init__(self) -> None:
        _source("base", self.base)
        object.__setattr__(self, "factors", dict(self.factors))
        for worker, factor in self.factors.items():
            count("worker", worker)
            positive(f"factors[{worker}]", factor, finite=False)

    def __hash__(self) -> int:
        return hash((self.base, frozenset(self.factors.items())))

    @property
    def workers(self) -> int | None:
        return self.base.workers

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        sampler = self.base.start(rng, workers, stages)
        for worker in self.factors:
            require(worker < workers, "worker", worker, f"be < workers={workers}")
        return _Scaled(sampler, self.factors)


class _Scaled:
    def __init__(self, base: Sampler, factors: Mapping[int, float]) -> None:
        self._base, self._factors = base, factors

    def next(self, iterations: int) -> Floats:
        times = self._base.next(iterations).copy()
        for worker, factor in self._factors.items():
            times[:, worker] = stretched(times[:, worker], factor)
        return times


def slow(base: Source, factors: Mapping[int, float]) -> Persistent:
    """``slow(base, {7: 10.0})``: worker 7 always takes ten times as long."""
    return Persistent(base, factors)


@dataclass(frozen=True)
class PerWorker(Process):
    """Every worker has its own law or process.

    Args:
        sources: one per worker; a process among them is asked for a single worker.

    >>> from gradcode.delays import Deterministic, PerWorker
    >>> PerWorker([Deterministic(1.0), Deterministic(3.0)]).sample(np.random.default_rng(0), 1).tolist()
    [[1.0, 3.0]]
    """

    sources: Sequence[Source]

    def __post_init__(self) -> None:
        object.__setattr__(self, "sources", tuple(self.sources))
        require(len(self.sources) > 0, "sources", self.sources, "hold at least one law or process")
        for worker, source in enumerate(self.sources):
            _source(f"sources[{worker}]", source)
            require(source.workers in (None, 1), f"sources[{worker}].workers", source.workers, "be None or 1")

    @property
    def workers(self) -> int:
        return len(self.sources)

    def start(self, rng: np.random.Generator, workers: int, stages: int | None = None) -> Sampler:
        self._check_workers(workers)
        each = zip(self.sources, split(rng, workers), strict=True)
        return _SideBySide([source.start(own, 1, stages) for source, own in each])


class _SideBySide:
    def __init__(self, each: Sequence[Sampler]) -> None:
        self._each = each

    def next(self, iterations: int) -> Floats:
        return np.concatenate([sampler.next(iterations) for sampler in self._each], axis=1)


def stretched(times: Floats, factor: float) -> Floats:
    """The times multiplied by the factor, where inf means never, even of a time of 0, and 0 at once, even of inf."""
    return np.full_like(times, factor) if factor == 0 or np.isinf(factor) else times * factor


def _source(name: str, value: object) -> None:
    require(isinstance(value, Source), name, value, "be a law or a process")
