"""What both kinds of sequential gradient coding share: an iteration begins a job and gives an older one's gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from gradcode.codes import checks
from gradcode.protocol import Action, Floats, Iteration, Keep, Layout, Occasion, Order, Reply, Scheme, Version

if TYPE_CHECKING:
    from torch import Tensor


class _HasOccasion(Protocol):
    @property
    def occasion(self) -> Occasion: ...


Job = TypeVar("Job", bound=_HasOccasion)


class Sequential(ABC, Generic[Job]):
    """Job t, the gradient of iteration t, is worked at in the iterations t to t + T, and given by the last of them.

    In the first T iterations the gradient is 0. Orders have slots m·N + i, worker i's of the job m iterations old, and
    rows of the same numbers.

    A worker that takes longer than 1 + ``patience`` times the first that has done all it was asked is a straggler.
    When stragglers are known, the iteration ends, unless something that is due is missing; that is waited for.

    Args:
        workers: N.
        delay: T.
        patience: μ.
        packed: whether messages are complex; see :class:`gradcode.protocol.Layout`.
        orders: of a worker in an iteration, at most.

    Raises:
        ValueError: ``patience`` is negative or infinite.
    """

    partitions: int
    error = float("nan")
    exact = False
    done = True

    def __init__(self, workers: int, delay: int, patience: float, packed: bool, orders: int) -> None:
        if not 0 <= patience < float("inf"):
            raise ValueError(f"patience={patience!r} must be 0 or more: the share of the first reply's time to wait on")
        self.workers, self.delay, self.patience = workers, delay, patience
        slots = workers * orders
        self.layout = Layout(rows=slots, slots=slots, packed=packed, kept=delay + 1, stale=True)
        self.deadline: float | None = None
        self._jobs: deque[Job] = deque()  # those of the last T iterations
        self._count = 0  # numbers what is kept
        self._asked: set[int] = set()  # slots
        self._came: set[int] = set()
        self._open: set[int] = set()  # of those that are not lost
        self._late = False
        self._iteration: Iteration | None = None

    @property
    def inner(self) -> tuple[Scheme | None, ...]:
        return ()

    @property
    def due(self) -> int | None:
        """The iteration whose gradient this one gives; None: it is one of the first T."""
        return self._jobs[0].occasion.number if len(self._jobs) == self.delay else None

    @property
    @abstractmethod
    def load(self) -> float:
        """The largest share of the data that a worker computes on in an iteration, where nothing is done again."""

    @abstractmethod
    def _begin(self, occasion: Occasion) -> Job:
        """A new job."""

    @abstractmethod
    def _orders(self, iteration: Iteration) -> list[Order]:
        """What the workers do in this iteration."""

    @abstractmethod
    def _enough(self) -> bool:
        """Whether what has come is all that cannot be had later."""

    def _complete(self) -> bool:
        """Whether nothing that may still come is of any use."""
        return False

    @abstractmethod
    def _book(self, rows: Tensor, out: Tensor) -> None:
        """Enters what has come of the jobs; ``out`` (length,) may be written over."""

    @abstractmethod
    def _finish(self, job: Job, rows: Tensor, out: Tensor) -> tuple[float, bool]:
        """Writes the gradient of the job that is due into ``out``; its error, and whether it is exact."""

    @abstractmethod
    def _saved(self, job: Job) -> dict[str, Any]:
        """What a checkpoint must hold of the job, beside its occasion."""

    @abstractmethod
    def _restored(self, occasion: Occasion, saved: dict[str, Any]) -> Job: ...

    @abstractmethod
    def duration(self, compute: Floats, communicate: Floats) -> Floats:
        """See :class:`gradcode.protocol.Scheme`."""

    # One iteration

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._count += 1
        self._iteration = iteration
        # Of the T + 1 entries the jobs at hand use T.
        used = {job.occasion.version.entry for job in self._jobs}
        entry = next(entry for entry in range(self.delay + 1) if entry not in used)
        self._job = self._begin(Occasion(Version(entry, self._count), iteration.number))
        self.done, self.deadline, self._late, self._came = False, None, False, set()
        orders = self._orders(iteration)
        self._asked = {order.slot for order in orders}
        self._open = set(self._asked)
        return [Keep(self._job.occasion.version), *orders]

    def receive(self, reply: Reply) -> Sequence[Action]:
        worker = reply.order.worker
        self._came.add(reply.order.slot)
        self._open.discard(reply.order.slot)
        if self.deadline is None and self._came.issuperset(self._of(worker, self._asked)):
            self.deadline = (1 + self.patience) * reply.time
        self._judge()
        return ()

    def lose(self, worker: int) -> Sequence[Action]:
        """A straggler; what it was asked for comes if it is back in time."""
        self._open -= self._of(worker, self._open)
        self._judge()
        return ()

    def expire(self) -> Sequence[Action]:
        self._late = True
        self._judge()
        return ()

    def _judge(self) -> None:
        settled = self._late or not self._open or self._complete()
        self.done = bool(self._came) and settled and self._enough()

    def _of(self, worker: int, slots: set[int]) -> set[int]:
        return {slot for slot in slots if slot % self.workers == worker}

    def gradient(self, rows: Tensor, out: Tensor) -> None:
        self._book(rows, out)
        self._jobs.append(self._job)
        if len(self._jobs) > self.delay:
            self.error, self.exact = self._finish(self._jobs.popleft(), rows, out)
        else:
            out.zero_()
            self.error, self.exact = 0.0, True

    # Beyond an iteration

    def state_dict(self) -> dict[str, Any]:
        """The jobs of the last T iterations: what has come of them, and where their parameters are kept."""
        jobs = [{"occasion": [*job.occasion.version, job.occasion.number], **self._saved(job)} for job in self._jobs]
        return {"jobs": jobs, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the jobs of ``state``.

        Raises:
            ValueError: it is not that of this scheme.
        """
        if "jobs" not in state or len(state["jobs"]) > self.delay:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self._jobs.clear()
        for saved in state["jobs"]:
            entry, version, number = saved["occasion"]
            self._jobs.append(self._restored(Occasion(Version(entry, version), number), saved))
        # Workers may know what was kept in a run that was given up.
        self._count = max(self._count, int(state["count"]))


def described(scheme: Any, *more: str) -> str:
    """How a scheme of either kind is written; ``more`` at the end."""
    names = ["workers", "burst", "window", "stragglers"]
    given = [f"{name}={getattr(scheme, name)}" for name in names]
    given += [f"patience={scheme.patience}"] if scheme.patience != 1.0 else []
    return f"sequential({', '.join([*given, *more])})"


def check_model(workers: int, burst: int, window: int, stragglers: int, most: int) -> None:
    """Whether these are numbers of the (B, W, λ)-bursty model: 1 ≤ B < W, 1 ≤ λ ≤ ``most``.

    Raises:
        ValueError: they are not.
    """
    checks.integer("burst", burst, 1)
    checks.integer("window", window, burst + 1)
    checks.integer("stragglers", stragglers, 1, most)
