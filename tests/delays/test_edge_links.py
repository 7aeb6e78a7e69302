"""The links of edge nodes: of their own messages, and of workers' messages that they only pass on."""

import math
import pickle

import numpy as np
import pytest

from gradcode.delays import (
    Delays,
    DelayTable,
    Deterministic,
    Exponential,
    GilbertElliott,
    Link,
    ShiftedExponential,
    as_table,
    from_config,
)

LAW = GilbertElliott(ShiftedExponential(0.1, 10.0), 0.05, 0.15, 10.0)
LINK = Link(latency=Exponential(100.0), bandwidth=1e6, failure=0.3)
UPLINK = Link(latency=0.5, bandwidth=1e5, failure=0.4)
# Two edge nodes with two workers and one; under the second another one with two; a worker without edge node.
ABOVE = ((0,), (0,), (1,), (2, 1), (2, 1), ())
LINKS = [
    UPLINK,
    Exponential(5.0),
    [UPLINK, Link(0.1), Exponential(2.0)],
]
SIZE = 1e4


def table(edges=UPLINK, relay="independent", above=ABOVE, seed=3, communicate=LINK):
    return Delays(LAW, communicate, edges=edges, relay=relay).table(len(above), seed, above)


@pytest.mark.parametrize("relay", ["independent", "shared"])
@pytest.mark.parametrize("edges", LINKS, ids=repr)
def test_shapes_and_the_same_iteration_whatever_was_asked_before(edges, relay):
    lazy, eager = table(edges, relay), table(edges, relay)
    assert (lazy.workers, lazy.edges) == (6, 3)
    for i in (600, 0, 255, 256):
        assert lazy.uplink(i, SIZE).shape == (3,) and lazy.relay(i, SIZE).shape == (6,)
    for i in (0, 255, 256, 600):
        np.testing.assert_array_equal(lazy.uplink(i, SIZE), eager.uplink(i, SIZE))
        np.testing.assert_array_equal(lazy.relay(i, SIZE), eager.relay(i, SIZE))
    assert np.all(lazy.uplink(7) > 0) and np.all(lazy.relay(7)[:5] > 0)
    assert lazy.relay(7, SIZE)[5] == 0, "nobody passes on what a worker without edge node sends"


def test_edge_nodes_leave_computing_and_the_workers_own_links_alone():
    plain = Delays(LAW, LINK).table(6, 3)
    for other in (table(), table(LINKS[2], "shared"), table(None)):
        for own, with_edges in zip(plain.window(0, 300, SIZE), other.window(0, 300, SIZE), strict=True):
            np.testing.assert_array_equal(own, with_edges)


def test_the_relay_leaves_the_edge_nodes_own_messages_alone():
    independent, shared = table(), table(relay="shared")
    for i in range(0, 300, 50):
        np.testing.assert_array_equal(independent.uplink(i, SIZE), shared.uplink(i, SIZE))


@pytest.mark.parametrize("edges", LINKS, ids=repr)
def test_a_shared_relay_is_the_edge_nodes_own_uplinks_added_up(edges):
    shared = table(edges, "shared")
    for i in (0, 17, 300):
        uplink = shared.uplink(i, SIZE)
        expected = [sum(uplink[edge] for edge in chain) for chain in ABOVE]
        np.testing.assert_allclose(shared.relay(i, SIZE), expected, rtol=1e-14)


def test_an_independent_relay_draws_for_each_message_from_the_same_links():
    """Means of both relays by the closed form, within 5 standard errors; messages of one edge node differ."""
    above, iterations = ((0,),) * 4, 4000
    means = {}
    for relay in ("independent", "shared"):
        drawn = table(relay=relay, above=above)
        seconds = np.array([drawn.relay(i, SIZE) for i in range(iterations)])
        alike = np.all(seconds == seconds[:, :1], axis=1)
        # Four geometric numbers of attempts at failure 0.4 agree in Σ_k (0.6·0.4^(k−1))^4 = 0.13 of all iterations.
        assert alike.all() if relay == "shared" else alike.mean() < 0.2
        samples = seconds[:, 0]
        means[relay] = samples.mean()
        assert abs(samples.mean() - UPLINK.mean(SIZE)) < 5 * samples.std() / math.sqrt(iterations)
    assert means["independent"] != means["shared"]


def test_several_levels_add_up_in_an_independent_relay():
    """Two links one after the other take as long as both do on average, within 5 standard errors."""
    links, iterations = [UPLINK, Link(0.1, failure=0.2), Exponential(2.0)], 4000
    drawn = table(links)
    seconds = np.array([drawn.relay(i, SIZE)[3] for i in range(iterations)])
    expected = links[1].mean(SIZE) + links[2].mean
    assert abs(seconds.mean() - expected) < 5 * seconds.std() / math.sqrt(iterations)


def test_without_edge_nodes_there_are_no_uplinks():
    for drawn in (table(above=((),) * 3), Delays(LAW, edges=UPLINK).table(3, 0)):
        assert drawn.edges == 0 and drawn.uplink(0, SIZE).shape == (0,)
        assert np.all(drawn.relay(0, SIZE) == 0)


def test_a_recorded_table_with_edge_nodes_repeats():
    compute, communicate = np.arange(1.0, 7.0).reshape(2, 3), np.arange(6.0).reshape(2, 3)
    edges, above = np.array([[0.5, math.inf], [1.0, 2.0]]), ((0,), (1, 0), ())
    recorded = DelayTable.from_array(compute, communicate, edges, above)
    assert recorded.edges == 2
    np.testing.assert_array_equal(recorded.uplink(2, SIZE), edges[0])
    np.testing.assert_array_equal(recorded.relay(3), [1.0, 3.0, 0.0])
    np.testing.assert_array_equal(recorded.relay(0), [0.5, math.inf, 0.0])
    np.testing.assert_array_equal(recorded.communicate(1), communicate[1])
    without = DelayTable.from_array(compute, above=above)
    assert np.all(without.uplink(0) == 0) and np.all(without.relay(0) == 0)


@pytest.mark.parametrize(
    "drawn",
    [
        table(LINKS[2]),
        table(relay="shared"),
        DelayTable.from_array(np.ones((2, 6)), edges=np.arange(6.0).reshape(2, 3), above=ABOVE),
    ],
    ids=repr,
)
def test_a_pickled_table_goes_on_the_same(drawn):
    drawn.relay(300)
    data = pickle.dumps(drawn)
    assert len(data) < 5000  # the recipe, not what was drawn
    again = pickle.loads(data)
    assert again.edges == drawn.edges
    for i in (0, 301, 600):
        np.testing.assert_array_equal(again.uplink(i, SIZE), drawn.uplink(i, SIZE))
        np.testing.assert_array_equal(again.relay(i, SIZE), drawn.relay(i, SIZE))
        np.testing.assert_array_equal(again.compute(i), drawn.compute(i))


def test_a_table_is_for_its_number_of_edge_nodes():
    drawn = table()
    assert as_table(drawn, 6, 0, ABOVE) is drawn
    with pytest.raises(ValueError, match="edge nodes=2 must be 3"):
        as_table(drawn, 6, 0, ((0,), (0,), (1,), (1,), (1,), ()))
    plain = Delays(LAW).table(6, 0)
    assert as_table(plain, 6, 0, ABOVE) is plain, "recorded without edge nodes, whose messages then take no time"


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Delays(LAW, edges="fast"), "edges='fast' must be a Link"),
        (lambda: Delays(LAW, edges=[]), r"edges=\[\] must hold at least one link"),
        (lambda: Delays(LAW, edges=[Link(), 2]), "edges=2 must be a Link"),
        (lambda: Delays(LAW, relay="often"), "relay='often' must be one of independent, shared"),
        (lambda: table([Link(), Link()]), "edge nodes=3 must be 2"),
        (lambda: DelayTable.from_array([[1.0]], edges=[[1.0, 2.0]], above=((0,),)), r"edges.shape=\(1, 2\) must be"),
        (lambda: DelayTable.from_array([[1.0]], edges=[[-1.0]], above=((0,),)), r"edges\[0, 0\]=-1.0 must be >= 0"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_in_a_configuration():
    told = {"compute": 0.5, "edges": [{"latency": 0.1, "failure": 0.2}, 0.3], "relay": "shared", "communicate": 0.2}
    expected = Delays(
        Deterministic(0.5), Deterministic(0.2), edges=[Link(0.1, failure=0.2), Deterministic(0.3)], relay="shared"
    )
    assert from_config(told) == expected
    assert from_config({"edges": {"law": "exponential", "rate": 2.0}}).edges == Link(latency=Exponential(2.0))
    assert from_config({"compute": 0.5}) == Delays(Deterministic(0.5))
    with pytest.raises(ValueError, match=r"delays.edges\[1\].bandwith=3: key must be one of latency, bandwidth"):
        from_config({"edges": [0.1, {"bandwith": 3}]})
    with pytest.raises(ValueError, match="relay='all' must be one of independent, shared"):
        from_config({"relay": "all"})
