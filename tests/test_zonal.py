"""Zonal functions against 40-digit arithmetic, published values and identities."""

import math

import mpmath
import numpy as np
import pytest

from ntkfast.zonal import harmonic_multiplicity, zonal

FAMILY = [("relu", 0.01), ("leaky_relu", 0.2), ("leaky_relu", -0.5), ("leaky_relu", 1.0), ("abs", 0.01)]
DEPTHS = [0, 1, 2, 3, 5, 10, 40]
KINDS = ["nngp", "ntk"]
for_family = pytest.mark.parametrize(("activation", "leak"), FAMILY)
for_kinds = pytest.mark.parametrize("kind", KINDS)

# K^L at cosines, for relu; known from the literature's recursion and from wide networks
COSINES = [-1, -0.5, 0, 0.25, 0.5, 0.75, 0.9, 1]
PUBLISHED = {
    1: [0.000000, -0.057669, 0.318310, 0.598418, 0.942331, 1.365462, 1.680329, 2],
    2: [0.318310, 0.343862, 0.685709, 0.967094, 1.351480, 1.894809, 2.368814, 3],
    3: [0.685709, 0.742249, 1.060388, 1.335683, 1.737845, 2.365975, 2.985693, 4],
    5: [1.430390, 1.507107, 1.792196, 2.051956, 2.462893, 3.196212, 4.060895, 6],
}


def exact(function, t):
    """Values at angles in 60 digits, straight from kappa_0 and kappa_1."""
    with mpmath.workdps(60):
        slope = {"relu": 0.0, "abs": -1.0}.get(function.activation, function.leak)
        odd, even = (1 + mpmath.mpf(slope)) / 2, (1 - mpmath.mpf(slope)) / 2
        r = even**2 / (odd**2 + even**2)
        return np.array([float(_exact_one(function, mpmath.mpf(float(v)), r)) for v in np.ravel(t)])


def _exact_one(function, t, r):
    nngp = ntk = mpmath.cos(t)
    for _ in range(function.depth):
        ntk *= 1 - 2 * r * t / mpmath.pi
        nngp = mpmath.cos(t) + 2 * r / mpmath.pi * (mpmath.sin(t) - t * mpmath.cos(t))
        t = mpmath.acos(min(nngp, mpmath.mpf(1)))
        ntk += nngp
    return ntk if function.kind == "ntk" else nngp


def angles():
    """Angles of all sizes, close to 0, to pi and to a right angle."""
    small = 10.0 ** -np.linspace(1, 12, 12)
    return np.concatenate([[0, math.pi / 2], small, np.linspace(0.05, 3.1, 30), math.pi - small])


@pytest.mark.parametrize("depth", PUBLISHED)
def test_published_values(depth):
    got = zonal(depth).of_cosine(np.array(COSINES, float))
    np.testing.assert_allclose(got, PUBLISHED[depth], atol=6e-7)


@for_family
@for_kinds
@pytest.mark.parametrize("depth", DEPTHS)
def test_recursion_matches_sixty_digits(depth, activation, leak, kind):
    function = zonal(depth, activation=activation, leak=leak, kind=kind)
    t = angles()
    error = np.abs(function.of_angle(t) - exact(function, t)).max()
    assert error <= 2e-15 * function.peak * max(1, math.sqrt(depth))
    assert function.of_angle(0.0) == function.peak


@for_kinds
def test_loss_at_small_angles_is_felt(kind):
    """1 - k keeps its leading term where 1 - cos t has long vanished: -L (L+1) t / (2 pi), and -L t^2 / 2 for nngp."""
    function, t = zonal(4, kind=kind), 1e-5
    lost = function.peak - function.of_angle(t)
    leading = 4 * 5 * t / (2 * math.pi) if kind == "ntk" else t * t / 2
    assert lost == pytest.approx(leading, rel=1e-4)


def test_angles_of_float32_stay_float32():
    t = np.linspace(0, 3, 7, dtype=np.float32)
    got = zonal(3).of_angle(t)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, zonal(3).of_angle(t.astype(np.float64)), atol=4e-6)


def evaluate(table, t):
    """What the compute kernel computes, in float64."""
    side = (t > math.pi / 2).astype(int)
    y = np.sin(np.where(side, math.pi - t, t) / 2) * math.sqrt(8) - 1
    coefficients = table.coefficients.astype(np.float64)
    series = [np.polynomial.chebyshev.chebval(y, row) for row in coefficients]
    return table.ends.astype(np.float64)[side] + (1 + y) * np.where(side, series[1], series[0])


@for_family
@for_kinds
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("depth", [*DEPTHS, 200])
def test_tables_are_as_exact_as_their_dtype(depth, activation, leak, kind, dtype):
    function = zonal(depth, activation=activation, leak=leak, kind=kind)
    table, t = function.table(dtype), np.linspace(0, math.pi, 4001)
    error = np.abs(evaluate(table, t) - function.of_angle(t)).max()
    assert error <= 16 * np.finfo(dtype).eps * function.peak * max(1, math.sqrt(depth))
    assert table.coefficients.dtype == dtype
    assert table.coefficients.shape[1] % 8 == 0
    assert table.ends[0] == function.peak


def test_the_table_of_ten_layers_is_as_short_as_that_of_one():
    for dtype, n_terms in (("float32", 16), ("float64", 32)):
        assert {zonal(depth).table(dtype).coefficients.shape[1] for depth in range(1, 11)} <= {n_terms - 8, n_terms}


@for_family
@for_kinds
@pytest.mark.parametrize("depth", [0, 1, 3, 10])
def test_derivative_is_the_limit_of_differences(depth, activation, leak, kind):
    function = zonal(depth, activation=activation, leak=leak, kind=kind)
    t, step = np.linspace(0.01, 3.13, 50), 1e-5
    difference = (function.of_angle(t + step) - function.of_angle(t - step)) / (2 * step)
    slope = function.derivative(t)
    assert np.abs(slope - difference).max() <= 2e-9 * (depth + 1) ** 3
    ends = function.derivative(np.array([0, 1e-9, math.pi - 1e-9, math.pi]))
    assert np.isfinite(ends).all()
    assert abs(ends[0] - ends[1]) + abs(ends[2] - ends[3]) <= 1e-7 * (depth + 1) ** 3


def test_slope_at_zero_is_known():
    for depth in (1, 2, 5):
        r = zonal(depth).ratio
        assert zonal(depth).derivative(0.0) == pytest.approx(-r * depth * (depth + 1) / math.pi, rel=1e-14)
        assert zonal(depth).table("float64").slope == pytest.approx(r * depth / math.pi, rel=1e-14)


def test_arccosine_series_is_known():
    """kappa_1 and, by the product rule, K^1 = s kappa_0 + kappa_1, from the series of the arc sine."""
    s = [math.factorial(2 * i) / (4**i * math.factorial(i) ** 2 * (2 * i + 1)) for i in range(30)]
    kappa_1, kappa_0 = np.zeros(60), np.zeros(60)
    kappa_0[0], kappa_1[:2] = 0.5, (1 / math.pi, 0.5)
    for i in range(29):
        kappa_0[2 * i + 1] = s[i] / math.pi
        kappa_1[2 * i + 2] = s[i] / (2 * i + 2) / math.pi
    np.testing.assert_allclose(zonal(1, kind="nngp").series(59), kappa_1[:59], atol=1e-15)
    ntk = kappa_1.copy()
    ntk[1:] += kappa_0[:-1]
    np.testing.assert_allclose(zonal(1).series(59), ntk[:59], atol=4e-15)


@for_family
@for_kinds
@pytest.mark.parametrize("depth", [0, 1, 3, 8])
def test_series_is_non_negative_and_sums_to_the_function(depth, activation, leak, kind):
    function = zonal(depth, activation=activation, leak=leak, kind=kind)
    c = function.series(400)
    assert (c >= 0).all()
    assert c.sum() <= function.peak * (1 + 1e-12)
    s = np.linspace(-0.9, 0.9, 21)
    partial = np.polynomial.polynomial.polyval(s, c)
    np.testing.assert_allclose(partial, function.of_cosine(s), atol=3e-13 * function.peak)


def test_the_tail_of_the_series_decays_like_a_root():
    lacking = [zonal(2).peak - zonal(2).series(n).sum() for n in (500, 2000, 8000)]
    assert lacking[0] / lacking[1] == pytest.approx(2, rel=0.05)
    assert lacking[1] / lacking[2] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("dim", [2, 3, 4, 7, 12])
def test_eigenvalues_rebuild_the_kernel(dim):
    """Mercer: k(s) = sum of multiplicity * eigenvalue * P_l(s), P_l from its own recurrence, at smooth points."""
    function = zonal(2, kind="nngp")
    mu = function.gegenbauer(dim, 120)
    assert (mu >= 0).all()
    s = np.linspace(-0.8, 0.8, 9)
    before, now, total = np.zeros_like(s), np.ones_like(s), np.zeros_like(s)
    for degree in range(120):
        total += harmonic_multiplicity(dim, degree) * mu[degree] * now
        step = max(degree + dim - 2, 1)
        before, now = now, ((step + degree) * s * now - degree * before) / step
    np.testing.assert_allclose(total, function.of_cosine(s), atol=2e-6)


@pytest.mark.parametrize("dim", [13, 50, 784])
def test_eigenvalues_in_high_dimension_satisfy_the_sum_rule(dim):
    """Degrees 0 and 1 against their definition as means, E k(s) and E s k(s) over the sphere."""
    function = zonal(3)
    mu = function.gegenbauer(dim, 40)
    pieces = [0, 1.2, math.pi / 2, 1.9, math.pi]
    with mpmath.workdps(30):
        weight = [mpmath.quad(lambda t, i=i: _mean(function, dim, t, i), pieces) for i in range(3)]
    assert mu[0] == pytest.approx(float(weight[1] / weight[0]), rel=1e-9)
    assert mu[1] == pytest.approx(float(weight[2] / weight[0]), rel=1e-9)
    share = sum(harmonic_multiplicity(dim, degree) * mu[degree] for degree in range(40))
    assert 0.9 * function.peak < share < function.peak


def _mean(function, dim, t, power):
    density = mpmath.sin(t) ** (dim - 2)
    return density * (float(function.of_angle(float(t))) * mpmath.cos(t) ** (power - 1) if power else 1)


def test_both_ways_to_eigenvalues_agree_where_they_meet():
    from ntkfast.zonal._expansions import funk_hecke_series

    function = zonal(3)
    np.testing.assert_allclose(funk_hecke_series(function.series(4096), 12, 8), function.gegenbauer(12, 8), rtol=1e-10)


def test_multiplicities():
    assert [harmonic_multiplicity(2, degree) for degree in range(4)] == [1, 2, 2, 2]
    assert [harmonic_multiplicity(4, degree) for degree in range(4)] == [1, 4, 9, 16]
    assert harmonic_multiplicity(784, 1) == 784


@pytest.mark.parametrize(
    ("arguments", "keywords", "error"),
    [
        ((-1,), {}, ValueError),
        ((2.0,), {}, TypeError),
        ((2,), {"activation": "erf"}, ValueError),
        ((2,), {"kind": "ck"}, ValueError),
        ((2,), {"leak": math.nan}, ValueError),
    ],
)
def test_bad_arguments_are_refused(arguments, keywords, error):
    with pytest.raises(error, match="expected"):
        zonal(*arguments, **keywords)


def test_bad_arguments_of_methods_are_refused():
    with pytest.raises(TypeError, match="float32 or float64"):
        zonal(2).of_angle(np.arange(3))
    with pytest.raises(ValueError, match="n_terms"):
        zonal(2).series(0)
    with pytest.raises(ValueError, match="dim"):
        zonal(2).gegenbauer(1, 3)
