"""Delays from a table, as every cluster takes them."""

from __future__ import annotations

import numpy as np

from gradcode.delays import Delays, DelayTable, as_table
from gradcode.delays.law import Source as DelaySource
from gradcode.protocol import Floats

NOTICE_BYTES = 16  # of an answer without payload


def delay_table(delays: Delays | DelaySource | DelayTable | None, workers: int, seed: int) -> DelayTable | None:
    """The one table of a cluster's delays; None: everything is instant, or as quick as it really is."""
    return None if delays is None else as_table(delays, workers, seed)


def compute_times(table: DelayTable | None, number: int, workers: int) -> Floats:
    """(N, stages) seconds per unit of load in iteration ``number``."""
    return np.zeros((workers, 1)) if table is None else table.compute(number)
