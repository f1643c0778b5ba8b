"""Checks of arguments that the functions of this package share, and trees by layer."""

from .._check import array_backend, check_all_finite, check_dtype, check_finite
from .._tree import Tree, flatten
from .._typing import Array
from ..autodiff import Checked, get_autodiff
from ..backends import get_backend
from ..layers import Layer

__all__ = ["by_layer", "check_direction", "check_layers", "check_like"]


def check_layers(net: Layer, params: Tree, x1: Array, x2: Array | None = None) -> Checked:
    """Check a network of layers and its floating-point samples."""
    checked = get_autodiff("layers").check(net, params, x1, x2)
    if checked.x1.dtype.kind != "f":
        raise TypeError(f"expected floating-point samples to differentiate by, got dtype {checked.x1.dtype}")
    return checked


def check_like(array: Array, name: str, shape: tuple[int, ...], like: Array) -> Array:
    """Check an array of given shape, finite, in the dtype and on the backend of `like`; return it C-contiguous."""
    array = _fitting(array, name, shape, like)
    check_finite(array, name)
    return array


def _fitting(array: Array, name: str, shape: tuple[int, ...], like: Array) -> Array:
    """`check_like`, but for the values."""
    array_backend(array, name)
    backend = get_backend(array, like)
    check_dtype(array, name)
    if array.shape != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {array.shape}")
    if array.dtype != like.dtype:
        raise TypeError(f"expected {name} of dtype {like.dtype}, got {array.dtype}")
    return backend.xp.ascontiguousarray(array)


def check_direction(direction: Tree, entries: dict[str, Array], name: str = "direction") -> dict[str, Array]:
    """Check a tree like the parameters; return its arrays by path, buffers left out."""
    arrays = flatten(direction, name)
    missing = [path for path in entries if path not in arrays]
    if missing:
        raise ValueError(f"expected {name} to hold {missing[0]!r}, as the parameters do")
    found = {path: _fitting(arrays[path], f"{name}[{path!r}]", like.shape, like) for path, like in entries.items()}
    check_all_finite({f"{name}[{path!r}]": array for path, array in found.items()})
    return found


def by_layer(arrays: dict[str, Array]) -> dict[str, dict[str, Array]]:
    """Arrays by the path of their layer, then by name."""
    found: dict[str, dict[str, Array]] = {}
    for path, array in arrays.items():
        where, _, name = path.rpartition(".")
        found.setdefault(where, {})[name] = array
    return found
