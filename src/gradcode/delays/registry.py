"""Laws and processes by name, and delays from a configuration.

In TOML, a law is a table with its name and parameters; a base is a table in the table::

    [cluster.delays.compute]
    law = "bernoulli"
    probability = 0.1
    slowdown = 10.0
    base = { law = "shifted_exponential", shift = 0.1, rate = 10.0 }

    [cluster.delays.communicate]
    latency = 0.001
    bandwidth = 1e9
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from types import MappingProxyType
from typing import Any, TypeVar

from gradcode.delays import laws, process
from gradcode.delays.bounds import require
from gradcode.delays.law import Source
from gradcode.delays.link import Link
from gradcode.delays.scripted import Script, script
from gradcode.delays.table import Delays
from gradcode.delays.trace import Trace

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """A named law or process: what builds it, and what it is in one line."""

    build: Callable[..., Source]
    summary: str

    @property
    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """The parameters by name; one without default is required."""
        return inspect.signature(self.build).parameters


def _persistent(base: Source, factors: Mapping[str | int, float]) -> Source:
    return process.Persistent(base, {int(worker): factor for worker, factor in factors.items()})


def _script(
    base: Source | None = None,
    slow: Iterable[Mapping[str, Any]] = (),
    die: Iterable[Mapping[str, Any]] = (),
) -> Source:
    play: Script = script(base)
    for event in slow:
        play = play.slow(**event)
    for event in die:
        play = play.die(**event)
    return play


def _trace(path: str) -> Source:
    return Trace.read_csv(path)


LAWS: Mapping[str, Entry] = MappingProxyType(
    {
        "deterministic": Entry(laws.Deterministic, "always the same time"),
        "exponential": Entry(laws.Exponential, "exponential, without a least time"),
        "shifted_exponential": Entry(laws.ShiftedExponential, "a least time plus an exponential one"),
        "pareto": Entry(laws.Pareto, "a least time and a heavy tail"),
        "weibull": Entry(laws.Weibull, "a tail lighter or heavier than exponential, with a least time if wanted"),
        "empirical": Entry(laws.Empirical, "any of the measured times"),
        "bernoulli": Entry(process.Bernoulli, "each worker is slow now and then, without memory"),
        "occasional": Entry(process.Occasional, "takes time now and then, without memory, and else none"),
        "gilbert_elliott": Entry(process.GilbertElliott, "each worker is slow for a while, then fast for a while"),
        "persistent": Entry(_persistent, "some workers are always slower"),
        "per_worker": Entry(process.PerWorker, "every worker has its own law or process"),
        "trace": Entry(_trace, "measured durations from a CSV file, replayed"),
        "script": Entry(_script, "who is slow and who dies, and when"),
    }
)
"""Name → entry: what configuration, command line and documentation offer."""


def by_name(name: str, **parameters: Any) -> Source:
    """The law or process of that name.

    >>> by_name("pareto", shape=1.5, scale=0.01)
    Pareto(shape=1.5, scale=0.01)

    Raises:
        ValueError: an unknown name, an unknown or missing parameter, a value that the law refuses.
    """
    if name not in LAWS:
        raise ValueError(f"law={name!r} must be one of {', '.join(LAWS)}")
    return _build(name, LAWS[name].build, parameters)


def from_config(config: Any, where: str = "delays") -> Delays:
    """Delays from a configuration, as parsed from TOML.

    Args:
        config: what says how long computing takes: a table with the key ``law``, a number of seconds, or a
            list of one per worker. Or a table with any of the keys ``compute`` (the same), ``communicate`` (a
            table of ``Link``'s parameters, a law, or a list of one per worker), ``edges`` (the same, per edge node),
            ``relay``, ``receive``, ``stages`` and ``start`` (as ``compute``).
        where: the key under which it stands, for messages.

    >>> from_config({"law": "pareto", "shape": 1.5, "scale": 0.01}).compute
    Pareto(shape=1.5, scale=0.01)

    Raises:
        ValueError: names the key and value of what is unknown, missing or refused.
    """
    if not isinstance(config, Mapping) or "law" in config:
        return Delays(_source(config, where))
    known = ("compute", "communicate", "stages", "edges", "relay", "receive", "start")
    unknown = [key for key in config if key not in known]
    if unknown:
        raise ValueError(f"{where}.{unknown[0]}={config[unknown[0]]!r}: key must be one of law, {', '.join(known)}")
    compute = _source(config.get("compute", 0.0), f"{where}.compute")
    links = {key: _link(config.get(key), f"{where}.{key}") for key in ("communicate", "edges")}
    plain = {key: config[key] for key in ("stages", "relay", "receive") if key in config}
    if "start" in config:
        plain["start"] = _source(config["start"], f"{where}.start")
    return _build(where, Delays, {"compute": compute, **links, **plain})


def _source(value: Any, where: str) -> Source:
    if isinstance(value, Source):
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        return _build(where, laws.Deterministic, {"seconds": value})
    if isinstance(value, list | tuple):
        each = [_source(own, f"{where}[{worker}]") for worker, own in enumerate(value)]
        return _build(where, process.PerWorker, {"sources": each})
    if not isinstance(value, Mapping) or "law" not in value:
        raise ValueError(
            f"{where}={value!r} must be a number of seconds, a table with the key 'law', or a list of these"
        )
    name = value["law"]
    if not isinstance(name, str) or name not in LAWS:
        raise ValueError(f"{where}.law={name!r} must be one of {', '.join(LAWS)}")
    given = {key: _nested(own, f"{where}.{key}") for key, own in value.items() if key != "law"}
    return _build(where, LAWS[name].build, given)


def _link(value: Any, where: str) -> Any:
    if value is None or isinstance(value, Link):
        return value
    if isinstance(value, list | tuple):
        return [_link(own, f"{where}[{worker}]") for worker, own in enumerate(value)]
    if isinstance(value, Mapping) and "law" not in value:
        return _build(where, Link, {key: _nested(own, f"{where}.{key}") for key, own in value.items()})
    return _source(value, where)


def _nested(value: Any, where: str) -> Any:
    """The value of a parameter, where a law or a list of laws may stand."""
    if isinstance(value, Mapping) and "law" in value:
        return _source(value, where)
    if isinstance(value, list | tuple) and any(isinstance(own, Mapping) and "law" in own for own in value):
        return [_source(own, f"{where}[{i}]") for i, own in enumerate(value)]
    return value


def _build(where: str, build: Callable[..., T], given: Mapping[str, Any]) -> T:
    parameters = inspect.signature(build).parameters
    for key, value in given.items():
        if key not in parameters:
            raise ValueError(f"{where}.{key}={value!r}: key must be one of {', '.join(parameters)}")
    missing = [key for key, own in parameters.items() if own.default is own.empty and key not in given]
    require(not missing, where, dict(given), f"have {', '.join(missing)}")
    try:
        return build(**given)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from None
