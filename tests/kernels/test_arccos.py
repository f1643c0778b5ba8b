"""Arc-cosine kernels against 40-digit arithmetic, at the ends of their range, and against the integrals they are."""

import math

import mpmath
import numpy as np
import pytest

from ntkfast.kernels import arccos

DTYPES = [np.float32, np.float64]
for_each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=["float32", "float64"])


def cosines(dtype):
    """Cosines of all magnitudes of 1 - |c|, the joints of the formula, and the floats around them."""
    gaps = 10.0 ** -np.linspace(0, 18, 60)
    joints = np.array([0, 0.5, -0.5, 1, -1], dtype)
    around = np.concatenate([np.nextafter(joints, dtype(2)), np.nextafter(joints, dtype(-2)), joints])
    c = np.concatenate([np.linspace(-1, 1, 201), 1 - gaps, gaps - 1, gaps, -gaps]).astype(dtype)
    return np.clip(np.concatenate([c, around]), -1, 1)


def angles_of(c):
    """The kernel's angles of unit rows that were never seen: the threshold finds no pair too close."""
    out = c[None].copy()
    arccos.angle.cpu(np.ones((1, 1), c.dtype), np.ones((c.size, 1), c.dtype), c.dtype.type(-100), 0, 0, 0, out)
    return out[0]


def launch(kernel, x, *scalars):
    first, second = np.empty_like(x), np.empty_like(x)
    kernel.cpu(x, *scalars, first, second)
    return first, second


@for_each_dtype
def test_arccos_is_within_two_units_of_rounding_everywhere(dtype):
    c = cosines(dtype)
    with mpmath.workdps(40):
        exact = np.array([float(mpmath.acos(float(v))) for v in c])
        # float64 needs the exact difference, which float(acos) has rounded away
        error = np.array(
            [float(mpmath.mpf(float(t)) - mpmath.acos(float(v))) for t, v in zip(angles_of(c), c, strict=True)]
        )
    assert (np.abs(error) <= 2 * np.finfo(dtype).eps * exact).all()


@for_each_dtype
def test_cosines_beyond_one_are_clipped(dtype):
    c = np.array([1 + 1e-6, -1 - 1e-6, 1, -1, 7, -7], dtype)
    expected = np.array([0, math.pi, 0, math.pi, 0, math.pi], dtype)
    np.testing.assert_array_equal(angles_of(c), expected)
    kappa_0, kappa_1 = launch(arccos.kappa, c)
    np.testing.assert_array_equal(kappa_0, [1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(kappa_1, [1, 0, 1, 0, 1, 0])


@for_each_dtype
def test_kappas_match_forty_digits(dtype):
    c = cosines(dtype)
    kappa_0, kappa_1 = launch(arccos.kappa, c)
    with mpmath.workdps(40):
        exact_0, exact_1 = zip(*(exact_kappas(mpmath.mpf(float(v))) for v in c), strict=True)
    assert np.abs(kappa_0 - np.array(exact_0, float)).max() <= 2 * np.finfo(dtype).eps
    assert np.abs(kappa_1 - np.array(exact_1, float)).max() <= 2 * np.finfo(dtype).eps


def exact_kappas(c):
    t = mpmath.acos(c)
    return 1 - t / mpmath.pi, (mpmath.sin(t) + (mpmath.pi - t) * c) / mpmath.pi


@pytest.mark.parametrize("c", [-0.9, -0.2, 0.0, 0.6, 0.99])
def test_kappas_are_the_gaussian_integrals_they_stand_for(c):
    """kappa_1 = 2 E relu(u) relu(v), kappa_0 = 2 P(u > 0, v > 0), (u, v) standard normal of correlation c."""
    kappa_0, kappa_1 = launch(arccos.kappa, np.array([c]))
    # in polar coordinates the radius integrates out; the angle runs over where both factors are positive
    turn = math.acos(c)
    phi, weights = np.polynomial.legendre.leggauss(60)
    half = (math.pi - turn) / 2
    phi = turn - math.pi / 2 + half * (phi + 1)
    both = np.cos(phi) * np.cos(phi - turn)
    assert kappa_0[0] == pytest.approx(2 * half * weights.sum() / (2 * math.pi), abs=1e-14)
    assert kappa_1[0] == pytest.approx(2 * half * (weights @ both) * 2 / (2 * math.pi), abs=1e-14)


@for_each_dtype
def test_slopes_are_finite_and_match_forty_digits_inside(dtype):
    c = cosines(dtype)
    d_0, d_1 = launch(arccos.slope, c, dtype(np.finfo(dtype).epsneg))
    assert np.isfinite(d_0).all()
    assert np.isfinite(d_1).all()
    inside = np.abs(c) < 1
    with mpmath.workdps(40):
        exact = [1 / (mpmath.pi * mpmath.sqrt(1 - mpmath.mpf(float(v)) ** 2)) for v in c[inside]]
    assert np.abs(d_0[inside] / np.array(exact, float) - 1).max() <= 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(d_1, launch(arccos.kappa, c)[0], atol=2 * np.finfo(dtype).eps)


@for_each_dtype
@pytest.mark.parametrize("ratio", [0.0, 0.2, 0.5, 0.8, 1.0])
def test_kappas_of_angles_keep_the_digits_of_small_angles(dtype, ratio):
    t = np.concatenate([10.0 ** -np.linspace(0, 15, 40), np.linspace(0.01, 3.14, 150), [0]]).astype(dtype)
    kappa_0, lost = launch(arccos.kappa_of_angle, t, dtype(ratio))
    with mpmath.workdps(60):
        exact = np.array([float(exact_lost(mpmath.mpf(float(v)), mpmath.mpf(float(dtype(ratio))))) for v in t])
    eps = np.finfo(dtype).eps
    assert np.abs(kappa_0 - (1 - 2 * ratio * t.astype(np.float64) / math.pi)).max() <= 4 * eps
    assert np.abs(lost - exact).max() <= 4 * eps
    small = t < 1
    tiny = 8 * float(np.finfo(dtype).tiny)
    assert (np.abs(lost - exact)[small] <= 12 * eps * exact[small] + tiny).all()


def exact_lost(t, ratio):
    return 1 - mpmath.cos(t) - 2 * ratio / mpmath.pi * (mpmath.sin(t) - t * mpmath.cos(t))


@for_each_dtype
def test_close_pairs_get_their_angle_from_the_chord(dtype):
    """Rows turned by known small angles: the product of float rows alone could not tell them apart."""
    turns = np.array([0, 1e-7, 1e-5, 1e-3, 0.02, math.pi - 1e-5, math.pi])
    u1 = np.array([[1, 0]], dtype)
    u2 = np.stack([np.cos(turns), np.sin(turns)], axis=1).astype(dtype)
    out = u1 @ u2.T
    arccos.angle.cpu(u1, u2, dtype(1e-3), 0, 0, 0, out)
    assert np.abs(out[0] - turns).max() <= 4 * np.finfo(dtype).eps
