"""Checks that the engines share: batches of samples, parameters of functions, outputs, cotangents."""

from typing import Any

from .._tree import Tree, flatten
from .._typing import Array
from ..backends import Backend, get_backend
from ..layers import Layer
from ..layers._inputs import batch_shape, check_batch, check_entries

__all__ = ["check_function", "check_network", "check_output", "check_samples", "refuse_shape"]


def check_samples(x1: Array, x2: Array | None, *, indices: bool | None) -> tuple[Array, Array | None, Backend]:
    """Check one or two batches of samples and return them C-contiguous, with their backend.

    `indices` says whether they hold integers (True), floating-point numbers (False), or either (None).
    """
    x1, backend = check_batch(x1, "x1", indices)
    if x2 is None:
        return x1, None, backend
    x2, _ = check_batch(x2, "x2", indices)
    get_backend(x1, x2)
    if x1.shape[1:] != x2.shape[1:]:
        raise ValueError(f"expected x2 of shape {batch_shape(x1.shape[1:])}, as x1, got {x2.shape}")
    if x1.dtype != x2.dtype:
        raise TypeError(f"expected x1 and x2 of one dtype, got {x1.dtype} and {x2.dtype}")
    return x1, x2, backend


def check_network(fun: Any) -> None:
    """Refuse what is no layer."""
    if not isinstance(fun, Layer):
        got = (
            f"the class {fun.__name__}" if isinstance(fun, type) else f"{type(fun).__module__}.{type(fun).__qualname__}"
        )
        raise TypeError(
            f"expected fun to be a Layer of ntkfast.layers, got {got.removeprefix('builtins.')}; differentiate a "
            "function of (params, x) with autodiff='jax', 'torch' or 'autograd', and translate a PyTorch module by "
            "ntkfast.adapters.torch.from_torch(module), which has a .net and its .params"
        )


def check_function(fun: Any, params: Tree, x: Array) -> dict[str, Array]:
    """Check that `fun` can be called and its parameters are arrays that go with `x`; return their entries."""
    if isinstance(fun, Layer):
        raise TypeError(
            f"expected fun to be a function of (params, x), got a {type(fun).__name__}: use autodiff='layers'"
        )
    if not callable(fun):
        raise TypeError(f"expected fun to be a function of (params, x), got {fun!r}")
    entries = flatten(params)
    if not entries:
        raise ValueError("expected params with at least one array, got none")
    check_entries(list(entries.items()), x)
    return entries


def check_output(y: Any, n: int) -> int:
    """Number k of outputs of a function whose result for n samples is `y`: (n, k), or (n,) for k = 1."""
    shape = getattr(y, "shape", None)
    if shape is None:
        raise TypeError(f"expected fun(params, x) to be an array, got {type(y).__name__}")
    if len(shape) not in (1, 2) or shape[0] != n or 0 in shape:
        raise ValueError(f"expected fun(params, x) of shape ({n}, k) or ({n},) for a batch of {n}, got {tuple(shape)}")
    if "float" not in str(y.dtype):  # float32, torch.float32, ...
        raise TypeError(f"expected fun(params, x) of a floating-point dtype, got {y.dtype}")
    return int(shape[1]) if len(shape) == 2 else 1


def refuse_shape(array: Array, name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape, which would be broadcast silently."""
    if getattr(array, "shape", None) != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {getattr(array, 'shape', type(array).__name__)}")
