"""Imported by a process that others are forked from, which then have Numba and the kernels, read from disk once."""

import torch

from gradcode.compression import GroupedSign, OneBit

for _compressor in (OneBit("linf"), OneBit("l2"), GroupedSign(64)):
    for _dtype in (torch.float32, torch.float64):
        _vector = torch.zeros(1, dtype=_dtype)
        _message = torch.empty(_compressor.size(1, _vector.element_size()), dtype=torch.uint8)
        _compressor.compress(_vector, _message, (0, 0, 0))
        _compressor.add([_message], [1.0], _vector)
