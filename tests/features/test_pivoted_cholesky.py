import math

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.errors import NotPositiveDefiniteError
from ntkfast.features.pivoted_cholesky import random_pivoted_cholesky


def decaying(n, seed=0, power=2.0, dtype=np.float64):
    """A positive definite matrix with eigenvalues 1, 2^-power, 3^-power, ..."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((n, n)))
    return ((q * np.arange(1, n + 1.0) ** -power) @ q.T).astype(dtype)


def sequential(matrix, uniform):
    """Algorithm 1 of Chen et al., one pivot at a time, by inversion of the distribution function."""
    n = len(matrix)
    factor, pivots = np.zeros((n, 0)), []
    for u in uniform:
        residual = np.clip(np.diag(matrix) - (factor**2).sum(1), 0, None)
        residual[pivots] = 0
        pivot = int(np.searchsorted(np.cumsum(residual), u * residual.sum(), side="right"))
        column = matrix[:, pivot] - factor @ factor[pivot]
        factor = np.column_stack((factor, column / math.sqrt(column[pivot])))
        pivots.append(pivot)
    return factor, pivots


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("block_size", [1, 7, 64])
def test_factor_is_the_nystroem_approximation_of_its_pivots(dtype, block_size):
    a = decaying(60, power=1.0, dtype=dtype)
    factor, pivots = random_pivoted_cholesky(a, 20, seed=3, block_size=block_size)
    assert factor.shape == (60, 20)
    assert factor.dtype == dtype
    assert len(set(pivots.tolist())) == 20
    columns = a[:, pivots].astype(float)
    expected = columns @ np.linalg.solve(columns[pivots], columns.T)
    assert_close(factor.astype(float) @ factor.T.astype(float), expected, 100 * tol(dtype, 60))
    assert_close(factor @ factor[pivots].T, a[:, pivots], 10 * tol(dtype, 60))
    assert_close(np.triu(factor[pivots], 1), np.zeros((20, 20)), tol(dtype, 60))


def test_callable_gives_the_factor_of_the_matrix_and_reads_only_the_columns_it_needs():
    a = decaying(300, power=0.5)
    entries = []

    def block(rows, columns):
        entries.append(len(columns) * (300 if rows is None else len(rows)))
        return a[:, columns] if rows is None else a[np.ix_(rows, columns)]

    expected = random_pivoted_cholesky(a, 40, seed=1, block_size=16)
    got = random_pivoted_cholesky(block, 40, diagonal=np.diag(a).copy(), seed=1, block_size=16)
    np.testing.assert_array_equal(got.pivots, expected.pivots)
    np.testing.assert_array_equal(got.factor, expected.factor)
    assert sum(entries) <= 40 * 300 + 10 * 16**2


def test_full_rank_reproduces_the_matrix():
    a = decaying(50)
    factor, pivots = random_pivoted_cholesky(a, 1000, seed=0)
    assert sorted(pivots.tolist()) == list(range(50))
    assert_close(factor @ factor.T, a, 1e-13)


@pytest.mark.parametrize("block_size", [1, 32])
def test_stops_early_on_low_rank_with_zero_and_repeated_rows(block_size):
    x = np.random.default_rng(0).standard_normal((40, 3))
    x = np.concatenate((x, np.zeros((5, 3)), x, 2 * x))
    factor, pivots = random_pivoted_cholesky(x @ x.T, 30, seed=0, block_size=block_size)
    assert factor.shape == (125, 3)
    assert not np.isin(pivots, np.arange(40, 45)).any()
    assert_close(factor @ factor.T, x @ x.T, 1e-13)


def test_zero_matrix_has_rank_zero():
    factor, pivots = random_pivoted_cholesky(np.zeros((4, 4), np.float32), 2, seed=0)
    assert factor.shape == (4, 0)
    assert pivots.shape == (0,)


def test_tolerance_stops_at_the_wanted_residual():
    a = decaying(200, power=2.0)
    factor, pivots = random_pivoted_cholesky(a, 200, seed=0, tolerance=0.1)
    residual = np.diag(a) - (factor**2).sum(1)
    assert 10 < len(pivots) < 100
    assert (residual <= 0.1 * np.diag(a) * (1 + 1e-12)).all()


def test_same_seed_same_pivots_other_seed_other_pivots():
    a = decaying(100, power=0.3)
    first, again, other = (random_pivoted_cholesky(a, 20, seed=s).pivots for s in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert first.tolist() != other.tolist()


@pytest.mark.stat
@pytest.mark.parametrize("block_size", [1, 4])
def test_law_of_the_pivots_is_the_sequential_one(block_size):
    """Probability of each ordered pair of first pivots, R = 1,500 draws of a 4 x 4 matrix.

    The exact probability of the pair (i, j) is A_ii / tr A times S_jj / tr S, S the residual after i. Counts are
    binomial with standard deviation s >= 4, and Bernstein's bound for a deviation t = 6.3 (s + 1) is
    2 exp(-t^2 / (2 s^2 + 2 t / 3)) <= 2 exp(-18) per pair: failure probability below 4e-7 for 12 pairs.
    """
    a = decaying(4, power=1.0)
    draws = 1_500
    counts = np.zeros((4, 4))
    for seed in range(draws):
        i, j = random_pivoted_cholesky(a, 2, seed=seed, block_size=block_size).pivots
        counts[i, j] += 1
    for i in range(4):
        schur = np.diag(a) - a[:, i] ** 2 / a[i, i]
        schur[i] = 0
        p = a[i, i] / np.trace(a) * schur / schur.sum()
        deviation = np.sqrt(draws * p * (1 - p))
        assert (np.delete(deviation, i) >= 4).all()
        assert (np.abs(counts[i] - draws * p) <= 6.3 * (deviation + 1)).all()


@pytest.mark.stat
def test_trace_error_obeys_its_bound():
    """Mean trace error over R = 50 seeds within the bound of Chen et al. (with eps = 1, k = 10).

    r = k + k log(1 / eta) columns give E error <= 2 best_k. The errors measured here are 0.6 best_k with a standard
    deviation of 0.1 best_k; Chebyshev's bound on their mean already is (0.1 / 1.4)^2 / 50 < 1e-4, and with normal
    tails the failure probability is below 1e-100.
    """
    a = decaying(120, power=2.0)
    values = np.sort(np.linalg.eigvalsh(a))[::-1]
    best = values[10:].sum()
    rank = math.ceil(10 + 10 * math.log(np.trace(a) / best))
    errors = [np.trace(a) - (random_pivoted_cholesky(a, rank, seed=s).factor ** 2).sum() for s in range(50)]
    assert np.mean(errors) <= 2 * best


def test_matches_the_sequential_algorithm_in_error():
    """The blocked form is as good as Algorithm 1: mean errors over 40 seeds within 15 % of each other."""
    a = decaying(80, power=1.5)
    rng = np.random.default_rng(0)
    ours = [np.trace(a) - (random_pivoted_cholesky(a, 15, seed=s, block_size=10).factor ** 2).sum() for s in range(40)]
    plain = [np.trace(a) - (sequential(a, rng.random(15))[0] ** 2).sum() for _ in range(40)]
    assert abs(np.mean(ours) / np.mean(plain) - 1) < 0.15


@pytest.mark.parametrize(
    ("kernel", "options", "error", "words"),
    [
        (np.ones((3, 4)), {}, ValueError, r"\(n, n\)"),
        (np.ones((2, 2), int), {}, TypeError, "float32 or float64"),
        (np.ones((2, 2), np.float16), {}, TypeError, "float32 or float64"),
        (np.full((2, 2), np.nan), {}, ValueError, "NaN"),
        (-np.eye(2), {}, NotPositiveDefiniteError, "non-negative diagonal"),
        (np.eye(2), {"diagonal": np.ones(2)}, ValueError, "diagonal=None"),
        (np.eye(2), {"rank": 0}, ValueError, "at least 1"),
        (np.eye(2), {"block_size": 0}, ValueError, "at least 1"),
        (np.eye(2), {"tolerance": -1.0}, ValueError, "tolerance"),
        (np.eye(2), {"seed": -1}, ValueError, "seed"),
        (lambda rows, columns: np.eye(2), {}, ValueError, "diagonal="),
        (lambda rows, columns: np.eye(2), {"diagonal": np.ones((2, 2))}, ValueError, r"\(n,\)"),
        ([[1.0]], {}, TypeError, "NumPy or CuPy"),
    ],
)
def test_bad_input_is_refused(kernel, options, error, words):
    with pytest.raises(error, match=words):
        random_pivoted_cholesky(kernel, options.pop("rank", 2), **{"seed": 0, **options})
