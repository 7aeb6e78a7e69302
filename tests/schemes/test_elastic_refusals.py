"""What an elastic scheme does where there is no scheme for as many workers, and what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from elastic_cases import K, TwoRows, answer, carry_out, iteration_of, orders_of, repetition, uncoded

from gradcode import codes, schemes
from gradcode.errors import GradcodeWarning
from gradcode.protocol import Iteration, Order, Scheme

# Where there is no scheme for as many


def test_without_a_scheme_for_so_many_the_old_one_stays_and_it_is_said_once() -> None:
    def build(workers: int) -> Scheme:
        if workers < 7:
            raise ValueError(f"stragglers=2 needs 7 workers, not {workers}")
        return repetition(workers)

    scheme = schemes.elastic(build, 8, patience=0)
    with pytest.warns(GradcodeWarning, match=r"no scheme for the 6 workers .* stragglers=2 needs 7 workers, not 6"):
        carry_out(scheme, iteration_of(0, away=[6, 7]))
    assert len(scheme.members) == 8
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        carry_out(scheme, iteration_of(1, away=[6, 7]))
        carry_out(scheme, iteration_of(2, away=[7]))
        orders = orders_of(scheme.start(iteration_of(3, away=[5])))
        for order in orders[:6]:
            if order.worker != 5 and not scheme.done:
                answer(scheme, order)
    assert len(scheme.members) == 7
    with pytest.warns(GradcodeWarning, match="no scheme for the 3 workers"):
        scheme.start(iteration_of(4, [0, 1, 2]))


def test_who_is_back_is_taken_in_though_there_is_no_scheme_without_the_missing() -> None:
    def build(workers: int) -> Scheme:
        if workers in (1, 2):
            raise ValueError("too few")
        return repetition(workers)

    scheme = schemes.elastic(build, 4, patience=0)
    carry_out(scheme, iteration_of(0, [0, 1, 2]))
    assert scheme.members == (0, 1, 2)
    with pytest.warns(GradcodeWarning, match="2 workers"):
        scheme.start(iteration_of(1, [0, 3]))
    assert scheme.members == (0, 1, 2, 3)


# What cannot be elastic


def with_layout(**changes: Any) -> Callable[[int], Scheme]:
    """A scheme whose layout is another one for seven workers."""

    def build(workers: int) -> Scheme:
        scheme: Any = uncoded(workers)
        if workers == 7:
            scheme.layout = replace(scheme.layout, **changes)
        return scheme  # type: ignore[no-any-return]

    return build


def remembering(workers: int) -> Scheme:
    scheme: Any = uncoded(workers)
    scheme.layout = replace(scheme.layout, memory=workers)
    return scheme  # type: ignore[no-any-return]


def with_edge_nodes(workers: int) -> Scheme:
    per_edge = [2] * (workers // 2)
    return schemes.hierarchical(codes.hierarchical(per_edge, 1, 0))


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (schemes.uncoded, r"build\(7\) has 7 partitions, build\(8\) has 8: .* give partitions=8"),
        (lambda workers: uncoded(8), r"build\(7\) gave .* for 8 workers, not 7"),
        (remembering, r"layout\.memory=8.* belongs to the number"),
        (with_edge_nodes, "hierarchical.* cannot be elastic: it has edge nodes.* fixed by the cluster's topology"),
        (lambda workers: schemes.greedy([4, 4], 0, 1), "greedy.* cannot be elastic: it has edge nodes"),
        (with_layout(packed=True), r"build\(7\) has packed=True, build\(8\) has packed=False"),
        (with_layout(fold=2), "fold=2"),
        (with_layout(history=3), "history=3"),
        (with_layout(codec="bits"), "codec='bits'"),
        (with_layout(rows=8), r"build\(7\) has 8 rows, more than 1 for each worker"),
        (with_layout(slots=9), r"build\(7\) has 9 slots, build\(8\) only 8"),
    ],
)
def test_what_does_not_go_together_is_refused(build: Callable[[int], Scheme], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schemes.elastic(build, 8)


class Lopsided(TwoRows):
    """Worker 0 wants three rows."""

    def start(self, iteration: Iteration) -> list[Order]:
        return [replace(order, worker=0) for order in super().start(iteration)[:3]]


class Wandering(TwoRows):
    """The same row for two workers."""

    def start(self, iteration: Iteration) -> list[Order]:
        return [replace(order, row=0) for order in super().start(iteration)]


class Holding(TwoRows):
    def start(self, iteration: Iteration) -> list[Order]:
        return [replace(order, hold=True) for order in super().start(iteration)]


@pytest.mark.parametrize(
    ("build", "said"),
    [(Lopsided, "worker 0 more than 2 rows"), (Wandering, "belongs to worker 0"), (Holding, "until they are granted")],
)
def test_what_only_orders_show_is_refused_at_first_use(build: Callable[[int], Scheme], said: str) -> None:
    scheme = schemes.elastic(build, 8)
    with pytest.raises(ValueError, match=said):
        scheme.start(iteration_of())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"workers": 0}, "workers=0"),
        ({"workers": 2, "patience": -1}, "patience=-1"),
        ({"workers": 2, "patience": 0.5}, "patience=0.5"),
    ],
)
def test_wrong_arguments(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        schemes.elastic(uncoded, **arguments)


def test_a_build_that_fails_for_everybody_says_so() -> None:
    with pytest.raises(ValueError, match="workers=4"):
        schemes.elastic(lambda workers: schemes.fastest(workers, 9, partitions=K), 4)
