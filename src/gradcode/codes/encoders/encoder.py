"""What every encoder is: a tall matrix S that the data is multiplied with before it is placed on workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
import numpy.typing as npt

from gradcode.codes import checks

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


class Encoder(ABC):
    """S, (R, n): R rows are made of n samples, and SᵀS = βI with β = R/n, exactly or on average.

    Where a construction has more columns than there are samples, those left over are never used: that is the same as
    filling up the data with rows of zeros. A subclass multiplies by its matrix and by the transpose, both without
    forming it where there is a quicker way; the order of the rows is kept here.

    Encoders are immutable and can be pickled.

    Args:
        samples: n, ≥ 1.
        rows: R.
        order: (R,) which of the construction's rows comes where; None: as they are.

    Attributes:
        tight: SᵀS = βI exactly, so that with all rows nothing is changed; else only on average.
    """

    tight = True

    def __init__(self, samples: int, rows: int, order: Indices | None = None) -> None:
        self.samples, self.rows = samples, rows
        self.name = type(self).__name__
        self.parameters: dict[str, Any] = {}
        self._order = order
        if order is not None:
            order.flags.writeable = False

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={checks.plain(value)!r}" for name, value in self.parameters.items())
        return f"{self.name}({given})"

    @property
    def redundancy(self) -> float:
        """β = R/n: how many times as much data there is after encoding."""
        return self.rows / self.samples

    @cached_property
    def matrix(self) -> Floats:
        """S, (R, n), read-only; built when first asked for."""
        matrix = self.apply(np.eye(self.samples))
        matrix.flags.writeable = False
        return matrix

    def blocks(self, workers: SupportsIndex) -> tuple[slice, ...]:
        """The rows of each worker: consecutive runs as equal as possible.

        Raises:
            ValueError: there are not as many rows.
        """
        m = checks.integer("workers", workers, 1, self.rows, f"{self!r} has {self.rows} rows")
        cuts = checks.even_cuts(self.rows, m).tolist()
        return tuple(map(slice, cuts[:-1], cuts[1:]))

    def apply(self, values: npt.ArrayLike) -> Floats:
        """S·values, (n,) -> (R,) or (n, c) -> (R, c), float64.

        Raises:
            ValueError: ``values`` has another number of rows than n.
        """
        array = _checked(values, self.samples, "samples")
        encoded = self._encode(array.reshape(self.samples, -1))
        if self._order is not None:
            encoded = encoded[self._order]
        return encoded.reshape(self.rows, *array.shape[1:])

    def adjoint(self, values: npt.ArrayLike) -> Floats:
        """Sᵀ·values, (R,) -> (n,) or (R, c) -> (n, c), float64.

        Raises:
            ValueError: ``values`` has another number of rows than R.
        """
        array = _checked(values, self.rows, "rows")
        rows = array.reshape(self.rows, -1)
        if self._order is not None:
            shuffled, rows = rows, np.empty_like(rows)
            rows[self._order] = shuffled
        return self._adjoint(rows).reshape(self.samples, *array.shape[1:])

    @abstractmethod
    def _encode(self, values: Floats) -> Floats:
        """(n, c) -> (R, c), rows in the construction's order; ``values`` is not written to."""

    @abstractmethod
    def _adjoint(self, values: Floats) -> Floats:
        """(R, c), rows in the construction's order -> (n, c); ``values`` is not written to."""


def encoded_rows(samples: int, redundancy: float) -> int:
    """βn, rounded; ValueError unless β is a finite number of at least 1."""
    if not 1 <= redundancy < float("inf"):
        raise ValueError(f"redundancy={redundancy!r} must be at least 1: the rows made of each sample")
    return round(redundancy * samples)


def _checked(values: npt.ArrayLike, length: int, what: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim not in (1, 2) or len(array) != length:
        raise ValueError(f"values.shape={array.shape} must be ({length},) or ({length}, columns): the {what}")
    return array
