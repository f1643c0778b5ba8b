"""One layer at one place: random parameters and samples, and comparisons that name the layer.

Letters: n samples, *s spatial axes, k cotangents or tangents per sample, c channels, as in layers/_base.py.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np

from .._tree import join, pick, rebuild, tree_map
from .._typing import Array
from ..backends import get_backend
from ..layers import Cotangent, JacobianFactors, Layer, SparseFactors

__all__ = ["Case", "Factors", "difference", "dots", "random_params", "takes_indices"]

Factors: TypeAlias = JacobianFactors | SparseFactors

# Equal but for rounding, and equal to central differences, as shares of the largest entry.
EXACT = {"float32": 1e-4, "float64": 1e-11}
NEAR = {"float32": 1e-4, "float64": 1e-6}
# Of central differences in float64: rounding leaves 1e-9 of a derivative, and few samples have a kink so near.
STEP = 1e-6
# Numbers of order 1 go in: what is this small has cancelled, and is compared as if it were this large.
FLOOR = 1e-3


@dataclass(frozen=True)
class Case:
    """A layer with parameters and samples, on one backend, in one dtype unless the samples are integers.

    What is drawn and compared are NumPy arrays in float64; what the layer is given is made from them by `device`.
    """

    layer: Layer
    params: Any
    x: Array
    dtype: str
    k: int
    rng: np.random.Generator

    @property
    def differentiable(self) -> bool:
        """Whether the samples are no integers."""
        return bool(self.x.dtype.kind == "f")

    @property
    def is_leaf(self) -> bool:
        return not tuple(self.layer.children())

    @property
    def in_shape(self) -> tuple[int, ...]:
        return tuple(self.x.shape[1:])

    @property
    def out_shape(self) -> tuple[int, ...]:
        return self.layer.out_shape(self.in_shape)

    def entries(self) -> dict[str, Array]:
        """Arrays by path, buffers included."""
        return dict(self.layer.check_params(self.params, self.in_shape))

    def trainable(self) -> list[str]:
        """Paths of the parameters."""
        buffers = _buffers(self.layer, self.in_shape)
        return [path for path in self.entries() if path not in buffers]

    # --- the layer ------------------------------------------------------------------------------

    def astype(self, dtype: str) -> "Case":
        """The same numbers in another dtype."""
        x = self.x.astype(dtype) if self.differentiable else self.x
        return replace(self, params=tree_map(lambda _, array: array.astype(dtype), self.params), x=x, dtype=dtype)

    def moved(self, x: Any = None, params: dict[str, Any] | None = None) -> "Case":
        """In float64, with the samples and the named parameters moved by these NumPy arrays."""
        case = self.astype("float64")
        entries = case.entries()
        for path, step in (params or {}).items():
            entries[path] = entries[path] + case.device(step)
        shifted = case.x if x is None else case.x + case.device(x)
        return replace(case, params=rebuild(case.params, entries), x=shifted)

    def forward(self) -> tuple[Array, Any]:
        """Output and what the layer saved."""
        return self.layer.forward(self.params, self.x)

    def output(self) -> Any:
        """Output as a NumPy array."""
        return self.host("forward", self.forward()[0])

    def jvp(self, tangent: Any) -> Any:
        """Derivative of the output along tangents of the input."""
        return self.host("jvp", self.layer.jvp(self.params, self.forward()[1], self.device(tangent)))

    def pushforward(self, tangent: Any, steps: dict[str, Any]) -> Any:
        """Derivative of the output along one tangent of the input, if it has any, and a direction of the parameters."""
        given = self.device(tangent) if self.differentiable else None
        pushed = self.layer.pushforward(self.params, self.forward()[1], given, self.direction(steps))
        return self.host("pushforward", pushed)

    def pull(self, saved: Any, ct: Cotangent) -> tuple[dict[str, Factors], Cotangent | None]:
        """Factors by path, and the cotangent of the input, if it can have one."""
        found: dict[str, Factors] = {}
        steps = self.layer.backward(self.params, saved, ct, want_input=self.differentiable)
        while True:
            try:
                path, layer = next(steps)
            except StopIteration as end:
                return found, end.value
            found.update({join(path, name): factors for name, factors in layer.items()})

    def direction(self, steps: dict[str, Any]) -> Any:
        """Directions by path as a tree like the parameters, without buffers."""
        return pick(self.params, {path: self.device(step) for path, step in steps.items()})

    # --- random numbers -------------------------------------------------------------------------

    def draw(self, *shape: int) -> Any:
        """Standard normal numbers, NumPy and float64, exact in float32."""
        return self.rng.standard_normal(shape).astype(np.float32).astype(np.float64)

    def tangent(self, k: int | None = None) -> Any:
        """Tangents of the input, (n, *s, k, c)."""
        return self.draw(len(self.x), *self.in_shape[:-1], k or self.k, self.in_shape[-1])

    def cotangent(self, k: int | None = None) -> Any:
        """Cotangents of the output, (n, *s, k, c)."""
        return self.draw(len(self.x), *self.out_shape[:-1], k or self.k, self.out_shape[-1])

    def directions(self) -> dict[str, Any]:
        """A direction of every parameter."""
        entries = self.entries()
        return {path: self.draw(*entries[path].shape) for path in self.trainable()}

    # --- to and from the layer's arrays ---------------------------------------------------------

    def device(self, array: Any) -> Array:
        """A NumPy array as the layer takes it."""
        return get_backend(self.x).xp.asarray(np.ascontiguousarray(array, self.dtype))

    def numpy(self, array: Array) -> Any:
        """An array of the layer as a NumPy array."""
        return get_backend(self.x, array).to_numpy(array)

    def host(self, prop: str, array: Array) -> Any:
        """What the layer returned as a NumPy array, float64; refused in another dtype, and with NaN or inf."""
        self.require(str(array.dtype) == self.dtype, f"{prop}: expected dtype {self.dtype}, got {array.dtype}")
        found = np.asarray(self.numpy(array), np.float64)
        self.require(bool(np.isfinite(found).all()), f"{prop}: got NaN or inf")
        return found

    def product(self, prop: str, ct: Cotangent | None, spatial: tuple[int, ...]) -> Any:
        """A cotangent as one NumPy array; refused where its axes are neither full nor of size 1."""
        self.require(isinstance(ct, Cotangent), f"{prop}: expected a Cotangent, got {type(ct).__name__}")
        assert ct is not None
        full = (len(self.x), *spatial)
        got = tuple(ct.shared.shape[:-2])
        fits = len(got) == len(full) and all(size in (1, whole) for size, whole in zip(got, full, strict=True))
        self.require(fits, f"{prop}: expected shared of shape {full}, or 1 in place of these, got {got}")
        if ct.gate is not None:
            self.require(
                ct.gate.shape[:-1] == full, f"{prop}: expected a gate of shape {full}, got {ct.gate.shape[:-1]}"
            )
            self.host(prop, ct.gate)
        return self.host(prop, ct.dense(len(self.x), spatial))

    # --- comparisons ----------------------------------------------------------------------------

    def require(self, holds: bool, message: str) -> None:
        if not holds:
            raise AssertionError(f"{self.layer!r}: {message}")

    def equal(self, prop: str, got: Any, expected: Any) -> None:
        """Require equality up to rounding."""
        self._close(prop, got, expected, EXACT[self.dtype])

    def near(self, prop: str, got: Any, expected: Any) -> None:
        """Require equality up to the error of central differences."""
        self._close(prop, got, expected, NEAR[self.dtype])

    def _close(self, prop: str, got: Any, expected: Any, tolerance: float) -> None:
        self.require(got.shape == expected.shape, f"{prop}: expected shape {expected.shape}, got {got.shape}")
        scale = float(np.abs(expected).max(initial=FLOOR))
        deviation = float(np.abs(got - expected).max(initial=0.0)) / scale
        self.require(deviation <= tolerance, f"{prop}: deviation {deviation:.1e} above {tolerance:.0e}")


def difference(function: Callable[[float], Any]) -> Any:
    """Central difference of a function of one number at 0."""
    return (function(STEP) - function(-STEP)) / (2 * STEP)


def rows(array: Any) -> Any:
    """(n, *s, k, c) as (n, k, entries)."""
    return np.moveaxis(array, -2, 1).reshape(len(array), array.shape[-2], -1)


def dots(a: Any, b: Any) -> Any:
    """Inner products (n, k, l) of a sample's rows in (n, *s, k, c) and (n, *s, l, c)."""
    return rows(a) @ rows(b).transpose(0, 2, 1)


def random_params(layer: Layer, in_shape: tuple[int, ...], dtype: str, rng: np.random.Generator, xp: Any) -> Any:
    """Initial parameters with noise, so that no scale is 1 and no shift 0; buffers only grow."""
    buffers = _buffers(layer, in_shape)

    def noisy(path: str, array: Any) -> Array:
        noise = rng.standard_normal(array.shape) / 3
        return xp.asarray((array + (np.abs(noise) if path in buffers else noise)).astype(dtype))

    return tree_map(noisy, layer.init(in_shape, seed=int(rng.integers(2**32)), dtype=dtype))


def takes_indices(layer: Layer, in_shape: tuple[int, ...]) -> bool:
    """Whether the lowest leaf reads integers."""
    _, leaf, _ = next(layer.leaves(in_shape))
    return leaf.takes_indices


def _buffers(layer: Layer, in_shape: tuple[int, ...]) -> set[str]:
    """Paths of the entries that have no Jacobian."""
    return {join(path, name) for path, leaf, _ in layer.leaves(in_shape) for name in leaf.buffers}
