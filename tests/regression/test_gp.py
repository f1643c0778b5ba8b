import numpy as np
import pytest
from helpers import assert_close
from scipy.stats import multivariate_normal

from ntkfast.regression import gaussian_process, kernel_ridge


@pytest.fixture(params=[1e-6, 0.3])
def reg(request):
    return request.param


def test_posterior_is_the_conditional_gaussian(problem, reg):
    process = gaussian_process(problem.k, problem.y, reg=reg)
    gain = np.linalg.solve(problem.k + reg * np.eye(60), problem.k_test.T).T
    covariance = problem.k_test_test - gain @ problem.k_test.T
    diagonal = np.ascontiguousarray(problem.k_test_test.diagonal())
    assert_close(process.mean(problem.k_test), gain @ problem.y, 1e-9)
    assert_close(process.variance(problem.k_test, diagonal), covariance.diagonal(), 1e-9)
    found = process.covariance(problem.k_test, problem.k_test_test)
    assert_close(found, covariance, 1e-9)
    np.testing.assert_array_equal(found, found.T)


def test_log_marginal_likelihood_is_the_density_of_the_data(problem, reg):
    process = gaussian_process(problem.k, problem.y, reg=reg)
    density = multivariate_normal(np.zeros(60), problem.k + reg * np.eye(60))
    expected = [density.logpdf(column) for column in problem.y.T]
    np.testing.assert_allclose(process.log_marginal_likelihood, expected, rtol=1e-8)
    one = gaussian_process(problem.k, problem.y[:, 1], reg=reg)
    assert one.log_marginal_likelihood == pytest.approx(process.log_marginal_likelihood[1:2])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_variance_at_the_data_is_not_negative(problem, dtype):
    k = problem.k.astype(dtype)
    process = gaussian_process(k, problem.y.astype(dtype), reg=1e-12)
    variance = process.variance(k, np.ascontiguousarray(k.diagonal()))
    assert variance.min() >= 0
    assert variance.max() < 1e-2
    assert process.covariance(k, k).diagonal().min() >= 0


def test_far_away_the_prior_returns_and_blocks_do_not_matter(problem):
    process = gaussian_process(problem.k, problem.y, reg=0.1)
    many = np.tile(problem.k_test, (100, 1))  # more rows than one solve takes
    many[0] = 0.0
    variance = process.variance(many, np.full(1300, 7.0))
    assert variance[0] == 7.0
    assert_close(variance[1:], np.tile(process.variance(problem.k_test, np.full(13, 7.0)), 100)[1:], 1e-13)


def test_every_backend(problem, backend):
    k, y, k_test = (backend.asarray(a) for a in (problem.k, problem.y, problem.k_test))
    process = gaussian_process(k, y, reg=0.2)
    fit = kernel_ridge(problem.k, problem.y, reg=0.2)
    assert_close(backend.to_numpy(process.mean(k_test)), fit.predict(problem.k_test), 1e-12)
    diagonal = backend.asarray(np.ascontiguousarray(problem.k_test_test.diagonal()))
    covariance = backend.to_numpy(process.covariance(k_test, backend.asarray(problem.k_test_test)))
    assert_close(backend.to_numpy(process.variance(k_test, diagonal)), covariance.diagonal(), 1e-12)


def test_bad_input(problem):
    process = gaussian_process(problem.k, problem.y, reg=0.2)
    with pytest.raises(ValueError, match=r"k_test of shape \(13,\), got \(13, 13\)"):
        process.variance(problem.k_test, problem.k_test_test)
    with pytest.raises(ValueError, match=r"k_test of shape \(13, 13\)"):
        process.covariance(problem.k_test, np.ones(13))
    with pytest.raises(ValueError, match="k_test_train of shape"):
        process.variance(problem.k_test.T, np.ones(60))
    with pytest.raises(ValueError, match="reg"):
        gaussian_process(problem.k, problem.y, reg=-0.1)
    with pytest.raises(ValueError, match="y of shape"):
        gaussian_process(problem.k, problem.y[:4], reg=0.1)
