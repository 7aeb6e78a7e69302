"""What all tests share: one thread and the same examples every time, so that numbers repeat bit for bit."""

from __future__ import annotations

import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("repeatable", deadline=None, derandomize=True)  # a busy machine is no failure
settings.load_profile("repeatable")
