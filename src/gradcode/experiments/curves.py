"""Trainings under drawn delays, for curves against simulated time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gradcode import catalog
from gradcode.errors import GradcodeError
from gradcode.protocol import Cluster, Report, Scheme
from gradcode.session import Listener, Session

MODELS: dict[str, Callable[..., nn.Module]] = {
    "digits": catalog.linear,
    "mnist": catalog.linear,
    "cifar10": catalog.cnn,
}


@dataclass(frozen=True)
class Task:
    """What is learnt: a data set by name, softmax regression or, for CIFAR-10, a small convolutional network.

    Args:
        name: of the data set, as in :data:`gradcode.catalog.DATASETS`.
        split: train and test data.
    """

    name: str
    split: catalog.Split

    @classmethod
    def of(cls, data: Path | None) -> Task:
        """MNIST or CIFAR-10, whichever the folder holds; without a folder scikit-learn's digits.

        Raises:
            DataError: the folder holds neither, or only a part; names what is missing and where.
        """
        if data is None:
            return cls("digits", catalog.DATASETS["digits"]())
        if any(data.glob("*.bin")):
            return cls("cifar10", catalog.DATASETS["cifar10"](path=str(data)))
        if any(data.glob("*-ubyte*")):
            return cls("mnist", catalog.DATASETS["mnist"](path=str(data)))
        raise catalog.DataError(
            f"there is neither MNIST nor CIFAR-10 in {data}: put the four idx files of MNIST there "
            f"(train-images-idx3-ubyte, ..., gzipped or not) or CIFAR-10's binary version (data_batch_1.bin, ...)"
        )

    def model(self, seed: int) -> nn.Module:
        """The model, in float64, its parameters drawn from ``seed``."""
        shape, outputs = catalog.shape_and_outputs(self.split.train)
        if outputs is None:
            raise GradcodeError(f"the classes of {self.name} are not known")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return nn.Sequential(Doubled(), MODELS[self.name](shape, outputs).double())


@dataclass(frozen=True)
class Curve:
    """A training: its reports, and before it and after some iterations the simulated time, test loss and accuracy.

    ``gradient_bytes`` is the size of one gradient.
    """

    reports: tuple[Report, ...]
    gradient_bytes: int
    times: tuple[float, ...]
    losses: tuple[float, ...]
    accuracies: tuple[float, ...]

    def reached(self, accuracy: float) -> float:
        """The first time, in seconds, at which the accuracy was that much; NaN: never."""
        return next((t for t, own in zip(self.times, self.accuracies, strict=True) if own >= accuracy), float("nan"))


class Doubled(nn.Module):
    """The input in float64, whatever it is stored as."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs.double()


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch computes on one thread: gradients of a few samples are many times slower on several busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@one_thread()
def train(
    task: Task,
    scheme: Scheme,
    cluster: Cluster,
    *,
    iterations: int,
    batch_size: int,
    rate: float,
    every: int = 1,
    seed: int = 0,
    listeners: Sequence[Listener] = (),
) -> Curve:
    """Plain SGD from the same start, on the same samples whatever the scheme.

    In float64, so that a code of large amplification, too, gives the gradient to all the digits that a curve shows.

    Args:
        task: data and model.
        scheme, cluster: how gradients come about.
        iterations: how many.
        batch_size: samples per iteration, all partitions together.
        rate: the learning rate.
        every: iterations between evaluations on the test data.
        seed: of the model's start, the samples and, unless the cluster has its own, the delays.
        listeners: called with every report.
    """
    loss_fn, model = nn.CrossEntropyLoss(), task.model(seed)
    evaluate = catalog.Evaluation(task.split.test, loss_fn)
    reports: list[Report] = []
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    points: list[tuple[float, float, float]] = []

    def look() -> None:
        model.eval()
        measured = evaluate(model)
        model.train()
        time = reports[-1].start + reports[-1].time if reports else 0.0
        points.append((time, measured["test_loss"], measured["accuracy"]))

    look()
    with Session(
        model,
        loss_fn,
        task.split.train,
        batch_size,
        scheme,
        cluster,
        seed,
        drop_last=True,
        listeners=[reports.append, *listeners],
    ) as session:
        while session.iteration < iterations:
            for step in session.epoch():
                step.backward()
                optimizer.step()
                optimizer.zero_grad()
                if session.iteration % every == 0 or session.iteration == iterations:
                    look()
                if session.iteration == iterations:
                    break
    times, losses, accuracies = zip(*points, strict=True)
    size = sum(own.numel() * own.element_size() for own in model.parameters())
    return Curve(tuple(reports), size, times, losses, accuracies)
