"""A sum that is kept up to date by what has changed, and knows when rounding may have spoilt it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

_DRIFT = 1e-5  # of the gradient: rounding that the sum may gather before it begins anew


class RunningSum:
    """Σ_j g_j(θ̂_j) in float64, of messages that say what has changed.

    There is no table from which it could be added up afresh. So what the messages' rounding adds up to is estimated,
    and once that has become large beside the sum, as it does when gradients become small, the sum is to begin anew.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None  # (L,)
        self.drift = 0.0  # what it may be off by
        self.spoilt = False  # whether it is to begin anew
        self._begun = 0.0  # the drift with which it began, as a share of it

    def begin(self, whole: Tensor, rounding: float, norm: float) -> None:
        """It is ``whole`` (L,) from now on, of that norm, and off by ``rounding`` at most."""
        import torch

        self.total = whole.to(torch.float64, copy=True)
        self.drift, self._begun = rounding, rounding / max(norm, np.finfo(float).tiny)

    def add(self, change: Tensor, rounding: float) -> None:
        """Adds a change (L,) that is off by ``rounding`` at most."""
        assert self.total is not None
        self.total += change
        self.drift += rounding

    def judge(self, norm: float) -> None:
        """Whether it is spoilt, at its present norm: by more than 1e-5 of it, and four times what it began with."""
        self.spoilt = self.drift > max(_DRIFT, 4 * self._begun) * norm

    def state_dict(self) -> dict[str, Any]:
        total = None if self.total is None else self.total.clone()
        return {"total": total, "drift": self.drift, "begun": self._begun, "spoilt": self.spoilt}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total = None if state["total"] is None else state["total"].clone()
        self.drift, self._begun, self.spoilt = state["drift"], state["begun"], state["spoilt"]
