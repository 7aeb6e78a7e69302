"""What the tests of hierarchical codes share: the primitives, patterns of stragglers, and decoding in two steps."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np

from .conftest import without

ANY = float("inf")
BY_HAND = {"variant": "lagrange", "nodes": "integers", "dtype": "float64"}
PRIMITIVES = {
    "auto": {},
    "integers": {"variant": "lagrange", "nodes": "integers"},
    "cosine": {"variant": "lagrange"},
    "unity": {"variant": "lagrange", "nodes": "unity"},
    "random": {"variant": "random", "draws": 2},
    "column": {"variant": "column"},
}


def at_most(count, stragglers):
    return [lost for size in range(stragglers + 1) for lost in combinations(range(count), size)]


def patterns(sizes, s_e, s_w, exactly=False):
    """Every choice of at most s_e edge nodes, which lose all workers, and of at most s_w workers of every other."""
    starts = np.cumsum([0, *sizes])
    for edges in combinations(range(len(sizes)), s_e) if exactly else at_most(len(sizes), s_e):
        ways = [
            [range(size)] if i in edges else (list(combinations(range(size), s_w)) if exactly else at_most(size, s_w))
            for i, size in enumerate(sizes)
        ]
        for lost in product(*ways):
            yield edges, [starts[i] + j for i, own in enumerate(lost) for j in own], lost


def gradients(code, rng, size=3):
    return rng.standard_normal((code.partitions, size))


def by_layers(code, edges, lost, messages):
    """What the master adds up, each edge node having added up its own."""
    starts = np.cumsum([0, *code.workers_per_edge])
    sums = np.zeros((len(code.inner), messages.shape[1]), dtype=messages.dtype)
    for i, inner in enumerate(code.inner):
        if i not in edges:
            weights = inner.decode(without(inner.workers, lost[i])).weights.astype(messages.dtype)
            sums[i] = weights @ messages[starts[i] : starts[i + 1]]
    return code.outer.decode(without(len(code.inner), edges)).weights.astype(messages.dtype) @ sums
