"""The noise of one-bit messages: right on average, as large as formula (5) says, and the ball it leaves around θ*."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gradcode.compression import OneBit, Plain
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.one_bit.messages import decoded
from gradcode.experiments.one_bit.methods import REPLICATION, STRAGGLING, B
from gradcode.experiments.one_bit.simulation import Problem, answering, train, weights
from gradcode.experiments.registry import Request
from gradcode.planning.one_bit import Noise, Range, second_moment
from gradcode.protocol import Floats

MOMENTS: dict[Range | None, tuple[float, float]] = {
    None: (0.0004, 0.998),
    "l2": (0.0037, 1.000),
    "linf": (0.0020, 1.000),
    "fixed": (0.0069, 1.001),
}
"""Range, None: messages as they are -> expected relative error of the mean of ĝ, and its variance over formula (5)."""
EXPECTED_DRAWS = 200_000

BALL: dict[Range, tuple[float, float]] = {"l2": (0.18, 0.24), "linf": (0.17, 0.22)}
"""Range -> the expected E‖θ − θ*‖² as a share of the bound, over the steps."""
STEPS = (0.05, 0.0167, 0.005)
"""γ·L."""
COPIES = 8
"""Trainings of the same problem and step, with coins of their own."""


@dataclass(frozen=True)
class Draws:
    """Of ĝ: the squared relative error of their mean, their E‖ĝ − ∇F‖² with its standard error.

    ``uncertainty`` is the standard deviation of that squared error over its expectation, for normal means.
    """

    squared: float
    variance: float
    error: float
    uncertainty: float


def unbiasedness(request: Request, found: Comparisons) -> None:
    """N = M = 20, D = 12, p = 0.2, d = 3: ĝ at θ = 0, 200 000 times.

    The expected number's bound of the fixed range is not known. Here it is the largest coordinate of all messages, so
    that none is clipped; the relative error is shown, and compared with its own standard error only.
    """
    draws, seeds = (20_000 if request.quick else EXPECTED_DRAWS), range(100)
    lines = []
    for kind, (error, ratio) in MOMENTS.items():
        name = kind or "no quantiser"
        request.tell(f"unbiasedness: {name}, {draws} draws")
        # How large the standard error is against the gradient depends on the problem: that of many.
        others = [_moments(seed, kind) for seed in seeds]
        h, slope, formula = _messages(0, kind)
        own = _draw(h, slope, kind, draws)
        share = own.squared / (formula / draws / float(slope @ slope))
        of_mean = f"{name}: squared error of the mean over its expectation"
        found.add(of_mean, 1.0, share, 4 * own.uncertainty, "", "4 standard deviations")
        both = own.error / formula * np.hypot(1.0, (draws / EXPECTED_DRAWS) ** 0.5)
        what = f"{name}: variance over formula (5)"
        found.add(what, ratio, own.variance / formula, 4 * both, "", "4 standard errors of both")
        relative = np.log10(np.sqrt(np.array(others) / EXPECTED_DRAWS))
        if kind != "fixed":
            uncertain = own.uncertainty / 2 / np.log(10)  # of the logarithm of the error itself
            typical = f"{name}: relative error of the mean of 200 000, {10 ** relative.mean():.2g}, expected {error:g}"
            tolerance = 4 * float(np.hypot(relative.std(ddof=1), uncertain))
            why = "4 standard deviations, of problems and of the mean"
            found.add(typical, 0.0, float(relative.mean() - np.log10(error)), tolerance, "powers of 10", why)
        lines.append(
            [
                name,
                f"{error:g}",
                f"{np.sqrt(own.squared):.2g}",
                f"{np.sqrt(formula / draws) / np.linalg.norm(slope):.2g}",
                f"{10 ** relative.mean():.2g}",
                f"{ratio:.3f}",
                f"{own.variance / formula:.4f} ± {own.error / formula:.4f}",
            ]
        )
    header = [
        "range",
        "relative error, expected",
        "found",
        "its standard error",
        "that of 200 000, typical of problems",
    ]
    write_table(request.output / "unbiasedness", [*header, "variance over (5), expected", "found"], lines)


def ball(request: Request, found: Comparisons) -> None:
    """Setting B, d = 5: the stationary E‖θ − θ*‖² against γV/µ, V averaged along the path."""
    steps = STEPS[:2] if request.quick else STEPS
    number, iterations = (3, 2_000) if request.quick else (8, 12_000)
    lines = []
    for kind, (lowest, highest) in BALL.items():
        squares, shares = [], []
        for seed in range(number):
            request.tell(f"noise ball: {kind}, problem {seed + 1} of {number}")
            own, bounds = _stationary(kind, steps, iterations, seed)
            squares.append(own)
            shares.append(own / bounds)
        largest = float(np.max(shares))
        found.add(f"{kind}: largest share of the bound", 0.0, largest, 1.0, "", "the bound itself")
        middle, half = (lowest + highest) / 2, (highest - lowest) / 2
        for step, of_problems in zip(steps, np.transpose(shares), strict=True):
            tolerance = half + 4 * of_problems.std(ddof=1) * np.sqrt(1 + 1 / number)
            why = f"{lowest:g} to {highest:g}, and 4 standard deviations of a problem"
            found.add(f"{kind}, γL = {step:g}: share of the bound", middle, of_problems.mean(), tolerance, "", why)
        means = np.mean(squares, axis=0)
        for (large, before), (small, after) in pairwise(zip(steps, means, strict=True)):
            wanted = large / small
            tolerance = wanted * (highest / lowest - 1)
            why = "the shares expected for these steps differ by so much"
            found.add(f"{kind}: ball at γL = {large:g} over {small:g}", wanted, before / after, tolerance, "", why)
        for step, square, of_problems in zip(steps, means, np.transpose(shares), strict=True):
            spread = f"{of_problems.mean():.3f} ({of_problems.min():.3f} to {of_problems.max():.3f})"
            lines.append([kind, f"{step:g}", f"{square:.3g}", f"{lowest:g} to {highest:g}", spread])
    header = ["range", "γL", "mean ‖θ − θ*‖²", "share of the bound, expected", "found (of problems)"]
    write_table(request.output / "ball", header, lines)


def _messages(seed: int, kind: Range | None) -> tuple[Floats, Floats, float]:
    """h (20, 12) and the gradient at θ = 0 of a drawn problem, and E‖ĝ − ∇F‖² by formula (5)."""
    problem = Problem.drawn(20, 12, seed)
    gradients = problem.gradients(np.zeros(12))
    h = weights(20, 20, 3, STRAGGLING, seed) @ gradients
    bound = float(np.abs(h).max()) if kind == "fixed" else None
    return h, gradients.sum(axis=0), second_moment(h, STRAGGLING, kind, bound)


def _moments(seed: int, kind: Range | None) -> float:
    """E‖ĝ − ∇F‖² / ‖∇F‖² of a drawn problem."""
    _, slope, formula = _messages(seed, kind)
    return formula / float(slope @ slope)


def _draw(h: Floats, slope: Floats, kind: Range | None, draws: int) -> Draws:
    compressor = None if kind is None else OneBit(kind, float(np.abs(h).max()) if kind == "fixed" else None)
    pieces, together = [], 5_000
    for piece in range(draws // together):
        answers = answering(together, len(h), STRAGGLING, piece)
        many = np.broadcast_to(h, (together, *h.shape))
        sent = many if compressor is None else decoded(compressor, many, (0, piece))
        pieces.append(np.einsum("tn,tnd->td", answers, sent))
    away = np.concatenate(pieces) - slope
    squares = (away**2).sum(axis=1)
    covariance = np.cov(away.T)
    return Draws(
        float((away.mean(axis=0) ** 2).sum() / (slope @ slope)),
        float(squares.mean()),
        float(squares.std(ddof=1) / np.sqrt(draws)),
        float(np.sqrt(2 * (covariance**2).sum()) / np.trace(covariance)),
    )


def _stationary(kind: Range, steps: tuple[float, ...], iterations: int, seed: int) -> tuple[Floats, Floats]:
    """Mean ‖θ − θ*‖² and mean bound γV/µ of each step, over the second half of trainings that begin at θ*."""
    problem = Problem.drawn(B.workers, B.coordinates, seed)
    optimum, coefficients = problem.optimum, weights(B.workers, B.workers, REPLICATION, STRAGGLING, seed)
    rates = np.repeat(steps, COPIES) / problem.smoothness
    away, noise = [], []

    def look(t: int, theta: Floats) -> None:
        if t >= iterations / 2:
            away.append(((theta - optimum) ** 2).sum(axis=1))
        if t >= iterations / 2 and t % 100 == 0:
            h = coefficients @ problem.gradients(theta[::COPIES])
            noise.append([second_moment(own, STRAGGLING, kind) for own in h])

    answers = answering(iterations, B.workers, STRAGGLING, seed)
    grid = np.broadcast_to(rates, (iterations, len(rates)))
    train(problem, coefficients, Plain(OneBit(kind)), grid, answers, seed, start=optimum, look=look)
    squares = np.mean(away, axis=0).reshape(len(steps), COPIES).mean(axis=1)
    bounds = [
        Noise(float(constant), 0.0).ball(float(rate), problem.convexity)
        for rate, constant in zip(rates[::COPIES], np.mean(noise, axis=0), strict=True)
    ]
    return squares, np.array(bounds)
