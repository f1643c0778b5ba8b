"""Jacobian contraction and NTK-vector products, engine by engine: reference kernels, tiles, memory."""

import functools
import tracemalloc

import numpy as np
import pytest
from function_networks import need, network
from golden_files import finite_network
from helpers import GOLDEN_RTOL, assert_close, tol

from ntkfast.autodiff import get_autodiff
from ntkfast.empirical import empirical_ntk, layer_ntks
from ntkfast.empirical._tiles import cut
from ntkfast.empirical.jacobian_contraction import jacobian_contraction, jacobian_contraction_by_entry
from ntkfast.empirical.ntk_vector_products import ntk_vector_products, ntk_vector_products_by_entry
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import BatchNorm, Conv2d, Dense, Embedding, GlobalAvgPool, ReLU, Sequential, Tanh

FUNCTION_ENGINES = ("autograd", "jax", "torch")
ENGINES = ("layers", *FUNCTION_ENGINES)
OUTPUTS = ("trace", "diagonal", "full")
METHODS = ("jacobian_contraction", "ntk_vector_products")
ALGORITHMS = {"jacobian_contraction": jacobian_contraction, "ntk_vector_products": ntk_vector_products}
BY_ENTRY = {
    "jacobian_contraction": jacobian_contraction_by_entry,
    "ntk_vector_products": ntk_vector_products_by_entry,
}

loaded = functools.cache(finite_network)
plain = functools.cache(lambda engine, name: network(engine, loaded(name).layers, loaded(name).parameterization))


# --- reference kernels ------------------------------------------------------------------------------


# Every architecture, each in one parameterization, which to a function is a constant; test_golden.py has all fourteen.
GOLDEN_FUNCTIONS = {
    "float64": ("mlp_relu_ntk", "mlp_erf_standard", "mlp_tanh_ntk", "cnn8_relu_standard", "cnn8_tanh_ntk",
                "cnn16_relu_ntk", "cnn16_tanh_standard"),
    "float32": ("mlp_relu_standard", "cnn8_relu_ntk"),
}  # fmt: skip


def golden_cases():
    """Autograd's convolutions are direct sums, too slow even for these: it has the dense networks only."""
    return [
        (engine, name, dtype)
        for engine in FUNCTION_ENGINES
        for dtype, names in GOLDEN_FUNCTIONS.items()
        for name in names
        if engine != "autograd" or name.startswith("mlp")
    ]


@pytest.mark.parametrize(("engine", "name", "dtype"), golden_cases())
def test_reference_kernels(engine, name, dtype):
    """Networks as functions: full kernels, the trace, contributions, by both methods."""
    need(engine)
    ref, fun = loaded(name, dtype), plain(engine, name)
    for method in METHODS:
        call = functools.partial(empirical_ntk, fun, ref.params, autodiff=engine, method=method)
        full = call(ref.x1, ref.x2, output="full")
        assert full.dtype == dtype
        assert_close(full, ref.ntk12, GOLDEN_RTOL[dtype])
        assert_close(call(ref.x1, output="full"), ref.ntk11, GOLDEN_RTOL[dtype])
        assert_close(call(ref.x1, ref.x2), ref.trace12, GOLDEN_RTOL[dtype])
    parts = layer_ntks(fun, ref.params, ref.x1, ref.x2, autodiff=engine, method="jacobian_contraction")
    assert list(parts) == list(ref.trace12_by_path)
    for path, part in parts.items():
        assert_close(part, ref.trace12_by_path[path], GOLDEN_RTOL[dtype])


# --- tiles, symmetry, outputs -----------------------------------------------------------------------


def quadratic(params, x):
    """A network of Python's operators, which every framework's arrays have; k = 3."""
    h = x @ params["hidden"][0] + params["hidden"][1]
    return (h * h - h) @ params["head"]


@functools.cache
def problem(engine):
    """(engine, fun, params, x1, x2): more than a tile of samples for the layers, few for slower engines."""
    rng = np.random.default_rng(3)
    if engine == "layers":
        conv = Conv2d(4, 3, padding="SAME", b_std=0.1)
        net = Sequential(conv, BatchNorm(), Tanh(), GlobalAvgPool(), Dense(5, b_std=0.2), ReLU(), Dense(3))
        x1, x2 = rng.standard_normal((11, 5, 4, 2)), rng.standard_normal((9, 5, 4, 2))
        return get_autodiff(engine), net, net.init((5, 4, 2), seed=1, dtype="float64"), x1, x2
    params = {
        "hidden": (rng.standard_normal((6, 4)), rng.standard_normal(4)),
        "head": rng.standard_normal((4, 3)),
    }
    return get_autodiff(engine), quadratic, params, rng.standard_normal((4, 6)), rng.standard_normal((3, 6))


@functools.cache
def dense(engine, symmetric):
    """The full kernel by path, as products of Jacobians."""
    engine, fun, params, x1, x2 = problem(engine)
    first = engine.param_jacobian(fun, params, x1)
    second = first if symmetric else engine.param_jacobian(fun, params, x2)
    flat = lambda j: j.reshape(*j.shape[:2], -1)  # noqa: E731
    return {path: np.einsum("iop,jqp->ijoq", flat(first[path]), flat(second[path])) for path in first}


def reduced(full, output):
    if output == "full":
        return full
    diagonal = np.einsum("ijoo->ijo", full)
    return diagonal if output == "diagonal" else diagonal.mean(axis=2)


def budgets(checked):
    """No limit, some samples per tile, one sample, one output of a sample."""
    row = 4 * 8 * sum(array.size for array in checked.entries.values())
    return (None, 6 * row, 3 * row, row)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENGINES)
def test_tiles_do_not_change_the_result(name, method, symmetric):
    need(name)
    engine, fun, params, x1, x2 = problem(name)
    checked = engine.check(fun, params, x1, None if symmetric else x2)
    expected = sum(dense(name, symmetric).values())
    for output in OUTPUTS:
        for max_memory in budgets(checked) if name == "layers" or output == "full" else budgets(checked)[:2]:
            got = ALGORITHMS[method](engine, fun, params, checked, output=output, max_memory=max_memory)
            assert_close(got, reduced(expected, output), tol("float64", 100, 10))
            if symmetric and output != "full":
                np.testing.assert_array_equal(got, got.swapaxes(0, 1))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENGINES)
def test_contributions_by_entry(name, method, output):
    need(name)
    engine, fun, params, x1, x2 = problem(name)
    checked = engine.check(fun, params, x1, x2)
    parts = BY_ENTRY[method](engine, fun, params, checked, output=output)
    assert list(parts) == list(checked.entries)
    assert set(parts) == set(dense(name, False))
    for path, part in parts.items():
        assert_close(part, reduced(dense(name, False)[path], output), tol("float64", 100, 10))


@pytest.mark.parametrize("method", METHODS)
def test_on_the_backends(backend, method):
    """The layer engine's results stay on the arrays' backend."""
    engine, net, params, x1, x2 = problem("layers")
    move = backend.asarray
    on_device = tuple({name: move(array) for name, array in entry.items()} for entry in params)
    for second in (None, move(x2)):
        checked = engine.check(net, on_device, move(x1), second)
        for output in OUTPUTS:
            got = ALGORITHMS[method](engine, net, on_device, checked, output=output, max_memory=40_000)
            expected = reduced(sum(dense("layers", second is None).values()), output)
            assert_close(backend.to_numpy(got), expected, tol("float64", 100, 10))


@pytest.mark.parametrize("method", METHODS)
def test_embedding(method):
    """Integer samples: the kernel of an embedding counts common words."""
    engine, net = get_autodiff("layers"), Sequential(Embedding(5, 2), GlobalAvgPool(), Dense(2))
    words = np.array([[0, 1, 1], [4, 1, 0]])
    params = net.init((3,), seed=0, dtype="float64")
    kernel = ALGORITHMS[method](engine, net, params, engine.check(net, params, words), output="trace")
    jacobian = engine.param_jacobian(net, params, words)
    expected = sum(j.reshape(2, -1) @ j.reshape(2, -1).T for j in jacobian.values()) / 2
    assert_close(kernel, expected, tol("float64", 10))


# --- memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ENGINES)
def test_a_budget_below_one_row_is_refused(name, method):
    need(name)
    engine, fun, params, x1, _ = problem(name)
    checked = engine.check(fun, params, x1)
    with pytest.raises(MemoryBudgetError, match="max_memory of at least"):
        ALGORITHMS[method](engine, fun, params, checked, output="trace", max_memory=64)


@pytest.mark.parametrize("method", METHODS)
def test_a_thousand_outputs_fit(method):
    """n = 1, k = 1000: the Jacobian would take 67 MB; the kernel takes 4 MB, and the tiles what they may."""
    net = Sequential(Dense(16), ReLU(), Dense(1000))
    params = net.init((48,), seed=0)
    x = np.random.default_rng(0).standard_normal((1, 48)).astype("float32")
    engine, budget = get_autodiff("layers"), 2**25
    checked = engine.check(net, params, x)
    tracemalloc.start()
    kernel = ALGORITHMS[method](engine, net, params, checked, output="full", max_memory=budget)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1.5 * budget + kernel.nbytes
    hidden = net.layers[0].forward(params[0], x)[0].clip(0)
    head = params[2]["weight"]
    gated = head * (hidden > 0).T
    expected = (2 / 16) * (
        (hidden @ hidden.T)[0, 0] * np.eye(len(kernel[0, 0])) + (2 / 48) * (x @ x.T) * gated.T @ gated
    )
    assert_close(kernel[0, 0], expected, tol("float32", 256, 4))


@pytest.mark.parametrize(("n", "most"), [(1, 1), (7, 3), (8, 8), (9, 100), (100, 32)])
def test_cuts_cover_and_differ_by_one_at_most(n, most):
    parts = cut(n, most)
    assert [i for part in parts for i in range(n)[part]] == list(range(n))
    lengths = {part.stop - part.start for part in parts}
    assert max(lengths) <= most
    assert max(lengths) - min(lengths) <= 1
