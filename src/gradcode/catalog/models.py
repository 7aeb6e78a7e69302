"""Small models by name. Each takes the shape of one sample and the number of outputs, then its own options."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch import nn


def linear(shape: Sequence[int], outputs: int) -> nn.Module:
    """One linear layer over the flattened sample: softmax regression with cross entropy.

    Raises:
        ValueError: ``outputs`` is below 1.
    """
    _positive("outputs", outputs)
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), outputs))


def mlp(shape: Sequence[int], outputs: int, hidden: Sequence[int] = (64,), dropout: float = 0.0) -> nn.Module:
    """A perceptron with ReLU between its layers.

    Args:
        shape: of one sample; it is flattened.
        outputs: width of the last layer.
        hidden: widths of the layers before it.
        dropout: probability of dropping a hidden value.

    Raises:
        ValueError: a width below 1, a probability outside [0, 1).
    """
    _positive("outputs", outputs)
    _probability("dropout", dropout)
    width = math.prod(shape)
    layers: list[nn.Module] = [nn.Flatten()]
    for index, size in enumerate(hidden):
        _positive(f"hidden[{index}]", size)
        layers += [nn.Linear(width, size), nn.ReLU()]
        if dropout:
            layers.append(nn.Dropout(dropout))
        width = size
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def cnn(
    shape: Sequence[int],
    outputs: int,
    channels: Sequence[int] = (16, 32),
    hidden: int = 64,
    dropout: float = 0.25,
    batch_norm: bool = False,
) -> nn.Module:
    """A small convolutional network: a 3x3 convolution and a halving of the image per entry of ``channels``.

    Args:
        shape: (channels, height, width) of one image.
        outputs: number of classes.
        channels: of the convolutions, in order.
        hidden: width of the fully connected layer.
        dropout: probability of dropping one of its inputs; 0: no dropout.
        batch_norm: normalise after each convolution.

    Raises:
        ValueError: the samples are no images, or too small for so many convolutions; a size or probability out
            of range.
    """
    if len(shape) != 3:
        raise ValueError(f"shape={tuple(shape)} must be (channels, height, width): a cnn needs images")
    _positive("outputs", outputs)
    _positive("hidden", hidden)
    _probability("dropout", dropout)
    planes, height, width = shape
    if min(height, width) < 2 ** len(channels):
        raise ValueError(
            f"channels={list(channels)} halves the image {len(channels)} times, which is too often for {height}x{width}"
        )
    layers: list[nn.Module] = []
    for index, size in enumerate(channels):
        _positive(f"channels[{index}]", size)
        layers.append(nn.Conv2d(planes, size, 3, padding=1))
        if batch_norm:
            layers.append(nn.BatchNorm2d(size))
        layers += [nn.ReLU(), nn.MaxPool2d(2)]
        planes, height, width = size, height // 2, width // 2
    layers.append(nn.Flatten())
    if dropout:
        layers.append(nn.Dropout(dropout))
    return nn.Sequential(*layers, nn.Linear(planes * height * width, hidden), nn.ReLU(), nn.Linear(hidden, outputs))


MODELS: dict[str, Callable[..., nn.Module]] = {"cnn": cnn, "linear": linear, "mlp": mlp}
"""Name -> constructor; ``shape`` and ``outputs`` can be read off the data."""


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name}={value} must be at least 1")


def _probability(name: str, value: float) -> None:
    if not 0 <= value < 1:
        raise ValueError(f"{name}={value} must be a probability from 0 to below 1")
