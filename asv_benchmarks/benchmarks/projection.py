"""Projection of gradients: beside a pass over the array, beside the backward pass, and the error of its Gram matrix."""

import functools
import statistics
import time
import tracemalloc

import numpy as np

from ntkfast.autodiff import get_autodiff
from ntkfast.empirical import empirical_ntk
from ntkfast.projection import (
    KroneckerProjection,
    MaskedProjection,
    TensorProjection,
    cross_entropy,
    project,
    project_jacobian,
    projected_ntk,
)
from ntkfast.sketch import BlockSRHT, Composition, CoordinateMask, GaussianSketch, RademacherSketch, SparseJL

from . import networks
from .common import ratio
from .empirical import cnn, problem, ratio_to_floor
from .floors import CHANNELS, IMAGE, MLP_INPUT, OUTPUTS

# --- gradients that are there already -----------------------------------------------------------

N, P, M = 128, 1_000_000, 512
KEPT = 2**16  # coordinates that the mask keeps

MATERIALIZED = {
    **{f"SparseJL nnz={nnz}": SparseJL(P, M, nnz=nnz, seed=0) for nnz in (1, 2, 4, 8)},
    "CoordinateMask": CoordinateMask(P, M, seed=0),
    "CoordinateMask + SparseJL": Composition(CoordinateMask(P, KEPT, seed=0), SparseJL(KEPT, M, nnz=4, seed=1)),
    "BlockSRHT": BlockSRHT(P, M, seed=0),
}

FEWER = 50_000  # columns for matrices of which every entry is drawn

DENSE = {"Gaussian": GaussianSketch(FEWER, M, seed=0), "Rademacher": RademacherSketch(FEWER, M, seed=0)}


def gradients(p):
    """N normal rows, float32."""
    return np.random.default_rng(0).standard_normal((N, p), dtype=np.float32)


class Materialized:
    """128 x 1e6 to 512."""

    params = [list(MATERIALIZED)]
    param_names = ["sketch"]
    timeout = 180

    def setup(self, sketch):
        self.x, self.direction = gradients(P), np.ones(P, np.float32)
        self.memory = np.zeros_like(self.x)  # a new copy would be mostly page faults
        self.time_project(sketch)

    def time_project(self, sketch):
        project(self.x, MATERIALIZED[sketch])

    def peakmem_project(self, sketch):
        project(self.x, MATERIALIZED[sketch])

    def track_ratio_to_copy(self, sketch):
        return ratio(lambda: self.time_project(sketch), lambda: np.copyto(self.memory, self.x), repeat=3)

    def track_bandwidth_fraction(self, sketch):
        """Share of the rate at which a matrix-vector product, which only reads, goes through the array."""
        return 1 / ratio(lambda: self.time_project(sketch), lambda: self.x @ self.direction)


class Dense:
    """128 x 50,000 to 512 by matrices drawn on the fly, beside the product with one that is there."""

    params = [list(DENSE)]
    param_names = ["sketch"]

    def setup(self, sketch):
        self.x, self.matrix = gradients(FEWER), np.ones((FEWER, M), np.float32)
        self.time_project(sketch)

    def time_project(self, sketch):
        project(self.x, DENSE[sketch])

    def track_ratio_to_product(self, sketch):
        return ratio(lambda: self.time_project(sketch), lambda: self.x @ self.matrix, repeat=3)


# --- gradients that never are -------------------------------------------------------------------

HIDDEN, BATCH, WIDTH = 1024, 256, 4096
SIZES = (MLP_INPUT * HIDDEN, HIDDEN**2, HIDDEN**2, HIDDEN * OUTPUTS)  # weights
PARAMETERS = sum(SIZES) + 3 * HIDDEN + OUTPUTS
TILE = 32  # samples whose gradients are formed at once, 370 MB

FACTORED = {
    "Tensor": TensorProjection(WIDTH, seed=0),
    "Kronecker": KroneckerProjection(WIDTH, seed=0),
    "Masked": MaskedProjection(WIDTH, seed=0),
}


def backward(net, params, x, loss):
    """The backward pass alone, one cotangent per sample."""
    for _ in get_autodiff("layers").factors(net, params, x, cotangents=loss):
        pass


def materialized(net, params, x, loss, sketch, tile=TILE):
    """Form the gradients of some samples, and sketch them as columns."""
    out = []
    for start in range(0, len(x), tile):
        rows = slice(start, start + tile)
        layers = list(get_autodiff("layers").factors(net, params, x[rows], cotangents=loss.rows(rows)))
        formed = {f"{path}.{name}": part.jacobian() for path, found in layers[::-1] for name, part in found.items()}
        out.append(project(formed, sketch, sample_axes=2)[:, 0])
    return np.concatenate(out)


def peak_megabytes(function):
    """Most memory of arrays during a call, beyond what was there before it."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


class LossGradients:
    """MLP 784-1024-1024-1024-10, 2.9 million parameters: gradients of the cross entropy of 256 samples to 4096."""

    params = [list(FACTORED)]
    param_names = ["sketch"]
    timeout = 180

    def setup(self, sketch):
        self.problem = problem(networks.mlp((HIDDEN, HIDDEN, HIDDEN, OUTPUTS)), (MLP_INPUT,), BATCH)
        self.loss = cross_entropy(np.arange(BATCH) % OUTPUTS)
        self.call = functools.partial(project_jacobian, *self.problem, FACTORED[sketch], cotangents=self.loss)
        self.call(), backward(*self.problem, self.loss)

    def time_project_jacobian(self, sketch):
        self.call()

    def peakmem_project_jacobian(self, sketch):
        self.call()

    def track_peak_megabytes(self, sketch):
        return peak_megabytes(self.call)

    track_peak_megabytes.unit = "MB"

    def track_microseconds_beyond_backward(self, sketch):
        """Per sample; the backward pass is timed in turn."""
        beyond = []
        for _ in range(7):
            start = time.perf_counter()
            backward(*self.problem, self.loss)
            middle = time.perf_counter()
            self.call()
            beyond.append(time.perf_counter() - middle - (middle - start))
        return statistics.median(beyond) / BATCH * 1e6

    track_microseconds_beyond_backward.unit = "us"

    def track_ratio_to_floor(self, sketch):
        """To the operations of the forward and the backward pass at the rate of a matrix product."""
        return ratio_to_floor(self.call, 2 * BATCH * (2 * sum(SIZES) - SIZES[0]))

    def track_ratio_to_materialized(self, sketch):
        """To forming the gradients, a tile of samples at a time, and SparseJL with one nonzero per column."""
        columns = SparseJL(PARAMETERS, WIDTH, nnz=1, seed=0)
        return ratio(self.call, lambda: materialized(*self.problem, self.loss, columns), repeat=2)


class ConvolutionalJacobians:
    """Three 3x3 convolutions on 32x32x3: the ten outputs' Jacobians of 16 samples to 1024 each."""

    params = [list(FACTORED)]
    param_names = ["sketch"]
    timeout = 180

    def setup(self, sketch):
        self.problem = problem(cnn(), (*IMAGE, CHANNELS[0]), 16)
        self.call = functools.partial(project_jacobian, *self.problem, type(FACTORED[sketch])(1024, seed=0))
        self.call()

    def time_project_jacobian(self, sketch):
        self.call()

    def peakmem_project_jacobian(self, sketch):
        self.call()

    def track_ratio_to_backward(self, sketch):
        return ratio(self.call, lambda: backward(*self.problem, None), repeat=3)


# --- errors, side by side -----------------------------------------------------------------------

EQUAL = 1024  # width of all

NETWORKS = {
    "mlp": (networks.mlp((256, 256, 256, OUTPUTS)), (MLP_INPUT,)),
    "cnn": (cnn(), (*IMAGE, CHANNELS[0])),
}


def equal_width(name, seed, p):
    """A sketch of p parameters to EQUAL numbers."""
    if name.startswith("SparseJL"):
        return SparseJL(p, EQUAL, nnz=int(name[-1]), seed=seed)
    kinds = {"Tensor": TensorProjection, "Kronecker": KroneckerProjection, "Masked": MaskedProjection}
    return kinds[name](EQUAL, seed=seed)


class GramError:
    """Relative error of the projected NTK of 16 samples, root mean square over four seeds."""

    params = [["Tensor", "Kronecker", "Masked", "SparseJL nnz=1", "SparseJL nnz=4"], list(NETWORKS)]
    param_names = ["sketch", "network"]
    timeout = 180

    def setup(self, sketch, network):
        self.problem = problem(*NETWORKS[network], 16)

    def track_gram_error(self, sketch, network):
        kernel = empirical_ntk(*self.problem)
        p = sum(array.size for layer in self.problem[1] for array in layer.values())
        errors = []
        for seed in range(4):
            found = projected_ntk(project_jacobian(*self.problem, equal_width(sketch, seed, p)))
            errors.append(np.linalg.norm(found - kernel) / np.linalg.norm(kernel))
        return float(np.sqrt(np.mean(np.square(errors))))
