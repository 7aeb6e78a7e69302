"""Configuration: every law by name, nested laws, and errors that name key and value."""

import dataclasses
import math
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import gradcode.delays as room
from gradcode.delays import (
    LAWS,
    Bernoulli,
    Delays,
    Deterministic,
    Empirical,
    Exponential,
    GilbertElliott,
    Link,
    Occasional,
    Pareto,
    Persistent,
    PerWorker,
    ShiftedExponential,
    Source,
    Trace,
    Weibull,
    by_name,
    from_config,
    script,
)

BASE = {"law": "exponential", "rate": 2.0}
EXAMPLES = {
    "deterministic": ({"seconds": 0.5}, Deterministic(0.5)),
    "exponential": ({"rate": 2.0}, Exponential(2.0)),
    "shifted_exponential": ({"shift": 0.1, "rate": 2.0}, ShiftedExponential(0.1, 2.0)),
    "pareto": ({"shape": 1.5, "scale": 0.01}, Pareto(1.5, 0.01)),
    "weibull": ({"shape": 0.7, "scale": 1.0, "shift": 0.1}, Weibull(0.7, 1.0, 0.1)),
    "empirical": ({"times": [1.0, 2.0]}, Empirical([1.0, 2.0])),
    "bernoulli": (
        {"base": BASE, "probability": 0.1, "slowdown": 10.0},
        Bernoulli(Exponential(2.0), 0.1, 10.0),
    ),
    "occasional": ({"base": BASE, "probability": 0.1}, Occasional(Exponential(2.0), 0.1)),
    "gilbert_elliott": (
        {"base": BASE, "fail": 0.1, "recover": 0.2, "slowdown": math.inf},
        GilbertElliott(Exponential(2.0), 0.1, 0.2, math.inf),
    ),
    "persistent": ({"base": BASE, "factors": {"7": 10.0}}, Persistent(Exponential(2.0), {7: 10.0})),
    "per_worker": (
        {"sources": [BASE, {"law": "deterministic", "seconds": 1}]},
        PerWorker([Exponential(2.0), Deterministic(1)]),
    ),
    "trace": ({"path": "trace.csv"}, Trace([[1.0, 2.0]])),
    "script": (
        {
            "base": BASE,
            "slow": [{"worker": 1, "iterations": [2], "seconds": 0.5}],
            "die": [{"worker": 0, "iteration": 3}],
        },
        script(Exponential(2.0)).slow(1, [2], seconds=0.5).die(0, 3),
    ),
}


@pytest.fixture(autouse=True)
def in_folder_with_trace(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Trace([[1.0, 2.0]]).to_csv("trace.csv")


@pytest.mark.parametrize("name", LAWS)
def test_every_name_builds_what_it_names(name):
    parameters, expected = EXAMPLES[name]
    assert from_config({"law": name, **parameters}) == Delays(expected)
    assert LAWS[name].summary
    assert set(parameters) <= set(LAWS[name].parameters)


def test_every_final_source_has_a_name():
    """What is public and can be built is in the registry, under its name in snake case."""
    public = [getattr(room, name) for name in room.__all__]
    sources = [
        one for one in public if isinstance(one, type) and issubclass(one, Source) and not one.__abstractmethods__
    ]
    named = {"".join("_" + c.lower() if c.isupper() else c for c in one.__name__).lstrip("_") for one in sources}
    assert named == set(LAWS)


def test_by_name():
    assert by_name("pareto", shape=1.5, scale=0.01) == Pareto(1.5, 0.01)
    with pytest.raises(ValueError, match=r"law='parto' must be one of deterministic, exponential"):
        by_name("parto")
    with pytest.raises(ValueError, match=r"pareto\.shap=1: key must be one of shape, scale"):
        by_name("pareto", shap=1, scale=2)


def test_a_whole_configuration_in_toml():
    text = """
        [cluster.delays]
        stages = 2
        [cluster.delays.compute]
        law = "gilbert_elliott"
        fail = 0.05
        recover = 0.15
        slowdown = inf
        [cluster.delays.compute.base]
        law = "bernoulli"
        probability = 0.1
        slowdown = 3
        base = { law = "pareto", shape = 1.5, scale = 0.01 }
        [cluster.delays.communicate]
        latency = { law = "exponential", rate = 100.0 }
        bandwidth = 1e9
        failure = 0.01
    """
    base = Bernoulli(Pareto(1.5, 0.01), 0.1, 3)
    expected = Delays(
        GilbertElliott(base, 0.05, 0.15, math.inf), Link(Exponential(100.0), bandwidth=1e9, failure=0.01), stages=2
    )
    assert from_config(tomllib.loads(text)["cluster"]["delays"], "cluster.delays") == expected


def test_short_forms():
    assert from_config(0.5) == Delays(Deterministic(0.5))
    assert from_config([0.5, BASE]) == Delays([Deterministic(0.5), Exponential(2.0)])
    assert from_config({"compute": [0.5, BASE]}) == Delays([Deterministic(0.5), Exponential(2.0)])
    assert from_config({"compute": 0.5, "receive": 0.01}) == Delays(Deterministic(0.5), receive=0.01)
    late = {"law": "occasional", "base": BASE, "probability": 0.1}
    assert from_config({"start": late}) == Delays(Deterministic(0.0), start=Occasional(Exponential(2.0), 0.1))
    assert from_config({"communicate": BASE}) == Delays(Deterministic(0.0), Link(Exponential(2.0)))
    links = from_config({"compute": 1, "communicate": [{"latency": 0.5}, {}]})
    assert links == Delays(Deterministic(1), [Link(0.5), Link()])
    assert np.all(from_config({}).table(2, 0).compute(0) == 0)
    assert from_config({"law": "script"}) == Delays(script())


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"law": "parto"}, r"delays.law='parto' must be one of .*pareto"),
        ({"law": ["pareto"]}, r"delays.law=\['pareto'\] must be one of"),
        ({"law": "pareto", "shape": 1.0}, "delays=.* must have scale"),
        ({"law": "pareto", "shape": 1.0, "scale": 1.0, "tail": 2}, "delays.tail=2: key must be one of shape, scale"),
        ({"law": "pareto", "shape": -1.0, "scale": 1.0}, "delays: shape=-1.0 must be > 0"),
        ({"law": "pareto", "shape": "1", "scale": 1.0}, "delays: shape='1' must be a number"),
        (
            {"compute": {"law": "bernoulli", "probability": 0.1, "slowdown": 2, "base": {"law": "x"}}},
            "delays.compute.base.law='x' must be one of",
        ),
        (
            {"compute": {"law": "bernoulli", "probability": 0.1, "slowdown": 2, "base": 1}},
            "delays.compute: base=1 must be a law or a process",
        ),
        ({"compute": [1, {"law": "exponential", "rate": 0}]}, r"delays.compute\[1\]: rate=0 must be > 0"),
        ({"compute": "fast"}, "delays.compute='fast' must be a number of seconds, a table"),
        ({"compute": True}, "delays.compute=True must be a number of seconds"),
        ({"compute": -1}, "delays.compute: seconds=-1 must be >= 0"),
        ({"compute": 1, "network": 2}, "delays.network=2: key must be one of law, compute, communicate, stages"),
        ({"compute": 1, "stages": 0}, "delays: stages=0 must be >= 1"),
        ({"compute": 1, "receive": -1}, "delays: receive=-1 must be >= 0"),
        ({"communicate": {"delay": 1}}, "delays.communicate.delay=1: key must be one of latency, bandwidth"),
        ({"communicate": {"failure": 1.0}}, "delays.communicate: failure=1.0 must lie in"),
        ({"communicate": {"latency": {"law": "x"}}}, "delays.communicate.latency.law='x' must be one of"),
        ({"compute": [1, 1], "communicate": [{}]}, r"delays: len\(communicate\)=1 must be 2"),
        ({"law": "persistent", "base": BASE, "factors": {"a": 2.0}}, "delays: invalid literal"),
        ({"law": "script", "slow": [{"worker": 0, "when": 3}]}, "delays: .*'when'"),
        ({"law": "per_worker", "sources": 3}, "delays: "),
    ],
)
def test_errors_name_key_and_value(config, message):
    with pytest.raises(ValueError, match=message):
        from_config(config)


def test_laws_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Pareto(1.5, 0.01).shape = 2.0


def test_importing_the_room_loads_neither_torch_nor_scipy():
    """The room alone: the package around it may load what it likes."""
    folder = Path(room.__file__).parent.parent
    program = f"""
import sys, types
package = types.ModuleType("gradcode")
package.__path__ = [{str(folder)!r}]
sys.modules["gradcode"] = package
import gradcode.delays
heavy = {{"torch", "scipy.stats", "scipy.optimize", "scipy.integrate", "gradcode.codes"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
