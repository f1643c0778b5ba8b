"""Blocks of rows of a kernel matrix, and the threads that work on them."""

import concurrent.futures
from collections.abc import Callable
from typing import Any

import numba

from ..backends import Backend

__all__ = ["TILE_ROWS", "run_blocks", "slices"]

# Most rows of a tile: enough for its matrix product to run at full speed.
TILE_ROWS = 512


def slices(n: int, height: int) -> list[slice]:
    """Slices of `height` rows, the last one shorter, that cover n rows."""
    return [slice(start, min(start + height, n)) for start in range(0, n, height)]


def run_blocks(backend: Backend, shape: tuple[int, int], entries: int, work: Callable[[slice], Any]) -> list[Any]:
    """Results of `work` on blocks of rows of a matrix, in order.

    NumPy: blocks of about `entries` entries, which stay in cache, on as many threads as the kernels use. NumPy releases
    the interpreter in every array expression. CuPy: one block.
    """
    n1, n2 = shape
    blocks = slices(n1, max(1, entries // n2) if backend.name == "numpy" else n1)
    if len(blocks) == 1:
        return [work(blocks[0])]
    with concurrent.futures.ThreadPoolExecutor(numba.get_num_threads()) as pool:
        return list(pool.map(work, blocks))
