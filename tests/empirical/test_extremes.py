"""Numbers, sizes and budgets at the ends of their range: the right finite result, or an error that says so."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pytest
from empirical.networks import NAMES, named, problem
from helpers import assert_close

from ntkfast.empirical import (
    directional_vjp,
    empirical_ntk,
    empirical_ntk_vjp,
    jacobian,
    jacobian_factors,
    layer_ntks,
    linearize,
    ntk_operator,
    trainability,
)
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Embedding,
    Flatten,
    GlobalAvgPool,
    Layer,
    LayerNorm,
    MaxPool2d,
    Residual,
    Sequential,
    Tanh,
)

METHODS = ("structured_derivatives", "jacobian_contraction", "ntk_vector_products")
OUTPUTS = ("trace", "diagonal", "full")
ENDS = {"trace": lambda k: (), "diagonal": lambda k: (k,), "full": lambda k: (k, k)}


def _kernel(output, method):
    return lambda p, x: [empirical_ntk(p.net, p.params, x, output=output, method=method)]


def _values(function):
    return lambda p, x: list(function(p.net, p.params, x).values())


def _ones(p, x, *, columns=None):
    k = p.net.out_shape(x.shape[1:])[0]
    dtype = x.dtype if x.dtype.kind == "f" else "float64"
    return np.ones((len(x), k) if columns is None else (len(x) * k, columns), dtype)


# What has a result of floating-point numbers, as a list of arrays.
CALLS = {
    **{f"{output}, {method}": _kernel(output, method) for output in ("trace", "full") for method in METHODS},
    "layer_ntks": _values(layer_ntks),
    "jacobian": _values(jacobian),
    "jacobian_factors": lambda p, x: [f.delta for f in jacobian_factors(p.net, p.params, x).values()],
    "ntk_operator": lambda p, x: [ntk_operator(p.net, p.params, x) @ _ones(p, x, columns=2)],
    "predict": lambda p, x: [linearize(p.net, p.params).predict(x, p.params)],
    "tangent": lambda p, x: [linearize(p.net, p.params).tangent(x, p.params)],
    "fit": lambda p, x: [linearize(p.net, p.params).fit(x, _ones(p, x), reg=1.0).predict(x)],
    "empirical_ntk_vjp": lambda p, x: [empirical_ntk_vjp(p.net, p.params, x, None, np.ones((len(x),) * 2, x.dtype)).x1],
    "directional_vjp": lambda p, x: [directional_vjp(p.net, p.params, x, p.params, _ones(p, x))],
    "trainability": lambda p, x: [trainability(p.net, p.params, x).eigenvalues],
}
SCALES = {
    "float32": (0, 1e-45, 1e-30, 1e12, 1e18, 1e25, 1e30, 3e37),
    "float64": (0, 5e-324, 1e-200, 1e100, 1e200, 1e307),
}
NETWORKS = ("mlp", "mlp_tanh", "pools", "norms", "residual", "resnet")


def _results(call, p, x):
    """The arrays of a call, or None where it says that they leave their range."""
    try:
        return call(p, x)
    except OverflowError as error:
        assert re.match(r"expected .* within the range of float", str(error))  # noqa: PT017
        return None


@pytest.mark.parametrize("dtype", SCALES)
@pytest.mark.parametrize("name", NETWORKS)
def test_samples_of_any_size(name, dtype):
    """Finite or refused, without a warning; in float32 a result is that of float64."""
    compared = ("jacobian", *list(CALLS)[:6])
    p = named(name, dtype=dtype, n1=3)
    wide = named(name, n1=3)._replace(params=_as(p.params, "float64"))
    for scale in SCALES[dtype]:
        x = (p.x1 * scale).astype(dtype)
        for label, call in CALLS.items():
            results = _results(call, p, x)
            if results is None:
                assert scale > 1, label
                continue
            assert all(np.isfinite(array).all() for array in results), (label, scale)
            if dtype == "float32" and label in compared and not 0 < scale < 1e-10:  # below, entries are denormal
                for got, expected in zip(results, call(wide, x.astype("float64")), strict=True):
                    assert_close(got, expected.astype("float32"), 1e-4)


def _as(params, dtype):
    if isinstance(params, dict):
        return {key: _as(entry, dtype) for key, entry in params.items()}
    return tuple(_as(entry, dtype) for entry in params) if isinstance(params, tuple) else params.astype(dtype)


def _times(params, scale):
    """Weights and biases, but not the moments of a BatchNorm, times a number."""
    if isinstance(params, dict):
        return {key: entry if key in ("mean", "var") else _times(entry, scale) for key, entry in params.items()}
    dtype = getattr(params, "dtype", None)
    return tuple(_times(entry, scale) for entry in params) if dtype is None else (params * scale).astype(dtype)


@pytest.mark.parametrize("scale", [0, 1e-45, 1e-20, 1e10, 1e20, 1e35])
@pytest.mark.parametrize("name", NETWORKS)
def test_weights_of_any_size(name, scale):
    """Zero weights, which every function takes, and huge ones."""
    p = named(name, dtype="float32", n1=3)
    p = p._replace(params=_times(p.params, scale))
    for label, call in CALLS.items():
        results = _results(call, p, p.x1)
        assert results is not None or scale > 1, label
        assert all(np.isfinite(array).all() for array in results or ()), label


def test_what_overflows_behind_a_gate_is_refused():
    """relu takes inf - inf to the slope 0, which would look like a kernel of zeros."""
    p = problem(Sequential(Dense(2, W_std=1.0, parameterization="standard"), named("mlp").net.layers[1]), (2,), n1=2)
    weight = np.array([[1e200, 1e200], [1e200, -1e200]])
    for call in (empirical_ntk, layer_ntks, jacobian, jacobian_factors):
        with pytest.raises(OverflowError, match="expected the outputs of the network within the range"):
            call(p.net, ({"weight": weight}, {}), np.full((2, 2), 1e200))


# --- sizes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", NAMES)
def test_one_sample_against_several(name, output):
    """A side of one sample keeps its cotangents in another form than a side of several."""
    p = named(name)
    for x1, x2 in ((p.x1[:1], p.x2), (p.x1, p.x2[:1]), (p.x1[:1], p.x2[:1]), (p.x1[:1], None)):
        expected = empirical_ntk(p.net, p.params, x1, x2, output=output, method="jacobian_contraction")
        for method in METHODS:
            assert_close(empirical_ntk(p.net, p.params, x1, x2, output=output, method=method), expected, 1e-12)
        parts = layer_ntks(p.net, p.params, x1, x2, output=output, method="structured_derivatives")
        assert_close(sum(parts.values()), expected, 1e-12)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (Sequential(Dense(1)), (1,)),
        (Sequential(Dense(1, b_std=0.1), Tanh(), Dense(1, b_std=0.1)), (1,)),
        (Sequential(Conv2d(1, 1), Tanh(), GlobalAvgPool(), Dense(1)), (1, 1, 1)),
        (
            Sequential(Conv2d(3, 3, padding="SAME"), BatchNorm(), Tanh(), MaxPool2d(1), Conv2d(2, 1), Flatten()),
            (1, 1, 2),
        ),
        (Sequential(Conv2d(2, 3, padding="SAME"), AvgPool2d(1), LayerNorm(), GlobalAvgPool()), (1, 4, 1)),
        (Sequential(Residual(Dense(1)), Tanh(), Residual(Dense(1), Dense(1))), (1,)),
    ],
    ids=["a number", "width 1", "one pixel", "one pixel, padded", "one row of pixels", "residual of width 1"],
)
def test_the_smallest_networks(net, shape):
    p = problem(net, shape, n1=3, n2=2)
    for n1 in (1, 3):
        for x2 in (None, p.x2, p.x2[:1]):
            expected = empirical_ntk(net, p.params, p.x1[:n1], x2, output="full", method="jacobian_contraction")
            for method in METHODS:
                assert_close(empirical_ntk(net, p.params, p.x1[:n1], x2, output="full", method=method), expected, 1e-12)
        for label, call in CALLS.items():
            assert all(np.isfinite(array).all() for array in call(p, p.x1[:n1])), label


# --- budgets --------------------------------------------------------------------------------------


def _budgeted(p, with_gradients):
    """Calls that take max_memory, by name; each returns a list of arrays."""
    net, params, x1, x2 = p
    k, ones = net.out_shape(x1.shape[1:])[0], _ones(p, x1)
    calls = {}
    for output in OUTPUTS:
        for other in (None, x2):
            for method in METHODS:
                options = {"output": output, "method": method}
                calls[f"{output}, {method}, {other is None}"] = lambda m, other=other, options=options: [
                    empirical_ntk(net, params, x1, other, max_memory=m, **options)
                ]
            ct = np.ones((len(x1), len(x1 if other is None else other), *ENDS[output](k)))
            if with_gradients:
                calls[f"vjp, {output}, {other is None}"] = lambda m, other=other, output=output, ct=ct: [
                    g
                    for g in empirical_ntk_vjp(net, params, x1, other, ct, output=output, max_memory=m)
                    if g is not None
                ]
    calls["layers"] = lambda m: list(layer_ntks(net, params, x1, x2, max_memory=m).values())
    calls["jacobian"] = lambda m: list(jacobian(net, params, x1, max_memory=m).values())
    calls["operator"] = lambda m: [ntk_operator(net, params, x1, x2, max_memory=m) @ _ones(p, x2, columns=11)]
    calls["symmetric operator"] = lambda m: [ntk_operator(net, params, x1, max_memory=m) @ _ones(p, x1, columns=3)]
    calls["predict"] = lambda m: [linearize(net, params).predict(x1, params, max_memory=m)]
    calls["tangent"] = lambda m: [linearize(net, params).tangent(x1, params, max_memory=m)]
    calls["fitted"] = lambda m: [linearize(net, params).fit(x1, ones, reg=1.0).predict(x1, max_memory=m)]
    calls["trainability"] = lambda m: [trainability(net, params, x1, max_memory=m).kernel]
    return calls


def _images():
    net = Sequential(Conv2d(4, 3, padding="SAME", b_std=0.1), BatchNorm(), Tanh(), MaxPool2d(2), Conv2d(4, 3),
                     Tanh(), GlobalAvgPool(), Dense(5))  # fmt: skip
    return problem(net, (6, 6, 2), n1=4, n2=3)


def _texts():
    net = Sequential(Embedding(9, 4), Flatten(), Tanh(), Dense(2))
    x = np.random.default_rng(0).integers(0, 9, (7, 3))
    return problem(net, (3,))._replace(x1=x[:4], x2=x[4:])


@pytest.mark.parametrize("make", [lambda: named("mlp"), _images, _texts], ids=["mlp", "images", "texts"])
def test_the_smallest_budget_works_and_all_give_one_result(make):
    """The number in the message is enough, and what lies above it, of whatever tiles, gives the same."""
    p = make()
    for call in _budgeted(p, with_gradients=p.x1.dtype.kind == "f").values():
        expected = call(None)
        with pytest.raises(MemoryBudgetError, match="expected max_memory of at least") as caught:
            call(1)
        least = int(re.search(r"at least (\d+) bytes", str(caught.value))[1])
        for budget in (least, 2 * least - 1, 3 * least, 20 * least, 2**40):
            for got, wanted in zip(call(budget), expected, strict=True):
                assert_close(got, wanted, 1e-12)


# --- layers of others, threads --------------------------------------------------------------------


@dataclass
class Scaled(Layer):
    """Times a number: a layer that cannot be hashed, since it may be changed."""

    factor: list

    def out_shape(self, in_shape):
        return in_shape

    def forward(self, params, x):
        return x * self.factor[0], None

    def vjp(self, params, saved, ct):
        return ct.scaled(self.factor[0])

    def jvp(self, params, saved, tangent):
        return tangent * self.factor[0]


def test_layers_that_cannot_be_hashed():
    """Nothing that was measured or read off for a network may be kept for one that can change."""
    layer = Scaled([1.0])
    net = Sequential(Dense(3), layer, Tanh(), Dense(2))
    p = problem(net, (4,))
    for factor in (1.0, 2.0):
        layer.factor[0] = factor
        plain = p.params[0] | {"weight": p.params[0]["weight"] * factor}
        same = Sequential(Dense(3), Tanh(), Dense(2))
        expected = empirical_ntk(same, (plain, {}, p.params[3]), p.x1) - 0
        weights = layer_ntks(same, (plain, {}, p.params[3]), p.x1)["0.weight"]
        assert_close(empirical_ntk(net, p.params, p.x1), expected + (factor**2 - 1) * weights, 1e-12)
        for call in CALLS.values():
            assert all(np.isfinite(array).all() for array in call(p, p.x1))


@pytest.mark.parametrize("name", ["mlp", "resnet"])
def test_threads_may_call_at_once(name):
    p = named(name)
    calls = [
        lambda: empirical_ntk(p.net, p.params, p.x1, output="full"),
        lambda: empirical_ntk(p.net, p.params, p.x1, p.x2, method="ntk_vector_products"),
        lambda: jacobian(p.net, p.params, p.x1)["0.weight"],
        lambda: empirical_ntk_vjp(p.net, p.params, p.x1, None, np.ones((5, 5))).x1,
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(4) as pool:
        for i, got in enumerate(pool.map(lambda i: calls[i % 4](), range(32))):
            np.testing.assert_array_equal(got, expected[i % 4])
