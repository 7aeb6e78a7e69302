"""Links: attempts, latency, timeouts; the mean by the closed form and by sampling."""

import math

import numpy as np
import pytest

from gradcode.delays import Deterministic, Exponential, GilbertElliott, Link
from gradcode.delays.link import LinksSampler

COUNT = 40_000


def seconds(link, bytes=1e4, workers=4, seed=0):
    return link.start(np.random.default_rng(seed), workers).next(COUNT // workers).seconds(bytes)


@pytest.mark.parametrize(
    "link",
    [
        Link(latency=0.01, bandwidth=1e6, failure=0.3),
        Link(latency=0.01, bandwidth=1e6, failure=0.3, timeout=0.5),
        Link(latency=0.01, failure=0.9, timeout=0.0),
        Link(latency=Exponential(50.0), bandwidth=1e5, failure=0.5),
        Link(latency=Exponential(50.0), failure=0.5, timeout=0.1),
    ],
    ids=repr,
)
def test_mean_agrees_with_sampling(link):
    """Within 5 standard errors."""
    times = seconds(link)
    assert abs(times.mean() - link.mean(1e4)) < 5 * times.std() / math.sqrt(COUNT) + 1e-12


def test_retransmission_is_geometric():
    """P(N = k) = (1 − p) p^(k−1), mean τ/(1 − p), variance τ² p/(1 − p)²; shares within 5 standard errors."""
    p = 0.3
    times = seconds(Link(latency=1.0, bandwidth=1e4, failure=p)) / 2.0  # an attempt lasts 1 + 1
    for k in (1, 2, 3, 4):
        share = (1 - p) * p ** (k - 1)
        assert abs(np.mean(times == k) - share) < 5 * math.sqrt(share * (1 - share) / COUNT)
    assert Link(latency=1.0, bandwidth=1e4, failure=p).mean(1e4) == pytest.approx(2 / (1 - p))
    assert times.var() == pytest.approx(p / (1 - p) ** 2, rel=0.1)


def test_a_failed_attempt_costs_the_timeout():
    times = seconds(Link(latency=1.0, bandwidth=1e4, failure=0.5, timeout=10.0))
    attempts = (times - 2.0) / 10.0
    np.testing.assert_array_equal(attempts, np.round(attempts))
    assert attempts.min() == 0
    assert attempts.max() > 1


def test_a_sure_link_takes_latency_plus_transmission():
    np.testing.assert_allclose(seconds(Link(latency=0.5, bandwidth=1e4), bytes=2e4), 2.5, rtol=1e-15)
    assert np.all(seconds(Link()) == 0)


def test_every_message_of_an_iteration_sees_the_same_link():
    state = Link(latency=0.5, bandwidth=100.0, failure=0.5).start(np.random.default_rng(0), 3).next(50)
    np.testing.assert_allclose(state.seconds(100.0), 3 * state.seconds(0.0))
    np.testing.assert_array_equal(state.seconds(np.array([0.0, 0.0, 100.0]))[:, :2], state.seconds(0.0)[:, :2])


def test_drawing_in_pieces_equals_drawing_at_once():
    link = Link(latency=GilbertElliott(Exponential(1.0), 0.2, 0.2, 9.0), bandwidth=10.0, failure=0.4)
    whole = link.start(np.random.default_rng(0), 3).next(40)
    sampler = link.start(np.random.default_rng(0), 3)
    pieces = [sampler.next(n) for n in (1, 0, 30, 9)]
    for part, expected in zip(zip(*pieces, strict=True), whole, strict=True):
        np.testing.assert_array_equal(np.concatenate(part), expected)


def test_one_link_per_worker():
    links = [Link(latency=1.0), Link(latency=0.5, bandwidth=10.0), Link(failure=0.5, latency=2.0)]
    times = LinksSampler(links, np.random.default_rng(0)).next(100).seconds(20.0)
    assert times.shape == (100, 3)
    assert np.all(times[:, 0] == 1.0)
    assert np.all(times[:, 1] == 2.5)
    assert np.all(times[:, 2] % 2 == 0)
    assert times[:, 2].max() > 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Link(latency=-1.0), "latency=-1.0 must be >= 0"),
        (lambda: Link(bandwidth=0.0), "bandwidth=0.0 must be > 0"),
        (lambda: Link(failure=1.0), r"failure=1.0 must lie in \[0, 1\)"),
        (lambda: Link(timeout=math.inf), "timeout=inf must be >= 0 and finite"),
        (lambda: Link(GilbertElliott(Deterministic(1.0), 0.1, 0.1, 2.0)).mean(0), "must be a number or a law"),
    ],
)
def test_bad_arguments_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
