"""Stochastic gradient coding: the sum of whatever arrives, with weights that make it right on average.

Source: Bitar, Wootters, El Rouayheb 2019, read second-hand (one_bit.md 2 to 4). Mapping of letters: their subset k is
our partition, with d_k holders; p_i is the probability that worker i straggles.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from gradcode import codes
from gradcode.codes import GradientCode, checks
from gradcode.codes.stability import growth
from gradcode.errors import GradcodeWarning
from gradcode.protocol import Action, Floats, Iteration
from gradcode.schemes.fastest import check_quorum
from gradcode.schemes.registry import scheme
from gradcode.schemes.rows import RowScheme, Weights

_ENOUGH = 50  # iterations before anybody is called a persistent straggler
_FAR = 6.0  # standard deviations


class StochasticSum(RowScheme):
    """Worker i sends h_i = Σ_k g_k/d_k over its partitions; the gradient is Σ_i h_i/(1 − p_i) of those that answer.

    On average that is the gradient, if each worker straggles independently with probability p_i:
    E Σ_i I_i·h_i/(1 − p_i) = Σ_k g_k (one_bit.md, eq. 1). Who straggles for ever makes it biased: what only such
    workers hold is missing always, and what others hold counts too much. There is a warning when the answers look like
    it.

    Args:
        code: whose rows are the h_i, each partition's coefficients adding up to 1: :func:`gradcode.codes.stochastic`.
        straggling: p, one number or (N,), in [0, 1). None: 1 − quorum/N, N being those that hold something, or, with a
            deadline, 1 − the share of them that has answered so far. Such an estimate is unbiased in the long run only
            (one_bit.md 15): it begins with p = 0, and there is a warning.
        quorum: answers that end an iteration; None: those of all.
        deadline: seconds after which an iteration ends; None: none. If nothing has arrived, the first answer does.

    Raises:
        ValueError: a partition's coefficients do not add up to 1, or an argument is out of its range.
    """

    def __init__(
        self,
        code: GradientCode,
        straggling: float | Sequence[float] | None = None,
        quorum: int | None = None,
        deadline: float | None = None,
    ) -> None:
        encoding = np.asarray(code.encoding)
        if np.iscomplexobj(encoding) or not np.allclose(encoding.sum(axis=0), 1.0):
            raise ValueError(
                f"{code!r} does not share each partition out with coefficients that add up to 1, as codes.stochastic "
                f"and codes.bernoulli do"
            )
        if quorum is not None:
            check_quorum(quorum, code.workers)
        shares = [{int(j): float(encoding[worker, j]) for j in held} for worker, held in enumerate(code.placement)]
        super().__init__(shares, deadline)
        self.code, self.partitions, self.quorum = code, code.partitions, quorum
        self._asked = self._loads > 0  # a random allocation may leave a worker without partitions
        self._fewest = min(int(self._asked.sum()), self.workers if quorum is None else quorum)
        self._given = _straggling(straggling, self.workers)
        self.straggling: Floats = np.zeros(self.workers)  # p of this iteration
        self._iterations = 0
        self._answers = np.zeros(self.workers, dtype=np.int64)  # iterations in which each has answered
        self._warned = self._told = False
        self._estimate()

    def __repr__(self) -> str:
        given = "" if self._given is None else f", straggling={_shown(self._given)}"
        quorum = "" if self.quorum is None else f", quorum={self.quorum}"
        deadline = "" if self.deadline is None else f", deadline={self.deadline}"
        return f"sgc({self.code!r}{given}{quorum}{deadline})"

    @property
    def fixed_weights(self) -> Floats:
        return np.asarray(1 / (1 - self.straggling))

    @property
    def estimated(self) -> bool:
        """Whether p is estimated from who has answered so far."""
        return self._given is None and self.deadline is not None

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._estimate()
        if self.estimated and not self._told:
            self._told = True
            warnings.warn(
                f"straggling= is not given and {self!r} has a deadline, so it is estimated from who has answered so "
                f"far (now {_shown(self.straggling)}): gradients are right on average in the long run only, those of "
                f"the first iterations are biased. If it is known, give it",
                GradcodeWarning,
                stacklevel=2,
            )
        return super().start(iteration)

    def suffice(self, arrived: set[int], iteration: Iteration) -> bool:
        return len(arrived) >= self._fewest

    def _weights(self, arrived: set[int], iteration: Iteration) -> Weights:
        weights, everybody = np.zeros(self.workers), len(arrived) == self._asked.sum()
        chosen = sorted(arrived)
        weights[chosen] = self.fixed_weights[chosen]
        exact = everybody and not self.straggling.any()
        error = growth(float(self._loads.max()) + len(chosen) + 2, self._roundoff)
        if not exact:  # partition k counts Σ_i I_i·B_ik/(1 − p_i) times in place of once
            error += float(np.abs(weights @ np.asarray(self.code.encoding) - 1).max())
        return Weights(weights, error, exact)

    def completion(self, finish: Floats) -> Floats:
        return np.asarray(np.partition(finish, self._fewest - 1, axis=1)[:, self._fewest - 1])

    def finish(self) -> npt.NDArray[Any]:
        weights = super().finish()
        self._iterations += 1
        self._answers[sorted(self._arrived)] += 1
        self._warn()
        return weights

    def _estimate(self) -> None:
        if self._given is not None:
            self.straggling = self._given
        elif not self.estimated:
            self.straggling = np.full(self.workers, 1 - self._fewest / self._asked.sum())
        elif self._iterations:
            share = self._answers.sum() / (self._iterations * self._asked.sum())
            self.straggling = np.full(self.workers, 1 - share)

    def _warn(self) -> None:
        """A worker that answers far less often than it should makes the gradient biased."""
        if self._warned or self._iterations < _ENOUGH:
            return
        p = self.straggling
        spread = np.sqrt(np.maximum(p * (1 - p), 1 / self._iterations) * self._iterations)
        silent = np.flatnonzero(self._asked & (self._answers < (1 - p) * self._iterations - _FAR * spread))
        if len(silent):
            self._warned = True
            counts = ", ".join(f"{worker}: {self._answers[worker]}" for worker in silent[:8])
            warnings.warn(
                f"of {self._iterations} iterations these workers have answered in far fewer than straggling="
                f"{_shown(p)} says ({counts}): the gradient is biased, for what they hold counts too little in it. "
                f"Give straggling= a number for each worker, or leave them out",
                GradcodeWarning,
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        return {"iterations": self._iterations, "answers": self._answers.tolist()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if len(state.get("answers", ())) != self.workers:
            raise ValueError(f"the state is not that of {self!r}: it has {sorted(state)}")
        self._iterations = int(state["iterations"])
        self._answers = np.array(state["answers"], dtype=np.int64)
        self._estimate()


@scheme(
    "sgc",
    summary="stochastic gradient coding: partitions on a few workers each, the sum of what arrives, right on average",
    trade_off="low load and no waiting; a noisy gradient, and a biased one if some workers are always slow",
)
def sgc(
    workers: int,
    replication: int = 2,
    straggling: float | Sequence[float] | None = None,
    quorum: int | None = None,
    deadline: float | None = None,
    *,
    partitions: int | None = None,
    allocation: str | None = None,
    rng: checks.Seed = 0,
) -> StochasticSum:
    """Stochastic gradient coding; see :class:`StochasticSum`.

    Args:
        workers: N.
        replication: d, holders of each partition.
        straggling, quorum, deadline: as there. One of ``quorum`` and ``deadline`` says when to go on.
        partitions: K; None: N.
        allocation: which workers hold what, "random", "pairwise", "cyclic" or "repetition"; see
            :func:`gradcode.codes.stochastic`.
        rng: generator or seed of the random allocation.

    Raises:
        ValueError: an argument is out of its range.

    >>> sgc(workers=8, replication=4, quorum=6).straggling[0]
    np.float64(0.25)
    """
    code = codes.stochastic(workers, partitions, replication, allocation=allocation, rng=rng)
    return StochasticSum(code, straggling, quorum, deadline)


def _straggling(given: float | Sequence[float] | None, workers: int) -> Floats | None:
    if given is None:
        return None
    p: npt.NDArray[np.float64] = np.asarray(given, dtype=np.float64)
    if p.shape not in ((), (workers,)) or not np.all((p >= 0) & (p < 1)):
        raise ValueError(
            f"straggling={given!r} must be a probability below 1, or one for each of the {workers} workers"
        )
    return np.array(np.broadcast_to(p, workers))


def _shown(p: Floats) -> Any:
    return float(p[0]) if len(set(p.tolist())) == 1 else p.tolist()
