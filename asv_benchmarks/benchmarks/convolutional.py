"""Convolutional NTK: exact, beside the arithmetic of its pixel pairs (convolutional_floor.py); feature maps; gradient.

"Pair" is a pair of images that is computed: n (n + 1) / 2 of them for one set of n images.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np

from ntkfast.convolutional import cntk, cntk_vjp, estimate_cost, flatten_network, gap_network, myrtle
from ntkfast.features import CNTKGradientFeatures, CNTKRandomFeatures, CNTKSketch
from ntkfast.layers import AvgPool2d, Conv2d, Dense, GlobalAvgPool, ReLU, Sequential

from .common import images, ratio, relative_error, seconds
from .convolutional_floor import floor_ns


def pooled():
    """Two convolutions, means over 2x2 pixels, a third convolution, the mean over all."""
    first, second, third = (Conv2d(64, 3, padding="SAME", W_std=2**0.5) for _ in range(3))
    return Sequential(
        first, ReLU(), second, ReLU(), AvgPool2d(2), third, ReLU(), GlobalAvgPool(), Dense(1, W_std=2**0.5)
    )


# network, pixels along a side, images
EXACT = {
    "gap": (gap_network(), 32, 6),
    "gap 16x16": (gap_network(), 16, 24),
    "gap 8x8": (gap_network(), 8, 48),
    "pooled": (pooled(), 32, 6),
    "myrtle-5": (myrtle(5), 32, 6),
    "flatten": (flatten_network(), 32, 128),
}


class Exact:
    params = [list(EXACT), ["float32", "float64"], ["symmetric", "cross"]]
    param_names = ["network", "dtype", "call"]
    timeout = 300

    def setup(self, name, dtype, call):
        self.network, side, n = EXACT[name]
        self.x, self.other = images(n, side, dtype=dtype), images(n, side, dtype=dtype, seed=1)
        self.other = None if call == "symmetric" else self.other
        self.pairs = n * (n + 1) // 2 if self.other is None else n * n
        self.pixel_pairs = estimate_cost(self.network, self.x).pixel_pairs
        self.time_ntk(name, dtype, call)

    def time_ntk(self, name, dtype, call):
        cntk(self.network, self.x, self.other)

    def peakmem_ntk(self, name, dtype, call):
        cntk(self.network, self.x, self.other)

    def track_ms_per_pair(self, name, dtype, call):
        return seconds(lambda: self.time_ntk(name, dtype, call)) / self.pairs * 1e3

    def track_ns_per_pixel_pair_and_layer(self, name, dtype, call):
        return seconds(lambda: self.time_ntk(name, dtype, call)) / (self.pairs * self.pixel_pairs) * 1e9

    def track_ratio_to_floor(self, name, dtype, call):
        """Median over rounds, each with the floor of its own moment."""
        ratios = []
        for _ in range(5):
            least = floor_ns(dtype) * 1e-9 * self.pairs * self.pixel_pairs
            start = time.perf_counter()
            self.time_ntk(name, dtype, call)
            ratios.append((time.perf_counter() - start) / least)
        return statistics.median(ratios)


class Floor:
    params = [["float32", "float64"]]
    param_names = ["dtype"]

    def track_ns_per_pixel_pair_and_layer(self, dtype):
        return statistics.median(floor_ns(dtype) for _ in range(5))


# --- first calls --------------------------------------------------------------------------------

FIRST = """
import time, numpy
start = time.perf_counter()
from ntkfast.convolutional import {name}, gap_network
x = numpy.ones((1, 4, 4, 3), numpy.float32)
{name}(gap_network(), x{rest})
print(time.perf_counter() - start)
"""


class FirstCall:
    """Import and first call in a fresh interpreter, once with nothing on Numba's disk cache, and again."""

    params = [["cntk", "cntk_vjp"], ["compiled", "loaded"]]
    param_names = ["function", "kernel"]
    timeout = 600

    def track_seconds(self, name, kernel):
        with tempfile.TemporaryDirectory() as folder:
            found = [self._seconds(name, folder) for _ in range(1 if kernel == "compiled" else 2)]
        return found[-1]

    def _seconds(self, name, folder):
        code = FIRST.format(name=name, rest="" if name == "cntk" else ", None, numpy.ones((1, 1), numpy.float32)")
        place = os.environ | {"NUMBA_CACHE_DIR": folder}
        found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=place)
        return float(found.stdout)


# --- features -----------------------------------------------------------------------------------

MAPS = {"gradient": CNTKGradientFeatures, "random": CNTKRandomFeatures, "sketch": CNTKSketch}


class Maps:
    """Three convolutions and the mean over all pixels, 32x32."""

    params = [list(MAPS), [1024, 4096]]
    param_names = ["map", "n_features"]
    timeout = 600

    def setup_cache(self):
        """The exact kernel, in float64."""
        return cntk(gap_network(), images(24, dtype="float64"))

    def setup(self, kernel, name, n_features):
        self.x = images(24)
        self.phi = MAPS[name](gap_network(), self.x.shape[1:], n_features, seed=0)
        self.ct = self.phi(self.x)

    def time_apply(self, kernel, name, n_features):
        self.phi(self.x)

    def peakmem_apply(self, kernel, name, n_features):
        self.phi(self.x)

    def time_vjp(self, kernel, name, n_features):
        self.phi.vjp(self.x[:4], self.ct[:4])

    def track_ms_per_image(self, kernel, name, n_features):
        return seconds(lambda: self.phi(self.x), repeat=3) / len(self.x) * 1e3

    def track_first_call_s(self, kernel, name, n_features):
        """Another seed: weights are drawn, tables are there."""
        start = time.perf_counter()
        MAPS[name](gap_network(), self.x.shape[1:], n_features, seed=1)(self.x[:1])
        return time.perf_counter() - start

    def track_gram_error(self, kernel, name, n_features):
        return relative_error(self.ct, kernel)

    def track_gram_error_of_cosines(self, kernel, name, n_features):
        """Of features divided by their norms and of the kernel divided by its diagonal: the error of angles alone."""
        norms = np.linalg.norm(self.ct.astype(np.float64), axis=1)
        exact = np.sqrt(np.diag(kernel))
        return relative_error(self.ct / norms[:, None], kernel / np.outer(exact, exact))


# --- gradient -----------------------------------------------------------------------------------


class Gradient:
    """By the images, beside the kernel."""

    params = [["gap 16x16", "gap", "myrtle-5", "flatten"], ["float32", "float64"]]
    param_names = ["network", "dtype"]
    timeout = 300

    def setup(self, name, dtype):
        self.network, side, n = EXACT[name]
        self.x = images(n, side, dtype=dtype)
        self.ct = np.ones((n, n), dtype)
        self.time_vjp(name, dtype)

    def time_vjp(self, name, dtype):
        cntk_vjp(self.network, self.x, None, self.ct)

    def peakmem_vjp(self, name, dtype):
        cntk_vjp(self.network, self.x, None, self.ct)

    def track_ratio_to_kernel(self, name, dtype):
        return ratio(lambda: self.time_vjp(name, dtype), lambda: cntk(self.network, self.x), repeat=3)
