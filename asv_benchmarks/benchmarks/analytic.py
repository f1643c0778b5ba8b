"""Exact infinite-width kernels: time per entry, and the ratio to the plain matrix product of the same run."""

import ntkfast
from ntkfast.analytic import ntk, ntk_hyperparameter_gradient, ntk_vjp

from .common import ratio, rows

N = 2000


class ExactNTK:
    """x2=None; depth must not matter without biases."""

    params = [[16, 784], [1, 3, 10], ["float32", "float64"]]
    param_names = ["d", "depth", "dtype"]

    def setup(self, d, depth, dtype):
        self.x = rows(N, d, dtype)
        ntk(self.x, depth=depth)

    def time_ntk(self, d, depth, dtype):
        ntk(self.x, depth=depth)

    def track_ratio_to_product(self, d, depth, dtype):
        return ratio(lambda: ntk(self.x, depth=depth), lambda: self.x @ self.x.T)

    def peakmem_ntk(self, d, depth, dtype):
        ntk(self.x, depth=depth)


class Elementwise:
    """Biases or activations that are not homogeneous: the recursion runs on every entry."""

    params = [["relu", "erf", "gelu", "sin"], ["float32", "float64"]]
    param_names = ["activation", "dtype"]

    def setup(self, activation, dtype):
        self.x = rows(N, 64, dtype)
        self.time_ntk_depth_3(activation, dtype)

    def time_ntk_depth_3(self, activation, dtype):
        ntk(self.x, depth=3, activation=activation, b_std=0.1)


class Gradients:
    params = [[0.0, 0.1]]
    param_names = ["b_std"]

    def setup(self, b_std):
        self.x = rows(500, 64, "float64")
        self.ct = ntk(self.x, depth=3, b_std=b_std)
        self.time_vjp(b_std)
        self.time_hyperparameters(b_std)

    def time_vjp(self, b_std):
        ntk_vjp(self.x, None, self.ct, depth=3, b_std=b_std)

    def time_hyperparameters(self, b_std):
        ntk_hyperparameter_gradient(self.x, depth=3, b_std=b_std)


class Dispatch:
    """What an embedding toolkit pays per call."""

    number = 1000

    def setup(self):
        self.x = rows(1, 4)
        ntk(self.x, depth=3)

    def time_get_backend(self):
        ntkfast.get_backend(self.x, self.x)

    def time_ntk_of_one_row(self):
        ntk(self.x, depth=3)
