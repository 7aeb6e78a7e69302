"""What workers compute: partitions of a dataset, gradients over a combination of them, checkpoints."""

from gradcode.training.encoded import EncodedCoordinates, EncodedLeastSquares
from gradcode.training.objective import ModelObjective
from gradcode.training.profile import profile
from gradcode.training.quadratic import LeastSquares, Logistic
from gradcode.training.sampling import Sampling

__all__ = [
    "EncodedCoordinates",
    "EncodedLeastSquares",
    "LeastSquares",
    "Logistic",
    "ModelObjective",
    "Sampling",
    "profile",
]
