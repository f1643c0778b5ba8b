"""Spectra of NTKs that are known by their products only, against those of the full matrices."""

import numpy as np
import pytest
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, ntk_operator
from ntkfast.layers import Dense, Sequential, Tanh
from ntkfast.spectrum import as_matrix, eigenvalues, log_determinant, spectral_density, xdiag, xtrace

NET = Sequential(Dense(64, b_std=0.1), Tanh(), Dense(4, b_std=0.1))


@pytest.fixture(params=["float32", "float64"])
def network(request):
    params = NET.init((6,), seed=0, dtype=request.param)
    x = np.random.default_rng(0).standard_normal((15, 6)).astype(request.param)
    return params, x


def test_order_of_rows(network):
    """Row sample * k + output, in the full kernel as a matrix and in the operator."""
    params, x = network
    matrix = as_matrix(empirical_ntk(NET, params, x, output="full"))
    identity = np.eye(60, dtype=x.dtype)
    assert_close(ntk_operator(NET, params, x) @ identity, matrix, 1e-5 if x.dtype == "float32" else 1e-12)


def test_estimates(network):
    """Fixed seeds; bounds are 6 standard errors, or rounding where the estimate is exact."""
    params, x = network
    operator, full = ntk_operator(NET, params, x), empirical_ntk(NET, params, x, output="full").astype("float64")
    values = eigenvalues(full)
    trace = xtrace(operator, 20, seed=0)
    assert abs(trace.value - values.sum()) < 6 * trace.standard_error
    assert trace.standard_error < 0.1 * values.sum()
    diagonal = xdiag(operator, 30, seed=0)  # as many products as rows: exact
    assert_close(diagonal.value, np.diag(as_matrix(full)), 1e-4 if x.dtype == "float32" else 1e-11)
    exact = np.log(values + 0.1).sum()
    estimate = log_determinant(operator, reg=0.1, n_vectors=50, steps=60, seed=0)
    assert abs(estimate.value - exact) < 6 * estimate.standard_error
    density = spectral_density(operator, n_vectors=4, steps=30, seed=0)
    assert density.nodes.max() == pytest.approx(values[-1], rel=1e-4)
