"""Workers, their states and times, and what the schemes make of them (dynamic_clustering.md 1 and 5)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from gradcode.delays import GilbertElliott, ShiftedExponential, SpeedHistory
from gradcode.delays.law import split
from gradcode.protocol import Floats
from gradcode.schemes.clustered import Regrouping, shifted
from gradcode.schemes.clustered.regrouping import Storage

N, CLUSTERS = 20, 5
SHARE, SLOWDOWN = 0.25, 10.0
SHIFT, RATE = 1.0, 10.0
SEED = 2021

Rows = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Draws:
    """T iterations of all workers.

    Args:
        states: (T, N) who straggles.
        before: (T, N) who straggled in the iteration before.
        seconds: (T, N) for one partition.
    """

    states: Flags
    before: Flags
    seconds: Floats


def chain(memory: float) -> GilbertElliott:
    """Seconds per partition of workers whose states have correlation ``memory`` from iteration to iteration."""
    base = ShiftedExponential(SHIFT, RATE)
    return GilbertElliott(base, SHARE * (1 - memory), (1 - SHARE) * (1 - memory), SLOWDOWN)


def draw(memory: float, iterations: int, rng: np.random.Generator, shifts: Floats | None = None) -> Draws:
    """Draws of the chain; with ``shifts`` (N,) worker k takes at least shifts[k] in place of 1."""
    own, times = split(rng, 2)
    states = chain(memory).states(own, iterations + 1, N)
    shift = SHIFT if shifts is None else shifts
    seconds = (shift + times.exponential(1 / RATE, (iterations, N))) * np.where(states[1:], SLOWDOWN, 1.0)
    return Draws(states[1:], states[:-1], seconds)


def home(iterations: int) -> Rows:
    """(T, N) rows of the code when nobody moves."""
    return np.tile(np.arange(N), (iterations, 1))


def by_flag(flags: Flags, candidates: int, storage: Storage = "cluster") -> Rows:
    """(T, N) rows of the code where ``flags`` (T, N) are believed to straggle."""
    regrouping = Regrouping(shifted(N, CLUSTERS, candidates).tolist(), CLUSTERS, storage)
    return np.array([regrouping.rows(own) for own in flags])


def by_rank(seconds: Floats, candidates: int, weight: float, flags: Flags | None = None) -> Rows:
    """(T, N) rows by the times of all iterations before; with ``flags`` (T, N) those first."""
    regrouping = Regrouping(shifted(N, CLUSTERS, candidates).tolist(), CLUSTERS)
    history, rows = SpeedHistory(N, weight), [np.arange(N)]
    for number, own in enumerate(seconds[:-1], start=1):
        for worker in range(N):
            history.finished(worker, 1.0, own[worker])
        rows.append(regrouping.rows(np.zeros(N) if flags is None else flags[number], 1 / history.speeds))
    return np.array(rows)


def clusters_of(rows: Rows) -> Rows:
    """(T, N) the worker's cluster."""
    return rows % CLUSTERS


def times(seconds: Floats, rows: Rows, load: int) -> Floats:
    """(T,) of iterations that wait for l − r + 1 workers in every cluster."""
    finish = np.empty_like(seconds)
    np.put_along_axis(finish, rows, load * seconds, axis=1)
    by_slot = finish.reshape(len(seconds), N // CLUSTERS, CLUSTERS)
    wait = N // CLUSTERS - load
    return np.asarray(np.partition(by_slot, wait, axis=1)[:, wait].max(axis=1))


def plain(seconds: Floats, load: int) -> Floats:
    """(T,) of iterations that wait for K − r + 1 workers: one code for all."""
    return np.asarray(np.partition(load * seconds, N - load, axis=1)[:, N - load])


def counts(states: Flags, rows: Rows) -> Rows:
    """(T, P) stragglers in each cluster."""
    clusters = clusters_of(rows)
    return np.stack([(states & (clusters == own)).sum(axis=1) for own in range(CLUSTERS)], axis=1)


def moved(rows: Rows) -> float:
    """Workers that change cluster, per iteration."""
    clusters = clusters_of(rows)
    return float((clusters[1:] != clusters[:-1]).sum(axis=1).mean())
