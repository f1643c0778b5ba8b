"""Every public function of finite-width networks on every backend, against NumPy: whole, and from small tiles."""

import functools

import numpy as np
import pytest
from empirical.networks import smallest_budget
from helpers import assert_close, tol

from ntkfast import empirical
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
from ntkfast.layers import (
    AvgPool2d,
    BatchNorm,
    Conv2d,
    Dense,
    Embedding,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)

BODY = Sequential(Conv2d(4, 3, b_std=0.1), BatchNorm(), ReLU(), Conv2d(4, 3, groups=2))
NETWORKS = {
    "dense": (Sequential(Dense(9, b_std=0.1), ReLU(), Dense(7), Tanh(), LayerNorm(), Dense(3, b_std=0.1)), (5,)),
    "convolutions": (
        Sequential(Conv2d(4, 3, stride=2), Residual(BODY), ReLU(), Conv2d(5, 3), ReLU(), GlobalAvgPool(), Dense(3)),
        (8, 8, 2),
    ),
    "pooling": (
        Sequential(Conv2d(4, 3, padding="VALID"), MaxPool2d(2), AvgPool2d(3, stride=1), Flatten(), Dense(2)),
        (8, 8, 1),
    ),
    "tokens": (Sequential(Embedding(6, 4), Dense(5), ReLU(), GlobalAvgPool(), Dense(2)), (7,)),
}
METHODS = ("structured_derivatives", "jacobian_contraction", "ntk_vector_products")
OUTPUTS = ("trace", "diagonal", "full")
CLOSE = tol(np.float64, 1000, 10)

every_network = pytest.mark.parametrize("name", NETWORKS)
every_output = pytest.mark.parametrize("output", OUTPUTS)
of_floats = pytest.mark.parametrize("name", [name for name in NETWORKS if name != "tokens"])


def samples(name, n, seed):
    rng, shape = np.random.default_rng(seed), NETWORKS[name][1]
    return rng.integers(0, 6, (n, *shape)) if name == "tokens" else rng.standard_normal((n, *shape))


def moved(backend, tree):
    """A tree with its arrays on a backend; other leaves as they are."""
    if isinstance(tree, dict):
        return {name: moved(backend, entry) for name, entry in tree.items()}
    if isinstance(tree, (tuple, list)):
        return type(tree)(moved(backend, entry) for entry in tree)
    return backend.asarray(tree) if isinstance(tree, np.ndarray) else tree


def arrays(tree):
    """The arrays of a result, one after the other."""
    if isinstance(tree, dict):
        tree = tuple(tree[name] for name in sorted(tree))
    if isinstance(tree, tuple):
        return [array for entry in tree for array in arrays(entry)]
    return [] if tree is None else [tree]


def agree(backend, function, *arguments):
    """Whether a function of (network, params, ...) returns on a backend what it returns for NumPy arrays."""
    net, *rest = arguments
    expected, found = arrays(function(*arguments)), arrays(function(net, *moved(backend, rest)))
    assert len(found) == len(expected) > 0
    for got, wanted in zip(found, expected, strict=True):
        assert_close(backend.to_numpy(got), wanted, CLOSE)


def problem(name):
    """Network, parameters, and two batches."""
    net, shape = NETWORKS[name]
    return net, net.init(shape, seed=3, dtype="float64"), samples(name, 4, 0), samples(name, 3, 1)


def like(params, seed):
    """A tree like the parameters with normal entries."""
    rng = np.random.default_rng(seed)
    if isinstance(params, dict):
        return {name: like(entry, seed + i) for i, (name, entry) in enumerate(params.items())}
    if isinstance(params, tuple):
        return tuple(like(entry, seed + 10 * i) for i, entry in enumerate(params))
    return rng.standard_normal(params.shape)


def normal(*shape):
    return np.random.default_rng(5).standard_normal(shape)


# --- the kernel -----------------------------------------------------------------------------------


@every_network
@pytest.mark.parametrize("method", ["auto", *METHODS])
@every_output
def test_every_backend_and_method(backend, name, method, output):
    net, params, x1, x2 = problem(name)
    for others in ((), (x2,)):
        expected = empirical_ntk(net, params, x1, *others, output=output, method="jacobian_contraction")
        there = moved(backend, (params, x1, *others))
        got = empirical_ntk(net, *there, output=output, method=method)
        assert_close(backend.to_numpy(got), expected, CLOSE)


@every_network
@pytest.mark.parametrize("method", METHODS)
@every_output
def test_from_small_tiles(backend, name, method, output):
    net, params, x1, x2 = problem(name)
    for others in ((), (x2,)):
        kernel = functools.partial(empirical_ntk, net, output=output, method=method)
        expected, there = kernel(params, x1, *others), moved(backend, (params, x1, *others))
        least = smallest_budget(functools.partial(kernel, params, x1, *others))
        for budget in (least, 3 * least):
            assert_close(backend.to_numpy(kernel(*there, max_memory=budget)), expected, CLOSE)


@every_network
@pytest.mark.parametrize("method", ["auto", *METHODS])
def test_parts_of_every_entry(backend, name, method):
    agree(backend, functools.partial(layer_ntks, output="full", method=method), *problem(name))


@every_network
def test_parts_add_up(backend, name):
    net, params, x, _ = problem(name)
    there = moved(backend, (params, x))
    parts = layer_ntks(net, *there, output="full")
    total = sum(backend.to_numpy(part) for part in parts.values())
    assert_close(total, backend.to_numpy(empirical_ntk(net, *there, output="full")), tol(np.float64, 100, 10))


@every_network
@every_output
def test_explanations(backend, name, output):
    net, params, x1, x2 = problem(name)
    found = empirical_ntk(net, *moved(backend, (params, x1, x2)), output=output, explain=True)
    assert found.method in METHODS
    assert set(found.seconds) == set(METHODS)
    assert {block.path for block in found.blocks} == set(jacobian(net, params, x1))
    assert found.method in str(found)


# --- Jacobians ------------------------------------------------------------------------------------


@every_network
def test_jacobians(backend, name):
    net, params, x, _ = problem(name)
    agree(backend, jacobian, net, params, x)
    least = smallest_budget(functools.partial(jacobian, net, params, x))
    agree(backend, functools.partial(jacobian, max_memory=least), net, params, x)


@every_network
def test_factors_of_jacobians(backend, name):
    net, params, x, _ = problem(name)
    expected = jacobian(net, params, x)
    for path, factors in jacobian_factors(net, *moved(backend, (params, x))).items():
        assert_close(backend.to_numpy(factors.jacobian()), expected[path], CLOSE)


@every_network
def test_operators(backend, name):
    net, params, x1, x2 = problem(name)
    k = net.out_shape(x1.shape[1:])[0]

    def products(*arguments, max_memory=None):
        *arguments, v, matrix, u = arguments
        operator = ntk_operator(*arguments, max_memory=max_memory)
        return operator @ v, operator @ matrix, operator.T @ u

    arguments = net, params, x1, x2, normal(3 * k), normal(3 * k, 40), normal(4 * k)
    agree(backend, products, *arguments)
    least = smallest_budget(functools.partial(products, *arguments))
    agree(backend, functools.partial(products, max_memory=least), *arguments)


# --- gradients ------------------------------------------------------------------------------------


@of_floats
@every_output
def test_gradients(backend, name, output):
    net, params, x1, x2 = problem(name)
    ends = (net.out_shape(x1.shape[1:])[0],) * OUTPUTS.index(output)
    for others, ct in ((None, normal(4, 4, *ends)), (x2, normal(4, 3, *ends))):
        gradient = functools.partial(empirical_ntk_vjp, output=output)
        agree(backend, gradient, net, params, x1, others, ct)
        least = smallest_budget(functools.partial(gradient, net, params, x1, others, ct))
        agree(backend, functools.partial(gradient, max_memory=least), net, params, x1, others, ct)


@of_floats
def test_directional_gradients(backend, name):
    net, params, x, _ = problem(name)
    agree(backend, directional_vjp, net, params, x, like(params, 2), normal(4, net.out_shape(x.shape[1:])[0]))


# --- models and reports ---------------------------------------------------------------------------


@every_network
def test_linear_models(backend, name):
    net, params, x, new = problem(name)
    y = normal(4, net.out_shape(x.shape[1:])[0])

    def results(net, params, x, new, y, direction, max_memory=None):
        model = linearize(net, params)
        fit = model.fit(x, y, reg=0.1, max_memory=max_memory)
        others = (model.predict(new, direction), model.tangent(new, direction), fit.dual_coef)
        return fit.predict(new, max_memory=max_memory), fit.params, *others

    direction = like(params, 2)
    agree(backend, results, net, params, x, new, y, direction)
    agree(backend, functools.partial(results, max_memory=2**20), net, params, x, new, y, direction)


@every_network
@pytest.mark.parametrize("method", METHODS)
def test_trainability(backend, name, method):
    net, params, x, _ = problem(name)
    y = np.array([0, 1, 1, 0])
    expected = trainability(net, params, x, y=y, method=method)
    found = trainability(net, *moved(backend, (params, x)), y=backend.asarray(y), method=method)
    assert_close(backend.to_numpy(found.eigenvalues), expected.eigenvalues, 1e-12)
    for number in ("condition_number", "variance_rank", "entropy_rank", "effective_dimension", "alignment"):
        assert getattr(found, number) == pytest.approx(getattr(expected, number), rel=1e-9)


def test_no_public_function_is_left_out():
    functions = {name for name in empirical.__all__ if name[0].islower()}
    assert functions == {f.__name__ for f in (
        directional_vjp, empirical_ntk, empirical_ntk_vjp, jacobian, jacobian_factors, layer_ntks, linearize,
        ntk_operator, trainability)}  # fmt: skip
