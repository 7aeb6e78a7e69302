"""Lazy aggregation: gradients that have hardly changed are not sent again, and the master uses the old ones.

=========  ========================  =====================  ==========================================================
scheme     voters                    side of the rule       what is sent
=========  ========================  =====================  ==========================================================
lag        workers                   worker or server       the gradient, if it has changed
glag       groups of r workers       worker or server       the group's gradient, by the first of it
lagc       partitions, or coded rows server                 coded changes of those that are selected, or coded rows
=========  ========================  =====================  ==========================================================

Sources: Zhang and Simeone 2021 (LAGC and G-LAG: the abstract was read, the rules are RECONSTRUCTED), Chen, Giannakis,
Sun, Yin 2018 (LAG: abstract and released code), Zhu, Zhang, Simeone, Wang 2022 (mini-batches: abstract and released
script); see lagc.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from gradcode import codes
from gradcode.codes import checks
from gradcode.schemes.grouping import groups_of
from gradcode.schemes.lazy.coded_rows import CodedRows
from gradcode.schemes.lazy.groups import Groups, Side
from gradcode.schemes.lazy.innovations import Innovations
from gradcode.schemes.lazy.rule import Rule, safe_step
from gradcode.schemes.lazy.voters import Smoothness
from gradcode.schemes.registry import scheme

__all__ = ["CodedRows", "Groups", "Innovations", "Rule", "Smoothness", "glag", "lag", "lagc", "safe_step"]

SIDES: tuple[Side, ...] = ("worker", "server")
OLDEST = 20
"""Iterations after which a voter sends anyway (lagc.md 8): with mini-batches, estimated smoothness or a deadline."""

# ξ where it is not given: the released LAG code's (lagc.md 4), but 0.1 for groups, which are few; with mini-batches
# what a small network was seen to stand (lagc.md 8, OURS there).
_XI = {"lag": {"worker": 0.1, "server": 1.0}, "glag": {"worker": 0.1, "server": 0.1}}
_XI_MINIBATCHES = 0.2

Xi = float | Sequence[float] | None


@scheme(
    "lag",
    summary="lazy aggregation: a worker sends its gradient only if it has changed",
    trade_off="far fewer messages, on the server's side less work too; gradients are partly old, and all that are "
    "asked are waited for",
)
def lag(
    workers: int,
    rule: Side = "worker",
    *,
    xi: Xi = None,
    step_size: float | None = None,
    smoothness: float | Sequence[float] | None = None,
    minibatches: bool = True,
    oldest: int | None = None,
    partitions: int | None = None,
    deadline: float | None = None,
    notice: float = 0.0,
) -> Groups:
    """LAG-WK (``rule="worker"``) or LAG-PS (``rule="server"``); see :class:`Groups`.

    Args:
        workers: N.
        rule: "worker": all compute, and skip if their gradient has hardly changed. "server": the master bounds the
            change by L_v·‖θ̂_v − θ‖, and who is not selected is asked nothing.
        xi: ξ of the lazy rule, a number for each of the last 10 steps or a sequence of one each; the larger, the less
            is sent. None: 0.1 on the worker's side, 1 on the server's; 0.2 on either with mini-batches.
        step_size: α of the rule; None: the learning rates of the session's optimizer.
        smoothness: L_v, one number or one per worker (:meth:`gradcode.training.LeastSquares.smoothness_by` computes
            them); None: estimated while training, on the server's side.
        minibatches: whether iterations have samples of their own; False for objectives such as
            :class:`gradcode.training.LeastSquares`, which then cost half as much.
        oldest: iterations after which a worker sends anyway; None: 20 with mini-batches, an estimated smoothness or a
            deadline, else never.
        partitions: K ≥ N; None: N.
        deadline: seconds after which those that have not answered count as unchanged; None: none.
        notice: how long a skip takes, as a share of a message's time; for ``duration`` alone.

    Raises:
        ValueError: an argument is out of its range.

    >>> lag(workers=8)
    lag(workers=8, rule='worker', xi=0.2, oldest=20)
    """
    return _groups(
        workers,
        1,
        rule,
        _XI["lag"],
        xi=xi,
        step_size=step_size,
        smoothness=smoothness,
        minibatches=minibatches,
        oldest=oldest,
        partitions=partitions,
        deadline=deadline,
        notice=notice,
    )


@scheme(
    "glag",
    summary="lazy aggregation by groups: the first of a group sends the group's gradient, if it has changed",
    trade_off="few messages and no waiting for stragglers; each worker computes redundancy times as much, and "
    "gradients are partly old",
)
def glag(
    workers: int,
    redundancy: int,
    rule: Side = "worker",
    *,
    xi: Xi = None,
    step_size: float | None = None,
    smoothness: float | Sequence[float] | None = None,
    minibatches: bool = True,
    oldest: int | None = None,
    partitions: int | None = None,
    deadline: float | None = None,
    notice: float = 0.0,
) -> Groups:
    """G-LAG-WK or G-LAG-PS; see :class:`Groups`.

    Args:
        workers: N.
        redundancy: r, workers per group, a divisor of N.
        smoothness: L_g of each group's own objective, one number or (N/r,).
        rule, xi, step_size, minibatches, oldest, partitions, deadline, notice: as those of :func:`lag`, but without
            mini-batches ξ is 0.1 on either side, for with few groups more was seen not to converge (lagc.md 9.4).

    Raises:
        ValueError: an argument is out of its range.

    >>> glag(workers=8, redundancy=2)
    glag(workers=8, redundancy=2, rule='worker', xi=0.2, oldest=20)
    """
    return _groups(
        workers,
        redundancy,
        rule,
        _XI["glag"],
        xi=xi,
        step_size=step_size,
        smoothness=smoothness,
        minibatches=minibatches,
        oldest=oldest,
        partitions=partitions,
        deadline=deadline,
        notice=notice,
    )


@scheme(
    "lagc",
    summary="lazy aggregation with gradient coding: coded sums of the partitions whose gradients have changed",
    trade_off="little work and few messages while little changes, and stragglers are not waited for; gradients are "
    "partly old, and workers keep those of their partitions",
)
def lagc(
    workers: int,
    redundancy: int,
    mode: Literal["coded", "switch", "wait_F"] = "coded",
    *,
    xi: Xi = None,
    step_size: float | None = None,
    smoothness: float | Sequence[float] | None = None,
    minibatches: bool = True,
    oldest: int | None = None,
    partitions: int | None = None,
    deadline: float | None = None,
    variant: Literal["column", "random"] = "column",
    rng: checks.Seed = 0,
    dtype: str = "float32",
) -> Innovations | CodedRows:
    """LAGC with the cyclic repetition code; see :class:`Innovations`, and :class:`CodedRows` for ``mode="wait_F"``.

    Args:
        workers: N.
        redundancy: r ≤ N, partitions on each worker; r − 1 stragglers are tolerated.
        mode: "coded", "switch" or "wait_F".
        smoothness: L_j of each partition's own objective, one number or (K,).
        xi, step_size, minibatches, oldest, deadline: as those of :func:`lag`; ξ is 1 unless given, 0.2 with
            mini-batches.
        partitions: K ≥ N; None: N.
        variant, rng, dtype: of :func:`gradcode.codes.cyclic_repetition`. The default can often be decoded from fewer
            messages than the paper's "random".

    Raises:
        ValueError: an argument is out of its range.

    >>> lagc(workers=6, redundancy=2)
    lagc(cyclic_repetition(workers=6, stragglers=1), xi=0.2, oldest=20)
    """
    checks.integer("redundancy", redundancy, 1, checks.integer("workers", workers, 1))
    checks.choice("mode", mode, ("coded", "switch", "wait_F"))
    if variant == "column":
        code = codes.cyclic_repetition(workers, redundancy - 1, partitions, dtype=dtype)
    else:
        code = codes.cyclic_repetition(workers, redundancy - 1, partitions, variant=variant, rng=rng, dtype=dtype)
    voters = workers if mode == "wait_F" else code.partitions
    if xi is None:
        xi = _XI_MINIBATCHES if minibatches else _XI["lag"]["server"]
    rule = Rule(voters, xi, step_size)
    uncertain = minibatches or deadline is not None or smoothness is None
    oldest = OLDEST if oldest is None and uncertain else oldest
    if mode == "wait_F":
        constants = Smoothness(code.partitions, smoothness).values if smoothness is not None else None
        return CodedRows(code, rule, constants, minibatches=minibatches, oldest=oldest, deadline=deadline)
    constant = Smoothness(code.partitions, smoothness)
    return Innovations(code, rule, constant, mode, minibatches=minibatches, oldest=oldest, deadline=deadline)


def _groups(
    workers: int,
    redundancy: int,
    side: Side,
    usual_xi: dict[str, float],
    *,
    xi: Xi,
    step_size: float | None,
    smoothness: float | Sequence[float] | None,
    minibatches: bool,
    oldest: int | None,
    partitions: int | None,
    deadline: float | None,
    notice: float,
) -> Groups:
    checks.choice("rule", side, SIDES)
    groups = groups_of(workers, redundancy)
    if smoothness is not None and side == "worker":
        raise ValueError("smoothness goes with rule='server', where the master bounds changes by it; leave it out")
    if xi is None:
        xi = _XI_MINIBATCHES if minibatches else usual_xi[side]
    uncertain = minibatches or deadline is not None or (side == "server" and smoothness is None)
    return Groups(
        workers,
        redundancy,
        Rule(groups, xi, step_size),
        side,
        Smoothness(groups, smoothness),
        minibatches=minibatches,
        oldest=OLDEST if oldest is None and uncertain else oldest,
        partitions=partitions,
        deadline=deadline,
        notice=notice,
    )
