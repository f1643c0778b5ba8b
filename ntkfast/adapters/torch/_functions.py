"""Functions and methods met in a traced graph, as the modules that do the same."""

import builtins
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx, nn
from torch.nn import functional

__all__ = ["FlattenTo", "Mean", "Permute", "Transpose", "operation"]


@dataclass(frozen=True, slots=True)
class Permute:
    """Axes in another order."""

    axes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Transpose:
    """Two axes exchanged."""

    first: int
    second: int


@dataclass(frozen=True, slots=True)
class Mean:
    """Mean over some axes."""

    axes: tuple[int, ...]
    keepdim: bool


@dataclass(frozen=True, slots=True)
class FlattenTo:
    """Samples as rows; `width` is -1 where the code does not say it."""

    width: int


_INPLACE = ("inplace",)
_POOL = ("kernel_size", "stride", "padding")
_MODULES: tuple[tuple[tuple[Any, ...], type, tuple[str, ...]], ...] = (
    # what is called, the module that does the same, names of the arguments after the first
    ((functional.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU, _INPLACE),
    ((functional.leaky_relu,), nn.LeakyReLU, ("negative_slope", "inplace")),
    ((functional.gelu,), nn.GELU, ("approximate",)),
    ((functional.tanh, torch.tanh, "tanh"), nn.Tanh, ()),
    ((functional.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid, ()),
    ((functional.silu,), nn.SiLU, _INPLACE),
    ((functional.softplus,), nn.Softplus, ("beta", "threshold")),
    ((functional.dropout,), nn.Dropout, ("p", "training", "inplace")),
    ((functional.avg_pool2d,), nn.AvgPool2d, (*_POOL, "ceil_mode", "count_include_pad", "divisor_override")),
    ((functional.max_pool2d, torch.max_pool2d), nn.MaxPool2d, (*_POOL, "dilation", "ceil_mode", "return_indices")),
    ((functional.adaptive_avg_pool1d, torch.adaptive_avg_pool1d), nn.AdaptiveAvgPool1d, ("output_size",)),
    ((functional.adaptive_avg_pool2d,), nn.AdaptiveAvgPool2d, ("output_size",)),
    ((torch.flatten, "flatten"), nn.Flatten, ("start_dim", "end_dim")),
    (("contiguous", "clone", torch.clone), nn.Identity, ()),
)
_TABLE = {target: (module, names) for targets, module, names in _MODULES for target in targets}
_INPLACE_FORMS = frozenset({torch.relu_, "relu_"})


def operation(node: Any) -> Any:
    """What a function or a method does to its first argument, as a module; None if that is not supported."""
    if node.op not in ("call_function", "call_method") or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    arguments, named = node.args[1:], dict(node.kwargs)
    if node.target in _TABLE:
        inplace = {"inplace": True} if node.target in _INPLACE_FORMS else {}
        return _module(*_TABLE[node.target], arguments, named | inplace)
    arrange = _ARRANGERS.get(node.target)
    return None if arrange is None else arrange(arguments, named)


def _module(cls: Any, names: tuple[str, ...], arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """A module with the arguments of a call."""
    settings = dict(zip(names, arguments, strict=False)) | named
    if cls is nn.Flatten:  # the function's default is 0, the module's 1
        settings.setdefault("start_dim", 0)
    if len(arguments) > len(names) or not set(settings) <= set(names):
        return None
    training = settings.pop("training", True)
    return cls(**settings).train(training)


def _mean(arguments: tuple[Any, ...], named: dict[str, Any]) -> Mean | None:
    settings = dict(zip(("dim", "keepdim"), arguments, strict=False)) | named
    axes = settings.pop("dim", None)
    keepdim = settings.pop("keepdim", False)
    if settings or axes is None:
        return None
    return Mean(tuple(axes) if isinstance(axes, (tuple, list)) else (axes,), keepdim)


def _view(arguments: tuple[Any, ...], named: dict[str, Any]) -> FlattenTo | None:
    """A view of samples as rows: (x.size(0), -1), (x.shape[0], width), (-1, width)."""
    sizes = _spread(arguments)
    if named or len(sizes) != 2 or not isinstance(sizes[1], int):
        return None
    rows, width = sizes
    keeps_samples = (rows == -1 and width > 0) or _is_batch_size(rows)
    return FlattenTo(width) if keeps_samples else None


def _is_batch_size(size: Any) -> bool:
    """Whether a node is the number of samples: x.size(0), x.shape[0] or x.size()[0] of any value on the way."""
    if not isinstance(size, fx.Node):
        return False
    if size.target == "size":
        return bool(size.args[1:] == (0,))
    if size.target is not operator.getitem or size.args[1] != 0 or not isinstance(size.args[0], fx.Node):
        return False
    shape = size.args[0]
    is_shape = shape.target is builtins.getattr and shape.args[1] == "shape"
    return bool(is_shape or shape.target == "size")


def _spread(arguments: tuple[Any, ...]) -> list[Any]:
    """Sizes or axes, given one by one or as one tuple."""
    return list(arguments[0]) if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)) else list(arguments)


def _permute(arguments: tuple[Any, ...], named: dict[str, Any]) -> Permute | None:
    return None if named else Permute(tuple(_spread(arguments)))


def _transpose(arguments: tuple[Any, ...], named: dict[str, Any]) -> Transpose | None:
    return None if named or len(arguments) != 2 else Transpose(*arguments)


_ARRANGERS: dict[Any, Callable[[tuple[Any, ...], dict[str, Any]], Any]] = {
    torch.mean: _mean,
    "mean": _mean,
    "view": _view,
    "reshape": _view,
    torch.reshape: _view,
    "permute": _permute,
    torch.permute: _permute,
    "transpose": _transpose,
    torch.transpose: _transpose,
}
