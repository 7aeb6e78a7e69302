from __future__ import annotations

import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from gradcode.errors import CheckpointError
from gradcode.training import checkpoint

STATE: dict[str, Any] = {
    "none": None,
    "numbers": [True, 0, -3, 2**80, 0.1, float("inf"), float("-inf"), 1e-320],
    "strings": ["", "ü", 'quote " and \n'],
    "nested": {"list": [1, [2, (3, [4])]], "tuple": (1, (2,), ()), "empty": {}, "nothing": []},
    "numbered": {0: "a", 7: {"step": 1.5}, (1, 2): "pair", None: 0, 2.5: 1},
    "reserved": {"__tensor__": "0", "__tuple__": [1], "__numbered__": 2},
}
TENSORS = {
    "float32": torch.tensor([1.0, float("nan"), -0.0]),
    "float64": torch.rand(2, 3, dtype=torch.float64),
    "bfloat16": torch.rand(5).bfloat16(),
    "float16": torch.rand(5).half(),
    "int64": torch.tensor(7),
    "int32": torch.arange(3, dtype=torch.int32),
    "bool": torch.tensor([True, False]),
    "uint8": torch.arange(4, dtype=torch.uint8),
    "empty": torch.empty(0, 3),
    "strided": torch.arange(6.0).view(2, 3).t(),
    "view": torch.arange(100.0)[3:5],
}


def test_everything_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "state.safetensors"
    checkpoint.save(path, {**STATE, "tensors": TENSORS, "again": [TENSORS["float32"]]})
    state = checkpoint.load(path)
    tensors, again = state.pop("tensors"), state.pop("again")
    assert state == STATE and repr(state) == repr(STATE)
    for name, tensor in TENSORS.items():
        torch.testing.assert_close(tensors[name], tensor, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(again[0], TENSORS["float32"], rtol=0, atol=0, equal_nan=True)
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_numpy_comes_back_as_tensors_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "state"
    array = np.arange(6.0).reshape(2, 3)
    checkpoint.save(path, {"array": array.T, "number": np.float64(0.1), "count": np.int64(3), "flag": np.bool_(True)})
    state = checkpoint.load(path)
    assert torch.equal(state.pop("array"), torch.from_numpy(array).t())
    assert repr(state) == "{'number': 0.1, 'count': 3, 'flag': True}"


def test_saving_does_not_follow_later_changes(tmp_path: Path) -> None:
    tensor = torch.zeros(3)
    checkpoint.save(tmp_path / "state", {"x": tensor})
    tensor.fill_(1.0)
    loaded = checkpoint.load(tmp_path / "state")["x"]
    assert loaded.tolist() == [0.0, 0.0, 0.0]
    loaded.add_(1.0)
    assert checkpoint.load(tmp_path / "state")["x"].tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("value", [{1, 2}, object(), b"bytes", 1j, len])
def test_what_cannot_be_kept_is_named_and_the_old_file_stays(tmp_path: Path, value: object) -> None:
    path = tmp_path / "state"
    checkpoint.save(path, {"x": 1})
    with pytest.raises(CheckpointError, match=f"a {type(value).__name__} cannot be kept in a checkpoint"):
        checkpoint.save(path, {"x": [value]})
    assert checkpoint.load(path) == {"x": 1}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "state"
    checkpoint.save(path, {"tensor": torch.arange(1000.0), "numbers": list(range(100))})
    return path


@pytest.mark.parametrize("kept", [0, 4, 7, 8, 100, 1000, -1])
def test_truncated(saved: Path, kept: int) -> None:
    saved.write_bytes(saved.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"is damaged .*use an older copy, or leave out --resume"):
        checkpoint.load(saved)


def test_every_flipped_byte_is_noticed(saved: Path) -> None:
    data = saved.read_bytes()
    for position in [*range(0, 12), *range(12, len(data), 37), len(data) - 1]:
        flipped = bytearray(data)
        flipped[position] ^= 0x04
        saved.write_bytes(flipped)
        with pytest.raises(CheckpointError):
            checkpoint.load(saved)
    saved.write_bytes(data)
    assert checkpoint.load(saved)["tensor"].tolist() == list(range(1000))


def test_foreign_files(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    safetensors.torch.save_file({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="was not written by gradcode"):
        checkpoint.load(path)
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(CheckpointError, match="is damaged"):
        checkpoint.load(path)
    with pytest.raises(CheckpointError):
        checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match=r"there is no checkpoint .*leave out --resume to begin anew"):
        checkpoint.load(tmp_path / "nothing")


def test_another_format(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 3)
    with pytest.raises(CheckpointError, match="has format 2, this gradcode reads format 3"):
        checkpoint.load(saved)


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match=r"cannot write checkpoint .*Make room or choose another folder"):
        checkpoint.save(tmp_path / "file" / "state", {})
    (tmp_path / "folder").mkdir()
    with pytest.raises(CheckpointError, match="cannot write checkpoint"):
        checkpoint.save(tmp_path / "folder", {})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["file", "folder"]


def test_a_full_disk_keeps_the_old_checkpoint(tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk."""
    program = """
        import resource, sys
        from pathlib import Path
        import torch
        from gradcode.errors import CheckpointError
        from gradcode.training import checkpoint

        path = Path(sys.argv[1])
        checkpoint.save(path, {"x": torch.zeros(10)})
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            checkpoint.save(path, {"x": torch.zeros(100_000)})
        except CheckpointError as error:
            print(error)
    """
    path = tmp_path / "state"
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "cannot write checkpoint" in done.stdout and "The checkpoint before it is kept." in done.stdout
    assert checkpoint.load(path)["x"].tolist() == [0.0] * 10
    assert [file.name for file in tmp_path.iterdir()] == ["state"]


def test_who_reads_the_old_file_still_reads_all_of_it(saved: Path) -> None:
    """The new one takes its name; it is not written over it, which a crash could leave half done."""
    before = saved.read_bytes()
    with saved.open("rb") as file:
        checkpoint.save(saved, {"x": 1})
        assert file.read() == before
    assert checkpoint.load(saved) == {"x": 1}


def test_an_interrupt_leaves_no_partial_file(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(saved, {"x": 1})
    assert [file.name for file in saved.parent.iterdir()] == ["state"]
    assert "numbers" in checkpoint.load(saved)


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    random.gauss(0, 1)  # leaves a second number in the generator
    np.random.standard_normal()  # noqa: NPY002
    checkpoint.save(tmp_path / "state", checkpoint.generators())

    def draw() -> list[float]:
        return [float(torch.rand(())), random.gauss(0, 1), float(np.random.standard_normal())]  # noqa: NPY002

    expected = draw()
    draw()
    checkpoint.restore_generators(checkpoint.load(tmp_path / "state"))
    assert draw() == expected
