"""Where orders are carried out: under a virtual clock, or in processes of this machine."""

from gradcode.clusters.local import LocalCluster
from gradcode.clusters.simulated import SimulatedCluster
from gradcode.clusters.station import ScriptedLoss

__all__ = ["LocalCluster", "ScriptedLoss", "SimulatedCluster"]
