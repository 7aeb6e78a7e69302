"""Messages of the m-th part of a gradient, real and packed, on every cluster: exact, and as short as they should be."""

from __future__ import annotations

from itertools import combinations

import pytest
import torch
from torch import nn

import gradcode
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error, straggling
from gradcode import codes, schemes
from gradcode.training.sampling import Sampling

WORKERS, SEED, BATCH = 5, 11, 45


@pytest.mark.parametrize(
    ("construction", "stragglers", "reduction", "dtype"),
    [
        ("fourier_centred", 1, 2, torch.float32),
        ("polynomial", 1, 3, torch.float64),
        ("fourier_centred", 1, 3, torch.float64),
    ],
)
def test_short_messages_give_the_plain_gradient(
    kind: str, construction: str, stragglers: int, reduction: int, dtype: torch.dtype
) -> None:
    name = str(dtype).removeprefix("torch.")
    code = codes.communication_efficient(
        WORKERS, stragglers + reduction, stragglers, reduction, 9, construction=construction, dtype=name
    )
    sets = [(), *combinations(range(WORKERS), stragglers)]
    model, reference, dataset = cnn(dtype), cnn(dtype), images(dtype=dtype)
    length = sum(own.numel() for own in model.parameters())
    scheme, sampling = schemes.coded(code), Sampling(len(dataset), code.partitions, BATCH, SEED)
    cluster = CLUSTERS[kind](WORKERS, delays=straggling(sets, WORKERS))
    reports: list[gradcode.Report] = []
    with gradcode.Session(
        model, nn.CrossEntropyLoss(), dataset, BATCH, scheme, cluster, SEED, listeners=[reports.append]
    ) as session:
        steps = (step for _ in iter(int, 1) for step in session.epoch())
        for number, lost in enumerate(sets):
            next(steps).backward()
            wanted = plain_gradients(reference, dataset, sampling, number)
            assert relative_error(decoded(model), wanted) <= reports[-1].decode_error, lost
            assert reports[-1].exact and reports[-1].decode_error < (1e-5 if dtype == torch.float32 else 1e-10)
    packed = construction == "fourier_centred"
    width = -(-length // reduction)
    width += width % 2 if packed else 0
    assert scheme.layout.packed == packed and scheme.layout.width(length) == width
    answers = WORKERS - stragglers
    # At least the answers that it takes; late ones may have been sent, too.
    assert answers * width * dtype.itemsize <= reports[-1].bytes_up <= WORKERS * (width + 16) * dtype.itemsize


def test_rows_of_fewer_bits_are_within_the_reported_error() -> None:
    """bfloat16 replies to float32: each message is rounded once, and the bound says what decoding makes of it."""
    code = codes.communication_efficient(WORKERS, 3, 1, 2, construction="fourier_centred")
    model, dataset = cnn(), images()
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(WORKERS)
    with gradcode.Session(
        model,
        nn.CrossEntropyLoss(),
        dataset,
        BATCH,
        schemes.coded(code),
        cluster,
        SEED,
        reply_dtype=torch.bfloat16,
        listeners=[reports.append],
    ) as session:
        next(session.epoch()).backward()
    parts = plain_gradients(cnn(), dataset, Sampling(len(dataset), WORKERS, BATCH, SEED), 0)
    error = float((decoded(model) - sum(parts)).norm()) / sum(float(part.norm()) for part in parts)
    assert 1e-5 < error <= reports[0].decode_error < 0.1
