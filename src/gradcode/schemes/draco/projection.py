"""A few random numbers that stand for a long vector: what is linear in vectors is so in these."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradcode.schemes.decoding import PIECE

if TYPE_CHECKING:
    from torch import Tensor

    from gradcode.protocol import Floats


class Projection:
    """P random linear functionals of vectors of one length, in float64.

    The vector is cut into pieces of at most ``PIECE`` coordinates, the rows of a matrix C; functional p is uᵀCw with
    Gaussian u and w of its own, so that no more numbers are stored than for one piece. Whoever does not know them
    cannot send a vector that is 0 in them, but for a chance that is 0.

    Args:
        length: coordinates.
        count: P.
        rng: draws them.
    """

    def __init__(self, length: int, count: int, rng: np.random.Generator) -> None:
        import torch

        self.length = length
        self._within = torch.from_numpy(rng.standard_normal((min(length, PIECE), count)))
        self._across = rng.standard_normal((-(-length // PIECE), count))

    def __call__(self, vector: Tensor) -> Floats:
        """(P,), of ``vector`` (length,)."""
        total = np.zeros(self._within.shape[1])
        for factor, begin in zip(self._across, range(0, self.length, PIECE), strict=True):
            piece = vector[begin : min(begin + PIECE, self.length)].double()
            total += factor * (piece @ self._within[: len(piece)]).numpy()
        return total

    def packed(self, vector: Tensor) -> npt.NDArray[np.complex128]:
        """(P,), of a complex vector (2·length,): its real parts, then its imaginary parts."""
        return np.asarray(self(vector[: self.length]) + 1j * self(vector[self.length :]))
