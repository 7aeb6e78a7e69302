"""What both kinds of DRACO share: replies are examined as they come, and those that agree are used."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gradcode.codes import GradientCode, checks
from gradcode.errors import Contradiction
from gradcode.protocol import Abandon, Action, Iteration, Reply
from gradcode.schemes.coded import Coded
from gradcode.schemes.rows import Weights

if TYPE_CHECKING:
    from torch import Tensor


class Draco(Coded):
    """A coded scheme that examines replies as they come, and uses those that agree.

    With at most s adversaries and t stragglers, r = 2s + t + 1 workers hold each partition. Once so many replies agree
    that s of them may be lies and the rest still say what the gradient is, they are all true: who is not there yet is
    not waited for, unless ``audit`` is set.

    Args:
        code: whose workers' replies are compared.
        adversaries: s, at least 1.
        stragglers: t, beside them.
        audit: wait for every worker that is there, so that each is examined.
    """

    corrupt: tuple[int, ...] = ()
    """Workers that contradict those whose replies are used, of this iteration or the last one."""

    def __init__(self, code: GradientCode, adversaries: int, stragglers: int, audit: bool) -> None:
        super().__init__(code)
        self.adversaries, self.stragglers, self.audit = adversaries, stragglers, audit
        self._awaited: set[int] = set()
        self._trusted: frozenset[int] = frozenset()

    @abstractmethod
    def _examine(self, reply: Reply) -> tuple[int, ...]:
        """Compares the reply with the others; those whose replies are not needed any more.

        Raises:
            Contradiction: it, and all that can be compared with it, leave the gradient uncertain.
        """

    @property
    @abstractmethod
    def _certain(self) -> bool:
        """Whether the replies of those trusted are the gradient."""

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self.corrupt, self._trusted = (), frozenset()
        orders = super().start(iteration)
        self._awaited = set(iteration.workers).difference(iteration.away)
        return orders

    def receive(self, reply: Reply) -> Sequence[Action]:
        worker = reply.order.worker
        self._arrived.add(worker)
        self._awaited.discard(worker)
        needless = self._examine(reply)
        self._conclude()
        return [Abandon(needless)] if needless and not self.audit else ()

    def lose(self, worker: int) -> Sequence[Action]:
        """It is examined if it is back in time, but not waited for, as one that is being started again."""
        self._awaited.discard(worker)
        self._conclude()
        return ()

    def expire(self) -> Sequence[Action]:
        """A gradient that is not certain is none: there is nothing to be had from fewer replies."""
        self.done = self._certain
        return ()

    def _conclude(self) -> None:
        self.done = self._certain and not (self.audit and self._awaited)

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        decoding = self.code.decode(self._trusted & arrived)
        return Weights(decoding.weights, decoding.error, decoding.exact)

    def _contradiction(self, who: Sequence[int], remedy: str) -> Contradiction:
        assert self._iteration is not None
        return Contradiction(
            f"iteration {self._iteration.number}: the replies of workers {list(who)} contradict one another, and no "
            f"gradient is certain with up to adversaries={self.adversaries} of them corrupt; either more of them are, "
            f"for which a larger adversaries= is needed, or sound replies differ: {remedy}"
        )

    def _described(self, kind: str, tolerance: float | None) -> str:
        given = [f"workers={self.workers}", f"adversaries={self.adversaries}", f"kind={kind!r}"]
        given += [f"stragglers={self.stragglers}"] if self.stragglers else []
        given += [f"partitions={self.partitions}"] if self.partitions != self.workers else []
        given += ["audit=True"] if self.audit else []
        given += [] if tolerance is None else [f"tolerance={tolerance}"]
        given += [f"dtype={self.code.dtype!r}"] if self.code.dtype != "float32" else []
        return f"draco({', '.join(given)})"


def redundancy_of(workers: int, adversaries: int, stragglers: int) -> int:
    """r = 2s + t + 1, the workers that hold a partition.

    Raises:
        ValueError: there are not so many.
    """
    checks.integer("adversaries", adversaries, 1)
    checks.integer("stragglers", stragglers, 0)
    redundancy = 2 * adversaries + stragglers + 1
    if checks.integer("workers", workers, 1) < redundancy:
        raise ValueError(
            f"adversaries={adversaries} with stragglers={stragglers} must be fewer: each partition needs "
            f"2·adversaries + stragglers + 1 = {redundancy} workers, and there are workers={workers}"
        )
    return redundancy


def numbers(payload: Tensor | None, iteration: Iteration | None) -> Tensor:
    """A reply's bytes as numbers."""
    assert payload is not None and iteration is not None
    if iteration.dtype is None:
        raise ValueError("replies are compared as numbers, and the iteration does not tell their dtype")
    return payload.view(iteration.dtype)
