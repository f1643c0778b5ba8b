import math

import numpy as np
import pytest
from helpers import assert_close

from ntkfast.features import NTKPolynomialSketch, NTKSketch
from ntkfast.features._polynomial import kappa_polynomial, ntk_polynomial
from ntkfast.zonal import zonal

X = np.random.default_rng(0).standard_normal((15, 5))
UNIT = X / np.linalg.norm(X, axis=1, keepdims=True)
GRID = np.linspace(-1, 1, 2001)


def evaluate(coefficients, s):
    return np.polynomial.polynomial.polyval(s, coefficients)


def polynomial_recursion(p_0, p_1, s, depth):
    """K^L with kappa_0 and kappa_1 replaced by polynomials."""
    nngp = ntk = s
    for _ in range(depth):
        nngp, ntk = evaluate(p_1, nngp), ntk * evaluate(p_0, nngp) + evaluate(p_1, nngp)
    return ntk


def kappa(order, s):
    return 1 - np.arccos(s) / math.pi if order == 0 else np.asarray(zonal(1, kind="nngp").of_cosine(s))


def test_taylor_coefficients_are_the_known_ones():
    zero = [0.5, 0.318310, 0, 0.053052, 0, 0.023873, 0, 0.014210, 0, 0.009671]
    one = [0.318310, 0.5, 0.159155, 0, 0.013263, 0, 0.003979, 0, 0.001776, 0, 0.000967]
    np.testing.assert_allclose(kappa_polynomial(0, 9, "taylor"), zero, atol=5e-7)
    np.testing.assert_allclose(kappa_polynomial(1, 10, "taylor"), one, atol=5e-7)


@pytest.mark.parametrize(
    ("order", "p", "error"),
    [
        (0, 0, 0.1817),
        (0, 4, 0.0809),
        (0, 16, 0.0437),
        (0, 64, 0.0223),
        (1, 0, 2.25e-2),
        (1, 4, 2.6e-3),
        (1, 16, 4.2e-4),
    ],
)
def test_taylor_truncation_errors_are_the_published_ones(order, p, error):
    polynomial = kappa_polynomial(order, 2 * p + 1 + order, "taylor")
    worst = np.abs(evaluate(polynomial, GRID) - kappa(order, GRID)).max()
    assert worst == pytest.approx(error, rel=0.02)
    assert worst == pytest.approx(1 - sum(polynomial), rel=1e-6)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("degree", [1, 2, 4, 8, 16])
def test_fitted_polynomials_are_non_negative_and_nearer(order, degree):
    fitted, taylor = (kappa_polynomial(order, degree, e) for e in ("fitted", "taylor"))
    assert len(fitted) == degree + 1
    assert min(fitted) >= 0

    def error(p):
        return np.sqrt(np.mean((evaluate(p, GRID) - kappa(order, GRID)) ** 2))

    assert error(fitted) < error(taylor)


@pytest.mark.parametrize(
    ("depth", "gaps"),
    [(1, (0.096, 0.052, 0.034)), (2, (0.30, 0.15, 0.096)), (3, (0.57, 0.29, 0.19)), (5, (1.2, 0.75, 0.48))],
)
def test_polynomial_fit_errors_are_the_published_ones(depth, gaps):
    """Errors of the fit at coincident points: within 7 % of those of the authors' grid and weights."""
    for degree, gap in zip((2, 4, 8), gaps, strict=True):
        polynomial = ntk_polynomial(depth, degree)
        assert min(polynomial) >= 0
        assert depth + 1 - sum(polynomial) == pytest.approx(gap, rel=0.07)
        assert np.abs(evaluate(polynomial, GRID) - zonal(depth).of_cosine(GRID)).max() < 1.1 * gap


@pytest.mark.stat
@pytest.mark.parametrize("degree", [1, 3, 8])
def test_polynomial_sketch_is_unbiased_for_its_polynomial(degree):
    """Mean Gram matrix of R = 64 maps within 8.5 of its standard errors, entry by entry.

    Student tails with 63 degrees of freedom give 5e-12 per entry, below 4e-9 for the 225 entries and 3 cases.
    """
    maps = [NTKPolynomialSketch(5, 64, depth=2, degree=degree, seed=s) for s in range(64)]
    grams = np.array([phi(UNIT) @ phi(UNIT).T for phi in maps])
    expected = 2 / 5 * evaluate(maps[0].coefficients, UNIT @ UNIT.T)
    error = grams.std(axis=0, ddof=1) / math.sqrt(64)
    assert (np.abs(grams.mean(axis=0) - expected) <= 8.5 * error + 1e-12).all()


def test_nugget_completes_the_diagonal():
    phi = NTKPolynomialSketch(5, 8, depth=3, degree=4, W_std=1.1, seed=0)
    mean = phi._root_scale**2 * (X**2).sum(1) * evaluate(phi.coefficients, 1.0)
    assert_close(mean + phi.nugget(X), np.diag(phi.kernel(X)), 1e-12)
    assert phi.nugget(X.astype(np.float32)).dtype == np.float32


@pytest.mark.parametrize("expansion", ["fitted", "taylor"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_wide_sketch_approaches_the_polynomial_recursion(depth, expansion):
    phi = NTKSketch(5, 2**14, depth=depth, degree=6, expansion=expansion, seed=0)
    p_0, p_1 = (kappa_polynomial(order, 6, expansion) for order in (0, 1))
    expected = 2 / 5 * polynomial_recursion(p_0, p_1, UNIT @ UNIT.T, depth)
    z = phi(UNIT)
    assert np.linalg.norm(z @ z.T - expected) < 0.05 * np.linalg.norm(expected)
    gap = depth + 1 - polynomial_recursion(p_0, p_1, 1.0, depth)
    assert phi.diagonal_gap == pytest.approx(gap, rel=1e-12)


@pytest.mark.stat
def test_one_layer_of_the_sketch_is_unbiased():
    """Mean Gram matrix of R = 64 maps, depth 1, within 8.5 of its standard errors: below 1e-8 for the 225 entries."""
    maps = [NTKSketch(5, 64, depth=1, degree=4, seed=s) for s in range(64)]
    grams = np.array([phi(UNIT) @ phi(UNIT).T for phi in maps])
    p_0, p_1 = (kappa_polynomial(order, 4, "fitted") for order in (0, 1))
    expected = 2 / 5 * polynomial_recursion(p_0, p_1, UNIT @ UNIT.T, 1)
    error = grams.std(axis=0, ddof=1) / math.sqrt(64)
    assert (np.abs(grams.mean(axis=0) - expected) <= 8.5 * error + 1e-12).all()


@pytest.mark.parametrize("cls", [NTKSketch, NTKPolynomialSketch])
@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"depth": 0}, ValueError, "depth"),
        ({"degree": 0}, ValueError, "degree"),
        ({"degree": 2.0}, TypeError, "degree"),
        ({"n_features": 0}, ValueError, "n_features"),
        ({"sketch_dim": 0}, ValueError, "sketch_dim"),
        ({"W_std": -1.0}, ValueError, "W_std"),
        ({"seed": 1.0}, TypeError, "seed"),
    ],
)
def test_bad_arguments_are_refused(cls, change, error, words):
    with pytest.raises(error, match=words):
        cls(**{"in_dim": 4, "n_features": 8, "depth": 1, "seed": 0, **change})


def test_unknown_expansion_is_refused():
    with pytest.raises(ValueError, match="fitted, taylor"):
        NTKSketch(4, 8, depth=1, expansion="chebyshev", seed=0)
