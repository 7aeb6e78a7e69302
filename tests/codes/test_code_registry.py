"""The registry: complete, documented, and open to further codes."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import numpy as np
import pytest

from gradcode import codes


def test_every_constructor_is_registered():
    functions = {name for name in codes.__all__ if inspect.isfunction(getattr(codes, name))}
    # A block code is several codes, one for each block: what the registry says of a code does not apply.
    assert functions - {"block", "create", "entry", "register"} == set(codes.REGISTRY)
    for name, entry in codes.REGISTRY.items():
        assert entry.name == name
        assert entry.constructor is getattr(codes, name)


def test_every_entry_says_what_it_trades():
    for entry in codes.REGISTRY.values():
        for text in (entry.summary, entry.tolerance, entry.load, entry.needs, entry.choose):
            assert text.strip()
            assert "\n" not in text
    assert len({entry.summary for entry in codes.REGISTRY.values()}) == len(codes.REGISTRY)
    approximate = {name for name, entry in codes.REGISTRY.items() if not entry.exact}
    assert approximate == {"stochastic", "bernoulli"}


def test_every_constructor_takes_partitions():
    for entry in codes.REGISTRY.values():
        assert inspect.signature(entry.constructor).parameters["partitions"].default is None


def test_an_unknown_name_lists_the_names():
    with pytest.raises(
        ValueError, match="name='mds' must be one of the codes batched_coupon, bernoulli, clustered, comm"
    ):
        codes.create("mds", workers=4)


def test_unknown_parameters_list_the_parameters():
    with pytest.raises(ValueError, match=r"must suit uncoded\(workers, partitions, dtype\)"):
        codes.create("uncoded", worker=4)


def test_a_code_registers_itself(monkeypatch):
    monkeypatch.setattr("gradcode.codes.registry.REGISTRY", {})

    @codes.register(summary="two workers", exact=True, tolerance="0", load="1", needs="-", choose="never")
    def pair(partitions: int | None = None, scale: float = 1.0) -> codes.GradientCode:
        return codes.uncoded(2, partitions)

    code = codes.create("pair", scale=2.0)
    assert repr(code) == "pair(scale=2.0)"
    np.testing.assert_array_equal(code.encoding, np.eye(2))


@pytest.mark.parametrize("name", [module.name for module in pkgutil.iter_modules(codes.__path__)])
def test_examples_in_docstrings(name):
    module = importlib.import_module(f"gradcode.codes.{name}")
    finder = doctest.DocTestFinder()
    runner = doctest.DocTestRunner()
    for example in finder.find(module, globs=vars(codes) | vars(module)):
        runner.run(example)
    assert runner.failures == 0


def test_every_constructor_has_an_example():
    for entry in codes.REGISTRY.values():
        documentation = inspect.getdoc(entry.constructor)
        assert documentation
        assert ">>>" in documentation
        assert "ValueError" in documentation
