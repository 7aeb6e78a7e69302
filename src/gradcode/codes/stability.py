"""What rounding does to a decoding: error bounds, the search for the worst straggler set, and refusal.

**The bound.** Worker i sends c_i = Σ_j B_ij g_j with at most w terms, the master forms Σ_i a_i c_i over r
messages, both with unit roundoff u. Per coordinate, a message picks up at most w + 1 relative errors: one for
rounding B_ij to the dtype, one for the product (the coefficient multiplies the loss, so it scales every
partial derivative), w − 1 for the additions; the decoded sum at most r + 1 in the same way, whatever the
order of summation. With γ_m = m u / (1 − m u) (Higham, Accuracy and Stability of Numerical Algorithms,
section 3.1) the computed value differs from Σ_j (aᵀB)_j g_j by at most γ_{w+r+2} Σ_j v_j |g_j|, where v =
|a|ᵀ|B|, and that differs from Σ_j g_j by at most Σ_j |aᵀB − 1|_j |g_j|. Taking norms,

    ‖decoded − Σ_j g_j‖ ≤ max_j ( γ_{w+r+2} v_j + |aᵀB − 1|_j ) · Σ_j ‖g_j‖ .

The second term is computed in float64, where its own rounding is at most γ_{r+2}(2⁻⁵³) (v_j + 1); that is
added. A complex product costs √2 γ_2 instead of u, a complex constant of at most 3 (Higham, lemma 3.5), so
for packed complex messages w + r + 6 stands for w + r + 2; the evaluation of the gap is allowed the same.
Underflow is left out, and g_j is the gradient as the worker computes it.

Where messages are folded (a code of reduction m), g_j is m parts of length L/m, a row of B has m coefficients for
each partition, so that a message has w·m terms, and the master forms part v of the sum with weights of its own. All
of the above then holds with |a|ᵀ|B| and aᵀB as m × m matrices for each partition, I in place of 1, and spectral norms
in place of absolute values; √(‖·‖₁·‖·‖_∞), which bounds the spectral norm, is what is computed.

The measure that chooses between constructions is v itself: α(S) = ‖v‖₂ / √K (gradient_codes.md sections 1 and
4).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations
from math import comb, isnan
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from gradcode.codes.code import GradientCode

EXACT = 1e-8
"""Largest distance of a partition's coefficient from 1 in a decoding that is called exact."""

ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}
MAX_ERROR = {"float32": 1e-5, "float64": 1e-10}

PATTERNS = 5000
"""As many straggler sets are all tried; of more, the worst is searched for."""


@dataclass(frozen=True)
class Worst:
    """The worst decoding within a code's tolerance.

    Attributes:
        error: bound of the relative error, as in `Decoding.error`.
        condition: the amplification of that decoding.
        stragglers: the straggler set that has it.
        patterns: how many straggler sets were tried.
        exhaustive: they were all of them (up to symmetry), or the value is proved; otherwise the true worst
            may be larger.
    """

    error: float
    condition: float
    stragglers: tuple[int, ...]
    patterns: int
    exhaustive: bool


@dataclass(frozen=True, eq=False)
class Quality:
    """Of P decodings: ‖aᵀB − 1‖₂, max |aᵀB − 1|, amplification and error bound, each (P,)."""

    residual: NDArray[np.float64]
    gap: NDArray[np.float64]
    condition: NDArray[np.float64]
    error: NDArray[np.float64]


def roundoff(dtype: str) -> float:
    """Unit roundoff of a message dtype; ValueError for an unknown one."""
    if dtype not in ROUNDOFF:
        raise ValueError(f"dtype={dtype!r} must be one of {', '.join(map(repr, ROUNDOFF))}")
    return ROUNDOFF[dtype]


def limit(max_error: float | None, dtype: str, partitions: int) -> float:
    """The largest error bound that a constructor accepts: 1e-5 for float32, 1e-10 for float64 unless given.

    Where the bound K·u of a plain sum over the K partitions is above that already, it takes its place: no code
    does better.
    """
    if max_error is None:
        return max(MAX_ERROR[dtype], partitions * roundoff(dtype))
    if isnan(max_error) or max_error <= 0:
        raise ValueError(f'max_error={max_error!r} must be positive; float("inf") accepts every size')
    return float(max_error)


def assess(
    weights: NDArray[Any],
    matrix: NDArray[Any],
    magnitude: NDArray[np.float64],
    sizes: NDArray[np.int64],
    load: int,
    unit: float,
) -> Quality:
    """The quality of P decodings at once.

    Args:
        weights: (P, N) decoding vectors, or (P, N, m), a vector for each part of the gradient.
        matrix: (N, M) encoding with equal columns merged, or (N, M, m); ``magnitude`` is its absolute value.
        sizes: (M,) partitions per column.
        load: w, the largest number of partitions in a message.
        unit: unit roundoff of the messages.
    """
    if matrix.ndim == 2:
        weights, matrix, magnitude = weights[..., None], matrix[..., None], magnitude[..., None]
    if len(weights) == 1:  # the master's case: few of many rows
        used = np.flatnonzero(weights[0].any(axis=-1))
        weights, matrix, magnitude = weights[:, used], matrix[used], magnitude[used]
    parts = matrix.shape[2]
    terms = np.count_nonzero(weights.any(axis=2), axis=1)[:, None]
    gains = _products(np.abs(weights), magnitude)
    gaps = np.abs(_products(weights, matrix) - np.eye(parts))
    gain, gap = norm_bound(gains), norm_bound(gaps)
    extra = 6 if np.iscomplexobj(matrix) else 2
    rounding = _gamma(terms + load * parts + extra, unit) * gain
    evaluation = _gamma(terms + extra, ROUNDOFF["float64"]) * (gain + 1)
    return Quality(
        residual=np.sqrt((gaps**2).sum(axis=(-2, -1)) @ sizes),
        gap=gap.max(axis=1),
        condition=np.sqrt((gain**2) @ sizes / sizes.sum()),
        error=(rounding + evaluation + gap).max(axis=1),
    )


def _products(weights: NDArray[Any], matrix: NDArray[Any]) -> NDArray[Any]:
    """aᵀB of each partition: (P, N, m) and (N, M, m) -> (P, M, m, m)."""
    (many, workers, parts), columns = weights.shape, matrix.shape[1]
    left, right = weights.transpose(0, 2, 1).reshape(many * parts, workers), matrix.reshape(workers, columns * parts)
    flat: NDArray[Any] = left @ right
    return flat.reshape(many, parts, columns, parts).transpose(0, 2, 1, 3)


def norm_bound(magnitudes: NDArray[np.float64]) -> NDArray[np.float64]:
    """√(‖·‖₁·‖·‖_∞) of nonnegative matrices (…, m, m): at least the spectral norm of any of these magnitudes."""
    if magnitudes.shape[-1] == 1:
        return np.asarray(magnitudes[..., 0, 0])
    return np.asarray(np.sqrt(magnitudes.sum(axis=-2).max(axis=-1) * magnitudes.sum(axis=-1).max(axis=-1)))


def growth(steps: float, unit: float) -> float:
    """γ of so many roundings; beyond 1/u steps nothing is known of a sum: inf."""
    return float(_gamma(steps, unit)) if steps * unit < 1 else float("inf")


def _gamma(count: Any, unit: float) -> Any:
    return count * unit / (1 - count * unit)


class Weights(Protocol):
    """Decoding vectors (P, N), or (P, N, m), for P straggler sets of equal size, (P, t)."""

    def __call__(self, stragglers: NDArray[np.int64], /) -> NDArray[Any]: ...


def find_worst(
    weights: Weights,
    quality: Callable[[NDArray[Any]], Quality],
    workers: int,
    stragglers: int,
    *,
    circulant: bool = False,
    thorough: bool = True,
    batch: int = 1000,
) -> Worst:
    """The straggler set of at most s workers with the largest error bound.

    All sets are tried while there are at most `PATTERNS` (for a circulant code, up to rotation). Beyond that:
    contiguous, evenly spread and two-cluster sets, random ones, and exchanges of one straggler from the worst
    so far. The search is deterministic. ``thorough=False`` skips the exchanges, to compare many draws of a
    code. ``batch`` sets are judged at once.
    """
    search = _Search(weights, quality, batch)
    search.try_sets(np.zeros((1, 0), dtype=np.int64))
    total = sum(comb(workers - 1, t - 1) if circulant else comb(workers, t) for t in range(1, stragglers + 1))
    if total <= PATTERNS:
        for t in range(1, stragglers + 1):
            first = (0,) if circulant else ()
            rest = combinations(range(len(first), workers), t - len(first))
            search.try_sets(np.array([(*first, *others) for others in rest], dtype=np.int64))
        return search.worst(exhaustive=True)
    rng = np.random.default_rng(0)
    for t in sorted({1, stragglers // 2, stragglers - 1, stragglers} - {0}):
        shapes = np.array(list(_structured(workers, t, circulant)), dtype=np.int64)
        search.try_sets(np.unique(np.sort(shapes, axis=1), axis=0))
    count = 600 if thorough else 100
    search.try_sets(np.argsort(rng.random((count, workers)), axis=1)[:, :stragglers])
    for _ in range(30 if thorough else 0):
        search.try_sets(_exchanges(np.array(search.stragglers), workers, rng))
    return search.worst(exhaustive=False)


class _Search:
    """Remembers the worst straggler set seen."""

    def __init__(self, weights: Weights, quality: Callable[[NDArray[Any]], Quality], batch: int) -> None:
        self.weights, self.quality, self.batch = weights, quality, batch
        self.error, self.condition, self.patterns = -1.0, 1.0, 0
        self.stragglers: tuple[int, ...] = ()

    def try_sets(self, sets: NDArray[np.int64]) -> None:
        for start in range(0, len(sets), self.batch):
            batch = sets[start : start + self.batch]
            found = self.quality(self.weights(batch))
            bound = np.where(np.isfinite(found.error), found.error, np.inf)
            place = int(bound.argmax())
            self.patterns += len(batch)
            if bound[place] > self.error:
                self.error, self.condition = float(bound[place]), float(found.condition[place])
                self.stragglers = tuple(sorted(batch[place].tolist()))

    def worst(self, exhaustive: bool) -> Worst:
        return Worst(self.error, self.condition, self.stragglers, self.patterns, exhaustive)


def _structured(workers: int, count: int, circulant: bool) -> Iterator[list[int]]:
    """Contiguous, evenly spread and two-cluster sets of ``count`` workers."""
    starts = [0] if circulant else range(0, workers, max(1, workers // 64))
    for start in starts:
        for step in range(1, workers // count + 1 if count > 1 else 2):
            yield [(start + step * i) % workers for i in range(count)]
        yield [(start + i * workers // count) % workers for i in range(count)]
        half = (count + 1) // 2
        for apart in sorted({half + 1, workers // 4, workers // 3, workers // 2}):
            if half <= apart <= workers - (count - half):
                clusters = [*range(half), *range(apart, apart + count - half)]
                yield [(start + i) % workers for i in clusters]


def _exchanges(current: NDArray[np.int64], workers: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Sets that differ from ``current`` in one straggler: moved by one, or to anywhere."""
    others = np.setdiff1d(np.arange(workers), current)
    if not len(current) or not len(others):
        return np.zeros((0, len(current)), dtype=np.int64)
    sets = np.repeat(current[None], 64, axis=0)
    sets[np.arange(64), rng.integers(len(current), size=64)] = rng.choice(others, size=64)
    for place in range(min(len(current), 16)):
        for step, row in ((-1, 2 * place), (1, 2 * place + 1)):
            moved = (current[place] + step) % workers
            if moved in others:
                sets[row] = current
                sets[row, place] = moved
    return sets


Code = TypeVar("Code", bound="GradientCode")


def accept(build: Callable[[int, str], Code], stragglers: int, dtype: str, max_error: float | None) -> Code:
    """The code for ``stragglers`` if its worst error bound passes; otherwise a ValueError that names what
    holds.

    ``build(s, dtype)`` gives the code for s stragglers without refusal; ``max_error`` is the constructor's.
    """
    code = build(stragglers, dtype)
    bound = limit(max_error, dtype, code.partitions)
    worst = code.worst
    if worst.error <= bound:
        return code
    low, high = 0, stragglers  # bisection: the largest s seen to hold, the smallest seen not to
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if build(middle, dtype).worst.error <= bound else (low, middle)
    ways = [f"stragglers={low} holds"] if low else []
    if dtype != "float64" and build(stragglers, "float64").worst.error <= limit(max_error, "float64", code.partitions):
        ways.append("dtype='float64' holds")
    ways.append(f"fractional_repetition(workers={code.workers}, stragglers={stragglers}) holds at every size")
    raise ValueError(
        f"stragglers={stragglers} must be smaller for this code with workers={code.workers} and dtype={dtype!r}: "
        f"its error bound reaches {worst.error:.1e} of Σ‖g_j‖ (amplification {worst.condition:.1e}, when workers "
        f"{list(worst.stragglers)} straggle) and must be at most max_error={bound:.1e}. {'; '.join(ways)}"
    )
