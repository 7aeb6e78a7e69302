"""Codes by name, for configurations, the command line and the tables of the documentation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from gradcode.codes.code import GradientCode

P = ParamSpec("P")
C = TypeVar("C", bound=GradientCode)


@dataclass(frozen=True)
class Entry:
    """One construction and what it trades: its constructor, and a sentence for each question of a user.

    Attributes:
        name: of the constructor.
        constructor: builds the code.
        summary: what it is, in one line.
        exact: the gradient is rebuilt exactly whoever straggles, up to the tolerance.
        tolerance: how many stragglers it is exact under.
        load: partitions per worker.
        needs: what must hold of its arguments.
        choose: when to choose it.
    """

    name: str
    constructor: Callable[..., GradientCode]
    summary: str
    exact: bool
    tolerance: str
    load: str
    needs: str
    choose: str


REGISTRY: dict[str, Entry] = {}
"""All constructions by name."""


def register(
    *, summary: str, exact: bool, tolerance: str, load: str, needs: str, choose: str
) -> Callable[[Callable[P, C]], Callable[P, C]]:
    """Decorate a constructor: it enters the registry, and its codes bear its name and the arguments given."""

    def enter(constructor: Callable[P, C]) -> Callable[P, C]:
        signature = inspect.signature(constructor)
        name = constructor.__name__

        @functools.wraps(constructor)
        def construct(*args: P.args, **kwargs: P.kwargs) -> C:
            code = constructor(*args, **kwargs)
            given = signature.bind(*args, **kwargs).arguments
            code.name = name
            code.parameters = {key: value for key, value in given.items() if value is not None}
            return code

        REGISTRY[name] = Entry(name, construct, summary, exact, tolerance, load, needs, choose)
        return construct

    return enter


def entry(name: str) -> Entry:
    """The construction of that name; ValueError that lists the names otherwise.

    >>> entry("cyclic_mds").exact
    True
    """
    if name not in REGISTRY:
        raise ValueError(f"name={name!r} must be one of the codes {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name]


def create(name: str, **parameters: Any) -> GradientCode:
    """The code of that name built from ``parameters``; ValueError for an unknown name or bad arguments.

    >>> create("fractional_repetition", workers=6, stragglers=2)
    fractional_repetition(workers=6, stragglers=2)
    """
    constructor = entry(name).constructor
    try:
        inspect.signature(constructor).bind(**parameters)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(constructor).parameters)
        raise ValueError(f"parameters={parameters!r} must suit {name}({allowed}): {error}") from None
    return constructor(**parameters)
