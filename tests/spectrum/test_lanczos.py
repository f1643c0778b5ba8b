"""Stochastic Lanczos quadrature: exact for polynomials, at breakdowns, and unbiased with the error it states."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg
from helpers import assert_close

from ntkfast.errors import MemoryBudgetError, NotPositiveDefiniteError
from ntkfast.kernels import philox
from ntkfast.regression import KernelOperator
from ntkfast.spectrum import log_determinant, spectral_density


def orthogonal(n, seed=0):
    return np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))[0]


def with_spectrum(values, seed=0):
    q = orthogonal(len(values), seed)
    matrix = (q * np.asarray(values)) @ q.T
    return (matrix + matrix.T) / 2


def signs_of(density_seed, n, m):
    """The vectors that the functions draw."""
    from ntkfast._streams import Stream
    from ntkfast.backends import get_backend

    out = np.empty(n * m)
    get_backend(out).launch(philox.signs, philox.derive_key(density_seed, Stream.LANCZOS), 0, out)
    return out.reshape(m, n)


def test_quadrature_of_polynomials(backend, decaying):
    """k nodes integrate polynomials up to degree 2 k - 1 exactly: z^T A^p z of the very vectors."""
    density = spectral_density(backend.asarray(decaying), n_vectors=3, steps=4, seed=5)
    z = signs_of(5, 60, 3)
    for power in range(8):
        exact = np.einsum("mi,ij,mj->m", z, np.linalg.matrix_power(decaying, power), z)
        assert_close((density.weights * density.nodes**power).sum(axis=1) * 60, exact, 1e-11)
    assert density.n_products == 12


def test_weights_and_nodes(decaying):
    density = spectral_density(decaying, n_vectors=4, steps=10, seed=0)
    assert density.nodes.shape == density.weights.shape == (4, 10)
    assert_close(density.weights.sum(axis=1), np.ones(4), 1e-14)
    assert (density.weights >= 0).all()
    assert (np.diff(density.nodes, axis=1) >= 0).all()
    values = np.linalg.eigvalsh(decaying)
    assert density.nodes.min() > values[0] - 1e-12
    assert density.nodes.max() < values[-1] + 1e-12


def test_all_steps_give_all_eigenvalues():
    """Full reorthogonalization: no eigenvalue is found twice, even over ten orders of magnitude."""
    values = np.geomspace(1e-10, 1, 30)
    density = spectral_density(with_spectrum(values), n_vectors=2, steps=1000, seed=0)
    assert density.nodes.shape == (2, 30)
    assert_close(density.nodes, np.stack([values, values]), 1e-13)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-30, 3.0, 1e30])
def test_breakdown_at_a_multiple_of_the_identity(dtype, scale):
    a = (scale * np.eye(40)).astype(dtype)
    density = spectral_density(a, n_vectors=2, steps=8, seed=0)
    assert density.nodes.shape == (2, 1)
    assert_close(density.nodes, np.full((2, 1), a[0, 0]), 1e-6)
    assert density.trace(np.log).value == pytest.approx(40 * math.log(scale), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_breakdown_at_few_distinct_eigenvalues(dtype):
    """Three values, so three nodes have all the weight, and the recursion stops not long after them."""
    a = with_spectrum([0.0] * 30 + [1.0] * 15 + [5.0] * 5).astype(dtype)
    a = (a + a.T) / 2
    density = spectral_density(a, n_vectors=3, steps=20, seed=0)
    bound = {"float32": 1e-5, "float64": 1e-13}[dtype]
    heavy = density.nodes[density.weights > bound]
    assert heavy.size == 9
    assert np.abs(heavy[:, None] - np.array([0.0, 1.0, 5.0])).min(axis=1).max() < 5 * bound
    assert density.nodes.shape[1] <= 4


def test_vectors_of_different_length():
    """A vector within an eigenspace ends before the others: signs times diag(1, ..., 1, 2) reach two eigenvalues."""
    a = np.zeros((4, 4))
    a[:2, :2] = 1.0  # z = (1, -1, ., .) is in the kernel of A
    density = spectral_density(a, n_vectors=16, steps=4, seed=0)
    lengths = (density.weights > 0).sum(axis=1)
    assert set(lengths) == {1, 2}
    z = signs_of(0, 4, 16)
    assert_close(
        density.trace(np.exp).value, float((z[:, :2].sum(axis=1) ** 2 / 2 * (math.e**2 - 1) + 4).mean()), 1e-12
    )
    assert density.n_products == lengths.sum()


def test_scale(decaying):
    plain = spectral_density(decaying, n_vectors=3, steps=12, seed=0)
    for scale in (2.0**-1000, 2.0**400):
        scaled = spectral_density(scale * decaying, n_vectors=3, steps=12, seed=0)
        assert_close(scaled.nodes / scale, plain.nodes, 1e-12)
        assert_close(scaled.weights, plain.weights, 1e-10)
        assert np.isfinite(scaled.density()[1]).all()
    with pytest.raises(OverflowError, match="expected"):
        spectral_density(1e300 * decaying, seed=0)
    with pytest.raises(OverflowError, match="expected"):
        plain.trace(lambda nodes: np.full_like(nodes, 1e308))


def test_zero_operator():
    density = spectral_density(np.zeros((9, 9)), n_vectors=2, seed=0)
    assert density.nodes.tolist() == [[0.0], [0.0]]
    grid, values = density.density()
    assert np.isfinite(values).all()
    assert (values * (grid[1] - grid[0])).sum() == pytest.approx(1.0, rel=1e-3)
    assert log_determinant(np.zeros((9, 9)), reg=2.0, seed=0).value == pytest.approx(9 * math.log(2))


def test_one_point():
    assert log_determinant(np.array([[5.0]]), seed=0).value == pytest.approx(math.log(5))


def test_memory_does_not_matter(decaying):
    together = spectral_density(decaying, n_vectors=5, steps=6, seed=0)
    alone = spectral_density(decaying, n_vectors=5, steps=6, seed=0, max_memory=60 * 8 * 6)
    assert_close(alone.nodes, together.nodes, 1e-12)
    assert_close(alone.weights, together.weights, 1e-11)
    with pytest.raises(MemoryBudgetError, match="expected max_memory"):
        spectral_density(decaying, n_vectors=5, steps=6, seed=0, max_memory=60 * 8 * 6 - 1)


def test_kinds_of_operators(backend, decaying):
    expected = log_determinant(decaying, n_vectors=3, steps=20, seed=1).value
    operator = KernelOperator(backend.asarray(decaying))
    assert log_determinant(operator, n_vectors=3, steps=20, seed=1).value == pytest.approx(expected, rel=1e-10)
    single = backend.asarray(decaying.astype("float32"))
    assert log_determinant(single, reg=1e-2, n_vectors=3, steps=20, seed=1).value == pytest.approx(
        log_determinant(decaying, reg=1e-2, n_vectors=3, steps=20, seed=1).value, rel=1e-5
    )


def test_scipy_operator(decaying):
    operator = scipy.sparse.linalg.aslinearoperator(decaying)
    expected = spectral_density(decaying, n_vectors=3, steps=20, seed=1)
    assert_close(spectral_density(operator, n_vectors=3, steps=20, seed=1).nodes, expected.nodes, 1e-13)


def test_smoothed_density(decaying):
    """Mass 1, and each eigenvalue's bump in its place for an isolated one."""
    density = spectral_density(with_spectrum([1.0] * 30 + [3.0] * 10), n_vectors=200, steps=5, seed=0)
    grid, values = density.density(width=0.05)
    step = grid[1] - grid[0]
    assert values.sum() * step == pytest.approx(1.0, rel=1e-3)
    # share of the upper eigenvalue: variance of one vector at most 2 / 40 * 3/16, so 0.007 for the mean
    assert values[grid > 2].sum() * step == pytest.approx(0.25, abs=0.05)
    assert abs(grid[values.argmax()] - 1) < 2 * step
    own = np.array([1.0, 2.0])
    same, at = density.density(own, width=0.05)
    assert (same == own).all()
    assert at[1] < 1e-12 < at[0]


@pytest.mark.stat
def test_log_determinant_within_its_error():
    """200 estimates of 8 vectors: the mean within 6 standard errors (2e-9), the stated error near the spread.

    The squared errors have a relative standard error of about sqrt(2 / (7 * 200)) = 4 %, the spread of 200 values
    one of 5 %; 0.7 to 1.4 is above 6 of both together.
    """
    a = with_spectrum(np.geomspace(0.1, 10, 50))
    exact = np.linalg.slogdet(a + 0.5 * np.eye(50))[1]
    found = [log_determinant(a, reg=0.5, n_vectors=8, steps=25, seed=seed) for seed in range(200)]
    values, errors = np.array([e.value for e in found]), np.array([e.standard_error for e in found])
    assert abs(values.mean() - exact) < 6 * values.std(ddof=1) / math.sqrt(200)
    assert 0.7 < math.sqrt((errors**2).mean()) / values.std(ddof=1) < 1.4


def test_quadrature_converges_as_stated():
    """The error against many steps falls by rho^2 = ((sqrt c + 1) / (sqrt c - 1))^2 per step, c = 100."""
    a = with_spectrum(np.geomspace(0.01, 1, 80))
    exact = log_determinant(a, n_vectors=4, steps=80, seed=0).value
    errors = [abs(log_determinant(a, n_vectors=4, steps=k, seed=0).value - exact) for k in (10, 20, 30)]
    rho = 11 / 9
    assert errors[1] < 3 * errors[0] * rho**-20
    assert errors[2] < 3 * errors[0] * rho**-40


def test_singular_matrices():
    a = with_spectrum([0.0] * 10 + [1.0] * 10)
    with pytest.raises(NotPositiveDefiniteError, match="larger reg"):
        log_determinant(a, seed=0)
    exact = 10 * math.log(0.1) + 10 * math.log(1.1)
    estimate = log_determinant(a, reg=0.1, n_vectors=400, seed=0)
    assert abs(estimate.value - exact) < 6 * estimate.standard_error
    with pytest.raises(NotPositiveDefiniteError):
        log_determinant(-a, seed=0)


def test_bad_input(decaying):
    for call, error in [
        (lambda: spectral_density(np.triu(np.ones((5, 5))), seed=0), ValueError),
        (lambda: spectral_density(decaying, n_vectors=1, seed=0), ValueError),
        (lambda: spectral_density(decaying, steps=0, seed=0), ValueError),
        (lambda: log_determinant(decaying, reg=-1.0, seed=0), ValueError),
        (lambda: spectral_density(decaying, seed=0.5), TypeError),
        (lambda: spectral_density(np.eye(3), seed=0).trace(lambda nodes: 1.0), ValueError),
        (lambda: spectral_density(np.eye(3), seed=0).trace(lambda nodes: nodes * math.inf), ValueError),
        (lambda: spectral_density(np.eye(3), seed=0).density(width=0.0), ValueError),
        (lambda: spectral_density(np.eye(3), seed=0).density(np.ones((2, 2))), ValueError),
        (lambda: spectral_density(np.eye(3), seed=0).density(np.array([math.nan])), ValueError),
    ]:
        with pytest.raises(error, match="expected"):
            call()
