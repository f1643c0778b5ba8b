"""The NTK as a product of Jacobians, one parameter array at a time.

    Theta[i, j, o, p] = sum over parameter arrays of J1[i, o, :] . J2[j, p, :]

Works for every engine and every network. Cost: the Jacobians, and n1 n2 k^2 P multiply-adds for P parameters (n1 n2 k P
for "trace" and "diagonal"). A symmetric call computes the tiles of the upper triangle and mirrors them; on the CPU the
tiles on the diagonal are symmetric products, which cost half, too.

Both functions have the arguments (engine, fun, params, checked, *, output, max_memory=None), where `checked` is what
``engine.check(fun, params, x1, x2)`` returned and output is "trace", "diagonal" or "full".

Memory: besides the result, about four times the Jacobian of a tile (an array at a time with engines that know factors,
all arrays at once with others), which `max_memory` bounds, and the product of two tiles. What the engine needs to
differentiate a tile, activations and cotangents, comes on top. With several tiles, Jacobians are computed again for
every pair of them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from .._tree import Tree
from .._typing import Array
from ..autodiff import Autodiff, Checked
from ..backends import get_backend
from ._tiles import Jacobians, Tile, new_kernels, tiles

__all__ = ["jacobian_contraction", "jacobian_contraction_by_entry"]

_Pairs: TypeAlias = Iterator[tuple[str, Array, Array]]


def jacobian_contraction(
    engine: Autodiff, fun: Any, params: Tree, checked: Checked, *, output: str, max_memory: int | None = None
) -> Array:
    """The NTK: (n1, n2), (n1, n2, k) or (n1, n2, k, k)."""
    (kernel,) = new_kernels(checked, output, 1)
    _accumulate(Jacobians(engine, fun, params, checked.n_outputs), checked, output, max_memory,
                dict.fromkeys(checked.entries, kernel))  # fmt: skip
    return _mean(kernel, output, checked)


def jacobian_contraction_by_entry(
    engine: Autodiff, fun: Any, params: Tree, checked: Checked, *, output: str, max_memory: int | None = None
) -> dict[str, Array]:
    """What each parameter array contributes to the NTK, by path; the contributions sum to it."""
    kernels = dict(zip(checked.entries, new_kernels(checked, output, len(checked.entries)), strict=True))
    _accumulate(Jacobians(engine, fun, params, checked.n_outputs), checked, output, max_memory, kernels)
    return {path: _mean(kernel, output, checked) for path, kernel in kernels.items()}


def _mean(kernel: Array, output: str, checked: Checked) -> Array:
    if output == "trace":
        kernel /= checked.n_outputs
    return kernel


def _accumulate(
    jacobians: Jacobians, checked: Checked, output: str, max_memory: int | None, kernels: Mapping[str, Array]
) -> None:
    """Add the product of every pair of tiles and every parameter array to the kernel of its path."""
    add = _ADD[output]
    for first, second, pairs in _tile_pairs(jacobians, checked, output, max_memory):
        mirrored = checked.x2 is None and first is not second
        for path, j1, j2 in pairs:
            add(kernels[path], first, second, j1, j2, mirrored)


def _tile_pairs(
    jacobians: Jacobians, checked: Checked, output: str, max_memory: int | None
) -> Iterator[tuple[Tile, Tile, _Pairs]]:
    """Yield pairs of tiles, of the upper triangle where the call is symmetric, with their Jacobians by path."""
    x1, x2 = checked.x1, checked.x1 if checked.x2 is None else checked.x2
    row_bytes = jacobians.row_size(checked.entries) * checked.dtype.itemsize
    lefts = tiles(x1, row_bytes, max_memory, checked)
    rights = lefts if checked.x2 is None else tiles(x2, row_bytes, max_memory, checked)
    for i, left in enumerate(lefts):
        held = None if jacobians.one_by_one else list(jacobians.of(x1, left))
        for right in rights[i:] if checked.x2 is None else rights:
            if output == "full" or left.outputs == right.outputs:
                found = jacobians.of(x1, left) if held is None else iter(held)
                yield left, right, _paired(found, None if left is right else jacobians.of(x2, right))


def _paired(found: Iterator[tuple[str, Array]], others: Iterator[tuple[str, Array]] | None) -> _Pairs:
    """Bring the Jacobians of two tiles together, array by array; None means the first tile again."""
    if others is None:
        yield from ((path, jacobian, jacobian) for path, jacobian in found)
        return
    for (path, j1), (_, j2) in zip(found, others, strict=True):
        yield path, j1, j2


def _add_trace(kernel: Array, first: Tile, second: Tile, j1: Array, j2: Array, mirrored: bool) -> None:
    """Add the sum over outputs."""
    block = _product(j1.reshape(len(j1), -1), j2.reshape(len(j2), -1))
    kernel[first.rows, second.rows] += block
    if mirrored:
        kernel[second.rows, first.rows] += block.T


def _add_diagonal(kernel: Array, first: Tile, second: Tile, j1: Array, j2: Array, mirrored: bool) -> None:
    """Add output by output."""
    block = _product(j1.transpose(1, 0, 2), j2.transpose(1, 0, 2))  # (k, n1, n2)
    kernel[first.rows, second.rows, first.outputs] += block.transpose(1, 2, 0)
    if mirrored:
        kernel[second.rows, first.rows, first.outputs] += block.transpose(2, 1, 0)


def _add_full(kernel: Array, first: Tile, second: Tile, j1: Array, j2: Array, mirrored: bool) -> None:
    """Add all pairs of outputs."""
    left, right = (j.reshape(-1, j.shape[2]) for j in (j1, j2))
    block = _product(left, right).reshape(*first.shape, *second.shape)  # (n1, k1, n2, k2)
    kernel[first.rows, second.rows, first.outputs, second.outputs] += block.transpose(0, 2, 1, 3)
    if mirrored:
        kernel[second.rows, first.rows, second.outputs, first.outputs] += block.transpose(2, 0, 3, 1)


def _product(left: Array, right: Array) -> Array:
    """Left times right transposed; NumPy sees where both are one array, and computes half."""
    return get_backend(left).xp.matmul(left, right.T if right.ndim == 2 else right.transpose(0, 2, 1))


_Add: TypeAlias = Callable[[Array, Tile, Tile, Array, Array, bool], None]
_ADD: dict[str, _Add] = {"trace": _add_trace, "diagonal": _add_diagonal, "full": _add_full}
