"""Infinite-width kernels of convolutional networks on the tensor of all pairs of pixels of all pairs of images.

The formulas of `tests/golden/README.md`, layer by layer, with nothing saved and nothing shared: every layer acts on
K[i, j, r, c, r', c'] and Theta of all images with all images. For images of a few pixels.
"""

import math
from typing import NamedTuple

import numpy as np

from ntkfast import layers


class Kernels(NamedTuple):
    """K and Theta of all pixels of all pairs of images, (n, n, h, w, h, w), and which images are equal, (n, n)."""

    k: np.ndarray
    theta: np.ndarray
    equal: np.ndarray


def kernels(network, x1, x2=None):
    """NNGP and NTK (n1, n2), float64."""
    x = np.concatenate([x1, x1 if x2 is None else x2]).astype(np.float64)
    k = np.einsum("irca,jsda->ijrcsd", x, x) / x.shape[-1]
    equal = (x[:, None] == x[None]).all(axis=(2, 3, 4))
    out = forward(network, Kernels(k, np.zeros_like(k), equal))
    assert out.k.shape[2:] == (1, 1, 1, 1)
    n1 = len(x1)
    return out.k[:n1, n1:, 0, 0, 0, 0], out.theta[:n1, n1:, 0, 0, 0, 0]


def forward(layer, given):
    """The kernels behind a layer."""
    match layer:
        case layers.Sequential():
            for child in layer.layers:
                given = forward(child, given)
            return given
        case layers.Residual():
            body = forward(layer.body, given)
            side = given if layer.shortcut is None else forward(layer.shortcut, given)
            return Kernels(body.k + side.k, body.theta + side.theta, given.equal)
        case layers.Dense():
            return weights(layer, given.k, given.theta, given.equal)
        case layers.Conv2d():
            window = layer.kernel_size, layer.stride, layer.padding
            return weights(layer, diagonal_mean(given.k, *window), diagonal_mean(given.theta, *window), given.equal)
        case layers.AvgPool2d():
            window = layer.size, layer.stride, layer.padding
            return Kernels(double_mean(given.k, *window), double_mean(given.theta, *window), given.equal)
        case layers.GlobalAvgPool():
            return Kernels(*(a.mean(axis=(2, 3, 4, 5), keepdims=True) for a in given[:2]), given.equal)
        case layers.Flatten():
            return Kernels(
                *(same_pixel(a).mean(axis=(2, 3))[..., None, None, None, None] for a in given[:2]), given.equal
            )
        case layers.Identity():
            return given
        case _:
            return activation(layer, given)


def weights(layer, k, theta, equal):
    """K <- W_std^2 K + b_std^2, Theta <- K + W_std^2 Theta."""
    k = layer.W_std**2 * k + (layer.b_std**2 if layer.bias else 0.0)
    return Kernels(k, k + layer.W_std**2 * theta, equal)


def activation(layer, given):
    """E[phi phi] and E[phi' phi'] at (q, q', K) of every pair of pixels."""
    n = len(given.k)
    q = same_pixel(given.k)[np.arange(n), np.arange(n)]  # (n, h, w)
    q1, q2 = q[:, None, :, :, None, None], q[None, :, None, None]
    size = np.sqrt(q1 * q2)
    k = np.where(same_pair(given), size, given.k)  # a pixel and itself: the angle is 0, whatever rounding says
    if isinstance(layer, layers.Erf):
        product = np.sqrt((1 + 2 * q1) * (1 + 2 * q2))
        value = 2 / math.pi * np.arcsin(2 * k / product)
        slope = 4 / math.pi / np.sqrt((product - 2 * k) * (product + 2 * k))
        return Kernels(value, slope * given.theta, given.equal)
    negative = {layers.ReLU: 0.0, layers.Abs: -1.0}.get(type(layer))
    negative = layer.slope if negative is None else negative
    even, odd = (1 - negative) / 2, (1 + negative) / 2  # phi(z) = odd z + even abs(z)
    angle = np.arccos(np.clip(k / np.where(size > 0, size, 1), -1, 1))
    absolute = 2 / math.pi * (size * np.sin(angle) + (math.pi / 2 - angle) * k)  # E abs(u) abs(v)
    slope = odd**2 + even**2 * (1 - 2 * angle / math.pi)
    return Kernels(odd**2 * k + even**2 * absolute, slope * given.theta, given.equal)


def same_pixel(a):
    """A[..., p, p], (n, n, h, w)."""
    return np.einsum("ijrcrc->ijrc", a)


def same_pair(given):
    """Whether both sides are the same pixel of equal images."""
    _, _, h, w, _, _ = given.k.shape
    pixel = np.eye(h * w, dtype=bool).reshape(h, w, h, w)
    return given.equal[:, :, None, None, None, None] & pixel


def diagonal_mean(a, kernel, stride, padding):
    """Mean over the taps s of A(t p + s, t q + s): one tap for both pixels."""
    places, padded = pad(a, kernel, stride, padding)
    total = 0.0
    for u in range(kernel[0]):
        for v in range(kernel[1]):
            r = slice(u, u + (places[0] - 1) * stride[0] + 1, stride[0])
            c = slice(v, v + (places[1] - 1) * stride[1] + 1, stride[1])
            total = total + padded[:, :, r, c, r, c]
    return total / math.prod(kernel)


def double_mean(a, kernel, stride, padding):
    """Mean over the windows of both pixels, each with taps of its own."""
    places, padded = pad(a, kernel, stride, padding)
    for axis, side in ((2, 0), (3, 1), (4, 0), (5, 1)):
        index = np.arange(places[side])[:, None] * stride[side] + np.arange(kernel[side])
        padded = np.take(padded, index.ravel(), axis=axis)
        shape = (*padded.shape[:axis], places[side], kernel[side], *padded.shape[axis + 1 :])
        padded = padded.reshape(shape).mean(axis=axis + 1)
    return padded


def pad(a, kernel, stride, padding):
    """Places of the window, and the tensor with zeros around both images, or the images again."""
    sides = []
    for size, k, t, axis in zip(a.shape[2:4], kernel, stride, (0, 1), strict=True):
        total = max((math.ceil(size / t) - 1) * t + k - size, 0)
        if padding == "VALID":
            sides.append((0, 0))
        elif isinstance(padding, str):
            sides.append((total // 2, total - total // 2))
        else:
            sides.append(padding[axis])
    places = [
        (size + sum(side) - k) // t + 1 for size, side, k, t in zip(a.shape[2:4], sides, kernel, stride, strict=True)
    ]
    mode = "wrap" if padding == "CIRCULAR" else "constant"
    return places, np.pad(a, ((0, 0), (0, 0), *sides, *sides), mode=mode)
