"""Solvers, against their floors: n^3 / 3 operations, and two products per iteration."""

import functools

import numpy as np

from ntkfast.analytic import ntk
from ntkfast.regression import (
    KernelOperator,
    NormalEquations,
    conjugate_gradient,
    decompose,
    kernel_ridge,
    leave_one_out,
    random_preconditioner,
)

from .common import ratio, rows


class Dual:
    params = [[1000, 3000]]
    param_names = ["n"]

    def setup(self, n):
        self.k = ntk(rows(n, 64, "float64"), depth=3)
        self.y = np.random.default_rng(1).standard_normal((n, 10))

    def time_kernel_ridge(self, n):
        kernel_ridge(self.k, self.y, reg=1e-2)

    def peakmem_kernel_ridge(self, n):
        kernel_ridge(self.k, self.y, reg=1e-2)

    def track_ratio_to_product(self, n):
        """A factorization has a sixth of a product's operations."""
        return ratio(lambda: kernel_ridge(self.k, self.y, reg=1e-2), lambda: self.k @ self.k, repeat=3)


class Spectrum:
    def setup(self):
        self.k = ntk(rows(1000, 64, "float64"), depth=3)
        self.y = np.random.default_rng(1).standard_normal((1000, 10))

    def time_leave_one_out_20_ridges(self):
        leave_one_out(decompose(self.k), self.y, regs=np.logspace(-6, 1, 20))


class ConjugateGradient:
    """Half of the kernel cached; random-pivoted-Cholesky preconditioner of rank 200."""

    def setup(self):
        x = rows(4000, 64)
        self.operator = KernelOperator(functools.partial(ntk, depth=3), x, max_memory=2**28)
        self.y = np.random.default_rng(1).standard_normal((4000, 10)).astype("float32")
        self.preconditioner = random_preconditioner(self.operator, reg=1e-2, rank=200, seed=0)
        self._solve()

    def _solve(self):
        return conjugate_gradient(self.operator, self.y, reg=1e-2, preconditioner=self.preconditioner, rtol=1e-4)

    def time_solve(self):
        self._solve()

    def track_iterations(self):
        return self._solve().iterations


class Primal:
    def setup(self):
        self.phi = np.random.default_rng(0).standard_normal((8192, 2048), dtype="float32")
        self.y = self.phi[:, :10].copy()

    def _update(self):
        NormalEquations().update(self.phi, self.y)

    def time_update(self):
        self._update()

    def track_ratio_to_product(self):
        """NumPy sends this product to syrk too: the operations are the same."""
        return ratio(self._update, lambda: self.phi.T @ self.phi, repeat=3)
