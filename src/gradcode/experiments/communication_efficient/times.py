"""Seconds per iteration where computing and sending take their time (communication_efficient.md, section 6)."""

from __future__ import annotations

import numpy as np

from gradcode import codes, schemes
from gradcode.experiments.communication_efficient.errors import SEED
from gradcode.experiments.comparison import Comparisons, write_table
from gradcode.experiments.registry import Request
from gradcode.planning.communication_efficient import expected_time, optimal_parameters
from gradcode.protocol import Floats

MODEL = {"compute_rate": 0.8, "transmit_rate": 0.1, "compute_shift": 1.6, "transmit_shift": 6.0}
OPTIMA: dict[int, tuple[int, int, float]] = {
    8: (4, 3, 21.370),
    10: (4, 3, 22.565),
    15: (4, 3, 24.717),
    20: (3, 3, 26.080),
}
"""Workers -> the expected best load and reduction, and their E T."""
OTHERS: dict[str, tuple[int, int, float]] = {
    "best with m = 1": (8, 1, 24.106),
    "uncoded": (1, 1, 36.114),
}
"""What 8 workers take otherwise."""


def times(request: Request, found: Comparisons) -> None:
    """Optimal loads and reductions, their expected times, and the same from draws by the scheme."""
    draws = 4_000 if request.quick else 40_000
    lines = []
    for workers, (load, reduction, expected) in OPTIMA.items():
        best = optimal_parameters(workers, **MODEL)
        what = f"optimum, n = {workers}"
        found.add(f"{what}: d", load, best.load, 0.0, "", "none")
        found.add(f"{what}: m", reduction, best.reduction, 0.0, "", "none")
        found.add(f"{what}: E T", expected, best.time, 5.001e-4, "s", "the digits given")
        lines.append(_line(what, workers, best.load, best.reduction, expected, best.time, draws, found))
        if workers != 8:
            continue
        whole = best.times[:, 0]
        found.add("best d with m = 1, n = 8", OTHERS["best with m = 1"][0], int(whole.argmin()) + 1, 0.0, "", "none")
        for name, (d, m, wanted) in OTHERS.items():
            own = expected_time(workers, d, m, **MODEL)
            found.add(f"{name}, n = 8: E T", wanted, own, 5.001e-4, "s", "the digits given")
            lines.append(_line(f"{name}, n = 8", workers, d, m, wanted, own, draws, found))
        for name, share in (("uncoded", 41.0), ("best with m = 1", 11.0)):
            own = 100 * (1 - best.time / best.times[OTHERS[name][0] - 1, 0])
            found.add(f"optimum below {name}, n = 8", share, own, 0.5, "%", "the digits given")
    header = ["setting", "d", "m", "expected (s)", "integrated (s)", "the scheme, drawn (s)"]
    write_table(request.output / "times", header, lines)


def drawn(workers: int, load: int, reduction: int, draws: int, rng: np.random.Generator) -> Floats:
    """(draws,) seconds that the scheme takes."""
    compute = MODEL["compute_shift"] + rng.exponential(1 / MODEL["compute_rate"], (draws, workers, 1))
    send = MODEL["transmit_shift"] + rng.exponential(1 / MODEL["transmit_rate"], (draws, workers))
    code = codes.communication_efficient(workers, load, load - reduction, reduction, max_error=float("inf"))
    return schemes.coded(code).duration(compute, send / reduction)


def _line(
    what: str, n: int, d: int, m: int, expected: float, integrated: float, draws: int, found: Comparisons
) -> list[str]:
    seconds = drawn(n, d, m, draws, np.random.default_rng([SEED, n, d, m]))
    mean, error = float(seconds.mean()), float(seconds.std() / np.sqrt(draws))
    found.add(f"{what}: the scheme on draws", integrated, mean, 4 * error, "s", "4 standard errors")
    return [what, str(d), str(m), f"{expected:.3f}", f"{integrated:.3f}", f"{mean:.3f} ± {error:.3f}"]
