"""The same from draws: workers that really draw batches or partitions, and a master that really collects them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gradcode.codes.coupon import covering_subsets, draw_subsets
from gradcode.delays import Delays, as_delays
from gradcode.delays.bounds import count, require
from gradcode.delays.law import Floats, Law, Source
from gradcode.planning.coupon.times import Method, received

_SURE = 1e-12  # probability of a draw that "unlimited" workers leave uncovered


class Estimate(NamedTuple):
    """A mean, its standard error, and the share of draws that covered everything, of which the mean is."""

    mean: float
    error: float
    covered: float

    @classmethod
    def of(cls, values: npt.ArrayLike) -> Estimate:
        """Of ``values``, infinite where a draw did not cover.

        Raises:
            ValueError: fewer than two are finite.
        """
        array = np.asarray(values, dtype=float)
        finite = array[np.isfinite(array)]
        require(len(finite) > 1, "draws", len(array), f"cover at least twice, {len(finite)} did: draw more")
        error = finite.std(ddof=1) / np.sqrt(len(finite))
        return cls(float(finite.mean()), float(error), len(finite) / len(array))


def draw_thresholds(
    batches: int,
    workers: int | None,
    draws: int,
    rng: np.random.Generator | int = 0,
    resample_each_iteration: bool = True,
) -> Floats:
    """(draws,) K, the answers until every batch has come, in a random order of the workers; inf: never.

    Args:
        batches: B.
        workers: N; None: as many as it takes.
        draws: how many iterations.
        rng: a generator, or the seed of one.
        resample_each_iteration: the workers draw anew each time, which averages K over their draws. False: once, as
            data that are placed on workers are; a draw that does not cover then never does.
    """
    b, rng = count("batches", batches, 1), np.random.default_rng(rng)
    enough = 1 if b == 1 else int(np.ceil(np.log(_SURE / b) / np.log1p(-1 / b)))
    n = enough if workers is None else count("workers", workers, 1)
    if resample_each_iteration:
        order = rng.integers(b, size=(draws, n))
    else:
        order = rng.permuted(np.tile(rng.integers(b, size=n), (draws, 1)), axis=1)
    return _first_cover(order, b)


def draw_subset_thresholds(
    partitions: int, load: int, draws: int, rng: np.random.Generator | int = 0, workers: int | None = None
) -> Floats:
    """(draws,) K of random subsets: workers, drawing anew each time, until somebody holds each partition; inf: never.

    Args:
        partitions: m.
        load: r.
        draws: how many iterations.
        rng: a generator, or the seed of one.
        workers: N; None: as many as it takes.
    """
    m, r, rng = count("partitions", partitions, 1), count("load", load, 1), np.random.default_rng(rng)
    require(r <= m, "load", r, f"be at most partitions={m}")
    enough = 1 if r == m else int(np.ceil(np.log(_SURE / m) / np.log1p(-r / m)))
    n = enough if workers is None else count("workers", workers, 1)
    everyone, found = np.repeat(np.arange(1, n + 1), r), np.empty(draws)
    for draw in range(draws):
        held = rng.permuted(np.tile(np.arange(m), (n, 1)), axis=1)[:, :r]
        first = np.full(m, np.inf)
        np.minimum.at(first, held.ravel(), everyone)
        found[draw] = first.max()
    return found


def monte_carlo(
    method: Method, law: Law, receive: float = 0.0, draws: int = 20_000, rng: np.random.Generator | int = 0
) -> Estimate:
    """Mean seconds of an iteration whose master receives one vector after the other, in a queue (OURS).

    With ``receive=0`` it is what :meth:`Method.expected_time` computes; else at most that, for a queue works while
    others compute. For methods whose workers send one vector each.

    Args:
        method: whose thresholds are drawn from its probabilities.
        law: of the seconds per partition.
        receive: c, seconds that the master takes for a vector.
        draws: how many iterations.
        rng: a generator, or the seed of one.

    Raises:
        ValueError: workers that send several vectors.
    """
    require(method.messages == 1, "method.messages", method.messages, "be 1 for this queue")
    rng = np.random.default_rng(rng)
    times = received(method.load * law.sample(rng, (draws, method.workers)), receive)
    last = rng.choice(method.workers, size=draws, p=method.probabilities)
    return Estimate.of(times[np.arange(draws), last])


def collecting_times(
    choices: npt.NDArray[np.int64], finish: Floats, batches: int, receive: float = 0.0
) -> tuple[Floats, Floats]:
    """((draws,) seconds until every batch has come, (draws,) how many vectors that were); inf: never.

    Args:
        choices: (draws, N) the batch of each worker.
        finish: (draws, N) seconds at which it ends.
        batches: B.
        receive: seconds that the master takes for a vector.
    """
    order = np.argsort(finish, axis=1, kind="stable")
    thresholds = _first_cover(np.take_along_axis(choices, order, axis=1), batches)
    times = np.pad(received(finish, receive), ((0, 0), (0, 1)), constant_values=np.inf)
    last = np.minimum(thresholds, times.shape[1]).astype(np.intp) - 1
    return times[np.arange(len(times)), last], thresholds


def completion(
    delays: Delays | Source | Sequence[Source],
    loads: Sequence[int] | npt.NDArray[np.int64],
    partitions: int,
    runs: int,
    rng: np.random.Generator | int = 0,
    resample_each_iteration: bool = True,
) -> Floats:
    """(runs,) seconds of an iteration of the generalised scheme; inf: its draw left a partition to nobody.

    As the paper has it: worker i sends its r_i results together when it has computed all. (In
    :func:`gradcode.schemes.coupon` each is sent when it is ready, which is earlier.)

    Args:
        delays: of computing, seconds per partition; one for all workers, or one each.
        loads: (N,) r_i.
        partitions: m.
        runs: how many iterations.
        rng: a generator, or the seed of one.
        resample_each_iteration: the workers draw their partitions anew in each iteration, whether they cover or not;
            False: once, until they cover.

    Raises:
        ValueError: no draw covers, or a load is out of range.
    """
    m, rng = count("partitions", partitions, 1), np.random.default_rng(rng)
    sizes = [count("loads", load) for load in loads]
    require(max(sizes, default=0) <= m, "loads", sizes, f"be at most partitions={m}")
    finish = as_delays(delays if isinstance(delays, Delays | Source) else list(delays)).sample(
        rng, runs, np.array(sizes, dtype=float), len(sizes)
    )
    held = None if resample_each_iteration else covering_subsets(sizes, len(sizes), m, rng=rng)
    times = np.empty(runs)
    for run, own in enumerate(finish):
        first = np.full(m, np.inf)
        for worker, subset in enumerate(held if held is not None else draw_subsets(sizes, m, rng)):
            first[subset] = np.minimum(first[subset], own[worker])
        times[run] = first.max()
    return times


def _first_cover(order: npt.NDArray[np.int64], batches: int) -> Floats:
    """(draws,) how many of each row's first entries have all batches among them; inf: not even all of them."""
    latest = np.zeros(len(order))
    for batch in range(batches):
        here = order == batch
        latest = np.maximum(latest, np.where(here.any(axis=1), here.argmax(axis=1) + 1, np.inf))
    return latest
