"""Which clusters a worker may join."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gradcode.codes import checks
from gradcode.codes.code import Indices


def shifted(workers: int, clusters: int, candidates: int) -> Indices:
    """(N, n) the clusters that each worker may join, its home first.

    Worker jP + p has home p, and then p + ((i − 1 + j) mod (P − 1)) + 1 for i = 1, …, n − 1, modulo P. So every
    cluster is a candidate of n·N/P workers, each (cluster, slot) of n, and workers that share a home do not share all
    the others. Source: dynamic_clustering.md 3 (RECONSTRUCTED; the paper's own table is not known).
    """
    slot, home = np.divmod(np.arange(workers), clusters)
    table = np.empty((workers, candidates), dtype=np.int64)
    table[:, 0] = home
    for layer in range(1, candidates):
        table[:, layer] = (home + (layer - 1 + slot) % (clusters - 1) + 1) % clusters
    return table


def table_of(candidates: int | Sequence[Sequence[int]] | None, workers: int, clusters: int) -> list[list[int]]:
    """The candidates of each worker: ``candidates`` itself, or so many by :func:`shifted`; None: 3, or all.

    Raises:
        ValueError: too few or too many, or no table of clusters with the home k mod P of each worker k in front.
    """
    if candidates is None:
        candidates = min(3, clusters)
    if isinstance(candidates, int):
        number = checks.integer("candidates", candidates, 1, clusters, f"there are {clusters} clusters")
        return [list(map(int, own)) for own in shifted(workers, clusters, number)]
    table = [list(map(int, own)) for own in candidates]
    if len(table) != workers:
        raise ValueError(
            f"candidates={candidates!r} must be a number, or one list of clusters for each of {workers} workers"
        )
    for worker, own in enumerate(table):
        if len(set(own)) < len(own) or not set(own) <= set(range(clusters)) or own[:1] != [worker % clusters]:
            raise ValueError(
                f"candidates[{worker}]={own} must be different clusters from 0 to {clusters - 1}, the first of them "
                f"the worker's home, {worker % clusters}"
            )
    return table
