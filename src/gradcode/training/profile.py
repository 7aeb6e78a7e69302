"""What a backward pass costs that ends early: measured, for plans that make use of half-done work."""

from __future__ import annotations

import time

import numpy as np
import torch

from gradcode.protocol import Block, Floats
from gradcode.training.objective import ModelObjective


def profile(objective: ModelObjective, repeats: int = 5) -> Floats:
    """Measures ``objective.costs``, and sets them.

    For each parameter, forward pass and backward pass from the output down to it, on one partition of the first
    iteration, one after the other in turns; the median over the turns, as a share of the whole. Later parameters cost
    no more than earlier ones; where the measurement says otherwise, it is levelled.

    Args:
        objective: before it is given to a session, whose workers have copies of it.
        repeats: turns, after one that warms up.

    Returns:
        (P,) shares, 1 for the first parameter.

    Raises:
        ValueError: ``repeats`` is not positive.
    """
    if repeats < 1:
        raise ValueError(f"repeats={repeats} must be at least 1")
    own = objective.copy()
    parameters = torch.empty(own.length, dtype=own.dtype)
    buffers = torch.zeros(own.buffers, dtype=torch.float64)
    own.place(parameters, buffers)
    own.bind(parameters, buffers, 0)
    out = torch.empty(own.length, dtype=own.dtype)
    blocks = [Block(start, own.length) for start in own.starts]
    seconds = np.empty((repeats + 1, len(blocks)))
    for turn in seconds:
        for index, block in enumerate(blocks):
            began = time.perf_counter()
            own.accumulate(0, 0, 1.0, out, True, block)
            turn[index] = time.perf_counter() - began
    typical = np.median(seconds[1:], axis=0)
    falling = np.maximum.accumulate(typical[::-1])[::-1]
    objective.costs = falling / falling[0]
    return objective.costs
