"""Solvers for linear models: algorithms that need more of an iteration than a gradient for an optimizer.

    with gradcode.Session.of(objective, schemes.fastest(workers=16, k=12), cluster) as session:
        found = solvers.lbfgs(session, steps=60)
    found.parameters, found.values, found.clock, found.responders

==================  ===============================================================================================
gradient_descent    with any scheme whose workers each send a row
proximal_gradient   the same with an ℓ1 penalty (LASSO)
lbfgs               curvature from workers that answered twice in a row, step length from a second round trip
coordinate_descent  blocks of coordinates, those of the k fastest
==================  ===============================================================================================

Each drives a session: any cluster, any delays. They were made for encoded data (Karakus et al. 2017, 2019), where the
first k workers' answers are close to everybody's, and work on uncoded data as well.
"""

from gradcode.solvers.descent import coordinate_descent, gradient_descent, proximal_gradient
from gradcode.solvers.lbfgs import lbfgs
from gradcode.solvers.trips import Solution

__all__ = ["Solution", "coordinate_descent", "gradient_descent", "lbfgs", "proximal_gradient"]
