"""What a Ray cluster holds: objects, errors in place of them, and resources."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from gradcode.clusters.ray_connection import ray
from gradcode.errors import GradcodeError

BUILT_IN = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
"""Resources that Ray's options name, and what it calls them among its totals."""


def put(value: Any) -> Any:
    """The value in the object store.

    Raises:
        GradcodeError: there is no room for it.
    """
    try:
        return ray.put(value)
    except (ray.exceptions.ObjectStoreFullError, ray.exceptions.OutOfDiskError) as error:
        raise GradcodeError(
            f"Ray's object store has no room, and neither has the disk that Ray would go on with: "
            f"{text(error).splitlines()[0]}. Start Ray with a larger store (`ray start --object-store-memory=BYTES`), "
            f"free the disk under Ray's temporary folder (/tmp/ray), or train a smaller model or dataset"
        ) from error


def values(refs: Sequence[Any]) -> list[Any]:
    """What is ready, fetched together; an exception in place of a value where there is none."""
    try:
        return list(ray.get(list(refs)))
    except Exception:
        return [_value(ref) for ref in refs]


def text(error: object) -> str:
    """An error's text without the colours that Ray gives it."""
    return re.sub(r"\x1b\[\d+m", "", str(error))


def lacking(workers: int, resources: Mapping[str, float]) -> str:
    """What the whole Ray cluster has too little of for so many workers; empty: nothing."""
    total = ray.cluster_resources()
    needed = {BUILT_IN.get(key, key): amount * workers for key, amount in resources.items()}
    short = [
        f"{amount:g} {key} (it has {total.get(key, 0.0):g})"
        for key, amount in needed.items()
        if amount > total.get(key, 0.0)
    ]
    each = ", ".join(f"{key}={amount:g}" for key, amount in resources.items())
    if short:
        return f"{workers} workers of {each} each need more than Ray has: {', '.join(short)}"
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(
        all(own.get(BUILT_IN.get(key, key), 0.0) >= amount for key, amount in resources.items()) for own in nodes
    ):
        return f"a worker needs {each} on one node, and no node of Ray's has as much"
    return ""


def free() -> str:
    """What nobody has taken."""
    there = ray.available_resources()
    return ", ".join(f"{key} {there.get(key, 0.0):g}" for key in BUILT_IN.values() if key in ray.cluster_resources())


def _value(ref: Any) -> Any:
    try:
        return ray.get(ref)
    except Exception as error:
        return error
