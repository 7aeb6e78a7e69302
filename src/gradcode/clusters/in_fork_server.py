"""Imported by the fork server alone, when it starts: it loads what every worker needs, once."""

import torch.utils.data  # noqa: F401

from gradcode.clusters.nursery import leave_terminal

leave_terminal()
