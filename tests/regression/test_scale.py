"""Every solver is equivariant: c K with ridge c reg has the coefficients of K with reg, divided by c."""

import math

import numpy as np
import pytest
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from ntkfast.regression import (
    KernelOperator,
    NormalEquations,
    conjugate_gradient,
    decompose,
    gaussian_process,
    gradient_flow,
    kernel_ridge,
    leave_one_out,
    random_preconditioner,
)

SCALES = [1e-100, 1e-20, 1e20, 1e100]


@pytest.mark.parametrize("scale", SCALES)
def test_scale_of_the_kernel(problem, scale):
    k, reg = scale * problem.k, scale * 0.1
    expected = kernel_ridge(problem.k, problem.y, reg=0.1).dual_coef
    assert_close(scale * kernel_ridge(k, problem.y, reg=reg).dual_coef, expected, 1e-11)
    assert_close(scale * decompose(k).solve(problem.y, reg).dual_coef, expected, 1e-11)
    operator = KernelOperator(k)
    conditioner = random_preconditioner(operator, reg=reg, rank=20, seed=0)
    solution = conjugate_gradient(operator, problem.y, reg=reg, preconditioner=conditioner, rtol=1e-12)
    assert_close(scale * solution.dual_coef, expected, 1e-10)
    scores = leave_one_out(problem.k, problem.y, regs=[0.1]).scores
    np.testing.assert_allclose(leave_one_out(k, problem.y, regs=[reg]).scores, scores, rtol=1e-10)
    flow = gradient_flow(problem.k, problem.y).train([0.1, math.inf])
    assert_close(gradient_flow(k, problem.y).train([0.1 / scale, math.inf]), flow, 1e-10)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scale_of_the_targets(problem, kernel, scale, dtype):
    k, x = problem.k.astype(dtype), problem.x.astype(dtype)
    y, expected = (scale * problem.y).astype(dtype), kernel_ridge(problem.k, problem.y, reg=0.5).dual_coef
    rtol = 1e-10 if dtype == np.float64 else 1e-3
    assert_close(kernel_ridge(k, y, reg=0.5).dual_coef.astype(float) / scale, expected, rtol)
    solution = conjugate_gradient(KernelOperator(kernel, x), y, reg=0.5, rtol=1e-5 if dtype == np.float32 else 1e-12)
    assert_close(solution.dual_coef.astype(float) / scale, expected, rtol)
    assert_close(gradient_flow(k, y).train([math.inf])[0].astype(float) / scale, problem.y, 10 * rtol)


@given(
    n=st.integers(1, 12),
    d=st.integers(1, 3),
    repeats=st.integers(1, 3),
    reg=st.sampled_from([0.0, 1e-12, 1e-3, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**32 - 1),
)
def test_repeated_and_zero_points_never_give_nan(n, d, repeats, reg, dtype, seed):
    """Linear kernels of rank d, every point repeated, the first one zero."""
    rng = np.random.default_rng(seed)
    x = np.tile(rng.standard_normal((n, d)), (repeats, 1)).astype(dtype)
    x[0] = 0
    x[-1, 0] = 1  # not all points are zero
    y = rng.standard_normal((len(x), 2)).astype(dtype)
    k = x @ x.T
    equations = NormalEquations()
    equations.update(np.hstack([x, x]), y)
    process = gaussian_process(k, y, reg=reg)
    results = [
        kernel_ridge(k, y, reg=reg).dual_coef,
        decompose(k).solve(y, reg).dual_coef,
        gradient_flow(k, y).predict(k, [0.0, 1.0, math.inf]),
        process.variance(k, np.ascontiguousarray(k.diagonal())),
        equations.solve(reg).weights,
        equations.decompose().solve(reg).weights,
    ]
    assert all(np.isfinite(result).all() for result in results)
    assert results[3].min() >= 0
    if len(x) > 1:
        assert np.isfinite(leave_one_out(k, y, regs=[reg, 1.0]).scores).all()
