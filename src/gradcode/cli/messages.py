"""How a wrong configuration is said: the key, its value, what is allowed, and the nearest that there is."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import ErrorDetails

_LONGEST = 80


def show(value: Any) -> str:
    """A value as it stands in TOML, nearly."""
    if isinstance(value, dict):
        text = "{" + ", ".join(f"{key} = {show(own)}" for key, own in value.items()) + "}"
    else:
        text = json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


def allowed(value: object, names: Iterable[str], what: str = "must be one of") -> str:
    """What may stand there, and the nearest to ``value``.

    >>> allowed("codde", ["coded", "uncoded"])
    'must be one of coded, uncoded; did you mean "coded"?'
    """
    known = list(names)
    text = f"{what} {', '.join(known)}" if len(known) <= 20 else f"{what} {', '.join(known[:20])}, ..."
    lower = {name.lower(): name for name in known}
    near = difflib.get_close_matches(str(value).lower(), lower, n=1, cutoff=0.55)
    return f'{text}; did you mean "{lower[near[0]]}"?' if near else text


def with_nearest(message: str) -> str:
    """Adds the nearest name to a library's own ``...='x' must be one of a, b, c``."""
    found = re.search(r"='?([^'=]*?)'?(?:: key)? must be one of (.+)$", message)
    if found is None:
        return message
    hint = allowed(found[1], [name.strip(" '\"") for name in found[2].split(",")]).partition("; ")[2]
    if not hint and (key := re.match(r"(?:.*\.)?(\w+)=", message)):
        hint = allowed(key[1], [name.strip(" '\"") for name in found[2].split(",")]).partition("; ")[2]
    return f"{message}; {hint}" if hint else message


def plainly(message: str) -> str:
    """Pydantic's message in our words.

    >>> plainly("Input should be greater than or equal to 1")
    'must be at least 1'
    """
    for theirs, ours in (
        ("Input should be", "must be"),
        ("greater than or equal to", "at least"),
        ("an instance of Sequence", "a list"),
        ("a valid ", "a "),
        ("a integer", "an integer"),
        ("String should have", "must have"),
        ("List should have", "must have"),
    ):
        message = message.replace(theirs, ours)
    return message


def explain(problem: ErrorDetails, raw: Mapping[str, Any], root: type[BaseModel]) -> str:
    """One of Pydantic's findings in our words."""
    kind, context = problem["type"], problem.get("ctx", {})
    # Of a value that may be of several types, Pydantic names the type tried after the key.
    path = [str(part) for part in problem["loc"] if part not in ("int", "float")]
    value = problem["input"]
    if kind == "of_key":
        path.append(context["key"])
        value = value[context["key"]]
    key = ".".join(path)
    if kind == "extra_forbidden":
        names = _table(path[:-1], root).model_fields
        return f"{key} = {show(value)}: unknown key; {allowed(path[-1], names, 'known are')}"
    if kind == "missing":
        return f"{key} is missing"
    if kind == "literal_error":
        field = _table(path[:-1], root).model_fields[path[-1]]
        return f"{key} = {show(value)} {allowed(value, _choices(field.annotation))}"
    reason = plainly(problem["msg"])
    if kind in ("model_type", "dict_type"):
        reason = f"must be a table [{key}]"
    return f"{key} = {show(value)}{'' if reason.startswith(':') else ' '}{reason}"


def _table(path: list[str], root: type[BaseModel]) -> type[BaseModel]:
    """The model of the table at ``path``."""
    model = root
    for part in path:
        annotation = model.model_fields[part].annotation
        candidates = (annotation, *get_args(annotation))
        model = next(own for own in candidates if isinstance(own, type) and issubclass(own, BaseModel))
    return model


def _choices(annotation: Any) -> list[str]:
    """The strings of a ``Literal``, also within a union."""
    own = [value for value in get_args(annotation) if isinstance(value, str)]
    return own or [value for part in get_args(annotation) for value in get_args(part) if isinstance(value, str)]
