"""DRACO by a cyclic code, in which wrong replies are located."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from gradcode import codes
from gradcode.codes import checks
from gradcode.codes.location import ErrorLocator
from gradcode.protocol import Action, Floats, Iteration, Reply
from gradcode.schemes.draco.agreement import Draco, numbers, redundancy_of
from gradcode.schemes.draco.projection import Projection

if TYPE_CHECKING:
    from torch import Tensor

_FUNCTIONALS = 3  # that one of them is near 0 by chance does not hide an error


class ErrorCorrection(Draco):
    """Rows of the cyclic MDS code, whose N − 2s − t dimensions leave 2s + t checks: wrong replies are located.

    The master ends with the first N − s − t replies that agree, leaving out those that contradict them. It compares a
    few random functionals of the replies in place of the replies: :mod:`gradcode.schemes.draco.projection`.

    Losses and buffers are no code words, but each partition's are computed by 2s + t + 1 workers. Among those whose
    gradients agree, the first s + 1 that say the same of a partition are true, for one of them is. Nobody is waited for
    longer because of that unless somebody lies: of N − s − t workers s + 1 hold each partition (OURS; the paper's
    workers send gradients alone).

    DRACO's own matrix is :func:`gradcode.codes.reed_solomon` at roots of unity; the one here has the same kind of
    parity checks, about other frequencies, and amplifies rounding less. Its replies are real where N − 2s − t is odd,
    else packed.

    Args:
        workers: N > 2s + t.
        adversaries, stragglers, audit: as of :class:`Draco`.
        partitions: K ≥ N; None: N.
        tolerance: distance of the functionals from a code word, relative to them, up to which replies agree; what is
            wrong by less does no more harm than that times the code's amplification, and is not noticed. Of losses and
            buffers, relative and absolute. None: √u, u the unit roundoff of the replies: 1.1e-8 in float64, 2.4e-4 in
            float32.
        dtype, max_error: of the code, which refuses sizes where rounding may pass a limit.
        seed: of the functionals; adversaries must not know it.

    Raises:
        ValueError: an argument is out of its range, or the size is refused.

    >>> ErrorCorrection(workers=7, adversaries=2)
    draco(workers=7, adversaries=2, kind='cyclic')
    """

    def __init__(
        self,
        workers: int,
        adversaries: int,
        stragglers: int = 0,
        partitions: int | None = None,
        *,
        audit: bool = False,
        tolerance: float | None = None,
        dtype: str = "float32",
        max_error: float | None = None,
        seed: int = 0,
    ) -> None:
        redundancy = redundancy_of(workers, adversaries, stragglers)
        try:
            code = codes.cyclic_mds(workers, redundancy - 1, partitions, dtype=dtype, max_error=max_error)
        except ValueError as error:
            raise ValueError(
                f"adversaries={adversaries} with stragglers={stragglers} need a cyclic code that stands "
                f"{redundancy - 1} stragglers, which is refused: {error}"
            ) from error
        super().__init__(code, adversaries, stragglers, audit)
        self.tolerance, self.seed = tolerance, checks.integer("seed", seed, 0)
        self._fewest = workers - adversaries - stragglers
        self._locator = ErrorLocator(workers, redundancy - 1)
        self._projection: Projection | None = None
        self._values: npt.NDArray[np.complex128] = np.zeros((workers, _FUNCTIONALS), dtype=np.complex128)
        self._agree_within = 0.0
        self._said: dict[int, dict[int, Floats]] = {}  # worker -> partition -> what it says beside the gradient
        self._heard = False  # whether enough of those trusted say the same of every partition

    def __repr__(self) -> str:
        return self._described("cyclic", self.tolerance)

    @property
    def _certain(self) -> bool:
        return self._heard

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._agree_within = _default_tolerance(iteration) if self.tolerance is None else self.tolerance
        self._said, self._heard = {}, False
        return super().start(iteration)

    def _examine(self, reply: Reply) -> tuple[int, ...]:
        worker = reply.order.worker
        self._values[worker] = self._projected(numbers(reply.payload, self._iteration))
        self._said[worker] = dict(zip(reply.order.combination, reply.statistics, strict=True))
        if len(self._arrived) < self._fewest:
            return ()
        found = self._locator.agreeing(self._values, self._arrived, self._fewest, self._agree_within)
        outvoted = None if found is None else self._outvoted(found)
        if found is None or outvoted is None:
            if len(self._arrived) == self.workers:
                raise self._contradiction(
                    sorted(self._arrived), f"tolerance={self._agree_within:.1e} must then be larger"
                )
            return ()
        self._trusted, self._heard = frozenset(found), True
        self.corrupt = tuple(sorted((self._arrived - self._trusted) | outvoted))
        return ()

    def _outvoted(self, trusted: Sequence[int]) -> set[int] | None:
        """Those who say something else of a partition than s + 1 others; None: there are not so many for each."""
        assert self._iteration is not None
        liars: set[int] = set()
        for partition in self._iteration.target:
            said = {worker: self._said[worker][partition] for worker in trusted if partition in self._said[worker]}
            # One of s + 1 is true; from what is near to that, another true one is at most twice as far.
            near = (own for own in said.values() if self._supporters(own, said) > self.adversaries)
            true = next(near, None)
            if true is None:
                return None
            liars |= {worker for worker, own in said.items() if not self._alike(true, own, 3.0)}
        return liars

    def _supporters(self, own: Floats, said: Mapping[int, Floats]) -> int:
        return sum(self._alike(own, other) for other in said.values())

    def _alike(self, one: Floats, other: Floats, times: float = 1.0) -> bool:
        """Whether two statistics, (S,) each, differ by no more than so many tolerances."""
        slack = times * self._agree_within
        return np.array_equal(one, other) or bool(np.allclose(one, other, rtol=slack, atol=slack))

    def _projected(self, row: Tensor) -> npt.NDArray[np.complexfloating]:
        length = len(row) // 2 if self.layout.packed else len(row)
        if self._projection is None or self._projection.length != length:
            self._projection = Projection(length, _FUNCTIONALS, np.random.default_rng(self.seed))
        if self.layout.packed:
            return self._projection.packed(row)
        return self._projection(row).astype(np.complex128)

    def completion(self, finish: Floats) -> Floats:
        """Without adversaries: until N − s − t have answered, or all."""
        place = (self.workers if self.audit else self._fewest) - 1
        return np.asarray(np.partition(finish, place, axis=1)[:, place])


def _default_tolerance(iteration: Iteration) -> float:
    """√u, which leaves as many digits above rounding as below.

    Raises:
        ValueError: the replies have so few digits that there is no room between rounding and a lie.
    """
    import torch

    unit = torch.finfo(iteration.dtype).eps / 2 if iteration.dtype is not None else 1.0
    if unit > 2.0**-24:
        raise ValueError(
            f'kind="cyclic" finds no errors among replies of {iteration.dtype}: take reply_dtype=torch.float32, give a '
            f'tolerance that tells rounding from lies, or take kind="repetition"'
        )
    return float(np.sqrt(unit))
