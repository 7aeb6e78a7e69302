"""DRACO by a cyclic code, in which wrong replies are located."""

from __future__ import annotations

from collections.abc import Sequence
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

    DRACO's own matrix is :func:`gradcode.codes.reed_solomon` at roots of unity; the one here has the same kind of
    parity checks, about other frequencies, and amplifies rounding less. Its replies are real where N − 2s − t is odd,
    else packed.

    Args:
        workers: N > 2s + t.
        adversaries, stragglers, audit: as of :class:`Draco`.
        partitions: K ≥ N; None: N.
        tolerance: distance of the functionals from a code word, relative to them, up to which replies agree; what is
            wrong by less does no more harm than that times the code's amplification, and is not noticed. None: √u, u
            the unit roundoff of the replies: 1.1e-8 in float64, 2.4e-4 in float32.
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

    def __repr__(self) -> str:
        return self._described("cyclic", self.tolerance)

    @property
    def _certain(self) -> bool:
        return len(self._trusted) >= self._fewest

    def start(self, iteration: Iteration) -> Sequence[Action]:
        self._agree_within = _default_tolerance(iteration) if self.tolerance is None else self.tolerance
        return super().start(iteration)

    def _examine(self, reply: Reply) -> tuple[int, ...]:
        self._values[reply.order.worker] = self._projected(numbers(reply.payload, self._iteration))
        if len(self._arrived) < self._fewest:
            return ()
        found = self._locator.agreeing(self._values, self._arrived, self._fewest, self._agree_within)
        if found is None:
            if len(self._arrived) == self.workers:
                raise self._contradiction(
                    sorted(self._arrived), f"tolerance={self._agree_within:.1e} must then be larger"
                )
            return ()
        self._trusted = frozenset(found)
        self.corrupt = tuple(sorted(self._arrived - self._trusted))
        return ()

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
