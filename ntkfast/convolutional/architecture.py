"""A network of ntkfast.layers as a plan: stages that keep the displacement of pixel pairs, and what joins them.

A *stage* is a run of convolutions with stride 1 that keep the size, activations and residual sums: all that
`ntkfast.kernels.displacement.walk` does with one plane of displaced pixels. Pooling, strides, other paddings and the
last mean over all pixels are the boundary at its end. A residual sum that holds a boundary is a *fork*: both branches
are plans of their own, from one tensor of pixel pairs, and their results are added.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from .. import layers
from ..kernels.displacement import Boundary, Code
from ..layers import Layer
from ..zonal.slopes import Slopes

__all__ = ["NOWHERE", "Box", "Fork", "Plan", "Stage", "plan"]

SUPPORTED = (
    "Conv2d (groups 1, dilation 1), Dense, ReLU, LeakyReLU, Abs, Erf, Identity, AvgPool2d, GlobalAvgPool, Flatten, "
    "Residual and Sequential"
)

Box: TypeAlias = tuple[int, int, int, int]  # first and last displacement of rows, and of columns
NOWHERE: Box = (0, 0, 0, 0)  # a pixel and itself


class _Op(NamedTuple):
    """A row of the program, and its constants; see `ntkfast.kernels.displacement`."""

    row: tuple[int, int, int, int, int, int]
    constants: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Stage:
    """Operations on planes, and the boundary behind them.

    Attributes
    ----------
    size, out : (int, int)
        Rows and columns of the images before and behind it.
    ops : tuple
        The program with its constants.
    boundary : tuple of 7 ints
        As `ntkfast.kernels.displacement.walk` takes it.
    ending : (float, float)
        Constants of the boundary: scale and bias of a convolution.
    everywhere : bool
        For sums: over all displacements, or over pixels with themselves only.
    is_circular : bool
    """

    size: tuple[int, int]
    out: tuple[int, int]
    ops: tuple[_Op, ...]
    boundary: tuple[int, ...]
    ending: tuple[float, float]
    everywhere: bool
    is_circular: bool

    @property
    def n_tables(self) -> int:
        """Number of activations."""
        return sum(op.row[0] in (Code.HOMOGENEOUS, Code.ERF) for op in self.ops)

    @property
    def divisor(self) -> float:
        """What a sum is divided by."""
        if self.boundary[0] != Boundary.SUM:
            return 1.0
        pixels = math.prod(self.size)
        return float(pixels * pixels if self.everywhere else pixels)

    @property
    def frame(self) -> tuple[int, int, int, int]:
        """Rows above and below a plane, columns between its halves, and whether it is circular."""
        windows = [op.row for op in self.ops if op.row[0] == Code.CONV]
        up = max((top for _, _, _, top, _, _ in windows), default=0)
        down = max((kh - 1 - top for _, kh, _, top, _, _ in windows), default=0)
        gap = max((max(left, kw - 1 - left) for _, _, kw, _, left, _ in windows), default=0)
        return up, down, gap, int(self.is_circular)

    def limits(self, wanted: Box) -> Box:
        """Displacements that the boundary is to give."""
        if self.boundary[0] != Boundary.SUM:
            return wanted
        if not self.everywhere:
            return NOWHERE
        lo, *rest = self._everything()
        return (0 if self.is_circular else lo, rest[0], rest[1], rest[2])  # circular planes are numbered from 0

    def needs(self, wanted: Box) -> Box:
        """Displacements of the input that results within `wanted` depend on."""
        limits = self.limits(wanted)
        kind, *window = self.boundary
        if kind in (Boundary.POOL, Boundary.WINDOW):
            rows, columns = (
                self._reach(limits[2 * axis : 2 * axis + 2], window[axis], window[axis + 2], kind) for axis in (0, 1)
            )
            limits = (*rows, *columns)
        if self.is_circular and limits != NOWHERE:  # planes go all around the image
            return self._everything()
        return self._clip(limits)

    def _reach(self, limits: Sequence[int], size: int, stride: int, kind: int) -> tuple[int, int]:
        spread = size - 1 if kind == Boundary.POOL else 0
        return stride * limits[0] - spread, stride * limits[1] + spread

    def _everything(self) -> Box:
        h, w = self.size
        return 1 - h, h - 1, 1 - w, w - 1

    def _clip(self, box: Box) -> Box:
        lo, hi, left, right = self._everything()
        return max(box[0], lo), min(box[1], hi), max(box[2], left), min(box[3], right)


@dataclass(frozen=True, slots=True)
class Fork:
    """Sum of two plans from one tensor of pixel pairs; an empty plan passes the tensor on."""

    branches: tuple["Plan", "Plan"]


Plan: TypeAlias = tuple[Stage | Fork, ...]


def plan(network: Any, in_shape: tuple[int, int, int]) -> Plan:
    """Compile a network for images of `in_shape`.

    Raises
    ------
    TypeError
        `network` is not a Layer, or holds one that the infinite-width kernel does not know.
    ValueError
        Settings that it does not know, an activation of what is not Gaussian, or a result that is still an image.
    """
    if not isinstance(network, Layer):
        raise TypeError(f"expected network to be a Layer of ntkfast.layers, got {type(network).__name__}")
    network.out_shape(in_shape)
    builder = _Builder(in_shape[:2])
    builder.add(network, "network")
    if builder.size != (1, 1):
        raise ValueError(
            "expected a network that ends with GlobalAvgPool or Flatten, and dense layers, "
            f"got one whose result is an image of {builder.size[0]} x {builder.size[1]} pixels"
        )
    return tuple(builder.finished())


@dataclass
class _Builder:
    """Layers so far: finished nodes, and the open stage."""

    size: tuple[int, int]
    is_gaussian: bool = False
    is_fresh: bool = False  # the last weights are newer than the last activation of this branch
    is_linear: bool = True  # no activation so far
    depth: int = 0
    nodes: list[Stage | Fork] = field(default_factory=list)
    ops: list[_Op] = field(default_factory=list)
    circular: bool | None = None  # of the open stage; None while no window tells

    def add(self, layer: Layer, path: str) -> None:
        """Append one layer; containers append theirs."""
        match layer:
            case layers.Sequential():
                for i, child in enumerate(layer.layers):
                    self.add(child, f"{path}.{i}")
            case layers.Residual():
                self._add_residual(layer, path)
            case layers.Conv2d():
                self._add_conv(layer, path)
            case layers.Dense():
                _check_parameterization(layer, path)
                self._add_weights((1, 1), (0, 0), layer)
            case layers.AvgPool2d():
                found = layer._window(self.size)
                self._close(Boundary.POOL, (*found.kernel, *found.stride, *found.before), found.places)
            case layers.GlobalAvgPool():
                self._sum(everywhere=True)
            case layers.Flatten():
                self.is_gaussian &= self.size == (1, 1)  # otherwise pixels of several variances are mixed
                self._sum(everywhere=False)
            case layers.Identity():
                pass
            case _:
                self._add_activation(layer, path)

    def _add_activation(self, layer: Layer, path: str) -> None:
        code, constants = _activation(layer, path)
        if not self.is_gaussian:
            raise ValueError(
                f"expected a convolution or dense layer between {type(layer).__name__} ({path}) and what is before it: "
                "only then are its inputs Gaussian, with one variance, in the limit of infinite width"
            )
        index = sum(op.row[0] in (Code.HOMOGENEOUS, Code.ERF) for op in self.ops)
        self.ops.append(_Op((code, 0, 0, 0, 0, index), constants))
        self.is_gaussian = self.is_fresh = self.is_linear = False

    def _add_conv(self, layer: layers.Conv2d, path: str) -> None:
        _check_parameterization(layer, path)
        if layer.groups != 1 or layer.dilation != (1, 1):
            raise ValueError(f"expected Conv2d with groups=1 and dilation=1 ({path}), got {layer!r}")
        found = layer._window(self.size)
        circular = None if found.is_pointwise else layer.padding == "CIRCULAR"
        if circular is not None and self.circular not in (None, circular):
            self._store()
        keeps = found.stride == (1, 1) and found.places == self.size
        if circular is not None:
            self.circular = circular
        if keeps and all(0 <= b < k for b, k in zip(found.before, found.kernel, strict=True)):
            self._add_weights(found.kernel, found.before, layer)
            return
        window = (*found.kernel, *found.stride, *found.before)
        self._close(Boundary.WINDOW, window, found.places, _affine(layer, found.taps))
        self.is_gaussian = self.is_fresh = True

    def _add_weights(self, kernel: tuple[int, int], before: tuple[int, int], layer: Any) -> None:
        row = (Code.CONV.value, *kernel, *before, 0)
        self.ops.append(_Op(row, _affine(layer, math.prod(kernel))))
        self.is_gaussian = self.is_fresh = True

    def _sum(self, everywhere: bool) -> None:
        if self.size != (1, 1):
            self._close(Boundary.SUM, (0, 0, 1, 1, 0, 0), (1, 1), everywhere=everywhere)

    def _store(self) -> None:
        self._close(Boundary.PLANES, (0, 0, 1, 1, 0, 0), self.size)

    def _close(
        self,
        kind: Boundary,
        window: tuple[int, ...],
        out: tuple[int, int],
        ending: tuple[float, float] = (1.0, 0.0),
        everywhere: bool = False,
    ) -> None:
        boundary = (kind.value, *window)
        stage = Stage(self.size, out, tuple(self.ops), boundary, ending, everywhere, bool(self.circular))
        self.nodes.append(stage)
        self.size, self.ops, self.circular = out, [], None

    def finished(self) -> list[Stage | Fork]:
        """All nodes, the open stage closed."""
        if self.ops or not self.nodes:
            self._store()
        return self.nodes

    def _branch(self, layer: Layer | None, path: str) -> "_Builder":
        branch = _Builder(self.size, self.is_gaussian, depth=self.depth + 1)
        if layer is not None:
            branch.add(layer, path)
        return branch

    def _add_residual(self, layer: layers.Residual, path: str) -> None:
        body = self._branch(layer.body, f"{path}.body")
        side = self._branch(layer.shortcut, f"{path}.shortcut")
        if not (body.is_fresh or side.is_fresh):
            raise ValueError(
                f"expected a branch of Residual ({path}) to end with a convolution or dense layer, not an "
                "activation: only then are the branches independent in the limit of infinite width"
            )
        kinds = {b.circular for b in (self, body, side)} - {None}
        if body.nodes or side.nodes or len(kinds) > 1:
            self._fork(body, side)
        else:
            self._inline(body, side)
            self.circular = next(iter(kinds), None)
        self.size = body.size
        self.is_gaussian = body.is_gaussian and side.is_gaussian
        self.is_fresh = all(b.is_fresh or (b.is_linear and self.is_fresh) for b in (body, side))
        self.is_linear &= body.is_linear and side.is_linear

    def _fork(self, body: "_Builder", side: "_Builder") -> None:
        if self.ops or not self.nodes:
            self._store()
        plans = tuple(tuple(b.finished()) if b.ops or b.nodes else () for b in (body, side))
        self.nodes.append(Fork((plans[0], plans[1])))

    def _inline(self, body: "_Builder", side: "_Builder") -> None:
        """Both branches in the open stage: input into a slot, body, exchange, shortcut, sum."""
        for code, branch in ((Code.SAVE, body), (Code.SWAP, side)):
            if code == Code.SAVE or side.ops:
                self.ops.append(_Op((code.value, 0, 0, 0, 0, self.depth)))
            first = sum(op.row[0] in (Code.HOMOGENEOUS, Code.ERF) for op in self.ops)
            self.ops.extend(_renumbered(op, first) for op in branch.ops)
        self.ops.append(_Op((Code.ADD.value, 0, 0, 0, 0, self.depth)))


def _renumbered(op: _Op, first: int) -> _Op:
    """The operation with its table counted from `first` on."""
    if op.row[0] not in (Code.HOMOGENEOUS, Code.ERF):
        return op
    return _Op((*op.row[:5], op.row[5] + first), op.constants)


def _affine(layer: Any, taps: int) -> tuple[float, float]:
    """Scale of the sum over the window, and variance of the bias."""
    return layer.W_std**2 / taps, layer.b_std**2 if layer.bias else 0.0


def _activation(layer: Layer, path: str) -> tuple[int, tuple[float, float]]:
    match layer:
        case layers.Erf():
            return Code.ERF.value, (0.0, 0.0)
        case layers.ReLU():
            slopes = Slopes(0.5, 0.5)
        case layers.LeakyReLU():
            slopes = Slopes((1 + layer.slope) / 2, (1 - layer.slope) / 2)
        case layers.Abs():
            slopes = Slopes(0.0, 1.0)
        case _:
            raise TypeError(
                f"expected layers with a known infinite-width kernel ({SUPPORTED}), got {type(layer).__name__} ({path})"
            )
    return Code.HOMOGENEOUS.value, (slopes.gain, 2 * slopes.ratio / math.pi)


def _check_parameterization(layer: Any, path: str) -> None:
    if layer.parameterization != "ntk":
        raise ValueError(
            f'expected parameterization="ntk" in {type(layer).__name__} ({path}), whose kernel has a limit, '
            f"got {layer.parameterization!r}"
        )
