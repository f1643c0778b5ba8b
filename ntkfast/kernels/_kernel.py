"""The record of a compute kernel, and the decorators of its three functions.

A kernel is three functions with one signature, ``(inputs, tables, scalars, out)``:

- ``reference``: plain NumPy, the definition;
- ``cpu``: Numba, parallel over independent outputs;
- ``cuda``: launches a Numba CUDA kernel; takes ``stream`` as its only extra argument.

The caller allocates ``out``; nothing is returned. Arrays are C-contiguous, of one floating
dtype (float32 or float64), index arrays int32.
"""

import concurrent.futures
import functools
import itertools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numba

from ._cuda import cuda

__all__ = [
    "BLOCK",
    "FASTMATH",
    "Kernel",
    "cpu_jit",
    "cuda_jit",
    "exact",
    "grid",
    "in_threads",
    "plain",
    "rows_jit",
    "shared",
]

# "contract" allows fused multiply-adds and "nsz" ignores the sign of zero. Everything that
# would let the compiler assume there are no NaN or inf, or reorder sums, stays off.
FASTMATH = frozenset({"contract", "nsz"})

# Threads of a one-dimensional CUDA block. Tests in the simulator patch it to a small number.
BLOCK = 256

# Entries that are worth a thread: some tens of microseconds, which is what handing them over takes.
_SHARE = 2**15


class Kernel(NamedTuple):
    """One algorithm, three times; see the module docstring."""

    name: str
    reference: Callable[..., None]
    cpu: Callable[..., None]
    cuda: Callable[..., None]


# The error model "numpy" divides by zero without raising: with Python's, no loop with a division vectorizes.

# Scalar functions: called by CPU kernels, and recompiled as device functions by CUDA kernels.
shared = numba.njit(fastmath=set(FASTMATH), error_model="numpy", inline="never", cache=False)

# The same without fused multiply-adds: for results that must equal NumPy's bit for bit. (Left out, `fastmath`
# would be inherited from the caller.)
exact = numba.njit(fastmath=False, error_model="numpy", inline="never", cache=False)


def plain(function: Callable[..., Any]) -> Callable[..., Any]:
    """The Python function beneath a `shared` or `exact` one; it also works on arrays if it has no branches."""
    return getattr(function, "py_func", function)


def cpu_jit(function: Callable[..., Any]) -> Any:
    """Compile a CPU kernel: parallel, cached on disk, releasing the GIL."""
    return numba.njit(parallel=True, cache=True, nogil=True, fastmath=set(FASTMATH), error_model="numpy")(function)


def rows_jit(function: Callable[..., Any]) -> Any:
    """Compile ``function(start, stop, *args)``, some rows of a CPU kernel: serial, cached on disk, releasing the GIL.

    With `in_threads` it does what `cpu_jit` does where a kernel alternates with matrix products: OpenMP's threads,
    which spin while they wait, would take the cores from those of BLAS. It also compiles several times faster.
    """
    return numba.njit(cache=True, nogil=True, fastmath=set(FASTMATH), error_model="numpy")(function)


def in_threads(function: Callable[..., None], n_rows: int, entries: int, *args: Any) -> None:
    """Call a `rows_jit` function on all rows, cut between Python threads if there are `entries` enough to share."""
    n_threads = min(numba.get_num_threads(), n_rows, entries // _SHARE)
    if n_threads < 2:
        function(0, n_rows, *args)
        return
    bounds = [n_rows * i // n_threads for i in range(n_threads + 1)]
    waiting = [_pool().submit(function, *cut, *args) for cut in itertools.pairwise(bounds[1:])]
    function(0, bounds[1], *args)
    for part in waiting:
        part.result()


@functools.cache
def _pool() -> concurrent.futures.ThreadPoolExecutor:
    return concurrent.futures.ThreadPoolExecutor(numba.config.NUMBA_NUM_THREADS, "ntkfast")


if hasattr(os, "register_at_fork"):  # the threads of a pool do not live on in a child
    os.register_at_fork(after_in_child=_pool.cache_clear)


def cuda_jit(function: Callable[..., Any]) -> Any:
    """Declare a CUDA kernel; it is compiled at its first launch.

    Write ``a if a < b else b`` in it: Numba's built-in target does not compile ``min`` and ``max``.
    """
    return cuda.jit(function)


def grid(n_threads: int) -> tuple[int, int]:
    """Launch geometry (blocks, threads per block) for `n_threads` in a grid-stride loop."""
    blocks = -(-n_threads // BLOCK)
    return max(1, min(blocks, 65_535)), BLOCK
