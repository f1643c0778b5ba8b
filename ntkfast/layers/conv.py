"""Convolutions as matrix products of patches.

    z[n, p, (g, o)] = scale sum over taps ab and i of x[n, pixel(p, ab), (g, i)] W[ab, i, (g, o)] + b_scale b[(g, o)]

Letters: n samples, p places of the output (t of them), ab taps of the kernel, k cotangents or tangents; i input and o
output channels of one of g groups. Images are (n, h, w, g i); a weight is (height, width, i, g o). pixel(p, ab) is
place times stride plus tap times dilation minus padding; zeros are outside of the image, or, with circular padding,
the image again.

The Jacobian of W under a cotangent delta is scale (patches of x) (x) delta. Patches are not kept: the factors hold x
and make the patches of the samples that are asked for. How the products are made is in _correlation.py.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Any, ClassVar

from .._check import check_int, set_checked
from .._typing import Array
from ..backends import get_backend
from ._base import Params, Saved, Shape, layer_name
from ._correlation import (
    correlate,
    correlate_linear,
    make_patches,
    multiply_groups,
    sample_chunks,
    scatter,
    suits_winograd,
)
from ._geometry import Padding, Window, as_padding, as_sizes, check_image, window
from .dense import Affine
from .factors import Cotangent, Factors, JacobianFactors

__all__ = ["Conv1d", "Conv2d", "Patches"]


class _Convolution(Affine):
    """What convolutions share. Subclasses have one or two spatial axes; one axis is an image with one row."""

    __slots__ = ()

    axes: ClassVar[int]

    channels: int
    kernel_size: Any
    stride: Any
    padding: Any
    dilation: Any
    groups: int

    def __post_init__(self) -> None:
        set_checked(
            self,
            channels=check_int(self.channels, "channels", minimum=1),
            kernel_size=as_sizes(self.kernel_size, "kernel_size", self.axes),
            stride=as_sizes(self.stride, "stride", self.axes),
            padding=as_padding(self.padding, self.axes, ("SAME", "VALID", "CIRCULAR")),
            dilation=as_sizes(self.dilation, "dilation", self.axes),
            groups=check_int(self.groups, "groups", minimum=1),
        )
        self._check_scales()
        if self.channels % self.groups:
            raise ValueError(f"expected channels divisible by groups = {self.groups}, got {self.channels}")

    def _window(self, image: Shape) -> Window:
        return window(image, self.kernel_size, self.stride, self.dilation, self.padding)

    def parameter_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        self._check_in(in_shape)
        weight: dict[str, Shape] = {"weight": (*self.kernel_size, in_shape[-1] // self.groups, self.channels)}
        return weight | {"bias": (self.channels,)} if self.bias else weight

    def _check_in(self, in_shape: Shape) -> None:
        check_image(in_shape, self.axes, layer_name(self))
        if in_shape[-1] % self.groups:
            raise ValueError(f"expected input channels divisible by groups = {self.groups}, got {in_shape[-1]}")

    def out_shape(self, in_shape: Shape) -> Shape:
        self._check_in(in_shape)
        return (*self._window(in_shape[:-1]).places[2 - self.axes :], self.channels)

    def _fan_scales(self, in_channels: int) -> tuple[float, float]:
        return self._scales(math.prod(self.kernel_size) * in_channels // self.groups)

    def _matrices(self, weight: Array, scale: float) -> Array:
        """The scaled weight as a matrix per group, (g, taps i, o)."""
        xp = get_backend(weight).xp
        matrices = weight.reshape(-1, self.groups, self.channels // self.groups).transpose(1, 0, 2)
        return xp.ascontiguousarray(matrices) if scale == 1.0 else xp.ascontiguousarray(matrices * scale)

    # --- value and tangents ---------------------------------------------------------------------

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:
        scale, b_scale = self._fan_scales(x.shape[-1])
        found = self._window(x.shape[1:-1])
        bias = b_scale * params["bias"] if self.bias else None
        y = get_backend(x).xp.empty((x.shape[0], *found.places, self.channels), x.dtype)
        correlate(x, found, self._matrices(params["weight"], scale), self.groups, y, bias)
        return y.reshape(x.shape[0], *found.places[2 - self.axes :], self.channels), x

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:
        scale, _ = self._fan_scales(saved.shape[-1])
        found, k = self._window(saved.shape[1:-1]), tangent.shape[-2]
        y = get_backend(tangent).xp.empty((len(tangent), *found.places, k, self.channels), tangent.dtype)
        # k tangents are k times the groups, which meet the same weights
        correlate_linear(tangent, found, self._matrices(params["weight"], scale), k * self.groups, y)
        return y.reshape(saved.shape[0], *found.places[2 - self.axes :], k, self.channels)

    def param_jvp(self, params: Params, direction: Params, saved: Saved) -> Array:
        return self.forward(direction, saved)[0]

    # --- parameters -----------------------------------------------------------------------------

    def factors(self, params: Params, saved: Saved, ct: Cotangent) -> dict[str, Factors]:
        n, found = saved.shape[0], self._window(saved.shape[1:-1])
        spatial = found.places[2 - self.axes :]
        scale, b_scale = self._fan_scales(saved.shape[-1])
        shape = (*self.kernel_size, saved.shape[-1] // self.groups, self.channels)
        act = Patches(saved, found, self.groups)
        factors: dict[str, Factors] = {"weight": JacobianFactors(ct, act, shape, n, spatial, self.groups, scale)}
        if self.bias:
            factors["bias"] = JacobianFactors(ct, None, (self.channels,), n, spatial, scale=b_scale)
        return factors

    def act_vjp(self, params: Params, saved: Saved, name: str, ct: Array) -> Array | None:
        if name != "weight":
            return None
        out = get_backend(saved).xp.empty(saved.shape, saved.dtype)
        scatter(ct, self._window(saved.shape[1:-1]), self.groups, out)
        return out

    # --- cotangents -----------------------------------------------------------------------------

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:
        scale, _ = self._fan_scales(saved.shape[-1])
        found = self._window(saved.shape[1:-1])
        if self.axes == 1:  # images with one row
            ct = Cotangent(ct.shared[:, None], None if ct.gate is None else ct.gate[:, None])
        n = saved.shape[0] if ct.gate is not None else ct.shared.shape[0]
        out = get_backend(saved).xp.empty((n, *found.size, ct.k, saved.shape[-1]), saved.dtype)
        is_reversible = self.groups == 1 and found.stride == (1, 1)
        if is_reversible and ct.gate is not None and ct.shared.shape[:-2] == (1, 1, 1):
            self._vjp_of_gate(params["weight"] * scale, found, ct, out)
        elif is_reversible and suits_winograd(found.transposed(), self.channels, saved.shape[-1], n * ct.k):
            self._vjp_by_reversal(params["weight"] * scale, found, ct, out)
        else:
            self._vjp_by_scatter(self._matrices(params["weight"], scale), found, ct, out)
        return Cotangent(out.reshape(-1, *saved.shape[1:-1], ct.k, saved.shape[-1]), owned=True)

    def _reversed(self, weight: Array, found: Window) -> Array:
        """The weight with its taps in the order of the transposed window and its channels swapped, (ab, o, i)."""
        return weight.reshape(found.taps, -1, self.channels)[::-1].transpose(0, 2, 1)

    def _vjp_of_gate(self, weight: Array, found: Window, ct: Cotangent, out: Array) -> None:
        """Patches of the gate times (shared times weight), which has the k cotangents: they are never formed."""
        xp = get_backend(weight).xp
        matrix = self._reversed(weight, found)[:, :, None, :] * ct.shared.reshape(ct.k, self.channels).T[:, :, None]
        matrix = xp.ascontiguousarray(matrix.reshape(1, found.taps * self.channels, -1))  # (ab o, k i)
        correlate_linear(ct.gate, found.transposed(), matrix, 1, out)

    def _vjp_by_reversal(self, weight: Array, found: Window, ct: Cotangent, out: Array) -> None:
        """Convolution of the cotangents with the reversed weight."""
        xp = get_backend(weight).xp
        matrix = xp.ascontiguousarray(self._reversed(weight, found)).reshape(1, found.taps * self.channels, -1)
        correlate_linear(ct.dense(len(out), found.places), found.transposed(), matrix, ct.k, out)

    def _vjp_by_scatter(self, matrices: Array, found: Window, ct: Cotangent, out: Array) -> None:
        """Cotangents times the weight: patches, which are added where they overlap."""
        backend = get_backend(out)
        g, step, o = matrices.shape
        matrices = matrices.transpose(0, 2, 1)
        for rows in sample_chunks(out.shape[0], math.prod(found.places) * ct.k * g * step * out.itemsize, backend):
            delta = _delta(ct, rows, found).reshape(-1, g, o)
            shape = (delta.shape[0], g, step)
            if found.is_pointwise:
                multiply_groups(delta, matrices, out[rows].reshape(shape))
                continue
            col = backend.xp.empty(shape, out.dtype)
            multiply_groups(delta, matrices, col)
            scatter(col, found, ct.k * g, out[rows])


def _delta(ct: Cotangent, rows: slice, found: Window) -> Array:
    """Cotangents of some samples, formed: (samples t k, channels)."""
    return ct.rows(rows).dense(rows.stop - rows.start, found.places).reshape(-1, ct.shared.shape[-1])


@dataclass(frozen=True, slots=True, eq=False)
class Patches:
    """Patches of images, made when asked for: `act` in the factors of a convolution.

    Attributes
    ----------
    x : array, shape (n, *spatial, g i)
        The images, C-contiguous.
    window : Window
    groups : int
    """

    x: Array
    window: Window
    groups: int

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, t, g taps i)."""
        return self.x.shape[0], math.prod(self.window.places), self.window.taps * self.x.shape[-1]

    def __getitem__(self, rows: slice) -> Array:
        x = self.x[rows]
        image = x.reshape(x.shape[0], *self.window.size, self.groups, -1)
        return make_patches(image, self.window).reshape(x.shape[0], *self.shape[1:])


@dataclass(frozen=True, slots=True)
class Conv2d(_Convolution):
    """Convolution of images (cross-correlation, no flip).

    Parameters
    ----------
    channels : int
        Output channels.
    kernel_size : int or (int, int)
    stride, dilation : int or (int, int)
    padding : {"SAME", "VALID", "CIRCULAR"}, int, or ((top, bottom), (left, right))
        Zeros around the image. "SAME": the output has ceil(size / stride) pixels, and the odd row or column of
        padding comes after. "CIRCULAR": places and output of "SAME", but around the image is the image again (pixels
        modulo its size), so that shifting the input round by a stride shifts the output round by one pixel; takes
        images whose size is a multiple of the stride and not below that of the kernel with its dilation.
    groups : int
        Channels are cut into groups that do not meet; as many groups as input channels is a depthwise convolution.
        Output channels are group by group.
    W_std, b_std : float
        Scales of weight and bias; the fan-in is kernel height x kernel width x input channels / groups. b_std = 0
        means no bias, unless `bias` says otherwise.
    bias : bool, optional
        Whether there is a bias; default ``b_std > 0``.
    parameterization : {"ntk", "standard"}

    Notes
    -----
    Parameters: "weight", shape (kernel height, kernel width, input channels / groups, channels), and "bias", shape
    (channels,). Input (n, height, width, input channels), output (n, rows, columns, channels).

    Examples
    --------
    >>> import numpy as np
    >>> layer = Conv2d(8, 3, stride=2)
    >>> params = layer.init((32, 32, 3), seed=0)
    >>> y, _ = layer.forward(params, np.ones((5, 32, 32, 3), np.float32))
    >>> y.shape
    (5, 16, 16, 8)
    """

    axes: ClassVar[int] = 2

    channels: int
    kernel_size: int | tuple[int, int]
    _: KW_ONLY
    stride: int | tuple[int, int] = 1
    padding: Padding | int = "SAME"
    dilation: int | tuple[int, int] = 1
    groups: int = 1
    W_std: float = math.sqrt(2.0)
    b_std: float = 0.0
    bias: bool | None = None  # type: ignore[assignment]
    parameterization: str = "ntk"


@dataclass(frozen=True, slots=True)
class Conv1d(_Convolution):
    """Convolution of sequences: `Conv2d` with one spatial axis.

    Parameters
    ----------
    channels, kernel_size, stride, dilation, groups : int
    padding : {"SAME", "VALID", "CIRCULAR"}, int, or (before, after)
    W_std, b_std, bias, parameterization
        As in `Conv2d`.

    Notes
    -----
    Parameters: "weight", shape (kernel size, input channels / groups, channels), and "bias", shape (channels,).
    Input (n, length, input channels), output (n, places, channels).

    Examples
    --------
    >>> Conv1d(8, 5, stride=2).out_shape((100, 4))
    (50, 8)
    """

    axes: ClassVar[int] = 1

    channels: int
    kernel_size: int | tuple[int]
    _: KW_ONLY
    stride: int | tuple[int] = 1
    padding: Padding | int = "SAME"
    dilation: int | tuple[int] = 1
    groups: int = 1
    W_std: float = math.sqrt(2.0)
    b_std: float = 0.0
    bias: bool | None = None  # type: ignore[assignment]
    parameterization: str = "ntk"
