"""What the blocks are compared with: other schemes on the same workers (spec, section 10)."""

from __future__ import annotations

from typing import Literal, NamedTuple, get_args

import numpy as np

from gradcode.delays.bounds import count, number, positive, require
from gradcode.delays.law import Floats, Law
from gradcode.planning.block_coordinate.expected import expected_maximum, ranks
from gradcode.planning.block_coordinate.model import scale
from gradcode.planning.block_coordinate.race import success

Baseline = Literal["uncoded", "single", "partial", "layered", "uniform"]
BASELINES: tuple[Baseline, ...] = get_args(Baseline)
PerLayer = Literal["equal", "quorum"]


class Compared(NamedTuple):
    """A baseline's E[τ] in seconds or P(τ ≤ t), the level s it does best with (None: it has none) and its blocks.

    ``sizes`` (N,) is None for ``"partial"``, which has no blocks.
    """

    value: float
    level: int | None
    sizes: Floats | None


def baseline_time(
    name: Baseline,
    law: Law,
    workers: int,
    coordinates: float,
    samples: float,
    cycles: float,
    slowdown: float = 6.0,
    layers: int | None = None,
) -> Compared:
    """E[τ] of the named scheme, exact, in seconds.

    | name | what it does |
    |---|---|
    | ``uncoded`` | waits for everybody: κ·L·E[T_(N)] |
    | ``single`` | one gradient code for all coordinates, with the best s: κ·L·(s+1)·E[T_(N−s)] |
    | ``partial`` | the partial-straggler code of Tandon et al. (2017) for the slowdown α, with the best s: \
κ·L·(s+1)/(s+α)·E[max(α·T_(N−s), T_(N))] |
    | ``layered`` | the layers of Ferdinand and Draper (2018), see :func:`layered_sizes` |
    | ``uniform`` | blocks of equal sizes |

    Args:
        name: one of these.
        law: of a worker's seconds per cycle.
        workers: N.
        coordinates: L.
        samples: M.
        cycles: b.
        slowdown: α ≥ 1, for ``partial``; the authors take 6.
        layers: r, for ``layered``; None: L.

    Raises:
        ValueError: an unknown name or a bad argument, and which.
    """
    return min(
        (
            Compared(scale(samples, cycles, workers) * expected_maximum(work, law), level, sizes)
            for level, work, sizes in _candidates(name, workers, coordinates, slowdown, layers, least=1)
        ),
        key=lambda compared: compared.value,
    )


def baseline_probability(
    name: Baseline,
    law: Law,
    workers: int,
    coordinates: float,
    threshold: float,
    samples: float,
    cycles: float,
    slowdown: float = 6.0,
    layers: int | None = None,
) -> Compared:
    """P(τ ≤ ``threshold``) of the named scheme, exact; for names and arguments see :func:`baseline_time`.

    ``layered`` may here have layers that tolerate nobody, as in the authors' scripts for this part.
    """
    positive("threshold", threshold)
    limit = np.array([threshold / scale(samples, cycles, workers)])
    return max(
        (
            Compared(float(success(ranks(work, law, limit), 1e-300)[0]), level, sizes)
            for level, work, sizes in _candidates(name, workers, coordinates, slowdown, layers, least=0)
        ),
        key=lambda compared: compared.value,
    )


def layered_sizes(
    workers: int, coordinates: float, layers: int | None = None, least: int = 1, per_layer: PerLayer = "equal"
) -> Floats:
    """(N,) the blocks of the layered scheme with r layers (spec, section 10, 4).

    It maximises u subject to u ≤ (s_j+1)/j for j = 1..r, with s_j not falling, Σs_j = r·N − L, least ≤ s_j ≤ N−1. For
    r = L all s_j are N−1. For r < L the programme has many optima, and results depend on which is taken; here (OURS,
    after the spec's 16.4) s_j starts from max(u·j − 1, least), and the last layers are raised to N−1 until the sum is
    met; then each s_j is rounded.

    Args:
        workers: N.
        coordinates: L.
        layers: r ≤ L; None: L, which must then be whole.
        least: the smallest s_j: 1 in the authors' scripts for the runtime, 0 in those for the probability.
        per_layer: the coordinates of a layer: ``"equal"``, L/r each, or ``"quorum"``, proportional to N − s_j. Both
            occur in the authors' scripts.

    Raises:
        ValueError: a bad argument; r layers of at least ``least`` exceed the sum.
    """
    count("workers", workers, 1)
    positive("coordinates", coordinates)
    r = count("layers", round(coordinates) if layers is None else layers, 1)
    require(r <= coordinates, "layers", r, f"be <= coordinates={coordinates}")
    require(0 <= count("least", least) < workers or workers == 1, "least", least, f"lie in 0..{workers - 1}")
    if per_layer not in ("equal", "quorum"):
        raise ValueError(f"per_layer={per_layer!r} must be 'equal' or 'quorum'")
    total, top = r * workers - coordinates, workers - 1
    low = min(least, top)
    if total < low * r:
        raise ValueError(f"layers={r} must be at least {coordinates / (workers - low):.6g}: L/(N - least)")
    j = np.arange(1, r + 1)

    def smallest(u: float) -> Floats:
        return np.clip(u * j - 1, low, top)

    u = workers / r
    if smallest(u).sum() > total:
        below, above = 0.0, u
        for _ in range(100):
            u = (below + above) / 2
            below, above = (below, u) if smallest(u).sum() > total else (u, above)
        u = below
    s = smallest(u)
    room = np.cumsum((top - s)[::-1])[::-1]  # to raise a layer and all after it
    spare = total - s.sum()
    raised = room <= spare
    spare -= float(room[raised].max(initial=0.0))
    s[raised] = top
    if not raised.all():
        s[np.flatnonzero(~raised)[-1]] += spare
    levels = np.clip(np.floor(s + 0.5), 0, top).astype(np.intp)
    weights = np.ones(r) if per_layer == "equal" else (workers - levels).astype(float)
    return np.asarray(np.bincount(levels, weights, minlength=workers) * (coordinates / weights.sum()))


def _candidates(
    name: str, workers: int, coordinates: float, slowdown: float, layers: int | None, least: int
) -> list[tuple[int | None, Floats, Floats | None]]:
    """(s, S, x) of each choice that the scheme leaves."""
    count("workers", workers, 1)
    positive("coordinates", coordinates)
    require(number("slowdown", slowdown) >= 1, "slowdown", slowdown, "be >= 1")
    factors = np.arange(1, workers + 1)
    if name == "partial":
        if workers == 1:
            raise ValueError("workers=1 must be >= 2 for 'partial', which tolerates 1 to N-1 stragglers")
        # All must be done with the uncoded part, which is S = c for level 0; all but s with the rest as well.
        return [
            (s, coordinates * (s + 1) / (s + slowdown) * np.where(np.arange(workers) < s, 1.0, slowdown), None)
            for s in range(1, workers)
        ]
    if name == "uncoded":
        chosen: list[tuple[int | None, Floats]] = [(0, np.eye(workers)[0] * coordinates)]
    elif name == "single":
        chosen = [(s, np.eye(workers)[s] * coordinates) for s in range(workers)]
    elif name == "layered":
        chosen = [(None, layered_sizes(workers, coordinates, layers, min(least, workers - 1)))]
    elif name == "uniform":
        chosen = [(None, np.full(workers, coordinates / workers))]
    else:
        raise ValueError(f"name={name!r} must be one of {', '.join(map(repr, BASELINES))}")
    return [(level, np.cumsum(factors * sizes), sizes) for level, sizes in chosen]
