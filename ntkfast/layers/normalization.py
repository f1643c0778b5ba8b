"""Normalization: y = scale * u + shift, with u the input made to mean 0 and variance 1.

LayerNorm takes both moments from the sample itself; with u = (x - mean) r and r = (variance + epsilon)^(-1/2),

    du = r (dx - mean(dx) - u mean(u dx)),

a symmetric matrix times dx: tangents and cotangents pass through the same expression, `_project`. BatchNorm in
evaluation mode takes stored moments, and is a scale and a shift per channel.

Scale and shift have one entry per normalized entry: one group each, with u and ones as their acts.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._check import check_int, check_real, set_checked
from .._typing import Array
from ..backends import get_backend
from ._base import Layer, Params, Saved, Shape
from .factors import Cotangent, Factors, JacobianFactors

__all__ = ["BatchNorm", "LayerNorm"]

_START = {"scale": 1.0, "shift": 0.0, "mean": 0.0, "var": 1.0}


class _Norm(Layer):
    """What both have in common: initial values, and scale and shift."""

    __slots__ = ()

    epsilon: float

    def _draw(self, name: str, shape: Shape, key: int, dtype: Any) -> Array:
        return np.full(shape, _START[name], dtype)

    def _check_epsilon(self) -> None:
        set_checked(self, epsilon=check_real(self.epsilon, "epsilon", minimum=0.0, strict=True))


@dataclass(frozen=True, slots=True)
class LayerNorm(_Norm):
    """Normalization of every sample, at every position, over its channels.

    Parameters
    ----------
    epsilon : float
        Added to the variance.
    axes : int
        Number of trailing axes that are normalized together: 1 for the channels.

    Notes
    -----
    Parameters: "scale" and "shift", of the shape of the normalized axes; 1 and 0 at first. Both parameterizations
    use them as they are. The variance is that of the population.

    References
    ----------
    Ba, Kiros, Hinton. Layer normalization. arXiv 1607.06450, 2016.

    Examples
    --------
    >>> import numpy as np
    >>> layer = LayerNorm()
    >>> y, _ = layer.forward(layer.init((4,), seed=0, dtype="float64"), np.array([[1.0, 2.0, 3.0, 4.0]]))
    >>> np.round(y, 3)
    array([[-1.342, -0.447,  0.447,  1.342]])
    """

    epsilon: float = 1e-5
    axes: int = 1

    def __post_init__(self) -> None:
        self._check_epsilon()
        set_checked(self, axes=check_int(self.axes, "axes", minimum=1))

    def parameter_shapes(self, in_shape: Shape) -> dict[str, Shape]:  # noqa: D102
        return {"scale": in_shape[-self.axes :], "shift": in_shape[-self.axes :]}

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        if len(in_shape) < self.axes:
            raise ValueError(f"expected samples with at least {self.axes} axes, got shape {in_shape}")
        return in_shape

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        flat = x.reshape(*x.shape[: x.ndim - self.axes], -1)
        u, r = _standardized(flat, self.epsilon)
        return self._affine(params, u.reshape(x.shape)), (u.reshape(x.shape), r)

    @staticmethod
    def _affine(params: Params, u: Array) -> Array:
        y = u * params["scale"]
        y += params["shift"]
        return y

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        u, r = saved
        delta = _folded(ct, u.shape, self.axes).product()
        low = _project(delta * params["scale"].reshape(-1), *self._rows(u, r))
        return Cotangent(_unfold(low, u.shape, self.axes))

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        u, r = saved
        pushed = _project(_fold(tangent, u.shape, self.axes), *self._rows(u, r))
        pushed *= params["scale"].reshape(-1)
        return _unfold(pushed, u.shape, self.axes)

    def _rows(self, u: Array, r: Array) -> tuple[Array, Array]:
        """Give u as rows (n, *lead, 1, m), and r (n, *lead, 1, 1), for arrays (n, *lead, k, m)."""
        return u.reshape(*r.shape[:-1], 1, -1), r[..., None]

    def factors(self, params: Params, saved: Saved, ct: Cotangent) -> dict[str, Factors]:  # noqa: D102
        u, r = saved
        lead, shape = r.shape[1:-1], u.shape[u.ndim - self.axes :]
        act = u.reshape(len(u), math.prod(lead), -1)
        return _norm_factors(_folded(ct, u.shape, self.axes), act, shape, lead)

    def unfold_delta(self, saved: Saved, delta: Array) -> Array:  # noqa: D102
        return _unfold(delta, saved[0].shape, self.axes)

    def param_jvp(self, params: Params, direction: Params, saved: Saved) -> Array:  # noqa: D102
        return self._affine(direction, saved[0])

    def act_vjp(self, params: Params, saved: Saved, name: str, ct: Array) -> Array | None:  # noqa: D102
        if name != "scale":
            return None
        u, r = saved
        rows, r = self._rows(u, r)
        return _project(ct.reshape(rows.shape), rows, r).reshape(u.shape)

    def curvature(self, params: Params, saved: Saved, ct: Array, tangent: Array) -> Array | None:
        """Gradient of sum_k <ct_k, dy/dx tangent_k> with respect to x.

        With g = scale ct and t = tangent, both centered over the m normalized entries, the sum is

            sum_k r <g, t> - r m a b,     a = mean(g u), b = mean(t u),

        and both r and u depend on x:

            r^2 (u (3 sum_k a b - sum_k <g, t> / m) - sum_k (a t + b g)).
        """
        u, r = saved
        rows, r = self._rows(u, r)
        g = _centered(_fold(ct, u.shape, self.axes) * params["scale"].reshape(-1))
        t = _centered(_fold(tangent, u.shape, self.axes))
        a, b = (g * rows).mean(axis=-1, keepdims=True), (t * rows).mean(axis=-1, keepdims=True)
        along = (3 * a * b - (g * t).mean(axis=-1, keepdims=True)) * rows
        gradient = (r * r * (along - a * t - b * g)).sum(axis=-2)
        return gradient.reshape(u.shape)


@dataclass(frozen=True, slots=True)
class BatchNorm(_Norm):
    """Batch normalization in evaluation mode: with stored moments, so that samples do not depend on each other.

    Parameters
    ----------
    epsilon : float
        Added to the variance.

    Notes
    -----
    Parameters: "scale" and "shift", shape (c,). Buffers, which have no Jacobian: "mean" and "var", shape (c,), the
    running moments of training; 0 and 1 at first. Both parameterizations use all of them as they are.

    In training mode the moments are those of the batch, and one sample's output depends on the others: there is
    no kernel of two samples then.

    References
    ----------
    Ioffe, Szegedy. Batch normalization: accelerating deep network training by reducing internal covariate shift.
    ICML 2015.

    Examples
    --------
    >>> import numpy as np
    >>> params = {"scale": np.ones(1), "shift": np.zeros(1), "mean": np.array([3.0]), "var": np.array([4.0])}
    >>> np.round(BatchNorm().forward(params, np.array([[5.0], [3.0]]))[0], 3)
    array([[1.],
           [0.]])
    """

    buffers = ("mean", "var")

    epsilon: float = 1e-5

    def __post_init__(self) -> None:
        self._check_epsilon()

    def parameter_shapes(self, in_shape: Shape) -> dict[str, Shape]:  # noqa: D102
        return dict.fromkeys(_START, in_shape[-1:])

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        if not in_shape:
            raise ValueError("expected samples with at least one axis, got shape ()")
        return in_shape

    def check_params(self, params: Params, in_shape: Shape, path: str = "") -> Iterator[tuple[str, Array]]:  # noqa: D102
        where = f"params[{path!r}]" if path else "params"
        missing = [name for name in self.buffers if isinstance(params, Mapping) and name not in params]
        if missing:
            raise ValueError(
                f"expected {where} (BatchNorm) to hold mean and var, got no {' and no '.join(missing)}: only "
                "evaluation mode has an NTK, with stored moments; in training mode samples depend on each other"
            )
        yield from Layer.check_params(self, params, in_shape, path)
        if float(params["var"].min()) < 0:
            raise ValueError(f"expected var >= 0 in {where} (BatchNorm), got {float(params['var'].min())}")

    def _slope(self, params: Params) -> Array:
        return params["scale"] / get_backend(params["var"]).xp.sqrt(params["var"] + self.epsilon)

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        u = x - params["mean"]
        u /= get_backend(x).xp.sqrt(params["var"] + self.epsilon)
        return self.param_jvp(params, params, u), u

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        return ct.scaled(self._slope(params))

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        return tangent * self._slope(params)

    def factors(self, params: Params, saved: Saved, ct: Cotangent) -> dict[str, Factors]:  # noqa: D102
        spatial = saved.shape[1:-1]
        act = saved.reshape(len(saved), math.prod(spatial), -1)
        return _norm_factors(ct, act, saved.shape[-1:], spatial)

    def param_jvp(self, params: Params, direction: Params, saved: Saved) -> Array:  # noqa: D102
        y = saved * direction["scale"]
        y += direction["shift"]
        return y

    def act_vjp(self, params: Params, saved: Saved, name: str, ct: Array) -> Array | None:  # noqa: D102
        if name != "scale":
            return None
        return ct.reshape(saved.shape) / get_backend(ct).xp.sqrt(params["var"] + self.epsilon)


def _norm_factors(ct: Cotangent, act: Array, shape: Shape, spatial: Shape) -> dict[str, Factors]:
    """Factors of scale and shift; `act` (n, t, m) is the normalized input."""
    n, _, m = act.shape
    scale = JacobianFactors(ct, act, shape, n, spatial, groups=m)
    return {"scale": scale, "shift": JacobianFactors(ct, None, shape, n, spatial)}


# --- LayerNorm over the last axis -------------------------------------------------------------------


def _centered(x: Array) -> Array:
    return x - x.mean(axis=-1, keepdims=True)


def _standardized(x: Array, epsilon: float) -> tuple[Array, Array]:
    """U and r, shape (n, ..., 1), of the rows of x.

    Rows are brought below 1 before they are squared, so that nothing overflows; and a constant row gives u = 0.
    """
    xp = get_backend(x).xp
    peak = xp.maximum(xp.abs(x).max(axis=-1, keepdims=True), 1)
    u = x / peak
    u -= u.mean(axis=-1, keepdims=True)
    variance = (u * u).mean(axis=-1, keepdims=True) + epsilon / peak / peak
    r = 1 / xp.sqrt(xp.maximum(variance, xp.finfo(x.dtype).tiny))
    u *= r
    return u, r / peak


def _project(x: Array, u: Array, r: Array) -> Array:
    """R (x - mean(x) - u mean(u x)) along the last axis."""
    along = (x * u).mean(axis=-1, keepdims=True)
    out = _centered(x) - along * u
    out *= r
    return out


# --- several trailing axes as one -------------------------------------------------------------------
# k stands before the channels: (n, *lead, *inner, k, c) is (n, *lead, k, inner c) with inner moved behind k.


def _fold(x: Array, shape: Shape, axes: int) -> Array:
    """(n, *lead, *inner, k, c) as (n, *lead, k, m); axes of `lead` and n may have size 1, those of `inner` too."""
    if axes == 1:
        return x
    xp, first = get_backend(x).xp, len(shape) - axes
    full = xp.broadcast_to(x, (*x.shape[:first], *shape[first:-1], *x.shape[-2:]))
    order = (*range(first), len(shape) - 1, *range(first, len(shape) - 1), len(shape))
    return full.transpose(order).reshape(*x.shape[:first], x.shape[-2], -1)


def _unfold(x: Array, shape: Shape, axes: int) -> Array:
    """(n, *lead, k, m) as (n, *lead, *inner, k, c)."""
    if axes == 1:
        return x
    xp, first = get_backend(x).xp, len(shape) - axes
    split = x.reshape(*x.shape[:-1], *shape[first:])
    order = (*range(first), *range(first + 1, len(shape)), first, len(shape))
    return xp.ascontiguousarray(split.transpose(order))


def _folded(ct: Cotangent, shape: Shape, axes: int) -> Cotangent:
    gate = None if ct.gate is None else ct.gate.reshape(*shape[: len(shape) - axes], -1)
    return Cotangent(_fold(ct.shared, shape, axes), gate)
