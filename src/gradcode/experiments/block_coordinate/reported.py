"""What the authors' scripts plot and store ([A] in the spec), and the settings it belongs to (sections 11 and 12).

M = 50 samples and b = 1 cycle throughout. Runtimes are U = E[τ]·N/(M·b)/1e7.
"""

from __future__ import annotations

from dataclasses import dataclass

from gradcode.delays import ShiftedExponential
from gradcode.delays.law import Law

SAMPLES, CYCLES = 50, 1

OPTIMUM, MAXIMUM, BY_TIME, BY_FREQUENCY, LARGE = "optimum", "maximum", "x^(t)", "x^(f)", "x^(lg)"
SINGLE, PARTIAL, LAYERED, HALF = "single level", "partial (α = 6)", "layered r = L", "layered r = L/2"


@dataclass(frozen=True)
class Setting:
    """Where a number was taken: ``law`` in seconds per cycle, N, L, and t in seconds, where there is one."""

    law: Law
    workers: int = 20
    coordinates: int = 20_000
    threshold: float = 0.0


@dataclass(frozen=True)
class Sweep:
    """A figure of the authors: what varies, its values, their settings, and each method's plotted values."""

    what: str
    points: tuple[float, ...]
    settings: tuple[Setting, ...]
    reported: dict[str, tuple[float, ...]]


def first(rate: float = 1e-3) -> Law:
    """The law of the runtimes."""
    return ShiftedExponential(shift=50.0, rate=rate)


def second(rate: float = 0.1) -> Law:
    """The law of the completion probabilities."""
    return ShiftedExponential(shift=1.0, rate=rate)


_T = 10**6.5
_WORKERS = (10, 20, 30, 40, 50)

RUNTIME = (
    Sweep(
        "N",
        _WORKERS,
        tuple(Setting(first(), workers) for workers in _WORKERS),
        {
            OPTIMUM: (2.41, 2.87, 3.30, 3.68, 4.03),
            BY_TIME: (2.63, 3.16, 3.64, 4.04, 4.42),
            BY_FREQUENCY: (2.56, 3.12, 3.62, 4.03, 4.42),
            SINGLE: (3.00, 4.01, 5.04, 6.00, 7.03),
            PARTIAL: (3.93, 5.65, 6.70, 7.40, 7.95),
            LAYERED: (3.00, 4.03, 4.99, 6.02, 7.02),
            HALF: (2.86, 5.28, 6.35, 5.86, 6.95),
        },
    ),
    Sweep(
        "log10 µ",
        (-3.4, -3.2, -3.0, -2.8, -2.6),
        tuple(Setting(first(10**power)) for power in (-3.4, -3.2, -3.0, -2.8, -2.6)),
        {
            OPTIMUM: (5.90, 4.09, 2.88, 2.08, 1.56),
            BY_TIME: (6.78, 4.56, 3.16, 2.22, 1.58),
            BY_FREQUENCY: (6.49, 4.47, 3.14, 2.22, 1.58),
            SINGLE: (6.98, 5.15, 3.99, 3.25, 2.80),
            PARTIAL: (13.9, 8.89, 5.62, 3.57, 2.32),
            LAYERED: (6.99, 5.22, 4.00, 3.25, 2.81),
            HALF: (10.7, 7.45, 5.30, 4.03, 3.19),
        },
    ),
    Sweep(
        "L",
        (1e4, 2e4, 3e4, 4e4, 5e4),
        tuple(Setting(first(), coordinates=coordinates) for coordinates in (10_000, 20_000, 30_000, 40_000, 50_000)),
        {
            OPTIMUM: (1.41, 2.86, 4.41, 6.01, 7.61),
            BY_TIME: (1.58, 3.17, 4.74, 6.33, 7.87),  # the legend of that figure swaps these two
            BY_FREQUENCY: (1.57, 3.12, 4.70, 6.25, 7.84),
            SINGLE: (2.01, 4.01, 5.98, 8.04, 10.1),
            PARTIAL: (2.80, 5.62, 8.40, 11.2, 14.0),
            LAYERED: (2.00, 4.00, 5.99, 8.00, 9.91),
            HALF: (2.20, 5.35, 8.04, 10.6, 13.7),
        },
    ),
)

COMPLETION = (
    Sweep(
        "N",
        _WORKERS,
        tuple(Setting(second(), workers, 40_000, _T) for workers in _WORKERS),
        {
            MAXIMUM: (0.628, 0.905, 0.963, 0.998, 0.999),
            LARGE: (0.510, 0.760, 0.939, 0.988, 0.998),
            SINGLE: (0.442, 0.688, 0.826, 0.924, 0.980),
            PARTIAL: (0.325, 0.692, 0.912, 0.981, 0.996),
            LAYERED: (0.442, 0.688, 0.826, 0.902, 0.945),
            HALF: (0.363, 0.524, 0.656, 0.794, 0.902),
        },
    ),
    Sweep(
        "L",
        (2e4, 2.5e4, 3e4, 3.5e4, 4e4),
        tuple(Setting(second(), 20, coordinates, _T) for coordinates in (20_000, 25_000, 30_000, 35_000, 40_000)),
        {
            MAXIMUM: (1.000, 0.998, 0.976, 0.952, 0.910),
            LARGE: (1.000, 0.997, 0.967, 0.876, 0.760),
            SINGLE: (0.987, 0.954, 0.892, 0.801, 0.687),
            PARTIAL: (0.997, 0.975, 0.920, 0.823, 0.694),
            LAYERED: (0.988, 0.954, 0.893, 0.801, 0.688),
            HALF: (0.971, 0.879, 0.768, 0.661, 0.526),
        },
    ),
    Sweep(
        "log10 t",
        (6.50, 6.55, 6.60, 6.65, 6.70),
        tuple(Setting(second(), 20, 40_000, 10**power) for power in (6.50, 6.55, 6.60, 6.65, 6.70)),
        {
            MAXIMUM: (0.910, 0.942, 0.969, 0.989, 0.996),
            LARGE: (0.760, 0.866, 0.943, 0.982, 0.996),
            SINGLE: (0.686, 0.786, 0.861, 0.915, 0.950),
            PARTIAL: (0.692, 0.806, 0.890, 0.943, 0.974),
            LAYERED: (0.686, 0.786, 0.861, 0.915, 0.950),
            HALF: (0.525, 0.651, 0.759, 0.843, 0.904),
        },
    ),
    Sweep(
        "log10 µ",
        (-1.0, -0.9, -0.8, -0.7, -0.6),
        tuple(Setting(second(10**power), 20, 40_000, _T) for power in (-1.0, -0.9, -0.8, -0.7, -0.6)),
        {
            MAXIMUM: (0.910, 0.972, 0.993, 0.999, 1.000),
            LARGE: (0.760, 0.933, 0.990, 0.999, 1.000),
            SINGLE: (0.686, 0.768, 0.855, 0.935, 0.991),
            PARTIAL: (0.689, 0.886, 0.970, 0.995, 0.997),
            LAYERED: (0.687, 0.768, 0.841, 0.902, 0.945),
            HALF: (0.525, 0.651, 0.767, 0.864, 0.935),
        },
    ),
)
"""Reported of ``MAXIMUM`` is the stationary point that the authors' method finds."""


def _vector(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split()))


STORED = {
    BY_TIME: _vector("5696 1076 609 444 366 325 303 294 294 303 321 349 390 448 534 663 868 1222 1912 3583"),
    BY_FREQUENCY: _vector("5521 939 549 408 340 305 287 282 285 297 318 351 398 466 565 715 953 1356 2091 3574"),
    OPTIMUM: _vector("4744 1052 396 314 265 226 209 200 193 198 210 236 249 197 56 390 632 1184 2840 6209"),
    LARGE: _vector("2778 1390 927 695 556 463 397 347 309 278 253 232 214 199 185 174 164 154 146 139"),
}
"""(20,) block sizes that the authors stored: L = 2e4, for ``LARGE`` 1e4."""
