"""Time on a link is that of the bytes which really travel, also where nobody knows beforehand how many they are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gradcode
from clusters.zoo import CLUSTERS
from gradcode import schemes
from gradcode.compression import OneBit, Plain, Sampled, TopK
from gradcode.delays import Delays, Deterministic, Link
from gradcode.training import LeastSquares

LENGTH = 20_000
CODEC = Sampled(density=0.01)  # of 80,016 bytes at most, and some hundred in fact


def iterations(kind: str, scheme: Any, delays: Delays, count: int = 1) -> list[gradcode.Report]:
    rng = np.random.default_rng(0)
    objective = LeastSquares(rng.standard_normal((8, LENGTH)), rng.standard_normal(8), scheme.partitions)
    reports: list[gradcode.Report] = []
    cluster = CLUSTERS[kind](scheme.workers, delays=delays)
    with gradcode.Session.of(objective, scheme, cluster, listeners=[reports.append]) as session:
        for number in range(count):
            session._backward(number)
    return reports


def test_a_reply_is_on_its_way_as_long_as_its_bytes_take(kind: str) -> None:
    """One worker, so that the report's bytes are its message's; the most it could have would take 16 seconds more."""
    scheme = schemes.compressed(schemes.uncoded(1), CODEC)
    most, bandwidth = CODEC.size(LENGTH, 8), 5_000.0
    (report,) = iterations(kind, scheme, Delays(Deterministic(0.05), Link(0.1, bandwidth)))
    assert 100 < report.bytes_up < most / 20
    seconds = 0.05 + 0.1 + report.bytes_up / bandwidth
    if kind == "simulated":
        assert report.time == pytest.approx(seconds, rel=1e-12)
    else:
        assert seconds <= report.time < 0.15 + most / bandwidth


@pytest.mark.parametrize("codec", [CODEC, OneBit(), TopK(density=0.1)], ids=["sampled", "one bit", "top"])
def test_messages_of_several_workers(codec: Any) -> None:
    """Times beyond computing and latency add up to the bytes; as long as a codec's most where it is always that."""
    bandwidth = 1e4
    scheme = schemes.compressed(schemes.uncoded(4), codec)
    for report in iterations("simulated", scheme, Delays(Deterministic(0.5), Link(0.1, bandwidth)), 3):
        on_their_way = report.arrivals - 0.6
        assert on_their_way.sum() * bandwidth == pytest.approx(report.bytes_up, rel=1e-9)
        if codec is not CODEC:
            assert on_their_way * bandwidth == pytest.approx(np.full(4, codec.size(LENGTH, 8)), rel=1e-9)


def test_who_has_the_shorter_message_comes_first() -> None:
    """The quorum is full when the shortest messages are there; the others are abandoned on their way."""
    delays = Delays(Deterministic(0.5), Link(0.0, 1e3))
    (everybody,) = iterations("simulated", schemes.compressed(schemes.uncoded(4), CODEC), delays)
    (fastest,) = iterations("simulated", schemes.compressed(schemes.fastest(4, 2), CODEC), delays)
    assert len(set(everybody.arrivals)) > 2
    first = np.argsort(everybody.arrivals)[:2]
    assert fastest.time == np.sort(everybody.arrivals)[1]
    assert np.flatnonzero(~np.isnan(fastest.arrivals)).tolist() == sorted(first)
    assert fastest.computations == 4 and fastest.bytes_up < everybody.bytes_up


class Silent(Plain):
    """Has nothing to send."""

    def encode(self, *_: Any) -> Any:
        return False


def test_a_codecs_skip_is_a_notice(kind: str) -> None:
    """16 bytes, a sixteenth of a second, in place of more than a minute."""
    scheme = schemes.compressed(schemes.uncoded(1), Silent(CODEC))
    scheme.gradient = lambda rows, out: out.zero_()
    (report,) = iterations(kind, scheme, Delays(Deterministic(0.0), Link(0.0, 256.0)))
    assert report.notices == 1 and report.bytes_up == 16
    assert report.time == pytest.approx(1 / 16) if kind == "simulated" else 1 / 16 <= report.time < 60
