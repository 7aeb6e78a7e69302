"""What the last optimizer steps did to the parameters: lazy schemes and error feedback ask for it."""

from __future__ import annotations

from collections import deque
from typing import Any

import torch
from torch import Tensor

from gradcode.protocol import Step
from gradcode.schemes.decoding import squared_norm


class Steps:
    """Squared displacements of the parameters from iteration to iteration.

    Args:
        history: how many are kept; 0: none, and no copy of the parameters either.
    """

    def __init__(self, history: int) -> None:
        self._history = history
        self._moved: deque[tuple[float, float]] = deque(maxlen=max(1, history))  # squared displacement, rate
        self._last: Tensor | None = None  # parameters of the iteration before
        self._number, self._rate = -1, float("nan")

    def before(self, number: int, parameters: Tensor, optimizer: torch.optim.Optimizer | None) -> Step:
        """What a scheme is told at the start of iteration ``number``; asked again for the same, no step is counted."""
        rate = float("nan") if optimizer is None else float(optimizer.param_groups[0]["lr"])
        if self._history and number != self._number:
            if self._last is not None:
                self._moved.appendleft((squared_norm(parameters, self._last), self._rate))
            self._last, self._number, self._rate = parameters.clone(), number, rate
        displacements, rates = tuple(zip(*self._moved, strict=True)) or ((), ())
        return Step(rate, displacements, rates, plain(optimizer), parameters)

    def state_dict(self) -> dict[str, Any]:
        return {"moved": [list(step) for step in self._moved], "last": self._last, "rate": self._rate}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._moved.clear()
        self._moved.extend((size, rate) for size, rate in state["moved"])
        self._last, self._number, self._rate = state["last"], -1, float(state["rate"])


def plain(optimizer: torch.optim.Optimizer | None) -> bool | None:
    """Whether the optimizer takes plain gradient steps: SGD and nothing else. None: it is not known."""
    if optimizer is None:
        return None
    if type(optimizer) is not torch.optim.SGD or len(optimizer.param_groups) > 1:
        return False
    group = optimizer.param_groups[0]
    return not any(group[name] for name in ("momentum", "weight_decay", "nesterov", "maximize"))
