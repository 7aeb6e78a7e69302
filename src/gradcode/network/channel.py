"""How well each worker is heard: power gains over noise, slot by slot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


class Channel(Protocol):
    """Where the gains g of a link come from, each the power gain divided by the noise power, in 1/W.

    A link of bandwidth Bw that sends with power p then carries Bw·log2(1 + p·g).
    """

    @property
    def largest(self) -> Floats:
        """(N,) or () a gain that none exceeds; what a battery needs is derived from it."""
        ...

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Gains of that shape, whose last axis are the workers."""
        ...


@dataclass(frozen=True, eq=False)
class Rayleigh:
    """Rayleigh fading: exponential power gains, independent from slot to slot and worker to worker, clipped.

    The time S/rate of a message has no mean without ``least``, for gains near 0 are too likely; and without ``most`` no
    battery is large enough. Source: two_stage.md, 8.3 and 11 (RECONSTRUCTED).

    Args:
        mean: mean gain before clipping, of all workers or (N,) one each, > 0.
        most: the gain that larger ones are lowered to, > 0.
        least: the gain that smaller ones are raised to, in [0, most]; 0: none is. For times of messages the spec
            takes 0.05 of the mean.

    Raises:
        ValueError: an argument is out of its range.

    >>> Rayleigh(mean=2.0, most=12.0).sample(np.random.default_rng(0), (3, 4)).shape
    (3, 4)
    """

    mean: float | Floats
    most: float
    least: float | Floats = 0.0

    def __post_init__(self) -> None:
        if not np.all((np.asarray(self.mean) > 0) & np.isfinite(self.mean)):
            raise ValueError(f"mean={self.mean!r} must be positive and finite")
        if not 0 < self.most < math.inf:
            raise ValueError(f"most={self.most} must be positive and finite: batteries are made for it")
        if not np.all((np.asarray(self.least) >= 0) & (np.asarray(self.least) <= self.most)):
            raise ValueError(f"least={self.least!r} must lie in [0, most={self.most}]")

    @property
    def largest(self) -> Floats:
        """() the largest gain."""
        return np.asarray(self.most, dtype=np.float64)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """Gains of that shape, whose last axis are the workers."""
        return np.clip(self.mean * rng.standard_exponential(shape), self.least, self.most)

    def seconds(self, size: float, power: float, bandwidth: float, quantile: float = 0.5) -> Floats:
        """The quantile of the seconds that a message takes at one gain for all of it, clipped as the gains are.

        S / (Bw·log2(1 − p·ḡ·ln q)) for the quantile q, since Pr[g ≥ x] = exp(−x/ḡ) (section 11 of the spec).

        Raises:
            ValueError: ``quantile`` is not strictly between 0 and 1.
        """
        if not 0 < quantile < 1:
            raise ValueError(f"quantile={quantile} must lie strictly between 0 and 1")
        gain = np.clip(-np.asarray(self.mean) * math.log(quantile), self.least, self.most)
        return np.asarray(size / (bandwidth * np.log2(1 + power * gain)))


@dataclass(frozen=True)
class Steady:
    """A wire: always the same gain, 1 by default, so that power 1 carries exactly the bandwidth."""

    gain: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.gain < math.inf:
            raise ValueError(f"gain={self.gain} must be positive and finite")

    @property
    def largest(self) -> Floats:
        """() the gain."""
        return np.asarray(self.gain, dtype=np.float64)

    def sample(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """The gain, in that shape."""
        return np.full(shape, self.gain)


def path_loss(
    distance: float | Floats, noise: float, constant: float = 1e-4, exponent: float = 4.0, reference: float = 1.0
) -> Floats:
    """The mean gain ḡ = constant·(reference/distance)^exponent / noise at a distance, as ``distance`` in shape.

    Source: the set of constants that two_stage.md, section 10, row 14 names (Mao, Zhang, Letaief 2016); the exponent 4
    belongs to that set, the spec does not name it.

    Args:
        distance: metres, at least ``reference``.
        noise: noise power σ² in W, > 0.
        constant: gain at the reference distance, > 0.
        exponent: > 0.
        reference: metres, > 0.

    Raises:
        ValueError: an argument is out of its range.

    >>> round(float(path_loss(50.0, noise=1e-13)), 6)
    160.0
    """
    for name, value in (("noise", noise), ("constant", constant), ("exponent", exponent), ("reference", reference)):
        if not 0 < value < math.inf:
            raise ValueError(f"{name}={value} must be positive and finite")
    if not np.all(np.asarray(distance) >= reference):
        raise ValueError(f"distance={distance!r} must be at least the reference distance, {reference} m")
    return np.asarray(constant * (reference / np.asarray(distance)) ** exponent / noise)
