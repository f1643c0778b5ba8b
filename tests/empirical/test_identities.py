"""What every empirical NTK satisfies: closed forms, symmetries, homogeneity, finite differences, the wide limit."""

import math

import numpy as np
import pytest
from empirical.networks import NAMES, architectures, mlp, named, problem
from helpers import assert_close, deviation, tol
from hypothesis import given
from hypothesis import strategies as st

from ntkfast import layers
from ntkfast.analytic import ntk
from ntkfast.empirical import empirical_ntk, jacobian, layer_ntks, ntk_operator
from ntkfast.layers import Dense, Sequential

METHODS = ("structured_derivatives", "jacobian_contraction", "ntk_vector_products")
RTOL = 1e-12

by_name = pytest.mark.parametrize("name", NAMES)
by_method = pytest.mark.parametrize("method", METHODS)


def as_matrix(full):
    """(n1, n2, k, k) as (n1 k, n2 k)."""
    n1, n2, k, _ = full.shape
    return full.transpose(0, 2, 1, 3).reshape(n1 * k, n2 * k)


# --- closed forms --------------------------------------------------------------------------------


@by_method
def test_linear_model(method):
    """F = W x + b: Theta = (<x, x'> + 1) I."""
    p = problem(Sequential(Dense(3, bias=True, parameterization="standard")), (4,))
    expected = (p.x1 @ p.x2.T + 1)[:, :, None, None] * np.eye(3)
    assert_close(empirical_ntk(*p, output="full", method=method), expected, RTOL)


@by_method
def test_linear_model_in_ntk_parameterization(method):
    """F = (s / sqrt(d)) W x + b_std b: Theta = (s^2 <x, x'> / d + b_std^2) I."""
    p = problem(Sequential(Dense(3, W_std=1.5, b_std=0.3)), (4,))
    expected = 1.5**2 * p.x1 @ p.x2.T / 4 + 0.3**2
    assert_close(empirical_ntk(*p, method=method), expected, RTOL)


@by_method
def test_two_linear_layers(method):
    """F = x A B: Theta = <x, x'> B^T B + <x A, x' A> I."""
    p = problem(Sequential(*(Dense(m, parameterization="standard") for m in (6, 3))), (4,))
    a, b = (entry["weight"] for entry in p.params)
    expected = (p.x1 @ p.x2.T)[:, :, None, None] * (b.T @ b)
    expected = expected + ((p.x1 @ a) @ (p.x2 @ a).T)[:, :, None, None] * np.eye(3)
    assert_close(empirical_ntk(*p, output="full", method=method), expected, RTOL)


def _homogeneous(kind, parameterization):
    """A network without biases and with activations of degree 1, a sample's shape, and its number of weights."""
    if kind == "dense":
        return mlp((7, 6, 5), parameterization=parameterization), (4,), 4
    first, second = (
        layers.Conv2d(4, 3, padding="SAME", groups=groups, parameterization=parameterization) for groups in (1, 4)
    )
    body = (first, layers.LeakyReLU(), layers.MaxPool2d(2), second, layers.Abs(), layers.GlobalAvgPool())
    return Sequential(*body, Dense(3, parameterization=parameterization)), (6, 5, 2), 3


@pytest.mark.parametrize("parameterization", ["ntk", "standard"])
@pytest.mark.parametrize("kind", ["dense", "conv"])
def test_euler(kind, parameterization):
    """Without biases f is homogeneous of degree 1 in every weight: theta df/dtheta is f for each."""
    net, shape, depth = _homogeneous(kind, parameterization)
    p = problem(net, shape)
    weights = {f"{i}.weight": entry["weight"] for i, entry in enumerate(p.params) if entry}
    total = 0
    for path, leaf in jacobian(net, p.params, p.x1).items():
        along = leaf.reshape(*leaf.shape[:2], -1) @ weights[path].ravel()
        assert_close(along, net.forward(p.params, p.x1)[0], RTOL)
        total = total + along
    assert_close(total, depth * net.forward(p.params, p.x1)[0], RTOL)


# --- symmetries ----------------------------------------------------------------------------------


@by_name
@by_method
def test_the_jacobian_times_its_transpose(name, method):
    p = named(name)
    j1, j2 = (
        np.concatenate([leaf.reshape(*leaf.shape[:2], -1) for leaf in jacobian(p.net, p.params, x).values()], axis=2)
        for x in (p.x1, p.x2)
    )
    expected = np.einsum("iop,jqp->ijoq", j1, j2)
    assert_close(empirical_ntk(*p, output="full", method=method), expected, RTOL)
    assert_close(empirical_ntk(*p, output="diagonal", method=method), np.einsum("ijoo->ijo", expected), RTOL)
    trace = np.einsum("ijoo->ij", expected) / expected.shape[-1]
    assert_close(empirical_ntk(*p, output="trace", method=method), trace, RTOL)


@by_name
@by_method
def test_symmetric_and_positive_semidefinite(name, method):
    p = named(name)
    for output in ("trace", "diagonal"):
        half = empirical_ntk(p.net, p.params, p.x1, output=output, method=method)
        assert np.array_equal(half, half.swapaxes(0, 1))
    gram = as_matrix(empirical_ntk(p.net, p.params, p.x1, output="full", method=method))
    assert_close(gram, gram.T, RTOL)
    eigenvalues = np.linalg.eigvalsh(gram)
    assert eigenvalues[0] > -tol("float64", len(gram)) * eigenvalues[-1]


@by_name
@by_method
@pytest.mark.parametrize("output", ["trace", "diagonal", "full"])
def test_a_symmetric_call_is_the_call_with_the_same_samples_twice(name, method, output):
    p = named(name)
    once = empirical_ntk(p.net, p.params, p.x1, output=output, method=method)
    twice = empirical_ntk(p.net, p.params, p.x1, p.x1.copy(), output=output, method=method)
    assert_close(once, twice, RTOL)


@by_name
@by_method
def test_exchange_of_the_arguments(name, method):
    p = named(name)
    there = empirical_ntk(p.net, p.params, p.x1, p.x2, output="full", method=method)
    back = empirical_ntk(p.net, p.params, p.x2, p.x1, output="full", method=method)
    assert_close(there, back.transpose(1, 0, 3, 2), RTOL)


@by_name
def test_the_trace_at_a_sample_is_the_squared_norm_of_its_jacobian(name):
    p = named(name)
    leaves = jacobian(p.net, p.params, p.x1).values()
    squares = sum((leaf.reshape(len(leaf), -1) ** 2).sum(axis=1) for leaf in leaves)
    k = next(iter(leaves)).shape[1]
    assert_close(np.diag(empirical_ntk(p.net, p.params, p.x1)) * k, squares, RTOL)


@by_name
@by_method
@pytest.mark.parametrize("output", ["trace", "diagonal", "full"])
def test_the_parts_of_the_parameters_add_up(name, method, output):
    p = named(name)
    parts = layer_ntks(*p, output=output, method=method)
    assert_close(sum(parts.values()), empirical_ntk(*p, output=output, method=method), RTOL)


# --- products and differences --------------------------------------------------------------------


@by_name
def test_the_operator_is_the_matrix(name):
    p = named(name)
    matrix = as_matrix(empirical_ntk(*p, output="full"))
    operator, rng = ntk_operator(*p), np.random.default_rng(1)
    u, v, w = (rng.standard_normal(size) for size in (matrix.shape[0], matrix.shape[1], matrix.shape[1]))
    assert operator.shape == matrix.shape
    assert_close(operator @ v, matrix @ v, RTOL)
    assert_close(operator @ np.stack([v, w], axis=1), matrix @ np.stack([v, w], axis=1), RTOL)
    assert_close(operator.T @ u, matrix.T @ u, RTOL)
    assert_close(operator @ (2 * v - 3 * w), 2 * (operator @ v) - 3 * (operator @ w), RTOL)
    assert u @ (operator @ v) == pytest.approx(v @ (operator.T @ u), rel=1e-11)


@by_name
def test_a_gradient_step_moves_the_outputs_by_the_kernel(name):
    """f(theta + h J2^T v) - f(theta - h J2^T v) = 2 h Theta v + O(h^3)."""
    p, h = named(name), 1e-5
    outputs = p.net.forward(p.params, p.x2)[0].shape
    v = np.random.default_rng(1).standard_normal(outputs)
    leaves = jacobian(p.net, p.params, p.x2)
    step = {path: np.tensordot(v, leaf, axes=2) for path, leaf in leaves.items()}
    ahead, behind = (p.net.forward(_moved(p.params, step, sign * h), p.x1)[0] for sign in (1, -1))
    expected = as_matrix(empirical_ntk(*p, output="full")) @ v.ravel()
    assert_close(((ahead - behind) / (2 * h)).ravel(), expected, 1e-6)


def _moved(params, step, h, path=""):
    """The tree plus h times the arrays of `step`, which holds them by path."""
    if isinstance(params, (dict, tuple)):
        items = params.items() if isinstance(params, dict) else enumerate(params)
        moved = {key: _moved(entry, step, h, f"{path}.{key}" if path else str(key)) for key, entry in items}
        return moved if isinstance(params, dict) else tuple(moved.values())
    return params + h * step[path] if path in step else params


# --- the wide limit ------------------------------------------------------------------------------


def _finite_kernels(width, depth, seeds, activation, x, **scales):
    """Finite NTKs (seeds, n, n) of independent networks with one output."""
    net = mlp((width,) * depth, k=1, activation=activation, **scales)
    return np.stack([empirical_ntk(net, net.init(x.shape[1:], seed=s, dtype="float64"), x) for s in range(seeds)])


@pytest.mark.stat
@pytest.mark.parametrize(("activation", "kind"), [("relu", layers.ReLU), ("erf", layers.Erf)])
def test_one_hidden_layer_has_the_mean_of_the_infinite_kernel(activation, kind):
    """One hidden layer's NTK is a mean over neurons: unbiased at every width.

    R = 64 networks of 256 neurons, 10 distinct entries. Student's t with 63 degrees of freedom exceeds 7 with
    probability 2e-9 per entry, so the test fails by chance with probability below 1e-7 (the entries are means of
    64 x 256 terms, so normal for that purpose).
    """
    x, scales = np.random.default_rng(0).standard_normal((4, 8)), {"W_std": 1.3, "b_std": 0.2}
    found = _finite_kernels(256, 1, 64, kind, x, **scales)
    exact = ntk(x, depth=1, activation=activation, **scales)
    standard_error = found.std(axis=0, ddof=1) / math.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - exact) < 7 * standard_error).all()
    assert (standard_error < 0.05 * np.abs(exact).max()).all()


@pytest.mark.stat
def test_deviation_from_the_infinite_kernel_falls_with_the_root_of_the_width():
    """Depth 2: the median deviations at widths m and 16 m have ratio 4.

    R = 60 networks each; medians, since narrow networks have heavy tails. The logarithm of a median of 60 absolute
    normal deviations has standard deviation 0.15, that of a ratio 0.21, and the mean over three entries 0.11
    (simulated). A factor of 2.5 either way is 0.92, more than 8 of these: failure probability below 1e-9. Rates of 1
    and of the width itself have ratios 1 and 16.
    """
    x = 3 * np.random.default_rng(0).standard_normal((2, 6))
    exact = ntk(x, depth=2, b_std=0.1)
    narrow, wide = (_finite_kernels(width, 2, 60, layers.ReLU, x, b_std=0.1) for width in (16, 256))
    medians = [np.median(np.abs(found - exact), axis=0)[np.triu_indices(2)] for found in (narrow, wide)]
    ratio = math.exp(np.log(medians[0] / medians[1]).mean())
    assert 4 / 2.5 < ratio < 4 * 2.5
    assert (medians[1] < 0.15 * exact[np.triu_indices(2)]).all()


# --- random architectures ------------------------------------------------------------------------


@given(drawn=architectures(), seed=st.integers(0, 2**32 - 1))
def test_random_architectures(drawn, seed):
    """All methods agree, symmetric calls agree with rectangular ones, and the parts of the parameters add up."""
    net, shape = drawn
    p = problem(net, shape, seed=seed, n1=3, n2=2)
    reference = empirical_ntk(*p, output="full", method="ntk_vector_products")
    scale = np.abs(reference).max() or 1.0
    for method in METHODS[:2]:
        got = empirical_ntk(*p, output="full", method=method)
        assert np.abs(got - reference).max() <= 1e-10 * scale, method
    for method in METHODS:
        once = empirical_ntk(p.net, p.params, p.x1, output="full", method=method)
        twice = empirical_ntk(p.net, p.params, p.x1, p.x1.copy(), output="full", method=method)
        assert deviation(once, twice) <= 1e-10, method
    parts = layer_ntks(*p, output="full")
    assert np.abs(sum(parts.values()) - reference).max() <= 1e-10 * scale
