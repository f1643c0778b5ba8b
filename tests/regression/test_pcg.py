import numpy as np
import pytest
from helpers import assert_close

from ntkfast.errors import ConvergenceError, MemoryBudgetError, NotPositiveDefiniteError
from ntkfast.regression import (
    KernelOperator,
    conjugate_gradient,
    kernel_ridge,
    low_rank_preconditioner,
    random_preconditioner,
)

REG = 1e-2


@pytest.fixture(scope="module")
def large(kernel):
    """300 points, one-hot minus 0.1 targets (whose columns add up to 0) and a numerical column."""
    rng = np.random.default_rng(3)
    x = rng.standard_normal((300, 6))
    labels = np.eye(4)[np.abs(x).argmax(axis=1) % 4] - 0.25
    return x, np.hstack([labels, rng.standard_normal((300, 1))]), kernel(x, x)


@pytest.fixture(scope="module")
def preconditioner(large):
    return random_preconditioner(KernelOperator(large[2]), reg=REG, rank=60, seed=1)


# --- the operator


@pytest.mark.parametrize("rows", [1, 7, 150, 299, 300, 1000])
@pytest.mark.parametrize("cache", [False, True])
def test_products_do_not_depend_on_tiles_or_cache(large, kernel, monkeypatch, rows, cache):
    x, y, k = large
    monkeypatch.setattr("ntkfast.regression.operators._ROWS", rows)
    operator = KernelOperator(kernel, x, cache=cache)
    for _ in range(2):
        assert_close(operator @ y, k @ y, 1e-13)
        assert_close(operator @ y[:, 0], k @ y[:, 0], 1e-13)
    assert_close(KernelOperator(k) @ y, k @ y, 1e-13)


def test_cache_holds_half_the_matrix_and_is_computed_once(large, kernel, monkeypatch):
    x, y, _ = large
    monkeypatch.setattr("ntkfast.regression.operators._ROWS", 20)
    entries = []

    def counting(x1, x2):
        entries.append(len(x1) * len(x2))
        return kernel(x1, x2)

    operator = KernelOperator(counting, x)
    entries.clear()
    for _ in range(3):
        operator @ y
    assert sum(entries) == 300 * 320 // 2
    without = KernelOperator(counting, x, cache=False)
    entries.clear()
    for _ in range(3):
        without @ y
    assert sum(entries) == 3 * 300 * 320 // 2


def test_memory_budget_bounds_the_cache(large, kernel):
    x, y, k = large
    budget = 150_000  # the upper triangle takes 360,000 bytes
    operator = KernelOperator(kernel, x, max_memory=budget)
    assert_close(operator @ y, k @ y, 1e-13)
    kept = sum(tile.nbytes for tile in operator._cached.values())
    assert 0.5 * budget < kept < budget
    with pytest.raises(MemoryBudgetError, match="at least 4800"):
        KernelOperator(kernel, x, max_memory=4000)


@pytest.mark.parametrize("rows", [7, 300])
@pytest.mark.parametrize("columns", [1, 32, 300])
def test_float32_tiles_are_multiplied_in_the_dtype_of_the_vectors(large, kernel, monkeypatch, rows, columns):
    monkeypatch.setattr("ntkfast.regression.operators._ROWS", rows)
    monkeypatch.setattr("ntkfast.regression.operators._WIDENED_COLUMNS", columns)
    x, y, k = large
    operator = KernelOperator(kernel, x, dtype="float32")
    rounded = k.astype("f4").astype("f8")
    assert_close(operator @ y, rounded @ y, 1e-13)
    single = operator @ y.astype("f4")
    assert single.dtype == np.float32
    assert_close(single, rounded @ y, 1e-6)
    assert all(tile.dtype == np.float32 for tile in operator._cached.values())
    narrow = KernelOperator(k) @ y.astype("f4")
    assert narrow.dtype == np.float32
    assert_close(narrow, k @ y, 1e-6)


def test_entries_for_the_preconditioner(large, kernel):
    x, _, k = large
    rows, columns = np.array([5, 0, 299]), np.array([1, 1, 7])
    for operator in (KernelOperator(kernel, x), KernelOperator(k)):
        assert_close(operator.diagonal(), k.diagonal(), 1e-15)
        assert_close(operator.block(rows, columns), k[np.ix_(rows, columns)], 1e-14)
        assert_close(operator.block(None, columns), k[:, columns], 1e-14)


def test_prediction_by_tiles(large, kernel, problem):
    x, y, _ = large
    x_test = np.vstack([problem.x_test, problem.x_test])[:, [0, 1, 2, 3, 4, 0]]
    operator = KernelOperator(kernel, x)
    expected = kernel(x_test, x) @ y
    assert_close(operator.predict(x_test, y), expected, 1e-13)
    assert_close(operator.predict(x_test, y, max_memory=2 * 300 * 8 * 3), expected, 1e-13)
    assert_close(operator.predict(x_test, y[:, 1]), expected[:, 1], 1e-13)


def test_progress_ends_at_the_whole_triangle(large, kernel, monkeypatch):
    monkeypatch.setattr("ntkfast.regression.operators._ROWS", 64)
    seen = []
    operator = KernelOperator(kernel, large[0], progress=lambda done, total: seen.append((done, total)))
    operator @ large[1]
    operator @ large[1]
    assert len(seen) == 5  # the second product reads the cache
    assert seen == sorted(seen)
    assert seen[-1] == (45150, 45150)


# --- the iteration


@pytest.mark.parametrize("outputs", ["one", "dependent", "all"])
def test_is_the_cholesky_solution(large, preconditioner, outputs):
    _, y, k = large
    y = {"one": y[:, 0], "dependent": y[:, :4], "all": y}[outputs]
    solution = conjugate_gradient(KernelOperator(k), y, reg=REG, preconditioner=preconditioner, rtol=1e-12)
    assert solution.converged
    assert max(solution.residuals) <= 1e-12
    assert len(solution.residuals) == (1 if y.ndim == 1 else y.shape[1])
    assert_close(solution.dual_coef, kernel_ridge(k, y, reg=REG).dual_coef, 1e-9)


def test_reported_residuals_are_true(large, preconditioner):
    _, y, k = large
    solution = conjugate_gradient(KernelOperator(k), y, reg=REG, preconditioner=preconditioner, rtol=1e-3)
    residual = y - k @ solution.dual_coef - REG * solution.dual_coef
    expected = np.linalg.norm(residual, axis=0) / np.linalg.norm(y, axis=0)
    np.testing.assert_allclose(solution.residuals, expected, rtol=1e-8)
    assert expected.max() <= 1e-3


def test_the_preconditioner_saves_most_iterations(large, preconditioner):
    _, y, k = large
    plain = conjugate_gradient(KernelOperator(k), y, reg=REG, rtol=1e-8)
    fast = conjugate_gradient(KernelOperator(k), y, reg=REG, preconditioner=preconditioner, rtol=1e-8)
    assert fast.iterations < 0.6 * plain.iterations
    assert_close(fast.dual_coef, plain.dual_coef, 1e-5)


def test_one_block_needs_fewer_products_than_separate_columns(large, preconditioner):
    _, y, k = large
    options = {"reg": REG, "preconditioner": preconditioner, "rtol": 1e-8}
    block = conjugate_gradient(KernelOperator(k), y, **options).iterations
    alone = [conjugate_gradient(KernelOperator(k), column, **options).iterations for column in y.T]
    assert block < max(alone)


def test_converged_zero_and_repeated_columns_do_not_break_it(large, preconditioner):
    _, y, k = large
    awkward = np.stack([y[:, 0], np.zeros(300), y[:, 0], 1e-9 * y[:, 4], k @ np.ones(300) + REG], axis=1)
    solution = conjugate_gradient(KernelOperator(k), awkward, reg=REG, preconditioner=preconditioner, rtol=1e-10)
    exact = kernel_ridge(k, awkward, reg=REG).dual_coef
    assert np.abs(solution.dual_coef[:, 1]).max() < 1e-14
    for column, expected in zip(solution.dual_coef.T, exact.T, strict=True):
        assert_close(column, expected, 1e-6)


def test_warm_start(large, preconditioner):
    _, y, k = large
    options = {"preconditioner": preconditioner, "rtol": 1e-8}
    cold = conjugate_gradient(KernelOperator(k), y, reg=REG, **options)
    near = conjugate_gradient(KernelOperator(k), y, reg=1.001 * REG, **options, start=cold.dual_coef)
    assert near.iterations < cold.iterations
    again = conjugate_gradient(KernelOperator(k), y, reg=REG, **options, start=cold.dual_coef)
    assert again.iterations == 0
    np.testing.assert_array_equal(again.dual_coef, cold.dual_coef)


@pytest.mark.parametrize("reg", [1e-2, 1e-6])
def test_float32_tiles_are_solved_to_float64(large, kernel, reg):
    """The solution is that of the rounded matrix, far beyond what float32 products alone reach."""
    x, y, k = large
    operator = KernelOperator(kernel, x, dtype="float32")
    conditioner = random_preconditioner(operator, reg=reg, rank=60, seed=1)
    solution = conjugate_gradient(operator, y, reg=reg, preconditioner=conditioner, rtol=1e-10)
    exact = kernel_ridge(k.astype("f4").astype("f8"), y, reg=reg).dual_coef
    assert_close(solution.dual_coef, exact, 1e-7)


def test_float32_targets_have_float32_coefficients(large, kernel):
    x, y = (a.astype("f4") for a in large[:2])
    solution = conjugate_gradient(KernelOperator(kernel, x), y, reg=REG)
    assert solution.dual_coef.dtype == np.float32
    x = x.astype("f8")
    assert_close(solution.dual_coef, kernel_ridge(kernel(x, x), y.astype("f8"), reg=REG).dual_coef, 1e-3)


def test_every_backend(problem, kernel, backend):
    k, y = backend.asarray(problem.k), backend.asarray(problem.y)
    operator = KernelOperator(k)
    conditioner = random_preconditioner(operator, reg=0.1, rank=20, seed=0)
    solution = conjugate_gradient(operator, y, reg=0.1, preconditioner=conditioner, rtol=1e-11)
    assert_close(backend.to_numpy(solution.dual_coef), kernel_ridge(problem.k, problem.y, reg=0.1).dual_coef, 1e-9)


def test_same_bits_twice(large, kernel, preconditioner):
    x, y, _ = large
    first, second = (
        conjugate_gradient(KernelOperator(kernel, x), y, reg=REG, preconditioner=preconditioner) for _ in range(2)
    )
    np.testing.assert_array_equal(first.dual_coef, second.dual_coef)


def test_progress_and_history(large, preconditioner):
    _, y, k = large
    seen = []
    solution = conjugate_gradient(
        KernelOperator(k), y, reg=REG, preconditioner=preconditioner, progress=lambda i, r: seen.append((i, r))
    )
    assert seen == list(enumerate(solution.history, start=1))
    assert len(seen) == solution.iterations


def test_failing_to_converge_is_told(large, preconditioner):
    _, y, k = large
    options = {"reg": REG, "preconditioner": preconditioner, "rtol": 1e-10, "max_iterations": 3}
    with pytest.raises(ConvergenceError, match=r"residual of 1e-10, got .* after 3 iterations"):
        conjugate_gradient(KernelOperator(k), y, **options)
    solution = conjugate_gradient(KernelOperator(k), y, **options, strict=False)
    assert not solution.converged
    assert solution.iterations == 3
    assert 1e-10 < max(solution.residuals) < 1


def test_an_unreachable_tolerance_ends(large, preconditioner):
    solution = conjugate_gradient(
        KernelOperator(large[2]), large[1], reg=REG, preconditioner=preconditioner, rtol=1e-19, strict=False
    )
    assert not solution.converged
    assert solution.iterations < 500
    assert max(solution.residuals) < 1e-12


def test_an_indefinite_matrix_is_refused():
    with pytest.raises(NotPositiveDefiniteError, match="curvature"):
        conjugate_gradient(KernelOperator(np.array([[1.0, 2.0], [2.0, 1.0]])), np.array([1.0, -1.0]), reg=0.0)


# --- the preconditioner


def test_preconditioner_is_the_inverse_of_its_matrix():
    rng = np.random.default_rng(2)
    factor, v = rng.standard_normal((30, 4)), rng.standard_normal((30, 2))
    diagonal = (factor**2).sum(axis=1) + 0.6
    found = low_rank_preconditioner(factor, diagonal, reg=0.4)
    assert found.shift == pytest.approx(1.0)
    matrix = factor @ factor.T + found.shift * np.eye(30)
    assert_close(found.apply(v) / found.shift, np.linalg.solve(matrix, v), 1e-13)


def test_preconditioner_of_full_rank_needs_one_iteration(problem):
    operator = KernelOperator(problem.k)
    conditioner = random_preconditioner(operator, reg=0.1, rank=60, seed=0)
    assert conjugate_gradient(operator, problem.y, reg=0.1, preconditioner=conditioner, rtol=1e-8).iterations <= 2


def test_preconditioner_of_a_float32_factor_computes_in_float64(large):
    factor = np.random.default_rng(0).standard_normal((40, 3)).astype("f4") * 100
    found = low_rank_preconditioner(factor, (factor**2).sum(axis=1), reg=1e-5)
    v = factor.astype("f8") @ np.ones((3, 1))
    matrix = factor.astype("f8") @ factor.astype("f8").T + found.shift * np.eye(40)
    assert_close(matrix @ found.apply(v) / found.shift, v, 1e-5)


# --- bad input


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda k, p: KernelOperator(p.k, p.x), ValueError, "x=None"),
        (lambda k, p: KernelOperator(k), ValueError, "expected x with a kernel function"),
        (lambda k, p: KernelOperator(p.k_test), ValueError, r"kernel of shape \(n, n\)"),
        (lambda k, p: KernelOperator(k, p.x[0]), ValueError, "x of shape"),
        (lambda k, p: KernelOperator(k, p.x, dtype="float16"), ValueError, "dtype to be one of"),
        (lambda k, p: KernelOperator(lambda a, b: a, p.x), ValueError, r"kernel\(x1, x2\) of shape \(1, 1\)"),
        (lambda k, p: KernelOperator(lambda a, b: k(a, b) * np.nan, p.x), ValueError, "without NaN"),
        (lambda k, p: KernelOperator(p.k) @ p.y[:4], ValueError, "v of shape"),
        (lambda k, p: KernelOperator(p.k) @ np.ones(60, int), TypeError, "v of dtype"),
        (lambda k, p: KernelOperator(p.k).predict(p.x_test, p.y), ValueError, "made from a kernel function"),
        (lambda k, p: KernelOperator(k, p.x).predict(p.x_test[:, :2], p.y), ValueError, "x_test of shape"),
        (lambda k, p: KernelOperator(k, p.x).predict(p.x_test, p.y[:3]), ValueError, "dual_coef of shape"),
        (lambda k, p: conjugate_gradient(KernelOperator(p.k), p.y[:4], reg=1.0), ValueError, "y of shape"),
        (lambda k, p: conjugate_gradient(KernelOperator(p.k), p.y.tolist(), reg=1.0), TypeError, "NumPy or CuPy"),
        (lambda k, p: conjugate_gradient(KernelOperator(p.k), p.y, reg=-1.0), ValueError, "reg"),
        (lambda k, p: conjugate_gradient(KernelOperator(p.k), p.y, reg=1.0, rtol=0), ValueError, "rtol"),
        (lambda k, p: conjugate_gradient(KernelOperator(p.k), p.y, reg=1.0, start=p.y[:, 0]), ValueError, "start"),
        (lambda k, p: low_rank_preconditioner(p.y, p.y, reg=1.0), ValueError, "diagonal with 1 axes"),
        (lambda k, p: low_rank_preconditioner(p.y * 0, p.y[:, 0] * 0, reg=0.0), NotPositiveDefiniteError, "zeros"),
    ],
)
def test_bad_input(problem, kernel, call, error, message):
    with pytest.raises(error, match=message):
        call(kernel, problem)
