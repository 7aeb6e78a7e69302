"""How good a model is on held-out data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset


class Evaluation:
    """Test loss, and accuracy where the targets are classes.

    What :class:`gradcode.Trainer` takes as ``evaluate``: it is called with the model in evaluation mode.

    Args:
        dataset: map-style, of (input, target).
        loss_fn: (outputs, targets) -> mean loss.
        batch_size: samples per forward pass.
    """

    def __init__(self, dataset: Dataset[Any], loss_fn: Callable[[Any, Any], Tensor], batch_size: int = 512) -> None:
        self._batches = DataLoader(dataset, batch_size=batch_size)
        self._loss_fn = loss_fn

    @torch.no_grad()
    def __call__(self, model: nn.Module) -> dict[str, float]:
        loss, right, samples, classes = 0.0, 0, 0, False
        for inputs, targets in self._batches:
            outputs = model(inputs)
            loss += float(self._loss_fn(outputs, targets)) * len(targets)
            samples += len(targets)
            classes = targets.dtype == torch.int64 and outputs.dim() == 2
            if classes:
                right += int((outputs.argmax(dim=1) == targets).sum())
        if not samples:
            return {}
        metrics = {"test_loss": loss / samples}
        return {"accuracy": right / samples, **metrics} if classes else metrics
