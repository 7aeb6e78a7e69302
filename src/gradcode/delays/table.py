"""What a cluster needs: computing and communication joined, and the table of them that drives every run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from gradcode.delays.bounds import count, nonnegative, require
from gradcode.delays.law import ROWS, Floats, Sampler, Source, split
from gradcode.delays.laws import Deterministic
from gradcode.delays.link import Link, LinkSampler, LinksSampler, LinkState
from gradcode.delays.process import PerWorker
from gradcode.delays.trace import durations, read_csv, write_csv

# Iterations that a table draws at once.
CHUNK = 256

Relay = Literal["independent", "shared"]
RELAYS: tuple[Relay, ...] = ("independent", "shared")


Above = tuple[tuple[int, ...], ...]
"""For each worker the edge nodes between it and the master, the nearest first."""


class Rows(NamedTuple):
    """Some iterations: ``compute`` (iterations, N, stages) seconds per unit of load, and the links' states.

    ``link`` is that of the N workers, ``edges`` that of the E edge nodes, ``relay`` that of workers' messages which
    edge nodes only pass on, (iterations, N). ``start`` are the seconds before which a worker begins nothing,
    (iterations, N).
    """

    compute: Floats
    link: LinkState
    edges: LinkState
    relay: LinkState
    start: Floats


@dataclass(frozen=True)
class Delays:
    """How long workers compute and communicate.

    Args:
        compute: seconds per unit of load, a law or a process; a list of one per worker.
        communicate: a ``Link``, or a law or process of the seconds of a reply of any size; a list of one per
            worker. None: no time.
        stages: batches of orders per iteration that draw anew; 1: the first draw holds through the iteration.
        edges: how long an edge node's message takes to the node above it: as ``communicate``, a list being one per
            edge node, parents before their children. None: no time.
        relay: where edge nodes only pass on what workers send: ``"independent"`` draws the edge nodes' links for each
            message, ``"shared"`` once for all messages of an iteration.
        receive: seconds that the master takes to receive a reply, whatever its size, one after the other: a reply that
            comes while another is being received waits. Only the master does; edge nodes receive at once.
        start: seconds from the start of an iteration in which a worker is not there yet, and begins nothing: a law, a
            process, or a list of one per worker. None: all are there.

    >>> from gradcode.delays import Delays, Link, ShiftedExponential
    >>> delays = Delays(ShiftedExponential(0.1, 10.0), Link(latency=0.001, bandwidth=1e9))
    >>> table = delays.table(workers=8, seed=0)
    >>> table.compute(5).shape, table.communicate(5, bytes=4e6).shape
    ((8, 1), (8,))
    """

    compute: Source
    communicate: Link | tuple[Link, ...] | None = None
    stages: int = 1
    edges: Link | tuple[Link, ...] | None = None
    relay: Relay = "independent"
    receive: float = 0.0
    start: Source | None = None

    def __init__(
        self,
        compute: Source | Sequence[Source],
        communicate: Link | Source | Sequence[Link | Source] | None = None,
        stages: int = 1,
        edges: Link | Source | Sequence[Link | Source] | None = None,
        relay: Relay = "independent",
        receive: float = 0.0,
        start: Source | Sequence[Source] | None = None,
    ) -> None:
        source = _as_source("compute", compute)
        begin = None if start is None else _as_source("start", start)
        link = _as_links("communicate", communicate)
        if isinstance(link, tuple):
            fits = source.workers in (None, len(link))
            require(fits, "len(communicate)", len(link), f"be {source.workers}")
        made_for = {own.workers for own in (source, begin) if own is not None} - {None}
        require(len(made_for) < 2, "start", start, f"be for as many workers as compute, which is for {source.workers}")
        require(relay in RELAYS, "relay", relay, f"be one of {', '.join(RELAYS)}")
        nonnegative("receive", receive)
        object.__setattr__(self, "compute", source)
        object.__setattr__(self, "communicate", link)
        object.__setattr__(self, "stages", count("stages", stages, 1))
        object.__setattr__(self, "edges", _as_links("edges", edges))
        object.__setattr__(self, "relay", relay)
        object.__setattr__(self, "receive", float(receive))
        object.__setattr__(self, "start", begin)

    @property
    def workers(self) -> int | None:
        """The number of workers they are made for; None: any."""
        if isinstance(self.communicate, tuple):
            return len(self.communicate)
        if self.compute.workers is None and self.start is not None:
            return self.start.workers
        return self.compute.workers

    def sampler(self, rng: np.random.Generator, workers: int, above: Above = ()) -> DelaysSampler:
        """A sampler at iteration 0; ValueError where the delays are made for other numbers of workers or edge nodes."""
        return DelaysSampler(self, rng, workers, above)

    def sample(
        self,
        rng: np.random.Generator,
        iterations: int,
        load: npt.ArrayLike = 1.0,
        workers: int | None = None,
        bytes: npt.ArrayLike | None = None,
    ) -> Floats:
        """(iterations, N) seconds until each worker has done its load, and its reply is there if ``bytes`` is given.

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
        sampler = self.sampler(rng, workers)
        total = np.empty((iterations, workers))
        for first in range(0, iterations, ROWS):
            rows = sampler.next(min(ROWS, iterations - first))
            part = total[first : first + ROWS]
            seconds = rows.compute[:, :, 0]
            # A worker that never answers does not answer about a load of 0 either; inf · 0 would be NaN.
            np.multiply(seconds, load, out=part, where=np.isfinite(seconds))
            part[np.isinf(seconds)] = np.inf
            part += rows.start
            if size is not None:
                part += rows.link.seconds(size)
        return total

    def table(self, workers: int, seed: int, above: Above = ()) -> DelayTable:
        """The table of these delays; the same for the same delays, workers, edge nodes and seed."""
        return DelayTable(self, workers, seed, above)


class DelaysSampler:
    """Goes through the iterations of one run, in order."""

    def __init__(self, delays: Delays, rng: np.random.Generator, workers: int, above: Above = ()) -> None:
        # Apart, so that adding a link leaves the computing as it was.
        compute_rng, link_rng, edge_rng, relay_rng, start_rng = split(rng, 5)
        self._workers, self._above, self._shared = workers, above, delays.relay == "shared"
        self._edges = 1 + max((edge for chain in above for edge in chain), default=-1)
        self._compute: Sampler = delays.compute.start(compute_rng, workers, delays.stages)
        self._start: Sampler | None = None if delays.start is None else delays.start.start(start_rng, workers)
        self._link = _sampler(delays.communicate, link_rng, "workers", workers)
        self._edge = _sampler(delays.edges, edge_rng, "edge nodes", self._edges)
        # Messages that are passed on: those of one edge node side by side.
        self._passed = [[worker for worker, chain in enumerate(above) if edge in chain] for edge in range(self._edges)]
        each = delays.edges if isinstance(delays.edges, tuple) else (delays.edges,) * self._edges
        rngs = split(relay_rng, self._edges)
        self._relays = [
            _sampler(link, own, "messages", len(passed))
            for link, own, passed in zip(each, rngs, self._passed, strict=True)
        ]

    def next(self, iterations: int) -> Rows:
        """The next ``iterations``."""
        edges = _states(self._edge, iterations, self._edges)
        relay = LinkState(np.zeros((iterations, self._workers)), np.zeros((iterations, self._workers)))
        for edge, (sampler, passed) in enumerate(zip(self._relays, self._passed, strict=True)):
            own = LinkState(edges.fixed[:, edge, None], edges.per_byte[:, edge, None])
            if not self._shared:
                own = _states(sampler, iterations, len(passed))
            relay.fixed[:, passed] += own.fixed
            relay.per_byte[:, passed] += own.per_byte
        link = _states(self._link, iterations, self._workers)
        there = np.broadcast_to(0.0, (iterations, self._workers))
        start = there if self._start is None else self._start.next(iterations)
        return Rows(self._compute.next(iterations), link, edges, relay, start)


class DelayTable:
    """``delay[iteration, worker, stage]``, the one table that drives simulator, tests, benchmarks and clusters.

    A pure function of (delays, workers, seed): drawn lazily, in order and in chunks, so that an iteration is
    the same whatever was asked before. What was drawn is kept: 8·N·(stages + 3) bytes per iteration. Pickling
    keeps the recipe only. ``receive`` are the seconds that the master takes for each reply.

    Args:
        delays: anything that :func:`as_delays` accepts.
        workers: N, ≥ 1.
        seed: ≥ 0.
        above: for each worker the edge nodes between it and the master, the nearest first; empty: none.

    >>> table = DelayTable(Deterministic(0.5), workers=2, seed=0)
    >>> table.compute(1000).tolist()
    [[0.5], [0.5]]
    """

    def __init__(self, delays: Delays | Source | None, workers: int, seed: int, above: Above = ()) -> None:
        delays = as_delays(delays)
        self.workers = count("workers", workers, 1)
        self.stages, self.receive = delays.stages, delays.receive
        self.edges = 1 + max((edge for chain in above for edge in chain), default=-1)
        self._recipe: tuple[Any, ...] = (delays, self.workers, count("seed", seed), above)
        self._sampler: DelaysSampler | None = delays.sampler(np.random.default_rng(seed), self.workers, above)
        self._chunks: list[Rows] = []
        self._chunk = CHUNK

    @classmethod
    def from_array(
        cls,
        compute: npt.ArrayLike,
        communicate: npt.ArrayLike | None = None,
        edges: npt.ArrayLike | None = None,
        above: Above = (),
        receive: float = 0.0,
        start: npt.ArrayLike | None = None,
    ) -> DelayTable:
        """A recorded or scripted table, again from its start beyond its end.

        Args:
            compute: (iterations, N) or (iterations, N, stages) seconds per unit of load; inf: never answers.
            communicate: (iterations, N) seconds of one reply, whatever its size. None: no time.
            edges: (iterations, E) seconds of a message of each edge node. None: no time.
            above: for each worker the edge nodes between it and the master, the nearest first; empty: none.
            receive: seconds that the master takes for each reply.
            start: (iterations, N) seconds before which a worker begins nothing. None: all are there.

        Raises:
            ValueError: a wrong shape, a negative duration or NaN.
        """
        nonnegative("receive", receive)
        seconds = durations("compute", compute, (2, 3))
        if seconds.ndim == 2:
            seconds = seconds[:, :, None]
        nothing = np.broadcast_to(0.0, seconds.shape[:2])
        reply = nothing if communicate is None else durations("communicate", communicate, (2,))
        require(reply.shape == nothing.shape, "communicate.shape", reply.shape, f"be {nothing.shape}")
        begin = nothing if start is None else durations("start", start, (2,))
        require(begin.shape == nothing.shape, "start.shape", begin.shape, f"be {nothing.shape}")
        table = cls.__new__(cls)
        table.workers, table.stages = seconds.shape[1:]
        table.edges = 1 + max((edge for chain in above for edge in chain), default=-1)
        none = np.broadcast_to(0.0, (len(seconds), table.edges))
        uplink = none if edges is None else durations("edges", edges, (2,))
        require(uplink.shape == none.shape, "edges.shape", uplink.shape, f"be {none.shape}")
        table.receive = float(receive)
        recorded = (None if communicate is None else reply, None if edges is None else uplink)
        table._recipe = (seconds, *recorded, above, table.receive, None if start is None else begin)
        passed = np.zeros(nothing.shape)
        for worker, chain in enumerate(above):
            passed[:, worker] = uplink[:, list(chain)].sum(axis=1)
        table._sampler = None
        links = LinkState(reply, nothing), LinkState(uplink, none), LinkState(passed, nothing)
        table._chunks = [Rows(seconds, *links, begin)]
        table._chunk = len(seconds)
        return table

    @classmethod
    def from_csv(cls, path: str | Path, receive: float = 0.0) -> DelayTable:
        """The table in a CSV file (see :mod:`gradcode.delays.trace`); ValueError names line and value.

        What the master takes for each reply is not in the file.
        """
        compute, communicate, start = read_csv(path)
        return cls.from_array(compute, communicate, receive=receive, start=start)

    def to_csv(self, path: str | Path, iterations: int, bytes: npt.ArrayLike = 0.0) -> None:
        """Writes the first ``iterations``, and when replies of ``bytes`` come and workers begin, unless all are 0."""
        compute, communicate = self.window(0, count("iterations", iterations, 1), bytes)
        start = np.array([self.start(iteration) for iteration in range(iterations)])
        write_csv(path, compute, communicate if communicate.any() else None, start if start.any() else None)

    def __repr__(self) -> str:
        if self._sampler is None:
            return f"DelayTable({self._chunk} recorded iterations, workers={self.workers}, stages={self.stages})"
        delays, workers, seed, _ = self._recipe
        return f"DelayTable({delays!r}, workers={workers}, seed={seed})"

    def __reduce__(self) -> tuple[Any, ...]:
        return (DelayTable.from_array if self._sampler is None else DelayTable, self._recipe)

    def at(self, iteration: int) -> Rows:
        """One iteration: (N, stages) seconds per unit of load, the links' states, (N,), (E,) and (N,), and starts (N,).

        An iteration has one state of the links: the same latency and number of attempts for all its replies.
        """
        rows, i = self._find(iteration)
        link, edges, relay = (LinkState(own.fixed[i], own.per_byte[i]) for own in (rows.link, rows.edges, rows.relay))
        return Rows(rows.compute[i], link, edges, relay, rows.start[i])

    def compute(self, iteration: int) -> Floats:
        """(N, stages) seconds per unit of load, read-only; inf: never answers in this iteration."""
        return np.asarray(self.at(iteration).compute)

    def start(self, iteration: int) -> Floats:
        """(N,) seconds from the iteration's start before which a worker begins nothing; inf: it never does."""
        return np.asarray(self.at(iteration).start)

    def communicate(self, iteration: int, bytes: npt.ArrayLike = 0.0) -> Floats:
        """(N,) seconds of one reply of ``bytes`` (a scalar or (N,)) from each worker."""
        return self.at(iteration).link.seconds(per_worker("bytes", bytes, self.workers))

    def uplink(self, iteration: int, bytes: npt.ArrayLike = 0.0) -> Floats:
        """(E,) seconds of one message of ``bytes`` from each edge node to the node above it."""
        return self.at(iteration).edges.seconds(np.asarray(bytes, dtype=float))

    def relay(self, iteration: int, bytes: npt.ArrayLike = 0.0) -> Floats:
        """(N,) seconds that a reply of each worker takes from edge node to edge node, where those only pass it on."""
        return self.at(iteration).relay.seconds(per_worker("bytes", bytes, self.workers))

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


def as_table(
    delays: DelayTable | Delays | Source | Sequence[Source] | None, workers: int, seed: int, above: Above = ()
) -> DelayTable:
    """The table of what a user may write as delays; a table itself must be for that many workers and edge nodes."""
    if isinstance(delays, DelayTable):
        require(delays.workers == workers, "workers", workers, f"be {delays.workers}, as in {delays!r}")
        edges = 1 + max((edge for chain in above for edge in chain), default=-1)
        require(delays.edges in (0, edges), "edge nodes", edges, f"be {delays.edges}, as in {delays!r}")
        return delays
    return as_delays(delays).table(workers, seed, above)


def per_worker(name: str, values: npt.ArrayLike, workers: int) -> Floats:
    """(N,) or () of the values; ValueError unless ≥ 0, finite, and a scalar or one per worker."""
    array: Floats = np.asarray(values, dtype=float)
    require(array.shape in ((), (workers,)), f"{name}.shape", array.shape, f"be () or ({workers},)")
    require(bool(np.all((array >= 0) & np.isfinite(array))), name, array.tolist(), "be >= 0 and finite")
    return array


def _as_source(name: str, source: object) -> Source:
    """What a user may write for computing: a law or process, or a list of one per worker."""
    own = PerWorker(source) if isinstance(source, list | tuple) else source
    if not isinstance(own, Source):
        raise ValueError(f"{name}={source!r} must be a law, a process, or a list of one per worker")
    return own


def _as_links(name: str, links: object) -> Link | tuple[Link, ...] | None:
    """What a user may write for links: one for all, a list of one each, None."""
    if isinstance(links, list | tuple):
        require(len(links) > 0, name, links, "hold at least one link")
        return tuple(_as_link(name, each) for each in links)
    return None if links is None else _as_link(name, links)


def _as_link(name: str, link: object) -> Link:
    if isinstance(link, Link):
        return link
    if isinstance(link, Source):
        return Link(latency=link)
    raise ValueError(f"{name}={link!r} must be a Link, a law or a process")


def _sampler(
    link: Link | tuple[Link, ...] | None, rng: np.random.Generator, what: str, number: int
) -> LinkSampler | LinksSampler | None:
    if link is None or not number:
        return None
    if isinstance(link, Link):
        return link.start(rng, number)
    require(number == len(link), what, number, f"be {len(link)}")
    return LinksSampler(link, rng)


def _states(sampler: LinkSampler | LinksSampler | None, iterations: int, number: int) -> LinkState:
    if sampler is None:
        nothing = np.broadcast_to(0.0, (iterations, number))
        return LinkState(nothing, nothing)
    return sampler.next(iterations)
