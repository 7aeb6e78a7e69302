"""What is told of a training: listeners on :class:`gradcode.protocol.Report`, usable from Python and the command line.

::

    with MetricsFile("metrics.jsonl") as metrics, TraceFile("trace.json") as trace:
        session.listeners += [metrics, trace]

``gradcode.reporting.plots`` draws; it is imported by itself, for it loads Matplotlib.
"""

from gradcode.reporting.metrics import MetricsFile, read_metrics, record
from gradcode.reporting.progress import Progress
from gradcode.reporting.summary import Summary, WaitingForAll
from gradcode.reporting.trace import TraceFile, read_trace

__all__ = [
    "MetricsFile",
    "Progress",
    "Summary",
    "TraceFile",
    "WaitingForAll",
    "read_metrics",
    "read_trace",
    "record",
]
