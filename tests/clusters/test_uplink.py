"""Replies through an uplink: their real sizes, queues that outlive iterations, and exact gradients all the same.

The first part is under a virtual clock, the second on every cluster.
"""

from __future__ import annotations

import os
import signal
import threading
import time
import warnings
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import gradcode
from clusters import toy_schemes
from clusters.zoo import CLUSTERS, cnn, decoded, images, plain_gradients, relative_error
from gradcode import codes, network, schemes
from gradcode.compression import OneBit, Plain
from gradcode.delays import Delays, DelayTable, Exponential, Link
from gradcode.protocol import Scheme
from gradcode.training import LeastSquares
from gradcode.training.sampling import Sampling

REPLY = 16  # bytes of two coordinates of float64


def wired(workers: int, rate: float = REPLY, **options: Any) -> network.Uplink:
    """One channel in turns: ``rate`` bytes a second, in slots of a second."""
    radio = network.wire(workers, rate, slot=1.0, unit=1.0, **options)
    return network.Uplink(network.RoundRobin(radio), unit=1.0)


def radio(workers: int, tradeoff: float = 5.0) -> network.Uplink:
    """A fair one over the air: 8 bytes in a data unit, which is about half a reply's."""
    setting = network.Radio(workers, channels=1, slot=0.1)
    return network.Uplink(network.FairUplink(setting, tradeoff), unit=8.0)


class Run:
    """Simulated iterations on a small quadratic, each of which gives the exact gradient if the scheme says so."""

    def __init__(
        self, scheme: Scheme, delays: Any, uplink: network.Uplink | None, length: int = 2, **options: Any
    ) -> None:
        rng = np.random.default_rng(0)
        self.objective = LeastSquares(rng.standard_normal((24, length)), rng.standard_normal(24), scheme.partitions)
        self.scheme, self.reports, self.traffic = scheme, list[gradcode.Report](), list[network.Traffic]()
        self.cluster = gradcode.SimulatedCluster(scheme.workers, delays, uplink=uplink, **options)
        self.session = gradcode.Session.of(self.objective, scheme, self.cluster, listeners=[self._listen])

    def _listen(self, report: gradcode.Report) -> None:
        self.reports.append(report)
        if self.cluster.traffic is not None:
            self.traffic.append(self.cluster.traffic)

    def iterate(self, numbers: range) -> Run:
        for number in numbers:
            self.session._backward(number)
            if self.scheme.exact:
                wanted = self.objective.gradient(self.objective.model.theta.data)
                assert float((self.objective.model.theta.grad - wanted).norm()) < 1e-9 * float(wanted.norm())
        return self


def test_computing_and_sending_are_simulated_together() -> None:
    """Ready at 0.5, 1 and 1.2: admitted in slots 1, 1 and 2, served one after the other, in slots 2, 3 and 4."""
    run = Run(schemes.uncoded(3), DelayTable.from_array([[0.5, 1.0, 1.2]]), wired(3)).iterate(range(1))
    (report,) = run.reports
    assert report.arrivals.tolist() == [3.0, 4.0, 5.0] and report.time == 5.0
    assert report.order_statistic == 1.2  # which leaves the uplink out
    assert run.traffic[0].served.tolist() == [REPLY] * 3 and report.bytes_up == 3 * REPLY


def test_the_times_of_messages_and_of_receiving_come_before_and_after() -> None:
    delays = DelayTable.from_array([[1.0, 1.0]], [[0.5, 1.5]], receive=0.25)
    (report,) = Run(schemes.uncoded(2), delays, wired(2)).iterate(range(1)).reports
    # At the uplink at 1.5 and 2.5: admitted in slots 2 and 3, served in 3 and 4.
    assert report.arrivals.tolist() == [4.25, 5.25]


def test_a_worker_is_free_when_its_reply_waits() -> None:
    """Two orders each: the second one is begun when the first is ready, long before that has arrived."""
    run = Run(toy_schemes.TwoBlocks(2, 2), DelayTable.from_array([[1.0, 1.0]]), wired(2, rate=4.0)).iterate(range(1))
    for worker in range(2):
        first, second = sorted(
            (work for work in run.reports[0].work if work.worker == worker), key=lambda work: work.start
        )
        assert first.start == 0.0 and second.start == first.stop
    # Four replies of 8 bytes are served one after the other, 4 bytes a slot, from slot 2 on at the earliest.
    assert run.reports[0].time >= 10.0


def test_what_is_abandoned_is_not_waited_for_and_what_was_admitted_of_it_is_sent() -> None:
    """Fastest 1 of 3, all ready at once: the others' replies are admitted already, and hold up the next iteration."""
    run = Run(schemes.fastest(3, 1), DelayTable.from_array([[1.0] * 3]), wired(3)).iterate(range(2))
    first, second = run.traffic
    assert run.reports[0].time == 3.0 and first.admitted.tolist() == [REPLY] * 3
    assert first.backlog.tolist() == [0.0, REPLY, REPLY]
    # Slots 3 and 4 of the cluster carry those; the next reply, ready and admitted at 4, is served in slot 5.
    assert run.reports[1].time == 3.0 and second.served.sum() == 3 * REPLY


def test_what_is_abandoned_before_it_is_admitted_never_burdens_the_uplink() -> None:
    """Half of a reply is admitted per slot; the fastest ends before the other has offered all of its own."""
    run = Run(schemes.fastest(2, 1), DelayTable.from_array([[1.0, 2.5]]), wired(2, offer_max=8.0)).iterate(range(1))
    (traffic,) = run.traffic
    assert run.reports[0].time == 4.0
    assert traffic.offered.tolist() == [REPLY, REPLY] and traffic.admitted.tolist() == [REPLY, 8.0]
    assert traffic.withdrawn.tolist() == [0.0, 8.0] and traffic.backlog.tolist() == [0.0, 8.0]


SCHEMES: dict[str, Any] = {
    "uncoded": lambda: schemes.uncoded(4),
    "fastest": lambda: schemes.fastest(4, 2),
    "coded": lambda: schemes.coded(codes.cyclic_repetition(4, 1, dtype="float64")),
    "block coordinate": lambda: schemes.block_coordinate(codes.block([1, 1, 0, 0], dtype="float64")),
    "granted": lambda: toy_schemes.Grants(4),
    "compressed": lambda: schemes.compressed(schemes.uncoded(4), Plain(OneBit())),
    "lazy": lambda: schemes.lag(4, "worker", step_size=0.1, minibatches=False),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_nothing_admitted_is_ever_lost_whatever_the_scheme(name: str) -> None:
    """Over the air, congested. All bytes that the master has received were offered, with their real sizes."""
    run = Run(SCHEMES[name](), Exponential(2.0), radio(4)).iterate(range(6))
    backlog = np.zeros(4)
    for report, traffic in zip(run.reports, run.traffic, strict=True):
        assert traffic.offered == pytest.approx(traffic.admitted + traffic.withdrawn, abs=1e-6)
        assert backlog + traffic.admitted == pytest.approx(traffic.served + traffic.backlog, abs=1e-6)
        assert traffic.offered.sum() >= report.bytes_up - 1e-6
        if not report.stragglers and name != "block coordinate":
            assert traffic.offered.sum() == pytest.approx(report.bytes_up)
        assert report.time > report.order_statistic or np.isnan(report.order_statistic)
        backlog = traffic.backlog
    assert max(own.served.sum() for own in run.traffic) > 0


def test_the_same_seed_gives_the_same_iterations() -> None:
    times = [
        [
            report.time
            for report in Run(schemes.uncoded(4), Exponential(2.0), radio(4), seed=seed).iterate(range(4)).reports
        ]
        for seed in (1, 1, 2)
    ]
    assert times[0] == times[1] != times[2]


def test_a_resumed_training_finds_the_queues_as_they_were() -> None:
    """Fastest 2 of 4 leaves a backlog; the one who goes on has the same times, and one who forgets it has not."""
    uplink = radio(4, tradeoff=50.0)

    def run() -> Run:
        return Run(schemes.fastest(4, 2), Exponential(20.0), uplink)

    whole = run().iterate(range(6))
    begun = run().iterate(range(3))
    state = begun.session.state_dict()
    assert begun.traffic[-1].backlog.sum() > 0
    resumed, forgetful = run(), run()
    resumed.session.load_state_dict(state)
    for own in (resumed, forgetful):
        own.iterate(range(3, 6))
    later = [report.time for report in whole.reports[3:]]
    assert [report.time for report in resumed.reports] == pytest.approx(later, abs=1e-9)
    assert [report.time for report in forgetful.reports] != pytest.approx(later, abs=1e-9)


def test_what_a_dead_worker_had_ready_is_computed_again() -> None:
    """Worker 1 dies at 1.5, its reply being admitted in slot 1: ready again at 2.5, admitted in 3, after its rest."""
    run = Run(schemes.uncoded(2), DelayTable.from_array([[1.0, 1.0]]), wired(2), losses=[(0, 1, 1.5)])
    run.iterate(range(1))
    (report,) = run.reports
    assert report.lost == (1,) and report.exact
    assert report.arrivals.tolist() == [3.0, 5.0]
    assert run.traffic[0].served.tolist() == [REPLY, 2 * REPLY]


@pytest.mark.parametrize(("deadline", "heard"), [(3.0, [0]), (2.9, [0]), (4.5, [0, 1])])
def test_a_deadline_looks_at_what_has_arrived(deadline: float, heard: list[int]) -> None:
    """Arrivals at 3, 4 and 5: one at the deadline counts, and with none the first one ends the iteration."""
    scheme = schemes.coded(codes.uncoded(3), deadline)
    (report,) = Run(scheme, DelayTable.from_array([[1.0] * 3]), wired(3)).iterate(range(1)).reports
    assert np.flatnonzero(np.isfinite(report.arrivals)).tolist() == heard
    assert report.time == max(3.0, deadline)


def test_without_an_uplink_there_is_no_traffic() -> None:
    run = Run(schemes.uncoded(2), Delays(Exponential(1.0), Link(bandwidth=100.0)), None).iterate(range(1))
    assert run.cluster.traffic is None and run.reports[0].time == run.reports[0].order_statistic


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="uplink is for 3 workers, and there are 2"):
        gradcode.SimulatedCluster(2, uplink=wired(3))
    with pytest.raises(ValueError, match="not with edge nodes: leave topology out"):
        gradcode.SimulatedCluster(topology=[2, 2], uplink=wired(4))


def test_training_goes_on_as_without_an_uplink() -> None:
    """What is exact is the same gradient, so parameters after ten steps are those of a cluster without one."""
    finals = []
    for uplink in (None, radio(4)):
        run = Run(schemes.coded(codes.fractional_repetition(4, 1)), Exponential(2.0), uplink)
        optimizer = torch.optim.SGD(run.objective.model.parameters(), lr=0.1)
        for number in range(10):
            run.iterate(range(number, number + 1))
            optimizer.step()
        finals.append(run.objective.model.theta.detach().clone())
    assert torch.allclose(finals[0], finals[1], rtol=1e-9)


# On every cluster

LENGTH = sum(parameter.numel() for parameter in cnn().parameters())


def train(
    kind: str, scheme: Scheme, slot: float, iterations: int, before: Any = None, **options: Any
) -> tuple[list[network.Traffic], list[gradcode.Report]]:
    """Exact iterations with an uplink that carries one reply a slot."""
    setting = network.wire(scheme.workers, 4 * LENGTH / slot, slot)
    uplink = network.Uplink(network.FairUplink(setting, sharing=True))
    model, data, reports, traffic = cnn(), images(), list[gradcode.Report](), list[network.Traffic]()
    sampling = Sampling(len(data), scheme.partitions, 32, 3)
    with (
        CLUSTERS[kind](scheme.workers, uplink=uplink, **options) as cluster,
        gradcode.Session(
            model, nn.CrossEntropyLoss(), data, 32, scheme, cluster, 3, listeners=[reports.append]
        ) as session,
    ):
        for step in islice(session.epoch(), iterations):
            if before is not None:
                before(cluster)
            step.backward()
            traffic.append(cluster.traffic)
            wanted = plain_gradients(model, data, sampling, step.number)
            assert relative_error(decoded(model), wanted) < 1e-6
    return traffic, reports


def test_replies_arrive_at_the_uplink_s_pace(kind: str) -> None:
    """The k-th reply is admitted in slot 0 at the earliest and served in slot 1 + k; the third is not waited for."""
    slot = 0.05
    traffic, reports = train(kind, schemes.coded(codes.cyclic_repetition(3, 1)), slot, 3)
    backlog = np.zeros(3)
    for report, own in zip(reports, traffic, strict=True):
        arrivals = np.sort(report.arrivals[np.isfinite(report.arrivals)])
        assert all(came >= (2 + k) * slot - 1e-6 for k, came in enumerate(arrivals)) and len(arrivals) >= 2
        assert own.offered.sum() >= report.bytes_up - 1e-6 and report.bytes_up >= 2 * 4 * LENGTH
        assert own.offered == pytest.approx(own.admitted + own.withdrawn, abs=1e-5)
        assert backlog + own.admitted == pytest.approx(own.served + own.backlog, abs=1e-5)
        backlog = own.backlog


@pytest.mark.serial
def test_whoever_waits_for_the_uplink_is_not_silent() -> None:
    """The last of three replies arrives after 1.2 s, and patience ends after 0.5 s."""
    _, (report,) = train("local", schemes.uncoded(3), 0.3, 1, patience=0.5)
    assert report.time >= 1.2 and report.lost == ()


@pytest.mark.serial
@pytest.mark.parametrize("kind", ["local", "ray"])
def test_the_reply_of_a_killed_worker_is_used_or_made_again(kind: str, request: pytest.FixtureRequest) -> None:
    """Killed while its reply waits to be admitted, with which it arrives 0.5 s later at the soonest.

    On a local cluster the death is seen before that, and the reply is gone with it. Ray may hear of it later, and has
    the reply in its store: it is used, if the worker is not known to be lost when it arrives.
    """
    if kind == "ray":
        request.getfixturevalue("kept_actors")
    threads: list[threading.Thread] = []

    def kill(cluster: Any) -> None:
        victim = cluster.pids[1]
        while 1 not in cluster._passage:  # slot 1 is worker 1's
            time.sleep(0.001)
        os.kill(victim, signal.SIGKILL)

    def once(cluster: Any) -> None:
        if not threads:
            threads.append(threading.Thread(target=kill, args=(cluster,), daemon=True))
            threads[0].start()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        traffic, reports = train(kind, schemes.uncoded(2), 0.5, 2, before=once)
    assert all(report.exact for report in reports) and not threads[0].is_alive()
    assert [report.lost for report in reports] in ([[(1,), ()]] if kind == "local" else [[(1,), ()], [(), (1,)]])
    backlog = np.zeros(2)
    for own, report in zip(traffic, reports, strict=True):
        # What is made again is offered again.
        assert set(own.offered / (4 * LENGTH)) <= {1, 1 + len(report.lost)} and own.offered[0] == 4 * LENGTH
        assert own.admitted + own.withdrawn == pytest.approx(own.offered)
        assert backlog + own.admitted == pytest.approx(own.served + own.backlog)
        backlog = own.backlog


def test_a_checkpoint_holds_the_queues(kind: str) -> None:
    """Fastest 1 of 3 leaves a backlog, which whoever resumes has to carry; each slot carries half a reply."""
    slot, scheme = 0.05, schemes.fastest(3, 1)

    def begin() -> tuple[Any, gradcode.Session]:
        uplink = network.Uplink(network.RoundRobin(network.wire(3, 2 * LENGTH / slot, slot)))
        cluster = CLUSTERS[kind](3, uplink=uplink)
        return cluster, gradcode.Session(cnn(), nn.CrossEntropyLoss(), images(), 30, scheme, cluster, 3)

    first, session = begin()
    with session:
        session._backward(0)
        state = session.state_dict()
        backlog = first.traffic.backlog
    assert backlog.sum() > 0
    second, session = begin()
    with session:
        session.load_state_dict(state)
        assert second.state_dict()["uplink"] == state["cluster"]["uplink"]
        session._backward(1)
        traffic = second.traffic
    assert backlog + traffic.admitted == pytest.approx(traffic.served + traffic.backlog)
