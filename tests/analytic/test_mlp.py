"""Identities of NNGP and NTK of fully connected networks, plain references, and what a hostile user would try."""

import math

import mpmath
import numpy as np
import pytest
from helpers import assert_close, deviation, tol
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import ntkfast.analytic.mlp as mlp
from ntkfast.analytic import closed_form, leaky_relu, nngp, nngp_and_ntk, ntk
from ntkfast.analytic.activations import CLOSED_FORMS
from ntkfast.errors import MemoryBudgetError

HOMOGENEOUS = ("relu", "leaky_relu", "abs")
NETWORKS = [(name, b_std) for name in CLOSED_FORMS for b_std in (0.0, 0.3)]


def _points(n, d, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def _plain(x, y, depth, W_std, b_std, record):
    """The recursion as it is written in textbooks, from covariances alone."""
    d = x.shape[1]
    q1, q2 = (W_std**2 * (z * z).sum(axis=1) / d + b_std**2 for z in (x, y))
    covariance = W_std**2 * x @ y.T / d + b_std**2
    theta = covariance
    for _ in range(depth):
        k, kdot = record.dual(np, q1[None, :, None], q2[None, None], covariance)
        q1, q2 = (W_std**2 * record.diagonal(np, q).k + b_std**2 for q in (q1, q2))
        covariance = W_std**2 * k + b_std**2
        theta = covariance + W_std**2 * kdot * theta
    return covariance, theta


@pytest.mark.parametrize(("activation", "b_std"), NETWORKS)
def test_equals_the_plain_recursion(activation, b_std):
    x, y = 0.4 * _points(7, 5), 0.4 * _points(4, 5, seed=1)
    for depth in (0, 1, 3):
        pair = nngp_and_ntk(x, y, depth=depth, W_std=0.9, b_std=b_std, activation=activation)
        for got, expected in zip(pair, _plain(x, y, depth, 0.9, b_std, closed_form(activation)), strict=True):
            assert_close(got, expected, 1e-14)


@pytest.mark.parametrize("activation", ["relu", "abs", "erf"])
def test_every_backend_equals_the_plain_recursion(activation, backend):
    x, y = 0.4 * _points(3, 4), 0.4 * _points(2, 4, seed=1)
    network = {"depth": 2, "W_std": 0.9, "b_std": 0.3}
    pair = nngp_and_ntk(backend.asarray(x), backend.asarray(y), **network, activation=activation)
    for got, expected in zip(pair, _plain(x, y, **network, record=closed_form(activation)), strict=True):
        assert_close(backend.to_numpy(got), expected, 1e-14)


@pytest.mark.parametrize(("activation", "b_std"), NETWORKS)
def test_symmetric_call_is_symmetric_and_agrees(activation, b_std):
    x = 0.4 * _points(9, 5)
    network = {"depth": 2, "b_std": b_std, "W_std": 0.8, "activation": activation}
    for kernel in (nngp, ntk):
        K = kernel(x, **network)
        np.testing.assert_array_equal(K, K.T)
        assert_close(K, kernel(x, x.copy(), **network), 1e-14)
        assert_close(np.diag(K), kernel(x, **network, diagonal=True), 1e-15)
        assert np.linalg.eigvalsh(K)[0] > -1e-13 * K.trace()


def _relu_exactly(x, y, depth, W_std, b_std):
    """One NTK entry in 60 digits."""
    with mpmath.workdps(60):
        x, y = ([mpmath.mpf(float(v)) for v in z] for z in (x, y))
        weight, bias, d = mpmath.mpf(W_std) ** 2, mpmath.mpf(b_std) ** 2, len(x)
        q1, q2, k = (weight * mpmath.fdot(a, b) / d + bias for a, b in ((x, x), (y, y), (x, y)))
        theta = k
        for _ in range(depth):
            root = mpmath.sqrt(q1 * q2)
            t = mpmath.acos(k / root)
            k = weight * root * (mpmath.sin(t) + (mpmath.pi - t) * mpmath.cos(t)) / (2 * mpmath.pi) + bias
            theta = k + weight * (mpmath.pi - t) / (2 * mpmath.pi) * theta
            q1, q2 = weight * q1 / 2 + bias, weight * q2 / 2 + bias
        return float(theta)


@pytest.mark.parametrize(("dtype", "rtol"), [("float64", 1e-14), ("float32", 1e-6)])
@pytest.mark.parametrize("b_std", [0.0, 1e-3, 0.5])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 0.0])
def test_nearly_parallel_and_opposite_points_lose_no_digits(step, sign, b_std, dtype, rtol):
    """The kernel has a kink at the angle 0, where the angle itself must be known to rounding."""
    x, direction = _points(2, 50, seed=3)
    x, y = x.astype(dtype), (sign * (x + step * direction)).astype(dtype)
    got = ntk(x[None], y[None], depth=3, b_std=b_std)[0, 0]
    scale = _relu_exactly(x, x, 3, math.sqrt(2), b_std)
    assert abs(got - _relu_exactly(x, y, 3, math.sqrt(2), b_std)) < rtol * scale


@pytest.mark.parametrize("activation", HOMOGENEOUS)
@pytest.mark.parametrize("depth", [0, 1, 4])
def test_recursion_and_zonal_function_agree(activation, depth, monkeypatch):
    x = _points(20, 6)
    x[3], x[4], x[5] = x[2], -x[2], 0
    zonal = nngp_and_ntk(x, depth=depth, activation=activation)
    monkeypatch.setattr(mlp, "_is_zonal", lambda *_: False)
    for a, b in zip(zonal, nngp_and_ntk(x, depth=depth, activation=activation), strict=True):
        assert_close(a, b, 1e-14)


@given(st.floats(1e-3, 1e3), st.sampled_from(HOMOGENEOUS), st.integers(0, 5))
def test_bias_free_homogeneous_kernels_are_homogeneous(factor, activation, depth):
    x, y = _points(3, 4), _points(2, 4, seed=1)
    assert_close(
        ntk(factor * x, y, depth=depth, activation=activation),
        factor * ntk(x, y, depth=depth, activation=activation),
        1e-13,
    )


@pytest.mark.parametrize("depth", [0, 1, 7])
def test_default_relu_preserves_the_norm(depth):
    """(2 / d) |x|^2 for the NNGP, times depth + 1 for the NTK."""
    x = _points(5, 8)
    squares = (x * x).sum(axis=1) / 4
    assert_close(nngp(x, depth=depth, diagonal=True), squares, 1e-14)
    assert_close(ntk(x, depth=depth, diagonal=True), (depth + 1) * squares, 1e-14)


def test_linear_networks():
    x = _points(6, 3)
    linear = 1.5**2 * x @ x.T / 3 + 0.2**2
    assert_close(ntk(x, depth=0, W_std=1.5, b_std=0.2), linear, 1e-14)
    assert_close(nngp(x, depth=1, W_std=1.5, b_std=0.2, activation=leaky_relu(1.0)), 1.5**2 * linear + 0.04, 1e-13)


def test_huge_weights_make_erf_a_step():
    """erf(W z) tends to sign(z): k tends to (2 / pi) arcsin of the cosine."""
    x = _points(6, 3)
    norms = np.linalg.norm(x, axis=1)
    cosine = np.clip(x @ x.T / np.outer(norms, norms), -1, 1)
    got = nngp(x, depth=1, W_std=1e8, activation="erf") / 1e16
    assert deviation(got, 2 / np.pi * np.arcsin(cosine)) < 1e-7


@pytest.mark.parametrize(("activation", "b_std"), [("relu", 0.0), ("relu", 0.1), ("erf", 0.1)])
def test_budget_changes_tiles_not_results(activation, b_std):
    x, y = _points(130, 7), _points(90, 7, seed=1)
    network = {"depth": 2, "activation": activation, "b_std": b_std}
    for other in (y, None):
        whole = nngp_and_ntk(x, other, **network)
        tiled = nngp_and_ntk(x, other, **network, max_memory=30_000)
        for a, b in zip(whole, tiled, strict=True):
            assert_close(b, a, 1e-14)
    with pytest.raises(MemoryBudgetError, match="at least"):
        ntk(x, y, **network, max_memory=10)


def test_large_general_tiles_go_through_threads():
    x = _points(300, 3)
    got = ntk(x, x[:200].copy(), depth=1, activation="gelu")
    assert_close(got, _plain(x, x[:200], 1, math.sqrt(2), 0.0, closed_form("gelu"))[1], 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("activation", "b_std"), [(name, b) for name, b in NETWORKS if name != "exp"])
def test_extreme_scales_are_finite_or_refused(activation, b_std, dtype):
    """1e18 squared, times the width, is near the end of float32; 1e30 squared beyond it."""
    x = _points(4, 3, dtype=dtype)
    x[3] = 0
    for scale, W_std in ((1e-30, 1.0), (1e17, 1.0), (1e-3, 1e5 if dtype == "float32" else 1e18), (1e3, 1e-18)):
        K = ntk(x * x.dtype.type(scale), depth=2, W_std=W_std, b_std=b_std, activation=activation)
        assert np.isfinite(K).all()
        assert K.dtype == dtype
    with pytest.raises(ValueError, match=r"fits? "):
        ntk(x * x.dtype.type(1e30), depth=2, W_std=1e200, b_std=b_std, activation=activation)


def test_overflow_names_the_row():
    x = _points(4, 3, dtype="float32")
    x[2] *= np.float32(1e25)
    with pytest.raises(ValueError, match=r"x1 .* overflow at row 2"):
        ntk(x, depth=1)
    with pytest.raises(ValueError, match=r"x2 .* overflow at row 2"):
        ntk(x[:2].copy(), x, depth=1, b_std=0.1)


finite = st.floats(-1e3, 1e3, width=32)
matrices = st.tuples(st.integers(1, 5), st.integers(1, 4)).flatmap(
    lambda shape: hnp.arrays(st.sampled_from([np.float32, np.float64]), shape, elements=finite)
)


@given(matrices, st.sampled_from(sorted(set(CLOSED_FORMS) - {"exp"})), st.sampled_from([0.0, 0.1]), st.integers(0, 4))
def test_any_finite_matrix_gives_a_positive_semidefinite_kernel(x, activation, b_std, depth):
    """Zero, duplicated and opposite rows, one row, one column."""
    x = np.concatenate([x, x[:1], -x[:1], 0 * x[:1]])
    for kernel in (nngp, ntk):
        K = kernel(x, depth=depth, W_std=1.1, b_std=b_std, activation=activation)
        assert K.shape == (len(x), len(x))
        assert K.dtype == x.dtype
        assert np.isfinite(K).all()
        np.testing.assert_array_equal(K, K.T)
        smallest = np.linalg.eigvalsh(K.astype(np.float64))[0]
        variance = 1 + 1.21 * float(np.abs(x).max()) ** 2  # see the error in the notes of ntk
        assert smallest >= -tol(x.dtype, 100, variance) * (np.abs(K).max() + np.finfo(x.dtype).tiny)


@pytest.mark.parametrize("activation", HOMOGENEOUS)
def test_zero_rows_have_zero_kernels_without_biases(activation):
    x = _points(4, 3)
    x[1] = 0
    K = ntk(x, depth=2, activation=activation)
    assert not K[1].any()
    assert ntk(x, depth=2, activation=activation, b_std=0.1)[1].all()


@pytest.mark.parametrize("layout", ["fortran", "strided", "readonly", "reversed"])
@pytest.mark.parametrize("b_std", [0.0, 0.1])
def test_memory_layout_does_not_matter(layout, b_std):
    x = _points(6, 4)
    other = {
        "fortran": np.asfortranarray(x),
        "strided": np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
        "readonly": x.copy(),
        "reversed": x[::-1].copy()[::-1],
    }[layout]
    other.flags.writeable = layout != "readonly"
    np.testing.assert_array_equal(ntk(other, depth=2, b_std=b_std), ntk(x, depth=2, b_std=b_std))


GOOD = np.ones((3, 2))
HOSTILE = [
    ([[1.0, 2.0]], None, {}, TypeError, "list"),
    (np.ones(3), None, {}, ValueError, r"shape \(n, d\), got \(3,\)"),
    (np.ones((2, 2, 2)), None, {}, ValueError, r"got \(2, 2, 2\)"),
    (np.ones((0, 2)), None, {}, ValueError, "at least one row"),
    (np.ones((2, 0)), None, {}, ValueError, "at least one row"),
    (np.ones((2, 2), np.int64), None, {}, TypeError, "float32 or float64, got int64"),
    (np.ones((2, 2), np.float16), None, {}, TypeError, "got float16"),
    (np.ones((2, 2), np.complex128), None, {}, TypeError, "got complex128"),
    (np.array([[1.0, np.nan]]), None, {}, ValueError, r"NaN or inf, got nan at index \(0, 1\)"),
    (np.array([[np.inf, 1.0]]), None, {}, ValueError, "NaN or inf, got inf"),
    (GOOD, np.ones((3, 4)), {}, ValueError, r"x2 of shape \(n, 2\), got \(3, 4\)"),
    (GOOD, np.ones((3, 2), np.float32), {}, TypeError, "one dtype"),
    (GOOD, np.array([[np.nan, 1.0]]), {}, ValueError, "x2 without NaN"),
    (GOOD, None, {"depth": -1}, ValueError, "depth to be at least 0, got -1"),
    (GOOD, None, {"depth": 1.5}, TypeError, "depth to be an integer"),
    (GOOD, None, {"depth": True}, TypeError, "depth to be an integer"),
    (GOOD, None, {"W_std": 0.0}, ValueError, "W_std .* greater than 0"),
    (GOOD, None, {"W_std": -1.0}, ValueError, "W_std"),
    (GOOD, None, {"W_std": math.nan}, ValueError, "W_std"),
    (GOOD, None, {"b_std": -0.1}, ValueError, "b_std .* at least 0"),
    (GOOD, None, {"b_std": "a"}, TypeError, "b_std to be a real number"),
    (GOOD, None, {"activation": "swish"}, ValueError, "activation to be one of abs"),
    (GOOD, None, {"activation": None}, TypeError, "callable, got NoneType"),
    (GOOD, None, {"max_memory": 0}, ValueError, "max_memory"),
    (GOOD, GOOD, {"diagonal": True}, ValueError, "x2=None"),
]


@pytest.mark.parametrize(("x1", "x2", "arguments", "error", "message"), HOSTILE)
@pytest.mark.parametrize("kernel", [nngp, ntk, nngp_and_ntk])
def test_bad_input_is_named(kernel, x1, x2, arguments, error, message):
    with pytest.raises(error, match=message):
        kernel(x1, x2, **{"depth": 1, "b_std": 0.1, **arguments})


@pytest.mark.parametrize("leak", [0.01, 0.3, -0.5, -1.0, 1.0, 3.0])
def test_leaky_relus_of_any_slope_take_the_zonal_path(leak):
    """Biases too small to matter send the same network through the layer recursion."""
    x = np.random.default_rng(0).standard_normal((30, 8))
    activation = leaky_relu(leak)
    bias_free = ntk(x, depth=3, activation=activation)
    assert_close(bias_free, ntk(x, depth=3, activation=activation, b_std=1e-9), 1e-13)
    assert activation.slopes.leak == pytest.approx(leak if abs(leak) <= 1 else 1 / leak)
