"""Schemes whose replies share a congested uplink: time per iteration, fairness, and what is sent in vain.

OURS throughout: there is nothing to compare it with but what can never happen. Ten workers of mean gains 0.5 to 4, two
channels, slots of 50 ms; a reply is 8 units of data, as the specification recommends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from gradcode import codes, schemes
from gradcode.clusters import SimulatedCluster
from gradcode.compression import OneBit, Plain
from gradcode.delays import ShiftedExponential
from gradcode.experiments.comparison import Comparisons, shown, write_table
from gradcode.experiments.registry import Request
from gradcode.network import (
    BestChannel,
    Controller,
    FairUplink,
    MaxWeight,
    NoControl,
    Radio,
    Rayleigh,
    RoundRobin,
    Traffic,
    Uplink,
    harvesting_radio,
    harvesting_uplink,
    jain,
)
from gradcode.protocol import Floats, Report, Scheme
from gradcode.session import Session, Step
from gradcode.training import LeastSquares

WORKERS = 10
COORDINATES = 128
UNIT = COORDINATES * 8 / 8  # bytes: a reply of float64 is 8 units


def radio() -> Radio:
    """Ten workers, two channels, slots of 50 ms that carry as much as those of table 8.3."""
    return Radio(WORKERS, Rayleigh(np.linspace(0.5, 4.0, WORKERS), most=12.0), slot=0.05, bandwidth=20.0)


def controllers() -> dict[str, Controller]:
    """Without batteries, so that the channel alone is scarce."""
    setting = radio()
    return {
        "fair, V = 20": FairUplink(setting, 20.0, energy=False),
        "fair, V = 20, bandwidth shared": FairUplink(setting, 20.0, energy=False, sharing=True),
        "round robin": RoundRobin(setting, energy=False),
        "best channel": BestChannel(setting, energy=False),
        "max-weight": MaxWeight(setting, energy=False),
        "no control": NoControl(setting, energy=False),
    }


def methods() -> dict[str, Scheme]:
    """Schemes that send everything, more than is needed, less than there is, and short messages."""
    return {
        "uncoded": schemes.uncoded(WORKERS),
        "cyclic repetition, s = 2": schemes.coded(codes.cyclic_repetition(WORKERS, 2, dtype="float64")),
        "fastest 8 of 10": schemes.fastest(WORKERS, 8),
        "uncoded, 1 bit": schemes.compressed(schemes.uncoded(WORKERS), Plain(OneBit())),
    }


@dataclass(frozen=True, eq=False)
class Training:
    """What some iterations took; bytes are (N,) in all."""

    seconds: Floats
    without: Floats  # the uplink, for the same delays
    served: Floats
    withdrawn: Floats
    heard: int  # bytes that the master used
    lost: float  # bytes admitted, less those served and those in the queues


def train(
    scheme: Scheme, controller: Controller, iterations: int, coordinates: int = COORDINATES, unit: float = UNIT
) -> Training:
    """Iterations at the same parameters: what is measured is time and bytes."""
    rng = np.random.default_rng(0)
    objective = LeastSquares(
        rng.standard_normal((40, coordinates)), rng.standard_normal(40), partitions=scheme.partitions
    )
    reports, traffic = list[Report](), list[Traffic]()
    law = ShiftedExponential(shift=0.1, rate=10.0)
    with (
        SimulatedCluster(scheme.workers, law, uplink=Uplink(controller, unit), seed=1) as cluster,
        Session.of(objective, scheme, cluster, listeners=[reports.append]) as session,
    ):
        for number in range(iterations):
            Step(session, number).backward()
            assert cluster.traffic is not None
            traffic.append(cluster.traffic)
    admitted, served = (sum(getattr(own, name).sum() for own in traffic) for name in ("admitted", "served"))
    return Training(
        np.array([report.time for report in reports]),
        np.array([report.order_statistic for report in reports]),
        np.sum([own.served for own in traffic], axis=0),
        np.sum([own.withdrawn for own in traffic], axis=0),
        sum(report.bytes_up for report in reports),
        float(admitted - served - traffic[-1].backlog.sum()),
    )


def loop(request: Request, found: Comparisons) -> None:
    """Every scheme under every controller, in one table."""
    iterations, lines = 3 if request.quick else 100, []
    for method, scheme in methods().items():
        request.tell(f"through the uplink: {method}")
        for name, controller in controllers().items():
            run = train(scheme, controller, iterations)
            spent = run.served.sum()
            error = run.seconds.std(ddof=1) / np.sqrt(iterations)
            what = f"{method}, {name}"
            found.add(f"{what}: bytes lost", 0.0, run.lost, 1e-6, "bytes", "rounding")
            early = int((run.seconds < run.without).sum())
            found.add(f"{what}: iterations quicker than without uplink", 0, early, 0.0, "", "none")
            cells = [
                f"{shown(float(run.seconds.mean()))} ± {error:.1g}",
                shown(float(run.without.mean())),
                shown(float(jain(run.served))),
                shown(float(spent / run.seconds.sum() / 1000)),
                shown(100 * max(0.0, 1 - run.heard / spent)),
            ]
            lines.append([method, name, *cells])
    header = ["scheme", "controller", "s per iteration", "s without uplink", "Jain of served", "kB/s served"]
    write_table(request.output / "loop", [*header, "% of it in vain"], lines)
    _harvesting(request, found)


def _harvesting(request: Request, found: Comparisons) -> None:
    """Few replies over the air, with the physical constants: the price of waiting until a queue is worth the energy."""
    distance, battery, lines = (20.0, 35.0, 50.0, 50.0, 65.0, 80.0), 0.02, []
    iterations = 2 if request.quick else 50
    scheme = schemes.uncoded(len(distance))
    radio = harvesting_radio(scheme.workers, distance=distance)
    named: dict[str, Controller] = {
        f"fair, V = {v}": harvesting_uplink(scheme.workers, distance=distance, tradeoff=v, battery=battery)
        for v in (2, 20, 200)
    }
    named["max-weight"] = MaxWeight(radio, battery)
    for name, controller in named.items():
        request.tell(f"over the air: {name}")
        run = train(scheme, controller, iterations, coordinates=1000, unit=1000.0)
        cost = run.seconds - run.without
        found.add(f"over the air, {name}: bytes lost", 0.0, run.lost, 1e-6, "bytes", "rounding")
        lines.append([name, f"{shown(float(cost.mean()))} ± {cost.std(ddof=1) / np.sqrt(iterations):.1g}"])
    write_table(request.output / "harvesting", ["controller", "s per iteration that the uplink adds"], lines)
