"""How far numbers from draws may be from expected ones."""

from __future__ import annotations

import numpy as np

from gradcode.protocol import Floats

WHY = "4 s.d. of one draw"


def tolerance(drawn: Floats, digits: float) -> float:
    """4 standard deviations of one draw (draws,) from our mean, and half a unit of the last digit.

    The expected numbers are of one draw, or of a few seeds that may share one data set: which is not said.
    """
    return 4 * float(drawn.std(ddof=1)) * float(np.sqrt(1 + 1 / len(drawn))) + digits


def relative(mean: float, share: float, draws: int, digits: float) -> float:
    """The same where the standard deviation of one draw is known as a share of the mean."""
    return 4 * share * abs(mean) * float(np.sqrt(1 + 1 / draws)) + digits
