"""Least squares on encoded data, and linear models with encoded coordinates: what k of N workers nearly suffice for.

Source: Karakus, Sun, Diggavi, Yin 2017 and 2019 (the project's encoded_optimization.md). Mapping of letters: their m
workers are our N, their p our L, S and β as in :mod:`gradcode.codes.encoders`.
"""

from __future__ import annotations

from functools import cached_property

import numpy.typing as npt
import torch
from torch import Tensor

from gradcode.codes.encoders import Encoder
from gradcode.training.quadratic import LeastSquares, LinearObjective, largest_square


class EncodedLeastSquares(LeastSquares):
    """‖S(Xw − y)‖²/(2βn) + (λ/2)‖w‖²: ordinary least squares of SX and Sy, a partition for each worker (data parallel).

    Workers compute as on any least squares and know nothing of the code; nobody decodes. With ``schemes.fastest`` the
    gradient is ĝ = 1/(nβη)·Σ_{i∈A} X̃_iᵀ(X̃_i w − ỹ_i) + λw of encoded_optimization.md 4, η being the share of the rows
    that the k workers in A have. For a tight encoder and k = N it is the gradient of the uncoded objective.

    Args:
        features: X, (n, L).
        targets: y, (n,).
        encoder: for n samples.
        workers: N; worker i has the rows ``encoder.blocks(workers)[i]`` of S.
        regularisation: λ ≥ 0.
        dtype: of the arithmetic.

    Attributes:
        uncoded: f(w) = ‖Xw − y‖²/(2n) + (λ/2)‖w‖².
        encoder: as given.

    Raises:
        ValueError: shapes that do not fit, or an argument out of its range.

    >>> from gradcode.codes import encoders
    >>> objective = EncodedLeastSquares([[1.0], [2.0]], [1.0, 3.0], encoders.hadamard(2, shuffle=False), workers=4)
    >>> round(float(objective.gradient(torch.zeros(1, dtype=torch.float64))), 12)
    -3.5
    """

    def __init__(
        self,
        features: npt.ArrayLike,
        targets: npt.ArrayLike,
        encoder: Encoder,
        workers: int,
        regularisation: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        self.uncoded = LeastSquares(features, targets, 1, regularisation, dtype)
        self.encoder = encoder
        super().__init__(encoder.apply(features), encoder.apply(targets), workers, regularisation, dtype)

    def value(self, theta: Tensor) -> float:
        """f(w), of the uncoded objective."""
        return self.uncoded.loss(theta)

    def gap(self, theta: Tensor) -> float:
        """f(w) − f*: how far ``theta`` is above the smallest value of the uncoded objective."""
        return self.value(theta) - self._optimum

    def smoothness(self) -> float:
        """That of the uncoded objective."""
        return self.uncoded.smoothness()

    def fingerprint(self) -> dict[str, object]:
        return {**super().fingerprint(), "encoder": repr(self.encoder)}

    @cached_property
    def _optimum(self) -> float:
        return self.uncoded.loss(self.uncoded.minimiser())


class EncodedCoordinates(LinearObjective):
    """F(v) = f(Sᵀv): a linear objective f of p coordinates in βp coordinates v, of which w = Sᵀv (model parallel).

    If the coordinates of workers A are moved for ever and S_A has full column rank, a point where they rest minimises
    f, although the others never move (encoded_optimization.md 3, fact 4). For that |A|/N must be 1/β at least. Made
    for block coordinate descent with ``schemes.fastest_blocks``.

    The regulariser is that of w. Every worker holds the whole of XSᵀ and computes its predictions from all of v (OURS;
    in the paper workers hold only their columns, and are told the sum of everybody's contributions): what is spared is
    waiting, not memory.

    Args:
        objective: f.
        encoder: for as many samples as f has coordinates.

    Attributes:
        uncoded: f.
        encoder: as given.

    Raises:
        ValueError: the encoder is for another number.
    """

    def __init__(self, objective: LinearObjective, encoder: Encoder) -> None:
        if encoder.samples != objective.length:
            raise ValueError(
                f"{encoder!r} is for {encoder.samples} samples; the objective has {objective.length} coordinates"
            )
        self.uncoded, self.encoder, self.bend = objective, encoder, objective.bend
        self._matrix = torch.as_tensor(encoder.matrix.copy(), dtype=objective.dtype)
        super().__init__(
            objective.features @ self._matrix.T,
            objective.targets,
            objective.partitions,
            objective.regularisation,
            objective.dtype,
        )

    def parameters(self, theta: Tensor) -> Tensor:
        """w = Sᵀv, (p,)."""
        return self._matrix.T @ theta

    def smoothness(self) -> float:
        """The largest curvature in v: β times that of f for a tight encoder."""
        ridge = (self.samples * self.regularisation / self.bend) ** 0.5 * self._matrix.T
        return self.bend * largest_square(torch.cat([self.features, ridge])) / self.samples

    def fingerprint(self) -> dict[str, object]:
        return {**super().fingerprint(), "uncoded": self.uncoded.fingerprint(), "encoder": repr(self.encoder)}

    def _losses(self, predictions: Tensor, values: Tensor) -> Tensor:
        return self.uncoded._losses(predictions, values)

    def _slopes(self, predictions: Tensor, values: Tensor) -> Tensor:
        return self.uncoded._slopes(predictions, values)

    def _ridge(self, theta: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
        parameters = self.parameters(theta)
        slope = self.regularisation * (self._matrix[columns] @ parameters)
        return slope, self.regularisation / 2 * parameters.dot(parameters)
