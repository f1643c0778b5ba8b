"""Trace and diagonal estimators: exact where theory says so, unbiased, with the variance and the error they state.

Statistical tests compare the mean of R independent estimates with the exact value, within 6 standard errors of the
mean: they fail with probability 2e-9 each where that mean is normal, which R in the hundreds makes it nearly.
"""

import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
from helpers import assert_close

from ntkfast.regression import KernelOperator
from ntkfast.spectrum import Estimate, hutchinson_diagonal, hutchinson_trace, xdiag, xtrace

TRACES, DIAGONALS = (hutchinson_trace, xtrace), (hutchinson_diagonal, xdiag)
ALL = TRACES + DIAGONALS


def low_rank(n, rank, seed=0, symmetric=True):
    x, y = np.random.default_rng(seed).standard_normal((2, n, rank))
    return x @ (x if symmetric else y).T


def estimates(function, a, n_vectors, repeats, **keywords):
    found = [function(a, n_vectors, seed=seed, **keywords) for seed in range(repeats)]
    return np.array([e.value for e in found]), np.array([e.standard_error for e in found])


# --- exact cases ----------------------------------------------------------------------------------


@pytest.mark.parametrize("function", TRACES)
def test_traces_on_every_backend(backend, function):
    """Signs are exact for diagonal matrices, and XTrace for low rank: here both."""
    a = np.zeros((40, 40))
    a[3, 3], a[17, 17], a[29, 29] = 1.0, 2.0, 4.0
    estimate = function(backend.asarray(a), 6, seed=0)
    assert estimate.value == pytest.approx(7.0, rel=1e-12)
    assert estimate.standard_error == pytest.approx(0.0, abs=1e-12)
    assert isinstance(estimate.value, float)


@pytest.mark.parametrize("function", DIAGONALS)
def test_diagonals_on_every_backend(backend, function):
    a = np.zeros((40, 40))
    a[3, 3], a[17, 17], a[29, 29] = 1.0, 2.0, 4.0
    estimate = function(backend.asarray(a), 6, seed=0)
    assert_close(backend.to_numpy(estimate.value), np.diag(a), 1e-12)
    assert_close(backend.to_numpy(estimate.standard_error), np.zeros(40), 1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [1, 4, 7])
def test_exchangeable_estimators_are_exact_on_low_rank(rank, dtype):
    """Rank at most m - 1 = 7; also where A Omega has dependent columns."""
    a = low_rank(100, rank).astype(dtype)
    bound = {"float64": 1e-11, "float32": 1e-4}[dtype]
    trace, diagonal = xtrace(a, 8, seed=1), xdiag((a + a.T) / 2, 8, seed=1)
    assert abs(trace.value / np.trace(a.astype("float64")) - 1) < bound
    assert trace.standard_error < bound * trace.value
    assert_close(diagonal.value, np.diag(a), bound)
    assert trace.n_products == diagonal.n_products == 16


def test_xtrace_of_an_unsymmetric_matrix_of_low_rank():
    a = low_rank(100, 5, symmetric=False)
    assert xtrace(a, 8, seed=0).value == pytest.approx(np.trace(a), rel=1e-10)


@pytest.mark.parametrize("function", ALL)
def test_zero_operator(function):
    estimate = function(np.zeros((30, 30)), 4, seed=0)
    assert not np.any(estimate.value)
    assert not np.any(estimate.standard_error)


@pytest.mark.parametrize("function", ALL)
@pytest.mark.parametrize("n", [1, 2, 7])
def test_tiny_matrices(function, n):
    """Without an error where the products suffice to read the diagonal off."""
    a = low_rank(n, n)
    estimate = function(a, 8, seed=0)
    exact = np.trace(a) if function in TRACES else np.diag(a)
    if function in (xtrace, xdiag):
        assert_close(estimate.value, exact, 1e-13)
        assert estimate.n_products == n
    assert np.isfinite(estimate.standard_error).all()


def test_xtrace_of_a_multiple_of_the_identity():
    """Vectors on the sphere of the complement are exact here."""
    estimate = xtrace(3.0 * np.eye(50), 8, seed=0)
    assert estimate.value == pytest.approx(150.0, rel=1e-13)
    assert estimate.standard_error < 1e-12


def test_permuted_repetitions():
    """Signs times a matrix of few distinct columns give equal and opposite columns of A Omega."""
    a = np.kron(np.eye(2), np.ones((20, 20)))
    assert_close(xdiag(a, 10, seed=0).value, np.ones(40), 1e-12)


@pytest.mark.parametrize("function", ALL)
def test_scale(function, decaying):
    """A power of two changes no digit; where squares leave the range, an error says so."""
    plain = function(decaying, 6, seed=0)
    for scale in (2.0**-400, 2.0**400):
        scaled = function(scale * decaying, 6, seed=0)
        assert_close(scaled.value / scale, plain.value, 1e-12)
        assert_close(scaled.standard_error / scale, plain.standard_error, 1e-10)
    with pytest.raises(OverflowError, match="expected"):
        function(1e300 * decaying, 6, seed=0)


# --- operators ------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ALL)
def test_kinds_of_operators(function, decaying):
    a = decaying
    expected = function(a, 6, seed=3)
    kinds = {
        "SciPy operator": scipy.sparse.linalg.aslinearoperator(a),
        "sparse": scipy.sparse.csr_array(a),
        "cached": KernelOperator(lambda x, y: x @ y.T, np.linalg.cholesky(a)),
    }
    for kind, operator in kinds.items():
        found = function(operator, 6, seed=3)
        assert_close(found.value, expected.value, 1e-10), kind
        assert_close(found.standard_error, expected.standard_error, 1e-8), kind


@pytest.mark.parametrize("function", ALL)
def test_operators_on_every_backend(backend, function, decaying):
    operator = KernelOperator(backend.asarray(decaying))
    found = function(operator, 6, seed=3).value
    found = found if isinstance(found, float) else backend.to_numpy(found)
    assert_close(found, function(decaying, 6, seed=3).value, 1e-10)


@pytest.mark.parametrize("function", ALL)
def test_single_precision_products(function, decaying):
    found, expected = (function(a, 6, seed=3).value for a in (decaying.astype("float32"), decaying))
    assert_close(found, expected, 1e-4)
    assert np.asarray(found).dtype == np.float64


@pytest.mark.parametrize("function", ALL)
def test_seeds(function, decaying):
    same, again, other = (np.sum(function(decaying, 5, seed=seed).value) for seed in (1, 1, 2))
    assert same == again
    assert same != other


def test_blocks_do_not_matter(decaying, monkeypatch):
    trace, diagonal = (f(decaying, 10, seed=0) for f in (hutchinson_trace, hutchinson_diagonal))
    monkeypatch.setattr("ntkfast.spectrum.estimators._BLOCK", 3)
    assert hutchinson_trace(decaying, 10, seed=0).value == pytest.approx(trace.value, rel=1e-13)
    found = hutchinson_diagonal(decaying, 10, seed=0)
    assert_close(found.value, diagonal.value, 1e-13)
    assert_close(found.standard_error, diagonal.standard_error, 1e-12)


def test_standard_error_by_definition(decaying):
    """That of the samples z * (A z), whose first entries come from the same vectors."""
    n = 60
    two, three = (hutchinson_diagonal(decaying, m, seed=0).value for m in (2, 3))
    estimate = hutchinson_diagonal(decaying, 3, seed=0)
    last = 3 * three - 2 * two
    # with the mean of the first two known, and the last sample, the spread of three is at least that of (mean, last)
    between = (2 * (two - three) ** 2 + (last - three) ** 2) / 6
    assert (estimate.standard_error**2 >= between - 1e-12).all()
    assert isinstance(estimate, Estimate)
    assert n == len(last)


# --- statistics -----------------------------------------------------------------------------------

R = 400
BOUND = 6.0


@pytest.mark.stat
@pytest.mark.parametrize("function", ALL)
def test_unbiased(function, decaying):
    """Mean of R = 400 estimates within 6 standard errors, per entry: 2e-9, times 60 entries for diagonals."""
    exact = np.trace(decaying) if function in TRACES else np.diag(decaying)
    values, _ = estimates(function, decaying, 6, R)
    z = (values.mean(axis=0) - exact) / (values.std(axis=0, ddof=1) / math.sqrt(R))
    assert np.abs(z).max() < BOUND


@pytest.mark.stat
@pytest.mark.parametrize("function", TRACES)
def test_traces_of_unsymmetric_matrices_are_unbiased(function):
    """Mean of R = 400 estimates within 6 standard errors: 2e-9."""
    a = np.random.default_rng(0).standard_normal((40, 40)) + np.eye(40)
    values, _ = estimates(function, a, 6, R)
    assert abs(values.mean() - np.trace(a)) < BOUND * values.std(ddof=1) / math.sqrt(R)


@pytest.mark.stat
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_variance_of_hutchinson(distribution):
    """Formula of the docstring for an unsymmetric matrix, from 40,000 vectors.

    The samples' kurtosis is near 3 (forms in 40 variables), so the sample variance has a relative standard error of
    0.007; 0.06 is above 8 of them, and the kurtosis could be 9 before that is 4.
    """
    a = np.random.default_rng(0).standard_normal((40, 40))
    b = (a + a.T) / 2
    variance = 2 * ((b**2).sum() - (distribution == "rademacher") * (np.diag(b) ** 2).sum())
    estimate = hutchinson_trace(a, 40_000, distribution=distribution, seed=0)
    assert estimate.standard_error**2 * 40_000 == pytest.approx(variance, rel=0.06)
    assert abs(estimate.value - np.trace(a)) < BOUND * math.sqrt(variance / 40_000)


@pytest.mark.stat
def test_variance_of_the_diagonal(decaying):
    """As for the trace: relative standard error 0.007 per entry, 60 entries, within 0.08."""
    estimate = hutchinson_diagonal(decaying, 40_000, seed=0)
    variance = (decaying**2).sum(axis=1) - np.diag(decaying) ** 2
    assert np.abs(estimate.standard_error**2 * 40_000 / variance - 1).max() < 0.08


@pytest.mark.stat
@pytest.mark.parametrize("function", [xtrace, xdiag])
def test_stated_error_and_gain(function, decaying):
    """R = 400: the stated error is that of the estimates within the factor the docstring gives, which is far below
    Hutchinson's with equal products (measured: 20 times; asserted: 5, against a spread of R estimates known to 4 %).
    """
    plain = hutchinson_trace if function is xtrace else hutchinson_diagonal
    exact = np.trace(decaying) if function is xtrace else np.diag(decaying)
    values, errors = estimates(function, decaying, 10, R)
    actual, stated = ((values - exact) ** 2).mean() ** 0.5, (errors**2).mean() ** 0.5
    others, _ = estimates(plain, decaying, 20, R)
    assert 0.6 < stated / actual < 1.3
    assert ((others - exact) ** 2).mean() ** 0.5 > 5 * actual


# --- bad input ------------------------------------------------------------------------------------


class _Wrong:
    """An operator whose products have a wrong shape, or are not finite."""

    shape, dtype = (40, 40), np.dtype("float64")

    def __init__(self, product):
        self._product = product

    def __matmul__(self, v):
        return self._product(v)


@pytest.mark.parametrize("function", ALL)
def test_bad_operators(function):
    for bad, error in [
        (3.0, TypeError),
        (np.eye(4, dtype=int), TypeError),
        (np.eye(40) * 1j, TypeError),
        (scipy.sparse.linalg.aslinearoperator(np.eye(40) * 1j), TypeError),
        (np.ones((3, 4)), ValueError),
        (np.zeros((0, 0)), ValueError),
        (np.full((40, 40), np.nan), ValueError),
        (_Wrong(lambda v: v[:-1]), ValueError),
        (_Wrong(lambda v: v * np.nan), ValueError),
        (_Wrong(lambda v: v.tolist()), ValueError),
    ]:
        with pytest.raises(error, match="expected"):
            function(bad, 4, seed=0)


@pytest.mark.parametrize("function", ALL)
def test_bad_numbers(function):
    for keywords, error in [
        ({"n_vectors": 1}, ValueError),
        ({"n_vectors": 2.5}, TypeError),
        ({"seed": -1}, ValueError),
        ({"seed": None}, TypeError),
    ]:
        with pytest.raises(error, match="expected"):
            function(np.eye(4), **{"seed": 0, **keywords})
    with pytest.raises(ValueError, match="expected distribution"):
        hutchinson_trace(np.eye(4), distribution="uniform", seed=0)


def test_xdiag_refuses_what_is_not_symmetric():
    with pytest.raises(ValueError, match="symmetric"):
        xdiag(low_rank(40, 3, symmetric=False), 4, seed=0)
