"""Least squares and logistic regression with closed-form gradients, for the papers' experiments.

All samples are used in every iteration. Partition j holds a fixed range of the rows; its gradient is
g_j = (n_j/n)·∇(mean loss on j), the regulariser in each partition's mean. In a simulated cluster the gradients of all
partitions are one batched product, so that hundreds of workers cost little more than one.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from gradcode.codes import checks
from gradcode.protocol import Block, Floats


class LinearObjective(ABC):
    """(1/n)·Σ_i ℓ(x_i·θ, y_i) + (λ/2)‖θ‖² over fixed partitions of the rows.

    Args:
        features: (n, L).
        targets: (n,).
        partitions: K, at most n, for nearly equal numbers of rows; or the number of rows of each, at least 1, in order.
        regularisation: λ ≥ 0.
        dtype: of the arithmetic.

    Raises:
        ValueError: shapes that do not fit, or an argument out of its range.
    """

    buffers = 0
    separable = True
    bend: float
    """The largest second derivative of ℓ by its prediction."""

    def __init__(
        self,
        features: npt.ArrayLike,
        targets: npt.ArrayLike,
        partitions: int | Sequence[int],
        regularisation: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        rows, values = torch.as_tensor(features, dtype=dtype), torch.as_tensor(targets, dtype=dtype)
        if rows.dim() != 2 or values.shape != rows.shape[:1]:
            raise ValueError(
                f"features {tuple(rows.shape)} and targets {tuple(values.shape)} must have shapes (n, L) and (n,)"
            )
        cuts = _cuts(partitions, len(rows))
        if not regularisation >= 0:
            raise ValueError(f"regularisation={regularisation} must not be negative")
        self.samples, self.length = rows.shape
        self.partitions, self.regularisation, self.dtype = len(cuts) - 1, regularisation, dtype
        self.itemsize = dtype.itemsize
        self.statistics = 2
        self.model = _Vector(self.length, dtype)
        self.trainable: list[nn.Parameter] = [self.model.theta]
        self._sizes: npt.NDArray[np.int64] = np.diff(cuts)
        # (K, m, L) and (K, m): partitions of unequal size are filled up with rows that count for nothing.
        longest = int(self._sizes.max())
        self._rows = rows.new_zeros(self.partitions, longest, self.length)
        self._values = rows.new_zeros(self.partitions, longest)
        self._counts = rows.new_zeros(self.partitions, longest)
        for j, (start, stop) in enumerate(pairwise(cuts)):
            self._rows[j, : stop - start] = rows[start:stop]
            self._values[j, : stop - start] = values[start:stop]
            self._counts[j, : stop - start] = 1.0
        self._together: tuple[Tensor, Tensor] | None = None

    @abstractmethod
    def _losses(self, predictions: Tensor, values: Tensor) -> Tensor:
        """ℓ of each sample."""

    @abstractmethod
    def _slopes(self, predictions: Tensor, values: Tensor) -> Tensor:
        """dℓ/d(prediction) of each sample."""

    @property
    def features(self) -> Tensor:
        """(n, L), the rows of all partitions one after another."""
        return self._rows[self._counts.bool()]

    @property
    def targets(self) -> Tensor:
        """(n,)."""
        return self._values[self._counts.bool()]

    def loss(self, theta: Tensor) -> float:
        """The whole objective at ``theta`` (L,)."""
        return float(self._of(theta, slice(None))[1].sum())

    def value(self, theta: Tensor) -> float:
        """What is to be made small in the end, at ``theta`` (L,): the objective itself, unless the data is encoded."""
        return self.loss(theta)

    def smoothness(self) -> float:
        """The largest curvature that the objective can have: gradient descent at one over it does not diverge."""
        return self.bend * largest_square(self.features) / self.samples + self.regularisation

    def gradient(self, theta: Tensor) -> Tensor:
        """Its gradient at ``theta``, (L,)."""
        return self.gradients(theta).sum(0)

    def gradients(self, theta: Tensor) -> Tensor:
        """g_j of every partition at ``theta``, (K, L): they add up to the gradient."""
        return self._of(theta, slice(None))[0]

    def smoothness_by(self, groups: int | None = None) -> Floats:
        """L_v of the sum of the gradients of each group of partitions, (groups,).

        The largest eigenvalue of c·X_vᵀX_v/n + (n_v/n)·λ, where c bounds ℓ'': 1 for least squares, ¼ for logistic
        regression. What lazy schemes on the server's side want to be given.

        Args:
            groups: runs of partitions of nearly equal length; None: every partition by itself.

        Raises:
            ValueError: there are fewer partitions.
        """
        number = self.partitions if groups is None else groups
        if not 1 <= number <= self.partitions:
            raise ValueError(f"groups={groups} must be from 1 to the {self.partitions} partitions")
        constants = []
        for start, stop in pairwise(checks.even_cuts(self.partitions, number).tolist()):
            largest = largest_square(self._rows[start:stop].reshape(-1, self.length))
            share = float(self._counts[start:stop].sum()) * self.regularisation
            constants.append((self.bend * largest + share) / self.samples)
        return np.array(constants)

    def _of(self, theta: Tensor, chosen: slice, columns: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Gradients (k, columns) and losses (k,) of some partitions, each times n_j/n."""
        rows, values, counts = self._rows[chosen], self._values[chosen], self._counts[chosen]
        predictions = rows @ theta
        slopes = self._slopes(predictions, values) * counts
        weights = counts.sum(1) / self.samples
        gradients = torch.einsum("km,kml->kl", slopes, rows[:, :, columns]) / self.samples
        slope, penalty = self._ridge(theta, columns)
        gradients.add_(weights[:, None] * slope)
        losses = (self._losses(predictions, values) * counts).sum(1) / self.samples
        return gradients, losses + weights * penalty

    def _ridge(self, theta: Tensor, columns: slice) -> tuple[Tensor, Tensor]:
        """The regulariser's gradient in these columns, and its value."""
        return self.regularisation * theta[columns], self.regularisation / 2 * theta.dot(theta)

    # What a session and a cluster ask: see gradcode.protocol.Source and gradcode.training.objective

    def copy(self) -> Self:
        return copy.copy(self)

    def place(self, parameters: Tensor, buffers: Tensor) -> None:
        parameters.copy_(self.model.theta.data)
        self.model.theta.data = parameters

    def split(self, flat: Tensor) -> list[Tensor]:
        return [flat[: self.length]]

    def store_buffers(self, buffers: Tensor) -> None:
        """There are none."""

    def load_buffers(self, buffers: Tensor) -> None:
        """There are none."""

    def used(self, statistics: Floats) -> npt.NDArray[np.bool_]:
        return np.ones(1, dtype=np.bool_)

    def epoch(self, number: int) -> tuple[int, int]:
        return number, 0

    @property
    def iterations(self) -> int:
        return 1

    def fingerprint(self) -> dict[str, object]:
        return {
            "objective": type(self).__name__,
            "samples": self.samples,
            "length": self.length,
            "partitions": self._sizes.tolist(),
            "regularisation": self.regularisation,
        }

    def bind(self, parameters: Tensor, buffers: Tensor, worker: int) -> None:
        self._theta = parameters

    def rebind(self, parameters: Tensor, buffers: Tensor) -> None:
        self._theta = parameters

    def refresh(self) -> None:
        self._together = None

    @contextmanager
    def visit(self, parameters: Tensor, buffers: Tensor) -> Iterator[None]:
        before = self._theta, self._together
        self._theta, self._together = parameters, None
        try:
            yield
        finally:
            self._theta, self._together = before

    def prepare(self, number: int) -> None:
        self._together = self._of(self._theta, slice(None))

    def sizes(self, number: int) -> npt.NDArray[np.int64]:
        return self._sizes

    def cost(self, block: Block) -> float:
        """Its share of the coordinates: every one is a product of the same slopes with a column of its own."""
        return (block.stop - block.start) / self.length

    def accumulate(
        self,
        number: int,
        partition: int,
        coefficient: float,
        out: Tensor,
        first: bool,
        block: Block | None = None,
    ) -> Floats:
        columns = slice(0, self.length) if block is None else slice(*block)
        if self._together is None:
            gradients, losses = self._of(self._theta, slice(partition, partition + 1), columns)
            gradient, loss = gradients[0], losses[0]
        else:
            gradient, loss = self._together[0][partition, columns], self._together[1][partition]
        target = out[columns]
        if first:
            torch.mul(gradient, coefficient, out=target)
        else:
            target.add_(gradient, alpha=coefficient)
        return np.array([float(loss) * self.samples / float(self._sizes[partition]), 1.0])

    def finish(self, out: Tensor) -> None:
        """Every coordinate was written."""


def _cuts(partitions: int | Sequence[int], samples: int) -> npt.NDArray[np.int64]:
    """(K + 1,) where the rows are cut into partitions.

    Raises:
        ValueError: there are more partitions than rows, or their sizes do not add up to them.
    """
    if isinstance(partitions, Sequence):
        if min(partitions, default=0) < 1 or sum(partitions) != samples:
            raise ValueError(
                f"partitions={list(partitions)} must be 1 or more each and add up to the {samples} samples"
            )
        return np.concatenate([[0], np.cumsum(partitions)]).astype(np.int64)
    if not 1 <= partitions <= samples:
        raise ValueError(f"partitions={partitions} must be from 1 to the {samples} samples")
    return checks.even_cuts(samples, partitions)


class LeastSquares(LinearObjective):
    """ℓ(z, y) = (z − y)²/2.

    >>> objective = LeastSquares(np.eye(2), np.ones(2), partitions=2)
    >>> objective.gradient(torch.zeros(2, dtype=torch.float64)).tolist()
    [-0.5, -0.5]
    """

    bend = 1.0

    def minimiser(self) -> Tensor:
        """Where the objective is smallest, (L,); of several such points the one of smallest norm."""
        ridge = torch.eye(self.length, dtype=self.dtype) * (self.samples * self.regularisation) ** 0.5
        system = torch.cat([self.features, ridge])
        aims = torch.cat([self.targets, self.targets.new_zeros(self.length)])
        solution: Tensor = torch.linalg.lstsq(system, aims[:, None], driver="gelsd").solution
        return solution[:, 0]

    def _losses(self, predictions: Tensor, values: Tensor) -> Tensor:
        return (predictions - values).square() / 2

    def _slopes(self, predictions: Tensor, values: Tensor) -> Tensor:
        return predictions - values


class Logistic(LinearObjective):
    """ℓ(z, y) = log(1 + exp(−y·z)), labels y of −1 and 1; others raise ValueError.

    >>> objective = Logistic(np.eye(2), [1.0, -1.0], partitions=1)
    >>> objective.gradient(torch.zeros(2, dtype=torch.float64)).tolist()
    [-0.25, 0.25]
    """

    bend = 0.25

    def __init__(
        self,
        features: npt.ArrayLike,
        targets: npt.ArrayLike,
        partitions: int | Sequence[int],
        regularisation: float = 0.0,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        labels = np.unique(torch.as_tensor(targets, dtype=torch.float64).numpy()).tolist()
        if not set(labels) <= {-1.0, 1.0}:
            raise ValueError(f"targets hold the labels {labels[:5]}; logistic regression takes -1 and 1")
        super().__init__(features, targets, partitions, regularisation, dtype)

    def _losses(self, predictions: Tensor, values: Tensor) -> Tensor:
        return torch.nn.functional.softplus(-values * predictions)

    def _slopes(self, predictions: Tensor, values: Tensor) -> Tensor:
        return -values * torch.sigmoid(-values * predictions)


def largest_square(matrix: Tensor) -> float:
    """The largest singular value, squared."""
    wide = matrix.shape[0] < matrix.shape[1]
    gram = matrix @ matrix.T if wide else matrix.T @ matrix
    return float(torch.linalg.eigvalsh(gram)[-1])


class _Vector(nn.Module):
    """The unknown θ as a module, so that any optimizer of torch can be used."""

    def __init__(self, length: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.theta = nn.Parameter(torch.zeros(length, dtype=dtype))
