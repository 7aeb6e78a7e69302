"""The soak's short form on both clusters, and what its plan and its checks are.

Each soak has a process of its own: it alters workers' code, which no later test may meet.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from gradcode import codes
from gradcode.clusters.inspection import STRIKES

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
needs_proc = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.fixture
def sabotage(benchmarks: None) -> ModuleType:
    return importlib.import_module("sabotage")


@pytest.fixture
def soak(benchmarks: None) -> ModuleType:
    return importlib.import_module("soak")


@pytest.mark.serial
@needs_proc
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_soak(kind: str, tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(BENCHMARKS / "soak.py"), "--cluster", kind, "--short", "--json", str(figures)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["checks"] and all(found["checks"].values())
    assert found["figures"]["kills sent"] > 0 and found["figures"]["stops sent"] > 0


@pytest.mark.parametrize(("iterations", "seed"), [(60, 0), (150, 0), (2000, 0), (2000, 1)])
def test_a_plan_leaves_every_iteration_its_gradient(sabotage: ModuleType, iterations: int, seed: int) -> None:
    """Whoever is refused or excluded in an iteration, the others can decode; who is not meant to be excluded is not."""
    plan = sabotage.draw(iterations, 8, seed, 0.3)
    code = codes.fractional_repetition(8, 2)
    bad = plan.replies != sabotage.SOUND
    for number in range(iterations):
        assert code.decode([worker for worker in range(8) if not bad[number, worker]]).exact
    assert bad[plan.last :, sabotage.EXCLUDED].sum() >= 2 * STRIKES
    for worker in (sabotage.NAN, sabotage.SHORT):
        numbers = np.flatnonzero(bad[:, worker])
        assert len(numbers) and (np.diff(numbers) > 1).all()
    assert {worker for _, worker in np.argwhere(bad)} == {sabotage.NAN, sabotage.SHORT, sabotage.EXCLUDED}
    assert {signal.seconds > 0 for signal in plan.signals.values()} == {True, False}


def test_a_plan_follows_from_its_seed(sabotage: ModuleType) -> None:
    one, same, other = (sabotage.draw(200, 8, seed, 0.3) for seed in (3, 3, 4))
    assert np.array_equal(one.pauses, same.pauses) and np.array_equal(one.replies, same.replies)
    assert one.signals == same.signals and one.signals != other.signals


def test_a_plan_needs_room(sabotage: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"workers=4 and iterations=2000 must be at least 7 and 40"):
        sabotage.draw(2000, 4, 0, 0.3)


@pytest.mark.parametrize(
    ("name", "values", "holds"),
    [
        ("master: descriptors", [60.0] * 8, True),
        ("master: descriptors", [60.0] * 4 + [62.0] + [60.0] * 3, True),
        ("master: descriptors", [60.0] * 4 + [70.0] + [60.0] * 3, False),
        ("master: descriptors", [60.0 + look for look in range(8)], False),
        ("master: memory", [300.0 * 2**20 + look * 2**20 for look in range(8)], True),
        ("master: memory", [300.0 * 2**20 + look * 2**23 for look in range(8)], False),
        ("object store: bytes", [2.0**20, 2.0**21] * 4, True),
        ("object store: bytes", [2.0**20 + look * 2**18 for look in range(8)], False),
    ],
)
def test_growth(soak: ModuleType, name: str, values: list[float], holds: bool) -> None:
    """Figures may waver within their limits; what rises from quarter to quarter, or far in one look, is seen."""
    assert soak.growth(name, values).holds is holds
