"""project_jacobian: cotangents, engines, linear sketches, tiles of samples, memory, bad input."""

import importlib.util
import math
import tracemalloc

import numpy as np
import pytest
from empirical.networks import named, smallest_budget
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, jacobian
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import Dense, ReLU, Sequential
from ntkfast.projection import KroneckerProjection, MaskedProjection, TensorProjection, project_jacobian
from ntkfast.sketch import SRHT, CountSketch, GaussianSketch, SparseJL

SKETCH = TensorProjection(48, seed=2)


def columns(case):
    """The Jacobian as one matrix per sample, (n, k, p)."""
    found = jacobian(case.net, case.params, case.x1)
    return np.concatenate([a.reshape(*a.shape[:2], -1) for a in found.values()], axis=2)


def outputs(case):
    return case.net.forward(case.params, case.x1)[0]


@pytest.mark.parametrize("name", ["mlp", "cnn_groups", "norms", "embedding", "resnet"])
def test_cotangents_weigh_the_outputs(name):
    case = named(name)
    every = project_jacobian(case.net, case.params, case.x1, SKETCH)
    ct = np.random.default_rng(0).standard_normal(every.shape[:2])
    found = project_jacobian(case.net, case.params, case.x1, SKETCH, cotangents=ct)
    assert_close(found, np.einsum("nk,nkm->nm", ct, every), 1e-12)


def test_a_function_of_the_outputs_gives_cotangents():
    case = named("mlp")
    found = project_jacobian(case.net, case.params, case.x1, SKETCH, cotangents=np.tanh)
    ct = np.tanh(outputs(case))
    np.testing.assert_array_equal(found, project_jacobian(case.net, case.params, case.x1, SKETCH, cotangents=ct))


def test_a_function_is_given_the_outputs_of_all_samples():
    """Also where the samples pass in tiles."""
    case, seen = named("mlp", n1=7), []

    def softmax_over_samples(y):
        seen.append(len(y))
        return np.exp(y) / np.exp(y).sum(axis=0)

    def call(**options):
        return project_jacobian(case.net, case.params, case.x1, SKETCH, cotangents=softmax_over_samples, **options)

    whole = call()
    assert_close(call(max_memory=smallest_budget(call)), whole, 1e-12)
    assert set(seen) == {7}


@pytest.mark.parametrize("name", ["mlp", "cnn_gap", "embedding", "resnet"])
@pytest.mark.parametrize(
    "sketch",
    [
        lambda p: CountSketch(p, 16, seed=1),
        lambda p: SparseJL(p, 16, nnz=4, seed=1),
        lambda p: GaussianSketch(p, 16, seed=1),
    ],
)
def test_a_linear_sketch_takes_the_arrays_as_columns(name, sketch):
    case = named(name)
    matrix = columns(case)
    n, k, p = matrix.shape
    expected = sketch(p).apply(matrix.reshape(n * k, p)).reshape(n, k, 16)
    assert_close(project_jacobian(case.net, case.params, case.x1, sketch(p)), expected, 1e-12)


@pytest.mark.parametrize("engine", ["autograd", "jax", "torch"])
@pytest.mark.parametrize("given", [False, True])
def test_other_engines_give_the_same_sketch(engine, given):
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    case = named("mlp_tanh", dtype="float32")
    scales = [0.1 if layer.bias else 0.0 for layer in case.net.layers if isinstance(layer, Dense)]
    tanh = {"autograd": "autograd.numpy", "jax": "jax.numpy", "torch": "torch"}[engine]
    tanh = importlib.import_module(tanh).tanh

    def fun(params, x):
        for number, (layer, b_std) in enumerate(zip(params[::2], scales, strict=True)):
            x = (tanh(x) if number else x) @ layer["weight"] * (math.sqrt(2 / layer["weight"].shape[0]))
            x = x + b_std * layer["bias"]
        return x

    ct = np.random.default_rng(0).standard_normal((5, 3)).astype("float32") if given else None
    found = project_jacobian(fun, case.params, case.x1, SKETCH, cotangents=ct, autodiff=engine)
    assert_close(found, project_jacobian(case.net, case.params, case.x1, SKETCH, cotangents=ct), 1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn_flatten", "resnet", "embedding"])
def test_tiles_of_samples_do_not_show(name):
    case = named(name, n1=7)

    def call(**options):
        return project_jacobian(case.net, case.params, case.x1, SKETCH, **options)

    assert_close(call(max_memory=smallest_budget(call)), call(), 1e-12)


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize(
    "sketch",
    [
        lambda p: TensorProjection(512, algorithm="fft", seed=0),
        lambda p: TensorProjection(512, algorithm="direct", seed=0),
        lambda p: KroneckerProjection(512, seed=0),
        lambda p: MaskedProjection(512, seed=0),
        lambda p: CountSketch(p, 512, seed=0),
    ],
    ids=["fft", "direct", "kronecker", "masked", "columns"],
)
def test_memory_stays_within_the_budget(sketch, given):
    net = Sequential(Dense(400), ReLU(), Dense(400), ReLU(), Dense(10))
    params = net.init((100,), seed=0)
    x = np.random.default_rng(0).standard_normal((64, 100)).astype("float32")
    ct = np.ones((64, 10), "float32") if given else None
    drawn = sketch(sum(entry.size for layer in params for entry in layer.values()))

    def call(**options):
        return project_jacobian(net, params, x, drawn, cotangents=ct, **options)

    out = call()  # compiles, and keeps the tables
    smallest = smallest_budget(call)
    for budget in (smallest, 4 * smallest):
        tracemalloc.start()
        try:
            call(max_memory=budget)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < out.nbytes + 1.15 * budget


def test_the_whole_is_unbiased_for_the_trace():
    """R = 400 seeds: the mean of the estimated trace NTK within 6 standard errors; fails with probability 2e-8."""
    case = named("cnn_gap", n1=3)
    exact = empirical_ntk(case.net, case.params, case.x1)
    draws = []
    for seed in range(400):
        z = project_jacobian(case.net, case.params, case.x1, TensorProjection(64, seed=seed))
        draws.append(np.einsum("ikm,jkm->ij", z, z) / z.shape[1])
    error = np.abs(np.mean(draws, axis=0) - exact)
    assert (error < 6 * np.std(draws, axis=0) / math.sqrt(400)).all()


# --- bad input -----------------------------------------------------------------------------------

BAD_CALLS = [
    ({"sketch": 3}, TypeError, "a JacobianSketch or a LinearSketch, got int"),
    ({"sketch": CountSketch(5, 4, seed=0)}, ValueError, "in_dim = 104, the number of parameters, got 5"),
    ({"sketch": SRHT(104, 4, seed=0)}, TypeError, "columns in parts, got SRHT"),
    ({"cotangents": np.ones((4, 3))}, ValueError, r"cotangents of shape \(5, 3\), got \(4, 3\)"),
    ({"cotangents": np.ones((5, 3), "float32")}, TypeError, "cotangents of dtype float64"),
    ({"cotangents": np.full((5, 3), np.nan)}, ValueError, "cotangents without NaN"),
    ({"cotangents": [1.0]}, TypeError, "list"),
    ({"cotangents": lambda y: y[:, :1]}, ValueError, r"cotangents\(y\) of shape \(5, 3\), got \(5, 1\)"),
    ({"cotangents": lambda y: y * np.inf}, ValueError, r"cotangents\(y\) without NaN"),
    ({"x": np.full((5, 4), np.nan)}, ValueError, "x1 without NaN"),
    ({"autodiff": "pencil"}, ValueError, "pencil"),
    ({"max_memory": 10}, MemoryBudgetError, "max_memory of at least"),
    ({"max_memory": 0.5}, TypeError, "max_memory to be an integer"),
]


@pytest.mark.parametrize(("changed", "error", "message"), BAD_CALLS)
def test_bad_calls(changed, error, message):
    case = named("mlp")
    arguments = {"x": case.x1, "sketch": SKETCH, **changed}
    with pytest.raises(error, match=message):
        project_jacobian(case.net, case.params, **arguments)


def test_overflow_is_told():
    """Outputs and gradients are finite, their sums in a bucket are not."""
    net = Sequential(Dense(1, W_std=2.0))
    params = net.init((4,), seed=0)
    signs = project_jacobian(net, params, np.eye(4, dtype="float32"), TensorProjection(1, seed=0))[:, 0, 0]
    x, params = np.sign(signs)[None] * np.float32(3e38), ({"weight": np.zeros((4, 1), "float32")},)
    with pytest.raises(OverflowError, match="the projected Jacobian within the range of float32"):
        project_jacobian(net, params, x, TensorProjection(1, seed=0))
