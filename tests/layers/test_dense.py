"""Dense against its formula, in both parameterizations; its derivatives are in test_conformance.py."""

import math

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.layers import Cotangent, Dense


def _random(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 3, 4)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_ntk_parameterization(shape, dtype, backend):
    x, weight, bias = _random(5, *shape), _random(4, 3, seed=1), _random(3, seed=2)
    params = {"weight": backend.asarray(weight.astype(dtype)), "bias": backend.asarray(bias.astype(dtype))}
    y, _ = Dense(3, W_std=1.5, b_std=0.2).forward(params, backend.asarray(x.astype(dtype)))
    expected = 1.5 / 2 * np.einsum("...i,io->...o", x, weight) + 0.2 * bias
    y = backend.to_numpy(y)
    assert y.dtype == dtype
    assert_close(y, expected, tol(dtype, 4))


def test_standard_parameterization():
    x, weight, bias = _random(5, 4), _random(4, 3, seed=1), _random(3, seed=2)
    layer = Dense(3, W_std=1.5, b_std=0.2, parameterization="standard")
    assert_close(layer.forward({"weight": weight, "bias": bias}, x)[0], x @ weight + bias, tol("float64", 4))


def test_both_are_one_function_of_the_seed():
    """Standard weights are those of the NTK parameterization times what multiplies them there."""
    x = _random(5, 64)
    ntk, standard = (Dense(3, W_std=1.5, b_std=0.2, parameterization=name) for name in ("ntk", "standard"))
    params, scaled = (layer.init((64,), seed=3, dtype="float64") for layer in (ntk, standard))
    assert_close(scaled["weight"], 1.5 / 8 * params["weight"], tol("float64"))
    assert_close(scaled["bias"], 0.2 * params["bias"], tol("float64"))
    assert_close(standard.forward(scaled, x)[0], ntk.forward(params, x)[0], tol("float64", 64))


def test_kernel_of_a_linear_model():
    """The NTK of z = (W_std / sqrt(d)) x W + b_std b is (W_std^2 x.x' / d + b_std^2) I."""
    x, layer = _random(5, 4), Dense(3, W_std=1.5, b_std=0.2)
    _, saved = layer.forward(layer.init((4,), seed=0, dtype="float64"), x)
    found = layer.factors({}, saved, Cotangent(np.eye(3)[None]))
    rows = np.concatenate([f.jacobian().reshape(5, 3, -1) for f in found.values()], axis=2)
    expected = (1.5**2 / 4 * x @ x.T + 0.2**2)[:, None, :, None] * np.eye(3)[None, :, None]
    assert_close(np.einsum("nap,mbp->namb", rows, rows), expected, tol("float64", 4))


def test_a_bias_without_its_scale():
    """In the standard parameterization b_std only says how it is drawn: with zeros, as most networks begin."""
    layer = Dense(3, bias=True, parameterization="standard")
    assert layer.parameter_shapes((4,)) == {"weight": (4, 3), "bias": (3,)}
    assert not layer.init((4,), seed=0)["bias"].any()
    with pytest.raises(ValueError, match="expected b_std > 0 for a bias in the NTK parameterization, got 0"):
        Dense(3, bias=True)


def test_no_bias_despite_its_scale():
    assert Dense(3, b_std=0.1, bias=False).parameter_shapes((4,)) == {"weight": (4, 3)}


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"out_dim": 0}, ValueError, "expected out_dim to be at least 1, got 0"),
        ({"out_dim": 2.0}, TypeError, "expected out_dim to be an integer"),
        ({"out_dim": 2, "W_std": 0}, ValueError, "expected W_std to be a finite number greater than 0"),
        ({"out_dim": 2, "W_std": math.nan}, ValueError, "expected W_std to be a finite number"),
        ({"out_dim": 2, "b_std": -1}, ValueError, "expected b_std to be a finite number at least 0"),
        ({"out_dim": 2, "parameterization": "mup"}, ValueError, "expected parameterization to be one of ntk, standard"),
    ],
)
def test_settings(arguments, error, message):
    with pytest.raises(error, match=message):
        Dense(**arguments)


def test_equal_settings_are_equal():
    assert Dense(np.int64(3), W_std=2) == Dense(3, W_std=2.0)
    assert hash(Dense(3, b_std=0.1)) == hash(Dense(3, b_std=0.1, bias=True))


def test_samples_without_axes_are_refused():
    with pytest.raises(ValueError, match=r"expected samples with at least one axis, got shape \(\)"):
        Dense(3).out_shape(())
