"""The problems: one without chance, the LAG paper's synthetic one, and its real data where they are at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gradcode.catalog import DataError
from gradcode.delays import Exponential, Law, Pareto
from gradcode.protocol import Floats
from gradcode.training import LeastSquares, Logistic
from gradcode.training.quadratic import LinearObjective

LAWS: dict[str, Law] = {
    "exponential": Exponential(1.0),
    "Pareto 2.5": Pareto(2.5, 1.0),
    "Pareto 1.2": Pareto(1.2, 1.0),
}
ACCURACY = 1e-8
"""Of F − F*, at which the counting ends."""
FEATURES = 50


@dataclass(frozen=True)
class Problem:
    """``scale`` · the objective is the spec's F, which is a sum and not a mean."""

    name: str
    objective: LinearObjective
    scale: float

    @property
    def accuracy(self) -> float:
        """In the objective's units."""
        return ACCURACY / self.scale

    @property
    def workers(self) -> int:
        return self.objective.partitions

    def constants(self, groups: int) -> list[float]:
        """L_g of so many groups."""
        values: list[float] = self.objective.smoothness_by(groups).tolist()
        return values


def diagonal(workers: int = 12) -> Problem:
    """E1: X_m = I + 1.3^m e_m e_mᵀ, y_m all ones, F_m = ½‖X_mθ − y_m‖²."""
    rows = np.tile(np.eye(FEATURES), (workers, 1, 1))
    for m in range(workers):
        rows[m, m, m] += 1.3**m
    return _least_squares(f"E1, M = {workers}", rows, np.ones((workers, FEATURES)))


def synthetic(seed: int, workers: int = 9) -> Problem:
    """E2: X_m = 1.3^{m−1} q_m q_mᵀ + I with q_m of a random orthogonal matrix, all y_m one random target."""
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.standard_normal((FEATURES, FEATURES)))[0]
    target = rng.standard_normal(FEATURES)
    rows = np.stack([np.eye(FEATURES) + 1.3 ** (m - 1) * np.outer(basis[m], basis[m]) for m in range(1, workers + 1)])
    return _least_squares(f"E2, seed {seed}", rows, np.tile(target, (workers, 1)))


LINEAR = {"housing.txt": 506, "bodyfat.txt": 252, "abalone.txt": 417}
LOGISTIC = ("logistic_1.txt", "logistic_2.txt", "logistic_3.txt")


def real_data(folder: Path | None) -> dict[str, Floats]:
    """The tables of E3 in the folder, by file; empty without a folder.

    The three of linear regression must be there: UCLA Housing, Body Fat, Age of abalone, as text with one sample per
    line, numbers divided by blanks or commas, the target last. Those of logistic regression, whose names could not be
    read, are used if all three are there; their targets are −1 and 1.

    Raises:
        DataError: a file is missing or cannot be read; says which.
    """
    if folder is None:
        return {}
    tables = {name: _table(folder / name, samples) for name, samples in LINEAR.items()}
    if all((folder / name).is_file() for name in LOGISTIC):
        tables |= {name: _table(folder / name, 1) for name in LOGISTIC}
    return tables


def linear(tables: dict[str, Floats], workers: int) -> Problem:
    """E3: each set cut into M/3 equal consecutive pieces, the first 8 features."""
    pieces, targets = _pieces([tables[name][:samples] for name, samples in LINEAR.items()], workers)
    objective = LeastSquares(np.concatenate(pieces), np.concatenate(targets), [len(own) for own in targets])
    return Problem(f"E3 linear, M = {workers}", objective, objective.samples)


def logistic(tables: dict[str, Floats], workers: int = 18) -> Problem:
    """E3: logistic regression, λ = 1e-4."""
    pieces, targets = _pieces([tables[name] for name in LOGISTIC], workers)
    sizes = [len(own) for own in targets]
    # Each worker's objective has λ/2‖θ‖² of its own; here it is shared out by samples.
    regularisation = 1e-4 * workers / sum(sizes)
    objective = Logistic(np.concatenate(pieces), np.concatenate(targets), sizes, regularisation)
    return Problem(f"E3 logistic, M = {workers}", objective, objective.samples)


def _pieces(tables: Sequence[Floats], workers: int) -> tuple[list[Floats], list[Floats]]:
    """Features and targets of each worker; of unequal sets the rows that are left over are dropped."""
    features, targets = [], []
    for table in tables:
        size = len(table) // (workers // 3)
        for piece in range(workers // 3):
            own = table[piece * size : (piece + 1) * size]
            features.append(own[:, :8])
            targets.append(own[:, -1])
    return features, targets


def _least_squares(name: str, rows: Floats, targets: Floats) -> Problem:
    """One worker per entry of ``rows`` (M, n, L) and ``targets`` (M, n)."""
    objective = LeastSquares(rows.reshape(-1, rows.shape[2]), targets.ravel(), len(rows))
    return Problem(name, objective, targets.size)


def _table(path: Path, samples: int) -> Floats:
    try:
        values = np.loadtxt([line.replace(",", " ") for line in path.read_text(encoding="utf-8").splitlines()], ndmin=2)
    except OSError as error:
        raise DataError(
            f"{path} is missing ({error.strerror or error}): E3 needs {', '.join(LINEAR)} in the folder of --data, "
            f"text with one sample per line, its target last"
        ) from error
    except ValueError as error:
        raise DataError(f"{path} is no table of numbers: {error}") from error
    if len(values) < samples or values.shape[1] < 9:
        raise DataError(
            f"{path} has {len(values)} samples of {values.shape[1]} numbers; there must be {samples} of 9 or more, the "
            f"target last"
        )
    return values
