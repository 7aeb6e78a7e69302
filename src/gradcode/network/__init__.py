"""The uplink that workers share: who may put how much data into it, who sends, and with which power.

A controller decides slot by slot. It is one object wherever it runs: by itself (:func:`simulate`), under the replies of
a simulated cluster, or between the workers and the master of a real one.
"""

from gradcode.network.alone import Averages, jain, simulate
from gradcode.network.baselines import BestChannel, MaxWeight, NoControl, RoundRobin
from gradcode.network.channel import Channel, Rayleigh, Steady, path_loss
from gradcode.network.fair import FairUplink
from gradcode.network.presets import harvesting_radio, harvesting_uplink, rayleigh, wire
from gradcode.network.radio import Controller, Flow, Queues, Radio, Slot, knapsack
from gradcode.network.registry import CONTROLLERS, RADIOS
from gradcode.network.transmission import Traffic, Transmission, Uplink

__all__ = [
    "CONTROLLERS",
    "RADIOS",
    "Averages",
    "BestChannel",
    "Channel",
    "Controller",
    "FairUplink",
    "Flow",
    "MaxWeight",
    "NoControl",
    "Queues",
    "Radio",
    "Rayleigh",
    "RoundRobin",
    "Slot",
    "Steady",
    "Traffic",
    "Transmission",
    "Uplink",
    "harvesting_radio",
    "harvesting_uplink",
    "jain",
    "knapsack",
    "path_loss",
    "rayleigh",
    "simulate",
    "wire",
]
