"""A small network's projection, for tests with bad and extreme arguments."""

import numpy as np
import pytest
from empirical.bad_calls import NET, PARAMS, SKETCH, X

from ntkfast.empirical import jacobian
from ntkfast.projection import KroneckerProjection, MaskedProjection, TensorProjection, project_jacobian

LABELS = np.array([0, 1, 1])
CLASSES = (TensorProjection, KroneckerProjection, MaskedProjection)
SHAPES = {path: array.shape[2:] for path, array in jacobian(NET, PARAMS, X).items()}
every_class = pytest.mark.parametrize("cls", CLASSES)


def projected(cotangents=None, **options):
    """Of three samples and two outputs."""
    arguments = {"params": PARAMS, "x": X, "sketch": SKETCH, **options}
    return project_jacobian(NET, cotangents=cotangents, **arguments)
