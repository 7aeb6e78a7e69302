"""Checkpoints: one safetensors file, written whole or not at all.

Tensors lie in the file as safetensors keeps them; everything else is JSON in its header. One file, renamed into place
after it has reached the disk, so that a crash, a full disk or Ctrl-C leaves the checkpoint before it untouched.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from gradcode.errors import CheckpointError

FORMAT = 2
_TENSOR, _TUPLE, _NUMBERED = "__tensor__", "__tuple__", "__numbered__"


def save(path: Path, state: Mapping[str, Any]) -> None:
    """Writes ``state`` (nested dictionaries, lists, tuples, numbers, strings, tensors, arrays) to ``path``.

    Arrays come back as tensors, NumPy's numbers as Python's.

    Raises:
        CheckpointError: it cannot be written; what was at ``path`` before is still there.
    """
    tensors: dict[str, Tensor] = {}
    described = _describe(dict(state), tensors)
    header = json.dumps({"format": FORMAT, "state": described})
    metadata = {"gradcode": header, "checksum": _checksum(header, tensors)}
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        data = _bytes(tensors, metadata)
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        kept = " The checkpoint before it is kept." if path.exists() else ""
        raise CheckpointError(
            f"cannot write checkpoint {path}: {error.strerror or error}.{kept} Make room or choose another folder, "
            f"then go on with --resume"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def load(path: Path) -> dict[str, Any]:
    """What was saved.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is not a checkpoint of gradcode.
    """
    if not path.exists():
        raise CheckpointError(f"there is no checkpoint {path}: leave out --resume to begin anew")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 -- no mapping
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {path} is damaged ({error}): use an older copy, or leave out --resume to begin anew"
        ) from error
    if "gradcode" not in metadata:
        raise CheckpointError(f"{path} was not written by gradcode: name another file, or leave out --resume")
    if metadata.get("checksum") != _checksum(metadata["gradcode"], tensors):
        raise CheckpointError(
            f"checkpoint {path} is damaged (its checksum is wrong): use an older copy, or leave out --resume to begin "
            f"anew"
        )
    try:
        header = json.loads(metadata["gradcode"])
        number, described = header["format"], header["state"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"checkpoint {path} is damaged (its header: {error})") from error
    if number != FORMAT:
        raise CheckpointError(f"checkpoint {path} has format {number}, this gradcode reads format {FORMAT}")
    try:
        state: dict[str, Any] = _restore(described, tensors)
    except KeyError as error:
        raise CheckpointError(f"checkpoint {path} is damaged (it lacks {error})") from error
    return state


def generators() -> dict[str, Any]:
    """The states of the global generators of torch, NumPy and ``random``."""
    name, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 -- user code draws from it
    return {
        "torch": torch.get_rng_state(),
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, gauss],
        "python": random.getstate(),
    }


def restore_generators(state: Mapping[str, Any]) -> None:
    """Puts the global generators where :func:`generators` found them."""
    torch.set_rng_state(state["torch"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))  # noqa: NPY002
    random.setstate(state["python"])


def _describe(value: Any, tensors: dict[str, Tensor]) -> Any:
    """``value`` as JSON, its tensors put aside under numbered names."""
    if isinstance(value, np.ndarray):
        value = torch.from_numpy(np.ascontiguousarray(value))
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().to("cpu").contiguous().clone()
        return {_TENSOR: name}
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and key not in (_TENSOR, _TUPLE, _NUMBERED) for key in value):
            return {key: _describe(item, tensors) for key, item in value.items()}
        # An optimizer's state is keyed by numbers, which JSON would turn into strings.
        return {_NUMBERED: [[_describe(key, tensors), _describe(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {_TUPLE: [_describe(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_describe(item, tensors) for item in value]
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise CheckpointError(
        f"a {type(value).__name__} cannot be kept in a checkpoint: state_dict() of model, optimizer, scheduler and "
        f"scheme may hold numbers, strings, lists, tuples, dictionaries and tensors"
    )


def _restore(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, dict):
        if _TENSOR in value:
            return tensors[value[_TENSOR]]
        if _TUPLE in value:
            return tuple(_restore(item, tensors) for item in value[_TUPLE])
        if _NUMBERED in value:
            return {_restore(key, tensors): _restore(item, tensors) for key, item in value[_NUMBERED]}
        return {key: _restore(item, tensors) for key, item in value.items()}
    if isinstance(value, list):
        return [_restore(item, tensors) for item in value]
    return value


def _bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    try:
        return safetensors.torch.save(tensors, metadata)
    except KeyError as error:
        raise CheckpointError(f"tensors of dtype {error} cannot be kept in a checkpoint") from None


def _checksum(header: str, tensors: Mapping[str, Tensor]) -> str:
    """Of header and tensors, in the order of their names: a file's length alone does not show a flipped bit."""
    value = zlib.crc32(header.encode())
    for name in sorted(tensors):
        value = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, value)
    return f"{value:08x}"


def _sync_folder(folder: Path) -> None:
    """Has the rename itself reach the disk, where folders can be synced."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
