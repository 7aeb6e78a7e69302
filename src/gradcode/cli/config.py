"""The configuration of a training: what a TOML file may say.

What belongs to one model, optimizer, scheme, code or law of delays is checked against that thing's own constructor
(see :mod:`gradcode.cli.build`), so that a new one needs no line here.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from gradcode.cli.messages import explain, show
from gradcode.errors import ConfigError
from gradcode.topology import Branch, tree


class Table(BaseModel):
    """A table whose keys are all known here."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Choice(BaseModel):
    """A name, and the keyword arguments of what it names."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class Part(BaseModel):
    """A built-in thing by name, or one of the user's own by ``target``, and its keyword arguments."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True)

    name: str | None = None
    target: str | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        _require_one(self.name, self.target)
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments."""
        return dict(self.model_extra or {})


class ModelTable(Table):
    """The model; its arguments have a table of their own."""

    name: str | None = None
    target: str | None = None
    arguments: dict[str, Any] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        _require_one(self.name, self.target)
        return self


class SchedulerTable(Choice):
    every: Literal["epoch", "iteration"] = "epoch"


class ElasticTable(Table):
    """The scheme is rebuilt for the workers that are there."""

    patience: int = Field(default=10, ge=0)


class CompressionTable(Choice):
    """A compressor's name and arguments, and what workers remember of what it leaves out."""

    memory: Literal["none", "feedback", "differences"] = "none"
    rate: float | None = None


class SchemeTable(Choice):
    code: Choice | None = None
    compression: CompressionTable | None = None
    elastic: ElasticTable | None = None


def _of_key(key: str, reason: str) -> PydanticCustomError:
    """What the table as a whole finds wrong with one of its keys."""
    return PydanticCustomError("of_key", "{reason}", {"reason": reason, "key": key})


_REAL = ("threads", "delay_mode", "patience")
# The keys that do not go with every kind.
_KEYS = {
    "local": _REAL,
    "ray": (*_REAL, "address", "resources", "placement", "runtime_env", "max_restarts", "start_timeout"),
    "simulated": ("abandon", "losses", "restart"),
}


class UplinkTable(Choice):
    """The uplink that all workers share: a controller and its arguments, on a radio."""

    radio: Choice
    unit: float = Field(default=1000.0, gt=0)


def _none_if_infinite(value: Any) -> Any:
    """TOML has no null: what has no end is ``inf`` there."""
    return None if value == math.inf else value


class ClusterTable(Table):
    """Where to train; the keys from ``threads`` on do not go with every kind."""

    kind: Literal["local", "ray", "simulated"] = "local"
    workers: int = Field(ge=1)
    topology: list[Any] | None = None
    delays: Any = None
    seed: int | None = Field(default=None, ge=0)
    on_shortfall: Literal["wait", "approximate", "raise"] = "wait"
    uplink: UplinkTable | None = None
    threads: int = Field(default=1, ge=1)
    delay_mode: Literal["extra", "emulate"] = "extra"
    patience: float | None = Field(default=None, gt=0)
    address: str | None = Field(default=None, min_length=1)
    resources: dict[str, Annotated[float, Field(ge=0)]] | None = None
    placement: Literal["spread", "pack"] = "spread"
    runtime_env: dict[str, Any] | None = None
    max_restarts: Annotated[Annotated[int, Field(ge=0)] | None, BeforeValidator(_none_if_infinite)] = 3
    start_timeout: float = Field(default=120.0, gt=0)
    abandon: Literal["instant", "partition"] = "instant"
    losses: list[Annotated[list[float], Field(min_length=3, max_length=3)]] = Field(default_factory=list)
    restart: float = Field(default=0.0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _count_workers(cls, raw: Any) -> Any:
        """A topology says how many workers there are."""
        if not isinstance(raw, dict) or not isinstance(raw.get("topology"), list):
            return raw
        try:
            number = len(Branch.of(raw["topology"]).workers)
        except ValueError as error:
            raise _of_key("topology", str(error).removeprefix("topology")) from None
        return {"workers": number, **raw}

    @model_validator(mode="after")
    def _as_in_topology(self) -> Self:
        if self.topology is not None and self.workers != (number := len(Branch.of(self.topology).workers)):
            raise _of_key("workers", f"must be {number}, as in topology = {show(self.topology)}, or be left out")
        return self

    @model_validator(mode="after")
    def _of_this_kind(self) -> Self:
        for key in sorted(self.model_fields_set):
            kinds = [kind for kind, keys in _KEYS.items() if key in keys]
            if kinds and self.kind not in kinds:
                named = " or ".join(f'kind = "{kind}"' for kind in kinds)
                raise _of_key(key, f"goes with {named} only")
        return self

    @property
    def tree(self) -> Branch:
        """The workers, and the edge nodes between them and the master."""
        return tree(self.workers, self.topology)

    @property
    def options(self) -> dict[str, Any]:
        """Keyword arguments of the cluster, beside workers, delays and seed."""
        return {key: getattr(self, key) for key in ("topology", "on_shortfall", *_KEYS[self.kind])}


class CheckpointTable(Table):
    every: int | None = Field(default=None, ge=1)


class SessionTable(Table):
    sampling: Literal["placed", "global"] = "placed"
    drop_last: bool = False
    micro_batch: int | None = Field(default=None, ge=1)
    reply_dtype: Literal["float64", "float32", "float16", "bfloat16"] | None = None
    devices: list[str] = Field(default_factory=lambda: ["cpu"], min_length=1)


class Config(Table):
    """One training."""

    seed: int = Field(default=0, ge=0)
    epochs: int = Field(ge=1)
    batch_size: int = Field(ge=1)
    output: str = Field(min_length=1)
    model: ModelTable
    data: Part
    loss: Part = Field(default_factory=lambda: Part(name="cross_entropy"))
    optimizer: Choice
    scheduler: SchedulerTable | None = None
    scheme: SchemeTable
    cluster: ClusterTable
    checkpoint: CheckpointTable = Field(default_factory=CheckpointTable)
    session: SessionTable = Field(default_factory=SessionTable)


@dataclass(frozen=True)
class Given:
    """A configuration as it was given: where it stood, what it said, and what that means."""

    source: str
    raw: dict[str, Any]
    config: Config

    def refuse(self, key: str, reason: str) -> ConfigError:
        """The error that says file, key, value and reason."""
        value: Any = self.raw
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        colon = "" if reason.startswith((":", "[")) else " "
        return ConfigError(f"{self.source}: {key} = {show(value)}{colon}{reason}")

    def resolved(self) -> dict[str, Any]:
        """Everything, defaults included, as JSON can hold it: infinity (a worker that never answers) as "inf"."""
        values: dict[str, Any] = _strict_json(self.config.model_dump())
        return values


def load(path: Path, overrides: Sequence[str] = ()) -> Given:
    """Reads and checks a configuration.

    Args:
        path: a TOML file.
        overrides: ``"optimizer.lr=0.1"``; the value is TOML, or else a string.

    Raises:
        ConfigError: names the file, the key, the value and what is allowed.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error
    source = str(path)
    for override in overrides:
        _override(raw, override)
        source = f"{path} with --set"
    try:
        return Given(source, raw, Config.model_validate(raw))
    except ValidationError as error:
        problems = [f"{source}: {explain(problem, raw, Config)}" for problem in error.errors()]
        raise ConfigError("\n       ".join(problems)) from None


def _override(raw: dict[str, Any], override: str) -> None:
    key, equals, text = (part.strip() for part in override.partition("="))
    *tables, last = key.split(".")
    if not equals or not all((*tables, last)):
        raise ConfigError(f"--set {override}: must be KEY=VALUE, such as --set optimizer.lr=0.1")
    table = raw
    for name in tables:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override}: {name} = {show(table)} is no table, so {key} cannot be set")
    try:
        table[last] = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        table[last] = text


def _strict_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _strict_json(own) for key, own in value.items()}
    if isinstance(value, list):
        return [_strict_json(own) for own in value]
    plain = value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    return value if plain else str(value)


def _require_one(name: str | None, target: str | None) -> None:
    if (name is None) == (target is None):
        raise PydanticCustomError("one_of_two", 'must have either name = "..." or target = "package.module:callable"')


def changed(before: dict[str, Any], now: dict[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value before, value now) of what differs between two resolved configurations, as JSON."""
    flat_before, flat_now = _flat(before), _flat(now)
    keys = sorted(flat_before.keys() | flat_now.keys())
    pairs = [(key, flat_before.get(key, "nothing"), flat_now.get(key, "nothing")) for key in keys]
    return [pair for pair in pairs if pair[1] != pair[2]]


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if not isinstance(values, dict) or not values:
        return {prefix: json.dumps(values)}
    flat: dict[str, str] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}.{key}" if prefix else key)
    return flat
