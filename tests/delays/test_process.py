"""Processes: stationary shares, memory, composition, and that drawing in pieces changes nothing."""

import math

import numpy as np
import pytest

from gradcode.delays import (
    Bernoulli,
    Deterministic,
    Exponential,
    GilbertElliott,
    Pareto,
    Persistent,
    PerWorker,
    ShiftedExponential,
    Trace,
    Weibull,
    script,
    slow,
)

ONE = Deterministic(1.0)
PROCESSES = [
    ShiftedExponential(0.1, 10.0),
    Weibull(0.7, 1.0),
    Bernoulli(Exponential(1.0), 0.3, 5.0),
    GilbertElliott(Exponential(1.0), 0.05, 0.15, 10.0),
    GilbertElliott(Pareto(1.5, 1.0), 0.9, 0.8, math.inf),
    Persistent(GilbertElliott(Exponential(1.0), 0.2, 0.2, 3.0), {0: 2.0, 2: math.inf}),
    PerWorker([ONE, Bernoulli(Exponential(1.0), 0.5, 2.0), GilbertElliott(ONE, 0.1, 0.3, 4.0)]),
    Bernoulli(GilbertElliott(Exponential(1.0), 0.1, 0.2, 4.0), 0.2, 3.0),
    Trace(np.arange(1.0, 22.0).reshape(7, 3)),
    script(Exponential(1.0)).slow(1, range(3, 40), seconds=0.5, factor=2.0).die(2, [5, 17]),
]


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("stages", [None, 2])
@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_drawing_in_pieces_equals_drawing_at_once(process, stages):
    whole = process.start(rng(), 3, stages).next(60)
    sampler = process.start(rng(), 3, stages)
    pieces = np.concatenate([sampler.next(n) for n in (1, 0, 7, 32, 20)])
    np.testing.assert_array_equal(pieces, whole)
    assert whole.shape == ((60, 3) if stages is None else (60, 3, 2))
    if not isinstance(process, Trace):
        assert not np.array_equal(process.start(rng(1), 3, stages).next(60), whole)


def test_a_long_sample_is_the_same_as_its_sampler():
    """Beyond the rows that are drawn at once."""
    process = GilbertElliott(Exponential(1.0), 0.05, 0.15, 10.0)
    np.testing.assert_array_equal(process.sample(rng(), 10_000, 2), process.start(rng(), 2).next(10_000))


def test_splitting_depends_on_the_generators_state_alone():
    """A generator restored from its saved state gives the same sample, which spawned children would not."""
    process = Bernoulli(Exponential(1.0), 0.5, 2.0)
    generator = rng()
    state = generator.bit_generator.state
    first, second = process.sample(generator, 5, 2), process.sample(generator, 5, 2)
    generator.bit_generator.state = state
    np.testing.assert_array_equal(process.sample(generator, 5, 2), first)
    assert not np.array_equal(first, second)


def test_bernoulli_share_and_independence():
    """Within 5 standard errors, √(p(1 − p)/n) for the share and 1/√n for the correlation of successive states."""
    p, n = 0.2, 200_000
    slow_now = Bernoulli(ONE, p, 7.0).sample(rng(), n // 10, 10) == 7.0
    assert abs(slow_now.mean() - p) < 5 * math.sqrt(p * (1 - p) / n)
    assert abs(np.corrcoef(slow_now[1:].ravel(), slow_now[:-1].ravel())[0, 1]) < 5 / math.sqrt(n)
    assert abs(np.corrcoef(slow_now[:, 0], slow_now[:, 1])[0, 1]) < 5 / math.sqrt(n // 10)


@pytest.mark.parametrize(("fail", "recover"), [(0.05, 0.15), (0.5, 0.2), (0.9, 0.8), (1.0, 0.5), (0.3, 0.7)])
def test_gilbert_elliott_share_and_memory(fail, recover):
    """Share fail/(fail + recover), correlation (1 − fail − recover)^d; 6 standard errors over the workers."""
    workers, iterations = 2000, 120
    process = GilbertElliott(ONE, fail, recover, 10.0)
    states = process.states(rng(), iterations, workers).astype(float)
    share = process.share
    assert share == pytest.approx(fail / (fail + recover))
    at_start = states[0].mean()
    assert abs(at_start - share) < 6 * math.sqrt(share * (1 - share) / workers)

    def within_error(per_worker, expected):
        error = per_worker.std() / math.sqrt(workers)
        assert abs(per_worker.mean() - expected) < 6 * error + 1e-12

    within_error(states.mean(axis=0), share)
    for d in (1, 2, 5):
        product = (states[d:] - share) * (states[:-d] - share)
        within_error(product.mean(axis=0), share * (1 - share) * (1 - fail - recover) ** d)


@pytest.mark.parametrize(("fail", "recover"), [(0.1, 0.3), (0.8, 0.9), (1.0, 1.0), (0.0, 0.5), (0.5, 0.0)])
def test_gilbert_elliott_transitions_one_by_one(fail, recover):
    """The vectorised chain is the plain chain run on the same uniforms."""
    process = GilbertElliott(ONE, fail, recover, 2.0)
    states = process.states(rng(5), 300, 4)
    own = np.random.default_rng(rng(5).integers(0, 2**63, size=(2, 4))[0])
    state = own.random(4) < process.share
    for row in states:
        u = own.random(4)
        state = np.where(state, u < 1 - recover, u < fail)
        np.testing.assert_array_equal(row, state)


def test_gilbert_elliott_states_are_those_of_the_sample():
    process = GilbertElliott(ONE, 0.1, 0.3, 4.0)
    times = process.sample(rng(3), 500, 6)
    np.testing.assert_array_equal(times == 4.0, process.states(rng(3), 500, 6))


def test_a_state_holds_through_the_stages_while_the_law_is_drawn_anew():
    times = GilbertElliott(ShiftedExponential(1.0, 1.0), 0.3, 0.3, 1e6).start(rng(), 5, 2).next(200)
    slow_now = times > 1e5
    np.testing.assert_array_equal(slow_now[:, :, 0], slow_now[:, :, 1])
    assert np.all(times[:, :, 0] != times[:, :, 1])


def test_an_infinite_slowdown_is_no_answer_even_of_no_time():
    times = Bernoulli(Deterministic(0.0), 0.5, math.inf).sample(rng(), 100, 3)
    assert set(np.unique(times)) == {0.0, math.inf}


def test_persistent_changes_the_given_workers_only():
    base = Exponential(1.0)
    plain, changed = base.sample(rng(), (50, 4)), slow(base, {1: 10.0, 3: math.inf}).sample(rng(), 50, 4)
    np.testing.assert_array_equal(changed[:, [0, 2]], plain[:, [0, 2]])
    np.testing.assert_array_equal(changed[:, 1], 10 * plain[:, 1])
    assert np.all(np.isinf(changed[:, 3]))


def test_per_worker_gives_each_its_own():
    rates = [1.0, 4.0, 0.5]
    times = PerWorker([Exponential(rate) for rate in rates]).sample(rng(), 20_000)
    for column, rate in zip(times.T, rates, strict=True):
        assert abs(column.mean() - 1 / rate) < 5 / rate / math.sqrt(20_000)
    assert abs(np.corrcoef(times[:, 0], times[:, 1])[0, 1]) < 5 / math.sqrt(20_000)


def test_trace_repeats_from_its_start():
    table = np.arange(1.0, 7.0).reshape(3, 2)
    np.testing.assert_array_equal(Trace(table).sample(rng(), 8), table[[0, 1, 2, 0, 1, 2, 0, 1]])
    assert Trace(table) == Trace(table.tolist())
    assert Trace(table) != Trace(table + 1)


def test_script_is_what_it_says():
    play = script(ONE).slow(worker=2, iterations=range(5, 9), seconds=0.3).die(worker=0, iteration=7)
    times = play.slow(worker=2, iterations=6, factor=2.0).sample(rng(), 12, 3)
    expected = np.ones((12, 3))
    expected[5:9, 2] += 0.3
    expected[6, 2] *= 2
    expected[7, 0] = math.inf
    np.testing.assert_allclose(times, expected, rtol=1e-15)
    assert script(ONE).events == ()
    assert len(play.events) == 2


def test_the_number_of_workers_comes_from_inside():
    inner = PerWorker([ONE, ONE])
    for process in (
        inner,
        slow(inner, {1: 2.0}),
        Bernoulli(inner, 0.1, 2.0),
        GilbertElliott(inner, 0.1, 0.1, 2.0),
        script(inner),
        Trace([[1.0, 2.0]]),
    ):
        assert process.workers == 2
        assert process.sample(rng(), 4).shape == (4, 2)
        with pytest.raises(ValueError, match="workers=3 must be 2"):
            process.sample(rng(), 4, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Bernoulli(ONE, 1.5, 2.0), "probability=1.5 must lie in"),
        (lambda: Bernoulli(ONE, 0.5, 0.0), "slowdown=0.0 must be > 0"),
        (lambda: Bernoulli(0.1, 0.5, 2.0), "base=0.1 must be a law or a process"),
        (lambda: GilbertElliott(ONE, 0.0, 0.0, 2.0), "must be > 0"),
        (lambda: GilbertElliott(ONE, -0.1, 0.5, 2.0), "fail=-0.1 must lie in"),
        (lambda: slow(ONE, {-1: 2.0}), "worker=-1 must be >= 0"),
        (lambda: slow(ONE, {1: -2.0}), r"factors\[1\]=-2.0 must be > 0"),
        (lambda: slow(ONE, {4: 2.0}).sample(rng(), 1, 4), "worker=4 must be < workers=4"),
        (lambda: PerWorker([]), "must hold at least one law or process"),
        (lambda: PerWorker([ONE, 3]), r"sources\[1\]=3 must be a law or a process"),
        (lambda: PerWorker([Trace([[1.0, 2.0]])]), r"sources\[0\].workers=2 must be None or 1"),
        (lambda: Bernoulli(ONE, 0.5, 2.0).sample(rng(), 3), "workers=None must be given"),
        (lambda: Bernoulli(ONE, 0.5, 2.0).sample(rng(), -3, 1), "iterations=-3 must be >= 0"),
        (lambda: Trace([1.0]), "table.shape"),
        (lambda: Trace([[1.0, -2.0]]), r"table\[0, 1\]=-2.0 must be >= 0"),
        (lambda: Trace([[math.nan]]), r"table\[0, 0\]=nan must be >= 0"),
        (lambda: script("x"), "base='x' must be a law or a process"),
        (lambda: script().slow(0, [1, -2], seconds=1.0), "iteration=-2 must be >= 0"),
        (lambda: script().slow(0, 1, seconds=-1.0), "seconds=-1.0 must be >= 0"),
        (lambda: script().die(3, 1).sample(rng(), 2, 3), "worker=3 must be < workers=3"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
