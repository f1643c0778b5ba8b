"""Depth-free Gram matrices: reference values, hostile rows, exact symmetry, and independence of blocks."""

import math

import numpy as np
import pytest
from golden_files import FC_DEPTHS, FC_SETS, fc_inputs, fc_kernels
from helpers import GOLDEN_RTOL, assert_close, tol

from ntkfast._angles import angles, close_threshold, unit_rows
from ntkfast.analytic import _bias_free
from ntkfast.analytic._bias_free import zonal_gram
from ntkfast.errors import MemoryBudgetError
from ntkfast.zonal import zonal

for_each_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


SLOPES = (0.0, 0.1, 0.5)


def gaussian(n, d, dtype="float64", seed=0):
    return np.random.default_rng(seed).standard_normal((n, d)).astype(dtype)


def gram(x1, x2=None, depth=3, **keywords):
    return zonal_gram(x1, x2, [zonal(depth)], **keywords)[0]


@for_each_dtype
@pytest.mark.parametrize("dataset", FC_SETS)
@pytest.mark.parametrize("depth", FC_DEPTHS)
def test_reference_values(dataset, depth, dtype):
    """Forty-digit values on real data; the first rows of x2 are rows of x1, and kind 11 has a diagonal."""
    x1, x2 = (x.astype(dtype) for x in fc_inputs(dataset))
    expected = fc_kernels(dataset, "relu", 0.0, depth)
    functions = [zonal(depth, kind=kind) for kind in ("nngp", "ntk")]
    scale = 2 / x1.shape[1]
    for other, name in ((x2, "12"), (None, "11")):
        got = zonal_gram(x1, other, functions, scale=scale)
        assert got[0].dtype == got[1].dtype == dtype
        for kind, matrix in zip(("nngp", "ntk"), got, strict=True):
            assert_close(matrix, expected[kind + name], GOLDEN_RTOL[dtype])


def test_every_backend_gives_the_reference_values(backend):
    x1, x2 = fc_inputs("protein")
    expected = fc_kernels("protein", "relu", 0.0, 3)
    mine, other = backend.asarray(x1[:7]), backend.asarray(x2[:5])
    (asymmetric,), (symmetric,) = (zonal_gram(mine, x, [zonal(3)], scale=2 / 9) for x in (other, None))
    assert_close(backend.to_numpy(asymmetric), expected["ntk12"][:7, :5], 1e-13)
    assert_close(backend.to_numpy(symmetric), expected["ntk11"][:7, :7], 1e-13)


@for_each_dtype
def test_symmetric_calls_are_symmetric_in_bits_with_exact_diagonal(dtype):
    x = gaussian(301, 20, dtype)
    x[7] = x[3]
    matrix = gram(x)
    np.testing.assert_array_equal(matrix, matrix.T)
    norms = unit_rows(x)[1]
    np.testing.assert_array_equal(matrix.diagonal(), (4 * norms) * norms)
    assert_close(matrix, gram(x, x.copy()), tol(dtype, 20, condition=4))


@for_each_dtype
def test_nearly_coincident_and_opposite_rows(dtype):
    """Pairs turned by known angles down to 1e-9, which no dot product resolves; scaled by factors that round."""
    turns = np.concatenate([10.0 ** -np.linspace(0, 9, 19), [0]])
    turns = np.concatenate([turns, math.pi - turns])
    u, v = np.linalg.qr(gaussian(784, 2))[0].T
    x1 = (3 * u[None]).astype(dtype)
    x2 = (0.7 * (np.cos(turns)[:, None] * u + np.sin(turns)[:, None] * v)).astype(dtype)
    for depth in (1, 3, 10):
        expected = 2.1 * zonal(depth).of_angle(turns)
        assert_close(gram(x1, x2, depth)[0], expected, 3e-6 if dtype == "float32" else 3e-14)


@pytest.mark.parametrize("spread", [0.003, 0.03, 0.1, 0.3])
@pytest.mark.parametrize("depth", [1, 5, 20])
def test_the_threshold_keeps_float32_exact_in_narrow_cones(spread, depth):
    """Rows about one direction: where products are used, their error must have become harmless."""
    x = (1 + spread * gaussian(120, 784)).astype(np.float32)
    assert_close(gram(x, depth=depth), gram(x.astype(np.float64), depth=depth), 1e-5)


def test_the_threshold_follows_slope_and_dtype():
    x = gaussian(2, 784)
    wide, narrow = ([float(close_threshold(x.astype(t), slope)) for slope in SLOPES] for t in ("float64", "float32"))
    assert wide == sorted(wide)
    assert narrow == sorted(narrow)
    assert all(a < b for a, b in zip(wide, narrow, strict=True))
    assert narrow[-1] < 0.02
    # without a slope only pairs that may be equal are looked at
    assert wide[0] < 1e-13


@for_each_dtype
def test_zero_rows_give_zero_rows(dtype):
    x = gaussian(5, 6, dtype)
    x[2] = 0
    for matrix in (gram(x), gram(x, gaussian(5, 6, dtype, seed=1)).T):
        assert (matrix[:, 2] == 0).all()
        assert (matrix[[0, 1, 3, 4]][:, [0, 1, 3, 4]] != 0).all()
    assert np.isfinite(gram(np.zeros((3, 4), dtype))).all()


@for_each_dtype
@pytest.mark.parametrize("power", [15, -15, 18])
def test_kernels_are_homogeneous_over_the_range_of_the_dtype(dtype, power):
    x, y = gaussian(6, 9, dtype), gaussian(7, 9, dtype, seed=1)
    factor = 10.0**power
    assert_close(gram((x * factor).astype(dtype), (y / factor).astype(dtype)), gram(x, y), tol(dtype, 9))
    assert_close(gram((x * factor).astype(dtype)) / factor / factor, gram(x), tol(dtype, 9))


def test_norms_of_1e30_and_1e_minus_30():
    for dtype in ("float32", "float64"):
        x, y = gaussian(4, 9, dtype), gaussian(3, 9, dtype, seed=1)
        small, large = (x * 1e-30).astype(dtype), (y * 1e30).astype(dtype)
        assert_close(gram(small, large), gram(x, y), tol(dtype, 9))
    assert_close(gram(x * 1e30) / 1e60, gram(x), tol(dtype, 9))


def test_overflow_is_inf_and_never_nan():
    x = gaussian(4, 5, "float32")
    x[0] *= 1e30
    x[1] = 0
    x[2] = np.finfo("float32").max
    matrix = gram(x, depth=1)
    assert not np.isnan(matrix).any()
    assert np.isposinf(matrix[0, 0])
    assert (matrix[1] == 0).all()


@for_each_dtype
def test_a_matrix_of_duplicates_is_constant(dtype):
    """Every pair goes through its chord."""
    x = np.repeat(gaussian(1, 100, dtype), 300, axis=0)
    norm = unit_rows(x)[1][0]
    np.testing.assert_array_equal(gram(x), np.full((300, 300), (4 * norm) * norm))
    np.testing.assert_array_equal(gram(x[:10], x), np.full((10, 300), (4 * norm) * norm))


@for_each_dtype
@pytest.mark.parametrize("width", [7, 100])
@pytest.mark.parametrize("symmetric", [True, False])
def test_blocks_and_panels_change_nothing_but_rounding(dtype, width, symmetric, monkeypatch):
    x = gaussian(150, width, dtype)
    y = None if symmetric else gaussian(90, width, dtype, seed=1)
    whole = gram(x, y)
    assert_close(gram(x, y, max_memory=40 * width * x.itemsize), whole, tol(dtype, width))
    monkeypatch.setattr(_bias_free, "PANEL_BYTES", 6000)
    panels = gram(x, y)
    assert_close(panels, whole, tol(dtype, width))
    if symmetric:
        np.testing.assert_array_equal(panels, panels.T)


def test_two_kinds_in_one_pass_are_those_of_two_passes():
    x = gaussian(60, 8)
    functions = [zonal(4, kind="nngp"), zonal(4, kind="ntk")]
    together = zonal_gram(x, None, functions, scale=0.3)
    apart = [zonal_gram(x, None, [function], scale=0.3)[0] for function in functions]
    for a, b in zip(together, apart, strict=True):
        assert_close(a, b, 1e-15)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "abs"])
def test_gram_matrices_are_positive_semidefinite(activation):
    x = gaussian(80, 4)
    x[40:] = x[:40] * 2
    for kind in ("nngp", "ntk"):
        values = np.linalg.eigvalsh(zonal_gram(x, None, [zonal(3, activation=activation, kind=kind)])[0])
        assert values[0] >= -1e-13 * values[-1]


def test_too_little_memory_is_refused():
    with pytest.raises(MemoryBudgetError, match="max_memory"):
        gram(gaussian(5, 100), max_memory=100)


@for_each_dtype
def test_angles_are_exact_for_every_pair(dtype):
    x = gaussian(50, 30, dtype)
    x[5], x[6], x[7] = 3 * x[4], -x[4], x[4] + 1e-4 * x[8]
    unit = unit_rows(x)[0]
    t = angles(unit)
    exact = np.arctan2(*_sine_and_cosine(unit.astype(np.float64)))
    np.testing.assert_allclose(t, exact, atol=tol(dtype, 30, condition=2))
    np.testing.assert_array_equal(t, t.T)
    assert (t.diagonal() == 0).all()
    np.testing.assert_allclose(angles(unit, unit[::-1].copy()), exact[:, ::-1], atol=tol(dtype, 30, condition=2))


def _sine_and_cosine(unit):
    """Both of all angles, times 4, from |u - v| = 2 sin(t / 2) and |u + v| = 2 cos(t / 2)."""
    difference = np.linalg.norm(unit[:, None] - unit, axis=2)
    total = np.linalg.norm(unit[:, None] + unit, axis=2)
    return 2 * difference * total, total**2 - difference**2
