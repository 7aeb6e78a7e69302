"""Gains, path loss, and the limits of a radio."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradcode.network import Radio, Rayleigh, Steady, harvesting_radio, path_loss, rayleigh, wire


def test_rayleigh_gains_are_clipped_exponentials() -> None:
    """The mean of min(ḡ·Exp(1), m) is ḡ(1 − exp(−m/ḡ)); within 5 standard errors, whose variance is below ḡ²."""
    means = np.array([0.5, 2.0, 8.0])
    gains = Rayleigh(means, most=6.0).sample(np.random.default_rng(0), (20_000, 3))
    expected = means * (1 - np.exp(-6.0 / means))
    assert np.all(np.abs(gains.mean(axis=0) - expected) < 5 * means / math.sqrt(20_000))
    assert gains.max() == 6.0
    raised = Rayleigh(means, most=6.0, least=0.05 * means).sample(np.random.default_rng(0), (2000, 3))
    assert raised.min(axis=0).tolist() == (0.05 * means).tolist()


def test_quantiles_of_a_message_at_one_gain() -> None:
    """Section 11: S/(Bw·log2(1 + p·ḡ·ln 2)) half the time, S/(Bw·log2(1 − p·ḡ·ln 0.95)) 95 times in 100."""
    channel = Rayleigh(2.0, most=1e9)
    assert channel.seconds(8.0, 2.0, 1.0) == pytest.approx(8 / math.log2(1 + 4 * math.log(2)))
    slow = channel.seconds(8.0, 2.0, 1.0, quantile=0.95)
    drawn = 8 / np.log2(1 + 2 * channel.sample(np.random.default_rng(1), (40_000,)))
    # A share of 0.95 of 40 000 has a standard deviation of 0.0011.
    assert np.mean(drawn <= slow) == pytest.approx(0.95, abs=0.0055)


def test_path_loss_is_a_power_of_the_distance() -> None:
    assert path_loss(np.array([50.0, 100.0]), noise=1e-13) == pytest.approx([160.0, 10.0])
    assert harvesting_radio(2, distance=[50.0, 100.0]).channel.mean == pytest.approx([160.0, 10.0])


def test_a_wire_carries_its_bandwidth() -> None:
    radio = wire(3, bytes_per_second=5e6, slot=0.01, channels=2)
    assert 2 * radio.rate_max == pytest.approx(50.0) and radio.offer_max == pytest.approx(50.0)
    assert Steady().sample(np.random.default_rng(0), (2, 3)).tolist() == [[1.0] * 3] * 2


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Rayleigh(0.0, 1.0), "mean=0.0 must be positive"),
        (lambda: Rayleigh(1.0, math.inf), "most=inf must be positive and finite"),
        (lambda: Rayleigh(1.0, 1.0, least=2.0), r"least=2.0 must lie in \[0, most=1.0\]"),
        (lambda: Rayleigh(1.0, 9.0).seconds(1.0, 1.0, 1.0, 1.0), "quantile=1.0 must lie strictly between"),
        (lambda: Steady(0.0), "gain=0.0 must be positive"),
        (lambda: path_loss(0.5, 1e-13), "distance=0.5 must be at least the reference distance"),
        (lambda: path_loss(5.0, 0.0), "noise=0.0 must be positive"),
        (lambda: Radio(0), "workers=0 must be a whole number from 1"),
        (lambda: Radio(2, slot=0.0), "slot=0.0 must be positive"),
        (lambda: Radio(2, harvest_max=-1.0), "harvest_max=-1.0 must not be negative"),
        (lambda: harvesting_radio(2, unit=0.0), "unit=0.0 must be a positive number of bytes"),
        (lambda: rayleigh(2, [1.0, 2.0, 3.0]), r"mean=\[1.0, 2.0, 3.0\] must be one number, or 2"),
        (lambda: wire(2, 0.0, 1.0), "bytes_per_second=0.0 and unit=1000 must be positive"),
    ],
)
def test_what_is_refused(build: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
