"""Random numbers that are a function of a message's key: the same whoever is first, and after a restart."""

from __future__ import annotations

import numpy as np

_ALL = (1 << 64) - 1
STEP = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio, odd


def stream(key: tuple[int, ...]) -> int:
    """64 bits made of a key (seed, iteration, worker), where a message's random numbers begin."""
    state = 0
    for part in key:
        state = mix(state + STEP + part)
    return state


def mix(number: int) -> int:
    """The finaliser of the generator SplitMix64: a bijection of 64 bits that looks random on consecutive multiples."""
    z = number & _ALL
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _ALL
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _ALL
    return z ^ (z >> 31)


def generator(start: int) -> np.random.Generator:
    """NumPy's generator for one message: counter-based, keyed by :func:`stream`."""
    return np.random.Generator(np.random.Philox(key=start))
