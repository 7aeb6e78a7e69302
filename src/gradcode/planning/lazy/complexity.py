"""Iterations, messages, work and time to an accuracy: of one run without noise, and the closed forms of its iterations.

In exact schemes, and in lazy ones, which voters are selected does not depend on how long anybody takes (in LAGC's mode
wait_F it does, a little). So one run under no delays has all selections, and the expected time is a sum over them.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from gradcode.codes import GradientCode
from gradcode.delays.law import Law
from gradcode.planning.lazy import closed
from gradcode.protocol import Action, Floats, Iteration, Order, Reply, Scheme, Version
from gradcode.schemes import Coded, Grouping
from gradcode.schemes.lazy import CodedRows, Groups, Innovations

if TYPE_CHECKING:
    from torch import Tensor

    from gradcode.training.quadratic import LinearObjective

DRAWS = 4000
"""Of the delays, where times are not integrated."""


@dataclass(frozen=True)
class Complexity:
    """What a scheme takes to an accuracy.

    Args:
        iterations: k at which F(θ^k) − F* ≤ accuracy for the first time.
        reached: whether it was reached at all.
        uploads, downloads: messages to the master, and workers that were sent the parameters.
        units: partition gradients that were ordered, second ones for comparisons included; what abandoned workers did
            not compute is charged, too.
        completed: of these, those of workers whose answer was used.
        clock: expected seconds, a law's name -> Σ over the iterations.
        error: standard errors of the clocks; 0 where times are in closed form or integrated.
        gaps: F(θ^k) − F*, k = 0, 1, …
        per_iteration: (iterations, 3) uploads, downloads and units.
        times: a law's name -> (iterations,) expected seconds.
    """

    scheme: str
    iterations: int
    reached: bool
    uploads: int
    downloads: int
    units: int
    completed: int
    clock: Mapping[str, float]
    error: Mapping[str, float]
    gaps: Floats
    per_iteration: npt.NDArray[np.int64]
    times: Mapping[str, Floats]


def complexity(
    scheme: Scheme,
    law: Law | Mapping[str, Law],
    accuracy: float,
    objective: LinearObjective,
    step_size: float | None = None,
    *,
    scale_with_load: bool = True,
    receive: float = 0.0,
    limit: int = 20_000,
    seed: int = 0,
) -> Complexity:
    """Trains ``objective`` once from θ = 0 by plain gradient steps, without noise, and adds up (lagc.md 6).

    Args:
        scheme: any of :mod:`gradcode.schemes` without edge nodes; it is used up.
        law: of the time that a worker takes for one partition, the same and independent for all; or several, by name.
        accuracy: of F(θ) − F*, in the objective's units.
        objective: with the scheme's partitions.
        step_size: α; None: 1/L.
        scale_with_load: a worker takes ℓ·T for ℓ partitions; else T whatever it computes.
        receive: seconds that each upload takes at the master besides; they add up.
        limit: iterations after which to give up.
        seed: of the draws, where there is no closed form.

    Raises:
        ValueError: the accuracy is not positive, ``receive`` is negative, or the scheme has edge nodes.
    """
    if not accuracy > 0:
        raise ValueError(f"accuracy={accuracy!r} must be positive")
    if not receive >= 0:
        raise ValueError(f"receive={receive!r} must be seconds per upload, 0 or more")
    if any(scheme.inner):
        raise ValueError(f"{scheme!r} has edge nodes; planning.hierarchical is for those")
    laws = {"": law} if isinstance(law, Law) else dict(law)
    step = 1 / float(objective.smoothness()) if step_size is None else step_size
    clock = _Clock(scheme, laws, scale_with_load, seed)
    watched = _Watched(scheme)
    gaps, counts, seconds = _run(watched, objective, step, accuracy, limit, clock)
    times = {name: np.array([each[name][0] for each in seconds]) + receive * counts[:, 0] for name in laws}
    # The draws of a selection are the same whenever it comes, so its error counts as often.
    errors = {name: sum(each[name][1] for each in seconds) for name in laws}
    return Complexity(
        scheme=repr(scheme),
        iterations=len(gaps) - 1,
        reached=bool(gaps[-1] <= accuracy),
        uploads=int(counts[:, 0].sum()),
        downloads=int(counts[:, 1].sum()),
        units=int(counts[:, 2].sum()),
        completed=watched.completed,
        clock={name: float(own.sum()) for name, own in times.items()},
        error=errors,
        gaps=gaps,
        per_iteration=counts,
        times=times,
    )


def minimum(objective: LinearObjective) -> float:
    """F*, by Newton's method with differences of gradients for the Hessian."""
    import torch

    theta = torch.zeros(objective.length, dtype=torch.float64)
    width = 1e-5
    for _ in range(50):
        slope = objective.gradient(theta)
        if float(slope.norm()) < 1e-14:
            break
        columns = [
            (objective.gradient(theta + width * e) - objective.gradient(theta - width * e)) / (2 * width)
            for e in torch.eye(objective.length, dtype=torch.float64)
        ]
        move = torch.linalg.lstsq(torch.stack(columns), slope[:, None], driver="gelsd").solution[:, 0]
        theta = theta - move
        if float(move.norm()) <= 1e-14 * float(theta.norm()):
            break
    return objective.loss(theta)


def _run(
    watched: _Watched, objective: LinearObjective, step: float, accuracy: float, limit: int, clock: _Clock
) -> tuple[Any, Any, list[dict[str, tuple[float, float]]]]:
    import torch

    from gradcode.clusters import SimulatedCluster
    from gradcode.session import Session

    best = minimum(objective)
    gaps: list[float] = []
    counts: list[tuple[int, int, int]] = []
    seconds: list[dict[str, tuple[float, float]]] = []
    reports: list[Any] = []
    cluster = SimulatedCluster(watched.workers)
    with Session.of(objective, cast(Scheme, watched), cluster, listeners=[reports.append]) as session:
        theta = objective.model.theta
        with torch.no_grad():
            theta.zero_()
        optimizer = torch.optim.SGD([theta], lr=step)
        session.optimizer = optimizer
        while True:
            gaps.append(objective.loss(theta.detach()) - best)
            if gaps[-1] <= accuracy or not np.isfinite(gaps[-1]) or session.iteration >= limit:
                break
            watched.units = 0
            next(session.epoch()).backward()
            optimizer.step()
            counts.append((reports[-1].uploads, reports[-1].downloads, watched.units))
            seconds.append(clock.of_the_last())
    return np.array(gaps), np.array(counts, dtype=np.int64).reshape(-1, 3), seconds


class _Watched:
    """A scheme whose orders are counted."""

    def __init__(self, scheme: Scheme) -> None:
        self._scheme = scheme
        self.workers = scheme.workers
        self.units = self.completed = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheme, name)

    def __repr__(self) -> str:
        return repr(self._scheme)

    def start(self, iteration: Iteration) -> Sequence[Action]:
        return self._counted(self._scheme.start(iteration))

    def receive(self, reply: Reply) -> Sequence[Action]:
        self.completed += _units(reply.order)
        return self._counted(self._scheme.receive(reply))

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        self._scheme.gradient(rows, out)

    def _counted(self, actions: Sequence[Action]) -> Sequence[Action]:
        self.units += sum(_units(action) for action in actions if isinstance(action, Order))
        return actions


def _units(order: Order) -> int:
    """Gradients that it takes; the worker has those that are taken off."""
    reference = None if order.compare is None else order.compare.reference
    compared = () if reference is None or isinstance(reference, Version) else reference
    return len(order.combination) + len(set(compared) - set(order.subtract))


class _Clock:
    """Expected seconds of iterations like the one that a scheme has just ended, and their standard errors."""

    def __init__(self, scheme: Scheme, laws: Mapping[str, Law], scale_with_load: bool, seed: int) -> None:
        self._scheme, self._laws, self._scaled = scheme, laws, scale_with_load
        self._seed = seed
        self._known: dict[tuple[Hashable, ...], dict[str, tuple[float, float]]] = {}
        self._draws: dict[str, Floats] = {}

    def of_the_last(self) -> dict[str, tuple[float, float]]:
        """Law's name -> (mean, standard error)."""
        key = self._selection()
        if key not in self._known:
            self._known[key] = {name: self._of(name, law) for name, law in self._laws.items()}
        return self._known[key]

    def _selection(self) -> tuple[Hashable, ...]:
        """What the time of an iteration depends on, beside the law: workers are alike."""
        match self._scheme:
            case Innovations(deadline=None) as scheme if scheme.one_each or _needs_all_it_tolerates(scheme.code):
                return (scheme.one_each, *sorted(scheme.loads))
            case Innovations() as scheme:
                return (scheme.selected, scheme.loads, scheme.due)
            case Groups(deadline=None) as scheme if not isinstance(scheme, CodedRows):
                return tuple(sorted(scheme.loads))
            case Groups() as scheme:
                return (scheme.asked, scheme.loads, scheme.due)
        return ()

    def _of(self, name: str, law: Law) -> tuple[float, float]:
        found = self._integrated(law)
        if found is not None:
            return found, 0.0
        times = self._drawn(name, law)
        return float(times.mean()), float(times.std(ddof=1) / len(times) ** 0.5)

    def _integrated(self, law: Law) -> float | None:
        """The expected time, where it has a closed form or can be integrated."""
        match self._scheme:
            case CodedRows(deadline=None) as scheme if _needs_all_it_tolerates(scheme.code) and _alike(scheme.loads):
                redundancy = scheme.code.tolerance + 1
                time = closed.wait_f(law, len(scheme.loads), scheme.workers, redundancy) / redundancy
                return time * self._load(max(scheme.loads, default=0))
            case Groups(deadline=None) as scheme if not isinstance(scheme, CodedRows) and _alike(scheme.loads):
                load = self._load(max(scheme.loads, default=0))
                return closed.grouped(law, len(scheme.loads), scheme.redundancy, load)
            case Innovations(deadline=None) as scheme if scheme.one_each or _needs_all_it_tolerates(scheme.code):
                return self._of_innovations(scheme, law)
            case Grouping(deadline=None) as scheme:
                groups = scheme.workers // scheme.redundancy
                return closed.grouped(law, groups, scheme.redundancy, self._load(scheme.partitions / groups))
            case Coded(deadline=None) as scheme if _needs_all_it_tolerates(scheme.code):
                answers = scheme.workers - scheme.code.tolerance
                return self._load(scheme.code.load) * law.mean_order_statistic(answers, scheme.workers)
        return None

    def _of_innovations(self, scheme: Innovations, law: Law) -> float:
        """Of the |W| workers that are asked |W| − r + 1 are waited for (lagc.md 5), or all."""
        loads = [self._load(own) for own in scheme.loads if own]
        if not loads:
            return 0.0
        answers = len(loads) - (0 if scheme.one_each else scheme.code.tolerance)
        if _alike(loads):
            return loads[0] * law.mean_order_statistic(answers, len(loads))
        return closed.unequal(law, loads, answers)

    def _load(self, partitions: float) -> float:
        return float(partitions) if self._scaled else 1.0

    def _drawn(self, name: str, law: Law) -> Floats:
        """(draws,) seconds by the scheme's own ``duration``, on the same draws every time."""
        if name not in self._draws:
            rng = np.random.default_rng([self._seed, len(self._draws)])
            self._draws[name] = law.sample(rng, (DRAWS, self._scheme.workers))
        if not self._scaled:
            raise ValueError(
                f"scale_with_load=False is not known for {self._scheme!r}: only where times are in closed form"
            )
        unit = self._draws[name]
        return self._scheme.duration(unit[:, :, None], np.zeros(unit.shape))


def _alike(loads: Sequence[float]) -> bool:
    return len(set(loads)) <= 1


def _needs_all_it_tolerates(code: GradientCode) -> bool:
    """Whether a code is decoded from N − s messages and no fewer, all of one load."""
    kinds = ("uncoded", "cyclic_mds", "reed_solomon")
    even = len({len(held) for held in code.placement}) == 1
    return even and (code.name in kinds or code.parameters.get("variant") == "random")
