"""What an argument must satisfy: a ``ValueError`` names the argument, its value and the condition."""

from __future__ import annotations

import math
import operator
from numbers import Real
from typing import SupportsIndex


def require(holds: bool, name: str, value: object, must: str) -> None:
    """Raises ``ValueError("name=value must ...")`` unless ``holds``."""
    if not holds:
        raise ValueError(f"{name}={value!r} must {must}")


def number(name: str, value: object) -> float:
    """The value as float; refuses what is not a real number, NaN included."""
    if isinstance(value, bool) or not isinstance(value, Real) or math.isnan(value):
        raise ValueError(f"{name}={value!r} must be a number")
    return float(value)


def positive(name: str, value: object, *, finite: bool = True) -> None:
    """Requires value > 0, and finite unless said otherwise."""
    x = number(name, value)
    require(x > 0 and not (finite and math.isinf(x)), name, value, "be > 0" + " and finite" * finite)


def nonnegative(name: str, value: object, *, finite: bool = True) -> None:
    """Requires value ≥ 0, and finite unless said otherwise."""
    x = number(name, value)
    require(x >= 0 and not (finite and math.isinf(x)), name, value, "be >= 0" + " and finite" * finite)


def probability(name: str, value: object, *, certain: bool = True) -> None:
    """Requires 0 ≤ value ≤ 1, and < 1 unless ``certain``."""
    x = number(name, value)
    require(0 <= x <= 1 and (certain or x < 1), name, value, "lie in [0, 1]" if certain else "lie in [0, 1)")


def count(name: str, value: SupportsIndex, least: int = 0) -> int:
    """The value as int; requires a whole number ≥ ``least``."""
    try:
        whole = operator.index(value)
    except TypeError:
        raise ValueError(f"{name}={value!r} must be a whole number") from None
    require(whole >= least, name, value, f"be >= {least}")
    return whole
