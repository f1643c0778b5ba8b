"""Elementwise layers against their definitions, HIPS autograd, PyTorch, and at the edges of floating point.

The pullbacks are compared with central differences in test_conformance.py.
"""

import functools
import math

import mpmath
import numpy as np
import pytest
from helpers import assert_close, tol
from layers.settings import PIECEWISE_LINEAR, SMOOTH

from ntkfast.layers import (
    GELU,
    Abs,
    Cotangent,
    Erf,
    LeakyReLU,
    ReLU,
    Sigmoid,
    SiLU,
    Sin,
    SmoothElementwise,
    Softplus,
    Tanh,
)
from ntkfast.layers._base import Layer

DTYPES = ["float32", "float64"]
every = pytest.mark.parametrize("layer", PIECEWISE_LINEAR + SMOOTH, ids=repr)
smooth = pytest.mark.parametrize("layer", SMOOTH, ids=repr)


def _definitions(np, erf):
    """phi by the repr of its layer, in the array functions of some module."""
    return {
        "ReLU()": lambda x: np.where(x > 0, x, 0.0),
        "LeakyReLU(slope=0.01)": lambda x: np.where(x > 0, x, 0.01 * x),
        "LeakyReLU(slope=-0.5)": lambda x: np.where(x > 0, x, -0.5 * x),
        "LeakyReLU(slope=1.5)": lambda x: np.where(x > 0, x, 1.5 * x),
        "Abs()": lambda x: np.where(x > 0, x, -x),
        "Identity()": lambda x: 1.0 * x,
        "Erf()": erf,
        "GELU(approximate='none')": lambda x: x * (1 + erf(x / math.sqrt(2))) / 2,
        "GELU(approximate='tanh')": lambda x: x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2,
        "Tanh()": np.tanh,
        "Sigmoid()": lambda x: 1 / (1 + np.exp(-x)),
        "SiLU()": lambda x: x / (1 + np.exp(-x)),
        "Softplus()": lambda x: np.log(1 + np.exp(x)),
        "Sin()": np.sin,
    }


@pytest.fixture(scope="module")
def defined():
    """phi, phi', phi'' by the repr of a layer: autograd of the definition."""
    pytest.importorskip("autograd")
    import autograd.numpy
    from autograd import elementwise_grad
    from autograd.scipy.special import erf

    table = _definitions(autograd.numpy, erf)
    return {name: (phi, elementwise_grad(phi), elementwise_grad(elementwise_grad(phi))) for name, phi in table.items()}


def _column(layer, x):
    """phi', by the jvp of all-one tangents."""
    y, saved = layer.forward({}, x)
    return y, layer.jvp({}, saved, np.ones_like(x)[:, None])[:, 0], saved


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_against_autograd(layer, dtype, defined):
    x = np.linspace(-6, 6, 100, dtype=dtype)[:, None]
    phi, slope, _ = defined[repr(layer)]
    y, found, _ = _column(layer, x)
    wide = x.astype(np.float64)
    assert y.dtype == found.dtype == dtype
    assert_close(y, phi(wide), tol(dtype))
    assert_close(found, slope(wide), tol(dtype))


@smooth
def test_second_derivative_against_autograd(layer, defined):
    x = np.linspace(-6, 6, 100)[:, None]
    ones = np.ones((100, 1, 1))
    assert_close(layer.curvature({}, layer.forward({}, x)[1], ones, ones), defined[repr(layer)][2](x), tol("float64"))


@pytest.mark.parametrize("layer", PIECEWISE_LINEAR, ids=repr)
def test_piecewise_linear_layers_have_no_curvature(layer):
    """Not even as an override: the second-order pass asks for it before it forms the cotangents' product."""
    assert type(layer).curvature is Layer.curvature


@every
@pytest.mark.parametrize("dtype", DTYPES)
def test_finite_far_out(layer, dtype):
    """No overflow, no 0 times inf, no warning (all warnings are errors here)."""
    large = [20, 50, 90, 110, 300, 800, 1e4, 1e20, 1e30, float(np.finfo(dtype).max)]
    bound = 1e30 if layer == LeakyReLU(1.5) else math.inf  # phi itself overflows
    x = np.array([s * v for v in [0, 1e-30, 1e-300, *large] for s in (1, -1) if v <= bound], dtype)[:, None]
    y, slope, saved = _column(layer, x)
    ones = np.ones_like(x)[..., None]
    second = layer.curvature({}, saved, ones, ones)
    for found in (y, slope, *(() if second is None else (second,))):
        assert found.dtype == dtype
        assert np.isfinite(found).all()
    if isinstance(layer, SmoothElementwise) and layer != Sin():
        assert_close(second[np.abs(x) > 1e4], 0 * x[np.abs(x) > 1e4], 0)


@pytest.mark.parametrize(
    ("layer", "left", "right"),
    [
        (Erf(), -1, 1),
        (Tanh(), -1, 1),
        (Sigmoid(), 0, 1),
        (GELU(), 0, 1e30),
        (GELU("tanh"), 0, 1e30),
        (SiLU(), 0, 1e30),
        (Softplus(), 0, 1e30),
        (ReLU(), 0, 1e30),
    ],
    ids=repr,
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_limits(layer, left, right, dtype):
    y, slope, _ = _column(layer, np.array([[-1e30], [1e30]], dtype))
    assert_close(y[:, 0], np.array([left, right], dtype), 0)
    assert_close(slope[:, 0], np.array([0, right > 1]), 0)


TAILS = {
    Softplus(): ([-800, -50, -20], lambda x: mpmath.log1p(mpmath.exp(x))),
    GELU(): ([-30, -12, -3], lambda x: x * mpmath.ncdf(x)),
    SiLU(): ([-700, -40, -3], lambda x: x / (1 + mpmath.exp(-x))),
    Sigmoid(): ([-700, -40, -3], lambda x: 1 / (1 + mpmath.exp(-x))),
    GELU("tanh"): (
        [-12, -8, -3],
        lambda x: x / (1 + mpmath.exp(-2 * mpmath.sqrt(2 / mpmath.pi) * (x + mpmath.mpf(0.044715) * x**3))),
    ),
}


@pytest.mark.parametrize("layer", TAILS, ids=repr)
def test_left_tails_keep_their_digits(layer):
    """Relative, entry by entry: nothing is lost by 1 - (1 - small)."""
    points, phi = TAILS[layer]
    y, _ = layer.forward({}, np.array(points, np.float64)[:, None])
    with mpmath.workdps(40):
        expected = [float(phi(mpmath.mpf(x))) for x in points]
    np.testing.assert_allclose(y[:, 0], expected, rtol=2e-13)  # exp of numbers of some hundreds


@pytest.mark.parametrize(
    ("layer", "name", "keywords"),
    [
        (GELU(), "gelu", {}),
        (GELU("tanh"), "gelu", {"approximate": "tanh"}),
        (SiLU(), "silu", {}),
        (Softplus(), "softplus", {}),
        (LeakyReLU(), "leaky_relu", {}),
        (Tanh(), "tanh", {}),
        (Sigmoid(), "sigmoid", {}),
    ],
    ids=repr,
)
def test_pytorch_means_the_same(layer, name, keywords):
    torch = pytest.importorskip("torch")
    x = np.linspace(-9, 9, 200)
    expected = functools.partial(getattr(torch.nn.functional, name), **keywords)(torch.from_numpy(x)).numpy()
    # PyTorch's softplus is x itself from 20 on: exp(-20) is 2e-9 away, but not within these points
    assert_close(layer.forward({}, x[:, None])[0][:, 0], expected, 1e-14)


@pytest.mark.parametrize(
    ("layer", "slope"), [(ReLU(), 0), (LeakyReLU(0.2), 0.2), (LeakyReLU(-1.5), -1.5), (Abs(), 0)], ids=repr
)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_derivative_at_the_kink(layer, slope, zero):
    assert_close(_column(layer, np.array([[zero]]))[1], np.array([[slope]]), 0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gate_of_relu_is_0_or_1(dtype):
    x = np.array([[-2, 3, 0, 1e-30, -1e-30]], dtype)
    _, saved = ReLU().forward({}, x)
    low = ReLU().vjp({}, saved, Cotangent(np.ones((1, 2, 5), dtype)[:1]))
    gate = low.dense(1, ())[0, 0]
    assert gate.dtype == dtype
    assert gate.tolist() == [0, 1, 0, 1, 0]


@pytest.mark.parametrize("layer", [ReLU(), Tanh(), Sigmoid()], ids=repr)
def test_what_is_kept_is_the_output(layer):
    """Which the next layer keeps as its input: no memory of its own."""
    y, saved = layer.forward({}, np.ones((2, 3)))
    assert saved is y


@every
def test_shared_cotangents_stay_shared(layer):
    """A cotangent for all samples and positions only gets a gate."""
    x, shared = np.random.default_rng(0).standard_normal((4, 5, 5, 3)), np.ones((1, 1, 1, 2, 3))
    low = layer.vjp({}, layer.forward({}, x)[1], Cotangent(shared))
    again = layer.vjp({}, layer.forward({}, x)[1], low)
    assert low.shared is again.shared is shared


@every
def test_empty_parameters_and_shapes(layer):
    assert layer.init((3, 2), seed=0) == {}
    assert layer.out_shape((3, 2)) == (3, 2)
    assert not layer.has_parameters()
    with pytest.raises(ValueError, match="to hold nothing, got weight"):
        list(layer.check_params({"weight": np.ones(2)}, (2,)))


def test_settings():
    with pytest.raises(ValueError, match="approximate to be one of none, tanh"):
        GELU("erf")
    with pytest.raises(TypeError, match="expected slope to be a real number"):
        LeakyReLU("steep")
    with pytest.raises(ValueError, match="expected slope to be a finite number"):
        LeakyReLU(math.inf)
    assert LeakyReLU(1) == LeakyReLU(1.0) != LeakyReLU()
    assert len({ReLU(), ReLU(), Abs(), GELU(), GELU("tanh")}) == 4
