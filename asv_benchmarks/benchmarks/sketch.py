"""Sketches: speed beside a copy of the input, and the error of the inner products they estimate."""

import numpy as np
import scipy.sparse

from ntkfast.sketch import (
    SRHT,
    CountSketch,
    GaussianSketch,
    PolySketch,
    RademacherSketch,
    SparseJL,
    TensorSketch,
    TensorSRHT,
)

from .common import ratio, relative_error, rows

N, D, M = 256, 65_536, 1024

LINEAR = {
    "CountSketch": CountSketch(D, M, seed=0),
    "SparseJL": SparseJL(D, M, nnz=4, seed=0),
    "SRHT": SRHT(D, M, seed=0),
    "Gaussian": GaussianSketch(D, M, seed=0),
    "Rademacher": RademacherSketch(D, M, seed=0),
}


class Linear:
    params = [list(LINEAR)]
    param_names = ["sketch"]

    def setup(self, sketch):
        self.x = rows(N, D)
        LINEAR[sketch].apply(self.x)

    def time_apply(self, sketch):
        LINEAR[sketch].apply(self.x)

    def peakmem_apply(self, sketch):
        LINEAR[sketch].apply(self.x)

    def track_ratio_to_copy(self, sketch):
        return ratio(lambda: LINEAR[sketch].apply(self.x), self.x.copy, repeat=3)

    def track_gram_error(self, sketch):
        return relative_error(LINEAR[sketch].apply(self.x), self.x.astype(float) @ self.x.T)


class Sparse:
    """Input-sparsity time: seconds must follow the density."""

    params = [[0.001, 0.01, 0.1]]
    param_names = ["density"]

    def setup(self, density):
        rng = np.random.default_rng(0)
        self.x = scipy.sparse.random(N, D, density, "csr", np.float32, rng)
        LINEAR["CountSketch"].apply(self.x)

    def time_countsketch(self, density):
        LINEAR["CountSketch"].apply(self.x)


class Polynomial:
    """Sketches of tensor products of rows of width 784."""

    def setup(self):
        self.x = rows(1000, 784)
        self.x /= np.linalg.norm(self.x, axis=1, keepdims=True)
        self.tensor = TensorSketch((784, 784), 4096, seed=0)
        self.srht = TensorSRHT((784, 784), 4096, seed=0)
        self.poly = PolySketch(784, 8, 1024, seed=0)
        self.time_tensor_sketch(), self.time_tensor_srht(), self.time_poly_degree_8()

    def time_tensor_sketch(self):
        self.tensor.apply(self.x, self.x)

    def time_tensor_srht(self):
        self.srht.apply(self.x, self.x)

    def time_poly_degree_8(self):
        self.poly.apply(self.x)

    def track_error_tensor_sketch(self):
        return relative_error(self.tensor.apply(self.x, self.x), (self.x.astype(float) @ self.x.T) ** 2)

    def track_error_poly_degree_8(self):
        return relative_error(self.poly.apply(self.x)[-1], (self.x.astype(float) @ self.x.T) ** 8)
