"""A network as a row of simple steps, which the feature maps of images carry out one by one.

Letters: (h, w) pixels of a step's input, (rows, columns) places of its output. What becomes a vector (by the mean over
all pixels, or by flattening) goes on as an image of one pixel.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from ...layers import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, Layer, ReLU, Sequential
from ...layers._base import Shape, layer_name
from ...layers._geometry import Window, window

__all__ = ["Conv", "Flat", "Mean", "Relu", "Step", "image_steps", "without_head"]

SUPPORTED = "Conv2d, Dense, ReLU, AvgPool2d, GlobalAvgPool and Flatten, in Sequential"


@dataclass(frozen=True, slots=True)
class Conv:
    """Convolution z[p] = W_std / sqrt(taps) sum_a W_a x[p + a] + b_std b; a dense layer is one of a single tap.

    Attributes
    ----------
    window : Window
        Which pixels the taps read; outside of the image zeros, or the image again if it is circular.
    W_std, b_std : float
        b_std is 0 without a bias.
    """

    window: Window
    W_std: float
    b_std: float


@dataclass(frozen=True, slots=True)
class Relu:
    """max(z, 0) at every pixel."""

    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over the pixels of windows; those of the padding count as zeros."""

    window: Window


@dataclass(frozen=True, slots=True)
class Flat:
    """All pixels in one vector, whose squared norm is counted per pixel."""

    size: tuple[int, int]


Step: TypeAlias = Conv | Relu | Mean | Flat


@functools.lru_cache(maxsize=64)
def image_steps(network: Layer, in_shape: Shape) -> tuple[Step, ...]:
    """Steps of a network for images of shape (h, w, c).

    Raises
    ------
    ValueError
        The network has a layer that is not supported, applies an activation to what is not Gaussian in the limit of
        infinite width, or does not end in a vector.
    """
    network.out_shape(in_shape)  # refuses, by name, layers that do not fit
    steps: list[Step] = []
    is_gaussian = False  # the input is data, and what comes out of an activation is not Gaussian either
    shape = in_shape
    for name, layer in _in_a_row(network, ""):
        found = _step(layer, name, shape)
        if isinstance(found, Relu) and not is_gaussian:
            raise ValueError(f"expected a Conv2d or Dense between layer {name} (ReLU) and the input or ReLU before it")
        is_gaussian = isinstance(found, Conv) or (is_gaussian and not isinstance(found, Relu))
        steps.append(found)
        shape = layer.out_shape(shape)
    if len(shape) != 1:
        raise ValueError(
            f"expected a network whose outputs are vectors, got {shape}; end with GlobalAvgPool or Flatten"
        )
    return tuple(steps)


def _in_a_row(layer: Layer, path: str) -> Iterator[tuple[str, Layer]]:
    """Layers by their names, nested Sequentials taken apart."""
    if not isinstance(layer, Sequential):
        yield path, layer
        return
    for name, child in layer.children():
        yield from _in_a_row(child, f"{path}.{name}" if path else name)


def _step(layer: Layer, name: str, shape: Shape) -> Step:
    """The step of one layer for inputs of `shape`."""
    size = (shape[0], shape[1]) if len(shape) == 3 else (1, 1)
    if isinstance(layer, Conv2d):
        return _conv(layer, name, shape)
    if isinstance(layer, Dense):
        _check_parameterization(layer, name)
        single = window(size, (1, 1), (1, 1), (1, 1), "VALID")
        return Conv(single, layer.W_std, layer.b_std if layer.bias else 0.0)
    if isinstance(layer, ReLU):
        return Relu(size)
    if isinstance(layer, AvgPool2d):
        layer.out_shape(shape)  # refuses vectors
        return Mean(layer._window(size))
    if isinstance(layer, GlobalAvgPool):
        layer.out_shape(shape)
        return Mean(window(size, size, (1, 1), (1, 1), "VALID"))
    if isinstance(layer, Flatten):
        return Flat(size)
    raise ValueError(f"expected a network of {SUPPORTED}; got {layer_name(layer)} as layer {name or 0}")


def _conv(layer: Conv2d, name: str, shape: Shape) -> Conv:
    _check_parameterization(layer, name)
    if layer.groups != 1 or tuple(layer.dilation) != (1, 1):  # type: ignore[arg-type]
        raise ValueError(f"expected groups = 1 and dilation = 1 in layer {name} (Conv2d), got {layer}")
    layer.out_shape(shape)  # refuses what is not an image, or too small
    return Conv(layer._window(shape[:2]), layer.W_std, layer.b_std if layer.bias else 0.0)


def _check_parameterization(layer: Conv2d | Dense, name: str) -> None:
    if layer.parameterization != "ntk":
        raise ValueError(f"expected parameterization 'ntk' in layer {name}, got {layer.parameterization!r}")


def without_head(steps: tuple[Step, ...]) -> tuple[tuple[Step, ...], Conv | None]:
    """Steps without a last dense layer on the only pixel, and that layer."""
    last = steps[-1]
    if isinstance(last, Conv) and last.window.size == (1, 1) and last.window.taps == 1:
        return steps[:-1], last
    return steps, None
