"""Datasets by name, as pairs (train, test) of map-style datasets.

Nothing is downloaded: MNIST and CIFAR-10 are read from local files, digits come with scikit-learn, synthetic data are
drawn. CIFAR-10 is read in its binary version; the Python version is a pickle, which could run anything.
"""

from __future__ import annotations

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from gradcode.errors import GradcodeError

Bytes = npt.NDArray[np.uint8]


class DataError(GradcodeError):
    """A dataset is not there or not what it should be; the message says where it belongs."""


class Split(NamedTuple):
    """Two map-style datasets of (input, target)."""

    train: Dataset[Any]
    test: Dataset[Any]


def digits(test: float = 0.2, seed: int = 0) -> Split:
    """scikit-learn's 1,797 handwritten digits: images (1, 8, 8) in [0, 1], classes 0 to 9.

    Args:
        test: share of the samples that is held out.
        seed: of the split.

    Raises:
        DataError: scikit-learn is not installed, or broken.
        ValueError: ``test`` is not between 0 and 1.
    """
    if not 0 < test < 1:
        raise ValueError(f"test={test} must be a share between 0 and 1")
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            f'the digits come with scikit-learn, which cannot be imported ({error}): pip install "gradcode[examples]"'
        ) from error
    images, labels = load_digits(return_X_y=True)
    inputs = torch.from_numpy(images / 16.0).to(torch.float32).view(-1, 1, 8, 8)
    return _split(inputs, torch.from_numpy(labels).to(torch.int64), test, seed)


def synthetic(
    samples: int = 2048,
    features: int = 20,
    classes: int = 4,
    noise: float = 1.0,
    test: float = 0.2,
    seed: int = 0,
) -> Split:
    """Normal clouds, one per class: inputs (features,), classes 0 to ``classes`` - 1.

    Args:
        samples: train and test together.
        features: per sample.
        classes: number of clouds; their centres are standard normal.
        noise: standard deviation within a cloud.
        test: share of the samples that is held out.
        seed: of everything drawn.

    Raises:
        ValueError: a size or share out of range.
    """
    for name, value, least in (("samples", samples, 2), ("features", features, 1), ("classes", classes, 1)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if not 0 < test < 1:
        raise ValueError(f"test={test} must be a share between 0 and 1")
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((classes, features))
    labels = rng.integers(classes, size=samples)
    inputs = centres[labels] + noise * rng.standard_normal((samples, features))
    return _split(torch.from_numpy(inputs).to(torch.float32), torch.from_numpy(labels), test, seed)


def mnist(path: str) -> Split:
    """MNIST, or a dataset in its format such as Fashion-MNIST: images (1, 28, 28) in [0, 1], classes 0 to 9.

    Args:
        path: folder with the four idx files, gzipped or not (``train-images-idx3-ubyte``, ...).

    Raises:
        DataError: a file is missing or not in the idx format.
    """
    folder = Path(path)

    def part(name: str) -> TensorDataset:
        images, image_file = _idx(folder, f"{name}-images-idx3-ubyte", 3)
        labels, _ = _idx(folder, f"{name}-labels-idx1-ubyte", 1)
        if len(images) != len(labels):
            raise DataError(f"{image_file} holds {len(images)} images, its labels are {len(labels)}: get both anew")
        return TensorDataset(_images(images[:, None]), torch.from_numpy(labels.astype(np.int64)))

    return Split(part("train"), part("t10k"))


def cifar10(path: str) -> Split:
    """CIFAR-10: images (3, 32, 32) in [0, 1], classes 0 to 9.

    Args:
        path: folder with the binary version (``data_batch_1.bin`` to ``_5.bin`` and ``test_batch.bin``).

    Raises:
        DataError: a file is missing or not in that format.
    """
    folder, record = Path(path), 1 + 3 * 32 * 32

    def part(*names: str) -> TensorDataset:
        records = []
        for name in names:
            file = folder / name
            if not file.is_file():
                raise DataError(
                    f"{file} is missing: unpack cifar-10-binary.tar.gz (the binary version) and give the folder of "
                    f"its .bin files as path (now {path!r})"
                )
            raw = np.frombuffer(file.read_bytes(), dtype=np.uint8)
            if not raw.size or raw.size % record or raw[::record].max() > 9:
                raise DataError(f"{file} is not a CIFAR-10 binary batch (records of {record} bytes): get it anew")
            records.append(raw.reshape(-1, record))
        everything = np.concatenate(records)
        images = everything[:, 1:].reshape(-1, 3, 32, 32)
        return TensorDataset(_images(images), torch.from_numpy(everything[:, 0].astype(np.int64)))

    return Split(part(*(f"data_batch_{batch}.bin" for batch in range(1, 6))), part("test_batch.bin"))


DATASETS: dict[str, Callable[..., Split]] = {
    "cifar10": cifar10,
    "digits": digits,
    "mnist": mnist,
    "synthetic": synthetic,
}
"""Name -> loader."""


def shape_and_outputs(dataset: Dataset[Any]) -> tuple[tuple[int, ...], int | None]:
    """The shape of one input, and how many outputs a model needs: classes, or values of a real target.

    The number of classes is None where it would take reading the whole dataset.
    """
    first, target = dataset[0]
    shape = tuple(torch.as_tensor(first).shape)
    target = torch.as_tensor(target)
    if target.is_floating_point():
        return shape, target.numel()
    if isinstance(dataset, TensorDataset):
        return shape, int(dataset.tensors[1].max()) + 1
    return shape, None


def _split(inputs: Tensor, targets: Tensor, test: float, seed: int) -> Split:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(inputs)))
    held_out = max(1, round(test * len(inputs)))
    train, kept = order[held_out:], order[:held_out]
    return Split(TensorDataset(inputs[train], targets[train]), TensorDataset(inputs[kept], targets[kept]))


def _images(pixels: Bytes) -> Tensor:
    return torch.from_numpy(pixels.astype(np.float32) / 255)


def _idx(folder: Path, name: str, dimensions: int) -> tuple[Bytes, Path]:
    """An idx file of bytes: two zeros, the type, the number of dimensions, each size big-endian, the values."""
    for file in (folder / name, folder / f"{name}.gz"):
        if file.is_file():
            break
    else:
        raise DataError(
            f"{folder / name} is missing, also as .gz: put the four MNIST files there, or give their folder as path"
        )
    try:
        raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    except (OSError, EOFError) as error:
        raise DataError(f"{file} cannot be read ({error}): get it anew") from error
    header = 4 + 4 * dimensions
    sizes = np.frombuffer(raw[4:header], dtype=">u4").astype(int) if len(raw) >= header else np.zeros(0, dtype=int)
    if raw[:4] != bytes((0, 0, 8, dimensions)) or len(raw) != header + int(sizes.prod()):
        raise DataError(f"{file} is not an idx file of bytes in {dimensions} dimensions: get it anew")
    return np.frombuffer(raw, dtype=np.uint8, offset=header).reshape(sizes), file
