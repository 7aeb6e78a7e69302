"""The simulated cluster, event by event, beside the times that the scheme predicts (self_scheduling.md)."""

from __future__ import annotations

import numpy as np

from gradcode import schemes
from gradcode.clusters import SimulatedCluster
from gradcode.delays import DelayTable
from gradcode.experiments.comparison import Comparisons
from gradcode.experiments.curves import one_thread
from gradcode.experiments.registry import Request
from gradcode.experiments.self_scheduling.setting import MICRO, NOTICE, Draws
from gradcode.protocol import Floats, Report
from gradcode.schemes import SelfScheduling, fluid_bound


def worked_example(found: Comparisons) -> None:
    """N = 2, r = 2, m = 2, X = (1, 3): all four are granted at 1.5, the fluid bound."""
    scheme, pace = SelfScheduling([[0, 1], [1, 0]], 2, ahead=0), np.array([[0.5, 1.5]])
    (report,) = simulate(scheme, DelayTable.from_array(pace), 1)
    for name, own in (
        ("granted", scheme.granted(pace)[0][0]),
        ("simulated cluster", report.time),
        ("fluid bound", fluid_bound(pace, 4)[0]),
    ):
        found.add(f"worked example: {name}", 1.5, own, 0.0, "s", "none")


def events(request: Request, found: Comparisons) -> None:
    """Orders, notices, grants and sums of models A to D: the times, and who sends a sum.

    Every message takes as long as a notice. So the cluster needs two of them more than the tables: one until the master
    knows that a worker is there, one for the sums.
    """
    iterations = 3 if request.quick else 25
    request.tell(f"event by event on the simulated cluster: {iterations} iterations of A to D")
    for workers in (6, 20):
        for replication in (2, 3):
            scheme = schemes.self_scheduling(workers, replication, MICRO, ahead=0)
            apart, senders = 0.0, 0
            for model in "ABCD":
                draws = Draws.of(model, workers, iterations, seed=4)
                pace, message = draws.seconds / MICRO, np.full_like(draws.seconds, NOTICE)
                reports = simulate(scheme, DelayTable.from_array(pace, message, start=draws.start), iterations)
                stop, owners = scheme.granted(pace, NOTICE, draws.start + NOTICE)
                times: Floats = np.array([report.time for report in reports])
                apart = max(apart, float(np.abs(times - (stop + NOTICE)).max()))
                senders += sum(int(report.uploads != own) for report, own in zip(reports, owners.sum(1), strict=True))
            name = f"simulated cluster, A to D, N={workers}, r={replication}"
            found.add(f"{name}: largest distance of times", 0.0, apart, 1e-12, "s", "rounding")
            found.add(f"{name}: iterations with other numbers of sums", 0, senders, 0.0, "", "none")


@one_thread()
def simulate(scheme: SelfScheduling, table: DelayTable, iterations: int) -> list[Report]:
    """Iterations on a random least squares problem."""
    from gradcode.session import Session
    from gradcode.training import LeastSquares

    rng = np.random.default_rng(0)
    samples = 2 * scheme.partitions
    objective = LeastSquares(rng.standard_normal((samples, 2)), rng.standard_normal(samples), scheme.partitions)
    reports: list[Report] = []
    with Session.of(objective, scheme, SimulatedCluster(scheme.workers, table), listeners=[reports.append]) as session:
        while len(reports) < iterations:
            for step in session.epoch():
                step.backward()
                if len(reports) == iterations:
                    break
    return reports
