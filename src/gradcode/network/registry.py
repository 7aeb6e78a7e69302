"""Controllers and radios by name, for configurations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from gradcode.network.baselines import BestChannel, MaxWeight, NoControl, RoundRobin
from gradcode.network.fair import FairUplink
from gradcode.network.presets import harvesting_radio, rayleigh, wire
from gradcode.network.radio import Controller, Radio

CONTROLLERS: Mapping[str, Callable[..., Controller]] = MappingProxyType(
    {
        "fair": FairUplink,
        "round_robin": RoundRobin,
        "best_channel": BestChannel,
        "max_weight": MaxWeight,
        "no_control": NoControl,
    }
)
"""Name -> controller, whose first argument is the radio."""

RADIOS: Mapping[str, Callable[..., Radio]] = MappingProxyType(
    {"wire": wire, "rayleigh": rayleigh, "harvesting": harvesting_radio}
)
"""Name -> radio, whose first argument is the number of workers."""
