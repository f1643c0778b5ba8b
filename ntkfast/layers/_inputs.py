"""Checks of a batch of samples."""

from typing import Any

from .._check import array_backend, check_dtype, check_finite
from .._typing import Array
from ..backends import Backend

__all__ = ["check_batch", "takes_indices"]


def check_batch(x: Array, name: str, indices: bool | None) -> tuple[Array, Backend]:
    """Check a batch of samples of any shape and return it C-contiguous, with its backend.

    `indices` says whether they hold integers (True), floating-point numbers (False), or either (None).
    """
    backend = array_backend(x, name)
    integer = x.dtype.kind in "iu"
    if indices and not integer:
        raise TypeError(
            f"expected {name} of an integer dtype, since the network begins with an embedding; got {x.dtype}"
        )
    if x.ndim == 0 or x.size == 0:
        raise ValueError(f"expected {name} with at least one sample and no empty axis, got shape {x.shape}")
    if indices is False or not integer:
        check_dtype(x, name)
        check_finite(x, name)
    return backend.xp.ascontiguousarray(x), backend


def takes_indices(net: Any) -> bool:
    """Whether the lowest layer of a network reads integers."""
    while children := tuple(net.children()):
        net = children[0][1]
    return bool(net.takes_indices)
