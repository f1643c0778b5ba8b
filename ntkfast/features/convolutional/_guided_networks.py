"""Random wide networks whose kernels vary less than those of independent normal weights.

Letters: D inputs of a channel (taps times channels, and 1 for a bias), C channels, k leading directions.

Every channel's weights w are N(0, 1) (D, C), as far as a single channel is concerned; channels depend on each other:

- Within the span U of the k = min(D, C / 2) leading directions of a layer's inputs, the first half of the channels is
  an orthogonal frame, ``Z Z^T = (C / 2) I``, and the second half its negative. So for inputs u, v in the span
  the sum over channels of (w u)(w v) is exact, and of relu(t) = t / 2 + |t| / 2 only the even part is random.
- What a channel passes down of the leading directions of the layer's cotangents has the size 1, and only its sign is
  random: the sum over channels of its square, which scales all of the kernel below, does not vary.
- The weights of the output are signs. Those of the two halves agree in half of all pairs: as many pairs pass
  1(t > 0) - 1(-t > 0) down as pass 1(t > 0) + 1(-t > 0) = 1, of whose squares the kernel of steps is the mean.

Which directions lead is measured on guide images (_guides.py), on which no expectation depends. The frame is the polar
factor of normal numbers, and so depends on the span alone, not on the basis that an eigensolver returns for it.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..._memo import memoised
from ..._typing import Array
from ...backends import Backend, get_backend
from ...kernels import philox
from ...layers import Conv2d, Cotangent, Dense, JacobianFactors, Layer, ReLU, Sequential
from ...layers._base import normal
from ._guides import guide_images
from ._network import _in_a_row

__all__ = ["RandomNetwork", "widened"]

# Places of guide images whose inputs are looked at, in at least so many images.
_PLACES, _GUIDES = 4096, 4

# Leading directions of cotangents that are passed down as signs, and rounds between them and the frames.
_PASSED, _ROUNDS = 2, 3


def widened(network: Layer, in_shape: tuple[int, ...], channels: int) -> Sequential:
    """The network with `channels` channels in every hidden layer, and one output.

    Raises
    ------
    ValueError
        The last layer with parameters comes before an activation, where single outputs have no limit; or the network
        returns several of its outputs, whose kernels have a mean that is not the kernel of one of them.
    """
    rows = [layer for _, layer in _in_a_row(network, "")]
    affine = [i for i, layer in enumerate(rows) if isinstance(layer, Conv2d | Dense)]
    bent = [i for i, layer in enumerate(rows) if isinstance(layer, ReLU)]
    if not affine or max(bent, default=-1) > affine[-1]:
        raise ValueError(
            f"expected a network that ends in Dense, or in Conv2d and pooling, got {_last(rows)} at its end"
        )
    for i in affine:
        rows[i] = _with_width(rows[i], 1 if i == affine[-1] else channels)
    outputs = math.prod(Sequential(*rows).out_shape(in_shape))
    if outputs > 1:
        raise ValueError(f"expected a Dense behind Flatten, or one pixel before it, got {outputs} pixels")
    return Sequential(*rows)


def _last(rows: list[Layer]) -> str:
    """Names of the last layers."""
    return " and ".join(type(layer).__name__ for layer in rows[-2:])


def _with_width(layer: Layer, width: int) -> Layer:
    """A Conv2d or Dense with `width` outputs."""
    if isinstance(layer, Conv2d):
        return dataclasses.replace(layer, channels=width)
    assert isinstance(layer, Dense)
    return dataclasses.replace(layer, out_dim=width)


@dataclass(frozen=True, slots=True)
class RandomNetwork:
    """A network with drawn weights.

    Attributes
    ----------
    network : Sequential
        As `widened` returns.
    in_shape : (int, int, int)
    key : int
        Of the random stream.
    """

    network: Sequential
    in_shape: tuple[int, int, int]
    key: int

    def params(self, backend: Backend, dtype: Any) -> tuple[dict[str, Array], ...]:
        """Parameters as the network takes them."""
        arrays = iter(memoised(self, _drawn, backend, dtype))
        return tuple({name: next(arrays) for name in shapes} for shapes in self.shapes())

    def shapes(self) -> tuple[dict[str, tuple[int, ...]], ...]:
        """Shapes of the parameters, layer by layer."""
        return tuple(layer.parameter_shapes(shape) for _, layer, shape in self.network.leaves(self.in_shape))


def _drawn(value: RandomNetwork, backend: Backend, dtype: Any) -> tuple[Array, ...]:
    """Arrays of all layers, drawn in float64 on the CPU."""
    n = max(_GUIDES, _PLACES // math.prod(value.in_shape[:2]))
    guides = guide_images(n, value.in_shape, philox.derive_key(value.key, 0))
    params, bases = _draw_upwards(value, guides)
    _balance(value.network, params, bases, guides)
    return tuple(backend.xp.asarray(array.astype(dtype)) for entry in params for array in entry.values())


def _draw_upwards(value: RandomNetwork, acts: Any) -> tuple[tuple[dict[str, Any], ...], dict[int, Any]]:
    """Parameters of all layers, and of hidden ones the leading directions of their inputs."""
    params, bases, shapes, half = [], {}, value.shapes(), 0
    last = max(i for i, entries in enumerate(shapes) if entries)
    for i, layer in enumerate(value.network.layers):
        entry: dict[str, Any] = {}
        key = philox.derive_key(value.key, 1, i)
        if shapes[i] and i < last:
            half = int(shapes[i]["weight"][-1]) // 2
            rows = _inputs(layer, acts)
            bases[i] = _leading(rows, half)
            entry = _split(_paired(normal((rows.shape[1], 2 * half), key, np.float64), bases[i]), shapes[i])
        elif shapes[i]:
            entry = _output_weights(shapes[i], half, key)
        params.append(entry)
        acts, _ = layer.forward(entry, acts)
    return tuple(params), bases


def _balance(network: Sequential, params: tuple[dict[str, Any], ...], bases: dict[int, Any], guides: Any) -> None:
    """Make what hidden layers pass down of the leading directions of their cotangents signs, from the output down."""
    _, saved = network.forward(params, guides)
    for path, factors in network.backward(params, saved, Cotangent(np.ones((1, 1, 1))), want_input=False):
        i, weight = int(path), factors["weight"]
        if i not in bases or i == min(bases):
            continue
        assert isinstance(weight, JacobianFactors)
        delta = weight.delta.reshape(-1, weight.out_width)
        directions = _leading(delta, _PASSED)
        _balance_layer(params[i], bases[i], directions)  # in place: the cotangents below are those of the new weights


def _balance_layer(entry: dict[str, Any], basis: Any, directions: Any) -> None:
    """Turn two conditions true by turns: on what goes up, a frame in pairs, and on what goes down, signs."""
    shape = entry["weight"].shape
    spread = directions / math.sqrt(math.prod(shape[:-2]))  # over all taps alike: gates change slowly between pixels
    target = None
    for _ in range(_ROUNDS):
        passed = (entry["weight"] @ spread).reshape(-1, *shape[-2:-1], spread.shape[1]).sum(axis=0)
        target = np.where(passed < 0, -1.0, 1.0) if target is None else target
        entry["weight"] += (target - passed) @ spread.T
        rows = [entry["weight"].reshape(-1, shape[-1])] + ([entry["bias"][None]] if "bias" in entry else [])
        for name, array in _split(_paired(np.concatenate(rows), basis), {k: v.shape for k, v in entry.items()}).items():
            entry[name][...] = array


def _inputs(layer: Layer, acts: Any) -> Any:
    """What a channel's weights and bias multiply, (places of all guides, D)."""
    factors = layer.factors({}, acts, Cotangent(np.ones((1, 1, 1))))
    weight = factors["weight"]
    assert isinstance(weight, JacobianFactors)
    assert weight.act is not None  # only a bias has none
    rows = weight.scale * weight.act[0 : weight.n].reshape(-1, weight.in_width)
    if "bias" not in factors:
        return rows
    return np.concatenate([rows, np.full((len(rows), 1), factors["bias"].scale)], axis=1)


def _paired(weights: Any, basis: Any) -> Any:
    """Weights (D, C) next to the given ones that are a frame in pairs within the span of `basis` (D, k)."""
    inside = basis.T @ weights
    half = weights.shape[1] // 2
    frame = _frame((inside[:, :half] - inside[:, half:]) / 2)
    return weights + basis @ (np.concatenate([frame, -frame], axis=1) - inside)


def _leading(rows: Any, most: int) -> Any:
    """Orthonormal basis (D, k) of the span of the leading directions of rows (places, D): at most `most`."""
    places, width = rows.shape
    rows = np.ldexp(rows, -np.frexp(abs(rows).max())[1])  # so that no square leaves the range
    if width <= most:
        return np.eye(width)
    if width <= places:
        return np.linalg.eigh(rows.T @ rows)[1][:, -most:]
    k = min(most, places)  # long rows, which a dense layer reads
    return np.linalg.qr(rows.T @ np.linalg.eigh(rows @ rows.T)[1][:, -k:])[0]


def _frame(z: Any) -> Any:
    """The matrix with orthogonal rows next to z (k, n), its polar factor, with rows as long as those of normal z."""
    left, _, right = np.linalg.svd(z, full_matrices=False)
    return math.sqrt(z.shape[1]) * (left @ right)


def _split(weights: Any, shapes: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """Weight and bias of a layer from its matrix (D, C)."""
    fan_in = math.prod(shapes["weight"][:-1])
    entry = {"weight": weights[:fan_in].reshape(shapes["weight"])}
    return entry | ({"bias": weights[fan_in].copy()} if "bias" in shapes else {})


def _output_weights(shapes: dict[str, tuple[int, ...]], half: int, key: int) -> dict[str, Any]:
    """Signs (fan-in, 1); those of the two halves of the channels below agree in half of the pairs. The bias is 0."""
    fan_in = math.prod(shapes["weight"])
    signs = np.empty(fan_in)
    get_backend(signs).launch(philox.signs, key, 0, signs)
    if half > 0:
        order = np.argsort(
            normal((fan_in // (2 * half), half), philox.derive_key(key, 1), np.float64), axis=1, kind="stable"
        )
        agreement = 1.0 - 2.0 * (order % 2)
        halves = signs.reshape(-1, 2, half)
        halves[:, 1] = halves[:, 0] * agreement
    entry = {"weight": signs.reshape(shapes["weight"])}
    return entry | ({"bias": np.zeros(shapes["bias"])} if "bias" in shapes else {})
