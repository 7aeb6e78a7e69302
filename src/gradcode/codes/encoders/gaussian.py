"""Independent normal entries: an encoder without structure."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks
from gradcode.codes.encoders.encoder import Encoder, Floats, encoded_rows
from gradcode.codes.encoders.registry import register

ENTRIES = 1 << 22  # drawn at a time


class Gaussian(Encoder):
    """Entries of variance 1/n from a seed; drawn anew whenever they are needed, some rows at a time.

    Args:
        samples: n.
        rows: R.
        seed: of the entries.
    """

    tight = False

    def __init__(self, samples: int, rows: int, seed: int) -> None:
        super().__init__(samples, rows)
        self._seed = seed

    def _encode(self, values: Floats) -> Floats:
        return np.concatenate([drawn @ values for _, drawn in self._drawn()])

    def _adjoint(self, values: Floats) -> Floats:
        total = np.zeros((self.samples, values.shape[1]))
        for rows, drawn in self._drawn():
            total += drawn.T @ values[rows]
        return total

    def _drawn(self) -> Iterator[tuple[slice, Floats]]:
        """The matrix from top to bottom; what is drawn does not depend on how many rows are drawn at a time."""
        random, step = np.random.default_rng(self._seed), max(1, ENTRIES // self.samples)
        for start in range(0, self.rows, step):
            rows = slice(start, min(start + step, self.rows))
            shape = (rows.stop - rows.start, self.samples)
            yield rows, random.standard_normal(shape) / math.sqrt(self.samples)


@register(
    summary="independent normal entries: SᵀS = βI only on average",
    redundancy="any ≥ 1",
    cost="βn² draws and multiplications",
    choose="to compare with: it is biased even when all workers answer",
)
def gaussian(samples: SupportsIndex, redundancy: float = 2.0, *, rng: checks.Seed = 0) -> Gaussian:
    """Entries N(0, 1/n) (encoded_optimization.md 2).

    Args:
        samples: n.
        redundancy: β ≥ 1; there are βn rows, rounded.
        rng: generator or seed.

    Raises:
        ValueError: ``samples`` or ``redundancy`` is below 1.

    >>> gaussian(samples=3, redundancy=2).matrix.shape
    (6, 3)
    """
    n = checks.integer("samples", samples, 1)
    return Gaussian(n, encoded_rows(n, redundancy), int(checks.generator(rng).integers(2**63)))
