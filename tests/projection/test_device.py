"""Every public function of projections, and every sketch that takes columns in parts, on every backend against NumPy.

On the stand-in for CuPy results must be device arrays, and nothing but reports may come to the host.
"""

import dataclasses
import functools

import numpy as np
import pytest
from empirical.networks import NAMES, named, smallest_budget
from helpers import assert_close, tol

from ntkfast import projection
from ntkfast._tree import tree_map
from ntkfast.empirical import jacobian
from ntkfast.projection import (
    KroneckerProjection,
    MaskedProjection,
    TensorProjection,
    allocate_dims,
    attribution,
    average_attributions,
    linear_datamodeling_score,
    project,
    project_jacobian,
    projected_ntk,
    projected_regression,
    projection_error,
)
from ntkfast.sketch import (
    SRHT,
    BlockSRHT,
    Composition,
    CoordinateMask,
    CountSketch,
    GaussianSketch,
    RademacherSketch,
    SparseJL,
)

N, P, M = 9, 150, 12
CLOSE = tol(np.float64, 1000, 10)
NETWORKS = ("mlp", "cnn_groups", "norms", "embedding", "resnet")
PROJECTIONS = {
    "fft": TensorProjection(40, algorithm="fft", seed=1),
    "direct": TensorProjection(41, algorithm="direct", seed=1),
    "auto": TensorProjection(40, combine="concatenate", seed=1),
    "kronecker": KroneckerProjection(40, seed=1),
    "kronecker sum": KroneckerProjection(12, combine="sum", seed=1),
    "masked": MaskedProjection(12, seed=1),
    "masked parts": MaskedProjection(40, combine="concatenate", blow_up=2, nnz=2, seed=1),
}
SKETCHES = {
    "countsketch": lambda d: CountSketch(d, M, seed=1),
    "sparsejl": lambda d: SparseJL(d, M, nnz=4, seed=1),
    "blocksrht": lambda d: BlockSRHT(d, M, block=16, seed=1),
    "mask": lambda d: CoordinateMask(d, M, seed=1),
    "grass": lambda d: Composition(CoordinateMask(d, 32, seed=1), SparseJL(32, M, nnz=1, seed=1)),
    "mixed": lambda d: Composition(BlockSRHT(d, 20, block=64, seed=1), GaussianSketch(20, M, seed=1)),
    "gaussian": lambda d: GaussianSketch(d, M, seed=1),
    "rademacher": lambda d: RademacherSketch(d, M, seed=1),
}
ALL_SKETCHES = {**SKETCHES, "srht": lambda d: SRHT(d, M, seed=1)}
every_sketch = pytest.mark.parametrize("name", ALL_SKETCHES)
on_devices = pytest.mark.parametrize(
    "backend", ["fake-cupy", pytest.param("cupy-cuda", marks=pytest.mark.gpu)], indirect=True
)


def normal(*shape, seed=5):
    return np.random.default_rng(seed).standard_normal(shape)


def leaves(result):
    """Arrays and numbers of dictionaries, tuples, lists and records, one after another."""
    if isinstance(result, dict):
        return leaves(list(result.values()))
    if dataclasses.is_dataclass(result):
        return leaves([getattr(result, field.name) for field in dataclasses.fields(result)])
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in leaves(part)]
    return [] if isinstance(result, str) else [result]


def agree(backend, function, close=CLOSE):
    """Whether ``function(put)`` gives with a backend's arrays what it gives with NumPy's, and arrays of the backend."""
    kind, expected, found = (
        type(backend.asarray(np.zeros(1))),
        leaves(function(np.array)),
        leaves(function(backend.asarray)),
    )
    for result, wanted in zip(found, expected, strict=True):
        is_array = isinstance(wanted, np.ndarray)
        assert isinstance(result, kind) == is_array, f"got {type(result)}, NumPy gives {type(wanted)}"
        got = backend.to_numpy(result) if is_array else np.float64(result)
        assert (got.shape, got.dtype) == (np.shape(wanted), getattr(wanted, "dtype", "float64"))
        assert_close(np.atleast_1d(got), np.atleast_1d(wanted), close)


def at(put, name):
    """A network, its parameters and samples there."""
    case = named(name)
    return case.net, tree_map(lambda _, leaf: put(leaf), case.params), put(case.x1)


def n_parameters(name):
    case = named(name)
    return sum(array[0, 0].size for array in jacobian(case.net, case.params, case.x1).values())


# --- sketches -----------------------------------------------------------------------------------


@on_devices
@every_sketch
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_linear_sketches(name, dtype, backend):
    sketch = ALL_SKETCHES[name](P)

    def call(put):
        x = put(normal(N, P).astype(dtype))
        parts = (sketch.apply_part(x[:, :70], 0), sketch.apply_part(x[:, 70:], 70)) if name != "srht" else ()
        return sketch.apply(x), sketch.adjoint(sketch.apply(x)), *parts

    agree(backend, call, tol(dtype, 100, 10))


@on_devices
@every_sketch
def test_gradients_at_hand(name, backend):
    """Whole, by path and in turn; also where tables are made tile by tile."""
    sketch = ALL_SKETCHES[name](P)

    def call(put):
        x = put(normal(N, 2, P))
        parts = {"a": x[..., :63].reshape(N, 2, 7, 9), "b": x[..., 63:]}
        options = {"sample_axes": 2}
        return (
            project(x, sketch, **options),
            project(parts, sketch, **options),
            project(iter(parts.values()), sketch, **options),
        )

    agree(backend, call)


@on_devices
@pytest.mark.parametrize("name", PROJECTIONS)
def test_jacobians_at_hand(name, backend):
    def call(put):
        x = {"w": put(normal(N, 2, 3, 3, 5)), "b": put(normal(N, 2, 5)), "scale": put(normal(N, 2))}
        return project(x, PROJECTIONS[name], sample_axes=2)

    agree(backend, call)


# --- networks -----------------------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", PROJECTIONS)
def test_networks(network, name, backend):
    sketch = PROJECTIONS[name]

    def call(put):
        net, params, x = at(put, network)
        every = project_jacobian(net, params, x, sketch)
        ct = put(normal(*every.shape[:2]))
        return every, project_jacobian(net, params, x, sketch, cotangents=ct)

    agree(backend, call)


@on_devices
@pytest.mark.parametrize("network", ["mlp", "cnn_gap", "embedding"])
@pytest.mark.parametrize("name", SKETCHES)
def test_networks_by_columns(network, name, backend):
    sketch = SKETCHES[name](n_parameters(network))
    agree(backend, lambda put: project_jacobian(*at(put, network), sketch))


@on_devices
@pytest.mark.parametrize("network", NAMES)
def test_tiles_of_samples(network, backend):
    case = named(network)
    least = smallest_budget(functools.partial(project_jacobian, case.net, case.params, case.x1, PROJECTIONS["fft"]))
    for sketch in (PROJECTIONS["fft"], PROJECTIONS["kronecker sum"]):
        agree(backend, lambda put, s=sketch: project_jacobian(*at(put, network), s, max_memory=10 * least))


@on_devices
@pytest.mark.parametrize("network", ["mlp", "one_output", "cnn_gap"])
@pytest.mark.parametrize("function", ["cross_entropy", "margin", "squared_error"])
def test_cotangents_of_losses(network, function, backend):
    def call(put):
        net, params, x = at(put, network)
        y = net.forward(params, x)[0]
        given = put(normal(*y.shape)) if function == "squared_error" else put(np.arange(len(x)) % max(2, y.shape[1]))
        loss = getattr(projection, function)(given)
        more = (loss.value(y), loss.weights(y)) if function == "margin" else ()
        return project_jacobian(net, params, x, PROJECTIONS["fft"], cotangents=loss), loss(y), *more

    agree(backend, call)


@on_devices
@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("rule", ["energy", "equal", "size"])
def test_widths(network, rule, backend):
    agree(backend, lambda put: allocate_dims(*at(put, network), 1000, rule=rule))


@on_devices
@pytest.mark.parametrize("network", ["mlp", "cnn_groups", "embedding"])
def test_reports(network, backend):
    def call(put):
        net, params, x = at(put, network)
        ct = put(normal(len(x), net.forward(params, x)[0].shape[1]))
        reports = [
            projection_error(net, params, x, PROJECTIONS["fft"], output=o) for o in ("trace", "diagonal", "full")
        ]
        return *reports, projection_error(net, params, x, PROJECTIONS["fft"], cotangents=ct, n_rows=3)

    agree(backend, call, 1e-9)


# --- what is done with them ------------------------------------------------------------------------


@on_devices
@pytest.mark.parametrize("output", ["trace", "diagonal", "full"])
def test_kernels(output, backend):
    def call(put):
        phi1, phi2 = put(normal(N, 3, M)), put(normal(4, 3, M, seed=1))
        kernel = functools.partial(projected_ntk, output=output)
        return kernel(phi1), kernel(phi1, phi2), kernel(phi1[:, 0]), kernel(phi1[:, 0], phi2[:, 0])

    agree(backend, call)


@on_devices
@pytest.mark.parametrize("output", ["trace", "full"])
@pytest.mark.parametrize("width", [3, 40])
def test_regression(output, width, backend):
    """More samples than columns, and fewer; whole, and in blocks."""

    def call(put):
        phi, new, y = put(normal(N, 2, width)), put(normal(4, 2, width, seed=1)), put(normal(N, 2, seed=2))
        fit = projected_regression(phi, y, reg=0.3, output=output)
        blocks = projected_regression([(phi[:4], y[:4]), (phi[4:], y[4:])], reg=0.3, output=output)
        return fit, fit.predict(new), blocks.predict(new)

    agree(backend, call, 1e-9)


@on_devices
@pytest.mark.parametrize("width", [3, 40])
def test_attributions(width, backend):
    """Primal and dual; with blocks, weights, small budgets and a place for the result."""

    def call(put):
        train, test, weights = put(normal(N, width)), put(normal(4, width, seed=1)), put(abs(normal(N)))
        plain = attribution(train, test, reg=0.3)
        tiles = attribution([train[:5], train[5:]], [test[:1], test[1:]], reg=0.3, weights=weights, max_memory=40_000)
        out = attribution(train, test, reg=0.3, out=put(np.zeros((4, N))))
        mean = average_attributions((plain, tiles), [weights, weights])
        outputs, masks = put(normal(6, 4, seed=3)), put(normal(6, N, seed=4) > 0)
        scores = linear_datamodeling_score(plain, masks, outputs)
        return (
            plain,
            tiles,
            out,
            mean,
            scores,
            linear_datamodeling_score(plain, [[0, 1], [2], [], [8], [3], [4]], outputs),
        )

    agree(backend, call, 1e-9)


def test_no_public_function_is_left_out():
    functions = {name for name in projection.__all__ if name[0].islower()}
    assert functions == {
        "allocate_dims", "attribution", "average_attributions", "cross_entropy", "linear_datamodeling_score", "margin",
        "project", "project_jacobian", "projected_ntk", "projected_regression", "projection_error", "squared_error",
        "suggest_dim",
    }  # fmt: skip
