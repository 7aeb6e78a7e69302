"""The code of a second stage: what is still missing, on the workers that are to compute it, tolerating s₂ of them.

Source: two_stage.md 4.2 and 4.3 (RECONSTRUCTED there), after the heterogeneity-aware code of Wang et al. 2019. It is
built anew whenever something else is missing, so it is kept cheap: no search for the worst straggler set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from math import comb
from typing import Literal

import numpy as np
import numpy.typing as npt

from gradcode.codes import checks
from gradcode.codes.code import Indices
from gradcode.codes.columns import Floats, decoding_space, solve_columns
from gradcode.codes.stability import PATTERNS

Kind = Literal["harmonic", "random", "repetition"]
KINDS: tuple[Kind, ...] = ("harmonic", "random", "repetition")

CONDITION = 1e6
"""Largest condition number of a system that gives coefficients."""
LEAST = 1e-6
"""Smallest coefficient, and smallest |Σ v| of a unit vector v that decodes."""
DRAWS = 16
"""Matrices C that are compared (OURS: the spec takes the first within these limits)."""
SETS = 200
"""Supports, and sets of lost workers, at most, over which they are."""


@dataclass(frozen=True, eq=False)
class SecondStage:
    """A code over the missing partitions.

    Args:
        encoding: B₂ (M₂, K_u): what each worker sends of which missing partition.
        mixing: C (s₂ + 1, M₂) with C B₂ = 1.
    """

    encoding: Floats
    mixing: Floats

    @property
    def tolerance(self) -> int:
        """s₂: however many of its workers may be lost, whoever they are."""
        return len(self.mixing) - 1

    def decoding(self, lost: Sequence[int]) -> Floats:
        """(M₂,) the shortest a of the form Cᵀv with aᵀB₂ = 1 and 0 on the ``lost``, of which there are s₂ at most.

        With v the null vector of C[:, lost] of sum 1 where s₂ are lost (two_stage.md 4.3).
        """
        offset, null = decoding_space(self.mixing)
        gone = list(lost)
        if not gone:
            return offset
        weights: Floats = offset - null.T @ (np.linalg.pinv(null[:, gone].T) @ offset[gone])
        return weights


def shares(weights: npt.ArrayLike, total: int, most: int) -> Indices:
    """(N,) whole numbers with that total in proportion to ``weights``, none above ``most``: largest remainders.

    Each begins with its quota rounded down, at most ``most``; then one more goes to whoever is farthest below its quota
    and may have more, until the total is reached; of equals to the first (two_stage.md 4.2, step 1).

    Raises:
        ValueError: they cannot have that total.

    >>> shares([2, 1, 1], total=6, most=3).tolist()
    [3, 2, 1]
    """
    own = np.asarray(weights, dtype=np.float64)
    if total > most * len(own):
        raise ValueError(f"total={total} must be at most {most * len(own)}: {len(own)} shares of at most {most}")
    quotas = total * own / own.sum()
    loads: Indices = np.minimum(np.floor(quotas + 1e-9), most).astype(np.int64)
    for _ in range(total - int(loads.sum())):
        # Rounded, so that equal speeds stay equals.
        below = np.where(loads < most, np.round(quotas - loads, 9), -np.inf)
        loads[below.argmax()] += 1
    return loads


def second_stage(
    speeds: npt.ArrayLike,
    missing: int,
    tolerance: int,
    *,
    kind: Kind = "harmonic",
    seed: int = 0,
    mixing: npt.ArrayLike | None = None,
) -> SecondStage:
    """The code for so many missing partitions; s₂ + 1 workers compute each of them.

    Args:
        speeds: (M₂,) of the workers, in any unit: their loads are in proportion.
        missing: K_u ≥ 1.
        tolerance: s₂ < M₂.
        kind: "random": coefficients from a Gaussian C, loads by speed, cut from s₂ + 1 repetitions of the list of
            missing partitions; "harmonic": the same with a C whose rows are sines and cosines of evenly spaced angles,
            turned at random, which amplifies rounding less, the more so the more workers there are (OURS);
            "repetition": where s₂ + 1 divides M₂, groups of s₂ + 1 workers that all send the same sum, speeds not
            looked at; else as "harmonic".
        seed: of C, which is that of a few draws whose worst decoding amplifies rounding least.
        mixing: C itself, (s₂ + 1, M₂).

    Raises:
        ValueError: an argument is out of range, or no C was found within the limits.

    >>> second_stage([1, 1, 1], missing=3, tolerance=1, mixing=[[2, -1, 0], [1, 0, 1]]).encoding.tolist()
    [[1.0, 0.5, 0.0], [1.0, 0.0, -1.0], [0.0, 0.5, 1.0]]
    """
    rates = np.asarray(speeds, dtype=np.float64)
    workers = len(rates)
    checks.integer("missing", missing, 1)
    checks.integer("tolerance", tolerance, 0, workers - 1, f"there are {workers} workers")
    checks.choice("kind", kind, KINDS)
    size = tolerance + 1
    if kind == "repetition" and workers % size == 0 and mixing is None:
        return _repetition(workers, missing, size)
    loads = shares(rates, missing * size, missing)
    held = np.zeros((workers, missing), dtype=np.bool_)
    held[np.repeat(np.arange(workers), loads), np.arange(missing * size) % missing] = True
    if mixing is not None:
        given = np.asarray(mixing, dtype=np.float64)
        return SecondStage(solve_columns(given, held), given)
    if not tolerance:
        return SecondStage(held.astype(np.float64), np.ones((1, workers)))
    for own in ("random",) if kind == "random" else ("harmonic", "random"):
        for matrix in _mixings(size, workers, seed, own == "harmonic"):
            encoding = solve_columns(matrix, held)
            if np.abs(encoding[held]).min() >= LEAST and _conditions(matrix, _holders(held, size)).max() <= CONDITION:
                return SecondStage(encoding, matrix)
    raise ValueError(
        f"seed={seed}: no matrix for {workers} workers and tolerance={tolerance} of {DRAWS} of each kind keeps its "
        f'condition below {CONDITION:g}; take another seed, a smaller tolerance, or kind="repetition"'
    )


def _repetition(workers: int, missing: int, size: int) -> SecondStage:
    group = np.arange(workers) // size
    part = np.repeat(np.arange(group[-1] + 1), shares(np.ones(group[-1] + 1), missing, missing))
    # λ = one of the s₂ + 1 members of every group.
    mixing = (np.arange(workers) % size == np.arange(size)[:, None]).astype(np.float64)
    return SecondStage((group[:, None] == part).astype(np.float64), mixing)


@lru_cache(maxsize=64)
def _mixings(size: int, workers: int, seed: int, harmonic: bool) -> tuple[Floats, ...]:
    """Matrices C (size, workers), the best first; each decodes whoever is lost."""
    rng = np.random.default_rng([seed, size, workers])
    systems, losses = _subsets(workers, size, rng), _subsets(workers, size - 1, rng)
    some, lost = (sets[rng.permutation(len(sets))[:SETS]] for sets in (systems, losses))
    found: list[tuple[float, Floats]] = []
    while len(found) < DRAWS:
        matrix = rng.standard_normal((size, workers))
        if harmonic:
            matrix = np.linalg.qr(rng.standard_normal((size, size)))[0] @ _waves(size, workers)
        if np.abs(_null(matrix, losses).sum(axis=1)).min() >= LEAST:
            matrix.flags.writeable = False
            found.append((_amplification(matrix, some, lost), matrix))
    return tuple(matrix for _, matrix in sorted(found, key=lambda own: own[0]))


def _waves(size: int, workers: int) -> Floats:
    """Sines and cosines of evenly spaced angles, (size, workers): any ``size`` columns are linearly independent."""
    angles = np.arange(workers) * np.pi / workers
    waves = [wave(order * angles) for order in range(1 + size % 2, size + 1, 2) for wave in (np.cos, np.sin)]
    constant = [np.full(workers, np.sqrt(0.5))] if size % 2 else []
    return np.array(constant + waves)


def _null(mixing: Floats, losses: Indices) -> Floats:
    """(sets, size) unit vectors v with vᵀC = 0 at these workers."""
    return np.asarray(np.linalg.svd(mixing.T[losses])[2][:, -1])


def _amplification(mixing: Floats, systems: Indices, losses: Indices) -> float:
    """The largest Σ|a·b| of a partition: over these sets of workers that have it, and these of lost ones."""
    columns = mixing.T[systems].transpose(0, 2, 1)
    try:
        coefficients = np.abs(np.linalg.solve(columns, np.ones((*columns.shape[:2], 1))))[:, :, 0]
    except np.linalg.LinAlgError:
        return np.inf
    null = _null(mixing, losses)
    weights = np.abs(null / null.sum(axis=1, keepdims=True) @ mixing)
    return float(max((weights[:, own] @ b).max() for own, b in zip(systems, coefficients, strict=True)))


def _subsets(workers: int, size: int, rng: np.random.Generator) -> Indices:
    """All sets of so many workers while there are few, else as many random ones."""
    if comb(workers, size) <= PATTERNS:
        return np.array(list(combinations(range(workers), size)), dtype=np.int64)
    return np.argsort(rng.random((PATTERNS, workers)), axis=1)[:, :size]


def _holders(held: npt.NDArray[np.bool_], size: int) -> Indices:
    return np.nonzero(held.T)[1].reshape(-1, size)


def _conditions(mixing: Floats, sets: Indices) -> Floats:
    """The condition number of C's columns for each set."""
    return np.asarray(np.linalg.cond(mixing.T[sets].transpose(0, 2, 1)))
