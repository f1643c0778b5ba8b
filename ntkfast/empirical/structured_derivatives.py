"""Structured derivatives: the NTK of a network of layers from their Jacobian factors, layer by layer.

The backward passes of both sides run in step, and a layer's factors are contracted as soon as both are there; no more
than one layer's cotangents are alive at a time. Where the samples do not fit the memory, blocks of them are paired, and the
factors of a block are formed again for every pair.

References
----------
Novak, Sohl-Dickstein, Schoenholz. Fast finite width neural tangent kernel. ICML 2022, arXiv 2206.08720, section 3.3.
"""

import math
from collections.abc import Callable, Iterator
from itertools import repeat
from typing import Any

from .._typing import Array
from ..autodiff import Checked, SupportsFactors
from ..backends import Backend
from ..errors import MemoryBudgetError
from ..layers import Layer
from ..layers.factors import Factors
from .contraction import layer_terms
from .sums import NTKSum, ntk_sum

__all__ = ["block_rows", "sample_bytes", "structured_derivatives"]

# Share of the budget for the Jacobians of a layer, and for products that wait to be added.
_JACOBIAN_SHARE = 4

_Layers = Iterator[tuple[str, dict[str, Factors]]]


def structured_derivatives(
    engine: SupportsFactors, net: Layer, params: Any, checked: Checked, output: str, budget: int, by_entry: bool
) -> Any:
    """NTK of checked arguments.

    Parameters
    ----------
    engine : SupportsFactors
    net, params, checked
        What `engine.check` was given and what it returned.
    output : {"trace", "diagonal", "full"}
    budget : int
        Bytes for temporaries.
    by_entry : bool
        Return a dictionary with one kernel per parameter array.

    Returns
    -------
    array or dict of str to array

    Raises
    ------
    MemoryBudgetError
        One sample does not fit; the message has the smallest budget that would do.
    """
    sides = (checked.x1, checked.x1 if checked.x2 is None else checked.x2)
    rows = block_rows(net, checked, budget)
    whole: dict[str, Array] = {}
    for i, first in enumerate(_blocks(len(sides[0]), rows)):
        for j, second in enumerate(_blocks(len(sides[1]), rows)):
            if checked.x2 is None and j < i:
                continue
            same = checked.x2 is None and i == j
            x2 = None if same else sides[1][second]
            found = _pair(engine, net, params, sides[0][first], x2, checked, output, budget, by_entry)
            _place(checked, output, found, whole, first, second)
    return whole if by_entry else whole[""]


def _blocks(n: int, rows: int) -> Iterator[slice]:
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))


def _pair(
    engine: SupportsFactors, net: Layer, params: Any, x1: Array, x2: Array | None, checked: Checked,
    output: str, budget: int, by_entry: bool,
) -> dict[str, Array]:  # fmt: skip
    """Kernels of one pair of blocks, by path; one kernel under the empty path without `by_entry`."""
    backend, dtype = checked.backend, next(iter(checked.entries.values())).dtype
    n2 = len(x1) if x2 is None else len(x2)
    sums: dict[str, NTKSum] = {}

    def sum_of(path: str) -> NTKSum:
        if path not in sums:
            sums[path] = ntk_sum(output, backend, len(x1), n2, checked.n_outputs, dtype, x2 is None)
        return sums[path]

    firsts: _Layers = engine.factors(net, params, x1)
    seconds: Iterator[Any] = repeat(None) if x2 is None else engine.factors(net, params, x2)
    for (path, first), other in zip(firsts, seconds, strict=False):
        second = None if other is None else other[1]
        _add_layer(backend, sum_of, path, first, second, output, budget // _JACOBIAN_SHARE, by_entry)
    return {path: found.result() for path, found in sums.items()}


def _add_layer(
    backend: Backend, sum_of: Callable[[str], NTKSum], path: str, first: dict[str, Factors],
    second: dict[str, Factors] | None, output: str, budget: int, by_entry: bool,
) -> None:  # fmt: skip
    """Add the terms of one layer to the sum, or to that of each of its parameters."""
    groups = [[name] for name in first] if by_entry else [list(first)]
    for names in groups:
        part = {name: first[name] for name in names}
        other = None if second is None else {name: second[name] for name in names}
        entry = (f"{path}.{names[0]}" if path else names[0]) if by_entry else ""
        for term in layer_terms(backend, part, other, output, budget):
            sum_of(entry).add(term)


def _place(
    checked: Checked, output: str, found: dict[str, Array], whole: dict[str, Array], rows: slice, columns: slice
) -> None:
    """Write the kernels of a pair of blocks, and their mirror image, into the whole."""
    n1 = len(checked.x1)
    n2 = n1 if checked.x2 is None else len(checked.x2)
    for path, block in found.items():
        if block.shape[:2] == (n1, n2):
            whole[path] = block
            continue
        if path not in whole:
            whole[path] = checked.backend.xp.empty((n1, n2, *block.shape[2:]), block.dtype)
        whole[path][rows, columns] = block
        if checked.x2 is None and rows != columns:
            axes = (1, 0, 3, 2) if output == "full" else (1, 0, 2)[: block.ndim]
            whole[path][columns, rows] = block.transpose(axes)


def block_rows(net: Layer, checked: Checked, budget: int) -> int:
    """Samples of a block whose temporaries fit the budget."""
    n = max(len(checked.x1), 0 if checked.x2 is None else len(checked.x2))
    itemsize = next(iter(checked.entries.values())).dtype.itemsize
    sides = 1 if checked.x2 is None else 2
    room = budget - budget // _JACOBIAN_SHARE
    sample = sample_bytes(net, checked.x1.shape[1:], checked.n_outputs, itemsize)
    if sides * sample * n <= room:
        return n
    if 2 * sample > room:
        smallest = -(-2 * sample * _JACOBIAN_SHARE // (_JACOBIAN_SHARE - 1))
        raise MemoryBudgetError(f"expected max_memory of at least {smallest} bytes, got {budget}")
    return max(1, room // (2 * sample))


def sample_bytes(net: Layer, in_shape: tuple[int, ...], k: int, itemsize: int) -> int:
    """Bytes that one sample of a block needs: what the forward pass keeps, and the widest cotangents.

    The cotangents of a layer's output and input are alive at once, a third array while they are multiplied.
    """
    kept = widest = 0
    for _, layer, shape in net.leaves(in_shape):
        size, out = math.prod(shape), math.prod(layer.out_shape(shape))
        kept += size
        widest = max(widest, size + 2 * out)
    return itemsize * (2 * kept + k * widest)
