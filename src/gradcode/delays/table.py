"""What a cluster needs: computing and communication joined, and the table of them that drives every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import count, require
from gradcode.delays.law import ROWS, Floats, Sampler, Source, split
from gradcode.delays.laws import Deterministic
from gradcode.delays.link import Link, LinkSampler, LinksSampler, LinkState
from gradcode.delays.process import PerWorker
from gradcode.delays.trace import durations, read_csv, write_csv

# Iterations that a table draws at once.
CHUNK = 256


class Rows(NamedTuple):
    """Some iterations: ``compute`` (iterations, N, stages) seconds per unit of load, and the links' state."""

    compute: Floats
    link: LinkState


@dataclass(frozen=True)
class Delays:
    """How long workers compute and communicate.

    Args:
        compute: seconds per unit of load, a law or a process; a list of one per worker.
        communicate: a ``Link``, or a law or process of the seconds of a reply of any size; a list of one per
            worker. None: no time.
        stages: batches of orders per iteration that draw anew; 1: the first draw holds through the iteration.

    >>> from gradcode.delays import Delays, Link, ShiftedExponential
    >>> delays = Delays(ShiftedExponential(0.1, 10.0), Link(latency=0.001, bandwidth=1e9))
    >>> table = delays.table(workers=8, seed=0)
    >>> table.compute(5).shape, table.communicate(5, bytes=4e6).shape
    ((8, 1), (8,))
    """

    compute: Source
    communicate: Link | tuple[Link, ...] | None = None
    stages: int = 1

    def __init__(
        self,
        compute: Source | Sequence[Source],
        communicate: Link | Source | Sequence[Link | Source] | None = None,
        stages: int = 1,
    ) -> None:
        source = PerWorker(compute) if isinstance(compute, list | tuple) else compute
        if not isinstance(source, Source):
            raise ValueError(f"compute={compute!r} must be a law, a process, or a list of one per worker")
        link: Link | tuple[Link, ...] | None = None
        if isinstance(communicate, list | tuple):
            require(len(communicate) > 0, "communicate", communicate, "hold at least one link")
            link = tuple(_as_link(each) for each in communicate)
            fits = source.workers in (None, len(link))
            require(fits, "len(communicate)", len(link), f"be {source.workers}")
        elif communicate is not None:
            link = _as_link(communicate)
        object.__setattr__(self, "compute", source)
        object.__setattr__(self, "communicate", link)
        object.__setattr__(self, "stages", count("stages", stages, 1))

    @property
    def workers(self) -> int | None:
        """The number of workers they are made for; None: any."""
        return len(self.communicate) if isinstance(self.communicate, tuple) else self.compute.workers

    def start(self, rng: np.random.Generator, workers: int) -> DelaysSampler:
        """A sampler at iteration 0; ValueError where the delays are made for another number of workers."""
        return DelaysSampler(self, rng, workers)

    def sample(
        self,
        rng: np.random.Generator,
        iterations: int,
        load: npt.ArrayLike = 1.0,
        workers: int | None = None,
        bytes: npt.ArrayLike | None = None,
    ) -> Floats:
        """(iterations, N) seconds that each worker takes for its load, and its reply if ``bytes`` is given.

        Args:
            load: units per worker, a scalar or (N,).
            workers: N; needed where neither ``load`` nor the delays tell it.
            bytes: size of a reply, a scalar or (N,). None: the time of computing alone.

        Raises:
            ValueError: N unknown or contradictory, a negative load or size.
        """
        count("iterations", iterations)
        if workers is None:
            workers = np.shape(load)[0] if np.ndim(load) else self.workers
            if workers is None:
                raise ValueError("workers=None must be given where neither load nor the delays tell it")
        load = per_worker("load", load, workers)
        size = None if bytes is None else per_worker("bytes", bytes, workers)
        sampler = self.start(rng, workers)
        total = np.empty((iterations, workers))
        for first in range(0, iterations, ROWS):
            rows = sampler.next(min(ROWS, iterations - first))
            part = total[first : first + ROWS]
            seconds = rows.compute[:, :, 0]
            # A worker that never answers does not answer about a load of 0 either; inf · 0 would be NaN.
            np.multiply(seconds, load, out=part, where=np.isfinite(seconds))
            part[np.isinf(seconds)] = np.inf
            if size is not None:
                part += rows.link.seconds(size)
        return total

    def table(self, workers: int, seed: int) -> DelayTable:
        """The table of these delays; the same for the same delays, workers and seed."""
        return DelayTable(self, workers, seed)


class DelaysSampler:
    """Goes through the iterations of one run, in order."""

    def __init__(self, delays: Delays, rng: np.random.Generator, workers: int) -> None:
        compute_rng, link_rng = split(rng, 2)  # apart, so that adding a link leaves the computing as it was
        self._workers = workers
        self._compute: Sampler = delays.compute.start(compute_rng, workers, delays.stages)
        self._link: LinkSampler | LinksSampler | None = None
        if isinstance(delays.communicate, Link):
            self._link = delays.communicate.start(link_rng, workers)
        elif delays.communicate is not None:
            require(workers == len(delays.communicate), "workers", workers, f"be {len(delays.communicate)}")
            self._link = LinksSampler(delays.communicate, link_rng)

    def next(self, iterations: int) -> Rows:
        """The next ``iterations``."""
        compute = self._compute.next(iterations)
        if self._link is None:
            nothing = np.broadcast_to(0.0, (iterations, self._workers))
            return Rows(compute, LinkState(nothing, nothing))
        return Rows(compute, self._link.next(iterations))


class DelayTable:
    """``delay[iteration, worker, stage]``, the one table that drives simulator, tests, benchmarks and clusters.

    A pure function of (delays, workers, seed): drawn lazily, in order and in chunks, so that an iteration is
    the same whatever was asked before. What was drawn is kept: 8·N·(stages + 2) bytes per iteration. Pickling
    keeps the recipe only.

    Args:
        delays: anything that :func:`as_delays` accepts.
        workers: N, ≥ 1.
        seed: ≥ 0.

    >>> table = DelayTable(Deterministic(0.5), workers=2, seed=0)
    >>> table.compute(1000).tolist()
    [[0.5], [0.5]]
    """

    def __init__(self, delays: Delays | Source | None, workers: int, seed: int) -> None:
        delays = as_delays(delays)
        self.workers = count("workers", workers, 1)
        self.stages = delays.stages
        self._recipe: tuple[Any, ...] = (delays, self.workers, count("seed", seed))
        self._sampler: DelaysSampler | None = delays.start(np.random.default_rng(seed), self.workers)
        self._chunks: list[Rows] = []
        self._chunk = CHUNK

    @classmethod
    def from_array(cls, compute: npt.ArrayLike, communicate: npt.ArrayLike | None = None) -> DelayTable:
        """A recorded or scripted table, again from its start beyond its end.

        Args:
            compute: (iterations, N) or (iterations, N, stages) seconds per unit of load; inf: never answers.
            communicate: (iterations, N) seconds of one reply, whatever its size. None: no time.

        Raises:
            ValueError: a wrong shape, a negative duration or NaN.
        """
        seconds = durations("compute", compute, (2, 3))
        if seconds.ndim == 2:
            seconds = seconds[:, :, None]
        nothing = np.broadcast_to(0.0, seconds.shape[:2])
        reply = nothing if communicate is None else durations("communicate", communicate, (2,))
        require(reply.shape == nothing.shape, "communicate.shape", reply.shape, f"be {nothing.shape}")
        table = cls.__new__(cls)
        table.workers, table.stages = seconds.shape[1:]
        table._recipe = (seconds, None if communicate is None else reply)
        table._sampler = None
        table._chunks = [Rows(seconds, LinkState(reply, nothing))]
        table._chunk = len(seconds)
        return table

    @classmethod
    def from_csv(cls, path: str | Path) -> DelayTable:
        """The table in a CSV file (see :mod:`gradcode.delays.trace`); ValueError names line and value."""
        return cls.from_array(*read_csv(path))

    def to_csv(self, path: str | Path, iterations: int, bytes: npt.ArrayLike = 0.0) -> None:
        """Writes the first ``iterations``, and the times of replies of ``bytes`` unless all are 0."""
        compute, communicate = self.window(0, count("iterations", iterations, 1), bytes)
        write_csv(path, compute, communicate if communicate.any() else None)

    def __repr__(self) -> str:
        if self._sampler is None:
            return f"DelayTable({self._chunk} recorded iterations, workers={self.workers}, stages={self.stages})"
        delays, workers, seed = self._recipe
        return f"DelayTable({delays!r}, workers={workers}, seed={seed})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (DelayTable.from_array if self._sampler is None else DelayTable, self._recipe)

    def compute(self, iteration: int) -> Floats:
        """(N, stages) seconds per unit of load, read-only; inf: never answers in this iteration."""
        rows, i = self._find(iteration)
        return np.asarray(rows.compute[i])

    def communicate(self, iteration: int, bytes: npt.ArrayLike = 0.0) -> Floats:
        """(N,) seconds of one reply of ``bytes`` (a scalar or (N,)) from each worker.

        An iteration has one state of the links: the same latency and number of attempts for all its replies.
        """
        rows, i = self._find(iteration)
        size = per_worker("bytes", bytes, self.workers)
        return LinkState(rows.link.fixed[i], rows.link.per_byte[i]).seconds(size)

    def window(self, start: int, stop: int, bytes: npt.ArrayLike = 0.0) -> tuple[Floats, Floats]:
        """Iterations from ``start`` to before ``stop``: compute (…, N, stages) and communicate (…, N)."""
        count("start", start)
        count("stop", stop, start)
        compute = np.empty((stop - start, self.workers, self.stages))
        communicate = np.empty((stop - start, self.workers))
        size = per_worker("bytes", bytes, self.workers)
        first = start
        while first < stop:
            rows, i = self._find(first)
            last = min(stop, first + self._chunk - i)
            here, there = slice(first - start, last - start), slice(i, i + last - first)
            compute[here] = rows.compute[there]
            communicate[here] = LinkState(rows.link.fixed[there], rows.link.per_byte[there]).seconds(size)
            first = last
        return compute, communicate

    def _find(self, iteration: int) -> tuple[Rows, int]:
        """The chunk that holds the iteration, and where in it."""
        chunk, row = divmod(count("iteration", iteration), self._chunk)
        if self._sampler is None:
            return self._chunks[0], row
        while len(self._chunks) <= chunk:
            rows = self._sampler.next(self._chunk)
            rows.compute.flags.writeable = False
            self._chunks.append(rows)
        return self._chunks[chunk], row


def as_delays(delays: Delays | Source | Sequence[Source] | None) -> Delays:
    """Delays from what a user may write: also a bare law or process, a list of one per worker, None: no delay.

    Raises:
        ValueError: something else.
    """
    if isinstance(delays, Delays):
        return delays
    if delays is None:
        return Delays(Deterministic(0.0))
    if isinstance(delays, Source | list | tuple):
        return Delays(delays)
    raise ValueError(f"delays={delays!r} must be Delays, a law, a process, a list of one per worker, or None")


def as_table(delays: DelayTable | Delays | Source | Sequence[Source] | None, workers: int, seed: int) -> DelayTable:
    """The table of what a user may write as delays; a table itself must be for that many workers."""
    if isinstance(delays, DelayTable):
        require(delays.workers == workers, "workers", workers, f"be {delays.workers}, as in {delays!r}")
        return delays
    return as_delays(delays).table(workers, seed)


def per_worker(name: str, values: npt.ArrayLike, workers: int) -> Floats:
    """(N,) or () of the values; ValueError unless ≥ 0, finite, and a scalar or one per worker."""
    array: Floats = np.asarray(values, dtype=float)
    require(array.shape in ((), (workers,)), f"{name}.shape", array.shape, f"be () or ({workers},)")
    require(bool(np.all((array >= 0) & np.isfinite(array))), name, array.tolist(), "be >= 0 and finite")
    return array


def _as_link(communicate: object) -> Link:
    if isinstance(communicate, Link):
        return communicate
    if isinstance(communicate, Source):
        return Link(latency=communicate)
    raise ValueError(f"communicate={communicate!r} must be a Link, a law or a process")
