"""Empirical NTK of finite networks: seconds, peak memory, and the ratio to the floor of benchmarks/floors.py."""

import functools
import statistics
import time

import numpy as np

from ntkfast import layers
from ntkfast.empirical import empirical_ntk, empirical_ntk_vjp, layer_ntks, ntk_operator, trainability

from .common import ratio
from .floors import CHANNELS, IMAGE, MLP_INPUT, OUTPUTS, cnn_operations, mlp_operations, product_rate


def mlp(width):
    """784-width-width-width-10 with biases."""
    hidden = [layer for _ in range(3) for layer in (layers.Dense(width, b_std=0.1), layers.ReLU())]
    return layers.Sequential(*hidden, layers.Dense(OUTPUTS, b_std=0.1))


def cnn():
    """Three 3x3 convolutions of 32, 64 and 128 channels on 32x32x3, global average, dense head."""
    convolutions = [layers.Conv2d(channels, 3, padding="SAME", b_std=0.1) for channels in CHANNELS[1:]]
    body = [layer for convolution in convolutions for layer in (convolution, layers.ReLU())]
    return layers.Sequential(*body, layers.GlobalAvgPool(), layers.Dense(OUTPUTS, b_std=0.1))


def problem(net, shape, n):
    """Network, parameters and n normal inputs, float32."""
    x = np.random.default_rng(1).standard_normal((n, *shape)).astype(np.float32)
    return net, net.init(shape, seed=0), x


def ratio_to_floor(function, operations, repeat=5):
    """Median over rounds of a call's time over that of the least operations at the rate of a product beside it."""
    function()
    ratios = []
    for _ in range(repeat):
        least = operations / product_rate()
        start = time.perf_counter()
        function()
        ratios.append((time.perf_counter() - start) / least)
    return statistics.median(ratios)


class MLP:
    params = [[(256, 64), (1024, 64), (1024, 256)], ["full", "trace"]]
    param_names = ["width and n", "output"]

    def setup(self, size, output):
        width, n = size
        self.problem = problem(mlp(width), (MLP_INPUT,), n)
        empirical_ntk(*self.problem, output=output)

    def time_ntk(self, size, output):
        empirical_ntk(*self.problem, output=output)

    def peakmem_ntk(self, size, output):
        empirical_ntk(*self.problem, output=output)

    def track_ratio_to_floor(self, size, output):
        call = functools.partial(empirical_ntk, *self.problem, output=output)
        return ratio_to_floor(call, mlp_operations(*size, output))


class CNN:
    params = [[8, 16, 32], ["full", "trace"]]
    param_names = ["n", "output"]
    timeout = 180

    def setup(self, n, output):
        self.problem = problem(cnn(), (*IMAGE, CHANNELS[0]), n)
        empirical_ntk(*self.problem, output=output)

    def time_ntk(self, n, output):
        empirical_ntk(*self.problem, output=output)

    def peakmem_ntk(self, n, output):
        empirical_ntk(*self.problem, output=output)

    def track_ratio_to_floor(self, n, output):
        call = functools.partial(empirical_ntk, *self.problem, output=output)
        return ratio_to_floor(call, cnn_operations(n, output), repeat=3)


class Methods:
    """The same kernel by each algorithm: what `auto` chooses from."""

    params = [["structured_derivatives", "jacobian_contraction", "ntk_vector_products"]]
    param_names = ["method"]

    def setup(self, method):
        self.problem = problem(mlp(64), (MLP_INPUT,), 16)
        self.time_ntk(method)

    def time_ntk(self, method):
        empirical_ntk(*self.problem, output="full", method=method)


class Around:
    """What shares the factors with the kernel."""

    def setup(self):
        self.problem = problem(mlp(256), (MLP_INPUT,), 64)
        self.operator = ntk_operator(*self.problem)
        self.v = np.ones(64 * OUTPUTS, np.float32)
        self.ct = np.ones((64, 64), np.float32)
        self.time_matvec(), self.time_layer_ntks()

    def time_matvec(self):
        self.operator @ self.v

    def time_layer_ntks(self):
        layer_ntks(*self.problem)

    def track_gradient_over_kernel(self):
        gradient = functools.partial(empirical_ntk_vjp, *self.problem, None, self.ct)
        return ratio(gradient, functools.partial(empirical_ntk, *self.problem))


class Trainability:
    """What architecture search asks of a network: 32 images of 32x32x3."""

    def setup(self):
        self.problem = problem(cnn(), (*IMAGE, CHANNELS[0]), 32)
        self.time_report()

    def time_report(self):
        trainability(*self.problem)
