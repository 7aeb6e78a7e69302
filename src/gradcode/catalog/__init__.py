"""Models and datasets by name, shared by configurations, examples and experiments.

``models.MODELS`` and ``data.DATASETS`` are the registries; a new entry is one decorated function there.
"""

from gradcode.catalog.data import DATASETS, DataError, Split, shape_and_outputs
from gradcode.catalog.evaluation import Evaluation
from gradcode.catalog.models import MODELS, cnn, linear, mlp

__all__ = ["DATASETS", "MODELS", "DataError", "Evaluation", "Split", "cnn", "linear", "mlp", "shape_and_outputs"]
