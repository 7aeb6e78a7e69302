"""Many messages at once: what compressors make of each of a batch of vectors, as one array.

Where messages can be laid end to end, the library's own compressor is called once for all of them; where they cannot,
its rule is written for arrays, and the tests hold it to the compressor.
"""

from __future__ import annotations

from functools import singledispatch

import numpy as np
import torch

from gradcode.compression import Compressor, GroupedSign, OneBit, RandomK, TopK
from gradcode.compression.random import generator, stream
from gradcode.planning.one_bit import ranges
from gradcode.protocol import Floats

_COINS = OneBit("fixed", bound=1.0)


@singledispatch
def decoded(compressor: Compressor, vectors: Floats, key: tuple[int, ...]) -> Floats:
    """C(x) of each vector, (..., D) of any number of them.

    Args:
        compressor: C.
        vectors: the x.
        key: whatever is random is a function of it and of the place in ``vectors``.

    Raises:
        TypeError: this compressor is not among those that the experiment is about.
    """
    raise TypeError(f"{compressor!r} must be OneBit, GroupedSign, TopK or RandomK to be batched")


@decoded.register
def _(compressor: OneBit, vectors: Floats, key: tuple[int, ...]) -> Floats:
    # In units of its range a message is a row of coins for numbers in [−1, 1], whosever message it is.
    r = ranges(vectors, compressor.range, compressor.bound)[..., None]
    return np.asarray(r * _through(_COINS, vectors / np.where(r > 0, r, 1.0), key))


@decoded.register
def _(compressor: GroupedSign, vectors: Floats, key: tuple[int, ...]) -> Floats:
    if vectors.shape[-1] % compressor.group:
        raise ValueError(
            f"group={compressor.group} must divide the {vectors.shape[-1]} coordinates of a message: messages are laid "
            f"end to end, and no group may have coordinates of two"
        )
    return _through(compressor, vectors, key)


@decoded.register
def _(compressor: TopK, vectors: Floats, key: tuple[int, ...]) -> Floats:
    magnitudes, length = np.abs(vectors), vectors.shape[-1]
    first = length - compressor.count(length)
    least = np.partition(magnitudes, first, axis=-1)[..., first, None]
    return np.where(magnitudes >= least, vectors.astype(np.float32), 0.0)


@decoded.register
def _(compressor: RandomK, vectors: Floats, key: tuple[int, ...]) -> Floats:
    # Along the first axis, whose trainings never meet, the same coordinates: drawing them is what costs time.
    length = vectors.shape[-1]
    k = compressor.count(length)
    chosen = generator(stream(key)).random(vectors.shape[1:]).argsort(axis=-1) < k
    return np.asarray(vectors * chosen * (length / k), dtype=np.float32).astype(np.float64)


def _through(compressor: Compressor, vectors: Floats, key: tuple[int, ...]) -> Floats:
    """All vectors, end to end, as one message of the library's compressor."""
    flat = torch.from_numpy(np.ascontiguousarray(vectors)).view(-1)
    message = torch.empty(compressor.size(len(flat), flat.itemsize), dtype=torch.uint8)
    used = compressor.compress(flat, message, key)
    found = torch.empty_like(flat)
    compressor.decompress(message[:used], found)
    return np.asarray(found.numpy().reshape(vectors.shape))
