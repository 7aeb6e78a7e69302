"""Schemes by name: what configuration, command line, documentation and the cross-product tests all read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

Constructor = TypeVar("Constructor", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class SchemeEntry:
    """A scheme's constructor and what to tell a user who chooses."""

    name: str
    construct: Callable[..., Any]
    summary: str
    trade_off: str


_entries: dict[str, SchemeEntry] = {}


def scheme(name: str, *, summary: str, trade_off: str) -> Callable[[Constructor], Constructor]:
    """Registers the constructor below it under ``name``."""

    def register(construct: Constructor) -> Constructor:
        if name in _entries:
            raise ValueError(f"scheme name {name!r} is taken")
        _entries[name] = SchemeEntry(name, construct, summary, trade_off)
        return construct

    return register


def available() -> tuple[SchemeEntry, ...]:
    """Every scheme, by name."""
    return tuple(_entries[name] for name in sorted(_entries))


def by_name(name: str) -> SchemeEntry:
    """The scheme called ``name``.

    Raises:
        ValueError: there is none; the message lists those there are.
    """
    if name not in _entries:
        raise ValueError(f"scheme {name!r} is unknown; there are {', '.join(sorted(_entries))}")
    return _entries[name]
