"""Checks of a batch of samples, and of the arrays of a tree of parameters."""

from typing import Any

from .._check import array_backend, check_all_finite, check_dtype, check_finite
from .._typing import Array
from ..backends import Backend, get_backend

__all__ = ["batch_shape", "check_batch", "check_entries", "refuse_tied", "takes_indices"]


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


def batch_shape(sample: tuple[int, ...]) -> str:
    """Shape of a batch in messages: "(n, 28, 28, 1)"."""
    return f"({', '.join(['n', *map(str, sample)])}{'' if sample else ','})"


def check_entries(entries: list[tuple[str, Array]], x: Array) -> None:
    """Refuse parameters of another dtype or backend than `x` (where it is floating), NaN, inf, and tied arrays."""
    wanted, like = (x.dtype, "the samples") if x.dtype.kind == "f" else (entries[0][1].dtype, "the first entry")
    for path, array in entries:
        get_backend(x, array)
        check_dtype(array, f"params[{path!r}]")
        if array.dtype != wanted:
            raise TypeError(f"expected params[{path!r}] of dtype {wanted}, got {array.dtype}, unlike {like}")
    check_all_finite({f"params[{path!r}]": array for path, array in entries})
    refuse_tied(entries)


def refuse_tied(entries: list[tuple[str, Array]]) -> None:
    """Refuse two parameters in one memory: their Jacobians would have to be added before they are contracted."""
    arrays = dict(entries)
    reach: list[tuple[int, str]] = []  # ends of the arrays that may reach into the next one
    for (start, stop), second in sorted((_span(array), path) for path, array in entries):
        reach = [(end, path) for end, path in reach if end > start]
        for _, first in reach:
            # Slices of one matrix may lie between each other.
            if get_backend(arrays[first]).xp.shares_memory(arrays[first], arrays[second]):
                raise ValueError(
                    f"expected untied parameters, got params[{first!r}] and params[{second!r}] in one memory; copy "
                    "one of them if they are independent; if not, give autodiff='jax', 'torch' or 'autograd' a "
                    "function of (params, x) that uses one entry twice"
                )
        reach.append((stop, second))


def _span(array: Array) -> tuple[int, int]:
    """First and last address of an array."""
    pointer = array.data.ptr if get_backend(array).name == "cupy" else array.__array_interface__["data"][0]
    if array.flags.c_contiguous:
        return pointer, pointer + array.nbytes
    low = high = pointer
    for size, stride in zip(array.shape, array.strides, strict=True):
        low += min(0, (size - 1) * stride)
        high += max(0, (size - 1) * stride)
    return low, high + array.itemsize
