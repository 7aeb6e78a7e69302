"""Two-stage gradient coding: work without redundancy first, then a code over what late workers leave open.

Source: Wang et al. 2023 (ICDCS, arXiv 2205.07939), of which only abstracts were readable; model, rules and defaults are
RECONSTRUCTED (two_stage.md). Mapping of letters: their M workers are our N; M₁ is ``active``, T₁ ``wait``, c
``completions``, T_max ``deadline``, β ``weight``.
"""

from __future__ import annotations

from typing import Literal

from gradcode.codes import checks
from gradcode.delays import ShiftedExponential
from gradcode.schemes.registry import scheme
from gradcode.schemes.two_stage.course import Course as Course
from gradcode.schemes.two_stage.cover import Cover as Cover
from gradcode.schemes.two_stage.cover import Rules as Rules
from gradcode.schemes.two_stage.plan import Plan as Plan
from gradcode.schemes.two_stage.plan import Waiting as Waiting
from gradcode.schemes.two_stage.search import search as search
from gradcode.schemes.two_stage.stages import TwoStage as TwoStage


@scheme(
    "two_stage",
    summary="partitions without redundancy first; what late workers leave open is coded on others, and theirs counts "
    "when it comes",
    trade_off="hardly more work than uncoded, and exact for any s stragglers; a straggler costs a second round, and "
    "all workers must be able to read all data",
)
def two_stage(
    workers: int,
    stragglers: int,
    partitions: int | None = None,
    active: int | None = None,
    deadline: float | None = None,
    *,
    rule: Literal["fixed", "shift", "quantile", "search"] = "quantile",
    wait: float | None = None,
    shift: float | None = None,
    rate: float | None = None,
    share: float = 0.1,
    slowdown: float = 10.0,
    quantile: float = 0.9,
    completions: int = 0,
    pool: Literal["fresh", "all"] = "fresh",
    mode: Literal["any_s", "budget", "fixed"] = "any_s",
    coefficients: Literal["harmonic", "random", "repetition"] = "harmonic",
    weight: float | None = 0.3,
    seed: int = 0,
    granularity: Literal["worker", "partition"] = "worker",
    notice: float = 0.0,
    replication: int = 1,
) -> TwoStage:
    """Two-stage gradient coding; see :class:`TwoStage`.

    Args:
        workers: N.
        stragglers: s < N.
        partitions: K; None: 4 for each worker.
        active: M₁, workers that begin; None: N − s.
        deadline: T_max, seconds; None: none.
        rule: how long stage 1 is waited for: "fixed": ``wait`` seconds; "shift": so that a worker that does not
            straggle misses it with probability e⁻³, from ``shift`` (seconds per partition, at least) and ``rate`` (of
            what comes on top, per second); "search": as long as, and where ``active`` is None with as many workers as,
            is quickest in simulated iterations in which a ``share`` of the workers is ``slowdown`` times as slow
            (:func:`.search.search`); "quantile": from the ``quantile`` of the last 50 times per partition. The
            spec's default is "shift"; "quantile" is ours, for it needs no law.
        completions: c, reports that begin stage 2 before that; 0: none do.
        pool: who serves in stage 2: "fresh": those that stood by; "all": also those that have finished.
        mode: how many of the pool may be lost: "any_s": s − d₁, exact for any s stragglers; "budget": s less those that
            are late, the least work; "fixed": s.
        coefficients: of stage 2: "random": of a Gaussian matrix, loads by speed; "harmonic": of one that amplifies
            rounding less (OURS); "repetition": groups with equal sums where the pool can be cut into
            them. See :func:`gradcode.codes.second_stage.second_stage`.
        weight: of the newest speed in a worker's estimate; None: all are taken to be equally fast.
        seed: of the coefficients.
        granularity: what of a late worker's part is missing: "worker": all; "partition": what it has not begun, for
            workers report each partition, and what they have reported counts. See the class for what that asks of them.
        notice: see the class.
        replication: d₁, workers of stage 1 that have the same partitions, of which the first to report is enough.
        shift, rate, share, slowdown, quantile: see ``rule``.

    Raises:
        ValueError: an argument is out of its range.

    >>> two_stage(workers=10, stragglers=2, rule="fixed", wait=6.5)
    two_stage(workers=10, partitions=40, stragglers=2, active=8, rule='fixed', wait=6.5, pool='fresh', mode='any_s')
    """
    checks.integer("workers", workers, 1)
    checks.integer("stragglers", stragglers, 0, workers - 1, f"one of workers={workers} must answer")
    total = 4 * workers if partitions is None else checks.integer("partitions", partitions, 1)
    rules = Rules(stragglers, pool, mode, coefficients, checks.integer("seed", seed, 0), replication)
    if rule == "search":
        if shift is None or rate is None or wait is not None:
            raise ValueError(
                f'rule="search" needs shift={shift!r} and rate={rate!r}, those of the seconds per partition of a '
                f"worker that does not straggle, and finds wait={wait!r} itself"
            )
        active, found = search(
            workers, total, rules, ShiftedExponential(shift, rate), share, slowdown, active, granularity
        )
        waiting = Waiting("fixed", found)
    else:
        waiting = Waiting(rule, wait, shift, rate, quantile)
    first = workers - stragglers if active is None else active
    return TwoStage(workers, total, first, waiting, completions, rules, deadline, weight, granularity, notice)
