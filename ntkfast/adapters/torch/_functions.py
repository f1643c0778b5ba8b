"""Functions and methods met in a traced graph, as the modules that do the same."""

import builtins
import operator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

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
    ((F.relu, torch.relu, torch.relu_, "relu", "relu_"), nn.ReLU, _INPLACE),
    ((F.leaky_relu,), nn.LeakyReLU, ("negative_slope", "inplace")),
    ((F.gelu,), nn.GELU, ("approximate",)),
    ((F.tanh, torch.tanh, "tanh"), nn.Tanh, ()),
    ((F.sigmoid, torch.sigmoid, "sigmoid"), nn.Sigmoid, ()),
    ((F.silu,), nn.SiLU, _INPLACE),
    ((F.softplus,), nn.Softplus, ("beta", "threshold")),
    ((F.dropout,), nn.Dropout, ("p", "training", "inplace")),
    ((F.avg_pool2d,), nn.AvgPool2d, (*_POOL, "ceil_mode", "count_include_pad", "divisor_override")),
    ((F.max_pool2d, torch.max_pool2d), nn.MaxPool2d, (*_POOL, "dilation", "ceil_mode", "return_indices")),
    ((F.adaptive_avg_pool1d, torch.adaptive_avg_pool1d), nn.AdaptiveAvgPool1d, ("output_size",)),
    ((F.adaptive_avg_pool2d,), nn.AdaptiveAvgPool2d, ("output_size",)),
    ((torch.flatten, "flatten"), nn.Flatten, ("start_dim", "end_dim")),
    (("contiguous", "clone", torch.clone), nn.Identity, ()),
)
_TABLE = {target: (module, names) for targets, module, names in _MODULES for target in targets}
_INPLACE_FORMS = frozenset({torch.relu_, "relu_"})
_MEANS = frozenset({torch.mean, "mean"})
_VIEWS = frozenset({"view", "reshape", torch.reshape})
_PERMUTES = frozenset({"permute", torch.permute})
_TRANSPOSES = frozenset({"transpose", torch.transpose})


def operation(node: Any) -> Any:
    """What a function or a method does to its first argument, as a module; None if that is not supported."""
    if node.op not in ("call_function", "call_method") or not node.args or not isinstance(node.args[0], fx.Node):
        return None
    target, arguments, named = node.target, node.args[1:], dict(node.kwargs)
    if target in _TABLE:
        return _module(*_TABLE[target], arguments, named | ({"inplace": True} if target in _INPLACE_FORMS else {}))
    if target in _MEANS:
        return _mean(arguments, named)
    if target in _VIEWS and not named:
        return _view(node.args[0], _spread(arguments))
    if target in _PERMUTES and not named:
        return Permute(tuple(_spread(arguments)))
    if target in _TRANSPOSES and len(arguments) == 2 and not named:
        return Transpose(*arguments)
    return None


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


def _view(x: Any, sizes: list[Any]) -> FlattenTo | None:
    """A view of samples as rows: (x.size(0), -1), (x.shape[0], width), (-1, width)."""
    if len(sizes) != 2 or not isinstance(sizes[1], int):
        return None
    rows, width = sizes
    keeps_samples = (rows == -1 and width > 0) or _is_batch_size(rows, x)
    return FlattenTo(width) if keeps_samples else None


def _is_batch_size(size: Any, x: Any) -> bool:
    """Whether a node is the number of samples: x.size(0), x.shape[0] or x.size()[0] of any value on the way."""
    if not isinstance(size, fx.Node):
        return False
    if size.target == "size":
        return size.args[1:] == (0,)
    if size.target is not operator.getitem or size.args[1] != 0 or not isinstance(size.args[0], fx.Node):
        return False
    shape = size.args[0]
    return shape.args[1:] == ("shape",) if shape.target is builtins.getattr else shape.target == "size"


def _spread(arguments: tuple[Any, ...]) -> list[Any]:
    """Sizes or axes, given one by one or as one tuple."""
    return list(arguments[0]) if len(arguments) == 1 and isinstance(arguments[0], (tuple, list)) else list(arguments)
