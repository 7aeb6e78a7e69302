"""The probability that ranked times keep their limits: P(T_(k) ≤ b_k for all k), and its slopes (spec, 8.1).

RECONSTRUCTED, and in another form than the spec's. With p_k = F(b_k) the question is whether at least k of N uniform
points lie below p_k, for every k. N independent points are a Poisson process of rate N on [0, 1] that happens to have
N points (Moscovich and Nadler 2017), and counts of a Poisson process have independent increments: a step from p_{k−1}
to p_k adds a Poisson number of mean N·(p_k − p_{k−1}), about one on average, so few terms matter. All terms are
nonnegative, nothing cancels. The binomial form needs N³ operations per point, this one about 20·N².
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
from scipy.special import gammaln, xlogy

from gradcode.delays.law import Floats

_TERM = 1e-18  # Poisson terms below are left out of a step
_CHUNK = 1 << 15  # numbers in a piece of work: what stays in a core's cache


def success(p: Floats, least: float = _TERM) -> Floats:
    """P(U_(k) ≤ p_k for all k) of N uniform points, (points,).

    Args:
        p: (N, points) nondecreasing along the first axis, in [0, 1].
        least: Poisson terms below this are left out: the absolute accuracy of a step.
    """
    result = np.empty(p.shape[1])
    for piece in _pieces(p):
        counts, _ = _forward(p[:, piece], least)
        result[piece] = counts[-1] * np.exp(-len(p) * (1 - p[-1, piece])) / _normal(len(p))
    return np.minimum(result, 1.0)


def first_failure(p: Floats) -> Floats:
    """(N, points): the probability that k is the first rank with U_(k) > p_k; the columns add up to 1 − success."""
    workers = len(p)
    left = np.arange(workers, 0, -1.0)[:, None]  # points not yet met when rank k fails
    result = np.empty_like(p)
    for piece in _pieces(p):
        _, lost = _forward(p[:, piece], _TERM)
        result[:, piece] = lost * _poisson(left, workers * (1 - p[:, piece])) / _normal(workers)
    return result


def slopes(p: Floats, least: float = _TERM) -> tuple[Floats, Floats, Floats]:
    """Success (points,), first failures (N, points), and ∂success/∂p_k (N, points).

    Raising p_k by dp gains the cases in which k − 1 points lie below p_k, one in dp, and all goes well after it.
    """
    workers = len(p)
    left = np.arange(workers, 0, -1.0)[:, None]
    good, failures, result = np.empty(p.shape[1]), np.empty_like(p), np.empty_like(p)
    for piece in _pieces(p):
        part = p[:, piece]
        counts, lost = _forward(part, least)
        normal = _normal(workers)
        good[piece] = counts[-1] * np.exp(-workers * (1 - part[-1])) / normal
        failures[:, piece] = lost * _poisson(left, workers * (1 - part)) / normal
        result[:, piece] = workers * lost * _backward(part, least) / normal
    return good, failures, result


def _pieces(p: Floats) -> Iterator[slice]:
    size = max(_CHUNK // len(p), 1)
    for begin in range(0, p.shape[1], size):
        yield slice(begin, min(begin + size, p.shape[1]))


def _normal(workers: int) -> float:
    """P(a Poisson number of mean N is N)."""
    return float(_poisson(workers, workers))


def _poisson(number: npt.ArrayLike, mean: npt.ArrayLike) -> Floats:
    return np.asarray(np.exp(xlogy(number, mean) - mean - gammaln(np.add(number, 1))))


def _terms(mean: Floats, last: int, least: float) -> Iterator[tuple[int, Floats]]:
    """(m, P(m points in the step)), as far as any point needs them."""
    term = np.exp(-mean)
    top = float(mean.max(initial=0.0))
    for m in range(last + 1):
        if m:
            # Beyond that e^−mean is 0, and with it every term that follows from it.
            term = term * (mean / m) if top < 600 else _poisson(m, mean)
            if m > top and float(term.max(initial=0.0)) < least:
                return
        yield m, term


def _all_terms(means: Floats, least: float) -> Floats:
    """(steps, M): P(m points in the step), as far as any step needs them: all at once, for a single p."""
    top = float(means.max(initial=0.0))
    last = min(len(means) + 1, int(top + 12 * top**0.5 + 40))
    terms = _poisson(np.arange(last + 1.0), means[:, None])
    needed = np.flatnonzero((terms >= least).any(axis=0))
    return terms[:, : needed[-1] + 1] if len(needed) else terms[:, :1]


def _forward(p: Floats, least: float) -> tuple[Floats, Floats]:
    """(N + 1, points): P(count at p_N, all ranks in time); (N, points): P(count k − 1 at p_k, ranks before in time)."""
    workers, points = p.shape
    counts = np.zeros((workers + 1, points))
    counts[0] = 1.0
    lost = np.empty((workers, points))
    steps = workers * np.diff(p, axis=0, prepend=0.0)
    if points == 1:
        only = counts[:, 0]
        for k, terms in enumerate(_all_terms(steps[:, 0], least)):
            only[k:] = np.convolve(only[k:], terms[: workers + 1 - k])[: workers + 1 - k]
            lost[k], only[k] = only[k], 0.0
        return counts, lost
    scratch = np.empty_like(counts)
    for k in range(workers):  # from at least k points to at least k + 1
        new = np.zeros_like(counts[k:])
        old = counts[k:]
        for m, term in _terms(steps[k], workers - k, least):
            piece = scratch[: len(old) - m]
            np.multiply(old[: len(old) - m], term, out=piece)
            new[m:] += piece
        lost[k] = new[0]
        counts[k:] = new
    return counts, lost


def _backward(p: Floats, least: float) -> Floats:
    """(N, points): P(all later ranks in time and N points in all | count k at p_k)."""
    workers, points = p.shape
    ahead = np.zeros((workers + 1, points))
    ahead[-1] = np.exp(-workers * (1 - p[-1]))
    result = np.empty((workers, points))
    result[-1] = ahead[-1]
    steps = workers * np.diff(p, axis=0)
    if points == 1:
        only = ahead[::-1, 0]  # from all N down: what is ahead of a count comes before it
        for k, terms in zip(range(workers - 1, 0, -1), _all_terms(steps[:, 0], least)[::-1], strict=True):
            only[workers - k] = 0.0
            only[: workers - k + 1] = np.convolve(only[: workers - k + 1], terms)[: workers - k + 1]
            result[k - 1] = only[workers - k]
        return result
    scratch = np.empty_like(ahead)
    for k in range(workers - 1, 0, -1):  # rank k + 1 is in time from any count of at least k + 1
        old = ahead[k:].copy()
        old[0] = 0.0
        new = np.zeros_like(old)
        for m, term in _terms(steps[k - 1], workers - k, least):
            piece = scratch[: len(old) - m]
            np.multiply(old[m:], term, out=piece)
            new[: len(old) - m] += piece
        ahead[k:] = new
        result[k - 1] = new[0]
    return result
