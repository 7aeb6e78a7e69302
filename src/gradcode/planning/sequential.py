"""Sequential gradient coding: which B, W and λ are quickest for recorded times, and whether to code at all.

    chosen = choose(seconds)                    # (iterations, N) of an uncoded run
    chosen.best.kind, chosen.best.seconds       # "multiplexed", of an iteration
    scheme = chosen.best.scheme()

Source: Krishnan, Ebrahimi and Khisti 2023, of which abstract and code were read (gradient_codes.md 5): each candidate
is replayed on a recorded profile, with the times of several loads interpolated, and the smallest total is taken. Where
a pattern leaves the model, the master waits for everybody in that iteration, as in the paper; the schemes here wait
only for what is due, so their times may be shorter. The comparison with codes of one iteration, and with none, is OURS.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gradcode import codes, schemes
from gradcode.codes import checks
from gradcode.delays.bounds import count, nonnegative
from gradcode.delays.law import Floats
from gradcode.protocol import Scheme

__all__ = ["Choice", "Method", "choose", "replay"]

Kind = Literal["uncoded", "coded", "repetition", "multiplexed"]
Profile = npt.ArrayLike | Mapping[float, npt.ArrayLike]


@dataclass(frozen=True)
class Method:
    """A method with its parameters.

    Attributes:
        kind: "uncoded", "coded" by a code for s stragglers, or one of those of ``schemes.sequential``.
        workers: N.
        load: the share of the data that a worker computes on.
        stragglers: s of "coded", λ of the sequential ones, 0 of "uncoded".
        burst, window: B and W; 0 for the others.
        patience: μ, of the sequential ones.
        seconds: mean time of an iteration on the profile.
    """

    kind: Kind
    workers: int
    load: float
    stragglers: int = 0
    burst: int = 0
    window: int = 0
    patience: float = 1.0
    seconds: float = float("nan")

    @property
    def delay(self) -> int:
        """Iterations by which the gradient is late."""
        return {"repetition": self.burst, "multiplexed": self.window - 2 + self.burst}.get(self.kind, 0)

    @property
    def messages(self) -> int:
        """That a worker sends in an iteration."""
        return self.window - 1 + self.burst if self.kind == "multiplexed" else 1

    def scheme(self, **options: Any) -> Scheme:
        """The scheme, with more ``options`` of its constructor, or of the code's where it is "coded".

        Raises:
            ValueError: as that: the planner looks at times only, and rounding may not allow a code.
        """
        if self.kind == "uncoded":
            return schemes.uncoded(self.workers, **options)
        if self.kind == "coded":
            divides = self.workers % (self.stragglers + 1) == 0
            code = codes.fractional_repetition if divides else codes.cyclic_mds
            return schemes.coded(code(self.workers, self.stragglers, **options))
        numbers = (self.workers, self.burst, self.window, self.stragglers)
        return schemes.sequential(*numbers, kind=self.kind, patience=self.patience, **options)


@dataclass(frozen=True)
class Choice:
    """All that were tried, the quickest first; of equally quick ones the simpler."""

    methods: tuple[Method, ...]

    @property
    def best(self) -> Method:
        """The quickest; its kind is "uncoded" where it is best not to code."""
        return self.methods[0]

    @property
    def by_kind(self) -> dict[Kind, Method]:
        """The quickest of each kind, the quickest kind first."""
        found: dict[Kind, Method] = {}
        for method in self.methods:
            found.setdefault(method.kind, method)
        return found


def choose(
    profile: Profile,
    *,
    longest_delay: int = 3,
    longest_window: int = 10,
    stragglers: Iterable[int] | None = None,
    patience: float = 1.0,
    message: npt.ArrayLike = 0.0,
) -> Choice:
    """The quickest of uncoded training, codes, SR-SGC and M-SGC for recorded times.

    The best of many on one profile looks better than it is: :func:`replay` it on another.

    Args:
        profile: (iterations, N) seconds until each worker's answer in an uncoded run, taken to grow in proportion to
            the load; or several such tables, by the share of the data that a worker computed on: between them times are
            interpolated in a line, and beyond them extrapolated.
        longest_delay: of the gradient, in iterations. A profile does not show what a delay costs in accuracy.
        longest_window: the largest W tried.
        stragglers: the numbers tried, s of codes and λ of sequential ones; None: all.
        patience: μ.
        message: seconds that each further message of a worker takes, one number or (iterations, N): M-SGC sends several
            in an iteration.

    Raises:
        ValueError: an argument is out of its range, or the tables are not alike.

    >>> choose([[1.0, 1.0, 1.0, 9.0], [9.0, 1.0, 1.0, 1.0], [1.0, 9.0, 1.0, 1.0]]).best.kind
    'coded'
    """
    times = _Times(profile, message)
    count("longest_delay", longest_delay)
    count("longest_window", longest_window, 2)
    nonnegative("patience", patience)
    allowed = range(times.workers + 1) if stragglers is None else set(stragglers)
    tried = [
        replace(method, patience=patience)
        for method in _candidates(times.workers, longest_delay, longest_window)
        if method.kind == "uncoded" or method.stragglers in allowed
    ]
    timed = [replace(method, seconds=float(_replay(times, method).mean())) for method in tried]
    return Choice(tuple(sorted(timed, key=lambda method: method.seconds)))  # stable: candidates begin with the simplest


def replay(profile: Profile, method: Method, message: npt.ArrayLike = 0.0) -> Floats:
    """(iterations,) seconds that ``method`` takes on a profile, both as in :func:`choose`.

    Raises:
        ValueError: the tables are not alike, or of another number of workers.
    """
    times = _Times(profile, message)
    if times.workers != method.workers:
        raise ValueError(f"profile has {times.workers} workers, and {method!r} is for {method.workers}")
    return _replay(times, method)


def _replay(times: _Times, method: Method) -> Floats:
    seconds = times.at(method.load, method.messages)
    if method.kind in ("uncoded", "coded"):
        place = method.workers - method.stragglers - 1
        return np.asarray(np.partition(seconds, place, axis=1)[:, place])
    return _bursty(seconds, method.burst, method.window, method.stragglers, method.patience)


def _bursty(seconds: Floats, burst: int, window: int, stragglers: int, patience: float) -> Floats:
    """(R,) times: stragglers are not waited for while they are those of the (B, W, λ)-bursty model, else all are."""
    latest = (1 + patience) * seconds.min(axis=1)
    everybody = seconds.max(axis=1)
    late = seconds > latest[:, None]
    missed = np.zeros_like(late)
    ended: Floats = np.minimum(everybody, latest)
    for number in np.flatnonzero(late.any(axis=1)):
        begin = max(0, number - window + 1)
        distinct = np.count_nonzero(missed[begin:number].any(axis=0) | late[number])
        again = missed[begin : max(begin, number - burst + 1), late[number]].any()
        if distinct <= stragglers and not again:
            missed[number] = late[number]
        else:
            ended[number] = everybody[number]
    return ended


def _candidates(workers: int, longest_delay: int, longest_window: int) -> Iterator[Method]:
    """All methods, with nothing timed yet; of SR-SGC with the same code those that stand the most."""
    yield Method("uncoded", workers, 1 / workers)
    for stragglers in range(1, workers):
        yield Method("coded", workers, (stragglers + 1) / workers, stragglers)
    for burst in range(1, longest_delay + 1):
        for window in range(burst + 1, longest_window + 1, burst):
            for tolerance in range(1, workers):
                # The largest λ with ⌈Bλ/(W − 1 + B)⌉ = s.
                most = min(workers - 1, tolerance * (window - 1 + burst) // burst)
                if -(-burst * most // (window - 1 + burst)) < tolerance:
                    break
                load = -(-workers // (workers // (tolerance + 1))) / workers
                yield Method("repetition", workers, load, most, burst, window)
    for burst in range(1, longest_delay + 1):
        for window in range(burst + 1, min(longest_delay + 2 - burst, longest_window) + 1):
            for most in range(1, workers + 1):
                tasks, private = window - 1 + burst, (window - 1) * (most + 1)
                load = tasks / (window - 1) if most == workers else (most + 1) * tasks / (burst + private)
                yield Method("multiplexed", workers, load / workers, most, burst, window)


class _Times:
    """A profile: the time of each worker in each iteration, for any load."""

    def __init__(self, profile: Profile, message: npt.ArrayLike) -> None:
        single = not isinstance(profile, Mapping)
        tables = {float("nan"): profile} if not isinstance(profile, Mapping) else profile
        arrays = [np.asarray(table, dtype=np.float64) for table in tables.values()]
        if not arrays or any(own.ndim != 2 or not own.size or own.shape != arrays[0].shape for own in arrays):
            shapes = [own.shape for own in arrays]
            raise ValueError(f"profile must be tables (iterations, N) of one shape, got {shapes}")
        if not all((own > 0).all() for own in arrays):
            raise ValueError("profile: all times must be positive seconds; inf is a worker that never answers")
        self.workers = arrays[0].shape[1]
        checks.integer("workers", self.workers, 2)
        loads = np.array([1 / self.workers] if single else list(tables))
        if not ((loads > 0) & (loads <= 1)).all():
            raise ValueError(f"profile: loads={loads.tolist()} must be shares of the data, above 0 and at most 1")
        order = np.argsort(loads)
        self._loads, self._tables = loads[order], [arrays[place] for place in order]
        self._message = np.broadcast_to(np.asarray(message, dtype=np.float64), arrays[0].shape)

    def at(self, load: float, messages: int) -> Floats:
        """(R, N) seconds."""
        more = (messages - 1) * self._message
        if len(self._loads) == 1:
            return np.asarray(self._tables[0] * (load / self._loads[0]) + more)
        right = int(np.clip(np.searchsorted(self._loads, load), 1, len(self._loads) - 1))
        low, high = self._loads[right - 1], self._loads[right]
        share = (load - low) / (high - low)
        first, second = self._tables[right - 1], self._tables[right]
        with np.errstate(invalid="ignore"):
            between = first + share * (second - first)
        # Who never answered at one of the loads does not between them either; and no line leads to no time at all.
        never = np.isinf(first) | np.isinf(second)
        return np.asarray(np.where(never, np.inf, np.maximum(between, 0.0)) + more)
