"""How much of the experiment is run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Scale:
    """Numbers of draws, seeds and steps.

    Fewer steps give the same numbers where solvers come to rest, or stay in a neighbourhood, long before the full
    number; only coordinate descent under fixed stragglers goes on.

    Attributes:
        spectra: draws of an encoder.
        fixed: draws of data and encoder for sets of fixed stragglers.
        adversarial: of them with gradient descent under the worst set.
        seeds: of data, encoder and stragglers.
        ks: workers to wait for.
        gradient, second: steps of gradient and proximal gradient descent, and of L-BFGS.
        coordinates: steps of coordinate descent where it goes on.
        rest: and where it comes to rest.
        timed, paced: seeds and steps for times to targets.
    """

    spectra: int
    fixed: int
    adversarial: int
    seeds: int
    ks: tuple[int, ...]
    gradient: int
    second: int
    coordinates: int
    rest: int
    timed: int
    paced: int


FULL = Scale(12, 30, 3, 5, (16, 12, 10, 8), 300, 60, 400, 400, 5, 150)
QUICK = Scale(3, 6, 1, 2, (12, 8), 70, 20, 400, 60, 1, 24)
