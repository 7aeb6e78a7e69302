"""How close to an isometry an encoder stays when rows are missing: the spectrum of the rows that are left."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from math import comb
from typing import SupportsIndex

import numpy as np
import numpy.typing as npt

from gradcode.codes import checks
from gradcode.codes.encoders.encoder import Encoder, Floats

MOST_SUBSETS = 5000


@dataclass(frozen=True)
class Brip:
    """The extreme eigenvalues of E_A over sets A of k workers.

    With lowest = 1 − ε and highest = 1 + ε at most, the encoder has the (m, k, ε) block-restricted isometry property.

    Attributes:
        lowest, highest: eigenvalues.
        subsets: how many sets were looked at.
        exhaustive: whether they are all there are.
    """

    lowest: float
    highest: float
    subsets: int
    exhaustive: bool


def spectra(encoder: Encoder | npt.ArrayLike, workers: SupportsIndex, subsets: Sequence[Sequence[int]]) -> Floats:
    """(sets, n) eigenvalues of E_A = S_AᵀS_A/(βη) for sets A of workers, in ascending order; all 1 for everybody.

    β = R/n and η is the share of the workers that are in A (encoded_optimization.md 1).

    Args:
        encoder: an encoder, or S itself, (R, n).
        workers: m; they hold consecutive rows, as equally many as possible.
        subsets: at least one, none of them empty.

    Raises:
        ValueError: there are fewer rows than workers.

    >>> spectra(np.eye(4), 2, [[0], [0, 1]]).tolist()
    [[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0]]
    """
    matrix = encoder.matrix if isinstance(encoder, Encoder) else np.asarray(encoder, dtype=np.float64)
    rows, columns = matrix.shape
    m = checks.integer("workers", workers, 1, rows, f"the matrix has {rows} rows")
    cuts = checks.even_cuts(rows, m)
    grams = np.array([matrix[a:b].T @ matrix[a:b] for a, b in pairwise(cuts)])
    grams *= m * columns / rows
    found: Floats = np.array([np.linalg.eigvalsh(grams[list(own)].sum(axis=0) / len(own)) for own in subsets])
    return found


def brip(
    encoder: Encoder | npt.ArrayLike,
    workers: SupportsIndex,
    k: SupportsIndex,
    trials: SupportsIndex = 1000,
    *,
    rng: checks.Seed = 0,
) -> Brip:
    """The extreme eigenvalues of :func:`spectra` over all sets of k workers, or random ones where there are over 5000.

    Args:
        encoder: an encoder, or S itself, (R, n).
        workers: m.
        k: workers in a set.
        trials: random sets, if not all are looked at.
        rng: generator or seed of those.

    Raises:
        ValueError: ``k`` is not from 1 to ``workers``, or there are fewer rows than workers.

    >>> brip(np.eye(4), workers=4, k=3)
    Brip(lowest=0.0, highest=1.3333333333333333, subsets=4, exhaustive=True)
    """
    m = checks.integer("workers", workers, 1)
    size = checks.integer("k", k, 1, m, f"workers={m}")
    exhaustive = comb(m, size) <= MOST_SUBSETS
    if exhaustive:
        subsets = list(combinations(range(m), size))
    else:
        random = checks.generator(rng)
        number = checks.integer("trials", trials, 1)
        subsets = [tuple(random.choice(m, size, replace=False).tolist()) for _ in range(number)]
    found = spectra(encoder, m, subsets)
    return Brip(float(found.min()), float(found.max()), len(subsets), exhaustive)
