"""Clustered gradient coding whose clusters are formed anew in every iteration, from who was slow in the last one.

Source: Buyukates, Ozfatura, Ulukus and Gündüz 2021 (arXiv 2103.01206), of which the abstract and the opening lines
were read; model, algorithm and parameters are RECONSTRUCTED (dynamic_clustering.md). GC-SC there is ``candidates=1``,
GC-DC more. Mapping of letters: their K workers and mini-batches are our N and K, their load r is s + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gradcode.codes import ClusteredCode
from gradcode.schemes.clustered.candidates import shifted as shifted
from gradcode.schemes.clustered.regrouping import Regrouping as Regrouping
from gradcode.schemes.clustered.scheme import Clustered as Clustered
from gradcode.schemes.registry import scheme


@scheme(
    "clustered",
    summary="a code in each cluster of workers; who was slow in the last iteration is spread over the clusters",
    trade_off="as much work as coded with s, and up to s stragglers in each cluster; workers hold n times the data",
)
def clustered(
    code: ClusteredCode,
    candidates: int | Sequence[Sequence[int]] | None = None,
    deadline: float | None = None,
    *,
    rule: Literal["flag", "rank", "flag+rank"] = "flag",
    storage: Literal["cluster", "slot"] = "cluster",
    slow: float = 2.0,
    weight: float = 0.3,
) -> Clustered:
    """Dynamic clustering of the workers; see :class:`Clustered` for the arguments.

    Raises:
        ValueError: an argument is out of its range.
    """
    return Clustered(code, candidates, deadline, rule=rule, storage=storage, slow=slow, weight=weight)
