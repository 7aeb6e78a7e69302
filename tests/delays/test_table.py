"""Delays joined, and the one table: deterministic, lazy, the same in whatever order it is asked."""

import math
import pickle
from itertools import pairwise

import numpy as np
import pytest

from gradcode.delays import (
    Delays,
    DelayTable,
    Deterministic,
    Exponential,
    GilbertElliott,
    Link,
    Occasional,
    PerWorker,
    ShiftedExponential,
    Trace,
    as_delays,
    as_table,
    script,
)

LAW = ShiftedExponential(0.1, 10.0)
MEMORY = GilbertElliott(LAW, 0.05, 0.15, 10.0)
LINK = Link(latency=Exponential(100.0), bandwidth=1e6, failure=0.3)
DELAYS = [
    Delays(LAW),
    Delays(MEMORY, LINK),
    Delays(MEMORY, LINK, stages=3),
    Delays([LAW, MEMORY, Deterministic(1.0)], [LINK, Link(), Link(0.5)]),
    Delays(script(LAW).die(1, 300), Exponential(5.0)),
]


@pytest.mark.parametrize("delays", DELAYS, ids=repr)
def test_an_iteration_is_the_same_whatever_was_asked_before(delays):
    lazy, eager = delays.table(3, seed=7), delays.table(3, seed=7)
    compute, communicate = eager.window(0, 1001, bytes=1e4)
    assert compute.shape == (1001, 3, delays.stages)
    for i in (1000, 0, 255, 256, 300, 511):
        np.testing.assert_array_equal(lazy.compute(i), compute[i])
        np.testing.assert_array_equal(lazy.communicate(i, 1e4), communicate[i])
    for start, stop in ((250, 260), (0, 0), (600, 601), (10, 900)):
        for part, whole in zip(lazy.window(start, stop, 1e4), (compute, communicate), strict=True):
            np.testing.assert_array_equal(part, whole[start:stop])


@pytest.mark.parametrize("delays", DELAYS, ids=repr)
def test_a_pickled_table_goes_on_the_same(delays):
    table = delays.table(3, seed=1)
    table.compute(400)
    data = pickle.dumps(table)
    assert len(data) < 5000  # the recipe, not what was drawn
    again = pickle.loads(data)
    for own, other in zip(table.window(0, 600, 10.0), again.window(0, 600, 10.0), strict=True):
        np.testing.assert_array_equal(own, other)
    assert repr(again) == repr(table)


def test_seeds_differ_and_a_link_leaves_the_computing_alone():
    plain, other = Delays(MEMORY).table(4, 0), Delays(MEMORY).table(4, 1)
    linked = Delays(MEMORY, LINK).table(4, 0)
    assert not np.array_equal(plain.compute(0), other.compute(0))
    np.testing.assert_array_equal(plain.window(0, 300)[0], linked.window(0, 300)[0])
    assert np.all(plain.window(0, 300, bytes=1e9)[1] == 0)


def test_replies_of_one_iteration_see_one_link():
    table = Delays(LAW, Link(latency=0.5, bandwidth=100.0, failure=0.5)).table(4, 0)
    np.testing.assert_allclose(table.communicate(9, 100.0), 3 * table.communicate(9))
    np.testing.assert_array_equal(table.communicate(9, [0, 100, 0, 100])[1::2], table.communicate(9, 100.0)[1::2])
    np.testing.assert_array_equal(table.communicate(9, 7.0), table.communicate(9, 7.0))


def test_the_table_cannot_be_changed_by_its_readers():
    for table in (Delays(LAW).table(2, 0), DelayTable.from_array([[1.0, 2.0]])):
        with pytest.raises(ValueError, match="read-only"):
            table.compute(0)[0, 0] = 5.0
        table.communicate(0)[0] = 5.0
        assert table.communicate(0)[0] == 0


def test_the_memory_lasts_over_chunk_borders():
    """Correlation of successive states at every iteration, borders at 256 and 512 included; 6 standard errors."""
    process = GilbertElliott(Deterministic(1.0), 0.05, 0.15, 10.0)
    states = Delays(process).table(4000, 0).window(250, 262)[0][:, :, 0] == 10.0
    centred = states - process.share
    for before, after in pairwise(centred):
        product = before * after
        error = product.std() / math.sqrt(product.size)
        assert abs(product.mean() - 0.25 * 0.75 * 0.8) < 6 * error


def test_recorded_tables_repeat():
    compute = np.arange(1.0, 13.0).reshape(2, 3, 2)
    communicate = np.arange(6.0).reshape(2, 3)
    table = DelayTable.from_array(compute, communicate)
    assert (table.workers, table.stages) == (3, 2)
    np.testing.assert_array_equal(table.compute(5), compute[1])
    np.testing.assert_array_equal(table.communicate(5, bytes=1e9), communicate[1])
    np.testing.assert_array_equal(table.window(1, 6)[0], compute[[1, 0, 1, 0, 1]])
    again = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(again.window(0, 5)[1], table.window(0, 5)[1])
    assert DelayTable.from_array(compute[:, :, 0]).compute(1).shape == (3, 1)


def test_the_time_to_receive_a_reply_goes_with_the_table(tmp_path):
    drawn = Delays(MEMORY, LINK, receive=0.25).table(3, 0)
    recorded = DelayTable.from_array([[1.0, 2.0]], receive=0.5)
    assert (drawn.receive, recorded.receive) == (0.25, 0.5)
    assert pickle.loads(pickle.dumps(drawn)).receive == 0.25
    again = pickle.loads(pickle.dumps(recorded))
    assert again.receive == 0.5 and again.compute(0).tolist() == [[1.0], [2.0]]
    for own, other in zip(drawn.window(0, 300, 1e4), Delays(MEMORY, LINK).table(3, 0).window(0, 300, 1e4), strict=True):
        np.testing.assert_array_equal(own, other)
    recorded.to_csv(tmp_path / "table.csv", iterations=1)
    assert DelayTable.from_csv(tmp_path / "table.csv").receive == 0.0
    assert DelayTable.from_csv(tmp_path / "table.csv", receive=0.5).receive == 0.5


def test_late_starts_go_with_the_table_and_leave_the_rest_alone(tmp_path):
    late = Occasional(Exponential(10.0), 0.25)
    drawn = Delays(MEMORY, LINK, start=late).table(3, 0)
    for own, other in zip(drawn.window(0, 300, 1e4), Delays(MEMORY, LINK).table(3, 0).window(0, 300, 1e4), strict=True):
        np.testing.assert_array_equal(own, other)
    starts = np.array([drawn.start(iteration) for iteration in range(300)])
    # 900 starts, a quarter of which are not 0: within 4 standard errors.
    assert abs((starts > 0).mean() - 0.25) < 4 * math.sqrt(0.25 * 0.75 / 900)
    assert not Delays(MEMORY).table(3, 0).start(7).any()
    drawn.to_csv(tmp_path / "table.csv", iterations=300, bytes=1e4)
    again = pickle.loads(pickle.dumps(DelayTable.from_csv(tmp_path / "table.csv")))
    np.testing.assert_array_equal([again.start(iteration) for iteration in range(300)], starts)
    np.testing.assert_array_equal(again.window(0, 300)[0], drawn.window(0, 300)[0])


def test_a_late_start_comes_on_top_of_a_sample():
    delays = Delays(Deterministic(1.0), start=[Deterministic(0.5), Deterministic(0.0)])
    assert delays.workers == 2
    assert delays.sample(np.random.default_rng(0), 1, load=3.0).tolist() == [[3.5, 3.0]]


def test_from_array_keeps_its_own_copy():
    compute = np.ones((2, 2))
    table = DelayTable.from_array(compute)
    compute[:] = 9.0
    assert np.all(table.compute(0) == 1.0)


@pytest.mark.parametrize(("delays", "bytes"), [(DELAYS[0], 0.0), (DELAYS[2], 1e4), (DELAYS[4], [0.0, 1.0, 2.0])])
def test_a_table_comes_back_from_its_file(tmp_path, delays, bytes):
    table = delays.table(3, seed=2)
    table.to_csv(tmp_path / "table.csv", iterations=310, bytes=bytes)
    again = DelayTable.from_csv(tmp_path / "table.csv")
    for own, other in zip(table.window(0, 310, bytes), again.window(0, 310), strict=True):
        np.testing.assert_array_equal(own, other)
    np.testing.assert_array_equal(again.compute(310), table.compute(0))


def test_a_sample_is_load_times_the_table_plus_the_reply():
    delays, load, size = Delays(MEMORY, LINK), np.array([1.0, 2.0, 0.0]), np.array([1e3, 1e4, 1e5])
    compute, communicate = delays.table(3, seed=5).window(0, 5000, size)
    total = delays.sample(np.random.default_rng(5), 5000, load, bytes=size)
    np.testing.assert_allclose(total, compute[:, :, 0] * load + communicate, rtol=1e-14)
    alone = delays.sample(np.random.default_rng(5), 5000, load=2.0, workers=3)
    np.testing.assert_allclose(alone, 2 * compute[:, :, 0], rtol=1e-14)


def test_never_is_never_whatever_the_load():
    total = Delays(script().die(0, 1)).sample(np.random.default_rng(0), 3, load=[0.0, 2.0])
    assert total.tolist() == [[0, 0], [math.inf, 0], [0, 0]]


def test_mean_of_a_sample():
    """ShiftedExponential and link: mean load·(shift + 1/rate) + mean of the link, within 5 standard errors."""
    delays = Delays(LAW, LINK)
    total = delays.sample(np.random.default_rng(0), 20_000, load=3.0, workers=2, bytes=1e4)
    error = total.std() / math.sqrt(total.size)
    assert abs(total.mean() - (3 * LAW.mean + LINK.mean(1e4))) < 5 * error


def test_what_is_accepted_as_delays():
    assert as_delays(LAW) == Delays(LAW)
    assert as_delays(DELAYS[1]) is DELAYS[1]
    assert as_delays([LAW, LAW]) == Delays(PerWorker([LAW, LAW]))
    assert np.all(as_delays(None).table(3, 0).compute(4) == 0)
    assert as_delays(Trace([[1.0, 2.0]])).workers == 2
    np.testing.assert_array_equal(as_table(LAW, 2, 0).compute(3), Delays(LAW).table(2, 0).compute(3))
    table = Delays(LAW).table(2, 0)
    assert as_table(table, 2, seed=9) is table
    with pytest.raises(ValueError, match="workers=3 must be 2"):
        as_table(table, 3, 0)
    with pytest.raises(ValueError, match="delays='slow' must be Delays, a law"):
        as_delays("slow")


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Delays(0.5), "compute=0.5 must be a law, a process"),
        (lambda: Delays(LAW, "fast"), "communicate='fast' must be a Link"),
        (lambda: Delays(LAW, [Link(), 3]), "communicate=3 must be a Link"),
        (lambda: Delays(LAW, []), "must hold at least one link"),
        (lambda: Delays([LAW, LAW], [Link()]), r"len\(communicate\)=1 must be 2"),
        (lambda: Delays(LAW, [Link()]).table(2, 0), "workers=2 must be 1"),
        (lambda: Delays(LAW, stages=0), "stages=0 must be >= 1"),
        (lambda: Delays(LAW, receive=-0.1), "receive=-0.1 must be >= 0 and finite"),
        (lambda: Delays(LAW, receive=math.inf), "receive=inf must be >= 0 and finite"),
        (lambda: DelayTable.from_array([[1.0]], receive=math.nan), "receive=nan must be a number"),
        (lambda: Delays([LAW, LAW]).table(3, 0), "workers=3 must be 2"),
        (lambda: Delays(LAW, start=0.5), "start=0.5 must be a law, a process, or a list"),
        (lambda: Delays([LAW, LAW], start=[LAW]), "must be for as many workers as compute, which is for 2"),
        (lambda: DelayTable.from_array([[1.0]], start=[[1.0, 2.0]]), r"start.shape=\(1, 2\) must be \(1, 1\)"),
        (lambda: Delays(LAW).table(0, 0), "workers=0 must be >= 1"),
        (lambda: Delays(LAW).table(2, -1), "seed=-1 must be >= 0"),
        (lambda: Delays(LAW).table(2, 0).compute(-1), "iteration=-1 must be >= 0"),
        (lambda: Delays(LAW).table(2, 0).communicate(0, -5.0), "bytes=-5.0 must be >= 0"),
        (lambda: Delays(LAW).table(2, 0).communicate(0, [1.0] * 3), r"bytes.shape=\(3,\) must be"),
        (lambda: Delays(LAW).table(2, 0).window(3, 2), "stop=2 must be >= 3"),
        (lambda: Delays(LAW).sample(np.random.default_rng(0), 3), "workers=None must be given"),
        (lambda: Delays(LAW).sample(np.random.default_rng(0), 3, -1.0, 2), "load=-1.0 must be >= 0"),
        (lambda: Delays(LAW).sample(np.random.default_rng(0), 3, [1.0, 1.0], 3), r"load.shape=\(2,\) must be"),
        (lambda: DelayTable.from_array([1.0, 2.0]), r"compute.shape=\(2,\) must"),
        (lambda: DelayTable.from_array(np.empty((0, 2))), "must hold at least one duration"),
        (lambda: DelayTable.from_array([[1.0, math.nan]]), r"compute\[0, 1\]=nan must be >= 0"),
        (lambda: DelayTable.from_array([[1.0]], [[1.0, 2.0]]), r"communicate.shape=\(1, 2\) must be \(1, 1\)"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
