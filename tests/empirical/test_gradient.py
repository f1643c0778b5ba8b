"""Gradients of the NTK with respect to the inputs: against differences, PyTorch, and identities."""

import numpy as np
import pytest
from helpers import assert_close

from ntkfast._tree import flatten, pick
from ntkfast.empirical import directional_vjp, empirical_ntk_vjp, jacobian
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import (
    GELU,
    Abs,
    AvgPool2d,
    BatchNorm,
    Conv1d,
    Conv2d,
    Dense,
    Embedding,
    Erf,
    Flatten,
    GlobalAvgPool,
    Identity,
    LayerNorm,
    LeakyReLU,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Sigmoid,
    SiLU,
    Sin,
    Softplus,
    Tanh,
)

OUTPUTS = ("trace", "diagonal", "full")
STEP = 1e-5

BOTTLENECK = Residual(Sequential(Tanh(), Dense(4, b_std=0.2), GELU(), Dense(6)))
PROJECTION = Residual(Sequential(Conv2d(4, 3), Tanh(), Conv2d(5, 3, b_std=0.1)), Conv2d(5, 1))
NETWORKS = {
    "linear": (Dense(3, b_std=0.3), (4,)),
    "relu": (Sequential(Dense(7, b_std=0.3), ReLU(), Dense(6), ReLU(), Dense(3, b_std=0.1)), (4,)),
    "tanh": (Sequential(Dense(7, b_std=0.3), Tanh(), Dense(6), Erf(), Dense(3)), (4,)),
    "standard": (Sequential(Dense(7, parameterization="standard"), GELU(), Dense(1)), (4,)),
    "residual": (Sequential(Dense(6), BOTTLENECK, Residual(Sequential(ReLU(), Dense(6))), Dense(2)), (4,)),
    "residual-first": (Sequential(Residual(Sequential(Tanh(), Dense(4))), SiLU(), Dense(2)), (4,)),
    "layernorm": (Sequential(LayerNorm(), Dense(6), LayerNorm(), Tanh(), Dense(2, b_std=0.1)), (5,)),
    "images": (Sequential(Dense(3), LayerNorm(axes=2), Tanh(), LayerNorm(axes=3), Flatten(), Dense(2)), (2, 3, 2)),
    "tokens": (Sequential(Dense(4, b_std=0.2), LayerNorm(), GELU(), Flatten(), Dense(2)), (3, 5)),
    "activation-first": (Sequential(Tanh(), Dense(3), Tanh()), (4,)),
    "cnn": (Sequential(Conv2d(4, 3, b_std=0.1), Tanh(), Conv2d(3, 3, stride=2), GlobalAvgPool(), Dense(2)), (5, 4, 2)),
    "cnn-relu": (Sequential(Conv2d(4, 3, b_std=0.1), ReLU(), AvgPool2d(2), Flatten(), Dense(2)), (4, 4, 2)),
    "groups": (Sequential(Conv2d(4, 3, groups=2), GELU(), MaxPool2d(2), Flatten(), Dense(2)), (4, 4, 2)),
    "resnet": (Sequential(Conv2d(3, 3), BatchNorm(), PROJECTION, ReLU(), GlobalAvgPool(), Dense(2)), (4, 4, 2)),
    "sequence": (Sequential(Conv1d(4, 3, b_std=0.1), Erf(), Flatten(), Dense(2)), (6, 2)),
}


def _make(name, seed=0):
    """Network, parameters that are nowhere special, and two batches."""
    net, in_shape = NETWORKS[name]
    rng = np.random.default_rng(seed)
    params = net.init(in_shape, seed=seed, dtype="float64")
    for entry in _leaves(params):
        for key, array in entry.items():
            moved = array + 0.3 * rng.standard_normal(array.shape)
            entry[key] = np.abs(moved) + 0.5 if key == "var" else moved
    return net, params, rng.standard_normal((4, *in_shape)), rng.standard_normal((3, *in_shape))


def _leaves(params):
    """Dictionaries of arrays in a tree."""
    branches = list(params.values() if isinstance(params, dict) else params)
    if branches and all(isinstance(branch, np.ndarray) for branch in branches):
        yield params
    else:
        for branch in branches:
            yield from _leaves(branch)


def _kernel(net, params, x1, x2, output):
    """The NTK from the Jacobians as arrays."""
    j1, j2 = (
        np.concatenate([a.reshape(*a.shape[:2], -1) for a in jacobian(net, params, x).values()], axis=2)
        for x in (x1, x2)
    )
    full = np.einsum("nap,mbp->nmab", j1, j2)
    diagonal = np.einsum("nmaa->nma", full)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.mean(axis=2)}[output]


def _cotangent(net, params, x1, x2, output):
    return np.random.default_rng(5).standard_normal(_kernel(net, params, x1, x2, output).shape)


def _slopes(f, x):
    """Central differences of a scalar function of an array."""
    result = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += STEP
        down[index] -= STEP
        result[index] = (f(up) - f(down)) / (2 * STEP)
    return result


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", NETWORKS)
def test_vjp_is_the_limit_of_differences(name, output):
    net, params, x1, x2 = _make(name)
    ct = _cotangent(net, params, x1, x2, output)
    gradient = empirical_ntk_vjp(net, params, x1, x2, ct, output=output)
    assert_close(gradient.x1, _slopes(lambda z: (ct * _kernel(net, params, z, x2, output)).sum(), x1), 1e-7)
    assert_close(gradient.x2, _slopes(lambda z: (ct * _kernel(net, params, x1, z, output)).sum(), x2), 1e-7)


@pytest.mark.parametrize("layer", [Abs(), Identity(), LeakyReLU(0.2), Sigmoid(), Sin(), Softplus()], ids=str)
def test_every_activation(layer):
    net = Sequential(Dense(6, b_std=0.3), layer, Dense(5), layer, Dense(2))
    params, rng = net.init((4,), seed=0, dtype="float64"), np.random.default_rng(0)
    x, ct = rng.standard_normal((4, 4)), rng.standard_normal((4, 4))
    expected = _slopes(lambda z: (ct * _kernel(net, params, z, z, "trace")).sum(), x)
    assert_close(empirical_ntk_vjp(net, params, x, None, ct).x1, expected, 1e-7)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", ["tanh", "residual", "tokens", "cnn"])
def test_a_symmetric_call_adds_both_roles(name, output):
    net, params, x, _ = _make(name)
    ct = _cotangent(net, params, x, x, output)
    once, twice = (empirical_ntk_vjp(net, params, x, other, ct, output=output) for other in (None, x.copy()))
    assert once.x2 is None
    assert_close(once.x1, twice.x1 + twice.x2, 1e-12)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", ["residual", "cnn"])
@pytest.mark.parametrize("symmetric", [True, False])
def test_tiles_do_not_change_the_result(name, output, symmetric):
    net, params, x1, x2 = _make(name)
    other = None if symmetric else x2
    ct = _cotangent(net, params, x1, x1 if symmetric else x2, output)
    whole = empirical_ntk_vjp(net, params, x1, other, ct, output=output)
    with pytest.raises(MemoryBudgetError) as caught:
        empirical_ntk_vjp(net, params, x1, other, ct, output=output, max_memory=1)
    smallest = int(str(caught.value).split("least ")[1].split(" ")[0])
    for budget in (smallest, 2 * smallest):
        tiled = empirical_ntk_vjp(net, params, x1, other, ct, output=output, max_memory=budget)
        assert_close(tiled.x1, whole.x1, 1e-12)
        if not symmetric:
            assert_close(tiled.x2, whole.x2, 1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_directional_vjp_is_the_limit_of_differences(name):
    net, params, x, _ = _make(name)
    _, direction, _, _ = _make(name, seed=1)
    directions = {path: array for path, array in flatten(direction).items() if path in jacobian(net, params, x[:1])}
    ct = np.random.default_rng(2).standard_normal((len(x), net.out_shape(x.shape[1:])[0]))

    def along(z):
        found = jacobian(net, params, z)
        return sum(np.vdot(ct, np.tensordot(found[path], v, v.ndim)) for path, v in directions.items())

    assert_close(directional_vjp(net, params, x, direction, ct), _slopes(along, x), 1e-7)


@pytest.mark.parametrize("name", ["tanh", "residual", "layernorm", "cnn", "resnet"])
def test_a_cotangent_of_rank_one_is_one_direction(name):
    """With ct[n, m, a, b] = u[n, a] w[m, b] the contraction is the derivative along J(x2)^T w."""
    net, params, x1, x2 = _make(name)
    rng, k = np.random.default_rng(3), net.out_shape(x1.shape[1:])[0]
    u, w = rng.standard_normal((len(x1), k)), rng.standard_normal((len(x2), k))
    pulled = {path: np.tensordot(w, j, 2) for path, j in jacobian(net, params, x2).items()}
    direction = pick(params, pulled)
    gradient = empirical_ntk_vjp(net, params, x1, x2, np.einsum("na,mb->nmab", u, w), output="full")
    assert_close(directional_vjp(net, params, x1, direction, u), gradient.x1, 1e-12)


def _torch_mlp(torch, params, x):
    hidden = torch.tanh(x @ params["0.weight"] * (2.0 / x.shape[-1]) ** 0.5 + 0.3 * params["0.bias"])
    hidden = torch.erf(hidden @ params["2.weight"] * (2.0 / 7) ** 0.5)
    return hidden @ params["4.weight"] * (2.0 / 6) ** 0.5


def _torch_cnn(torch, params, x):
    def conv(z, name, **options):
        weight = params[f"{name}.weight"]
        scale = (2.0 / (9 * weight.shape[2])) ** 0.5
        return scale * torch.nn.functional.conv2d(z, weight.permute(3, 2, 0, 1), padding=1, **options)

    z = torch.tanh(conv(x.permute(0, 3, 1, 2), "0") + 0.1 * params["0.bias"][:, None, None])
    # SAME with stride 2 of the even axis pads one row after, none before
    z = torch.nn.functional.pad(z, (0, 1, 1, 1))
    weight = params["2.weight"].permute(3, 2, 0, 1)
    z = (2.0 / 36) ** 0.5 * torch.nn.functional.conv2d(z, weight, stride=2)
    return z.mean(dim=(2, 3)) @ params["4.weight"] * (2.0 / 3) ** 0.5


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize(("name", "function"), [("tanh", _torch_mlp), ("cnn", _torch_cnn)])
def test_vjp_is_torchs_double_differentiation(name, function, output):
    torch = pytest.importorskip("torch")
    net, params, x1, x2 = _make(name)
    ct = _cotangent(net, params, x1, x2, output)
    tensors = {path: torch.tensor(array) for path, array in flatten(params).items()}
    points = [torch.tensor(x, requires_grad=True) for x in (x1, x2)]
    j1, j2 = (torch.func.jacrev(lambda p, z=z: function(torch, p, z))(tensors) for z in points)
    full = sum(torch.einsum("nap,mbp->nmab", j1[path].flatten(2), j2[path].flatten(2)) for path in tensors)
    diagonal = torch.einsum("nmaa->nma", full)
    kernel = {"full": full, "diagonal": diagonal, "trace": diagonal.mean(2)}[output]
    expected = torch.autograd.grad((torch.tensor(ct) * kernel).sum(), points)
    gradient = empirical_ntk_vjp(net, params, x1, x2, ct, output=output)
    for got, wanted in zip(gradient, expected, strict=True):
        assert_close(got, wanted.numpy(), 1e-12)


@pytest.mark.parametrize("name", ["relu", "layernorm", "cnn"])
def test_single_precision(name):
    net, params, x1, x2 = _make(name)
    ct = _cotangent(net, params, x1, x2, "trace")
    expected = empirical_ntk_vjp(net, params, x1, x2, ct)
    narrow = pick(params, {path: array.astype("float32") for path, array in flatten(params).items()})
    got = empirical_ntk_vjp(net, narrow, *(a.astype("float32") for a in (x1, x2, ct)))
    assert got.x1.dtype == got.x2.dtype == np.float32
    assert_close(got.x1, expected.x1, 1e-5)
    assert_close(got.x2, expected.x2, 1e-5)


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("name", ["tanh", "residual", "cnn"])
def test_backends(backend, name, output):
    net, params, x1, x2 = _make(name)
    ct = _cotangent(net, params, x1, x2, output)
    expected = empirical_ntk_vjp(net, params, x1, x2, ct, output=output)
    there = pick(params, {path: backend.asarray(array) for path, array in flatten(params).items()})
    got = empirical_ntk_vjp(net, there, *map(backend.asarray, (x1, x2, ct)), output=output)
    assert_close(backend.to_numpy(got.x1), expected.x1, 1e-13)
    assert_close(backend.to_numpy(got.x2), expected.x2, 1e-13)


def test_a_bias_alone_has_no_gradient():
    """The kernel of a bias is constant; so is that of a network whose weights meet zeros."""
    net = Sequential(ReLU(), Dense(2, b_std=0.5))
    params, x = net.init((3,), seed=0, dtype="float64"), -np.ones((2, 3))
    assert_close(empirical_ntk_vjp(net, params, x, None, np.ones((2, 2))).x1, np.zeros((2, 3)), 0.0)


def test_refusals():
    net, params, x1, x2 = _make("tanh")
    ct = np.ones((4, 3))
    for change, error, message in [
        ({"ct": np.ones((3, 4))}, ValueError, r"expected ct of shape \(4, 3\), got \(3, 4\)"),
        ({"ct": ct, "output": "full"}, ValueError, r"expected ct of shape \(4, 3, 3, 3\)"),
        ({"ct": ct.astype("float32")}, TypeError, "expected ct of dtype float64"),
        ({"ct": ct * np.nan}, ValueError, "expected ct without NaN or inf"),
        ({"ct": [[1.0]]}, TypeError, "expected"),
        ({"ct": ct, "output": "mean"}, ValueError, "expected output to be one of"),
    ]:
        with pytest.raises(error, match=message):
            empirical_ntk_vjp(net, params, x1, x2, **change)
    with pytest.raises(ValueError, match=r"direction to hold '0.weight'"):
        directional_vjp(net, params, x1, ({}, {}, {}, {}, {}), np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"expected direction\['4.weight'\] of shape \(6, 3\)"):
        directional_vjp(net, params, x1, (*params[:4], {"weight": np.ones((3, 6))}), np.ones((4, 3)))
    with pytest.raises(OverflowError, match="gradient"):
        empirical_ntk_vjp(net, params, x1, x2, ct * 1e308)


def test_words_have_no_gradient():
    net = Sequential(Embedding(5, 3), Flatten(), Dense(2))
    words = np.zeros((2, 4), np.int64)
    params = net.init((4,), seed=0, dtype="float64")
    with pytest.raises(TypeError, match="expected floating-point samples"):
        empirical_ntk_vjp(net, params, words, None, np.ones((2, 2)))
    with pytest.raises(TypeError, match="expected floating-point samples"):
        directional_vjp(net, params, words, params, np.ones((2, 2)))
