"""Symmetric matrices and operators for the tests of the estimators."""

import numba
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _one_thread():
    """Many tiny calls: waking threads would take longer than the work."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(threads)


@pytest.fixture
def decaying():
    """A 60 x 60 positive definite matrix with eigenvalues 1 / j^2."""
    q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((60, 60)))
    matrix = (q / np.arange(1, 61) ** 2.0) @ q.T
    return (matrix + matrix.T) / 2
