"""DRACO driven by hand: every set of corrupt workers, every lie, stragglers beside them, and what is left certain."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import schemes
from gradcode.delays import DelayTable
from gradcode.errors import Contradiction
from gradcode.protocol import Abandon, Combination, Iteration, Order, Reply
from gradcode.schemes.draco import Draco, ErrorCorrection, MajorityVote
from gradcode.schemes.draco.projection import Projection
from gradcode.training import LeastSquares

LENGTH = 31

# What a corrupt worker sends in place of its row; each has its own.
LIES: dict[str, Callable[[torch.Tensor, int], torch.Tensor]] = {
    "negated": lambda row, worker: -row,
    "scaled": lambda row, worker: row * (100.0 + worker),
    "shrunk": lambda row, worker: row * 0.9,
    "constant": lambda row, worker: torch.full_like(row, -100.0),  # the same of all who lie: they collude
    "one coordinate": lambda row, worker: row + row.norm() * torch.nn.functional.one_hot(torch.tensor(7), len(row)),
    "huge": lambda row, worker: torch.full_like(row, 1e30),
}


class Trial:
    """One iteration, with the rows that its workers send."""

    def __init__(self, scheme: Draco, dtype: torch.dtype = torch.float64, seed: int = 0) -> None:
        self.scheme, self.dtype = scheme, dtype
        generator = torch.Generator().manual_seed(seed)
        self.gradients = torch.randn(scheme.partitions, LENGTH, generator=generator, dtype=dtype)
        sizes = np.ones(scheme.partitions, dtype=np.int64)
        target = Combination(dict.fromkeys(range(scheme.partitions), 1.0))
        iteration = Iteration(0, 0, target, tuple(range(scheme.workers)), sizes, dtype=dtype)
        self.orders: dict[int, Order] = {order.worker: order for order in scheme.start(iteration)}  # type: ignore[union-attr]
        self.rows = torch.full((scheme.workers, scheme.layout.width(LENGTH)), torch.nan, dtype=dtype)
        for worker, order in self.orders.items():
            self.rows[worker] = self._row(order)
        self.arrived: list[int] = []

    def _row(self, order: Order) -> torch.Tensor:
        held = list(order.combination)
        coefficients = torch.tensor(list(order.combination.values()), dtype=torch.complex128)
        if not self.scheme.layout.packed:
            return coefficients.real.to(self.dtype) @ self.gradients[held]
        half = (LENGTH + 1) // 2
        padded = torch.nn.functional.pad(self.gradients[held], (0, 2 * half - LENGTH)).double()
        row = coefficients @ torch.complex(padded[:, :half], padded[:, half:])
        return torch.cat([row.real, row.imag]).to(self.dtype)

    def lie(self, who: Iterable[int], lie: str) -> None:
        for worker in who:
            self.rows[worker] = LIES[lie](self.rows[worker], worker)

    def answer(self, workers: Iterable[int], losses: dict[int, float] | None = None) -> None:
        """Their replies, in this order, until the iteration has ended."""
        for worker in workers:
            if self.scheme.done or worker not in self.orders:
                continue
            order = self.orders.pop(worker)
            loss = (losses or {}).get(worker, 1.0)
            statistics = np.full((len(order.combination), 1), loss)
            self.arrived.append(worker)
            for action in self.scheme.receive(Reply(order, self.rows[worker].view(torch.uint8), 1.0, statistics)):
                assert isinstance(action, Abandon)
                for slot in action.slots:
                    del self.orders[slot]

    @property
    def error(self) -> float:
        """‖ĝ − g‖ / Σ_j‖g_j‖."""
        out = torch.empty(LENGTH, dtype=self.dtype)
        self.scheme.gradient(self.rows, out)
        exact = self.gradients.double()
        return float((out.double() - exact.sum(0)).norm() / exact.norm(dim=1).sum())


def subsets(items: Sequence[int], most: int) -> list[tuple[int, ...]]:
    return [own for size in range(most + 1) for own in itertools.combinations(items, size)]


DTYPES = {"float64": (torch.float64, 1e-12), "float32": (torch.float32, 1e-5)}
SIZES: list[tuple[int, int, int, Any]] = [
    (3, 1, 0, "repetition"),
    (6, 1, 0, "repetition"),
    (10, 2, 0, "repetition"),
    (8, 1, 1, "repetition"),
    (5, 1, 0, "cyclic"),
    (6, 1, 0, "cyclic"),
    (6, 1, 1, "cyclic"),
    (7, 2, 0, "cyclic"),
    (8, 2, 1, "cyclic"),
]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("workers", "adversaries", "stragglers", "kind"), SIZES)
def test_every_set_of_corrupt_workers(workers: int, adversaries: int, stragglers: int, kind: Any, dtype: str) -> None:
    """Audited, all who lie are named and nobody else, and the gradient is that of the others."""
    scheme = schemes.draco(workers, adversaries, kind, stragglers, audit=True, dtype=dtype)
    own, bound = DTYPES[dtype]
    lies = list(LIES)
    for number, corrupt in enumerate(subsets(range(workers), adversaries)):
        trial = Trial(scheme, own, seed=number)
        trial.lie(corrupt, lies[number % len(lies)])
        trial.answer(range(workers))
        assert scheme.done and len(trial.arrived) == workers
        assert scheme.corrupt == corrupt
        assert trial.error <= scheme.error < bound and scheme.exact


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize(("workers", "adversaries", "stragglers", "kind"), SIZES)
def test_corrupt_workers_beside_stragglers(
    workers: int, adversaries: int, stragglers: int, kind: Any, lie: str
) -> None:
    """s liars and t silent ones, or one liar fewer and one silent one more: whoever they are, in whatever order."""
    scheme = schemes.draco(workers, adversaries, kind, stragglers)
    rng = np.random.default_rng(workers)
    for corrupt in itertools.islice(subsets(range(workers), adversaries), 0, None, 3):
        others = [worker for worker in range(workers) if worker not in corrupt]
        silent = rng.permutation(others)[: stragglers + adversaries - len(corrupt)].tolist()
        trial = Trial(scheme)
        trial.lie(corrupt, lie)
        trial.answer(rng.permutation([worker for worker in range(workers) if worker not in silent]).tolist())
        assert scheme.done and set(scheme.corrupt) <= set(corrupt)
        assert trial.error < 1e-10


@pytest.mark.parametrize(("workers", "adversaries", "stragglers", "kind"), SIZES)
def test_it_ends_with_the_first_replies_that_make_it_certain(
    workers: int, adversaries: int, stragglers: int, kind: Any
) -> None:
    """Honest all: s + 1 of each group, or N − s − t; not one earlier, for those could be s liars and one more."""
    scheme = schemes.draco(workers, adversaries, kind, stragglers)
    for seed in range(20):
        order = np.random.default_rng(seed).permutation(workers).tolist()
        trial = Trial(scheme)
        trial.answer(order)
        assert scheme.done and not scheme.corrupt and trial.error < 1e-10
        if kind == "cyclic":
            assert len(trial.arrived) == workers - adversaries - stragglers
        else:
            per_group = np.bincount([worker % scheme.groups for worker in trial.arrived])
            assert per_group.tolist() == [adversaries + 1] * scheme.groups
        times = np.empty((1, workers))
        times[0, order] = np.arange(1.0, workers + 1)
        assert scheme.completion(times)[0] == times[0, trial.arrived].max()


@pytest.mark.parametrize("kind", ["repetition", "cyclic"])
def test_more_liars_than_adversaries_are_an_error(kind: Any) -> None:
    """Two that lie apart where one is allowed for: no gradient is certain, and the master says so."""
    trial = Trial(schemes.draco(6, 1, kind))
    trial.lie((1, 3), "scaled")  # of one group: 1, 3, 5
    with pytest.raises(Contradiction, match=r"iteration 0.*contradict.*adversaries=1.*tolerance="):
        trial.answer(range(6))
    assert not trial.scheme.done


def test_two_who_agree_are_believed_where_one_is_allowed_for() -> None:
    """What the guarantee does not cover: colluding liars beyond s, whose victim is then the one that is named."""
    trial = Trial(schemes.draco(3, 1, audit=True))
    trial.lie((0, 1), "constant")
    trial.answer(range(3))
    assert trial.scheme.done and trial.scheme.corrupt == (2,) and trial.error > 0.1


@pytest.mark.parametrize(("workers", "adversaries", "stragglers", "kind"), SIZES)
def test_whoever_lies_of_the_loss_alone_is_named(workers: int, adversaries: int, stragglers: int, kind: Any) -> None:
    """Every set of liars, the first of whom lies of the gradient in every other set; they agree among themselves."""
    scheme = schemes.draco(workers, adversaries, kind, stragglers, audit=True)
    for number, corrupt in enumerate(subsets(range(workers), adversaries)):
        trial = Trial(scheme)
        plain = corrupt[number % 2 :]
        trial.lie(corrupt[: number % 2], "scaled")
        trial.answer(range(workers), losses=dict.fromkeys(plain, 0.5))
        assert scheme.done and scheme.corrupt == corrupt and trial.error < 1e-10


@pytest.mark.parametrize(("workers", "adversaries", "stragglers", "kind"), SIZES)
def test_a_loss_is_believed_from_more_than_the_liars_alone(
    workers: int, adversaries: int, stragglers: int, kind: Any
) -> None:
    """In whatever order they answer, and though others are silent: no liar is among those not named when it ends."""
    scheme, rng = schemes.draco(workers, adversaries, kind, stragglers), np.random.default_rng(workers)
    for corrupt in subsets(range(workers), adversaries)[::3]:
        others = [worker for worker in range(workers) if worker not in corrupt]
        silent = rng.permutation(others)[: stragglers + adversaries - len(corrupt)].tolist()
        trial = Trial(scheme)
        order = rng.permutation([worker for worker in range(workers) if worker not in silent]).tolist()
        trial.answer(order, losses=dict.fromkeys(corrupt, 0.5))
        assert scheme.done and set(scheme.corrupt) == set(corrupt) & set(trial.arrived)


def test_losses_may_differ_by_rounding_where_gradients_may() -> None:
    trial = Trial(schemes.draco(5, 1, "cyclic", audit=True, tolerance=1e-6))
    trial.answer(range(5), losses={0: 1.0 + 4e-7, 2: 1.0 - 4e-7, 3: 1.0 + 1e-5})
    assert trial.scheme.done and trial.scheme.corrupt == (3,)


@pytest.mark.parametrize("kind", ["repetition", "cyclic"])
def test_more_who_lie_of_the_loss_than_adversaries_are_an_error(kind: Any) -> None:
    trial = Trial(schemes.draco(3, 1, kind))
    with pytest.raises(Contradiction, match=r"contradict.*adversaries=1"):
        trial.answer(range(3), losses={0: 0.5, 1: 0.25})


# Tolerances


@settings(max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from([1e-6, 1e-3]), st.sampled_from([0.0, 2.0, 50.0, 1e9]))
def test_copies_that_differ_by_rounding(seed: int, tolerance: float, lie: float) -> None:
    """Honest ones at most half a tolerance off are never named, and what is used is within a tolerance of one."""
    scheme = schemes.draco(5, 2, tolerance=tolerance, audit=True)
    trial, rng = Trial(scheme, seed=seed), np.random.default_rng(seed)

    def off(size: float) -> torch.Tensor:
        direction = torch.from_numpy(rng.standard_normal(LENGTH))
        return direction / direction.norm() * size

    true = trial.rows[0].clone()
    for worker in range(5):
        trial.rows[worker] = true + off(0.49 * tolerance * float(true.norm()))
    for worker in (0, 3):
        trial.rows[worker] = true + off((lie + 0.4) * tolerance * float(true.norm()))
    trial.answer(rng.permutation(5).tolist())
    assert not set(scheme.corrupt) - {0, 3} and (lie < 4.0 or set(scheme.corrupt) == {0, 3})
    out = torch.empty(LENGTH, dtype=torch.float64)
    scheme.gradient(trial.rows, out)
    # Within a tolerance of a true one, which is half of one off.
    assert float((out - true).norm()) <= 1.6 * tolerance * (1 + lie * tolerance) * float(true.norm())


def test_copies_that_differ_at_all_contradict_one_another_without_a_tolerance() -> None:
    trial = Trial(schemes.draco(3, 1))
    trial.rows[1] *= 1 + 2.0**-50
    trial.rows[2] *= 1 - 2.0**-50
    with pytest.raises(Contradiction, match=r"tolerance=0\.0 must then be larger"):
        trial.answer(range(3))


def test_what_is_below_the_tolerance_does_no_more_harm_than_that() -> None:
    """Cyclic: a lie that is not noticed moves the gradient by at most tolerance times the amplification."""
    scheme, noticed = schemes.draco(7, 2, "cyclic", tolerance=1e-4, audit=True), []
    for exponent in (-6.0, -5.0, -3.0, -2.0):
        trial = Trial(scheme)
        trial.rows[2] *= 1 + 10.0**exponent
        trial.answer(range(7))
        noticed.append(scheme.corrupt == (2,))
        assert noticed[-1] or trial.error <= 1e-4 * scheme.code.worst.condition
    assert noticed == [False, False, True, True]


def test_sixteen_bits_have_no_room_for_errors_to_be_seen() -> None:
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*reply_dtype=torch\.float32.*repetition"):
        Trial(schemes.draco(5, 1, "cyclic"), torch.bfloat16)
    trial = Trial(schemes.draco(5, 2), torch.bfloat16)  # copies are equal in any precision
    trial.lie((1, 2), "negated")
    trial.answer(range(5))
    assert trial.scheme.done and trial.scheme.corrupt == (1, 2)


@pytest.mark.parametrize("length", [1, 1000, (1 << 18) + 5])
def test_functionals_are_linear_and_see_every_coordinate(length: int) -> None:
    projection = Projection(length, 3, np.random.default_rng(0))
    generator = torch.Generator().manual_seed(1)
    one, other = torch.randn(2, length, generator=generator, dtype=torch.float64)
    together = projection(2.0 * one - 3.0 * other)
    assert np.allclose(together, 2 * projection(one) - 3 * projection(other), rtol=1e-9, atol=1e-7)
    for place in {0, length // 2, length - 1}:
        unit = torch.zeros(length)
        unit[place] = 1.0
        assert (projection(unit) != 0).all()


# Arguments, losses, times


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"workers": 6, "adversaries": 0}, "adversaries=0 must be an integer, at least 1"),
        ({"workers": 4, "adversaries": 2}, r"2·adversaries \+ stragglers \+ 1 = 5 workers, and there are workers=4"),
        ({"workers": 8, "adversaries": 1}, r"workers=8 must be a multiple of 3.*take 6 of them, or kind=\"cyclic\""),
        ({"workers": 6, "adversaries": 1, "stragglers": -1}, "stragglers=-1"),
        ({"workers": 6, "adversaries": 1, "kind": "median"}, "kind='median' must be one of 'repetition', 'cyclic'"),
        ({"workers": 6, "adversaries": 1, "tolerance": 1.0}, r"tolerance=1\.0 must be from 0 to below 1"),
        ({"workers": 16, "adversaries": 2, "kind": "cyclic"}, "adversaries=2 with stragglers=0 need a cyclic code"),
    ],
)
def test_what_cannot_be_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        schemes.draco(**arguments)


def test_a_scheme_says_what_it_is() -> None:
    assert repr(schemes.draco(8, 1, "cyclic", 2, 16, audit=True, tolerance=1e-3, dtype="float64")) == (
        "draco(workers=8, adversaries=1, kind='cyclic', stragglers=2, partitions=16, audit=True, tolerance=0.001, "
        "dtype='float64')"
    )
    assert isinstance(schemes.draco(8, 1, "cyclic"), ErrorCorrection)
    assert isinstance(schemes.draco(9, 1, partitions=7), MajorityVote)


def test_an_audit_does_not_wait_for_the_lost() -> None:
    scheme = schemes.draco(6, 1, audit=True)
    trial = Trial(scheme)
    trial.lie((1,), "negated")
    trial.answer((0, 1, 2, 3, 5))  # each group has two that agree, and 4 is missing
    assert not scheme.done
    scheme.lose(4)
    assert scheme.done and scheme.corrupt == (1,) and trial.error < 1e-12


@pytest.mark.parametrize("kind", ["repetition", "cyclic"])
@pytest.mark.parametrize("audit", [False, True])
def test_duration_is_the_simulation(kind: Any, audit: bool) -> None:
    """Draw by draw, with ties; nobody lies."""
    scheme, rng = schemes.draco(6, 1, kind, dtype="float64", audit=audit), np.random.default_rng(5)
    compute, communicate = np.ceil(4 * rng.exponential(1.0, (2, 40, 6))) / 4
    objective = LeastSquares(rng.standard_normal((12, 4)), rng.standard_normal(12), 6)
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(6, DelayTable.from_array(compute, communicate))
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        for number in range(40):
            gradcode.Step(session, number).backward()
    assert [report.time for report in reports] == scheme.duration(compute[:, :, None], communicate).tolist()
    assert [report.order_statistic for report in reports] == [report.time for report in reports]
    assert all(report.exact and not report.corrupt for report in reports)
