"""What the tests of codes share: the constructions under test, and a simulated round in the payload's dtype."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gradcode import codes

Build = Callable[..., codes.GradientCode]
ALL_SIZES = float("inf")


def _speeds(workers: int) -> list[float]:
    return [1.0 + 0.75 * (i % 4) for i in range(workers)]


def _clusters(workers: int, stragglers: int) -> int:
    """Two if they can be."""
    return 2 if workers % 2 == 0 and workers // 2 > stragglers else 1


EXACT: dict[str, Build] = {
    "repetition": lambda n, s, dtype: codes.fractional_repetition(n, s, dtype=dtype),
    "repetition, consecutive, K=19": lambda n, s, dtype: codes.fractional_repetition(
        n, s, 19, replicas="consecutive", dtype=dtype
    ),
    "cyclic, column": lambda n, s, dtype: codes.cyclic_repetition(n, s, dtype=dtype, max_error=ALL_SIZES),
    "cyclic, column, permuted, K=19": lambda n, s, dtype: codes.cyclic_repetition(
        n, s, 19, permute=5, dtype=dtype, max_error=ALL_SIZES
    ),
    "cyclic, random": lambda n, s, dtype: codes.cyclic_repetition(
        n, s, variant="random", draws=3, dtype=dtype, max_error=ALL_SIZES
    ),
    "mds": lambda n, s, dtype: codes.cyclic_mds(n, s, dtype=dtype, max_error=ALL_SIZES),
    "mds, real, permuted": lambda n, s, dtype: codes.cyclic_mds(
        n, s, real=True, permute=True, dtype=dtype, max_error=ALL_SIZES
    ),
    "reed_solomon": lambda n, s, dtype: codes.reed_solomon(n, s, dtype=dtype, max_error=ALL_SIZES),
    "reed_solomon, permuted, K=19": lambda n, s, dtype: codes.reed_solomon(
        n, s, 19, permute=2, dtype=dtype, max_error=ALL_SIZES
    ),
    "heterogeneous, column": lambda n, s, dtype: codes.heterogeneous(
        _speeds(n), 3 * n + 1, s, dtype=dtype, max_error=ALL_SIZES
    ),
    "heterogeneous, random": lambda n, s, dtype: codes.heterogeneous(
        _speeds(n), 3 * n + 1, s, variant="random", draws=3, dtype=dtype, max_error=ALL_SIZES
    ),
    "hierarchical, edge nodes of one": lambda n, s, dtype: codes.hierarchical(
        [1] * n, s, 0, variant="lagrange", dtype=dtype, max_error=ALL_SIZES
    ),
    "hierarchical, one edge node": lambda n, s, dtype: codes.hierarchical(
        [n], 0, s, 2 * n, variant="lagrange", nodes="unity", dtype=dtype, max_error=ALL_SIZES
    ),
    "clustered": lambda n, s, dtype: codes.clustered(n, _clusters(n, s), s, 2 * n, dtype=dtype, max_error=ALL_SIZES),
    "communication_efficient": lambda n, s, dtype: codes.communication_efficient(
        n, min(s + 2, n), s, min(2, n - s), construction="polynomial", dtype=dtype, max_error=ALL_SIZES
    ),
    "communication_efficient, complex, K=19": lambda n, s, dtype: codes.communication_efficient(
        n, min(s + 3, n), s, min(3, n - s), 19, construction="fourier_centred", dtype=dtype, max_error=ALL_SIZES
    ),
    "hierarchical, capped, K=19": lambda n, s, dtype: codes.hierarchical(
        [1] * n, s, 0, 19, capped=True, dtype=dtype, max_error=ALL_SIZES
    ),
}


@pytest.fixture(params=EXACT, ids=str)
def exact_code(request: pytest.FixtureRequest) -> Build:
    """A function (workers, stragglers, dtype) -> code, for every exact construction, without refusal."""
    return EXACT[request.param]


class Round:
    """One iteration with random gradients: the messages are encoded, sent and summed in the payload's dtype."""

    def __init__(self, code: codes.GradientCode, rng: np.random.Generator, size: int = 12) -> None:
        self.code = code
        parts = code.reduction
        real = np.dtype(code.dtype)
        # Partition gradients of very different norms: a bound relative to Σ‖g_j‖ has to hold for all of them.
        scales = 10.0 ** rng.uniform(-2, 2, (code.partitions, 1))
        gradients = (rng.standard_normal((code.partitions, size)) * scales).astype(real)
        self.norms = float(np.linalg.norm(gradients.astype(np.float64), axis=1).sum())
        self.target = gradients.astype(np.longdouble).sum(axis=0)
        self.packed = np.iscomplexobj(code.encoding)
        gradients = gradients.reshape(code.partitions, parts, size // parts)
        if self.packed:
            half = size // parts // 2
            unit = np.asarray(1j, dtype=np.result_type(real, np.complex64))
            gradients = gradients[..., :half] + unit * gradients[..., half:]
        self.dtype = gradients.dtype
        coefficients = code.encoding.astype(self.dtype).reshape(code.workers, code.partitions, parts)
        self.messages = np.zeros((code.workers, gradients.shape[2]), dtype=self.dtype)
        for worker, held in enumerate(code.placement):
            for partition in held:
                for own, part in zip(coefficients[worker, partition], gradients[partition], strict=True):
                    self.messages[worker] += own * part

    def error(self, weights: NDArray[Any]) -> float:
        """‖decoded − Σ g_j‖ / Σ ‖g_j‖ of the weights given."""
        columns = weights.reshape(self.code.workers, -1).T
        decoded = np.zeros((len(columns), self.messages.shape[1]), dtype=self.dtype)
        for part, column in zip(decoded, columns, strict=True):
            for worker in np.flatnonzero(column):
                part += column[worker].astype(self.dtype) * self.messages[worker]
        flat = (np.concatenate([decoded.real, decoded.imag], axis=1) if self.packed else decoded).ravel()
        return float(np.linalg.norm((flat.astype(np.longdouble) - self.target).astype(np.float64)) / self.norms)


def coefficients(code: codes.GradientCode, weights: NDArray[Any]) -> NDArray[Any]:
    """(K,) those of the partitions in the decoded sum; of a folded code (K, m, m), which should be I for each."""
    return np.einsum("iv,iju->jvu", weights, code.encoding) if code.reduction > 1 else weights @ code.encoding


@pytest.fixture
def play() -> Callable[[codes.GradientCode, np.random.Generator], Round]:
    return Round


def without(workers: int, stragglers: Sequence[int]) -> list[int]:
    return [i for i in range(workers) if i not in set(stragglers)]


@pytest.fixture
def survivors() -> Callable[[int, Sequence[int]], list[int]]:
    """survivors(workers, stragglers): everybody else."""
    return without
