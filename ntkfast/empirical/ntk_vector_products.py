"""The NTK column by column: a cotangent of one sample of x2 is pulled back to the parameters and pushed forward at x1.

    Theta[:, j, :, p] = (df(x1)/dtheta) (df_p(x2_j)/dtheta)^T

Cost: n2 k Jacobian-vector products of the batch x1, each about a forward pass: n1 n2 k forward passes in all, and no
contraction over parameters; for n = 1, or networks with many outputs. "trace" and "diagonal" cost as much as "full". A
symmetric call pushes the columns of a tile through the samples from the tile on only: about half.

Both functions have the arguments (engine, fun, params, checked, *, output, max_memory=None), where `checked` is what
``engine.check(fun, params, x1, x2)`` returned and output is "trace", "diagonal" or "full".

Memory: besides the result, the Jacobian of a tile, which `max_memory` bounds, with all its parameter arrays; and what
the engine needs to push a few directions through a few dozen samples. Engines that take several directions at once
(`ntkfast.autodiff.SupportsDirections`) get them at once, others one after the other.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from .._tree import Tree, pick
from .._typing import Array
from ..autodiff import Autodiff, Checked, SupportsDirections
from ..backends import get_backend
from ._tiles import Jacobians, Tile, cut, new_kernels, tiles

__all__ = ["ntk_vector_products", "ntk_vector_products_by_entry"]

# Samples of x2 in a tile, samples of x1 and directions that are pushed at once. Blocks of few different lengths, so
# that an engine that compiles meets few different shapes; small ones, so that a symmetric call does little beyond its
# half, and that a block needs no more than a forward pass of some hundred samples, of a thousand on a GPU.
_COLUMN_SAMPLES, _ROW_SAMPLES, _DIRECTIONS = ({"numpy": size, "cupy": 2 * size} for size in (8, 32, 8))

_Directions: TypeAlias = Mapping[str, Array]  # path -> (m, *shape)


def ntk_vector_products(
    engine: Autodiff, fun: Any, params: Tree, checked: Checked, *, output: str, max_memory: int | None = None
) -> Array:
    """The NTK: (n1, n2), (n1, n2, k) or (n1, n2, k, k)."""
    (kernel,) = new_kernels(checked, output, 1)
    jacobians = Jacobians(engine, fun, params, checked.n_outputs)
    for tile, directions in _columns(jacobians, checked, max_memory):
        _fill(kernel, tile, _push(jacobians, checked, tile, directions), output, checked.x2 is None)
    return kernel


def ntk_vector_products_by_entry(
    engine: Autodiff, fun: Any, params: Tree, checked: Checked, *, output: str, max_memory: int | None = None
) -> dict[str, Array]:
    """What each parameter array contributes to the NTK, by path; costs the NTK once per array."""
    kernels = dict(zip(checked.entries, new_kernels(checked, output, len(checked.entries)), strict=True))
    jacobians = Jacobians(engine, fun, params, checked.n_outputs)
    for tile, directions in _columns(jacobians, checked, max_memory):
        zeros = {path: checked.backend.xp.zeros_like(array) for path, array in directions.items()}
        for path, kernel in kernels.items():
            pushed = _push(jacobians, checked, tile, {**zeros, path: directions[path]})
            _fill(kernel, tile, pushed, output, checked.x2 is None)
    return kernels


def _columns(jacobians: Jacobians, checked: Checked, max_memory: int | None) -> Iterator[tuple[Tile, _Directions]]:
    """Yield tiles of columns, with the Jacobian of each as directions: one per sample of x2 and output."""
    x2 = checked.x1 if checked.x2 is None else checked.x2
    row_bytes = sum(array.nbytes for array in checked.entries.values())
    for tile in tiles(x2, row_bytes, max_memory, checked, most=_COLUMN_SAMPLES[checked.backend.name]):
        yield tile, {path: j.reshape(-1, *checked.entries[path].shape) for path, j in jacobians.of(x2, tile)}


def _push(jacobians: Jacobians, checked: Checked, tile: Tile, directions: _Directions) -> Array:
    """Derivatives of the outputs at x1 along the directions of a tile, (samples, outputs, n1, k).

    In a symmetric call, rows that end above the tile stay zero.
    """
    x1, dtype = checked.x1, checked.dtype
    samples, outputs = tile.shape
    pushed = checked.backend.xp.zeros((samples * outputs, len(x1), checked.n_outputs), dtype)
    for rows in cut(len(x1), _ROW_SAMPLES[checked.backend.name]):
        if checked.x2 is None and rows.stop <= tile.rows.start:
            continue
        push = _pushforwards(jacobians, x1[rows])
        for part in cut(len(pushed), _DIRECTIONS[checked.backend.name]):
            pushed[part, rows] = push({path: array[part] for path, array in directions.items()})
    return pushed.reshape(samples, outputs, *pushed.shape[1:])


def _pushforwards(jacobians: Jacobians, x: Array) -> Callable[[_Directions], Array]:
    """Derivatives (m, n, k) at x along m directions."""
    engine, fun, params = jacobians.engine, jacobians.fun, jacobians.params
    if isinstance(engine, SupportsDirections):
        return engine.param_jvps(fun, params, x)
    y, push = engine.param_jvp(fun, params, x)

    def one_by_one(directions: _Directions) -> Array:
        count = len(next(iter(directions.values())))
        out = get_backend(x).xp.empty((count, *y.shape), y.dtype)
        for i in range(count):
            out[i] = push(pick(params, {path: array[i] for path, array in directions.items()}))
        return out

    return one_by_one


def _fill(kernel: Array, tile: Tile, pushed: Array, output: str, symmetric: bool) -> None:
    """Write the columns of a tile, and, where the call is symmetric, the rows that equal them."""
    for local, j in enumerate(range(tile.rows.start, tile.rows.stop)):
        column = pushed[local, :, j:] if symmetric else pushed[local]  # (q, n1, k)
        rows = slice(j, None) if symmetric else slice(None)
        if output == "full":
            kernel[rows, j, :, tile.outputs] = column.transpose(1, 2, 0)
            if symmetric:
                kernel[j, j + 1 :, tile.outputs, :] = column[:, 1:].transpose(1, 0, 2)
            continue
        same = column[:, :, tile.outputs].diagonal(0, 0, 2)  # (n1, q)
        if output == "trace":
            kernel[rows, j] += same.sum(axis=1) / kernel.dtype.type(pushed.shape[-1])
            if symmetric:
                kernel[j, j + 1 :] = kernel[j + 1 :, j]
        else:
            kernel[rows, j, tile.outputs] = same
            if symmetric:
                kernel[j, j + 1 :, tile.outputs] = same[1:]
