"""``duration`` is the event-by-event simulation with instant abandoning, exactly, draw by draw."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import gradcode
from gradcode import codes, schemes
from gradcode.delays import DelayTable
from gradcode.errors import Shortfall
from gradcode.schemes import fluid_bound
from gradcode.schemes.rows import RowScheme
from gradcode.training import LeastSquares

N = 6
CODES: dict[str, Callable[[], codes.GradientCode]] = {
    "uncoded": lambda: codes.uncoded(N),
    "fractional_repetition": lambda: codes.fractional_repetition(N, 2),
    "cyclic_repetition": lambda: codes.cyclic_repetition(N, 2),
    "cyclic_mds": lambda: codes.cyclic_mds(N, 2),
    "reed_solomon": lambda: codes.reed_solomon(N, 2),
    "heterogeneous": lambda: codes.heterogeneous([1.0, 1.0, 2.0, 2.0, 3.0, 3.0], 9, 1),
    "hierarchical": lambda: codes.hierarchical([N // 2] * 2, 1, 1),
    "clustered": lambda: codes.clustered(N, 2, 1),
    "communication_efficient": lambda: codes.communication_efficient(N, 4, 2, 2),
    "stochastic": lambda: codes.stochastic(N, replication=2),
    "bernoulli": lambda: codes.bernoulli(N, replication=2),
    "batched_coupon": lambda: codes.batched_coupon(N, load=2),
}
SCHEMES: dict[str, Callable[[float | None], RowScheme]] = {
    **{name: (lambda deadline, build=build: schemes.coded(build(), deadline)) for name, build in CODES.items()},
    "grouped": lambda deadline: schemes.coded(codes.cyclic_repetition(N, 2, partitions=13), deadline),
    **{f"fastest {k}": (lambda deadline, k=k: schemes.fastest(N, k)) for k in (1, 4, N)},
    **{f"fastest {k} of pairs": (lambda deadline, k=k: schemes.fastest(N, k, 7, replicas=2)) for k in (4, N)},
    "sgc 4": lambda deadline: schemes.sgc(N, 2, 0.6, 4, deadline, rng=0),  # one of them holds nothing
    "fastest 3 blocks": lambda deadline: schemes.fastest_blocks(N, 3, 15, 2),
}
ITERATIONS = 60


def test_every_code_is_here() -> None:
    assert set(CODES) == set(codes.REGISTRY)


def simulated(scheme: RowScheme, compute: np.ndarray, communicate: np.ndarray) -> np.ndarray:
    """(iterations,) seconds that the simulated cluster takes with these delays; inf: it never ends."""
    rng, length = np.random.default_rng(0), scheme.layout.length or 2
    objective = LeastSquares(
        rng.standard_normal((20, length)), rng.standard_normal(20), scheme.partitions, dtype=torch.float32
    )
    cluster = gradcode.SimulatedCluster(N, DelayTable.from_array(compute, communicate))
    times: list[float] = []
    predicted: list[float] = []

    def listen(report: gradcode.Report) -> None:
        times.append(report.time)
        predicted.append(report.order_statistic)

    session = gradcode.Session.of(objective, scheme, cluster, listeners=[listen])
    for number in range(len(compute)):
        try:
            session._backward(number)
        except Shortfall:
            times.append(np.inf)
            predicted.append(np.inf)
    assert predicted == times  # what every report says of its own iteration
    return np.array(times)


def draws(seed: int, infinite: float, ties: bool) -> tuple[np.ndarray, np.ndarray]:
    """(iterations, N) seconds of computing a partition and of a reply."""
    rng = np.random.default_rng(seed)
    compute, communicate = rng.exponential(1.0, (2, ITERATIONS, N))
    if ties:
        compute, communicate = np.ceil(2 * compute) / 2, np.floor(2 * communicate) / 2
    compute[rng.random((ITERATIONS, N)) < infinite] = np.inf
    return compute, communicate


KINDS = [(0.0, False), (0.25, False), (0.0, True), (0.4, True)]


@pytest.mark.parametrize("name", SCHEMES)
def test_duration_is_the_simulation(name: str) -> None:
    scheme, found = SCHEMES[name](None), []
    for seed, (infinite, ties) in enumerate(KINDS):
        compute, communicate = draws(seed, infinite, ties)
        found.append(simulated(scheme, compute, communicate))
        assert np.array_equal(scheme.duration(compute[:, :, None], communicate), found[-1])
    assert np.isfinite(found[0]).all() and len(np.unique(found[0])) == ITERATIONS
    assert np.isinf(found[3]).any() or name == "fastest 1"  # which any one worker ends


@pytest.mark.parametrize("name", [name for name in SCHEMES if not name.startswith("fastest")])
def test_duration_is_the_simulation_with_a_deadline(name: str) -> None:
    compute, communicate = draws(0, 0.0, False)
    deadline = float(np.quantile(SCHEMES[name](None).duration(compute[:, :, None], communicate), 0.3))
    scheme, found = SCHEMES[name](deadline), []
    for seed, (infinite, ties) in enumerate(KINDS):
        compute, communicate = draws(seed, infinite, ties)
        found.append(simulated(scheme, compute, communicate))
        assert np.array_equal(scheme.duration(compute[:, :, None], communicate), found[-1])
    assert (found[0] < deadline).sum() == 18 and (found[0] == deadline).any()


times = st.lists(st.sampled_from([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, float("inf")]), min_size=N, max_size=N)


@settings(max_examples=60)
@given(
    st.sampled_from([name for name in CODES if name != "uncoded"]),
    times,
    times.map(lambda seconds: [s for s in seconds if np.isfinite(s)] + [0.0] * N),
    st.sampled_from([None, 0.5, 1.0, 2.0, 4.5]),
)
def test_duration_with_ties_at_the_deadline(
    name: str, compute: list[float], communicate: list[float], deadline: float | None
) -> None:
    scheme = SCHEMES[name](deadline)
    rows = np.array([compute]), np.array([communicate[:N]])
    assert np.array_equal(scheme.duration(rows[0][:, :, None], rows[1]), simulated(scheme, *rows))


@pytest.mark.parametrize("deadline", [3.0, np.nextafter(3.0, 0.0)])
def test_a_reply_at_the_deadline_counts_before_it(deadline: float) -> None:
    """Workers 0 and 1 answer at 3 seconds: the code is decodable then, and with one reply fewer it is not."""
    scheme = schemes.coded(codes.fractional_repetition(4, 1, dtype="float64"), float(deadline))
    objective = LeastSquares(np.eye(4), np.ones(4), 4)
    table = DelayTable.from_array([[1.0, 1.5, 9.0, 9.0]])
    reports: list[gradcode.Report] = []
    cluster = gradcode.SimulatedCluster(4, table)
    session = gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append])
    next(session.epoch()).backward()
    (report,) = reports
    assert report.time == deadline
    assert report.exact == (deadline == 3.0) and (report.decode_error < 1e-8) == report.exact
    assert report.stragglers == ((2, 3) if deadline == 3.0 else (1, 2, 3))


@pytest.mark.parametrize("name", [name for name in SCHEMES if not name.startswith("fastest") or name == "fastest 6"])
def test_nothing_exact_beats_the_fluid_bound(name: str) -> None:
    scheme = SCHEMES[name](None)
    compute, communicate = draws(9, 0.2, False)
    bound = fluid_bound(compute, scheme.partitions, communicate)
    duration = scheme.duration(compute[:, :, None], communicate)
    assert (bound <= duration * (1 + 1e-12)).all() and np.isfinite(bound).any()


def brute_force(compute: np.ndarray, units: float, delay: np.ndarray) -> float:
    """The time by bisection of the work done."""

    def work(t: float) -> float:
        with np.errstate(divide="ignore", invalid="ignore"):
            done = np.maximum(0.0, t - delay) / compute
        return float(np.nansum(np.where(np.isfinite(compute) & np.isfinite(delay), done, 0.0)))

    low, high = 0.0, 1e6
    if work(high) < units:
        return float("inf")
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if work(middle) >= units else (middle, high)
    return high


paces = st.lists(st.one_of(st.floats(0.01, 100.0), st.just(float("inf"))), min_size=1, max_size=6)


@given(paces, st.data(), st.floats(0.1, 50.0))
def test_fluid_bound_is_the_bisection(compute: list[float], data: st.DataObject, units: float) -> None:
    one = st.one_of(st.floats(0.0, 10.0), st.just(0.0), st.just(float("inf")))
    delay = data.draw(st.lists(one, min_size=len(compute), max_size=len(compute)))
    bound = fluid_bound(np.array([compute]), units, np.array([delay]))
    assert bound.shape == (1,)
    assert bound[0] == pytest.approx(brute_force(np.array(compute), units, np.array(delay)), rel=1e-9)


def test_fluid_bound_worked_examples() -> None:
    """X = (1, 3): in t seconds t + t/3 units, so 2 units take 1.5 s; one second later with a reply of one second."""
    assert fluid_bound(np.array([[1.0, 3.0]]), 2.0).tolist() == [1.5]
    assert fluid_bound(np.array([[1.0, 3.0]]), 2.0, 1.0).tolist() == [2.5]
    assert fluid_bound(np.array([[1.0, np.inf]]), 2.0).tolist() == [2.0]
    assert fluid_bound(np.array([[np.inf, np.inf]]), 2.0).tolist() == [np.inf]
    assert fluid_bound(np.array([[1.0, 1.0]]), 2.0, np.array([[0.0, 100.0]])).tolist() == [2.0]
    assert fluid_bound(np.array([[0.0, 1.0]]), 2.0, np.array([[1.0, 0.5]])).tolist() == [1.0]
