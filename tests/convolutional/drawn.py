"""Random architectures that have an infinite-width limit, drawn by hypothesis."""

from typing import NamedTuple

import numpy as np
from hypothesis import strategies as st

from ntkfast.layers import (
    Abs,
    AvgPool2d,
    Conv2d,
    Dense,
    Erf,
    Flatten,
    GlobalAvgPool,
    Identity,
    LeakyReLU,
    ReLU,
    Residual,
    Sequential,
)

#: So many channels that no two patches are parallel by chance.
CHANNELS = 3
_W_STD, _B_STD = (0.7, 1.5), (0.0, 0.3)


class Drawn(NamedTuple):
    """A network and the height and width of images that it takes."""

    network: Sequential
    size: tuple[int, int]


@st.composite
def networks(draw):
    """A network of convolutions, pools and residual sums, then a mean or all pixels, and dense layers."""
    size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    layers, left = [], size
    for _ in range(draw(st.integers(0, 3))):
        layer = draw(_blocks(left, depth=2))
        layers.append(layer)
        left = layer.out_shape((*left, CHANNELS))[:2]
    layers.append(draw(st.sampled_from([GlobalAvgPool(), Flatten()])))
    for _ in range(draw(st.integers(0, 2))):
        layers += [draw(_dense()), draw(_activations())]
    return Drawn(Sequential(*layers, draw(_dense())), size)


def _dense():
    return st.builds(lambda w, b: Dense(CHANNELS, W_std=w, b_std=b), st.floats(*_W_STD), st.sampled_from(_B_STD))


def _activations():
    slopes = st.sampled_from([-0.5, 0.0, 0.2, 1.0, 3.0])
    plain = st.sampled_from([ReLU(), ReLU(), Abs(), Erf(), Identity()])
    return st.one_of(plain, st.builds(LeakyReLU, slopes))


@st.composite
def _blocks(draw, size, depth):
    """What takes an image to an image, and an activation only to what weights made."""
    kinds = ["convolution", "convolution", "dense", "pool", "identity"] + ["residual"] * (2 * (depth > 0))
    match draw(st.sampled_from(kinds)):
        case "convolution":
            return Sequential(draw(convolutions(size)), draw(_activations()))
        case "dense":
            return Sequential(draw(_dense()), draw(_activations()))
        case "pool":
            return draw(pools(size))
        case "identity":
            return Identity()
        case _:
            return draw(_residuals(size, depth))


@st.composite
def _residuals(draw, size, depth):
    """A body that ends with weights, and the identity, or a convolution of the body's strides, beside it."""
    inner = draw(_blocks(size, depth - 1)) if draw(st.booleans()) else Identity()
    left = inner.out_shape((*size, CHANNELS))[:2]
    last = draw(convolutions(left))
    body = Sequential(inner, last)
    out = body.out_shape((*size, CHANNELS))[:2]
    if out == size and draw(st.booleans()):
        return Residual(body)
    stride = tuple(-(-a // b) for a, b in zip(size, out, strict=True))
    side = Conv2d(CHANNELS, draw(st.integers(1, 3)), stride=stride, padding="SAME", W_std=draw(st.floats(*_W_STD)))
    if side.out_shape((*size, CHANNELS))[:2] != out:
        side = Sequential(side, Conv2d(CHANNELS, 1)) if out == size else None
    if side is None:
        return body
    shortcut = Sequential(side, draw(_activations())) if draw(st.booleans()) else side
    return Residual(shortcut, body) if draw(st.booleans()) else Residual(body, shortcut)


@st.composite
def convolutions(draw, size):
    """Any kernel, stride and padding that fit."""
    kernel = tuple(draw(st.integers(1, 4)) for _ in size)
    stride = tuple(draw(st.sampled_from([1, 1, 2, 3])) for _ in size)
    paddings = ["SAME", "SAME"]
    if all(k <= s for k, s in zip(kernel, size, strict=True)):
        paddings.append("VALID")
        if all(s % t == 0 for s, t in zip(size, stride, strict=True)):
            paddings += ["CIRCULAR"] * 2
    sides = tuple(tuple(draw(st.integers(0, k - 1)) for _ in range(2)) for k in kernel)
    if all(s + sum(side) >= k for s, side, k in zip(size, sides, kernel, strict=True)):
        paddings += [sides] * 2
    padding = draw(st.sampled_from(paddings))
    W_std, b_std = draw(st.floats(*_W_STD)), draw(st.sampled_from(_B_STD))
    return Conv2d(CHANNELS, kernel, stride=stride, padding=padding, W_std=W_std, b_std=b_std)


@st.composite
def pools(draw, size):
    """Windows beside each other, or overlapping, or apart, with zeros around the image or without."""
    kernel = tuple(draw(st.integers(1, min(3, s))) for s in size)
    stride = draw(st.sampled_from([None, 1, 2, 3]))
    sides = tuple(tuple(draw(st.integers(0, k - 1)) for _ in range(2)) for k in kernel)
    return AvgPool2d(kernel, stride=stride, padding=draw(st.sampled_from(["VALID", "SAME", sides])))


def images(size, n, seed):
    return np.random.default_rng(seed).standard_normal((n, *size, CHANNELS))
