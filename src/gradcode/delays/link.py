"""How long a message takes: latency, bandwidth, and attempts that fail and are repeated.

Whatever the link, the time of a message of b bytes is ``fixed + per_byte · b`` once the iteration's attempts
and latency are drawn. That pair is all a sampler gives, so that any number of replies of any size see the
same link.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from gradcode.delays.bounds import nonnegative, positive, probability
from gradcode.delays.law import Floats, Law, Sampler, Source, split


class LinkState(NamedTuple):
    """``fixed`` (iterations, N) seconds per message and ``per_byte`` (iterations, N) seconds per byte."""

    fixed: Floats
    per_byte: Floats

    def seconds(self, bytes: float | Floats) -> Floats:
        """Seconds of a message of ``bytes``, a scalar or (N,)."""
        return np.asarray(self.fixed + self.per_byte * bytes)


@dataclass(frozen=True)
class Link:
    """A link that repeats failed attempts: Geometric(1 − failure) × (latency + bytes / bandwidth) seconds.

    Source: the hierarchical spec's runtime model, section 4 (after the links of coded federated learning).

    Args:
        latency: seconds per attempt, ≥ 0, or a law or process of it, drawn once per worker and iteration.
        bandwidth: bytes per second, > 0.
        failure: probability that an attempt fails, in [0, 1).
        timeout: seconds that a failed attempt costs; None: as much as a successful one.

    >>> Link(latency=0.01, bandwidth=1e6, failure=0.5).mean(bytes=1e4)
    0.04
    """

    latency: float | Source = 0.0
    bandwidth: float = float("inf")
    failure: float = 0.0
    timeout: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.latency, Source):
            nonnegative("latency", self.latency)
        positive("bandwidth", self.bandwidth, finite=False)
        probability("failure", self.failure, certain=False)
        if self.timeout is not None:
            nonnegative("timeout", self.timeout)

    def mean(self, bytes: float) -> float:
        """Mean seconds of a message of ``bytes``; ValueError where the latency is a process: no mean."""
        if isinstance(self.latency, Source) and not isinstance(self.latency, Law):
            raise ValueError(f"latency={self.latency!r} must be a number or a law to have a mean")
        latency = self.latency.mean if isinstance(self.latency, Law) else self.latency
        attempt = latency + bytes / self.bandwidth
        failed = self.failure / (1 - self.failure)
        return attempt + failed * (attempt if self.timeout is None else self.timeout)

    def start(self, rng: np.random.Generator, workers: int) -> LinkSampler:
        """A sampler of this link, the same kind for each of ``workers``, at iteration 0."""
        return LinkSampler(self, rng, workers)


class LinkSampler:
    """Goes through the iterations of one run, in order."""

    def __init__(self, link: Link, rng: np.random.Generator, workers: int) -> None:
        self._link, self._workers = link, workers
        self._rng, latency_rng = split(rng, 2)
        self._latency: Sampler | None = None
        if isinstance(link.latency, Source):
            self._latency = link.latency.start(latency_rng, workers)

    def next(self, iterations: int) -> LinkState:
        """The link states of the next ``iterations``."""
        link, shape = self._link, (iterations, self._workers)
        latency = np.full(shape, link.latency) if self._latency is None else self._latency.next(iterations)
        attempts = np.ones(shape)
        if link.failure > 0:
            attempts = self._rng.geometric(1 - link.failure, shape).astype(float)
        if link.timeout is None:
            return LinkState(attempts * latency, attempts / link.bandwidth)
        return LinkState((attempts - 1) * link.timeout + latency, np.full(shape, 1 / link.bandwidth))


class LinksSampler:
    """One link per worker, side by side."""

    def __init__(self, links: Sequence[Link], rng: np.random.Generator) -> None:
        self._each = [link.start(own, 1) for link, own in zip(links, split(rng, len(links)), strict=True)]

    def next(self, iterations: int) -> LinkState:
        """The link states of the next ``iterations``."""
        states = [sampler.next(iterations) for sampler in self._each]
        return LinkState(*(np.concatenate(part, axis=1) for part in zip(*states, strict=True)))
