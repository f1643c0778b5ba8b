"""Small networks of every kind, and a strategy that draws more of them."""

from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import strategies as st

from ntkfast import layers
from ntkfast.errors import MemoryBudgetError
from ntkfast.layers import Dense, Residual, Sequential

IMAGE = (6, 5, 2)


def smallest_budget(call):
    """The least max_memory that the call accepts, as its error names it."""
    with pytest.raises(MemoryBudgetError) as caught:
        call(max_memory=1)
    return int(next(word for word in str(caught.value).split() if word.isdigit()))


class Problem(NamedTuple):
    """A network, its parameters, and two batches of different size."""

    net: Sequential
    params: tuple
    x1: np.ndarray
    x2: np.ndarray


def problem(net, shape, *, seed=0, dtype="float64", n1=5, n2=3):
    """Parameters and inputs for a network, normal numbers or tokens; parameters moved away from 0 and 1."""
    rng = np.random.default_rng(seed)
    params = perturbed(net.init(shape, seed=seed, dtype=dtype), rng)
    first = net.layers[0]
    if isinstance(first, layers.Embedding):
        x1, x2 = (rng.integers(first.vocabulary, size=(n, *shape)) for n in (n1, n2))
    else:
        x1, x2 = (rng.standard_normal((n, *shape)).astype(dtype) for n in (n1, n2))
    return Problem(net, params, x1, x2)


def perturbed(params, rng):
    """The tree with every array times numbers about 1 plus a little: no two entries equal, variances positive."""
    if isinstance(params, dict):
        return {name: perturbed(entry, rng) for name, entry in params.items()}
    if isinstance(params, tuple):
        return tuple(perturbed(entry, rng) for entry in params)
    noise = rng.uniform(0.8, 1.2, params.shape) * params + rng.uniform(0.0, 0.1, params.shape)
    return noise.astype(params.dtype)


def mlp(widths=(7, 6), k=3, *, activation=layers.ReLU, **options):
    """Dense layers with an activation between them."""
    hidden = [layer for width in widths for layer in (Dense(width, **options), activation())]
    return Sequential(*hidden, Dense(k, **options))


def _named():
    """Networks by name, with the shape of a sample: built when asked for."""
    conv, relu, tanh = layers.Conv2d, layers.ReLU, layers.Tanh
    return {
        "linear": lambda: (Sequential(Dense(3)), (4,)),
        "mlp": lambda: (mlp(b_std=0.1), (4,)),
        "mlp_standard": lambda: (mlp(b_std=0.1, parameterization="standard"), (4,)),
        "mlp_tanh": lambda: (mlp(activation=tanh, b_std=0.1), (4,)),
        "one_output": lambda: (mlp(k=1, b_std=0.1), (4,)),
        "wide_output": lambda: (mlp((3,), k=12), (4,)),
        "no_parameters_below": lambda: (Sequential(layers.Flatten(), relu(), Dense(3, b_std=0.1)), IMAGE),
        "cnn_gap": lambda: (
            Sequential(conv(3, 3, padding="SAME", b_std=0.1), relu(), conv(4, 3, stride=2, padding="SAME", b_std=0.1),
                       relu(), layers.GlobalAvgPool(), Dense(3, b_std=0.1)), IMAGE),
        "cnn_flatten": lambda: (
            Sequential(conv(3, 3, padding="VALID"), tanh(), layers.Flatten(), Dense(3)), IMAGE),
        "cnn_groups": lambda: (
            Sequential(conv(4, 3, padding="SAME", groups=2, b_std=0.1), relu(), conv(4, 3, padding="SAME", groups=4),
                       relu(), conv(3, 1), layers.GlobalAvgPool()), IMAGE),
        "cnn_dilation": lambda: (
            Sequential(conv(3, 2, padding=((1, 0), (2, 1)), dilation=2, b_std=0.1), tanh(), layers.Flatten(), Dense(2)),
            IMAGE),
        "pools": lambda: (
            Sequential(conv(3, 3, padding="SAME", b_std=0.1), relu(), layers.MaxPool2d(2), conv(4, 1, b_std=0.1),
                       relu(), layers.AvgPool2d(2), layers.Flatten(), Dense(3, b_std=0.1)), IMAGE),
        "conv1d": lambda: (
            Sequential(layers.Conv1d(3, 3, padding="SAME", b_std=0.1), tanh(), layers.Flatten(), Dense(2)), (6, 2)),
        "norms": lambda: (
            Sequential(conv(4, 3, padding="SAME"), layers.BatchNorm(), relu(), layers.GlobalAvgPool(),
                       layers.LayerNorm(), Dense(3)), IMAGE),
        "embedding": lambda: (
            Sequential(layers.Embedding(6, 3), tanh(), layers.Flatten(), Dense(2, b_std=0.1)), (4,)),
        "residual": lambda: (
            Sequential(Dense(5), Residual(Sequential(layers.GELU(), Dense(5, b_std=0.1)), Dense(5)), Residual(
                Sequential(relu(), Dense(5))), Dense(2)), (4,)),
        "resnet": lambda: (
            Sequential(conv(4, 3, padding="SAME"), layers.BatchNorm(), relu(),
                       Residual(Sequential(conv(6, 3, stride=2, padding="SAME"), layers.BatchNorm(), relu(),
                                           conv(6, 3, padding="SAME"), layers.BatchNorm()),
                                Sequential(conv(6, 1, stride=2, padding="SAME"), layers.BatchNorm())),
                       relu(), layers.GlobalAvgPool(), Dense(3, b_std=0.1)), IMAGE),
    }  # fmt: skip


NAMES = (
    "linear", "mlp", "mlp_standard", "mlp_tanh", "one_output", "wide_output", "no_parameters_below", "cnn_gap",
    "cnn_flatten", "cnn_groups", "cnn_dilation", "pools", "conv1d", "norms", "embedding", "residual", "resnet",
)  # fmt: skip


def named(name, **options):
    """One of `NAMES` as a `Problem`."""
    net, shape = _named()[name]()
    return problem(net, shape, **options)


# --- random architectures ------------------------------------------------------------------------

ACTIVATIONS = ("ReLU", "LeakyReLU", "Abs", "Erf", "GELU", "Tanh", "Sigmoid", "SiLU", "Softplus", "Identity", "Sin")


@st.composite
def architectures(draw):
    """A network of dense layers, convolutions, pools, norms, residual blocks and activations, and its input's shape."""
    shape = (draw(st.integers(4, 6)), draw(st.integers(4, 6)), draw(st.integers(1, 3)))
    parameterization = draw(st.sampled_from(("ntk", "standard")))
    built, current = [], shape
    for _ in range(draw(st.integers(1, 5))):
        layer = draw(_spatial(current, parameterization))
        built.append(layer)
        current = layer.out_shape(current)
    built.append(draw(st.sampled_from((layers.GlobalAvgPool(), layers.Flatten()))))
    for _ in range(draw(st.integers(0, 2))):
        built += [_affine(draw, Dense, draw(st.integers(1, 5)), parameterization), draw(_elementwise())]
    if draw(st.booleans()):
        built.append(layers.LayerNorm())
    return Sequential(*built, _affine(draw, Dense, draw(st.integers(1, 4)), parameterization)), shape


def _affine(draw, layer, *arguments, **options):
    *arguments, parameterization = arguments
    b_std = draw(st.sampled_from((0.0, 0.3)))
    return layer(*arguments, W_std=1.2, b_std=b_std, parameterization=parameterization, **options)


def _elementwise():
    return st.sampled_from(ACTIVATIONS).map(lambda name: getattr(layers, name)())


@st.composite
def _spatial(draw, shape, parameterization, within=False):
    """A layer on images; within a residual block, one that keeps their shape."""
    kinds = ["conv", "activation", "norm"] + ([] if within else ["residual", "pool", "dense"])
    match draw(st.sampled_from(kinds)):
        case "conv":
            return draw(_convolution(shape, parameterization, keep=within))
        case "activation":
            return draw(_elementwise())
        case "norm":
            return draw(st.sampled_from((layers.BatchNorm(), *(layers.LayerNorm(axes=axes) for axes in (1, 2, 3)))))
        case "residual":
            body = [draw(_spatial(shape, parameterization, within=True)) for _ in range(draw(st.integers(1, 3)))]
            return Residual(Sequential(*body))
        case "pool":
            pool = draw(st.sampled_from((layers.AvgPool2d, layers.MaxPool2d)))
            return pool(2, stride=draw(st.sampled_from((1, 2))), padding="SAME")
        case _:
            return _affine(draw, Dense, draw(st.integers(1, 3)), parameterization)


@st.composite
def _convolution(draw, shape, parameterization, keep):
    channels = shape[-1]
    groups = draw(st.sampled_from([g for g in (1, 2, 3) if channels % g == 0]))
    out = channels if keep else groups * draw(st.integers(1, 2))
    options = {"padding": "SAME", "groups": groups, "dilation": draw(st.sampled_from((1, 2)))}
    options["stride"] = 1 if keep else draw(st.sampled_from((1, 2)))
    return _affine(draw, layers.Conv2d, out, draw(st.integers(1, 3)), parameterization, **options)
