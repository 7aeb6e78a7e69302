"""Solvers on every cluster: the same stragglers lead to the same parameters."""

from __future__ import annotations

import numpy as np
import torch

import gradcode
from clusters.zoo import CLUSTERS, straggling
from gradcode import schemes, solvers
from gradcode.codes import encoders
from gradcode.training import EncodedCoordinates, EncodedLeastSquares, LeastSquares

WORKERS, STEPS = 4, 4


def solved(kind: str) -> dict[str, torch.Tensor]:
    """What each solver ends with on a cluster of this kind."""
    parameters = {}
    rng = np.random.default_rng(6)
    features, targets = rng.standard_normal((20, 3)), rng.standard_normal(20)
    silent = [(int(rng.integers(WORKERS)),) for _ in range(2 * STEPS)]
    data_parallel = EncodedLeastSquares(features, targets, encoders.hadamard(20), WORKERS, 0.1)
    model_parallel = EncodedCoordinates(LeastSquares(features, targets, 1, 0.1), encoders.hadamard(3))
    for name, objective, scheme, solve, trips in (
        ("lbfgs", data_parallel, schemes.fastest(WORKERS, 3), solvers.lbfgs, 2),
        ("blocks", model_parallel, schemes.fastest_blocks(WORKERS, 3, 8), solvers.coordinate_descent, 1),
    ):
        cluster = CLUSTERS[kind](WORKERS, delays=straggling(silent, WORKERS))
        with gradcode.Session.of(objective, scheme, cluster) as session:
            found = solve(session, STEPS)
        answered = [tuple(sorted(set(range(WORKERS)) - set(own))) for own in silent]
        assert found.responders == tuple(answered[0 : trips * STEPS : trips])
        assert found.values[-1] < found.values[0] and (np.diff(found.clock) >= 0).all()
        parameters[name] = found.parameters
    return parameters


def test_solvers_agree_on_the_same_stragglers(kind: str) -> None:
    torch.testing.assert_close(solved(kind), solved("simulated"), rtol=1e-9, atol=1e-12)
