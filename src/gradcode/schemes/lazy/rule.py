"""The lazy rule: a gradient that has changed less than the last steps moved the parameters need not be sent again."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from gradcode.errors import GradcodeWarning
from gradcode.protocol import Floats, Step

_STEPS = 10  # D, where ξ is one number
FEW = 4
"""Voters below which Σ_d ξ_d ≥ 1 has been seen not to converge (lagc.md 9.4)."""


class Rule:
    """threshold_k = (1/V²)·Σ_d ξ_d·Δ_d/α_d², Δ_d = ‖θ^{k+1−d} − θ^{k−d}‖² (lagc.md 4; read in the authors' LAG code).

    α_d is the step size with which Δ_d came about: the paper's is constant.

    If no voter's stored gradient is further from its present one than √threshold, the gradient that is used is off by
    at most √(Σ_d ξ_d·Δ_d/α_d²), whatever V is (DERIVED there).

    Under plain SGD Δ_d/α_d² is ‖∇^{k−d}‖², the squared norm of the gradient that was used. For another optimizer, or if
    it is not known, that is what the threshold is made of (OURS): steps of Adam, say, are of α's size whatever the
    gradient's is, and the threshold would have no bounds. No guarantee is known for it.

    Args:
        voters: V.
        xi: ξ, one number for D = 10 steps, or D numbers, the newest first; ≥ 0. 0: a voter is selected if anything has
            changed.
        step_size: α; None: the learning rate of the session's optimizer.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(self, voters: int, xi: float | Sequence[float], step_size: float | None) -> None:
        weights = _weights(xi)
        if step_size is not None and not step_size > 0:
            raise ValueError(f"step_size={step_size!r} must be positive, or None for the optimizer's learning rate")
        self.voters, self.xi, self.step_size = voters, weights, step_size
        self.history = len(weights)
        self._norms: deque[float] = deque(maxlen=self.history)  # ‖∇‖² of the last iterations, the newest first
        self._warned = False
        total = float(weights.sum())
        if total >= 1 and voters < FEW:
            warnings.warn(
                f"xi adds up to {total:g} with {voters} voters: training may not converge; take less than 1 in all "
                f"(safe_step says which step size is then safe), or at least {FEW} voters",
                GradcodeWarning,
                stacklevel=4,
            )

    def __repr__(self) -> str:
        same = len(set(self.xi.tolist())) == 1
        xi = f"{self.xi[0]:g}" if same and self.history == 10 else str(self.xi.tolist())
        return f"xi={xi}" + ("" if self.step_size is None else f", step_size={self.step_size:g}")

    def threshold(self, step: Step) -> float:
        """What the squared change of a voter's gradient must pass."""
        if step.plain or (step.plain is None and self.step_size is not None):
            rates = np.array(step.rates) if self.step_size is None else self.step_size
            sizes = np.array(step.displacements) / np.where(rates, rates, 1.0) ** 2  # at a rate of 0 nothing moves
        else:
            self._warn(step)
            sizes = np.array(self._norms)
        number = min(len(sizes), self.history)
        return float(self.xi[:number] @ sizes[:number]) / self.voters**2

    def note(self, squared_norm: float) -> None:
        """‖∇‖² of the gradient that this iteration uses."""
        self._norms.appendleft(squared_norm)

    def state_dict(self) -> dict[str, Any]:
        return {"norms": list(self._norms)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._norms = deque(state["norms"], maxlen=self.history)

    def _warn(self, step: Step) -> None:
        if step.plain is False and not self._warned:
            self._warned = True
            warnings.warn(
                "lazy aggregation is proved for plain SGD only; with this optimizer its threshold is made of the norms "
                "of the last gradients, without a guarantee: compare the accuracy with that of schemes.uncoded",
                GradcodeWarning,
                stacklevel=2,
            )


def safe_step(smoothness: float, xi: float | Sequence[float]) -> float:
    """The largest step size for which descent is proved: (1 − Σ_d ξ_d) / L (DERIVED, lagc.md 7).

    Args:
        smoothness: L of the whole objective.
        xi: as that of the schemes: a number for 10 steps, or one for each.

    Raises:
        ValueError: L is not positive, or the ξ add up to 1 or more: no step is then known to be safe.

    >>> safe_step(4.0, [0.25, 0.25])
    0.125
    """
    total = float(_weights(xi).sum())
    if not smoothness > 0:
        raise ValueError(f"smoothness={smoothness!r} must be positive")
    if total >= 1:
        raise ValueError(f"xi={xi!r} adds up to {total:g}, which must be below 1 for a step to be safe")
    return (1 - total) / smoothness


def _weights(xi: float | Sequence[float]) -> Floats:
    """(D,) ξ of each of the last steps.

    Raises:
        ValueError: they are not numbers of 0 or more.
    """
    given = np.asarray(xi)
    numbers = given.dtype.kind in "iuf" and given.ndim <= 1 and given.size > 0
    if not numbers or not np.all((given >= 0) & np.isfinite(given)):
        raise ValueError(f"xi={xi!r} must be a number, 0 or more, or one for each of the last steps")
    return np.full(_STEPS, given, dtype=np.float64) if given.ndim == 0 else given.astype(np.float64)
