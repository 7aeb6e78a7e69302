"""A long training with everything going wrong at once: what it ends with, and what it leaves behind.

    python benchmarks/soak.py --cluster local|ray [--iterations 2000] [--workers 8] [--seed 0] [--short] [--json FILE]

Every few iterations a worker process is killed, or stopped for a while, or sleeps in the middle of its computing; one
worker now and then sends NaN and another one too few bytes, which the master refuses. Towards the end one worker sends
nothing but NaN, is excluded after three refused replies in a row, and training goes on without it.

The code is exact for any two stragglers. Replies are refused from at most two workers in an iteration, the excluded
one counted, so that an iteration can always end; killed and stopped workers come back, and where too many are away at
once training waits for them. So the parameters must be those of undisturbed training, up to rounding.

What is planned follows from the seed; when a signal reaches its worker does not. Before each look at memory,
descriptors and processes the signals pause until every worker is there, so that the looks can be compared. Exit code 1:
a check failed. Needs Linux, for it reads /proc.
"""

from __future__ import annotations

import argparse
import dataclasses
import gc
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

import gradcode
from gradcode import codes, schemes
from gradcode.clusters.inspection import STRIKES
from gradcode.session import Listener, Session
from gradcode.training import ModelObjective, Sampling
from sabotage import EXCLUDED, MARGIN, NAN, SHORT, SOUND, WATCHED, Disturbed, Plan, Saboteur, draw

TOLERANCE = 2
KILLS = {"local": 0.34, "ray": 0.15}  # share of the disturbances; on Ray a worker needs seconds to come back
AWAY = {"local": 0.02, "ray": 0.3}  # seconds from one iteration to the next while workers are awaited for a look
QUIET = 3  # iterations with everybody there before a look
LOOKS, SHORT_LOOKS = 40, 4
CLOSE = 1e-9  # relative: parameters are float64
MIB = 1 << 20


# What is looked at


def descendants(pid: int) -> set[int]:
    """Every process below ``pid``."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    queue = [pid]
    while queue:
        for child in children.get(queue.pop(), []):
            found.add(child)
            queue.append(child)
    return found


def shared_files(pid: int) -> dict[str, int]:
    """Shared memory that a process has mapped, named or not: file -> bytes."""
    found: dict[str, int] = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        _, _, name = line.partition("/dev/shm/" if "/dev/shm/" in line else "/memfd:")
        if name:
            fields = line.split()
            begin, end = (int(address, 16) for address in fields[0].split("-"))
            key = f"{fields[4]} {' '.join(fields[5:])}"
            found[key] = found.get(key, 0) + end - begin
    return found


def memory(pid: int) -> int:
    """Bytes of memory of its own that a process has: not shared memory, which is counted where it is made."""
    lines = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return sum(int(lines[key].split()[0]) << 10 for key in ("RssAnon", "RssFile"))


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def look(cluster: Any) -> dict[str, float]:
    """One row of figures."""
    own = os.getpid()
    files = shared_files(own)
    watched = cluster.pids[WATCHED]
    seen: dict[str, float] = {
        "master: memory": memory(own),
        "master: descriptors": descriptors(own),
        "master: threads": len(list(Path(f"/proc/{own}/task").iterdir())),
        "shared memory: files": len(files),
        "shared memory: bytes": sum(files.values()),
        "processes": len(descendants(own)),
        f"worker {WATCHED}: memory": memory(watched),
        f"worker {WATCHED}: descriptors": descriptors(watched),
    }
    if isinstance(cluster, gradcode.RayCluster):
        seen["object store: bytes"] = store_use()
    return seen


def store_use() -> float:
    """Bytes of the object store that are in use; Ray tells a tenth of a second late."""
    import ray

    key = "object_store_memory"
    return float(ray.cluster_resources()[key] - ray.available_resources().get(key, 0.0))


class Limit(NamedTuple):
    """How far a figure may rise above the median of its first quarter.

    Args:
        growth: of the last quarter's median.
        peak: of a single look.
        share: of what it was at first; allowed in place of ``growth`` and ``peak`` if it is more.
    """

    growth: float = 0
    peak: float = 2  # descriptors, threads, processes: 70 to 150 workers are started again in a long run
    share: float = 0


LIMITS = {"memory": Limit(20 * MIB, 20 * MIB, 0.05), "object store: bytes": Limit(MIB, 4 * MIB)}


class Growth(NamedTuple):
    """A figure over the run: medians of the first and the last quarter of the looks, and the largest."""

    first: float
    last: float
    most: float
    limit: Limit

    @property
    def allowed(self) -> float:
        """Growth of the last quarter."""
        return max(self.limit.growth, self.limit.share * self.first)

    @property
    def holds(self) -> bool:
        most = max(self.limit.peak, self.limit.share * self.first)
        return self.last - self.first <= self.allowed and self.most - self.first <= most


def growth(name: str, values: list[float]) -> Growth:
    quarter = max(1, len(values) // 4)
    first, last = float(np.median(values[:quarter])), float(np.median(values[-quarter:]))
    limit = next((own for ending, own in LIMITS.items() if name.endswith(ending)), Limit())
    return Growth(first, last, max(values), limit)


# The run


class Network(nn.Module):
    """Gradients of 140 kB: more than Ray sends along with a call, so that replies go through its object store."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(64, 256), nn.Tanh(), nn.Linear(256, 4)).double()

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


def session(cluster: Any, seed: int, plan: Plan | None = None, listeners: Collection[Listener] = ()) -> Session:
    """A session on generated data, the same for every cluster; with a plan its workers are disturbed."""
    torch.manual_seed(seed)
    data = TensorDataset(torch.randn(512, 64, dtype=torch.float64), torch.randint(4, (512,)))
    scheme = schemes.coded(codes.fractional_repetition(cluster.workers, TOLERANCE, dtype="float64"))
    sampling = Sampling(len(data), scheme.partitions, batch_size=64, seed=seed)
    objective = (ModelObjective if plan is None else Disturbed)(Network(), nn.functional.cross_entropy, data, sampling)
    if isinstance(objective, Disturbed) and plan is not None:
        objective.plan = plan
    return Session.of(objective, scheme, cluster, seed, listeners=list(listeners))


def train(session: Session, iterations: int, before: Callable[[int], None] = lambda number: None) -> Tensor:
    """Plain SGD; the parameters (L,) that it ends with. ``before``: called with the number of each iteration."""
    optimizer = torch.optim.SGD(session.model.parameters(), lr=0.05)
    steps = (step for _ in iter(int, 1) for step in session.epoch())
    for number in range(iterations):
        before(number)
        next(steps).backward()
        optimizer.step()
    return session.cluster.parameters.clone()


class Soak:
    """One disturbed run, and what was seen of it.

    Args:
        kind: of cluster, ``"local"`` or ``"ray"``.
        short: few looks, and memory, which grows while it warms up, is not judged.
    """

    def __init__(self, kind: str, iterations: int, workers: int, seed: int, short: bool = False) -> None:
        self.kind, self.iterations, self.workers, self.seed, self.short = kind, iterations, workers, seed, short
        self.plan = draw(iterations, workers, seed, KILLS["local" if short else kind])
        self.saboteur = Saboteur(self.plan)
        self.reports: list[gradcode.Report] = []
        self.looks: list[dict[str, float]] = []
        self.seconds = 0.0
        self._due = np.linspace(10, self.plan.last - MARGIN, SHORT_LOOKS if short else LOOKS).astype(int).tolist()
        self._quiet = 0

    def run(self) -> None:
        """Trains twice, undisturbed and disturbed."""
        with session(gradcode.SimulatedCluster(self.workers), self.seed) as calm:
            self.wanted = train(calm, self.iterations)
        files, processes = set(shared_files(os.getpid())), descendants(os.getpid())
        self._train()
        gc.collect()  # what was shared goes with the last tensor that looks at it
        until = time.monotonic() + 15
        while (left := descendants(os.getpid()) - processes) and time.monotonic() < until:
            time.sleep(0.1)
        self.left = len(left), len(set(shared_files(os.getpid())) - files)

    def _train(self) -> None:
        if self.kind == "local":
            cluster: Any = gradcode.LocalCluster(self.workers)
        else:
            cluster = gradcode.RayCluster(self.workers, max_restarts=None)
        with session(cluster, self.seed, self.plan, [self._listen]) as disturbed:
            began = time.monotonic()
            try:
                self.found = train(disturbed, self.iterations, lambda number: self._before(number, cluster))
            finally:
                self.saboteur.wait()
            self.seconds = time.monotonic() - began
            self.alive = cluster.alive()

    def _listen(self, report: gradcode.Report) -> None:
        self.reports.append(dataclasses.replace(report, work=()))  # which would grow to megabytes

    def _before(self, number: int, cluster: Any) -> None:
        """Sends signals, or has a look when one is due: once a few iterations have gone by with everybody there."""
        if not self._due or number < self._due[0]:
            self.saboteur.begin(number, cluster)
            return
        self.saboteur.wait()
        self._quiet = 0 if cluster.away() else self._quiet + 1
        if cluster.away():
            time.sleep(AWAY[self.kind])
        elif self._quiet == QUIET:
            self.looks.append(look(cluster))
            self._due.pop(0)
            self._quiet = 0

    # What came of it

    def difference(self) -> float:
        """Relative, of the parameters."""
        return float((self.found - self.wanted).norm() / self.wanted.norm())

    def refused(self, worker: int) -> int:
        return sum(worker in report.refused for report in self.reports)

    def planned(self, worker: int) -> int:
        """Replies of ``worker`` that are to be refused."""
        return int((self.plan.replies[:, worker] != SOUND).sum())

    def growths(self) -> dict[str, Growth]:
        return {name: growth(name, [seen[name] for seen in self.looks]) for name in self.looks[0]}

    def checks(self) -> dict[str, bool]:
        """What must hold, and whether it does."""
        sent = self.saboteur.sent
        planned = {(int(number), int(worker)) for number, worker in np.argwhere(self.plan.replies != SOUND)}
        refused = {(report.iteration, worker) for report in self.reports for worker in report.refused}
        lost = sum(len(report.lost) for report in self.reports)
        exact = len(self.reports) == self.iterations and all(report.exact for report in self.reports)
        others = tuple(worker for worker in range(self.workers) if worker != EXCLUDED)
        excluded = self.alive == others and self.refused(EXCLUDED) == STRIKES
        judged = [name for name in self.growths() if not (self.short and name.endswith("memory"))]
        return {
            f"parameters: relative difference {self.difference():.1e}, at most {CLOSE:g}": self.difference() <= CLOSE,
            f"{len(self.reports)} iterations, every gradient exact": exact,
            f"{sent['kill']} kills and {sent['stop']} stops were sent": bool(sent["kill"] and sent["stop"]),
            f"{lost} workers reported lost, no more than were killed": lost <= sent["kill"],
            f"{len(refused)} replies refused, of both kinds": bool(self.refused(NAN) and self.refused(SHORT)),
            "none of the replies refused was sound": refused <= planned,
            f"worker {EXCLUDED} is excluded after {STRIKES} refused replies, and nobody else": excluded,
            f"{len(self.looks)} looks, all that were due": not self._due,
            **{f"flat: {name}": self.growths()[name].holds for name in judged},
            f"{self.left[0]} processes and {self.left[1]} files of shared memory left": self.left == (0, 0),
        }

    def figures(self) -> dict[str, float]:
        """Counts and times."""
        times = [report.time for report in self.reports]
        return {
            "iterations": len(self.reports),
            "seconds": round(self.seconds, 1),
            "median iteration, ms": round(1e3 * float(np.median(times)), 1),
            "longest iteration, s": round(max(times), 2),
            "kills sent": self.saboteur.sent["kill"],
            "workers reported lost": sum(len(report.lost) for report in self.reports),
            "stops sent": self.saboteur.sent["stop"],
            "delays planned": self.plan.delays,
            "NaN replies planned": self.planned(NAN),
            "NaN replies refused": self.refused(NAN),
            "short replies planned": self.planned(SHORT),
            "short replies refused": self.refused(SHORT),
            "replies refused before the exclusion": self.refused(EXCLUDED),
            "iterations with a straggler": sum(bool(report.stragglers) for report in self.reports),
        }


def show(soak: Soak) -> bool:
    """Prints what came of it; whether every check holds."""
    for name, number in soak.figures().items():
        print(f"  {name:40} {number:>10g}")
    print("\nWhat is to be refused but comes after the scheme was done is never looked at, and a worker killed between")
    print("two iterations is started again, but no iteration has lost it: the counts may be below what was planned.")
    headings = "".join(f"{heading:>15}" for heading in ("first quarter", "last quarter", "most", "may grow by"))
    print(f"\n  {f'{len(soak.looks)} looks, medians':30}{headings}")
    for name, figure in soak.growths().items():
        unit = MIB if name.endswith(("memory", "bytes")) else 1
        numbers = (figure.first, figure.last, figure.most, figure.allowed)
        print(f"  {name:30}" + "".join(f"{number / unit:15,.4g}" for number in numbers) + " MiB" * (unit != 1))
    print()
    checks = soak.checks()
    for name, holds in checks.items():
        print(f"  {'holds ' if holds else 'FAILS '} {name}")
    return all(checks.values())


def main() -> int:
    parser = argparse.ArgumentParser(description="A long training with everything going wrong at once.")
    parser.add_argument("--cluster", choices=("local", "ray"), required=True)
    parser.add_argument("--iterations", type=int, help="default: 2000; with --short 150, on Ray 60")
    parser.add_argument("--workers", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--short", action="store_true", help="the form that the tests run; memory is not judged")
    parser.add_argument("--json", help="a file for the figures")
    given = parser.parse_args()
    iterations = given.iterations or ({"local": 150, "ray": 60}[given.cluster] if given.short else 2000)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", gradcode.GradcodeWarning)  # of refused replies, which are counted here
    print(f"{given.cluster}: {iterations} iterations, {given.workers} workers, seed {given.seed}\n", flush=True)
    soak = Soak(given.cluster, iterations, given.workers, given.seed, given.short)
    soak.run()
    holds = show(soak)
    if given.json:
        growths = {
            name: {**figure._asdict(), "limit": figure.limit._asdict()} for name, figure in soak.growths().items()
        }
        results = {"figures": soak.figures(), "growths": growths, "checks": soak.checks(), "looks": soak.looks}
        Path(given.json).write_text(json.dumps(results, indent=1), encoding="utf-8")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
