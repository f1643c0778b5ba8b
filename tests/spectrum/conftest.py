"""Symmetric matrices and operators for the tests of the estimators."""

import numpy as np
import pytest
from one_thread import one_thread  # noqa: F401


@pytest.fixture
def decaying():
    """A 60 x 60 positive definite matrix with eigenvalues 1 / j^2."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))
    matrix = (q / np.arange(1, 61) ** 2.0) @ q.T
    return (matrix + matrix.T) / 2
