"""Elementwise layers: y = phi(x), entry by entry.

The pullback multiplies every cotangent by phi'(x), which is the same for all k of them: a gate (see `Cotangent`). What
is kept is x, or y where phi' is a function of y: then the next layer's input serves both.

All of phi, phi', phi'' are finite for finite input, without a warning: exponents are clipped where the result has long
left the range of float64, so that no square overflows and 0 never meets inf.
"""

import abc
import math
from dataclasses import dataclass
from typing import Any

from .._check import check_choice, check_real, set_checked
from .._typing import Array
from ..backends import get_backend
from ..kernels import Kernel, activations
from ._base import Layer, Params, Saved, Shape
from .factors import Cotangent

__all__ = [
    "GELU",
    "Abs",
    "Elementwise",
    "Erf",
    "Identity",
    "LeakyReLU",
    "ReLU",
    "SiLU",
    "Sigmoid",
    "Sin",
    "SmoothElementwise",
    "Softplus",
    "Tanh",
]


class Elementwise(Layer):
    """A piecewise linear function phi of one variable, applied to every entry.

    A subclass writes `value` and `derivative`, as expressions of the array module `xp` (NumPy or CuPy), in the dtype of
    their argument. With ``keeps_output = True`` derivatives are functions of y = phi(x), else of x.
    """

    __slots__ = ()

    #: Whether `derivative` gets y instead of x.
    keeps_output = False

    @abc.abstractmethod
    def value(self, xp: Any, x: Array) -> Array:
        """phi(x)."""

    @abc.abstractmethod
    def derivative(self, xp: Any, kept: Array) -> Array:
        """phi', from x or y."""

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        return in_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        y = self.value(get_backend(x).xp, x)
        return y, y if self.keeps_output else x

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        return ct.gated(self.derivative(get_backend(saved).xp, saved))

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        return tangent * self.derivative(get_backend(saved).xp, saved)[..., None, :]


class SmoothElementwise(Elementwise):
    """A twice differentiable function phi of one variable, applied to every entry.

    Beside what `Elementwise` asks for, a subclass writes `second_derivative`, from what `derivative` gets.

    Examples
    --------
    >>> from dataclasses import dataclass
    >>> import numpy as np
    >>> @dataclass(frozen=True, slots=True)
    ... class Square(SmoothElementwise):
    ...     def value(self, xp, x):
    ...         return x * x
    ...     def derivative(self, xp, kept):
    ...         return 2 * kept
    ...     def second_derivative(self, xp, kept):
    ...         return xp.full_like(kept, 2)
    >>> Square().forward({}, np.array([[1.0, 3.0]]))[0]
    array([[1., 9.]])
    """

    __slots__ = ()

    @abc.abstractmethod
    def second_derivative(self, xp: Any, kept: Array) -> Array:
        """phi'', from x or y."""

    def curvature(self, params: Params, saved: Saved, ct: Array, tangent: Array) -> Array | None:  # noqa: D102
        return self.second_derivative(get_backend(saved).xp, saved) * (ct * tangent).sum(axis=-2)


# --- piecewise linear -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ReLU(Elementwise):
    """max(x, 0), with derivative 0 at 0."""

    keeps_output = True

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return xp.maximum(x, 0)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return (kept > 0).astype(kept.dtype)


@dataclass(frozen=True, slots=True)
class LeakyReLU(Elementwise):
    """x where x > 0, slope x elsewhere; the derivative at 0 is `slope`.

    Parameters
    ----------
    slope : float
    """

    slope: float = 0.01

    def __post_init__(self) -> None:
        set_checked(self, slope=check_real(self.slope, "slope"))

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return (xp.maximum if self.slope <= 1 else xp.minimum)(x, self.slope * x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        gate = (kept > 0).astype(kept.dtype)
        gate += self.slope * (1 - gate)  # exactly 1 or slope; `where` of two numbers takes ten times as long
        return gate


@dataclass(frozen=True, slots=True)
class Abs(Elementwise):
    """|x|, with derivative 0 at 0."""

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return xp.abs(x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return xp.sign(kept)


@dataclass(frozen=True, slots=True)
class Identity(Elementwise):
    """The input itself."""

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return x

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return xp.ones_like(kept)

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        return ct

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        return tangent


# --- smooth -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Erf(SmoothElementwise):
    """Error function, (2 / sqrt(pi)) times the integral of exp(-t^2) from 0 to x."""

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return _value(activations.ERF, x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return _slope(activations.ERF, kept)

    def second_derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return -2 * _clipped(xp, kept) * _slope(activations.ERF, kept)


@dataclass(frozen=True, slots=True)
class GELU(SmoothElementwise):
    """x Phi(x), with Phi the distribution function of N(0, 1).

    Parameters
    ----------
    approximate : {"none", "tanh"}
        "tanh": Phi(x) is replaced by (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2.

    References
    ----------
    Hendrycks, Gimpel. Gaussian error linear units (GELUs). arXiv 1606.08415, 2016.
    """

    approximate: str = "none"

    def __post_init__(self) -> None:
        check_choice(self.approximate, "approximate", ("none", "tanh"))

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return _value(activations.GELU_TANH if self.approximate == "tanh" else activations.GELU, x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return _slope(activations.GELU_TANH if self.approximate == "tanh" else activations.GELU, kept)

    def second_derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        z = _clipped(xp, kept)
        if self.approximate == "tanh":
            v, dv, ddv = _tanh_gelu_argument(xp, kept)
            s = _value(activations.LOGISTIC, v)
            return _slope(activations.LOGISTIC, v) * (2 * dv + z * ((1 - 2 * s) * dv * dv + ddv))
        density = _slope(activations.ERF, math.sqrt(0.5) * z) * math.sqrt(0.125)  # Phi(x) = (1 + erf(x / sqrt 2)) / 2
        return density * (2 - z * z)


@dataclass(frozen=True, slots=True)
class Tanh(SmoothElementwise):
    """Hyperbolic tangent."""

    keeps_output = True

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return xp.tanh(x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return (1 - kept) * (1 + kept)

    def second_derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return -2 * kept * (1 - kept) * (1 + kept)


@dataclass(frozen=True, slots=True)
class Sigmoid(SmoothElementwise):
    """1 / (1 + exp(-x))."""

    keeps_output = True

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return _value(activations.LOGISTIC, x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return kept * (1 - kept)

    def second_derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return kept * (1 - kept) * (1 - 2 * kept)


@dataclass(frozen=True, slots=True)
class SiLU(SmoothElementwise):
    """x / (1 + exp(-x)), also called swish."""

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return _value(activations.SILU, x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return _slope(activations.SILU, kept)

    def second_derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        s = _value(activations.LOGISTIC, kept)
        return _slope(activations.LOGISTIC, kept) * (2 + kept * (1 - 2 * s))


@dataclass(frozen=True, slots=True)
class Softplus(SmoothElementwise):
    """log(1 + exp(x))."""

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return _value(activations.SOFTPLUS, x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return _slope(activations.SOFTPLUS, kept)

    def second_derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return _slope(activations.LOGISTIC, kept)


@dataclass(frozen=True, slots=True)
class Sin(SmoothElementwise):
    """sin(x)."""

    def value(self, xp: Any, x: Array) -> Array:  # noqa: D102
        return xp.sin(x)

    def derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return xp.cos(kept)

    def second_derivative(self, xp: Any, kept: Array) -> Array:  # noqa: D102
        return -xp.sin(kept)


# --- scalar functions -------------------------------------------------------------------------------

# Beyond it, phi'' of what is clipped here is below the smallest float64; so is the logistic function of the cubic in
# `_tanh_gelu_argument`.
_FAR = 40.0


def _value(function: int, x: Array) -> Array:
    """phi(x), by the number of phi in the kernels."""
    return _launched(activations.value, function, x)


def _slope(function: int, x: Array) -> Array:
    """phi'(x), by the number of phi in the kernels."""
    return _launched(activations.slope, function, x)


def _launched(kernel: Kernel, function: int, x: Array) -> Array:
    backend = get_backend(x)
    out = backend.xp.empty(x.shape, x.dtype)
    backend.launch(kernel, function, backend.xp.ascontiguousarray(x).reshape(-1), out.reshape(-1))
    return out


def _clipped(xp: Any, x: Array) -> Array:
    return xp.clip(x, -_FAR, _FAR)


def _tanh_gelu_argument(xp: Any, x: Array) -> tuple[Array, Array, Array]:
    """v(x) with (1 + tanh(v / 2)) / 2 = 1 / (1 + exp(-v)) in place of Phi(x), and its two derivatives."""
    z, c, a = _clipped(xp, x), activations.STEEP, activations.CUBIC
    square = z * z
    return c * z * (1 + a * square), c * (1 + 3 * a * square), 6 * a * c * z
