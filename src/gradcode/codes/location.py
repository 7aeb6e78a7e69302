"""Which messages of a cyclic code are wrong: error location, where nobody says who cannot be trusted.

The messages c_i of :func:`gradcode.codes.cyclic_mds` without rounding satisfy d parity checks, Σ_i c_i x_i^z = 0 for d
consecutive exponents z, x_i = exp(−2πi i/N) (gradient_codes.md 2.4). Any N − d of them fix the others. Where messages
are missing, the polynomial Λ that vanishes at their points turns d checks into d − (their number) without them:

    Σ_i c_i x_i^{z₀} Λ(x_i) x_i^l = 0,   l = 0, …, d − |missing| − 1.

Of e wrong messages the left sides are the *syndromes* S_l = Σ_{wrong i} (something)_i x_i^l, and the polynomial with
the e wrong points as its roots, the *locator*, satisfies Σ_{q<e} a_q S_{l+q} = −S_{l+e}: that is how they are found
(gradient_codes.md 6; for several numbers per message and with missing ones OURS).
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from gradcode.codes.mds import centred_zeros

Array = NDArray[np.complex128]

_MOST_KNOWN = 256


class ErrorLocator:
    """Finds the messages of ``cyclic_mds(workers, redundancy)`` that the others contradict.

    Args:
        workers: N.
        redundancy: d, the number of parity checks; the code's tolerance for stragglers.
    """

    def __init__(self, workers: int, redundancy: int) -> None:
        self.workers, self.redundancy = workers, redundancy
        turns = -np.arange(workers)
        self._points: Array = np.exp(2j * np.pi * turns / workers)
        first = int(centred_zeros(workers, redundancy)[0])
        self._first: Array = np.exp(2j * np.pi * (turns * first % workers) / workers)
        self._directions: dict[tuple[int, ...], Array] = {}  # by members: those of many iterations are the same

    def agreeing(
        self, values: NDArray[np.complexfloating], received: Collection[int], enough: int, tolerance: float
    ) -> tuple[int, ...] | None:
        """The workers, at least ``enough`` of those received, whose values are of one code word; None: there are none.

        Args:
            values: (N, P) as many linear functionals of each message, the same for all; read for ``received`` only.
            received: who has sent one.
            enough: above N − d. With N − d + s of them, s of whom may be wrong, the N − d others fix the word.
            tolerance: values whose distance from the nearest code word is at most so much of their own norm agree.

        Among ``received``, s wrong ones are found if there are ``enough`` others and enough ≥ N − d + s.
        """
        finite = {worker for worker in received if np.isfinite(values[worker]).all()}
        search = _Search(self, values, tolerance)
        found = search.among(frozenset(finite), len(finite) - enough)
        if found is None:
            return None
        for worker in sorted(finite - found):  # who was left out by mistake on the way comes in again
            if search.agree(found | {worker}):
                found |= {worker}
        return tuple(sorted(found))

    def checks(self, members: list[int]) -> Array:
        """(d − N + |members|, |members|): their parity checks."""
        missing = np.setdiff1d(np.arange(self.workers), members)
        points = self._points[members]
        weights = self._first[members] * np.prod(points[:, None] - self._points[missing], axis=1)
        number = max(0, self.redundancy - len(missing))
        checks: Array = weights * points ** np.arange(number)[:, None]
        return checks

    def directions(self, members: tuple[int, ...]) -> Array:
        """The rows of ``checks``, made orthonormal: a code word has no part along them."""
        if members not in self._directions:
            if len(self._directions) >= _MOST_KNOWN:
                self._directions.clear()
            self._directions[members] = np.linalg.qr(self.checks(list(members)).conj().T)[0].conj().T
        return self._directions[members]

    def suspects(self, values: Array, members: list[int], count: int) -> list[int]:
        """The ``count`` members at which the locator of that degree is nearest to zero; values (|members|, P)."""
        syndromes = self.checks(members) @ values
        rows = len(syndromes) - count
        system = np.stack([syndromes[q : q + rows].ravel() for q in range(count)], axis=1)
        coefficients = np.linalg.lstsq(system, -syndromes[count:].ravel(), rcond=None)[0]
        locator = np.polyval([1.0, *coefficients[::-1]], self._points[members])
        return [members[place] for place in np.argsort(np.abs(locator), kind="stable")[:count]]


class _Search:
    """Looks for members whose values agree, leaving some out.

    Errors of very different size hide one another: the smaller drown in the rounding of the larger. So where no set
    of suspects explains everything, a few are left out and the rest is searched again.
    """

    def __init__(self, locator: ErrorLocator, values: NDArray[np.complexfloating], tolerance: float) -> None:
        self._locator, self._values, self._tolerance = locator, values.astype(np.complex128), tolerance

    def agree(self, workers: frozenset[int]) -> bool:
        """Whether the values of these are within the tolerance of a code word."""
        members = sorted(workers)
        own = self._values[members]
        size = float(np.abs(own).max(initial=0.0))
        if size == 0:
            return True
        own = own / size  # so that no square leaves the range of numbers
        distance = np.linalg.norm(self._locator.directions(tuple(members)) @ own)
        return bool(distance <= self._tolerance * np.linalg.norm(own))

    def among(self, workers: frozenset[int], most: int) -> frozenset[int] | None:
        """Those that agree when at most ``most`` are left out."""
        if most < 0:
            return None
        if self.agree(workers):
            return workers
        members = sorted(workers)
        own = self._values[members]
        own = own / np.abs(own).max()
        rests = [workers - set(self._locator.suspects(own, members, count)) for count in range(1, most + 1)]
        for rest in rests:
            if self.agree(rest):
                return rest
        for rest in rests[:-1]:
            found = self.among(rest, most - len(workers - rest))
            if found is not None:
                return found
        return None
