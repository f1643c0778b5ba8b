"""The NTK operator against the dense kernel, its adjoint, and SciPy's solvers."""

import numpy as np
import pytest
from helpers import assert_close

from ntkfast.autodiff import get_autodiff
from ntkfast.empirical import jacobian, ntk_operator
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import (
    BatchNorm,
    Conv2d,
    Dense,
    Embedding,
    Flatten,
    GlobalAvgPool,
    LayerNorm,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)

NETWORKS = {
    "mlp": (Sequential(Dense(8, b_std=0.2), ReLU(), Dense(6), Tanh(), Dense(3, b_std=0.1)), (4,)),
    "one-layer": (Dense(2), (4,)),
    "residual": (Sequential(Dense(6), Residual(Sequential(LayerNorm(), Tanh(), Dense(6))), Dense(2)), (4,)),
    "cnn": (Sequential(Conv2d(4, 3), BatchNorm(), ReLU(), Conv2d(3, 3), GlobalAvgPool(), Dense(2)), (4, 4, 2)),
    "words": (Sequential(Embedding(7, 3), Tanh(), Flatten(), Dense(2)), (5,)),
}


def _make(name, n1=5, n2=3, dtype="float64"):
    net, in_shape = NETWORKS[name]
    rng = np.random.default_rng(1)
    if name == "words":
        x1, x2 = rng.integers(0, 7, (n1, *in_shape)), rng.integers(0, 7, (n2, *in_shape))
    else:
        x1, x2 = (rng.standard_normal((n, *in_shape)).astype(dtype) for n in (n1, n2))
    return net, net.init(in_shape, seed=0, dtype=dtype), x1, x2


def _matrix(net, params, x1, x2=None, **options):
    """The kernel from Jacobians as arrays, as the operator numbers it."""
    j1, j2 = (
        np.concatenate(
            [a.reshape(a.shape[0] * a.shape[1], -1) for a in jacobian(net, params, x, **options).values()], 1
        )
        for x in (x1, x1 if x2 is None else x2)
    )
    return j1 @ j2.T


def _vectors(*shape):
    return np.random.default_rng(2).standard_normal(shape)


@pytest.mark.parametrize("name", NETWORKS)
def test_products_are_those_of_the_dense_kernel(name):
    net, params, x1, x2 = _make(name)
    dense, operator = _matrix(net, params, x1, x2), ntk_operator(net, params, x1, x2)
    assert operator.shape == dense.shape
    assert operator.dtype == np.float64
    rows, columns = dense.shape
    for product, matrix, length in [
        (lambda v: operator @ v, dense, columns),
        (lambda v: operator.T @ v, dense.T, rows),
        (lambda v: operator.H @ v, dense.T, rows),
    ]:
        for shape in [(length,), (length, 1), (length, 4)]:
            v = _vectors(*shape)
            assert_close(product(v), matrix @ v, 1e-12)


def test_more_columns_than_pass_at_once():
    net, params, x1, x2 = _make("mlp")
    v = _vectors(9, 150)
    assert_close(ntk_operator(net, params, x1, x2) @ v, _matrix(net, params, x1, x2) @ v, 1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_tiles_do_not_change_products(name, symmetric):
    net, params, x1, x2 = _make(name, n1=9, n2=7)
    x2 = None if symmetric else x2
    with pytest.raises(MemoryBudgetError) as caught:
        ntk_operator(net, params, x1, x2, max_memory=1)
    smallest = int(str(caught.value).split("least ")[1].split(" ")[0])
    dense = _matrix(net, params, x1, x2)
    v = _vectors(dense.shape[1], 3)
    for budget in (smallest, 5 * smallest, 50 * smallest):
        operator = ntk_operator(net, params, x1, x2, max_memory=budget)
        assert_close(operator @ v, dense @ v, 1e-12)
        assert_close(operator @ v[:, 0], dense @ v[:, 0], 1e-12)


def test_forward_passes_run_once(monkeypatch):
    net, params, x1, x2 = _make("mlp")
    operator = ntk_operator(net, params, x1, x2)
    monkeypatch.setattr(Sequential, "forward", None)
    operator @ np.ones(9)
    operator.T @ np.ones(15)


def test_tangents_match_cotangents():
    """<u, Theta v> = <Theta^T u, v>."""
    net, params, x1, x2 = _make("cnn")
    operator = ntk_operator(net, params, x1, x2)
    u, v = _vectors(operator.shape[0]), _vectors(operator.shape[1])
    assert abs(u @ (operator @ v) - (operator.T @ u) @ v) < 1e-12 * abs(u) @ abs(operator @ v)


def test_conjugate_gradients():
    from scipy.sparse.linalg import LinearOperator, cg

    net, params, x, _ = _make("mlp")
    operator, dense = ntk_operator(net, params, x), _matrix(net, params, x)
    y = _vectors(len(dense))
    regularized = LinearOperator(dense.shape, matvec=lambda v: operator @ v + v, dtype=operator.dtype)
    found, status = cg(regularized, y, rtol=1e-12)
    assert status == 0
    assert_close(found, np.linalg.solve(dense + np.eye(len(dense)), y), 1e-10)


def test_lanczos():
    from scipy.sparse.linalg import eigsh, svds

    net, params, x1, x2 = _make("cnn", n1=8)
    values = eigsh(ntk_operator(net, params, x1), k=3, return_eigenvectors=False, v0=np.ones(16))
    assert_close(np.sort(values), np.linalg.eigvalsh(_matrix(net, params, x1))[-3:], 1e-10)
    largest = svds(ntk_operator(net, params, x1, x2), k=2, return_singular_vectors=False, v0=np.ones(6))
    expected = np.linalg.svd(_matrix(net, params, x1, x2), compute_uv=False)[:2]
    assert_close(np.sort(largest), np.sort(expected), 1e-10)


def test_single_precision():
    net, params, x1, x2 = _make("mlp", dtype="float32")
    operator = ntk_operator(net, params, x1, x2)
    assert operator.dtype == np.float32
    v = _vectors(9)
    for given in (v, v.astype("float32")):
        assert (operator @ given).dtype == np.float32
        assert_close(operator @ given, _matrix(net, params, x1, x2) @ v, 1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_backends(backend, name):
    net, params, x1, x2 = _make(name)
    there = tuple({key: backend.asarray(array) for key, array in entry.items()} for entry in params)
    operator = ntk_operator(net, there, backend.asarray(x1), backend.asarray(x2))
    dense = _matrix(net, params, x1, x2)
    v, u = _vectors(dense.shape[1], 2), _vectors(dense.shape[0])
    assert_close(backend.to_numpy(operator @ backend.asarray(v)), dense @ v, 1e-12)
    assert_close(backend.to_numpy(operator.T @ backend.asarray(u)), dense.T @ u, 1e-12)


def test_refusals():
    net, params, x1, x2 = _make("mlp")
    operator = ntk_operator(net, params, x1, x2)
    with pytest.raises(TypeError, match="expected a vector of real numbers, got dtype complex128"):
        operator @ np.ones(9, complex)
    with pytest.raises(ValueError, match="dimension mismatch"):
        operator @ np.ones(15)
    with pytest.raises(ValueError, match="expected x2 of shape"):
        ntk_operator(net, params, x1, x2[:, :2])


def _function(name):
    """A network with a tensor of the inputs that occurs twice, in the words of a framework."""
    if name == "autograd":
        numpy = pytest.importorskip("autograd.numpy")
    else:
        numpy = pytest.importorskip({"jax": "jax.numpy", "torch": "torch"}[name])

    def function(params, x):
        hidden = numpy.tanh(x @ params["in"]) + x[:, :1]
        return hidden @ params["out"][0] + params["out"][1]

    return function


@pytest.mark.parametrize("name", ["autograd", "jax", "torch"])
def test_functions_of_other_frameworks(name):
    function = _function(name)
    rng = np.random.default_rng(0)
    dtype = "float32" if name == "jax" else "float64"  # whatever jax's 64-bit mode is
    params = {"in": rng.standard_normal((4, 6)), "out": [rng.standard_normal((6, 2)), rng.standard_normal(2)]}
    params = {"in": params["in"].astype(dtype), "out": [a.astype(dtype) for a in params["out"]]}
    x1, x2 = rng.standard_normal((5, 4)).astype(dtype), rng.standard_normal((3, 4)).astype(dtype)
    dense = _matrix(function, params, x1, x2, autodiff=name)
    operator = ntk_operator(function, params, x1, x2, autodiff=get_autodiff(name))
    v, u = _vectors(6, 3).astype(dtype), _vectors(10).astype(dtype)
    tolerance = 1e-12 if dtype == "float64" else 1e-5
    assert_close(operator @ v, dense @ v, tolerance)
    assert_close(operator.T @ u, dense.T @ u, tolerance)
    tiled = ntk_operator(function, params, x1, x2, autodiff=name, max_memory=2 * 8 * 100 * 8 * 6)
    assert_close(tiled @ v, dense @ v, tolerance)
