"""How long workers take.

A *law* is the distribution of one duration, a *process* how durations go on over iterations and workers, a
*link* how long a message takes. ``Delays`` joins them, and its ``table`` is what every cluster reads::

    from gradcode import delays

    law = delays.ShiftedExponential(shift=0.1, rate=10.0)       # seconds per unit of load
    process = delays.GilbertElliott(law, fail=0.05, recover=0.15, slowdown=10.0)
    link = delays.Link(latency=0.001, bandwidth=1e9, failure=0.01)
    table = delays.Delays(process, link).table(workers=8, seed=0)
    table.compute(3), table.communicate(3, bytes=4e6)           # (8, 1), (8,)

Wherever delays are wanted, a bare law or process will do. Importing this room loads NumPy, nothing heavier.
"""

from gradcode.delays.fitting import Fit, fit, fit_workers
from gradcode.delays.law import Law, Sampler, Source
from gradcode.delays.laws import Deterministic, Empirical, Exponential, Pareto, ShiftedExponential, Weibull
from gradcode.delays.link import Link
from gradcode.delays.process import Bernoulli, GilbertElliott, Occasional, Persistent, PerWorker, Process, slow
from gradcode.delays.registry import LAWS, by_name, from_config
from gradcode.delays.scripted import Script, script
from gradcode.delays.speeds import SpeedHistory
from gradcode.delays.table import Delays, DelayTable, as_delays, as_table
from gradcode.delays.trace import Trace

__all__ = [
    "LAWS",
    "Bernoulli",
    "DelayTable",
    "Delays",
    "Deterministic",
    "Empirical",
    "Exponential",
    "Fit",
    "GilbertElliott",
    "Law",
    "Link",
    "Occasional",
    "Pareto",
    "PerWorker",
    "Persistent",
    "Process",
    "Sampler",
    "Script",
    "ShiftedExponential",
    "Source",
    "SpeedHistory",
    "Trace",
    "Weibull",
    "as_delays",
    "as_table",
    "by_name",
    "fit",
    "fit_workers",
    "from_config",
    "script",
    "slow",
]
