"""Each supported module as a layer of ours.

A converter takes the module, what is known of its input, and a reader of its tensors. It returns the layer, None where
nothing is left to do; the layer's parameters; and what is known of the output.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

from torch import nn

from ... import layers
from ..._typing import Array
from ...layers import Layer
from ._functions import FlattenTo, Mean, Permute, Transpose
from ._value import Value, rearranged

__all__ = ["CONVERTERS", "ORDERS", "Read"]

Found: TypeAlias = tuple[Layer | None, dict[str, Array], Value]
Read: TypeAlias = Callable[[str], Array]  # a tensor of the module, by its name
Converter: TypeAlias = Callable[[Any, Value, Read], Found]

_STANDARD: dict[str, Any] = {"W_std": 1.0, "parameterization": "standard"}


# --- weights ------------------------------------------------------------------------------------


def _linear(module: Any, value: Value, read: Read) -> Found:
    if value.blocks is None:
        value = value.seen_as("last", value.rank, "a Linear")
    weight = rearranged(read("weight"), value.blocks).T  # (in, out)
    layer = layers.Dense(module.out_features, bias=module.bias is not None, **_STANDARD)
    return layer, {"weight": weight} | _bias(module, read), replace(value, channels=module.out_features, blocks=None)


def _conv(module: Any, value: Value, read: Read) -> Found:
    axes = len(module.kernel_size)
    value = value.seen_as("first", axes, f"a Conv{axes}d")
    _expect(module, padding_mode="zeros")
    layer = (layers.Conv1d if axes == 1 else layers.Conv2d)(
        module.out_channels, module.kernel_size, stride=module.stride, padding=_padding(module),
        dilation=module.dilation, groups=module.groups, bias=module.bias is not None, **_STANDARD,
    )  # fmt: skip
    weight = read("weight")  # (out, in / groups, *kernel)
    weight = weight.transpose(*range(2, 2 + axes), 1, 0)
    return layer, {"weight": weight} | _bias(module, read), replace(value, channels=module.out_channels)


def _padding(module: Any) -> tuple[tuple[int, int], ...]:
    """Zeros before and after the image, along each axis."""
    if module.padding == "valid":
        return ((0, 0),) * len(module.kernel_size)
    if module.padding == "same":
        totals = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((amount, amount) for amount in module.padding)


def _bias(module: Any, read: Read) -> dict[str, Array]:
    return {} if module.bias is None else {"bias": read("bias")}


def _embedding(module: Any, value: Value, read: Read) -> Found:
    _expect(module, padding_idx=None, max_norm=None, scale_grad_by_freq=False)
    layer = layers.Embedding(module.num_embeddings, module.embedding_dim, **_STANDARD)
    rank = None if value.rank is None else value.rank + 1  # the last axis of the indices is one of positions
    return layer, {"weight": read("weight")}, Value(rank=rank, order="last", channels=module.embedding_dim)


# --- normalization ------------------------------------------------------------------------------


def _batch_norm(module: Any, value: Value, read: Read) -> Found:
    if module.training:
        raise ValueError(
            "expected evaluation mode (module.eval()), got training mode, in which samples are not independent"
        )
    if module.running_mean is None:
        raise ValueError("expected running statistics, got track_running_stats=False")
    _expect_scale_and_shift(module)
    if value.blocks is None:
        rank = 2 if isinstance(module, nn.BatchNorm2d) else value.rank
        value = value.seen_as("first", rank, "a BatchNorm")
    names = {"scale": "weight", "shift": "bias", "mean": "running_mean", "var": "running_var"}
    params = {ours: rearranged(read(name), value.blocks) for ours, name in names.items()}
    return layers.BatchNorm(epsilon=module.eps), params, replace(value, channels=value.channels or module.num_features)


def _expect_scale_and_shift(module: Any) -> None:
    for name in ("weight", "bias"):
        if getattr(module, name) is None:
            raise ValueError(f"expected a learned scale and shift, got no {name}")


def _layer_norm(module: Any, value: Value, read: Read) -> Found:
    _expect_scale_and_shift(module)
    axes = len(module.normalized_shape)
    names = {"scale": "weight", "shift": "bias"}
    params = {ours: rearranged(read(name), value.blocks) for ours, name in names.items()}
    if value.blocks is None and axes > 1 and (value.order == "first" or (value.order is None and axes == 3)):
        value = value.seen_as("first", axes - 1, f"a LayerNorm over {axes} axes")
        params = {name: array.transpose(*range(1, axes), 0) for name, array in params.items()}
    elif value.blocks is None:
        value = value.seen_as("last", value.rank, "a LayerNorm")
    return layers.LayerNorm(epsilon=module.eps, axes=axes), params, value


# --- elementwise --------------------------------------------------------------------------------


def _elementwise(make: Callable[[Any], Layer]) -> Converter:
    return lambda module, value, read: (make(module), {}, value)


def _softplus(module: Any) -> Layer:
    _expect(module, beta=1)
    if module.threshold < 20:  # beyond 20, log(1 + exp(x)) - x is below 2.1e-9
        raise ValueError(f"expected threshold of at least 20, got {module.threshold}")
    return layers.Softplus()


def _dropout(module: Any, value: Value, read: Read) -> Found:
    if module.training and module.p > 0:
        raise ValueError("expected evaluation mode (module.eval()), got training mode, whose output is random")
    return None, {}, value


def _identity(module: Any, value: Value, read: Read) -> Found:
    return None, {}, value


# --- pooling ------------------------------------------------------------------------------------


def _avg_pool(module: Any, value: Value, read: Read) -> Found:
    pads = _pair(module.padding)
    _expect(module, ceil_mode=False, divisor_override=None, **({} if pads == (0, 0) else {"count_include_pad": True}))
    layer = layers.AvgPool2d(_pair(module.kernel_size), _pair(module.stride), tuple((p, p) for p in pads))
    return layer, {}, value.seen_as("first", 2, "an AvgPool2d")


def _max_pool(module: Any, value: Value, read: Read) -> Found:
    _expect(module, ceil_mode=False, return_indices=False)
    if _pair(module.dilation) != (1, 1):
        raise ValueError(f"expected dilation=1, got {module.dilation}")
    pads = tuple((p, p) for p in _pair(module.padding))
    layer = layers.MaxPool2d(_pair(module.kernel_size), _pair(module.stride), pads)
    return layer, {}, value.seen_as("first", 2, "a MaxPool2d")


def _adaptive_pool(module: Any, value: Value, read: Read) -> Found:
    axes = 1 if isinstance(module, nn.AdaptiveAvgPool1d) else 2
    value = value.seen_as("first", axes, "a pooling layer")
    sizes = module.output_size if isinstance(module.output_size, (tuple, list)) else (module.output_size,) * axes
    if all(size == 1 for size in sizes):
        return layers.GlobalAvgPool(), {}, replace(value, rank=0, pooled=True)
    if axes == 1 or value.shape is None:
        raise ValueError(
            f"expected output_size=1 where in_shape is not given, or one axis is pooled; got {module.output_size}"
        )
    wanted = tuple(size or now for size, now in zip(sizes, value.shape, strict=False))
    if any(now % size for size, now in zip(wanted, value.shape, strict=False)):
        raise ValueError(f"expected an output_size that divides the image {value.shape[:2]}, got {wanted}")
    if wanted == value.shape[:2]:
        return None, {}, value
    return layers.AvgPool2d((value.shape[0] // wanted[0], value.shape[1] // wanted[1])), {}, value


def _pair(sizes: Any) -> tuple[int, int]:
    return (sizes[0], sizes[1]) if isinstance(sizes, (tuple, list)) else (sizes, sizes)


def _mean(module: Mean, value: Value, read: Read) -> Found:
    count = len(module.axes)
    axes = {axis % (count + 2) if value.rank is None else axis % (value.rank + 2) for axis in module.axes}
    order = value.order or "first"
    if axes != set(range(2, count + 2) if order == "first" else range(1, count + 1)):
        raise ValueError(f"expected a mean over all spatial axes, got axes {module.axes}")
    value = value.seen_as(order, count, f"a mean over axes {module.axes}")
    if module.keepdim and order == "last":
        raise ValueError("expected keepdim=False, got True")
    return layers.GlobalAvgPool(), {}, replace(value, rank=0, pooled=module.keepdim)


# --- order of axes ------------------------------------------------------------------------------


def _flatten(module: Any, value: Value, read: Read) -> Found:
    if isinstance(module, nn.Flatten):
        last = None if value.rank is None else value.rank + 1
        _expect(module, start_dim=1, **({} if module.end_dim == last else {"end_dim": -1}))
    else:
        _expect_width(module.width, value)
    if value.rank == 0:
        return None, {}, replace(value, pooled=False)
    if value.order != "last" and value.channels is None:
        raise ValueError("expected in_shape, since samples of unknown shape are flattened")
    if value.order is None and value.rank == 1:
        raise ValueError("expected samples of one or three axes, as rows or images, got two; flatten them first")
    one_pixel = value.shape is not None and math.prod(value.shape[:-1]) == 1
    return layers.Flatten(), {}, Value(rank=0, blocks=None if value.order == "last" or one_pixel else value.channels)


def _expect_width(width: int, value: Value) -> None:
    """Refuse a view that takes several rows from one sample, as far as the shape is known."""
    exact = value.shape is not None or value.rank == 0
    least = value.channels if value.shape is None else math.prod(value.shape)  # channels of one position at least
    if width == -1 or least is None or width == least or (width % least == 0 and not exact):
        return
    entries = f"{least} entries" if exact else f"{least} entries or a multiple"
    raise ValueError(f"expected a view with one row per sample, of {entries}, got {width}")


def _permute(module: Permute, value: Value, read: Read) -> Found:
    axes = tuple(axis % len(module.axes) for axis in module.axes)
    rank = len(axes) - 2
    to_last = (0, *range(2, rank + 2), 1)
    to_first = (0, rank + 1, *range(1, rank + 1))
    return _moved(axes, to_last, to_first, value)


def _transpose(module: Transpose, value: Value, read: Read) -> Found:
    axes = {module.first % 3, module.second % 3}
    if axes != {1, 2} or value.rank not in (None, 1):
        raise ValueError(f"expected axes 1 and 2 of three exchanged, got {module.first} and {module.second}")
    return _moved((0, 2, 1), (0, 2, 1), (0, 2, 1), value)


def _moved(axes: tuple[int, ...], to_last: tuple[int, ...], to_first: tuple[int, ...], value: Value) -> Found:
    """Nothing to do for us, whose channels stay last: only where PyTorch has them changes."""
    rank = len(axes) - 2
    if axes == to_last and value.order in (("first",) if axes == to_first else ("first", None)):
        return None, {}, replace(value.seen_as("first", rank, "a permutation"), order="last")
    if axes == to_first and value.order == "last":
        return None, {}, replace(value.seen_as("last", rank, "a permutation"), order="first")
    raise ValueError(f"expected a permutation that moves the channels to the last axis or back, got {axes}")


def _expect(module: Any, **settings: Any) -> None:
    """Refuse other settings than these."""
    for name, wanted in settings.items():
        if getattr(module, name) != wanted:
            raise ValueError(f"expected {name}={wanted!r}, got {getattr(module, name)!r}")


CONVERTERS: dict[type, Converter] = {
    nn.Linear: _linear,
    nn.Conv1d: _conv,
    nn.Conv2d: _conv,
    nn.Embedding: _embedding,
    nn.BatchNorm1d: _batch_norm,
    nn.BatchNorm2d: _batch_norm,
    nn.LayerNorm: _layer_norm,
    nn.ReLU: _elementwise(lambda module: layers.ReLU()),
    nn.LeakyReLU: _elementwise(lambda module: layers.LeakyReLU(module.negative_slope)),
    nn.GELU: _elementwise(lambda module: layers.GELU(module.approximate)),
    nn.Tanh: _elementwise(lambda module: layers.Tanh()),
    nn.Sigmoid: _elementwise(lambda module: layers.Sigmoid()),
    nn.SiLU: _elementwise(lambda module: layers.SiLU()),
    nn.Softplus: _elementwise(_softplus),
    nn.Dropout: _dropout,
    nn.Dropout1d: _dropout,
    nn.Dropout2d: _dropout,
    nn.Identity: _identity,
    nn.AvgPool2d: _avg_pool,
    nn.MaxPool2d: _max_pool,
    nn.AdaptiveAvgPool1d: _adaptive_pool,
    nn.AdaptiveAvgPool2d: _adaptive_pool,
    nn.Flatten: _flatten,
    Mean: _mean,
    FlattenTo: _flatten,
    Permute: _permute,
    Transpose: _transpose,
}

# Where a module expects the channels; None where it does not care, and what is missing rearranges axes.
ORDERS: dict[type, str | None] = {
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.BatchNorm2d, nn.AvgPool2d, nn.MaxPool2d), "first"),
    **dict.fromkeys((nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d), "first"),
    **dict.fromkeys((nn.Linear, nn.Embedding), "last"),
    **dict.fromkeys((nn.ReLU, nn.LeakyReLU, nn.GELU, nn.Tanh, nn.Sigmoid, nn.SiLU, nn.Softplus)),
    **dict.fromkeys((nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Identity, nn.BatchNorm1d, nn.LayerNorm)),
}
