"""A PyTorch module as a network of ours and its parameters."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

from torch import nn

from ..._check import check_int
from ...layers import Identity, Residual, Sequential
from ._arrays import Tensors
from ._graph import Fork, Row, Step, describe, row, supported_class
from ._layers import CONVERTERS, ORDERS
from ._value import Value

__all__ = ["TorchNetwork", "from_torch"]


@dataclass(frozen=True, slots=True, eq=False)
class TorchNetwork:
    """A network of ours that computes what a PyTorch module does.

    Attributes
    ----------
    net : Sequential
    params : tuple
        Parameters of `net`.
    names : dict of str to str
        For every path in `params`, as "3.body.0.weight", the module's own name, as "layer1.0.conv1.weight".
    """

    net: Sequential
    params: tuple[Any, ...] = field(repr=False)
    names: dict[str, str] = field(repr=False)


def from_torch(module: Any, in_shape: tuple[int, ...] | None = None, *, copy: bool = False) -> TorchNetwork:
    """Translate a PyTorch module into layers, with its weights.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode where it has BatchNorm or Dropout. Rows of supported modules, and modules with a
        ``forward`` that torch.fx can trace and whose branches part and join in sums, at any depth, as in residual
        networks. float32 or float64, on a CPU or a CUDA device.
    in_shape : tuple of int, optional
        Shape of one sample as the result takes it, channels last: (height, width, channels). With it shapes are
        checked here, and not on the first call. It is needed where the module begins with a Flatten, or has
        an AdaptiveAvgPool2d to more than one pixel.
    copy : bool
        Copy the weights, in our order. By default they are views that follow the module when it is trained further.

    Returns
    -------
    TorchNetwork
        ``net``, a `Sequential`, in the standard parameterization; its ``params``, in the module's dtype, NumPy arrays
        for a module on the CPU and CuPy arrays for one on a CUDA device; and ``names``.

    Raises
    ------
    ValueError
        A module, function or setting is not supported; BatchNorm or Dropout is in training mode; a parameter is used
        twice (tied weights); values are not made from one input, or branches do not join in pairs. The message names
        the first such place by its qualified name.
    TypeError
        `module` is no module, or has tensors of mixed or other dtypes.

    Notes
    -----
    Supported modules: Linear, Conv1d, Conv2d (stride, padding, dilation, groups; padding_mode "zeros"), Embedding,
    LayerNorm, BatchNorm1d, BatchNorm2d, AvgPool2d, MaxPool2d, AdaptiveAvgPool1d, AdaptiveAvgPool2d, Flatten, ReLU,
    LeakyReLU, GELU, Tanh, Sigmoid, SiLU, Softplus, Dropout, Identity, Sequential; their functional forms; and sums,
    means over all pixels, views as rows, and permutations that move the channels to the end or back.

    Layout. PyTorch has the channels of images first, (n, channels, height, width); `net` takes them last:
    ``x.permute(0, 2, 3, 1)``. Where a module begins with a Flatten, it is its input that is taken for such images.
    Weights are views of the module's memory with their axes in our order, without `copy`. Copied always is only what
    comes between a Flatten of images and the end of the next Linear, whose entries get our order of the pixels. A
    convolution brings its weight into contiguous memory in every call: for a view a strided copy, 40 ms in all for
    the 11 million weights of a ResNet-18, and nothing after `copy`, which pays for many calls with few samples.

    All parameters count, also those with ``requires_grad=False``. Above 20 PyTorch's Softplus is the identity, which
    differs from ours by less than 2.1e-9.

    Cost: no pass over data; a few milliseconds for a module that is traced.

    References
    ----------
    Reed, DeVito, He, Ussery, Ansel. torch.fx: practical program capture and transformation for deep learning in Python.
    MLSys 2022.

    Examples
    --------
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Flatten(),
    ...                             torch.nn.Linear(8 * 4 * 4, 10))
    >>> found = from_torch(model, in_shape=(4, 4, 3))
    >>> x = torch.randn(5, 3, 4, 4)
    >>> y, _ = found.net.forward(found.params, x.permute(0, 2, 3, 1).numpy())
    >>> torch.allclose(model(x), torch.from_numpy(y), atol=1e-6)
    True
    >>> found.names["3.weight"]
    '3.weight'
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"expected module to be a torch.nn.Module, got {type(module).__name__}")
    shape = None if in_shape is None else tuple(check_int(size, "in_shape", minimum=1) for size in in_shape)
    steps = row(module, "", lambda leaf: supported_class(leaf, CONVERTERS) is not None)
    parts, value = _row(steps, Value.of(shape, _input_order(steps)), Tensors(copy=copy))
    if value.blocks is not None:
        raise ValueError("expected a Linear after the last Flatten, whose features come in another order; got none")
    net, params, names = _joined(parts)
    return TorchNetwork(net, params, names)


def _input_order(steps: Row) -> str | None:
    """Where the first module that cares expects the channels; None if axes are rearranged before."""
    for step in steps:
        if isinstance(step, Fork):
            order = _input_order(step.left) or _input_order(step.right)
        else:
            found = supported_class(step.module, CONVERTERS)
            if found not in ORDERS:
                return None
            order = ORDERS[found]
        if order is not None:
            return order
    return None


class _Part(NamedTuple):
    """A layer with its parameters, and the names of their origins by path from here."""

    layer: Any
    params: Any
    names: dict[str, str]


def _row(steps: Row, value: Value, tensors: Tensors) -> tuple[list[_Part], Value]:
    """The layers that steps become, and what is known of the value behind them."""
    parts: list[_Part] = []
    for step in steps:
        found, value = _fork(step, value, tensors) if isinstance(step, Fork) else _step(step, value, tensors)
        parts += found
    return parts, value


def _joined(parts: list[_Part]) -> _Part:
    """Layers in a row as one layer."""
    parts = parts or [_Part(Identity(), {}, {})]
    names = {f"{i}.{path}": name for i, part in enumerate(parts) for path, name in part.names.items()}
    return _Part(Sequential(*(part.layer for part in parts)), tuple(part.params for part in parts), names)


def _step(step: Step, value: Value, tensors: Tensors) -> tuple[list[_Part], Value]:
    """The layer that a module becomes, if any."""
    found = supported_class(step.module, CONVERTERS)
    if found is None:
        raise ValueError(f"expected supported modules and functions, got {describe(step.name, step.module)}")
    try:
        layer, params, after = CONVERTERS[found](step.module, value, tensors.of(step.module, step.name))
        if layer is None:
            return [], after
        if tensors.copy:
            params = {name: array.copy() for name, array in params.items()}  # C-contiguous
        if value.shape is not None:
            after = after.shaped(layer.out_shape(value.shape))
            list(layer.check_params(params, value.shape))
    except (ValueError, TypeError) as error:
        raise type(error)(f"{describe(step.name, step.module)}: {error}") from None
    names = {name: f"{step.name}.{_ORIGINS.get(name, name)}".lstrip(".") for name in params}
    return [_Part(layer, params, names)], after


_ORIGINS = {"scale": "weight", "shift": "bias", "mean": "running_mean", "var": "running_var"}


def _fork(fork: Fork, value: Value, tensors: Tensors) -> tuple[list[_Part], Value]:
    """The sum of two branches; the longer one is the body."""
    (left, one), (right, other) = (_row(branch, value, tensors) for branch in (fork.left, fork.right))
    if not one.matches(other):
        raise ValueError(f"expected summands of one shape and order of axes at {fork.name!r}, got {one} and {other}")
    body, shortcut = (left, right) if len(left) >= len(right) else (right, left)
    main = _joined(body)
    names = {f"body.{path}": name for path, name in main.names.items()}
    if not shortcut:
        return [_Part(Residual(main.layer), {"body": main.params}, names)], one.met(other)
    side = _joined(shortcut)
    names |= {f"shortcut.{path}": name for path, name in side.names.items()}
    params = {"body": main.params, "shortcut": side.params}
    return [_Part(Residual(main.layer, side.layer), params, names)], one.met(other)
