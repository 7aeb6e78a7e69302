"""What ``gradcode plan block`` is asked: a setting as a TOML file, and the options."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradcode.cli.messages import allowed, show
from gradcode.errors import ConfigError

if TYPE_CHECKING:
    from gradcode.delays.law import Law

_KEYS = ("workers", "coordinates", "delays")
_OF_MESSAGES = ("communicate", "edges", "relay", "stages")


@dataclass(frozen=True)
class Asked:
    """What the plan is for.

    Args:
        source: the file, for messages.
        workers: N.
        coordinates: L.
        law: of a worker's seconds per partition, drawn once per worker and iteration.
        highest: the highest level allowed.
        threshold: a time in seconds; None: not asked.
    """

    source: str
    workers: int
    coordinates: int
    law: Law
    highest: int
    threshold: float | None = None


def read(path: Path, highest: int | None, threshold: float | None) -> Asked:
    """The setting in the file, with the options.

    Raises:
        ConfigError: names the file, the key, its value and what is allowed; or the option.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the setting {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    for key, value in raw.items():
        if key not in _KEYS:
            raise ConfigError(f"{path}: {key} = {show(value)}: unknown key; {allowed(key, _KEYS, 'known are')}")
    workers, coordinates = _count(path, raw, "workers", 2), _count(path, raw, "coordinates", 1)
    law = _law(path, raw)
    if highest is not None and not 0 <= highest < workers:
        raise ConfigError(f"--highest {highest} must lie in 0..{workers - 1}: {path} has workers = {workers}")
    if threshold is not None and not 0 < threshold < float("inf"):
        raise ConfigError(f"--threshold {threshold} must be > 0 and finite, in seconds")
    return Asked(str(path), workers, coordinates, law, workers - 1 if highest is None else highest, threshold)


def _count(path: Path, raw: dict[str, Any], key: str, least: int) -> int:
    if key not in raw:
        raise ConfigError(f"{path}: {key} is missing: an integer, at least {least}")
    value = raw[key]
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ConfigError(f"{path}: {key} = {show(value)} must be an integer, at least {least}")
    return value


def _law(path: Path, raw: dict[str, Any]) -> Law:
    from gradcode.delays.law import Law
    from gradcode.delays.registry import LAWS, from_config

    if "delays" not in raw:
        raise ConfigError(f"{path}: delays is missing: a table [delays.compute] with a law, in seconds per partition")
    delays = raw["delays"]
    if isinstance(delays, dict):
        for key in _OF_MESSAGES:
            if key in delays:
                said = f"{path}: delays.{key} = {show(delays[key])}"
                raise ConfigError(f"{said} is not part of the plan, which takes messages to be free: leave it out")
    try:
        law = from_config(delays).compute
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(law, Law):
        known = [name for name, own in LAWS.items() if isinstance(own.build, type) and issubclass(own.build, Law)]
        given = delays.get("compute", delays) if isinstance(delays, dict) else delays
        must = f"must be one law for all workers, drawn anew in every iteration: {', '.join(known)}"
        raise ConfigError(f"{path}: delays.compute = {show(given)} {must}")
    return law
