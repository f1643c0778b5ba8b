"""Dense layers: z[n, s, o] = scale sum_i x[n, s, i] W[i, o] + b_scale b[o].

The Jacobian of W under a cotangent delta is scale x (x) delta: the factors are the input and the cotangent themselves.
"""

import math
from dataclasses import dataclass

from .._check import check_choice, check_int, check_real, set_checked
from .._typing import Array
from ..backends import get_backend
from ._base import Layer, Params, Saved, Shape, normal
from .factors import Cotangent, Factors, JacobianFactors

__all__ = ["PARAMETERIZATIONS", "Affine", "Dense"]

PARAMETERIZATIONS = ("ntk", "standard")


class Affine(Layer):
    """What layers with a weight and a bias share: the scales of the two parameterizations.

    "ntk": z = (W_std / sqrt(fan_in)) (W applied to x) + b_std b, all entries drawn from N(0, 1).
    "standard": z = (W applied to x) + b, W drawn from N(0, W_std^2 / fan_in) and b from N(0, b_std^2).
    """

    __slots__ = ()

    W_std: float
    b_std: float
    bias: bool
    parameterization: str

    def _check_scales(self) -> None:
        set_checked(
            self,
            W_std=check_real(self.W_std, "W_std", minimum=0.0, strict=True),
            b_std=check_real(self.b_std, "b_std", minimum=0.0),
            parameterization=check_choice(self.parameterization, "parameterization", PARAMETERIZATIONS),
            bias=self.b_std > 0 if self.bias is None else bool(self.bias),
        )
        if self.bias and self.b_std == 0 and self.parameterization == "ntk":
            raise ValueError("expected b_std > 0 for a bias in the NTK parameterization, got 0")

    def _scales(self, fan_in: int) -> tuple[float, float]:
        """What multiplies W and b in the output."""
        return (self.W_std / math.sqrt(fan_in), self.b_std) if self.parameterization == "ntk" else (1.0, 1.0)

    def _draw(self, name: str, shape: Shape, key: int, dtype: object) -> Array:
        drawn = normal(shape, key, dtype)
        if self.parameterization == "standard":
            drawn *= self.b_std if name == "bias" else self.W_std / math.sqrt(math.prod(shape[:-1]))
        return drawn


@dataclass(frozen=True, slots=True)
class Dense(Affine):
    """Dense layer on the last axis.

    Parameters
    ----------
    out_dim : int
        Number of outputs.
    W_std, b_std : float
        Scales of weight and bias; b_std = 0 means no bias, unless `bias` says otherwise.
    bias : bool, optional
        Whether there is a bias; default ``b_std > 0``.
    parameterization : {"ntk", "standard"}

    Notes
    -----
    Parameters: "weight", shape (in_dim, out_dim), and "bias", shape (out_dim,).
    Input (n, ..., in_dim), output (n, ..., out_dim).

    Examples
    --------
    >>> import numpy as np
    >>> layer = Dense(2, b_std=0.1)
    >>> params = layer.init((3,), seed=0, dtype="float64")
    >>> y, _ = layer.forward(params, np.ones((5, 3)))
    >>> y.shape
    (5, 2)
    """

    out_dim: int
    W_std: float = math.sqrt(2.0)
    b_std: float = 0.0
    bias: bool | None = None  # type: ignore[assignment]
    parameterization: str = "ntk"

    def __post_init__(self) -> None:
        set_checked(self, out_dim=check_int(self.out_dim, "out_dim", minimum=1))
        self._check_scales()

    def parameter_shapes(self, in_shape: Shape) -> dict[str, Shape]:  # noqa: D102
        weight: dict[str, Shape] = {"weight": (in_shape[-1], self.out_dim)}
        return weight | {"bias": (self.out_dim,)} if self.bias else weight

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        if not in_shape:
            raise ValueError("expected samples with at least one axis, got shape ()")
        return (*in_shape[:-1], self.out_dim)

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        scale, b_scale = self._scales(x.shape[-1])
        y = _rows_times(x, params["weight"])
        if scale != 1.0:
            y *= scale
        if self.bias:
            y += b_scale * params["bias"]
        return y, x

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        scale, _ = self._scales(saved.shape[-1])
        weight = params["weight"] * scale if scale != 1.0 else params["weight"]
        return Cotangent(_rows_times(ct.product(), weight.T), owned=True)

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        scale, _ = self._scales(saved.shape[-1])
        return _rows_times(tangent, params["weight"] * scale)

    def factors(self, params: Params, saved: Saved, ct: Cotangent) -> dict[str, Factors]:  # noqa: D102
        n, spatial = saved.shape[0], saved.shape[1:-1]
        scale, b_scale = self._scales(saved.shape[-1])
        act = saved.reshape(n, math.prod(spatial), -1)
        weight_shape = (saved.shape[-1], self.out_dim)
        found: dict[str, Factors] = {"weight": JacobianFactors(ct, act, weight_shape, n, spatial, scale=scale)}
        if self.bias:
            found["bias"] = JacobianFactors(ct, None, (self.out_dim,), n, spatial, scale=b_scale)
        return found

    def param_jvp(self, params: Params, direction: Params, saved: Saved) -> Array:  # noqa: D102
        return self.forward(direction, saved)[0]

    def act_vjp(self, params: Params, saved: Saved, name: str, ct: Array) -> Array | None:  # noqa: D102
        return ct.reshape(saved.shape) if name == "weight" else None


def _rows_times(x: Array, matrix: Array) -> Array:
    """X @ matrix as one matrix product over all leading axes."""
    flat = get_backend(x).xp.matmul(x.reshape(-1, x.shape[-1]), matrix)
    return flat.reshape(*x.shape[:-1], matrix.shape[1])
