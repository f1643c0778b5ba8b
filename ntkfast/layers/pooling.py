"""Pooling: means and maxima over windows, and the mean over all positions.

They act on every channel by itself and alike on all cotangents, so that a cotangent whose shared part is constant over
positions keeps it, and only its gate moves.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .._check import set_checked
from .._typing import Array
from ..backends import get_backend
from ._base import Layer, Params, Saved, Shape, layer_name
from ._geometry import Padding, Window, as_padding, as_sizes, check_image, window
from .factors import Cotangent

__all__ = ["AvgPool2d", "GlobalAvgPool", "MaxPool2d"]

_EVERYWHERE = slice(None)


class _Pool2d(Layer):
    """What pools over windows share: the settings and their checks."""

    __slots__ = ()

    size: Any
    stride: Any
    padding: Any

    def __post_init__(self) -> None:
        size = as_sizes(self.size, "size", 2)
        stride = size if self.stride is None else as_sizes(self.stride, "stride", 2)
        set_checked(self, size=size, stride=stride, padding=as_padding(self.padding, 2))
        if not isinstance(self.padding, str) and any(max(p) >= k for p, k in zip(self.padding, size, strict=True)):
            raise ValueError(f"expected padding less than the size {size} of the window, got {self.padding}")

    def _window(self, image: Shape) -> Window:
        return window(image, self.size, self.stride, (1, 1), self.padding)

    def out_shape(self, in_shape: Shape) -> Shape:
        check_image(in_shape, 2, layer_name(self))
        return (*self._window(in_shape[:2]).places, in_shape[2])


@dataclass(frozen=True, slots=True)
class AvgPool2d(_Pool2d):
    """Mean over windows; pixels of the padding count as zeros.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        Default: the size, windows side by side.
    padding : {"VALID", "SAME"}, int, or ((top, bottom), (left, right))

    Examples
    --------
    >>> AvgPool2d(2).out_shape((8, 8, 3))
    (4, 4, 3)
    """

    size: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: Padding | int = "VALID"

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        return self._mean(x), x.shape

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        found = self._window(saved[1:3])
        if ct.gate is None and _is_constant(ct) and found.is_tiling:
            return ct.scaled(1.0 / found.taps)
        return _pull_gate(ct, saved[0], found, lambda gate: _spread(gate, found))

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        return self._mean(tangent)

    def _mean(self, x: Array) -> Array:
        """Mean over windows of (n, h, w, ...)."""
        found = self._window(x.shape[1:3])
        y = get_backend(x).xp.zeros((x.shape[0], *found.places, *x.shape[3:]), x.dtype)
        for _, pixels, places in found.slices():
            y[(_EVERYWHERE, *places)] += x[(_EVERYWHERE, *pixels)]
        y *= 1.0 / found.taps
        return y


def _spread(ct: Array, found: Window) -> Array:
    """Transpose of the mean over windows."""
    x = get_backend(ct).xp.zeros((ct.shape[0], *found.size, *ct.shape[3:]), ct.dtype)
    ct = ct * (1.0 / found.taps)
    for _, pixels, places in found.slices():
        x[(_EVERYWHERE, *pixels)] += ct[(_EVERYWHERE, *places)]
    return x


@dataclass(frozen=True, slots=True)
class MaxPool2d(_Pool2d):
    """Maximum over windows, which the padding does not enter; of equal entries, the first has the derivative.

    Parameters
    ----------
    size : int or (int, int)
        Height and width of the window.
    stride : int or (int, int), optional
        Default: the size, windows side by side.
    padding : {"VALID", "SAME"}, int, or ((top, bottom), (left, right))

    Examples
    --------
    >>> MaxPool2d(3, stride=2, padding=1).out_shape((8, 8, 3))
    (4, 4, 3)
    """

    size: int | tuple[int, int]
    stride: int | tuple[int, int] | None = None
    padding: Padding | int = "VALID"

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        xp, found = get_backend(x).xp, self._window(x.shape[1:3])
        shape = (x.shape[0], *found.places, x.shape[3])
        y, winner = xp.full(shape, -math.inf, x.dtype), xp.zeros(shape, xp.int32)
        for tap, pixels, places in found.slices():
            at, entry = (_EVERYWHERE, *places), x[(_EVERYWHERE, *pixels)]
            winner[at] = xp.where(entry > y[at], tap, winner[at])
            y[at] = xp.maximum(y[at], entry)
        return y, (winner, x.shape[1:3])

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        winner, image = saved
        found = self._window(image)

        def to_winners(gate: Array) -> Array:
            x = get_backend(gate).xp.zeros((len(winner), *found.size, *gate.shape[3:]), gate.dtype)
            for tap, pixels, places in found.slices():
                at = (_EVERYWHERE, *places)
                x[(_EVERYWHERE, *pixels)] += gate[at] * _like(winner[at] == tap, gate)
            return x

        return _pull_gate(ct, len(winner), found, to_winners)

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        winner, image = saved
        found = self._window(image)
        y = get_backend(tangent).xp.zeros((len(winner), *found.places, *tangent.shape[3:]), tangent.dtype)
        for tap, pixels, places in found.slices():
            at = (_EVERYWHERE, *places)
            y[at] += tangent[(_EVERYWHERE, *pixels)] * _like(winner[at] == tap, tangent)
        return y


def _like(mask: Array, values: Array) -> Array:
    """A mask (n, h, w, c) as factors of (n, h, w, c) or (n, h, w, k, c)."""
    mask = mask.astype(values.dtype)
    return mask if values.ndim == 4 else mask[..., None, :]


def _is_constant(ct: Cotangent) -> bool:
    """Whether the shared part is the same at all positions."""
    return bool(math.prod(ct.shared.shape[1:-2]) == 1)


def _pull_gate(ct: Cotangent, n: int, found: Window, pull: Callable[[Array], Array]) -> Cotangent:
    """Pull a cotangent back through a linear map of single channels, by its gate alone if that is all that varies."""
    if not _is_constant(ct):
        return Cotangent(pull(ct.dense(n, found.places)))
    gate = ct.gate
    if gate is None:
        gate = get_backend(ct.shared).xp.ones((n, *found.places, ct.shared.shape[-1]), ct.shared.dtype)
    return Cotangent(ct.shared, pull(gate))


@dataclass(frozen=True, slots=True)
class GlobalAvgPool(Layer):
    """Mean over all positions: (n, *s, c) becomes (n, c).

    Examples
    --------
    >>> GlobalAvgPool().out_shape((8, 8, 3))
    (3,)
    """

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        if len(in_shape) < 2:
            raise ValueError(f"expected samples with at least one spatial axis for GlobalAvgPool, got shape {in_shape}")
        return in_shape[-1:]

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        return _mean_over_positions(x, x.ndim - 2), x.shape[1:-1]

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        shared = ct.shared if ct.gate is None else ct.gate[:, None, :] * ct.shared
        m, k, c = shared.shape
        return Cotangent((shared * (1.0 / math.prod(saved))).reshape(m, *(1 for _ in saved), k, c))

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        return _mean_over_positions(tangent, len(saved))


def _mean_over_positions(x: Array, axes: int) -> Array:
    """Mean over the axes after the first, one by one: short running sums are more accurate than a long one."""
    for _ in range(axes):
        x = x.mean(axis=1)
    return x
