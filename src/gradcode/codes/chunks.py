"""Chunks, each on several workers: who holds which, in which order, and coefficients for what has been finished.

Source: Ramamoorthy, Meng, Girimaji 2024, of which the abstract and the authors' simulation notebook were read; the
protocol is RECONSTRUCTED from the notebook (the project's block_coordinate.md, section 15). Mapping of letters: their m
workers are our N, their N chunks our K partitions, δ_j the load of worker j, ℓ the parts of a gradient.

    held = cyclic_assignment(workers=4, degree=3)      # (N, K), who holds what
    order = matching_order(held)                       # (N, K), O: the position of a chunk at a worker, from 1; 0: none
    R = shared_matrix(workers=4, parts=2, rng=0)       # (N, ℓ)
    found = coefficients(finished, R)                  # (K, N, ℓ): b_{i,q}[j], nonzero where j has finished i

Worker j sends z_j = Σ_i Σ_q b_{i,q}[j] · (part q of gradient i); part p of the sum is Σ_j R[j, p] z_j.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from math import comb
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from gradcode.codes import checks

Held = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

_SWITCHES = 20  # attempted per holding: many times what forgets the start
_SUBSETS = 20_000  # of finishers that a matrix is judged by


def cyclic_assignment(workers: SupportsIndex, degree: SupportsIndex) -> Held:
    """(N, N): worker j holds chunks j, j+1, …, j+degree−1 (mod N).

    Raises:
        ValueError: ``degree`` is not from 1 to ``workers``.

    >>> cyclic_assignment(4, 3).astype(int).tolist()
    [[1, 1, 1, 0], [0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1]]
    """
    n, d = _sizes(workers, degree)
    return (np.arange(n) - np.arange(n)[:, None]) % n < d


def random_regular_assignment(workers: SupportsIndex, degree: SupportsIndex, rng: checks.Seed) -> Held:
    """(N, N): every worker holds ``degree`` chunks and every chunk has as many holders, at random.

    The cyclic assignment after random exchanges of a chunk between two workers, which lead to every regular assignment
    with the same probability in the long run.

    Raises:
        ValueError: ``degree`` is not from 1 to ``workers``, or ``rng`` is None.
    """
    n, d = _sizes(workers, degree)
    random = checks.generator(rng)
    held = cyclic_assignment(n, d)
    worker, chunk = np.nonzero(held)
    for first, second in random.integers(n * d, size=(_SWITCHES * n * d, 2)):
        a, b, i, j = worker[first], worker[second], chunk[first], chunk[second]
        if not held[a, j] and not held[b, i]:
            held[a, i] = held[b, j] = False
            held[a, j] = held[b, i] = True
            chunk[first], chunk[second] = j, i
    return held


def natural_order(held: npt.ArrayLike) -> Positions:
    """(N, K) positions: every worker goes up from the chunk that has its own number, and round at the end.

    For the cyclic assignment that is as good as :func:`matching_order`.
    """
    matrix = _assignment(held)
    n, k = matrix.shape
    distance = (np.arange(k) - np.arange(n)[:, None] * k // n) % k
    return _ranked(matrix, distance)


def random_order(held: npt.ArrayLike, rng: checks.Seed) -> Positions:
    """(N, K) positions: every worker goes through its chunks in a random order of its own."""
    matrix = _assignment(held)
    return _ranked(matrix, checks.generator(rng).random(matrix.shape))


def matching_order(held: npt.ArrayLike) -> Positions:
    """(N, N) positions such that every chunk is at each position once, with one of its holders.

    A graph of which every node has δ edges falls into δ perfect matchings (Koenig); the k-th gives position k. Every
    chunk then has Σ_j O_ij = δ(δ+1)/2, which minimises :func:`worst_case` for one copy.

    Raises:
        ValueError: not every worker and every chunk has the same number of the other.
    """
    # Codes load at first sight, and SciPy's sparse matrices take long to.
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    matrix = _assignment(held)
    degrees = {*matrix.sum(axis=0).tolist(), *matrix.sum(axis=1).tolist()}
    if len(degrees) != 1:
        raise ValueError(
            f"order='matchings' must have as many chunks on every worker as holders of every chunk; the assignment "
            f"has {matrix.shape[0]} workers, {matrix.shape[1]} chunks and degrees {sorted(degrees)}. Use "
            f"order='natural'"
        )
    order, left = np.zeros(matrix.shape, dtype=np.int64), matrix.copy()
    everyone = np.arange(len(matrix))
    for position in range(1, degrees.pop() + 1):
        chunk = maximum_bipartite_matching(csr_array(left), perm_type="column")
        order[everyone, chunk] = position
        left[everyone, chunk] = False
    return order


def worst_case(order: npt.ArrayLike, copies: SupportsIndex = 1) -> Positions:
    """(K,) Q_i: the most chunks that workers can have finished while chunk i has fewer than ``copies`` finishers.

    Everybody who does not hold i, and the c − 1 holders from whom that gains most, have finished everything; the other
    holders all that comes before i. The smaller max_i Q_i, the less work is done in vain at worst.

    Raises:
        ValueError: ``copies`` is not from 1 to the smallest number of holders.

    >>> worst_case(natural_order(cyclic_assignment(4, 3))).tolist()
    [6, 6, 6, 6]
    """
    positions = np.asarray(order, dtype=np.int64)
    held = positions > 0
    c = checks.integer("copies", copies, 1, int(held.sum(axis=0).min()), "the fewest holders of a chunk")
    loads = held.sum(axis=1)[:, None]
    gains = np.sort(np.where(held, loads - positions + 1, -1), axis=0)[::-1]
    before: Positions = np.where(held, positions - 1, loads).sum(axis=0) + gains[: c - 1].sum(axis=0)
    return before


def shared_matrix(workers: SupportsIndex, parts: SupportsIndex, rng: checks.Seed) -> Floats:
    """R, (N, ℓ): independent standard normal numbers, the same for all who have the seed.

    Raises:
        ValueError: a number is below 1, or ``rng`` is None.
    """
    shape = checks.integer("workers", workers, 1), checks.integer("parts", parts, 1)
    return checks.generator(rng).standard_normal(shape)


def steady_matrix(held: npt.ArrayLike, parts: SupportsIndex, rng: checks.Seed, draws: SupportsIndex = 16) -> Floats:
    """R, (N, ℓ): of some :func:`shared_matrix` the one under which roundings grow least at worst (OURS).

    With as many finishers of a chunk as parts, a square random matrix is inverted, which may amplify roundings a
    thousand times. Judged by all sets of ℓ holders of a chunk, or where there are more than 20 000 by as many of them.
    With one part nothing is amplified, and the first draw is as good as any.

    Raises:
        ValueError: ``parts`` is not from 1 to the smallest number of holders, or ``rng`` is None.
    """
    matrix, random = _assignment(held), checks.generator(rng)
    number = checks.integer("parts", parts, 1, int(matrix.sum(axis=0).min()), "the fewest holders of a chunk")
    candidates = [shared_matrix(len(matrix), number, random) for _ in range(checks.integer("draws", draws, 1))]
    if number == 1:
        return candidates[0]
    sets = _subsets(matrix, number, random)
    return min(
        candidates,
        key=lambda shared: float(_amplification(shared[sets], np.linalg.pinv(shared[sets]).astype(np.float64)).max()),
    )


@dataclass(frozen=True, eq=False)
class Coefficients:
    """What everybody sends of the chunks that are finished.

    Attributes:
        values: (K, N, ℓ): b_{i,q}[j], 0 unless worker j has finished chunk i.
        deviation: (K,) ‖R_Sᵀ b_i − 1‖₂ of each chunk: the share of its gradient that the sum gets wrong at most.
        amplification: (K,) ‖ |R_S|ᵀ |b_i| ‖₂: how much roundings of its gradient grow at most.
        residual: sqrt(Σ_i ‖R_Sᵀ b_i − 1‖²_F), of a full-rank R sqrt(Σ_i max(ℓ − |S_i|, 0)).
    """

    values: Floats
    deviation: Floats
    amplification: Floats
    residual: float


def coefficients(finished: npt.ArrayLike, shared: Floats) -> Coefficients:
    """The minimum-norm least-squares solutions of R_Sᵀ b = e_q for every chunk, S being those who have finished it.

    Exact with ℓ finishers of every chunk, whoever they are (with probability 1).

    Args:
        finished: (N, K), which chunks each worker has finished.
        shared: R, (N, ℓ).

    >>> two_workers = coefficients(np.ones((2, 1), dtype=bool), shared_matrix(2, 3, rng=0))
    >>> round(two_workers.residual ** 2, 12)
    1.0
    """
    done = np.asarray(finished, dtype=bool)
    n, k = done.shape
    parts = shared.shape[1]
    values = np.zeros((k, n, parts))
    sizes = done.sum(axis=0)
    for size in np.unique(sizes[sizes > 0]):
        chunks = np.flatnonzero(sizes == size)
        workers = np.nonzero(done[:, chunks].T)[1].reshape(len(chunks), size)
        values[chunks[:, None], workers] = np.linalg.pinv(shared[workers]).transpose(0, 2, 1)
    error = np.einsum("jp,ijq->ipq", shared, values) - np.eye(parts)
    return Coefficients(
        values,
        np.linalg.norm(error, 2, axis=(1, 2)),
        _amplification(shared, values.transpose(0, 2, 1)),
        float(np.linalg.norm(error)),
    )


def _sizes(workers: SupportsIndex, degree: SupportsIndex) -> tuple[int, int]:
    n = checks.integer("workers", workers, 1)
    return n, checks.integer("degree", degree, 1, n, f"workers={n}")


def _assignment(held: npt.ArrayLike) -> Held:
    """(N, K), each chunk with a holder.

    Raises:
        ValueError: it is something else.
    """
    matrix = np.asarray(held)
    if matrix.ndim != 2 or not np.isin(matrix, (0, 1)).all():
        raise ValueError(f"the assignment must be a matrix (workers, chunks) of 0 and 1, got shape {matrix.shape}")
    orphans = np.flatnonzero(~matrix.any(axis=0))
    if not matrix.size or len(orphans):
        raise ValueError(f"the assignment must give every chunk to a worker; nobody holds {orphans.tolist()}")
    return matrix.astype(bool)


def _amplification(shared: Floats, inverse: Floats) -> Floats:
    """‖ |R|ᵀ |b| ‖₂ of a stack of R (…, n, ℓ) and bᵀ (…, ℓ, n)."""
    gain = np.abs(inverse) @ np.abs(shared)
    norms: Floats = np.linalg.norm(gain, 2, axis=(-2, -1))
    return norms


def _subsets(held: Held, size: int, rng: np.random.Generator) -> Positions:
    """(P, size) sets of holders of one chunk: all there are, or some of every chunk."""
    holders = [np.flatnonzero(column) for column in held.T]
    if sum(comb(len(own), size) for own in holders) <= _SUBSETS:
        return np.array([each for own in holders for each in combinations(own, size)])
    each = -(-_SUBSETS // len(holders))
    return np.concatenate(
        [own[np.argsort(rng.random((each, len(own))), axis=1)[:, :size]] for own in holders if len(own)]
    )


def _ranked(held: Held, keys: npt.NDArray[np.generic]) -> Positions:
    """Positions from 1 of what each worker holds, by increasing key."""
    ranks = np.argsort(np.argsort(np.where(held, keys, np.inf), axis=1, kind="stable"), axis=1) + 1
    return np.where(held, ranks, 0)
