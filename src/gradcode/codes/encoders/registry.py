"""Encoders by name, for experiments and the tables of the documentation."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

from gradcode.codes.encoders.encoder import Encoder

P = ParamSpec("P")
E = TypeVar("E", bound=Encoder)


@dataclass(frozen=True)
class Entry:
    """One construction and what it trades.

    Attributes:
        name: of the constructor.
        constructor: builds the encoder.
        summary: what it is, in one line.
        redundancy: which β there are.
        cost: of encoding a column of n samples.
        choose: when to choose it.
    """

    name: str
    constructor: Callable[..., Encoder]
    summary: str
    redundancy: str
    cost: str
    choose: str


REGISTRY: dict[str, Entry] = {}
"""All constructions by name."""


def register(*, summary: str, redundancy: str, cost: str, choose: str) -> Callable[[Callable[P, E]], Callable[P, E]]:
    """Decorate a constructor: it enters the registry, and its encoders bear its name and the arguments given."""

    def enter(constructor: Callable[P, E]) -> Callable[P, E]:
        signature = inspect.signature(constructor)
        name = constructor.__name__

        @functools.wraps(constructor)
        def construct(*args: P.args, **kwargs: P.kwargs) -> E:
            encoder = constructor(*args, **kwargs)
            encoder.name, encoder.parameters = name, dict(signature.bind(*args, **kwargs).arguments)
            return encoder

        REGISTRY[name] = Entry(name, construct, summary, redundancy, cost, choose)
        return construct

    return enter


def create(name: str, **parameters: Any) -> Encoder:
    """The encoder of that name; ValueError for an unknown name or bad arguments.

    >>> create("hadamard", samples=100, redundancy=2)
    hadamard(samples=100, redundancy=2)
    """
    if name not in REGISTRY:
        raise ValueError(f"name={name!r} must be one of the encoders {', '.join(sorted(REGISTRY))}")
    constructor = REGISTRY[name].constructor
    try:
        inspect.signature(constructor).bind(**parameters)
    except TypeError as error:
        allowed = ", ".join(inspect.signature(constructor).parameters)
        raise ValueError(f"parameters={parameters!r} must suit {name}({allowed}): {error}") from None
    return constructor(**parameters)
