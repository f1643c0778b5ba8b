"""Jacobians as arrays and as factors: against differences, each other, and other engines."""

import numpy as np
import pytest
from helpers import assert_close

from ntkfast._tree import flatten
from ntkfast.empirical import jacobian, jacobian_factors
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import BatchNorm, Conv2d, Dense, Embedding, Flatten, ReLU, Residual, Sequential, SparseFactors, Tanh

STEP = 1e-6
NETWORKS = {
    "mlp": (Sequential(Dense(5, b_std=0.2), Tanh(), Residual(Sequential(Dense(5))), Dense(3)), (4,)),
    "one-layer": (Dense(2, b_std=0.1), (4,)),
    "cnn": (Sequential(Conv2d(3, 3), BatchNorm(), Tanh(), Flatten(), Dense(2)), (3, 3, 2)),
}


def _make(name, n=4):
    net, in_shape = NETWORKS[name]
    return net, net.init(in_shape, seed=0, dtype="float64"), np.random.default_rng(1).standard_normal((n, *in_shape))


@pytest.mark.parametrize("name", NETWORKS)
def test_jacobian_is_the_limit_of_differences(name):
    net, params, x = _make(name)
    found = jacobian(net, params, x)
    entries = {path: array for path, array in flatten(params).items() if path.rpartition(".")[2] not in net_buffers()}
    assert list(found) == list(entries)
    for path, array in entries.items():
        expected = np.empty((*net.forward(params, x)[0].shape, *array.shape))
        for index in np.ndindex(*array.shape):
            ends = []
            for step in (STEP, -STEP):
                array[index] += step
                ends.append(net.forward(params, x)[0])
                array[index] -= step
            expected[(..., *index)] = (ends[0] - ends[1]) / (2 * STEP)
        assert_close(found[path], expected, 1e-8)


def net_buffers():
    return BatchNorm().buffers


@pytest.mark.parametrize("name", NETWORKS)
def test_factors_are_the_jacobian(name):
    net, params, x = _make(name)
    arrays, factors = jacobian(net, params, x), jacobian_factors(net, params, x)
    assert list(factors) == list(arrays)
    for path, array in arrays.items():
        assert_close(factors[path].jacobian(), array, 1e-14)
        assert factors[path].shape == array.shape[2:]


@pytest.mark.parametrize("name", NETWORKS)
def test_tiles_do_not_change_the_result(name):
    net, params, x = _make(name)
    whole = jacobian(net, params, x)
    with pytest.raises(MemoryBudgetError) as caught:
        jacobian(net, params, x, max_memory=1)
    smallest = int(str(caught.value).split("least ")[1].split(" ")[0])
    for budget in (smallest, 3 * smallest):
        tiled = jacobian(net, params, x, max_memory=budget)
        assert list(tiled) == list(whole)
        for path, array in whole.items():
            assert_close(tiled[path], array, 1e-14)
            assert tiled[path].flags.c_contiguous


def test_words():
    """The rows that no sample reads have no derivative, and the factors are sparse."""
    net = Sequential(Embedding(9, 3), ReLU(), Flatten(), Dense(2))
    params = net.init((4,), seed=0, dtype="float64")
    x = np.array([[0, 1, 1, 2], [3, 3, 3, 3]])
    found, factors = jacobian(net, params, x), jacobian_factors(net, params, x)
    assert isinstance(factors["0.weight"], SparseFactors)
    assert not found["0.weight"][:, :, 4:].any()
    assert not found["0.weight"][1, :, :3].any()
    assert_close(factors["0.weight"].jacobian(), found["0.weight"], 0.0)


def test_torch_gives_the_same():
    torch = pytest.importorskip("torch")
    net = Sequential(Dense(5, W_std=1.5), Tanh(), Dense(3, b_std=0.2))
    params, x = net.init((4,), seed=0, dtype="float64"), np.random.default_rng(0).standard_normal((6, 4))

    def function(tree, z):
        hidden = torch.tanh(z @ tree[0]["weight"] * (1.5 / 2))
        return hidden @ tree[2]["weight"] * (2 / 5) ** 0.5 + 0.2 * tree[2]["bias"]

    ours, theirs = jacobian(net, params, x), jacobian(function, params, x, autodiff="torch")
    assert list(theirs) == list(ours)
    for path, array in ours.items():
        assert_close(theirs[path], array, 1e-13)


def test_backends(backend):
    net, params, x = _make("cnn")
    there = tuple({name: backend.asarray(array) for name, array in entry.items()} for entry in params)
    for path, array in jacobian(net, there, backend.asarray(x)).items():
        assert_close(backend.to_numpy(array), jacobian(net, params, x)[path], 1e-13)


def test_refusals():
    net, params, x = _make("mlp")
    with pytest.raises(ValueError, match=r"layer 0 \(Dense\)|params\['0.weight'\]"):
        jacobian(net, params, x[:, :2])
    with pytest.raises(TypeError, match="Layer"):
        jacobian_factors(lambda p, z: z, params, x)
    with pytest.raises(ValueError, match="NaN"):
        jacobian(net, params, x * np.nan)
