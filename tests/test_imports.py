"""What works without torch, and what the package offers."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import gradcode

LIGHT = [
    "gradcode",
    "gradcode.protocol",
    "gradcode.errors",
    "gradcode.codes",
    "gradcode.compression",
    "gradcode.delays",
    "gradcode.network",
    "gradcode.schemes",
]


def test_no_torch_and_no_numba_are_loaded_before_they_are_needed() -> None:
    """One process for all: what is loaded by an earlier one would be seen by the later ones too."""
    program = f"""
import importlib, sys
for name in {LIGHT!r}:
    importlib.import_module(name)
    assert "torch" not in sys.modules, name
    assert "numba" not in sys.modules, name
import gradcode, numpy
scheme = gradcode.schemes.coded(gradcode.codes.fractional_repetition(4, 1), deadline=3.0)
compute = gradcode.delays.ShiftedExponential(0.1, 1.0).sample(numpy.random.default_rng(0), (5, 4))[:, :, None]
assert scheme.duration(compute, numpy.zeros((5, 4))).shape == (5,)
assert "torch" not in sys.modules
gradcode.Session, gradcode.LocalCluster
assert "torch" in sys.modules and "numba" not in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", gradcode.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(gradcode, name) is not None and name in dir(gradcode)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'gradcode' has no attribute 'sessions'"):
        gradcode.sessions  # noqa: B018


@pytest.mark.parametrize(
    "room", ["clusters", "codes", "compression", "delays", "network", "schemes", "solvers", "training"]
)
def test_rooms_offer_what_they_list(room: str) -> None:
    module = importlib.import_module(f"gradcode.{room}")
    assert module.__all__ and all(hasattr(module, name) for name in module.__all__)
