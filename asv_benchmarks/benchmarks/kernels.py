"""Compute kernels that other parts wait for, in bytes and elements of their own."""

import numpy as np

from ntkfast.backends import get_backend
from ntkfast.kernels import activations, arccos, hadamard, philox, tensorsketch

from .common import ratio

N = 2**22


class Random:
    params = [["bits", "uniform", "normal", "signs"]]
    param_names = ["kernel"]

    def setup(self, kernel):
        self.out = np.ones(N, "uint32" if kernel == "bits" else "float32")
        self.backend = get_backend(self.out)
        self.time_fill(kernel)

    def time_fill(self, kernel):
        self.backend.launch(getattr(philox, kernel), 1, 0, self.out)


class Hadamard:
    params = [[512, 4096, 65_536]]
    param_names = ["length"]

    def setup(self, length):
        self.x = np.random.default_rng(0).standard_normal((N // length, length), dtype="float32")
        self.out = np.ones_like(self.x)
        self.backend = get_backend(self.x)
        self.time_transform(length)

    def time_transform(self, length):
        self.backend.launch(hadamard.transform, self.x, self.out)

    def track_ratio_to_copy(self, length):
        return ratio(lambda: self.time_transform(length), lambda: np.copyto(self.out, self.x))


class ArcCosine:
    """kappa_0 and kappa_1 of cosines, beside NumPy's arccos alone."""

    params = [["float32", "float64"]]
    param_names = ["dtype"]

    def setup(self, dtype):
        self.c = np.linspace(-1, 1, N, dtype=dtype)
        self.kappa_0, self.kappa_1 = np.ones_like(self.c), np.ones_like(self.c)
        self.backend = get_backend(self.c)
        self.time_kappa(dtype)

    def time_kappa(self, dtype):
        self.backend.launch(arccos.kappa, self.c, self.kappa_0, self.kappa_1)

    def track_ratio_to_numpy_arccos(self, dtype):
        return ratio(lambda: self.time_kappa(dtype), lambda: np.arccos(self.c, out=self.kappa_0))


class Activations:
    """Smooth activations and their derivatives, beside NumPy's exponential alone."""

    params = [["erf", "gelu", "gelu_tanh", "logistic", "silu", "softplus"], ["value", "slope"], ["float32", "float64"]]
    param_names = ["function", "kernel", "dtype"]

    def setup(self, function, kernel, dtype):
        self.x = np.random.default_rng(0).standard_normal(N, dtype=dtype)
        self.out = np.ones_like(self.x)
        self.backend = get_backend(self.x)
        self.time_launch(function, kernel, dtype)

    def time_launch(self, function, kernel, dtype):
        number = activations.FUNCTIONS.index(function)
        self.backend.launch(getattr(activations, kernel), number, self.x, self.out)

    def track_ratio_to_numpy_exp(self, function, kernel, dtype):
        return ratio(lambda: self.time_launch(function, kernel, dtype), lambda: np.exp(self.x, out=self.out))


class Spectra:
    def setup(self):
        rng = np.random.default_rng(0)
        self.x, self.y = (rng.standard_normal((256, 8192)).view("complex128").astype("complex64") for _ in range(2))
        self.backend = get_backend(self.x)
        self.time_multiply()

    def time_multiply(self):
        self.backend.launch(tensorsketch.multiply, self.x, self.y, np.empty_like(self.x))
