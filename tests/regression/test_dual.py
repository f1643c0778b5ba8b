import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.errors import MixedBackendError, NotPositiveDefiniteError
from ntkfast.regression import KernelRidge, factorize, kernel_ridge


def solve_plainly(k, y, reg):
    return np.linalg.solve(k + reg * np.eye(len(k)), y)


@pytest.mark.parametrize("reg", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("outputs", ["one", "many"])
def test_is_the_solution_of_the_normal_system(problem, reg, outputs):
    y = problem.y[:, 0] if outputs == "one" else problem.y
    fit = kernel_ridge(problem.k, y, reg=reg)
    assert (fit.reg, fit.jitter) == (reg, 0.0)
    assert fit.dual_coef.shape == y.shape
    assert_close(fit.dual_coef, solve_plainly(problem.k, y, reg), 1e-11)
    assert_close(fit.predict(problem.k_test), problem.k_test @ solve_plainly(problem.k, y, reg), 1e-11)


def test_every_backend_and_dtype(problem, backend):
    for dtype in (np.float32, np.float64):
        k, y = backend.asarray(problem.k.astype(dtype)), backend.asarray(problem.y.astype(dtype))
        fit = kernel_ridge(k, y, reg=0.5)
        predicted = fit.predict(backend.asarray(problem.k_test.astype(dtype)))
        assert str(predicted.dtype) == np.dtype(dtype).name
        expected = problem.k_test @ solve_plainly(problem.k, problem.y, 0.5)
        assert_close(backend.to_numpy(predicted), expected, tol(dtype, 60, condition=100))


def test_the_input_is_kept_unless_given_away(problem):
    k = problem.k.copy()
    kernel_ridge(k, problem.y, reg=0.1)
    np.testing.assert_array_equal(k, problem.k)
    factor = factorize(k, reg=0.1, overwrite=True)
    assert np.shares_memory(factor.lower, k)
    lower = np.tril(k)
    assert_close(lower @ lower.T, problem.k + 0.1 * np.eye(60), 1e-13)


def test_fortran_order_is_factorized_in_place_too(problem):
    k = np.asfortranarray(problem.k)
    factor = factorize(k, reg=0.1, overwrite=True)
    assert np.shares_memory(factor.lower, k)
    assert_close(factor.solve(problem.y), solve_plainly(problem.k, problem.y, 0.1), 1e-11)


def test_strided_and_read_only_matrices(problem):
    wide = np.zeros((60, 120))
    wide[:, ::2] = problem.k
    frozen = problem.k.copy()
    frozen.flags.writeable = False
    expected = solve_plainly(problem.k, problem.y, 0.1)
    assert_close(kernel_ridge(wide[:, ::2], problem.y, reg=0.1, overwrite=True).dual_coef, expected, 1e-11)
    assert_close(kernel_ridge(frozen, problem.y, reg=0.1).dual_coef, expected, 1e-11)
    with pytest.raises(ValueError, match="writeable"):
        kernel_ridge(frozen, problem.y, reg=0.1, overwrite=True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("overwrite", [False, True])
def test_repeated_points_without_ridge_take_a_jitter(problem, dtype, overwrite):
    rows = np.r_[np.arange(60), 3, 3, 7]
    k, y = problem.k[np.ix_(rows, rows)].astype(dtype), problem.y[rows].astype(dtype)
    k = np.ascontiguousarray(k)
    fit = kernel_ridge(k.copy() if overwrite else k, y, reg=0.0, overwrite=overwrite)
    mean = float(np.diag(k).mean())
    assert 0 < fit.jitter <= mean * (1e-6 if dtype == np.float64 else 1e-3)
    # a ladder that lost the matrix on its first, failed rung would not interpolate
    assert_close(k @ fit.dual_coef, y, 1e-3)


def test_second_rung_sees_the_same_matrix_as_a_fresh_start(problem):
    rows = np.r_[np.arange(60), np.arange(10)]
    k = problem.k[np.ix_(rows, rows)]
    climbed = factorize(k, reg=0.0)
    fresh = factorize(k, reg=climbed.jitter, max_jitter=0)
    np.testing.assert_array_equal(np.tril(climbed.lower), np.tril(fresh.lower))


def test_an_indefinite_matrix_is_refused_and_the_ladder_named(problem):
    k = problem.k - 5 * np.eye(60) * problem.k.diagonal().min() / 6
    with pytest.raises(NotPositiveDefiniteError, match=r"reg = 0 and jitter in \(0, .*mean of the diagonal"):
        kernel_ridge(k, problem.y, reg=0.0)
    with pytest.raises(NotPositiveDefiniteError, match="non-negative diagonal"):
        kernel_ridge(-problem.k, problem.y, reg=0.0)
    with pytest.raises(NotPositiveDefiniteError, match=r"jitter in \(0\)"):
        kernel_ridge(np.ones((3, 3)), np.ones(3), reg=0.0, max_jitter=0)


def test_a_zero_point_and_a_single_point():
    k, y = np.diag([2.0, 0.0]), np.array([1.0, 5.0])
    np.testing.assert_allclose(kernel_ridge(k, y, reg=0.5).dual_coef, [0.4, 10.0], rtol=1e-14)
    fit = kernel_ridge(np.array([[3.0]]), np.array([1.0]), reg=1.0)
    np.testing.assert_allclose(fit.dual_coef, [0.25])
    with pytest.raises(NotPositiveDefiniteError):
        kernel_ridge(np.zeros((2, 2)), np.ones(2), reg=0.0)


def test_log_determinant(problem):
    expected = np.linalg.slogdet(problem.k + 0.3 * np.eye(60))[1]
    assert factorize(problem.k, reg=0.3).log_determinant() == pytest.approx(expected, rel=1e-13)


BAD = {
    "negative reg": (lambda p: (p.k, p.y, -1.0), ValueError, "reg to be a finite number at least 0"),
    "nan reg": (lambda p: (p.k, p.y, np.nan), ValueError, "reg"),
    "reg text": (lambda p: (p.k, p.y, "small"), TypeError, "reg to be a real number"),
    "not square": (lambda p: (p.k[:, :5], p.y, 1.0), ValueError, r"shape \(n, n\)"),
    "not symmetric": (lambda p: (p.k + np.eye(60, k=1), p.y, 1.0), ValueError, "symmetric.*differ by 1"),
    "nan": (lambda p: (np.where(np.eye(60, k=1) > 0, np.nan, p.k), p.y, 1.0), ValueError, "without NaN or inf"),
    "inf in y": (lambda p: (p.k, np.where(p.y > 2, np.inf, p.y), 1.0), ValueError, "y without NaN or inf"),
    "rows of y": (lambda p: (p.k, p.y[:5], 1.0), ValueError, r"y of shape \(60,\) or \(60, k\), got \(5, 3\)"),
    "3-D y": (lambda p: (p.k, p.y[None], 1.0), ValueError, "y of shape"),
    "no outputs": (lambda p: (p.k, p.y[:, :0], 1.0), ValueError, "y of shape"),
    "dtypes": (lambda p: (p.k, p.y.astype("f4"), 1.0), TypeError, "y of dtype float64, as the kernel"),
    "integers": (lambda p: (p.k.astype(int), p.y, 1.0), TypeError, "float32 or float64"),
    "half": (lambda p: (p.k.astype("f2"), p.y, 1.0), TypeError, "float32 or float64"),
    "list": (lambda p: (p.k.tolist(), p.y, 1.0), TypeError, "NumPy or CuPy"),
    "list of targets": (lambda p: (p.k, p.y.tolist(), 1.0), TypeError, "NumPy or CuPy"),
    "empty": (lambda p: (p.k[:0, :0], p.y[:0], 1.0), ValueError, "n >= 1"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(problem, case):
    make, error, message = BAD[case]
    k, y, reg = make(problem)
    with pytest.raises(error, match=message):
        kernel_ridge(k, y, reg=reg)


def test_bad_arguments_leave_the_matrix_alone(problem):
    k = problem.k.copy()
    for y, reg in ((problem.y[:5], 1.0), (problem.y, -1.0)):
        with pytest.raises(ValueError, match="expected"):
            kernel_ridge(k, y, reg=reg, overwrite=True)
    np.testing.assert_array_equal(k, problem.k)


def test_prediction_refuses_the_transposed_kernel(problem):
    fit = kernel_ridge(problem.k, problem.y, reg=1.0)
    with pytest.raises(ValueError, match=r"k_test_train of shape \(m, 60\), got \(60, 13\)"):
        fit.predict(problem.k_test.T)
    with pytest.raises(TypeError, match="float64"):
        fit.predict(problem.k_test.astype("f4"))


def test_the_record_is_frozen():
    with pytest.raises(AttributeError):
        KernelRidge(np.ones(1), 1.0).reg = 2.0


def test_asymmetry_of_rounding_passes(problem):
    k = problem.k * (1 + 1e-12 * np.random.default_rng(0).standard_normal((60, 60)))
    assert_close(kernel_ridge(k, problem.y, reg=0.1).dual_coef, solve_plainly(problem.k, problem.y, 0.1), 1e-8)


def test_mixed_backends_are_refused(problem):
    class Ndarray:  # what the dispatch sees of a CuPy array
        dtype = np.dtype("f8")

    with pytest.raises((TypeError, MixedBackendError)):
        kernel_ridge(problem.k, Ndarray(), reg=1.0)
