"""What every gradient code is: an encoding matrix, and the decodings of whoever survives."""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from gradcode.codes import checks
from gradcode.codes.stability import EXACT, Quality, Worst, assess, roundoff

Array = NDArray[Any]
Indices = NDArray[np.int64]

DECODERS = ("optimal", "one_step", "fixed")


@dataclass(frozen=True, eq=False)
class Decoding:
    """How to rebuild the sum of all partition gradients from the survivors' messages, and how well.

    Attributes:
        weights: (N,), float64 or complex128 as the code's encoding, 0 for stragglers; read-only. (N, m) for a code of
            reduction m: column v gives part v of the gradient.
        residual: ‖Bᵀ weights − 1‖₂; 0 up to rounding when exact. With m parts 1 is the m × m identity.
        exact: no partition's coefficient in the decoded sum is further than 1e-8 from 1.
        condition: the amplification ‖|weights|ᵀ|B|‖₂ / √K; 1 is a plain sum, u · condition is what rounding
            costs.
        error: bound of ‖decoded − Σ_j g_j‖ / Σ_j ‖g_j‖ for messages in the code's dtype (see `stability`).
    """

    weights: Array
    residual: float
    exact: bool
    condition: float
    error: float


class GradientCode(ABC):
    """A code for N workers and K partitions: worker i answers Σ_j B_ij g_j, the master sums weighted answers.

    Partitions that no worker tells apart (equal columns of B) are one column of ``matrix``, so that decoding
    costs the same however finely the data is cut. A complex code works on packed gradients: the first half of
    the flat gradient is the real part, the second half the imaginary part (one of odd length gets a zero), so a
    complex message is no longer than a real one.

    A code of reduction m sends messages of the m-th part of the length: a gradient is cut into m contiguous parts, and
    worker i answers Σ_j Σ_u B_iju g_j^{(u)}. ``matrix`` then is (N, M, m), and a decoding has a weight for each worker
    and part. Of a complex one each part is packed by itself.

    A new kind of code derives from this class and says three things: which weights decode a survivor set
    exactly (``_solve``), which survivor sets below N − s can be decoded (``_beyond``), and how bad a decoding
    within the tolerance can be (``_worst``). Codes are immutable and can be pickled; decodings are kept in a
    bounded cache.

    Args:
        matrix: (N, M) float64 or complex128, one column per group of equal columns of B; or (N, M, m).
        sizes: (M,) how many consecutive partitions each column stands for; they add up to K.
        tolerance: s, the number of stragglers under which every decoding is exact.
        dtype: of the messages, "float32" or "float64"; error bounds are for it.
    """

    cache_size = 256

    def __init__(self, matrix: Array, sizes: Array, tolerance: int, dtype: str) -> None:
        self.workers: int = matrix.shape[0]
        self.partitions: int = int(sizes.sum())
        self.reduction: int = matrix.shape[2] if matrix.ndim == 3 else 1
        self.tolerance = tolerance
        self.dtype = dtype
        self.name = type(self).__name__
        self.parameters: dict[str, Any] = {}
        self._roundoff = roundoff(dtype)
        self._matrix = _frozen(matrix)
        self._magnitude = _frozen(np.abs(matrix))
        self._sizes = _frozen(sizes)
        self._decodings: OrderedDict[frozenset[int], Decoding] = OrderedDict()

    # What a code is.

    @cached_property
    def encoding(self) -> Array:
        """B, (N, K) or (N, K, m), float64 or complex128, read-only; built when first asked for."""
        return _frozen(np.repeat(self._matrix, self._sizes, axis=1))

    @cached_property
    def placement(self) -> tuple[Indices, ...]:
        """For each worker the sorted indices of the partitions that it holds."""
        ends = np.cumsum(self._sizes)
        starts = ends - self._sizes
        held = []
        for row in self._holds:
            columns = np.flatnonzero(row)
            runs = [np.arange(starts[c], ends[c], dtype=np.int64) for c in columns]
            held.append(_frozen(np.concatenate(runs) if runs else np.zeros(0, dtype=np.int64)))
        return tuple(held)

    @cached_property
    def load(self) -> int:
        """The largest number of partitions on one worker."""
        return int((self._holds @ self._sizes).max())

    @property
    def _holds(self) -> NDArray[np.bool_]:
        """(N, M) who has a part in what."""
        return np.asarray(self._matrix.reshape(*self._matrix.shape[:2], -1).any(axis=2))

    @cached_property
    def fewest(self) -> int:
        """Fewer survivors are never `decodable`."""
        return -(-self.partitions // self.load)  # they do not hold all partitions

    @cached_property
    def worst(self) -> Worst:
        """The worst decoding within the tolerance: of all straggler sets, or of those that a search tried."""
        return self._worst()

    def __repr__(self) -> str:
        given = ", ".join(f"{name}={checks.plain(value)!r}" for name, value in self.parameters.items())
        return f"{self.name}({given})"

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_decodings": OrderedDict()}  # the cache is rebuilt where it is needed

    # Decoding.

    def decodable(self, survivors: Iterable[SupportsIndex]) -> bool:
        """Whether ``survivors`` are known to decode exactly; cheap enough to be asked after every arrival.

        True for every set of N − s survivors or more. Below that, True only where the structure of the code
        tells at once; `decode` may still find an exact decoding where this says False.
        """
        alive = self._alive(survivors)
        return len(alive) >= self.workers - self.tolerance or self._beyond(alive)

    def decode(
        self,
        survivors: Iterable[SupportsIndex],
        decoder: str = "optimal",
        *,
        straggling: float | Sequence[float] | NDArray[np.float64] | None = None,
    ) -> Decoding:
        """The weights with which the survivors' messages add up to the gradient, or come closest to it.

        Args:
            survivors: worker indices in [0, N); repeated ones count once.
            decoder: "optimal": exact where possible, else the least-squares weights of minimum norm.
                "one_step": equal weights K / (r d̄) on the r survivors, d̄ = ΣB / N (Charles et al. 2017;
                gradient_codes.md 3.1). "fixed": weights (K / ΣB) / (1 − p_i), which give the gradient in
                expectation when worker i straggles independently with probability p_i and all columns of B
                have the same sum.
            straggling: p_i of decoder="fixed", a number or (N,), in [0, 1).

        Raises:
            ValueError: a worker index is out of range, the decoder is unknown or not for codes whose messages are
                folded, or ``straggling`` does not suit.
        """
        alive = self._alive(survivors)
        checks.choice("decoder", decoder, DECODERS)
        if (straggling is None) == (decoder == "fixed"):
            raise ValueError(f"straggling={straggling!r} must be given for decoder='fixed' and for no other")
        if decoder == "optimal":
            return self._cached(alive)
        if self.reduction > 1:
            raise ValueError(
                f"decoder={decoder!r} must be 'optimal' for {self!r}, whose messages mix parts of gradients"
            )
        weights = np.zeros(self.workers, dtype=self._matrix.dtype)
        index = np.array(sorted(alive), dtype=np.int64)
        total = (self._matrix @ self._sizes).sum()
        scale = self.partitions / total if total else 0.0
        if straggling is not None:
            p = np.asarray(straggling, dtype=np.float64)
            if p.shape not in ((), (self.workers,)) or not np.all((p >= 0) & (p < 1)):
                raise ValueError(f"straggling={straggling!r} must lie in [0, 1), one for all or one per worker")
            weights[index] = np.broadcast_to(scale / (1 - p), self.workers)[index]
        elif len(index):
            weights[index] = scale * self.workers / len(index)
        return self._judge(weights)

    def _cached(self, alive: frozenset[int]) -> Decoding:
        known = self._decodings.get(alive)
        if known is not None:
            self._decodings.move_to_end(alive)
            return known
        decoding = self._optimal(np.array(sorted(alive), dtype=np.int64))
        self._decodings[alive] = decoding
        if len(self._decodings) > self.cache_size:
            self._decodings.popitem(last=False)
        return decoding

    def _optimal(self, alive: Indices) -> Decoding:
        weights = self._solve(alive)
        structured = None if weights is None else self._judge(weights)
        if structured is not None and structured.exact:
            return structured
        # Either the set cannot be decoded, or the closed form has lost too many digits to be called exact.
        general = self._judge(self._least_squares(alive))
        return general if structured is None or general.error < structured.error else structured

    def _least_squares(self, alive: Indices) -> Array:
        weights = np.zeros((self.workers, *self._matrix.shape[2:]), dtype=self._matrix.dtype)
        if not len(alive):
            return weights
        # Workers that send the same share a weight evenly: one row for c of them, √c as long, keeps the norm.
        rows, place, copies = np.unique(self._alike[alive], return_inverse=True, return_counts=True)
        shared = np.sqrt(copies)
        root = np.sqrt(self._sizes)  # a column that stands for c partitions counts c times in ‖·‖²
        if self.reduction > 1:
            folded = self._matrix[rows] * root[:, None] * shared[:, None, None]
            wanted = (root[:, None, None] * np.eye(self.reduction)).reshape(-1, self.reduction)
            solution = np.linalg.lstsq(folded.reshape(len(rows), -1).T, wanted, rcond=None)[0]
            weights[alive] = (solution / shared[:, None])[place]
            return weights
        system = self._matrix[rows] * root * shared[:, None]
        if np.count_nonzero(system, axis=0).max() <= 1:  # nothing overlaps: every row by itself
            norms = np.sum(np.abs(system) ** 2, axis=1)
            solution = (system.conj() @ root) / np.where(norms > 0, norms, 1)
        else:
            solution = np.linalg.lstsq(system.T, root, rcond=None)[0]
        weights[alive] = (solution / shared)[place]
        return weights

    @cached_property
    def _alike(self) -> Indices:
        """For each worker the first worker that sends the same."""
        first: dict[bytes, int] = {}
        return np.array([first.setdefault(row.tobytes(), i) for i, row in enumerate(self._matrix)])

    def _judge(self, weights: Array) -> Decoding:
        quality = self._assess(weights[None])
        residual = float(quality.residual[0])
        return Decoding(
            weights=_frozen(weights),
            residual=residual,
            exact=bool(quality.gap[0] <= EXACT),
            condition=float(quality.condition[0]),
            error=float(quality.error[0]),
        )

    def _assess(self, weights: Array) -> Quality:
        return assess(weights, self._matrix, self._magnitude, self._sizes, self.load, self._roundoff)

    def _alive(self, survivors: Iterable[SupportsIndex]) -> frozenset[int]:
        alive = frozenset(map(operator.index, survivors))
        if alive and not (min(alive) >= 0 and max(alive) < self.workers):
            wrong = sorted(i for i in alive if not 0 <= i < self.workers)
            raise ValueError(f"survivors={wrong} must be worker indices between 0 and {self.workers - 1}")
        return alive

    # What a kind of code says.

    @abstractmethod
    def _solve(self, alive: Indices) -> Array | None:
        """(N,) or (N, m) weights that decode the sorted survivors exactly, or None where the structure gives none."""

    @abstractmethod
    def _beyond(self, alive: frozenset[int]) -> bool:
        """Whether fewer than N − s survivors are cheaply seen to decode exactly."""

    @abstractmethod
    def _worst(self) -> Worst:
        """The worst decoding over all straggler sets of at most s workers."""


def _frozen(array: Array) -> Array:
    array.flags.writeable = False
    return array
