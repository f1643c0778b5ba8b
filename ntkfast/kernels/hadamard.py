"""Fast Walsh-Hadamard transform of rows, unnormalized, in the natural order.

    out[i, k] = sum over j of (-1)**popcount(j & k) x[i, j]

Letters: x, out (n, p) with p a power of two; ``out`` may be x. A stage of half-width h replaces the elements a, b at
distance h of every group of 2 h by a + b, a - b; the transform is the stages h = 1, 2, 4, ..., p / 2 in this order, so
p log2(p) additions a row (Fino and Algazi 1976).

Promise: bitwise on every target and for any cut of the rows: stages keep their order, and within a stage no two sums
meet. (Products do not occur.)

The targets differ in how stages share a pass over memory. A CPU thread owns rows and passes over them in blocks
that fit the first-level cache, two or three stages at a time; the stages between blocks of a long row run on strips
of columns copied to scratch. A CUDA block keeps a chunk of the array in shared memory for all stages within it; every
further pass over global memory does two stages.

References
----------
Fino, Algazi. Unified matrix treatment of the fast Walsh-Hadamard transform. IEEE Trans. Computers 25, 1976.
"""

import numba
import numpy as np
from numba import prange

from . import _kernel
from ._cuda import cuda
from ._kernel import FASTMATH, Kernel, cpu_jit, cuda_jit, grid, shared

__all__ = ["transform"]

_BLOCK = 4096  # elements of a row that are in the first-level cache (CPU) or shared memory (CUDA) at a time
_STRIP = 64  # columns of a strip

# Inlined by force, so that a literal half-width is a constant in the loop: with one, LLVM vectorizes short loops.
_inlined = numba.njit(fastmath=set(FASTMATH), forceinline=True, cache=False)


# --- reference ----------------------------------------------------------------------------------


def _transform_reference(x, out):
    """Transform rows; x and out (n, p), p a power of two, out may be x."""
    n, p = x.shape
    out[:] = x
    h = 1
    while h < p:
        pairs = out.reshape(n, p // (2 * h), 2, h)
        a, b = pairs[:, :, 0].copy(), pairs[:, :, 1].copy()
        pairs[:, :, 0], pairs[:, :, 1] = a + b, a - b
        h *= 2


# --- CPU ----------------------------------------------------------------------------------------


@shared
def _stages_1_2_4(row):
    """The first three stages; unsigned, since an index that may wrap does not vectorize."""
    for block in range(row.size // 8):
        k = np.uint64(8) * np.uint64(block)
        k1, k2, k3, k4 = k + np.uint64(1), k + np.uint64(2), k + np.uint64(3), k + np.uint64(4)
        k5, k6, k7 = k + np.uint64(5), k + np.uint64(6), k + np.uint64(7)
        a, b, c, d, e, f, g, h = row[k], row[k1], row[k2], row[k3], row[k4], row[k5], row[k6], row[k7]
        a, b, c, d, e, f, g, h = a + b, a - b, c + d, c - d, e + f, e - f, g + h, g - h
        a, b, c, d, e, f, g, h = a + c, b + d, a - c, b - d, e + g, f + h, e - g, f - h
        row[k], row[k1], row[k2], row[k3] = a + e, b + f, c + g, d + h
        row[k4], row[k5], row[k6], row[k7] = a - e, b - f, c - g, d - h


@_inlined
def _two_stages(row, h):
    """Stages h and 2 h."""
    for first in range(0, row.size, 4 * h):
        u, v = row[first : first + h], row[first + h : first + 2 * h]
        w, z = row[first + 2 * h : first + 3 * h], row[first + 3 * h : first + 4 * h]
        for i in range(h):
            a, b, c, d = u[i] + v[i], u[i] - v[i], w[i] + z[i], w[i] - z[i]
            u[i], v[i], w[i], z[i] = a + c, b + d, a - c, b - d


@shared
def _one_stage(row, h):
    for first in range(0, row.size, 2 * h):
        u, v = row[first : first + h], row[first + h : first + 2 * h]
        for i in range(h):
            u[i], v[i] = u[i] + v[i], u[i] - v[i]


@shared
def _stages_8_16(row):
    _two_stages(row, 8)


@shared
def _stages_32_64(row):
    _two_stages(row, 32)


@shared
def _stages_from(row, h):
    """Stages h, 2 h, ... to the end of the row."""
    while 4 * h <= row.size:
        _two_stages(row, h)
        h *= 4
    if 2 * h <= row.size:
        _one_stage(row, h)


@shared
def _all_stages(row):
    h = 1
    if row.size >= 128:
        _stages_1_2_4(row)
        _stages_8_16(row)
        _stages_32_64(row)
        h = 128
    _stages_from(row, h)


@shared
def _stages_between_blocks(row):
    """Stages from the block's size on, by strips of columns of the matrix (blocks, block size)."""
    n_blocks = row.size // _BLOCK
    matrix = row.reshape(n_blocks, _BLOCK)
    strip = np.empty((n_blocks, _STRIP), row.dtype)
    for first in range(0, _BLOCK, _STRIP):
        strip[:] = matrix[:, first : first + _STRIP]
        _stages_from(strip.reshape(-1), _STRIP)
        matrix[:, first : first + _STRIP] = strip


@cpu_jit
def _transform_cpu(x, out):
    for i in prange(out.shape[0]):
        row = out[i]
        row[:] = x[i]
        for first in range(0, row.size, _BLOCK):
            _all_stages(row[first : first + _BLOCK])
        if row.size > _BLOCK:
            _stages_between_blocks(row)


# --- CUDA: on the flat array, since a row is an aligned power of two of it ------------------------


@shared
def _shared_stage(chunk, size, h):
    for pair in range(cuda.threadIdx.x, size // 2, cuda.blockDim.x):
        k = (pair // h) * 2 * h + pair % h
        a, b = chunk[k], chunk[k + h]
        chunk[k], chunk[k + h] = a + b, a - b
    cuda.syncthreads()


@cuda_jit
def _chunk_kernel(x, width, out):
    """All stages within chunks of `width` or fewer elements."""
    chunk = cuda.shared.array(_BLOCK, out.dtype)
    for first in range(cuda.blockIdx.x * _BLOCK, out.size, cuda.gridDim.x * _BLOCK):
        size = out.size - first
        size = _BLOCK if size > _BLOCK else size
        for k in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            chunk[k] = x[first + k]
        cuda.syncthreads()
        h = 1
        while h < width:
            _shared_stage(chunk, size, h)
            h *= 2
        for k in range(cuda.threadIdx.x, size, cuda.blockDim.x):
            out[first + k] = chunk[k]
        cuda.syncthreads()


@cuda_jit
def _two_stages_kernel(h, out):
    """Stages h and 2 h; a thread owns four elements."""
    for t in range(cuda.grid(1), out.size // 4, cuda.gridsize(1)):
        k = (t // h) * 4 * h + t % h
        a, b, c, d = out[k], out[k + h], out[k + 2 * h], out[k + 3 * h]
        a, b, c, d = a + b, a - b, c + d, c - d
        out[k], out[k + h], out[k + 2 * h], out[k + 3 * h] = a + c, b + d, a - c, b - d


@cuda_jit
def _one_stage_kernel(h, out):
    for t in range(cuda.grid(1), out.size // 2, cuda.gridsize(1)):
        k = (t // h) * 2 * h + t % h
        a, b = out[k], out[k + h]
        out[k], out[k + h] = a + b, a - b


def _transform_cuda(x, out, stream=0):
    p = x.shape[1]
    flat = out.reshape(-1)
    blocks = max(1, min(-(-flat.size // _BLOCK), 65_535))
    _chunk_kernel[blocks, _kernel.BLOCK, stream](x.reshape(-1), min(p, _BLOCK), flat)
    h = _BLOCK
    while 4 * h <= p:
        _two_stages_kernel[(*grid(flat.size // 4), stream)](h, flat)
        h *= 4
    if 2 * h <= p:
        _one_stage_kernel[(*grid(flat.size // 2), stream)](h, flat)


transform = Kernel("hadamard.transform", _transform_reference, _transform_cpu, _transform_cuda)
