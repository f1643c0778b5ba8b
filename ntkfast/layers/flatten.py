"""Flatten: all axes of a sample in one."""

import math
from dataclasses import dataclass

from .._typing import Array
from ..backends import get_backend
from ._base import Layer, Params, Saved, Shape
from .factors import Cotangent

__all__ = ["Flatten"]


@dataclass(frozen=True, slots=True)
class Flatten(Layer):
    """All axes of a sample as one, in C order: (n, *s, c) becomes (n, prod(s) c).

    Examples
    --------
    >>> Flatten().out_shape((8, 8, 3))
    (192,)
    """

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        if not in_shape:
            raise ValueError("expected samples with at least one axis for Flatten, got shape ()")
        return (math.prod(in_shape),)

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        return x.reshape(x.shape[0], -1), x.shape[1:]

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        xp = get_backend(ct.shared).xp
        m, k, _ = ct.shared.shape
        shared = xp.ascontiguousarray(ct.shared.reshape(m, k, -1, saved[-1]).transpose(0, 2, 1, 3))
        gate = None if ct.gate is None else ct.gate.reshape(-1, *saved)
        return Cotangent(shared.reshape(m, *saved[:-1], k, saved[-1]), gate)

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        xp = get_backend(tangent).xp
        n, k, c = len(tangent), tangent.shape[-2], tangent.shape[-1]
        return xp.ascontiguousarray(tangent.reshape(n, -1, k, c).transpose(0, 2, 1, 3)).reshape(n, k, -1)
