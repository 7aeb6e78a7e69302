"""What the papers measured, measured again: one file per paper, run by ``gradcode reproduce NAME``.

A new experiment is one file here, or one folder, that registers its function with
:func:`gradcode.experiments.registry.experiment`.
"""

import gradcode.experiments.block_coordinate
import gradcode.experiments.communication_efficient
import gradcode.experiments.coupon
import gradcode.experiments.dynamic_clustering
import gradcode.experiments.encoded
import gradcode.experiments.hierarchical
import gradcode.experiments.lagc
import gradcode.experiments.one_bit
import gradcode.experiments.partial
import gradcode.experiments.self_scheduling
import gradcode.experiments.two_stage
import gradcode.experiments.uplink  # noqa: F401 -- they register themselves
from gradcode.experiments.comparison import Comparison, Comparisons, write_table
from gradcode.experiments.registry import EXPERIMENTS, Experiment, Request, by_name

__all__ = [
    "EXPERIMENTS",
    "Comparison",
    "Comparisons",
    "Experiment",
    "Request",
    "by_name",
    "write_table",
]
