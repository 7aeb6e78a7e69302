"""A system as a TOML file."""

from __future__ import annotations

import difflib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gradcode.errors import ConfigError
from gradcode.planning.hierarchical.system import Edge, System, Worker

_SYSTEM = ("partitions", "edges")
_EDGE = ("count", "attempt", "failure", "workers")
_WORKER = ("count", "compute", "rate", "attempt", "failure")


def read(path: Path) -> System:
    """The system in the file.

    Raises:
        ConfigError: names the file, the key, its value and what is allowed.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the system {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    try:
        return _system(raw)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None


def _system(raw: Mapping[str, Any]) -> System:
    _check_keys(raw, _SYSTEM, "")
    edges: list[Edge] = []
    for where, table in _tables(raw, "edges", ""):
        edges += [_edge(table, where)] * _count(table, where)
    workers = sum(len(edge.workers) for edge in edges)
    system: System = _made(System, "", edges=tuple(edges), partitions=raw.get("partitions", workers))
    return system


def _edge(table: Mapping[str, Any], where: str) -> Edge:
    _check_keys(table, _EDGE, where)
    workers: list[Worker] = []
    for place, own in _tables(table, "workers", where):
        _check_keys(own, _WORKER, place)
        if "compute" not in own:
            raise ValueError(f"{place}.compute is missing: seconds per partition")
        made: Worker = _made(Worker, place, **{key: value for key, value in own.items() if key != "count"})
        workers += [made] * _count(own, place)
    link = {key: table[key] for key in ("attempt", "failure") if key in table}
    edge: Edge = _made(Edge, where, workers=tuple(workers), **link)
    return edge


def _made(kind: Any, where: str, **arguments: Any) -> Any:
    """``kind(**arguments)``; its ``key=value must ...`` becomes ``where.key = value must ...``."""
    try:
        return kind(**arguments)
    except ValueError as error:
        key, _, reason = str(error).partition("=")
        must = reason[reason.index(" must ") :]
        raise ValueError(f"{_at(where, key)} = {_shown(arguments[key])}{must}") from None


def _tables(table: Mapping[str, Any], key: str, where: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """(place, table) of each table of an array that has at least one."""
    place = _at(where, key)
    header = place.replace("[", " ").split()[0] + ".workers" if where else place
    if key not in table:
        raise ValueError(f"{place} is missing: begin each with a line [[{header}]]")
    found = table[key]
    if not isinstance(found, list) or not found or not all(isinstance(own, dict) for own in found):
        raise ValueError(f"{place} = {_shown(found)} must be tables, each begun with a line [[{header}]]")
    return [(f"{place}[{i}]", own) for i, own in enumerate(found)]


def _count(table: Mapping[str, Any], where: str) -> int:
    """How many alike the table stands for."""
    value = table.get("count", 1)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{where}.count = {_shown(value)} must be an integer, at least 1")
    return value


def _check_keys(table: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key, value in table.items():
        if key not in known:
            near = difflib.get_close_matches(key.lower(), known, n=1, cutoff=0.55)
            hint = f'; did you mean "{near[0]}"?' if near else ""
            raise ValueError(f"{_at(where, key)} = {_shown(value)}: unknown key; known are {', '.join(known)}{hint}")


def _at(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _shown(value: Any) -> str:
    """A value as it stands in TOML, nearly."""
    text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."
