"""Shared memory without a name: what the processes of one machine read and write together.

On Linux the memory is an anonymous file (memfd), elsewhere a temporary file that is unlinked at once: in both cases
nothing is left to remove, whoever dies and however. Processes get at it by an inherited file descriptor.
"""

from __future__ import annotations

import io
import mmap
import os
import pickle
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

_PAGE = 4096  # regions begin on pages, so that what nobody touches costs nothing
_HUGE = 1 << 21  # large ones on huge pages: far fewer page faults and address look-ups


class Region(NamedTuple):
    """An array in an arena."""

    shape: tuple[int, ...]
    dtype: torch.dtype


def anonymous_file(size: int) -> int:
    """A file descriptor of ``size`` bytes of shared memory that has no name.

    Raises:
        OSError: there is no memory left for it.
    """
    if hasattr(os, "memfd_create"):
        fd = os.memfd_create("gradcode", os.MFD_CLOEXEC)
    else:
        fd, path = tempfile.mkstemp(prefix="gradcode-")
        os.unlink(path)  # noqa: PTH108 -- the descriptor is all that is wanted
    os.ftruncate(fd, max(size, 1))
    return fd


class Arena:
    """Named arrays in one piece of shared memory.

    Args:
        regions: name -> shape and dtype; the same mapping on both sides.
        fd: of an existing arena; None: make one.
    """

    def __init__(self, regions: Mapping[str, Region], fd: int | None = None) -> None:
        offsets, position = {}, 0
        large: list[tuple[int, int]] = []
        for name, region in regions.items():
            size = int(np.prod(region.shape, dtype=np.int64)) * region.dtype.itemsize
            align = _HUGE if size >= 2 * _HUGE else _PAGE
            position = -(-position // align) * align
            offsets[name] = position
            if align == _HUGE:
                large.append((position, size))
            position += size
        self.fd = anonymous_file(position) if fd is None else fd
        # The mapping lives as long as a tensor that looks at it.
        memory = mmap.mmap(self.fd, max(position, 1))
        if hasattr(mmap, "MADV_HUGEPAGE"):
            for start, size in large:
                with suppress(OSError):  # a kernel without huge pages
                    memory.madvise(mmap.MADV_HUGEPAGE, start, size)
        self._tensors = {name: _view(memory, region, offsets[name]) for name, region in regions.items()}

    def __getitem__(self, name: str) -> Tensor:
        return self._tensors[name]

    def close(self) -> None:
        """Gives the descriptor back; tensors that are still in use keep the memory."""
        self._tensors = {}
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


def _view(memory: mmap.mmap, region: Region, offset: int) -> Tensor:
    count = int(np.prod(region.shape, dtype=np.int64))
    if not count:
        return torch.empty(region.shape, dtype=region.dtype)
    return torch.frombuffer(memory, dtype=region.dtype, count=count, offset=offset).view(region.shape)


class Parcel(NamedTuple):
    """A pickled object whose large arrays lie beside it in one anonymous file: (offset, length) of each."""

    fd: int
    pickled: tuple[int, int]
    arrays: tuple[tuple[int, int], ...]


def pack(value: Any) -> Parcel:
    """Pickles ``value`` once for many readers: tensors and arrays are written once and mapped, not copied, by each.

    Raises:
        pickle.PicklingError, AttributeError, TypeError: a part of ``value`` cannot be pickled.
    """
    buffers: list[pickle.PickleBuffer] = []
    stream = io.BytesIO()
    _TensorPickler(stream, protocol=5, buffer_callback=buffers.append).dump(value)
    parts = [stream.getbuffer(), *(buffer.raw() for buffer in buffers)]
    offsets, position = [], 0
    for part in parts:
        offsets.append((position, part.nbytes))
        position += -(-part.nbytes // 64) * 64
    fd = anonymous_file(position)
    with mmap.mmap(fd, max(position, 1)) as memory:
        for (offset, length), part in zip(offsets, parts, strict=True):
            memory[offset : offset + length] = part
    return Parcel(fd, offsets[0], tuple(offsets[1:]))


def unpack(parcel: Parcel) -> Any:
    """What was packed. Its arrays are private views of the file: writing to one copies the page written."""
    memory = mmap.mmap(parcel.fd, 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    view = memoryview(memory)
    start, length = parcel.pickled
    return pickle.loads(
        view[start : start + length], buffers=[view[offset : offset + size] for offset, size in parcel.arrays]
    )


class _TensorPickler(pickle.Pickler):
    """Sends the bytes of dense CPU tensors out of band, as NumPy's arrays do by themselves."""

    def reducer_override(self, value: Any) -> Any:
        if type(value) is Tensor and value.device.type == "cpu" and value.layout == torch.strided:
            if value.is_quantized or value.is_conj() or value.is_neg() or value.requires_grad:
                return NotImplemented
            flat = value.contiguous().view(-1).view(torch.uint8).numpy()
            return _rebuild, (flat, value.dtype, tuple(value.shape))
        return NotImplemented


def _rebuild(flat: Any, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    if not flat.size:
        return torch.empty(shape, dtype=dtype)
    return torch.from_numpy(flat).view(dtype).view(shape)
