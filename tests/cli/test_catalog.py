"""Named models and datasets: shapes, files, and what is said when a file is missing or is not what it should be."""

from __future__ import annotations

import gzip
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from gradcode.catalog import DATASETS, MODELS, DataError, Evaluation, cnn, shape_and_outputs


@pytest.mark.parametrize(
    ("name", "options"), [("linear", {}), ("mlp", {"hidden": (7, 5)}), ("cnn", {"batch_norm": True})]
)
def test_models_map_samples_to_outputs(name: str, options: dict[str, Any]) -> None:
    model = MODELS[name]((1, 8, 8), 10, **options)
    assert model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert any(isinstance(layer, nn.BatchNorm2d) for layer in model.modules()) == (name == "cnn")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shape": (64,)}, "needs images"),
        ({"channels": (4, 4, 4, 4)}, "too often for 8x8"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"hidden": 0}, "hidden=0"),
        ({"outputs": 0}, "outputs=0"),
    ],
)
def test_cnn_refuses_what_it_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        cnn(**({"shape": (1, 8, 8), "outputs": 10} | options))


def test_digits() -> None:
    pytest.importorskip("sklearn.datasets", exc_type=ImportError)
    data: Any = DATASETS["digits"](test=0.2)
    assert shape_and_outputs(data.train) == ((1, 8, 8), 10)
    inputs = data.train.tensors[0]
    assert float(inputs.min()) == 0.0 and float(inputs.max()) == 1.0
    assert len(data.train) + len(data.test) == 1797 and len(data.test) == 359


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match=r'pip install "gradcode\[examples\]"'):
        DATASETS["digits"]()


def test_synthetic_data_repeat_by_seed() -> None:
    first, second, other = (DATASETS["synthetic"](samples=50, seed=seed).train[:][0] for seed in (1, 1, 2))
    assert torch.equal(first, second) and not torch.equal(first, other)
    assert len(first) == 40


def write_mnist(folder: Path, pack: Callable[[bytes], bytes], ending: str) -> Any:
    images = np.random.default_rng(0).integers(256, size=(5, 28, 28), dtype=np.uint8)
    labels = np.array([3, 1, 4, 1, 5], dtype=np.uint8)
    for part in ("train", "t10k"):
        header = bytes((0, 0, 8, 3)) + np.array([5, 28, 28], dtype=">u4").tobytes()
        (folder / f"{part}-images-idx3-ubyte{ending}").write_bytes(pack(header + images.tobytes()))
        header = bytes((0, 0, 8, 1)) + np.array([5], dtype=">u4").tobytes()
        (folder / f"{part}-labels-idx1-ubyte{ending}").write_bytes(pack(header + labels.tobytes()))
    return images


@pytest.mark.parametrize(("pack", "ending"), [(bytes, ""), (gzip.compress, ".gz")])
def test_mnist_files(tmp_path: Path, pack: Callable[[bytes], bytes], ending: str) -> None:
    images = write_mnist(tmp_path, pack, ending)
    data = DATASETS["mnist"](path=str(tmp_path))
    image, label = data.test[2]
    assert int(label) == 4 and image.shape == (1, 28, 28)
    assert np.array_equal(np.rint(image[0].numpy() * 255), images[2])
    assert shape_and_outputs(data.train) == ((1, 28, 28), 6)


def test_mnist_missing_or_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte is missing.*path"):
        DATASETS["mnist"](path=str(tmp_path))
    write_mnist(tmp_path, bytes, "")
    file = tmp_path / "t10k-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte is not an idx file"):
        DATASETS["mnist"](path=str(tmp_path))


def test_cifar10_binary_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data_batch_1\.bin is missing.*binary version"):
        DATASETS["cifar10"](path=str(tmp_path))
    pixels = np.random.default_rng(0).integers(256, size=(2, 3072), dtype=np.uint8)
    records = np.column_stack([np.array([7, 9], dtype=np.uint8), pixels])
    for name in (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"):
        (tmp_path / name).write_bytes(records.tobytes())
    data: Any = DATASETS["cifar10"](path=str(tmp_path))
    image, label = data.train[1]
    assert len(data.train) == 10 and int(label) == 9
    assert np.array_equal(np.rint(image.numpy() * 255).reshape(-1), pixels[1])
    (tmp_path / "test_batch.bin").write_bytes(b"a pickle, perhaps")
    with pytest.raises(DataError, match=r"test_batch\.bin is not a CIFAR-10 binary batch"):
        DATASETS["cifar10"](path=str(tmp_path))


def test_evaluation_counts_every_sample_once() -> None:
    data: Any = DATASETS["synthetic"](samples=50, features=3, classes=2)
    model = nn.Linear(3, 2)
    inputs, targets = data.test.tensors
    measured = Evaluation(data.test, nn.CrossEntropyLoss(), batch_size=4)(model)
    assert measured["accuracy"] == float((model(inputs).argmax(1) == targets).double().mean())
    assert measured["test_loss"] == pytest.approx(float(nn.CrossEntropyLoss()(model(inputs), targets).detach()))


def test_evaluation_of_real_targets_has_no_accuracy() -> None:
    data = torch.utils.data.TensorDataset(torch.ones(4, 2), torch.zeros(4, 1))
    assert Evaluation(data, nn.MSELoss())(nn.Linear(2, 1)).keys() == {"test_loss"}
