"""Kernels of fully connected networks against reference values in 40 digits."""

import numpy as np
import pytest
from golden_files import (
    FC_ACTIVATIONS,
    FC_BIASES,
    FC_DEPTHS,
    FC_SETS,
    fc_inputs,
    fc_kernels,
    regression_corners,
    regression_task,
)
from helpers import GOLDEN_RTOL, assert_close

from ntkfast.analytic import nngp, nngp_and_ntk, ntk

NETWORKS = [(activation, b_std) for activation in FC_ACTIVATIONS for b_std in FC_BIASES]
REGRESSION = [("relu3", 3, 2**0.5, "relu"), ("erf1", 1, 1.5, "erf")]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("activation", "b_std"), NETWORKS)
@pytest.mark.parametrize("dataset", FC_SETS)
def test_equals_the_reference(dataset, activation, b_std, dtype):
    x1, x2 = (x.astype(dtype) for x in fc_inputs(dataset))
    for depth in FC_DEPTHS:
        expected = fc_kernels(dataset, activation, b_std, depth)
        network = {"depth": depth, "b_std": b_std, "activation": activation}
        cross, own = nngp_and_ntk(x1, x2, **network), nngp_and_ntk(x1, **network)
        diagonal = nngp_and_ntk(x1, **network, diagonal=True)
        for kind in ("nngp", "ntk"):
            assert_close(getattr(cross, kind), expected[f"{kind}12"], GOLDEN_RTOL[dtype])
            assert_close(getattr(own, kind), expected[f"{kind}11"], GOLDEN_RTOL[dtype])
            assert_close(getattr(diagonal, kind), np.diag(expected[f"{kind}11"]), GOLDEN_RTOL[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("activation", "b_std"), NETWORKS)
def test_every_backend_equals_the_reference(activation, b_std, dtype, backend):
    if backend.name == "numpy-cudasim":
        pytest.skip("minutes in the simulator, where the kernels themselves are tested")
    x1, x2 = (backend.asarray(x.astype(dtype)) for x in fc_inputs("fashion_raw"))
    expected = fc_kernels("fashion_raw", activation, b_std, 3)
    network = {"depth": 3, "b_std": b_std, "activation": activation}
    for pair, suffix in ((nngp_and_ntk(x1, x2, **network), "12"), (nngp_and_ntk(x1, **network), "11")):
        for kind in ("nngp", "ntk"):
            assert_close(backend.to_numpy(getattr(pair, kind)), expected[f"{kind}{suffix}"], GOLDEN_RTOL[dtype])


@pytest.mark.parametrize("b_std", FC_BIASES)
def test_coincident_points_of_two_matrices_are_exact(b_std):
    """x2[0] and x2[1] are x1[0] and x1[1]; a cosine alone would lose half of the digits of relu's NTK there."""
    x1, x2 = fc_inputs("fashion_raw")
    expected = fc_kernels("fashion_raw", "relu", b_std, 5)["ntk12"]
    got = ntk(x1, x2, depth=5, b_std=b_std)
    for i in range(2):
        assert abs(got[i, i] / expected[i, i] - 1) < 1e-13


@pytest.mark.parametrize(("name", "depth", "W_std", "activation"), REGRESSION)
@pytest.mark.parametrize(("kind", "kernel"), [("nngp", nngp), ("ntk", ntk)])
def test_equals_the_corners_of_the_regression_kernels(name, depth, W_std, activation, kind, kernel):
    task = regression_task("fashion")
    train, test = task.x_train[:5].copy(), task.x_test[:5].copy()
    network = {"depth": depth, "W_std": W_std, "b_std": 0.1, "activation": activation}
    corner, cross_corner = regression_corners("fashion", name, kind)
    assert_close(kernel(train, **network), corner, 1e-12)
    assert_close(kernel(test, train, **network), cross_corner, 1e-12)
