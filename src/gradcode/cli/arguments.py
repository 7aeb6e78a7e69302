"""Calling what a configuration names: its keyword arguments are checked against the constructor's own signature."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import sys
import typing
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from gradcode.cli.config import Given
from gradcode.cli.messages import allowed, plainly, show, with_nearest
from gradcode.errors import ConfigError

# What the table [cluster] says for all.
_SAID_ONCE = {"workers": "cluster.workers", "workers_per_edge": "cluster.topology"}


def call(
    given: Given,
    key: str,
    constructor: Callable[..., Any],
    arguments: Mapping[str, Any],
    context: Mapping[str, Any] | None = None,
    positional: tuple[Any, ...] = (),
    within: str = "",
    others: Collection[str] = (),
) -> Any:
    """``constructor(*positional, **arguments)``, with what it wants of ``context`` filled in.

    Args:
        given: the configuration, for messages.
        key: the dotted path of the table.
        constructor: what to call.
        arguments: of the table.
        context: what the configuration says elsewhere (the number of workers, the seed). It is passed where the
            constructor has a parameter of that name; a table may not say it again, but for what has a default.
        positional: what comes before.
        within: the sub-table that holds the arguments, such as ``".arguments"``.
        others: keys of the table that are not for this constructor.

    Raises:
        ConfigError: an unknown or missing argument, a value of a wrong type or out of range.
    """
    context = context or {}
    arguments = {name: value for name, value in arguments.items() if name not in others}
    parameters = _parameters(constructor)
    keywords = [
        name
        for index, (name, parameter) in enumerate(parameters.items())
        if index >= len(positional) and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    ]
    free = not parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for name in arguments:
        if name in _SAID_ONCE and name in context:
            raise given.refuse(f"{key}{within}.{name}", f"is said once, as {_SAID_ONCE[name]}")
        if not free and name not in keywords:
            own = [keyword for keyword in keywords if keyword not in _SAID_ONCE or keyword not in context] + [*others]
            known = allowed(name, own, "known are") if own else "it takes no arguments"
            raise given.refuse(f"{key}{within}.{name}", f": unknown key; {known}")
    _check_types(given, key + within, constructor, arguments)
    filled = {name: value for name, value in context.items() if name in keywords and value is not None}
    filled.update(arguments)
    missing = [name for name in keywords if parameters[name].default is inspect.Parameter.empty and name not in filled]
    if missing:
        raise ConfigError(f"{given.source}: {key}{within}.{missing[0]} is missing: [{key}{within}] needs it")
    with blamed(given, key + within, arguments):
        return constructor(*positional, **filled)


def _parameters(constructor: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(constructor).parameters
    except ValueError:  # written in C: it says itself what it takes
        return {}


@contextmanager
def blamed(given: Given, key: str, arguments: Mapping[str, Any]) -> Iterator[None]:
    """What the block refuses is put down to the table ``key`` with these arguments.

    Raises:
        ConfigError: in place of ValueError, TypeError and the like.
    """
    try:
        yield
    except (ValueError, TypeError, RuntimeError, OverflowError, OSError) as error:
        message = with_nearest(_first_line(error))
        culprit = _culprit(message, arguments)
        if culprit is None:
            inside = ",".join(f" {name} = {show(value)}" for name, value in arguments.items())
            raise ConfigError(f"{given.source}: [{key}]{inside}: {message}") from error
        repeated = f"{culprit}={arguments[culprit]!r} "
        reason = message.removeprefix(repeated) if message.startswith(repeated) else f": {message}"
        raise given.refuse(f"{key}.{culprit}", reason) from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).split("\n")[0]


def _culprit(message: str, arguments: Mapping[str, Any]) -> str | None:
    """The one argument that the message speaks of: by its name, or else by its value."""
    named = [name for name in arguments if re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", message)]
    if len(named) > 1:
        named = sorted(named, key=lambda name: message.index(name))[:1]
    valued = [name for name, value in arguments.items() if str(value) and str(value) in message]
    found = named or (valued if len(valued) == 1 else [])
    return found[0] if found else None


def _check_types(given: Given, key: str, constructor: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Plain annotations (numbers, strings, Literal) are taken at their word; the rest is the constructor's affair."""
    try:
        hints = typing.get_type_hints(constructor.__init__ if isinstance(constructor, type) else constructor)  # type: ignore[misc]
    except Exception:  # names that exist only for the type checker
        return
    for name, value in arguments.items():
        if name not in hints:
            continue
        try:
            adapter: TypeAdapter[Any] = TypeAdapter(hints[name], config={"strict": False})
            adapter.validate_python(value, strict=not isinstance(value, list))
        except PydanticSchemaGenerationError:
            continue
        except ValidationError as error:
            raise given.refuse(f"{key}.{name}", plainly(error.errors()[0]["msg"])) from None
        except Exception:  # an annotation Pydantic cannot make sense of
            continue


def target(given: Given, key: str, path: str) -> Callable[..., Any]:
    """What ``"package.module:callable"`` names; modules in the working directory are found, too.

    Raises:
        ConfigError: there is no such module or callable, or importing it raises.
    """
    module_name, colon, attribute = path.partition(":")
    if not (module_name and colon and attribute):
        raise given.refuse(f"{key}.target", 'must be "package.module:callable"')
    here = os.getcwd()  # noqa: PTH109 -- sys.path holds strings
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {_first_line(error)}"
        raise given.refuse(f"{key}.target", f"cannot be imported: {reason}") from error
    for name in attribute.split("."):
        if not hasattr(found, name):
            names = [own for own in dir(found) if not own.startswith("_")]
            there = allowed(name, names, "has")
            raise given.refuse(f"{key}.target", f"names nothing: {module_name} has no {name!r}; it {there}")
        found = getattr(found, name)
    if not callable(found):
        raise given.refuse(f"{key}.target", f"is a {type(found).__name__}, which cannot be called")
    return typing.cast(Callable[..., Any], found)
