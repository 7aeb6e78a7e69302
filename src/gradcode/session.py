"""A session joins objective, scheme and cluster: the training loop's one entry."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from gradcode.errors import CheckpointError, GradcodeError
from gradcode.protocol import Cluster, Combination, Floats, Iteration, Outcome, Report, Scheme, Source
from gradcode.schemes.bounds import fluid_bound
from gradcode.topology import shape_of
from gradcode.training.checks import check_dataset, check_mean
from gradcode.training.objective import (
    Collate,
    Forward,
    LossFunction,
    ModelObjective,
    inputs_and_targets,
)
from gradcode.training.sampling import Sampling, SamplingMode
from gradcode.training.steps import Steps

Listener = Callable[[Report], None]


class Objective(Source, Protocol):
    """What a session asks of what it trains, beside what workers do: the master's side."""

    trainable: list[nn.Parameter]
    dtype: torch.dtype

    @property
    def model(self) -> nn.Module: ...

    @property
    def iterations(self) -> int:
        """Iterations per epoch."""
        ...

    def epoch(self, number: int) -> tuple[int, int]:
        """(epoch, iteration within it) of iteration ``number``."""
        ...

    def place(self, parameters: Tensor, buffers: Tensor) -> None: ...

    def split(self, flat: Tensor) -> list[Tensor]: ...

    def store_buffers(self, buffers: Tensor) -> None: ...

    def load_buffers(self, buffers: Tensor) -> None: ...

    def used(self, statistics: Floats) -> npt.NDArray[np.bool_]: ...

    def fingerprint(self) -> dict[str, object]:
        """What a checkpoint must agree with."""
        ...


class Step:
    """One iteration of an epoch; ``backward()`` takes the place of ``loss.backward()``."""

    def __init__(self, session: Session, number: int) -> None:
        self._session, self.number = session, number

    def backward(self) -> Tensor:
        """Fills ``p.grad`` of every parameter with the decoded gradient; returns the mean loss, a scalar tensor.

        What was in ``p.grad`` is replaced. A parameter that took no part gets None, as in plain training. Where a
        scheme ends with replies that held no sample (at an epoch's end, of shards of unequal length), none took part
        and the loss is NaN. A lazy scheme's gradient holds earlier ones, and so does its loss.

        Raises:
            NonFiniteLoss: it cannot be had from replies that are finite.
            WorkerError, Shortfall: the iteration could not be finished.
        """
        return self._session._backward(self.number)


class Session:
    """Trains ``model`` on a cluster by a scheme; the loop stays the user's own.

    ::

        session = gradcode.Session(model, loss_fn, dataset, batch_size=512, scheme=scheme, cluster=cluster)
        for epoch in range(3):
            for step in session.epoch():
                loss = step.backward()
                optimizer.step()
                optimizer.zero_grad()

    The model's parameters become views of one vector that the workers read; its parameters may be changed between
    iterations, but not replaced by others, frozen or thawed. ``close()``, or leaving the ``with`` block, gives them
    memory of their own again.

    Args:
        model: any module, on the CPU. Workers run it in training mode.
        loss_fn: (outputs, targets) -> the mean loss over the samples, a scalar.
        dataset: map-style.
        batch_size: samples per iteration, all partitions together.
        scheme: of :mod:`gradcode.schemes`; it says how many partitions the data is cut into.
        cluster: of :mod:`gradcode.clusters`, with as many workers as the scheme.
        seed: fixes which samples are in which iteration, dropout masks and random transforms.
        optimizer: only asked for its learning rate and kind, which lazy schemes want to know.
        sampling, drop_last: see :class:`gradcode.training.Sampling`.
        forward, collate_fn, micro_batch, seed_samples, devices: see :class:`gradcode.training.ModelObjective`.
        reply_dtype: of what workers send; None: the parameters'. ``torch.bfloat16`` halves it and rounds.
        check_loss: check on a few samples that the loss is a mean.
        listeners: called with the :class:`gradcode.protocol.Report` of every iteration.

    Raises:
        ValueError: what cannot be trained so, with the reason.
        WorkerError: a worker could not start.
    """

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFunction,
        dataset: Dataset[Any],
        batch_size: int,
        scheme: Scheme,
        cluster: Cluster,
        seed: int = 0,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        sampling: SamplingMode = "placed",
        drop_last: bool = False,
        forward: Forward = inputs_and_targets,
        collate_fn: Collate | None = None,
        micro_batch: int | None = None,
        seed_samples: bool = True,
        devices: Sequence[str] = ("cpu",),
        reply_dtype: torch.dtype | None = None,
        check_loss: bool = True,
        listeners: Sequence[Listener] = (),
    ) -> None:
        check_dataset(dataset)
        samples = len(dataset)  # type: ignore[arg-type]
        plan = Sampling(samples, scheme.partitions, batch_size, seed, sampling, drop_last)
        objective = ModelObjective(
            model, loss_fn, dataset, plan, forward, collate_fn, micro_batch, seed_samples, devices
        )
        if check_loss:
            check_mean(objective)
        self._open(objective, scheme, cluster, seed, optimizer, reply_dtype, listeners)

    @classmethod
    def of(
        cls,
        objective: Objective,
        scheme: Scheme,
        cluster: Cluster,
        seed: int = 0,
        *,
        optimizer: torch.optim.Optimizer | None = None,
        reply_dtype: torch.dtype | None = None,
        listeners: Sequence[Listener] = (),
    ) -> Self:
        """A session on an objective of one's own, such as :class:`gradcode.training.LeastSquares`."""
        session = cls.__new__(cls)
        session._open(objective, scheme, cluster, seed, optimizer, reply_dtype, listeners)
        return session

    def _open(
        self,
        objective: Objective,
        scheme: Scheme,
        cluster: Cluster,
        seed: int,
        optimizer: torch.optim.Optimizer | None,
        reply_dtype: torch.dtype | None,
        listeners: Sequence[Listener],
    ) -> None:
        _check_shape(scheme, cluster)
        if scheme.partitions != objective.partitions:
            raise ValueError(
                f"{scheme!r} has {scheme.partitions} partitions, the objective is cut into {objective.partitions}"
            )
        if scheme.layout.length not in (None, objective.length):
            raise ValueError(
                f"{scheme!r} is for {scheme.layout.length} coordinates, the parameters to train have {objective.length}"
            )
        if reply_dtype is not None and not reply_dtype.is_floating_point:
            raise ValueError(f"reply_dtype={reply_dtype} must be a floating dtype, such as torch.bfloat16")
        self.objective, self.scheme, self.cluster = objective, scheme, cluster
        self.seed, self.optimizer = seed, optimizer
        self.listeners: list[Listener] = list(listeners)
        self.iteration = 0
        self._serial = 0
        self._target = Combination(dict.fromkeys(range(objective.partitions), 1.0))
        like = torch.empty(0, dtype=objective.dtype)
        cluster.open(objective, scheme.layout, seed, like, reply_dtype or objective.dtype, scheme.inner)
        objective.place(cluster.parameters, cluster.buffers)
        self._gradient = torch.zeros(objective.length, dtype=objective.dtype)
        self._gradients = objective.split(self._gradient)
        self._homes = objective.split(cluster.parameters)
        self._steps = Steps(scheme.layout.history)
        self._ever_used = np.zeros(len(objective.trainable), dtype=np.bool_)
        self._losses: dict[int, tuple[float, int]] = {}  # partition -> its last loss, and of how many samples
        self.closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def model(self) -> nn.Module:
        """The model that is trained."""
        return self.objective.model

    @property
    def iterations_per_epoch(self) -> int:
        return self.objective.iterations

    def epoch(self) -> Iterator[Step]:
        """The iterations that are left of the epoch: all of them, or after a resume those that were not done."""
        epoch = self.objective.epoch(self.iteration)[0]
        while self.objective.epoch(self.iteration)[0] == epoch:
            number = self.iteration
            yield Step(self, number)
            self.iteration = max(self.iteration, number + 1)  # also where the loop's body did without backward()

    def close(self) -> None:
        """Gives the model memory of its own again and closes the cluster."""
        if not self.closed:
            with torch.no_grad():
                for parameter in self.objective.trainable:
                    parameter.data = parameter.data.clone()
            self.cluster.close()
            self.closed = True

    def state_dict(self) -> dict[str, Any]:
        """Iteration, scheme and memories; the model and the optimizer have states of their own."""
        return {
            "iteration": self.iteration,
            "seed": self.seed,
            "scheme": repr(self.scheme),
            "scheme_state": self.scheme.state_dict(),
            "objective": self.objective.fingerprint(),
            "cluster": self.cluster.state_dict(),
            "steps": self._steps.state_dict(),
            "ever_used": self._ever_used.tolist(),
            "losses": [[partition, *last] for partition, last in self._losses.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where ``state`` was saved.

        Raises:
            CheckpointError: it belongs to another seed, scheme or dataset.
        """
        own = self.state_dict()
        for key in ("seed", "scheme", "objective"):
            if state.get(key) != own[key]:
                raise CheckpointError(
                    f"the checkpoint is of another run: its {key} is {state.get(key)}, this run's is {own[key]}; "
                    f"resume with the same configuration"
                )
        self.iteration = int(state["iteration"])
        self.scheme.load_state_dict(state["scheme_state"])
        self.cluster.load_state_dict(state["cluster"])
        self._steps.load_state_dict(state["steps"])
        self._ever_used = np.array(state["ever_used"], dtype=np.bool_)
        self._losses = {partition: (loss, samples) for partition, loss, samples in state["losses"]}
        self.objective.store_buffers(self.cluster.buffers)

    # One iteration

    def _backward(self, number: int) -> Tensor:
        if self.closed:
            raise GradcodeError("the session is closed: its cluster is gone")
        self._reclaim()
        iteration = Iteration(
            number,
            self._serial,
            self._target,
            self.cluster.alive(),
            self.objective.sizes(number),
            self._steps.before(number, self.cluster.parameters, self.optimizer),
            self.cluster.away(),
            self.cluster.rows.dtype,
        )
        self._serial += 1
        self.objective.store_buffers(self.cluster.buffers)
        began = self.cluster.clock()
        outcome = self.cluster.run(self.scheme, iteration)
        loss = float(outcome.statistics[0])
        heard = not np.isnan(outcome.statistics).all()  # else no reply held a sample
        decoding = time.monotonic()
        self.scheme.gradient(self.cluster.rows, self._gradient)
        decoded = time.monotonic()
        if heard:
            self.objective.load_buffers(torch.from_numpy(outcome.statistics[1 : 1 + self.objective.buffers]))
        used = self.objective.used(outcome.statistics)
        if self.scheme.layout.stale:  # gradients of earlier iterations are in it, also where nobody has computed now
            used = self._ever_used = self._ever_used | used
            loss = self._last_known(outcome, iteration.sizes)
        for parameter, gradient, took_part in zip(self.objective.trainable, self._gradients, used, strict=True):
            parameter.grad = gradient if took_part else None
        self.iteration = number + 1
        master = outcome.sending + time.monotonic() - outcome.last
        self._tell(number, began, outcome, loss, decoded - decoding, master)
        return torch.tensor(loss, dtype=self.objective.dtype)

    def _reclaim(self) -> None:
        """Parameters whose ``.data`` was replaced go back to the shared vector, with their new values.

        Raises:
            GradcodeError: a parameter was frozen, or has another shape or dtype now.
        """
        moved: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for parameter, home in zip(self.objective.trainable, self._homes, strict=True):
            if parameter.shape != home.shape or parameter.dtype != home.dtype:
                raise GradcodeError(
                    f"a parameter was {tuple(home.shape)} of {home.dtype} and is {tuple(parameter.shape)} of "
                    f"{parameter.dtype} now: open a new session after changing the model"
                )
            if not parameter.requires_grad:
                raise GradcodeError("a parameter was frozen during the session: open a new session to train the rest")
            if parameter.data_ptr() != home.data_ptr():
                moved.append((parameter, home, parameter.data.clone()))  # two may have changed places
        for parameter, home, values in moved:
            home.copy_(values)
            parameter.data = home

    def _last_known(self, outcome: Outcome, sizes: npt.NDArray[np.int64]) -> float:
        """The mean loss over all partitions, each as it was heard of last."""
        self._losses |= {j: (loss, int(sizes[j])) for j, loss in outcome.losses.items()}
        samples = sum(own for _, own in self._losses.values())
        return sum(loss * own for loss, own in self._losses.values()) / samples if samples else float("nan")

    def _tell(
        self, number: int, began: float, outcome: Outcome, loss: float, decode_time: float, master_time: float
    ) -> None:
        if not self.listeners:
            return
        order_statistic = fluid = float("nan")
        if outcome.compute is not None and outcome.communicate is not None and outcome.start is not None:
            compute, communicate = outcome.compute[None], outcome.communicate[None]
            if not outcome.start.any():
                order_statistic = float(self.scheme.duration(compute, communicate)[0])
            way = communicate
            if any(self.scheme.inner):  # all links between a worker and the master
                links, above = outcome.communicate, self.cluster.topology.above
                way = np.array([[links[w] + links[[len(above) + e for e in up]].sum() for w, up in enumerate(above)]])
            fluid = float(fluid_bound(compute[:, :, 0], self.objective.partitions, way + outcome.start)[0])
        report = Report(
            iteration=number,
            epoch=self.objective.epoch(number)[0],
            start=began,
            time=outcome.time,
            loss=loss,
            arrivals=outcome.arrivals,
            stragglers=outcome.stragglers,
            lost=outcome.lost,
            decode_time=decode_time,
            master_time=master_time,
            decode_error=self.scheme.error,
            exact=self.scheme.exact,
            bytes_up=outcome.bytes_up,
            bytes_down=outcome.bytes_down,
            computations=outcome.computations,
            overruns=outcome.overruns,
            order_statistic=order_statistic,
            fluid=fluid,
            work=outcome.work,
            refused=outcome.refused,
            corrupt=outcome.corrupt,
            uploads=outcome.uploads,
            notices=outcome.notices,
            downloads=outcome.downloads,
            clipped=outcome.clipped,
        )
        for listener in self.listeners:
            listener(report)


def _check_shape(scheme: Scheme, cluster: Cluster) -> None:
    """Whether the cluster has the workers, and the edge nodes, that the scheme is for.

    Raises:
        ValueError: it has others.
    """
    wanted, tree = shape_of(scheme), cluster.topology
    if wanted == tree.shape or wanted == cluster.workers:
        return
    if isinstance(wanted, int):
        raise ValueError(f"{scheme!r} is for {wanted} workers, the cluster has {cluster.workers}")
    raise ValueError(
        f"{scheme!r} is for edge nodes with {wanted} workers, the cluster has {tree.shape}; give the cluster "
        f"topology={wanted}"
    )
