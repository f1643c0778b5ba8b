"""No hidden n x n copies: the peak of what NumPy and SciPy allocate, in kernel matrices."""

import tracemalloc

import numpy as np
import pytest

from ntkfast.regression import (
    KernelOperator,
    NormalEquations,
    conjugate_gradient,
    decompose,
    gaussian_process,
    gradient_flow,
    k_fold,
    kernel_ridge,
    leave_one_out,
)

N = 800
MATRIX = N * N * 8


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch):
    """Blocks in proportion to the small matrix."""
    monkeypatch.setattr("ntkfast.regression._inputs._BLOCK", 64)
    monkeypatch.setattr("ntkfast.regression._linalg._MIRROR_ROWS", 64)
    monkeypatch.setattr("ntkfast.regression.selection._ROWS", 64)


@pytest.fixture(scope="module")
def data():
    x = np.random.default_rng(0).standard_normal((N, 3))
    squared = ((x[:, None] - x) ** 2).sum(axis=2)
    return np.exp(-np.sqrt(squared)), np.sin(x[:, :2])


@pytest.fixture(scope="module")
def spectrum(data):
    return decompose(data[0])


def peak(function):
    """Largest memory in use during the call beyond that before, in kernel matrices."""
    function()  # imports and caches
    tracemalloc.start()
    try:
        result = function()
        return tracemalloc.get_traced_memory()[1] / MATRIX, result
    finally:
        tracemalloc.stop()


def test_cholesky_takes_one_copy_or_none(data):
    k, y = data
    assert 0.9 < peak(lambda: kernel_ridge(k, y, reg=0.1))[0] < 1.3
    given = [k.copy(), k.copy()]
    assert peak(lambda: kernel_ridge(given.pop(), y, reg=0.1, overwrite=True))[0] < 0.3
    given = [k.copy(), k.copy()]
    assert peak(lambda: gaussian_process(given.pop(), y, reg=0.1, overwrite=True))[0] < 0.3


def test_a_second_try_takes_no_copy_either(data):
    rows = np.r_[: N - 5, :5]
    k, y = data[0][np.ix_(rows, rows)], data[1][rows]
    given = [k.copy(), k.copy()]
    used, fit = peak(lambda: kernel_ridge(given.pop(), y, reg=0.0, overwrite=True))
    assert fit.jitter > 0
    assert used < 0.3


def test_decomposition_takes_its_result_and_a_workspace(data):
    assert 0.9 < peak(lambda: decompose(data[0]))[0] < 3.3


def test_choices_and_flows_take_no_matrix(data, spectrum):
    _, y = data
    assert peak(lambda: leave_one_out(spectrum, y, regs=[0.1, 1.0]))[0] < 0.4
    assert peak(lambda: k_fold(spectrum, y, regs=[0.1, 1.0], folds=10))[0] < 0.4
    assert peak(lambda: gradient_flow(spectrum, y).dual_coef([0.1, 1.0]))[0] < 0.1


def test_conjugate_gradients_read_the_matrix_where_it_lies(data):
    assert peak(lambda: conjugate_gradient(KernelOperator(data[0]), data[1], reg=1.0))[0] < 0.4


def test_normal_equations_take_one_square(data):
    phi, y = data[0][:200], data[1][:200]
    accumulators = [NormalEquations(), NormalEquations()]
    used, _ = peak(lambda: accumulators.pop().update(phi, y))
    assert used < 1.1
    ready = [NormalEquations(), NormalEquations()]
    for equations in ready:
        equations.update(phi, y)
    assert peak(lambda: ready.pop().solve(1.0, overwrite=True))[0] < 0.3
