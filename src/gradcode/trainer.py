"""The training loop for those who have none: epochs, evaluation, checkpoints."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from gradcode.errors import CheckpointError
from gradcode.session import Session
from gradcode.training import checkpoint

Evaluate = Callable[[nn.Module], Mapping[str, float]]


@dataclass(frozen=True, slots=True)
class EpochResult:
    """One finished epoch.

    Args:
        epoch: counted from 0.
        loss: mean of the iterations' losses, those without one left out (see :meth:`Step.backward`).
        metrics: what ``evaluate`` returned.
        clock: seconds on the cluster's clock at the epoch's end, virtual or real, and those before a resume.
    """

    epoch: int
    loss: float
    metrics: Mapping[str, float]
    clock: float


class Trainer:
    """Runs a session for some epochs.

    Args:
        session: what to train.
        optimizer: over the session's parameters.
        scheduler: of the learning rate.
        scheduler_every: ``"epoch"`` or ``"iteration"``: when it steps.
        evaluate: model -> metrics, called after each epoch in evaluation mode, without gradients.
        checkpoint_path: the file to keep; None: none.
        checkpoint_every: iterations between checkpoints, and one at the end; None: one after each epoch.
        on_epoch: called with every :class:`EpochResult`.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        session: Session,
        optimizer: torch.optim.Optimizer,
        *,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
        scheduler_every: Literal["epoch", "iteration"] = "epoch",
        evaluate: Evaluate | None = None,
        checkpoint_path: Path | str | None = None,
        checkpoint_every: int | None = None,
        on_epoch: Sequence[Callable[[EpochResult], None]] = (),
    ) -> None:
        if scheduler_every not in ("epoch", "iteration"):
            raise ValueError(f'scheduler_every={scheduler_every!r} must be "epoch" or "iteration"')
        if checkpoint_every is not None and checkpoint_every < 1:
            raise ValueError(f"checkpoint_every={checkpoint_every} must be at least 1 iteration, or None")
        self.session, self.optimizer, self.scheduler = session, optimizer, scheduler
        self.scheduler_every, self.evaluate = scheduler_every, evaluate
        self.checkpoint_path = None if checkpoint_path is None else Path(checkpoint_path)
        self.checkpoint_every, self.on_epoch = checkpoint_every, list(on_epoch)
        self.results: list[EpochResult] = []
        self._losses: list[float] = []  # of the epoch that runs
        self._clock_before = 0.0  # seconds up to the checkpoint that was resumed
        session.optimizer = optimizer

    def fit(self, epochs: int) -> list[EpochResult]:
        """Trains until ``epochs`` epochs are done, counting those before a resume; returns the results of all."""
        while len(self.results) < epochs:
            self._epoch(len(self.results))
        if self.checkpoint_every is not None and self.session.iteration % self.checkpoint_every:
            self.save()
        return self.results

    def _epoch(self, epoch: int) -> None:
        session = self.session
        last = (epoch + 1) * session.iterations_per_epoch
        while session.iteration < last:
            for step in session.epoch():
                self._losses.append(float(step.backward()))
                self.optimizer.step()
                self.optimizer.zero_grad()
                if self.scheduler is not None and self.scheduler_every == "iteration":
                    self.scheduler.step()
                due = self.checkpoint_every and session.iteration % self.checkpoint_every == 0
                if due and session.iteration < last:
                    self.save()
        if self.scheduler is not None and self.scheduler_every == "epoch":
            self.scheduler.step()
        losses = [loss for loss in self._losses if not math.isnan(loss)]
        loss = sum(losses) / max(1, len(losses))
        self._losses = []
        result = EpochResult(epoch, loss, self._metrics(), self._clock())
        self.results.append(result)
        if self.checkpoint_every is None or session.iteration % self.checkpoint_every == 0:
            self.save()
        for listener in self.on_epoch:
            listener(result)

    def _clock(self) -> float:
        return self._clock_before + self.session.cluster.clock()

    def _metrics(self) -> dict[str, float]:
        if self.evaluate is None:
            return {}
        model = self.session.model
        modes = [(module, module.training) for module in model.modules()]
        try:
            model.eval()
            with torch.no_grad():
                return {name: float(value) for name, value in self.evaluate(model).items()}
        finally:
            for module, training in modes:
                module.training = training

    def save(self) -> None:
        """Writes the checkpoint, if there is a path for it.

        Raises:
            CheckpointError: it cannot be written; the one before it is kept.
        """
        if self.checkpoint_path is not None:
            checkpoint.save(self.checkpoint_path, self._state())

    def resume(self) -> None:
        """Goes on from the checkpoint, with the same numbers as if there had been no interruption.

        Raises:
            CheckpointError: it is missing, damaged, or of another run.
        """
        if self.checkpoint_path is None:
            raise CheckpointError("there is no checkpoint_path to resume from")
        state = checkpoint.load(self.checkpoint_path)
        try:
            # The session first: it knows whether the checkpoint is of this run.
            self.session.load_state_dict(state["session"])
            self.session.model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            if self.scheduler is not None:
                self.scheduler.load_state_dict(state["scheduler"])
            self.results = [EpochResult(**result) for result in state["results"]]
            self._losses = list(state["losses"])
            self._clock_before = float(state["clock"]) - self.session.cluster.clock()
            checkpoint.restore_generators(state["generators"])
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint {self.checkpoint_path} does not fit this model or optimizer: {error}; resume with the "
                f"same configuration"
            ) from error

    def _state(self) -> dict[str, Any]:
        return {
            "session": self.session.state_dict(),
            "model": self.session.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": None if self.scheduler is None else self.scheduler.state_dict(),
            "results": [
                {"epoch": r.epoch, "loss": r.loss, "metrics": dict(r.metrics), "clock": r.clock} for r in self.results
            ],
            "losses": list(self._losses),
            "clock": self._clock(),
            "generators": checkpoint.generators(),
        }
