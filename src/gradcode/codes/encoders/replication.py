"""Copies of the samples as they are: what encoding is compared with."""

from __future__ import annotations

from typing import SupportsIndex

import numpy as np

from gradcode.codes import checks
from gradcode.codes.encoders.encoder import Encoder, Floats
from gradcode.codes.encoders.registry import register


class Replication(Encoder):
    """β copies of the identity, one below the other."""

    def __init__(self, samples: int, copies: int) -> None:
        super().__init__(samples, samples * copies)
        self.copies = copies

    def _encode(self, values: Floats) -> Floats:
        return np.tile(values, (self.copies, 1))

    def _adjoint(self, values: Floats) -> Floats:
        total: Floats = values.reshape(self.copies, self.samples, -1).sum(axis=0)
        return total


@register(
    summary="copies of the data; one copy: uncoded",
    redundancy="1, 2, 3, …",
    cost="none",
    choose="as the baseline; on a cluster take schemes.fastest(replicas=β), which uses one of equal replies",
)
def replication(samples: SupportsIndex, redundancy: SupportsIndex = 2) -> Replication:
    """β stacked copies of I; uncoded for β = 1 (encoded_optimization.md 2).

    Args:
        samples: n.
        redundancy: β, a whole number.

    Raises:
        ValueError: either is below 1.

    >>> replication(samples=2).matrix.tolist()
    [[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]]
    """
    return Replication(checks.integer("samples", samples, 1), checks.integer("redundancy", redundancy, 1))
