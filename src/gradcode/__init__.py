"""gradcode: train PyTorch models on slow, uneven and unreliable workers, exactly and at the speed of the fast ones.

``gradcode.codes``, ``gradcode.delays`` and ``gradcode.schemes`` work without torch, which is loaded at first need.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from gradcode import errors
from gradcode.errors import GradcodeError, GradcodeWarning

if TYPE_CHECKING:
    from gradcode import (
        catalog,
        clusters,
        codes,
        compression,
        delays,
        network,
        planning,
        reporting,
        schemes,
        solvers,
        training,
    )
    from gradcode.clusters import LocalCluster, SimulatedCluster
    from gradcode.clusters.ray import RayCluster
    from gradcode.protocol import Report
    from gradcode.session import Session, Step
    from gradcode.trainer import Trainer

__version__ = "0.1.0"

_LAZY = {
    "LocalCluster": "gradcode.clusters",
    "RayCluster": "gradcode.clusters.ray",
    "SimulatedCluster": "gradcode.clusters",
    "Report": "gradcode.protocol",
    "Session": "gradcode.session",
    "Step": "gradcode.session",
    "Trainer": "gradcode.trainer",
}
_ROOMS = (
    "catalog",
    "clusters",
    "codes",
    "compression",
    "delays",
    "network",
    "planning",
    "reporting",
    "schemes",
    "solvers",
    "training",
)

__all__ = [
    "GradcodeError",
    "GradcodeWarning",
    "LocalCluster",
    "Report",
    "Session",
    "SimulatedCluster",
    "Step",
    "Trainer",
    "__version__",
    "catalog",
    "clusters",
    "codes",
    "compression",
    "delays",
    "errors",
    "network",
    "planning",
    "reporting",
    "schemes",
    "solvers",
    "training",
]
if importlib.util.find_spec("ray"):  # else `from gradcode import *` would ask for what cannot be had
    __all__ += ["RayCluster"]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    if name in _ROOMS:
        return importlib.import_module(f"gradcode.{name}")
    raise AttributeError(f"module 'gradcode' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
