"""Dual activations against quadrature, and their derivatives against differences."""

import mpmath
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.special import erf, ndtr, roots_hermitenorm

from ntkfast.analytic import closed_form, leaky_relu
from ntkfast.analytic.activations import CLOSED_FORMS

SMOOTH = {
    "erf": (erf, lambda z: 2 / np.sqrt(np.pi) * np.exp(-z * z)),
    "gelu": (lambda z: z * ndtr(z), lambda z: ndtr(z) + z * np.exp(-z * z / 2) / np.sqrt(2 * np.pi)),
    "sin": (np.sin, np.cos),
    "cos": (np.cos, lambda z: -np.sin(z)),
    "gaussian": (lambda z: np.exp(-z * z / 2), lambda z: -z * np.exp(-z * z / 2)),
    "exp": (np.exp, np.exp),
}
SLOPES = {"relu": 0.0, "leaky_relu": 0.01, "abs": -1.0}
POINTS = [(0.7, 0.9, 0.4), (0.5, 0.3, -0.35), (0.8, 0.8, 0.799)]
Z, WEIGHTS = roots_hermitenorm(160)
WEIGHTS = WEIGHTS / WEIGHTS.sum()


def _expectation(f, q1, q2, q12):
    """E[f(u) f(v)] by a product of Gauss-Hermite rules."""
    slope = q12 / np.sqrt(q1)
    u, v = np.sqrt(q1) * Z[:, None], slope * Z[:, None] + np.sqrt(q2 - slope**2) * Z
    return float(WEIGHTS @ (f(u) * f(v)) @ WEIGHTS)


def _values(function, q1, q2, q12):
    table1, table2 = np.array([[[q1]]]), np.array([[[q2]]])
    return [float(np.squeeze(value)) for value in function(np, table1, table2, np.array([[q12]]))]


def test_every_closed_form_has_a_test():
    assert set(CLOSED_FORMS) == set(SMOOTH) | set(SLOPES)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_duals_are_the_expectations(name, point):
    k, kdot = _values(closed_form(name).dual, *point)
    phi, derivative = SMOOTH[name]
    assert k == pytest.approx(_expectation(phi, *point), abs=2e-14)
    assert kdot == pytest.approx(_expectation(derivative, *point), abs=2e-14)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("name", SLOPES)
def test_homogeneous_duals_are_the_expectations(name, point):
    """In polar coordinates (u, v) = R (s1 cos a, s2 cos(a - t)) with E R^2 = 2, to 30 digits."""
    q1, q2, q12 = (mpmath.mpf(q) for q in point)
    slope, t = SLOPES[name], mpmath.acos(q12 / mpmath.sqrt(q1 * q2))
    edges = sorted([0, mpmath.pi / 2, 3 * mpmath.pi / 2, 2 * mpmath.pi, t + mpmath.pi / 2, t - mpmath.pi / 2])
    edges = sorted(e % (2 * mpmath.pi) if e < 0 else e for e in edges)

    def integral(f):
        with mpmath.workdps(30):
            return mpmath.quad(lambda a: f(mpmath.cos(a)) * f(mpmath.cos(a - t)), edges) / mpmath.pi

    expected = mpmath.sqrt(q1 * q2) * integral(lambda z: z if z > 0 else slope * z)
    expected_dot = integral(lambda z: 1 if z > 0 else slope) / 2
    k, kdot = _values(closed_form(name).dual, *point)
    assert k == pytest.approx(float(expected), abs=1e-13)
    assert kdot == pytest.approx(float(expected_dot), abs=1e-13)


@pytest.mark.parametrize("point", POINTS[:2])
@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_derivatives_are_the_limits_of_differences(name, point):
    """Central differences with a step of 1e-5 have an error of about 1e-10 times a third derivative."""
    function, h = closed_form(name).derivatives, 1e-5
    values = _values(function, *point)
    assert values[:2] == pytest.approx(_values(closed_form(name).dual, *point), rel=1e-15)
    slopes = []
    for axis in range(3):
        up, down = list(point), list(point)
        up[axis] += h
        down[axis] -= h
        above, below = _values(function, *up), _values(function, *down)
        slopes.append([(a - b) / (2 * h) for a, b in zip(above[:2], below[:2], strict=True)])
    (k_1, kdot_1), (k_2, kdot_2), (k_12, kdot_12) = slopes
    assert values == pytest.approx([values[0], k_12, k_1, k_2, kdot_1, kdot_2, kdot_12], abs=1e-7)


@pytest.mark.parametrize("name", CLOSED_FORMS)
def test_diagonal_is_the_dual_at_equal_points(name):
    record, q, h = closed_form(name), 0.6, 1e-5
    k, kdot, slope = (float(value[0]) for value in record.diagonal(np, np.array([q])))
    # through a covariance, the angle of homogeneous activations is only good to the square root of eps
    assert [k, kdot] == pytest.approx(_values(record.dual, q, q, q), rel=1e-7 if record.slopes else 1e-15)
    above, below = (float(record.diagonal(np, np.array([q + step])).k[0]) for step in (h, -h))
    assert slope == pytest.approx((above - below) / (2 * h), abs=1e-9)


# The derivative of kdot by the covariance is of order 1 / sqrt(q1 q2): below, it leaves the range of float64.
VARIANCES = st.just(0.0) | st.floats(1e-290, 1e30)


@given(st.sampled_from(sorted(CLOSED_FORMS)), VARIANCES, VARIANCES, st.floats(-1, 1))
@example("gelu", 0.0, 2.0**53 - 1, 0.0)
@example("gelu", 2.0**53 - 1, 0.0, 0.0)
def test_duals_are_finite_and_obey_cauchy_and_schwarz(name, q1, q2, c):
    if name == "exp":
        q1, q2 = min(q1, 100.0), min(q2, 100.0)
    record = closed_form(name)
    values = _values(record.derivatives, q1, q2, c * np.sqrt(q1) * np.sqrt(q2))
    assert np.isfinite(values).all()
    diagonal1, diagonal2 = (record.diagonal(np, np.array([q])) for q in (q1, q2))
    for value, first, second in zip(values[:2], diagonal1[:2], diagonal2[:2], strict=True):
        assert abs(value) <= np.sqrt(first[0]) * np.sqrt(second[0]) * (1 + 1e-6) + 1e-12


def test_sin_and_cos_neither_overflow_nor_cancel():
    k, _ = _values(closed_form("sin").dual, 1e-20, 1e-20, 1e-20)
    assert k == pytest.approx(1e-20, rel=1e-14)
    k, _ = _values(closed_form("cos").dual, 1e4, 1e4, 1e4)
    assert k == pytest.approx(0.5, rel=1e-14)


def test_leaky_relu_has_relu_abs_and_identity_as_limits():
    assert leaky_relu(0.0).slopes == closed_form("relu").slopes
    assert leaky_relu(-1.0).slopes == closed_form("abs").slopes
    assert leaky_relu(1.0).slopes.ratio == 0
    with pytest.raises(ValueError, match="finite"):
        leaky_relu(np.inf)


def test_unknown_names_are_listed():
    with pytest.raises(ValueError, match="relu, sin; got 'selu'"):
        closed_form("selu")
