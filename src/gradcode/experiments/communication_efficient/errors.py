"""Relative errors of decoded gradients: communication_efficient.md, tables 9.2 and 9.3.

An expected figure is the largest error over many straggler sets for gradients that are not known, to one digit. So what
is compared is by how much ours is above it, in powers of ten, and nothing where it is below: solving for the weights in
an orthonormal basis, as here, loses fewer digits than solving Vandermonde systems.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations
from math import comb, log10
from typing import Any

import numpy as np
import numpy.typing as npt

from gradcode import codes
from gradcode.codes import GradientCode
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.registry import Request

SEED = 9
FAILED = float("inf")
LENGTH = 8  # of a part of the gradient

CONSTRUCTIONS: dict[str, dict[str, Any]] = {
    "polynomial, half steps": {"construction": "polynomial"},
    "polynomial, Chebyshev": {"construction": "polynomial", "nodes": "chebyshev"},
    "polynomial, roots of unity": {"construction": "polynomial", "nodes": "unity"},
    "gaussian": {"construction": "gaussian"},
    "orthonormal": {"construction": "orthonormal"},
    "fourier_centred": {"construction": "fourier_centred"},
}
DRAWN = ("gaussian", "orthonormal")
UP_TO = (5, 8, 10)
EXACTNESS: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "polynomial, half steps": ((2e-15, 3e-12, 9e-10), (9e-7, 3e-4, 3e-2)),
    "polynomial, Chebyshev": ((2e-15, 4e-14, 5e-13), (8e-7, 2e-5, 2e-4)),
    "polynomial, roots of unity": ((1e-15, 5e-15, 2e-14), (3e-7, 1e-6, 7e-6)),
    "gaussian": ((9e-15, 7e-13, 2e-11), (4e-6, 2e-4, 5e-3)),
    "orthonormal": ((3e-14, 3e-12, 1e-11), (9e-6, 1e-3, 1e-2)),
    "fourier_centred": ((8e-16, 3e-15, 1e-14), (3e-7, 7e-7, 2e-6)),
}
"""Table 9.2: for float64 and float32 the expected worst error up to 5, 8 and 10 workers."""

WORKERS = (12, 16, 20, 24, 32, 64)
SCALING: dict[tuple[int, int] | None, dict[str, tuple[float, ...]]] = {
    (1, 1): {
        "polynomial, half steps": (1e-11, 4e-10, 8e-7, 1e-3, FAILED, FAILED),
        "gaussian": (5e-14, 4e-14, 1e-12, 4e-13, 2e-12, 4e-11),
        "polynomial, Chebyshev": (9e-14, 5e-12, 1e-10, 3e-8, 4e-5, FAILED),
        "polynomial, roots of unity": (3e-15, 1e-14, 4e-14, 2e-13, 2e-12, 8e-8),
        "fourier_centred": (6e-16, 8e-16, 1e-15, 1e-15, 2e-15, 3e-15),
    },
    (1, 2): {
        "polynomial, half steps": (9e-12, 4e-9, 2e-6, 3e-3, FAILED, FAILED),
        "gaussian": (2e-14, 1e-13, 1e-12, 3e-12, 2e-12, 9e-11),
        "fourier_centred": (2e-15, 3e-15, 6e-15, 6e-15, 9e-15, 4e-14),
    },
    (2, 2): {
        "polynomial, half steps": (4e-11, 2e-8, 7e-6, 1e-2, FAILED, FAILED),
        "gaussian": (2e-13, 3e-12, 7e-10, 3e-12, 6e-11, 6e-13),
        "fourier_centred": (5e-15, 8e-15, 2e-14, 4e-14, 7e-14, 4e-13),
    },
    (3, 3): {
        "polynomial, half steps": (1e-9, 9e-7, 2e-3, FAILED, FAILED, FAILED),
        "gaussian": (6e-12, 3e-11, 2e-12, 4e-12, 1e-11, 1e-11),
        "fourier_centred": (2e-14, 5e-14, 2e-13, 4e-13, 2e-12, 6e-11),
    },
    None: {
        "polynomial, half steps": (1e-9, 2e-5, 4e-1, FAILED, FAILED, FAILED),
        "gaussian": (6e-12, 4e-13, 4e-12, 2e-12, 5e-12, 3e-12),
        "orthonormal": (1e-12, 4e-13, 8e-13, 1e-11, 3e-11, 3e-10),
        "fourier_centred": (2e-14, 2e-13, 2e-12, 4e-11, 1e-8, FAILED),
    },
}
"""Table 9.3: (s, m), None for (n/4, n/4), -> construction -> expected error in float64 for ``WORKERS``."""


def exactness(request: Request, found: Comparisons) -> None:
    """Table 9.2: all d = s + m ≤ n ≤ 10 and all straggler sets; n ≤ 5 where it must be quick."""
    limits = UP_TO[: 1 if request.quick else None]
    lines = []
    for name, (double, single) in EXACTNESS.items():
        worst = {np.float64: np.zeros(limits[-1] + 1), np.float32: np.zeros(limits[-1] + 1)}
        for n in range(2, limits[-1] + 1):
            request.tell(f"exactness: {name}, {n} workers")
            for d, m in [(load, part) for load in range(1, n + 1) for part in range(1, load + 1)]:
                code = build(name, n, d - m, m, draws=3 if request.quick else 20)
                for dtype, own in worst.items():
                    rng = np.random.default_rng([SEED, n, d, m])
                    own[n] = max(own[n], *errors(code, combinations(range(n), d - m), dtype, rng))
        line = [name]
        for dtype, expected in ((np.float64, double), (np.float32, single)):
            for limit, wanted in zip(limits, expected, strict=False):
                largest = float(worst[dtype][: limit + 1].max())
                _compare(found, f"{name}, {dtype.__name__}, n <= {limit}", name, wanted, largest)
                line += [f"{wanted:.0e}", f"{largest:.1e}"]
        lines.append(line)
    header = [
        f"{kind} {dtype}, n ≤ {n}" for dtype in ("float64", "float32") for n in limits for kind in ("expected", "")
    ]
    write_table(request.output / "exactness", ["construction", *(own.strip() for own in header)], lines)


def scaling(request: Request, found: Comparisons) -> None:
    """Table 9.3: all straggler sets up to 1500, else contiguous and random ones; float64, the best of 20 draws of V."""
    sizes = WORKERS[: 1 if request.quick else None]
    lines = []
    for pair, rows in SCALING.items():
        for name, expected in rows.items():
            shown = "(n/4, n/4)" if pair is None else str(pair)
            request.tell(f"scaling: (s, m) = {shown}, {name}")
            line = [shown, name]
            for n, wanted in zip(sizes, expected, strict=False):
                s, m = (n // 4, n // 4) if pair is None else pair
                rng = np.random.default_rng([SEED, n, s, m])
                sets = list(patterns(n, s, 20 if request.quick else 60, rng))
                draws = (3 if request.quick else 20) if name in DRAWN else 1
                own = min(
                    max(errors(build(name, n, s, m, draws=1, rng=draw), sets, np.float64, rng)) for draw in range(draws)
                )
                if np.isfinite(wanted):
                    _compare(found, f"(s, m) = {shown}, n = {n}, {name}", name, wanted, own)
                line += ["fail" if np.isinf(wanted) else f"{wanted:.0e}", f"{own:.1e}"]
            lines.append(line)
    header = ["(s, m)", "construction"]
    for n in sizes:
        header += [f"expected, n = {n}", f"n = {n}"]
    write_table(request.output / "scaling", header, lines)


def build(name: str, n: int, s: int, m: int, *, draws: int = 20, rng: int = 0) -> GradientCode:
    """The code of that construction, whatever its rounding."""
    options = CONSTRUCTIONS[name]
    return codes.communication_efficient(
        n, s + m, s, m, draws=draws, rng=rng, dtype="float64", max_error=FAILED, **options
    )


def patterns(n: int, s: int, random: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """All sets of s stragglers up to 1500, else the contiguous ones and so many random ones."""
    if comb(n, s) <= 1500:
        yield from combinations(range(n), s)
        return
    for first in range(n):
        yield tuple((first + step) % n for step in range(s))
    for _ in range(random):
        yield tuple(rng.choice(n, s, replace=False).tolist())


def errors(
    code: GradientCode, lost: Iterable[Sequence[int]], dtype: npt.DTypeLike, rng: np.random.Generator
) -> list[float]:
    """‖ĝ − g‖/‖g‖ for each straggler set, messages and sums being of ``dtype`` and gradients standard normal."""
    n, m = code.workers, code.reduction
    coefficients = code.encoding.reshape(n, n, m)
    gradients = rng.standard_normal((n, m, LENGTH)).astype(dtype)
    if np.iscomplexobj(coefficients):
        gradients = (
            gradients[..., : LENGTH // 2]
            + np.array(1j, np.result_type(dtype, np.complex64)) * (gradients[..., LENGTH // 2 :])
        )
    kind = gradients.dtype
    total = gradients.sum(axis=0, dtype=np.result_type(kind, np.float64))
    messages = np.einsum("iju,jux->ix", coefficients.astype(kind), gradients)
    found = []
    for stragglers in lost:
        weights = code.decode(set(range(n)).difference(stragglers)).weights.reshape(n, m)
        away = weights.astype(kind).T @ messages - total
        found.append(float(np.linalg.norm(away) / np.linalg.norm(total)))
    return found


def _compare(found: Comparisons, what: str, name: str, wanted: float, own: float) -> None:
    # Of one construction only gradients and the order of rounding differ, between draws of V the amplification, too.
    times, why = (10, "ten times: other draws of V") if name in DRAWN else (5, "five times: other gradients, one digit")
    above = max(0.0, log10(own / wanted))
    what = f"{what}: worst error {own:.1e}, expected {wanted:.0e}, above it"
    found.add(what, 0.0, above, log10(times), "powers of 10", why)
