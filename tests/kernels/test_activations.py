"""Smooth activations against 40-digit arithmetic, in the tails, at 0 and far out, and wherever an entry stands."""

import mpmath
import numpy as np
import pytest
from mpmath import exp, mpf

from ntkfast.kernels._cuda import SIMULATED
from ntkfast.kernels.activations import FUNCTIONS, slope, value

DTYPES = [np.float32, np.float64]
for_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])
for_each_function = pytest.mark.parametrize("name", FUNCTIONS)
for_each_kernel = pytest.mark.parametrize("kernel", [value, slope], ids=lambda kernel: kernel.name)


def cubic(x):
    return mpmath.sqrt(8 / mpmath.pi) * (x + mpf("0.044715") * x**3)


VALUES = {
    "erf": mpmath.erf,
    "gelu": lambda x: x * mpmath.erfc(-x / mpmath.sqrt(2)) / 2,
    "gelu_tanh": lambda x: x / (1 + exp(-cubic(x))),
    "logistic": lambda x: 1 / (1 + exp(-x)),
    "silu": lambda x: x / (1 + exp(-x)),
    "softplus": lambda x: mpmath.log1p(exp(x)),
}
SLOPES = {
    "erf": lambda x: 2 / mpmath.sqrt(mpmath.pi) * exp(-x * x),
    "gelu": lambda x: mpmath.erfc(-x / mpmath.sqrt(2)) / 2 + x * mpmath.npdf(x),
    "gelu_tanh": lambda x: (1 + x * mpmath.diff(cubic, x) / (1 + exp(cubic(x)))) / (1 + exp(-cubic(x))),
    "logistic": lambda x: 1 / (1 + exp(-x)) / (1 + exp(x)),
    "silu": lambda x: (1 + x / (1 + exp(x))) / (1 + exp(-x)),
    "softplus": lambda x: 1 / (1 + exp(-x)),
}
# Where erf is 1, and where exp(-x^2), exp(-x^2 / 2) and exp(-|x|) have underflowed, in float64.
REACH = {"erf": 28, "gelu": 39, "gelu_tanh": 22, "logistic": 746, "silu": 746, "softplus": 746}
# Roots of derivatives, next to which their error is absolute.
ROOTS = {
    ("gelu", slope): -0.7517915246935645,
    ("gelu_tanh", slope): -0.752461421994,
    ("silu", slope): -1.2784645427610738,
}


def launch(kernel, name, x):
    out = np.full_like(x, np.nan)
    kernel.cpu(FUNCTIONS.index(name), x, out)
    return out


def points(name, dtype):
    """All magnitudes, the bulk, the tails as far as they reach, and the floats around the joint of erf."""
    rng, reach = np.random.default_rng(0), REACH[name]
    sizes = 10.0 ** -rng.uniform(0, 40, 60)
    joint = np.array([0.5, np.nextafter(dtype(0.5), dtype(0))])
    x = [np.linspace(-reach, reach, 301), np.linspace(-7, 7, 300), rng.standard_normal(200)]
    return np.concatenate([*x, sizes, -sizes, joint, -joint]).astype(dtype)


@for_each_function
@for_each_kernel
@for_each_dtype
def test_five_units_of_rounding_in_the_bulk_and_in_the_tails(kernel, name, dtype):
    """Relative, entry by entry. Where an exponential underflows gradually, its last unit times what multiplies it."""
    x, info = points(name, dtype), np.finfo(dtype)
    with mpmath.workdps(40):
        exact = [(VALUES if kernel is value else SLOPES)[name](mpf(float(v))) for v in x]
        error = np.array([float(abs(mpf(float(y)) - e)) for y, e in zip(launch(kernel, name, x), exact, strict=True)])
    size = np.array([abs(float(e)) for e in exact])
    steep = np.abs(x).astype(np.float64)  # what multiplies an exponential
    if name == "gelu_tanh":
        steep *= 1.6 * (1 + 0.15 * x**2)
        size *= 1 + steep
    size[np.abs(x - ROOTS.get((name, kernel), np.inf)) < 0.5] = 1
    underflow = 2 * np.maximum(1, steep) * float(info.smallest_subnormal)
    assert (error <= 5 * float(info.eps) * size + underflow).all()


@for_each_dtype
def test_erf_is_odd_bit_by_bit(dtype):
    x = points("erf", dtype)
    np.testing.assert_array_equal(launch(value, "erf", -x), -launch(value, "erf", x))


@for_each_dtype
def test_exact_values(dtype):
    most = float(np.finfo(dtype).max)
    x = np.array([0.0, -0.0, most, -most], dtype)
    limits = {
        "erf": [0, 0, 1, -1],
        "gelu": [0, 0, most, 0],
        "gelu_tanh": [0, 0, most, 0],
        "silu": [0, 0, most, 0],
        "logistic": [0.5, 0.5, 1, 0],
    }
    for name, expected in limits.items():
        np.testing.assert_array_equal(launch(value, name, x), np.array(expected, dtype))
    np.testing.assert_array_equal(launch(value, "softplus", x[2:]), [x[2], 0])
    for name in ("gelu", "gelu_tanh", "silu", "softplus"):
        np.testing.assert_array_equal(launch(slope, name, x), [0.5, 0.5, 1, 0])
    np.testing.assert_array_equal(launch(slope, "erf", x[2:]), [0, 0])
    np.testing.assert_array_equal(launch(slope, "logistic", x), [0.25, 0.25, 0, 0])


@pytest.mark.skipif(SIMULATED, reason="in plain Python NaN warns on its way to an integer")
@for_each_function
@for_each_kernel
@for_each_dtype
def test_nan_stays_nan(kernel, name, dtype):
    assert np.isnan(launch(kernel, name, np.full(19, np.nan, dtype))).all()


@pytest.mark.skipif(SIMULATED, reason="plain Python takes minutes for so many entries")
@for_each_function
@for_each_kernel
@for_each_dtype
def test_bits_do_not_depend_on_the_place(kernel, name, dtype):
    """Several threads, and any offset: the ends of vector loops round as their bodies do."""
    n = 2**18 + 13
    x = np.tile(np.random.default_rng(0).standard_normal(1013) * 3, n // 1013 + 1)[:n].astype(dtype)
    whole = launch(kernel, name, x)
    assert np.isfinite(whole).all()
    for first, last in [(0, 1), (3, 20), (5, 1000), (1013, 1020), (2**17 - 3, 2**17 + 40)]:
        np.testing.assert_array_equal(launch(kernel, name, x[first:last]), whole[first:last])
