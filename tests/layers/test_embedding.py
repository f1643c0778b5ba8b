"""Embedding against one-hot vectors times a dense layer."""

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.layers import Cotangent, Dense, Embedding, Sequential, SparseFactors

VOCABULARY, C, N, K = 5, 3, 4, 2


def _random(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _indices(*shape):
    return np.random.default_rng(1).integers(0, VOCABULARY, (N, *shape))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("kind", ["int8", "uint16", "int32", "int64"])
def test_forward_looks_rows_up(kind, dtype, backend):
    table, x = _random(VOCABULARY, C, dtype=dtype), _indices(3, 2).astype(kind)
    params = {"weight": backend.asarray(table)}
    y, _ = Embedding(VOCABULARY, C, W_std=0.5).forward(params, backend.asarray(x))
    y = backend.to_numpy(y)
    assert y.dtype == dtype
    assert_close(y, 0.5 * table[x], 0)
    y, _ = Embedding(VOCABULARY, C, W_std=0.5, parameterization="standard").forward(params, backend.asarray(x))
    assert_close(backend.to_numpy(y), table[x], 0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize("shared", [False, True])
def test_factors_are_those_of_one_hot_vectors(shape, shared):
    """A dense layer on one-hot vectors is the same function, with fan-in 1 instead of the vocabulary."""
    layer, x = Embedding(VOCABULARY, C, W_std=0.7), _indices(*shape)
    dense = Dense(C, W_std=0.7 * np.sqrt(VOCABULARY))
    params = {"weight": _random(VOCABULARY, C)}
    ct = Cotangent(_random(*((1,) * (1 + len(shape)) if shared else (N, *shape)), K, C), _random(N, *shape, C))
    _, saved = layer.forward(params, x)
    _, one_hot = dense.forward(params, np.eye(VOCABULARY)[x])
    found, expected = layer.factors(params, saved, ct)["weight"], dense.factors(params, one_hot, ct)["weight"]
    assert isinstance(found, SparseFactors)
    assert_close(found.jacobian(), expected.jacobian(), tol("float64"))
    assert_close(found.total(), expected.total(), tol("float64", 4))
    assert_close(found.rows(slice(1, 3)).total(), expected.rows(slice(1, 3)).total(), tol("float64", 4))
    direction = {"weight": _random(VOCABULARY, C, seed=2)}
    assert_close(layer.param_jvp(params, direction, saved), dense.param_jvp(params, direction, one_hot), tol("float64"))


def test_memory_is_that_of_the_indices():
    """A sample's factors hold its indices, not the table."""
    x = np.arange(12).reshape(4, 3) * 1000
    layer = Embedding(50_000, 2)
    found = layer.factors({}, x, Cotangent(np.ones((1, 1, K, 2))))["weight"]
    assert found.index.size == x.size
    assert found.size == 100_000


@pytest.mark.parametrize(("index", "shown"), [(5, "5"), (-1, "-1"), (2**40, str(2**40))])
def test_indices_outside_the_vocabulary_are_refused(index, shown, backend):
    x = np.zeros((2, 3), np.int64)
    x[1, 2] = index
    with pytest.raises(
        ValueError, match=rf"expected integers in \[0, 5\), the vocabulary of the Embedding, got {shown}"
    ):
        Embedding(VOCABULARY, C).forward({"weight": backend.asarray(_random(VOCABULARY, C))}, backend.asarray(x))


@pytest.mark.parametrize("dtype", [np.float32, np.bool_])
def test_other_dtypes_are_refused(dtype):
    with pytest.raises(TypeError, match=f"expected integers as input of an Embedding, got dtype {np.dtype(dtype)}"):
        Embedding(VOCABULARY, C).forward({"weight": _random(VOCABULARY, C)}, np.zeros((2, 3), dtype))


def test_there_is_no_gradient_by_integers():
    layer, params = Embedding(VOCABULARY, C), {"weight": _random(VOCABULARY, C)}
    _, saved = layer.forward(params, _indices(3))
    with pytest.raises(TypeError, match="no gradient by the input of an Embedding"):
        layer.vjp(params, saved, Cotangent(_random(N, 3, K, C)))
    with pytest.raises(TypeError, match="no tangent of the input of an Embedding"):
        layer.jvp(params, saved, _random(N, 3, K, C))


def test_the_network_above_does_not_ask_for_it():
    net = Sequential(Embedding(VOCABULARY, C), Dense(2))
    params = net.init((3,), seed=0, dtype="float64")
    _, saved = net.forward(params, _indices(3))
    paths = [path for path, _ in net.backward(params, saved, Cotangent(_random(1, 1, K, 2)), want_input=False)]
    assert paths == ["1", "0"]


def test_standard_parameterization_draws_with_its_scale():
    """One stream in both: standard is W_std times what ntk draws."""
    ntk = Embedding(VOCABULARY, C, W_std=0.7).init((3,), seed=4, dtype="float64")
    standard = Embedding(VOCABULARY, C, W_std=0.7, parameterization="standard").init((3,), seed=4, dtype="float64")
    assert_close(standard["weight"], 0.7 * ntk["weight"], tol("float64"))


def test_shapes():
    layer = Embedding(VOCABULARY, C)
    assert layer.parameter_shapes((7,)) == {"weight": (VOCABULARY, C)}
    assert layer.out_shape(()) == (C,)
    assert layer.out_shape((2, 3)) == (2, 3, C)


@pytest.mark.parametrize(
    ("arguments", "keywords", "message"),
    [
        ((0, 3), {}, "expected vocabulary to be at least 1"),
        ((3, 0), {}, "expected dim to be at least 1"),
        ((3, 2), {"W_std": 0}, "expected W_std to be a finite number greater than 0"),
        ((3, 2), {"parameterization": "mup"}, "expected parameterization to be one of ntk, standard"),
    ],
)
def test_settings(arguments, keywords, message):
    with pytest.raises(ValueError, match=message):
        Embedding(*arguments, **keywords)
