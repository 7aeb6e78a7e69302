"""Round trips to the workers, and what is noted about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gradcode.protocol import Floats
from gradcode.schemes.rows import RowScheme
from gradcode.session import Session, Step
from gradcode.training.quadratic import LinearObjective


@dataclass(frozen=True, eq=False)
class Solution:
    """How a solver went.

    Attributes:
        parameters: (L,) after the last step; the session's model has them too.
        values: (steps + 1,) the objective, without encoding and with the penalty, before the first and after each step.
        clock: (steps + 1,) seconds since the solver began, on the cluster's clock.
        responders: for each step the workers whose gradients it was made of.
    """

    parameters: Tensor
    values: Floats
    clock: Floats
    responders: tuple[tuple[int, ...], ...]


class Trips:
    """A solver's way to its workers: one iteration of the session after another, at parameters of its choice.

    Args:
        session: on a linear objective, with a scheme whose workers each send a row.
        penalty: what is added to the objective's value at the parameters.

    Raises:
        ValueError: the session has another objective or scheme.
    """

    def __init__(self, session: Session, penalty: Callable[[Tensor], float] = lambda theta: 0.0) -> None:
        objective, scheme = session.objective, session.scheme
        if not isinstance(objective, LinearObjective):
            raise ValueError(
                f"solvers are for linear objectives such as gradcode.training.LeastSquares, not for "
                f"{type(objective).__name__}: train a module with an optimizer of torch"
            )
        if not isinstance(scheme, RowScheme):
            raise ValueError(
                f"solvers are for schemes whose workers each send a row, such as fastest, not for {scheme!r}"
            )
        self.session, self.objective, self.scheme = session, objective, scheme
        self.theta = objective.model.theta.detach().clone()
        self._penalty = penalty
        self._start = session.cluster.clock()
        self._values = [self._value()]
        self._clock = [0.0]
        self._responders: list[tuple[int, ...]] = []

    def gradient(self, theta: Tensor) -> Tensor:
        """What the scheme makes of the replies at ``theta`` (L,); read ``scheme.responders`` for whose they were."""
        unknown = self.objective.model.theta
        with torch.no_grad():
            unknown.copy_(theta)
        Step(self.session, self.session.iteration).backward()
        assert unknown.grad is not None
        return unknown.grad.clone()

    def rows(self) -> dict[int, Tensor]:
        """Worker -> its row of the last round trip, (L,), copied."""
        rows = self.session.cluster.rows
        return {
            worker: rows[worker, : self.objective.length].to(self.objective.dtype, copy=True)
            for worker in self.scheme.responders
        }

    def arrive(self, theta: Tensor, responders: tuple[int, ...]) -> None:
        """Notes a step to ``theta`` that was made of the gradients of ``responders``."""
        self.theta = theta
        self._values.append(self._value())
        self._clock.append(self.session.cluster.clock() - self._start)
        self._responders.append(responders)

    def solution(self) -> Solution:
        """Where the last step led; the model is left there."""
        with torch.no_grad():
            self.objective.model.theta.copy_(self.theta)
        return Solution(self.theta, np.array(self._values), np.array(self._clock), tuple(self._responders))

    def _value(self) -> float:
        return self.objective.value(self.theta) + self._penalty(self.theta)
