"""Fast Walsh-Hadamard transform of rows, unnormalized, in the natural order.

    out[i, k] = sum over j of (-1)**popcount(j & k) x[i, j]

Letters: x, out (n, p) with p a power of two; ``out`` may be x. A stage of half-width h replaces the elements a, b at
distance h of every group of 2 h by a + b, a - b; the transform is the stages h = 1, 2, 4, ..., p / 2 in this order, so
p log2(p) additions a row (Fino and Algazi 1976).

Promise: bitwise on every target and for any cut of the rows: stages keep their order, and within a stage no two sums
meet. (Products do not occur.)

The targets differ in how stages share a pass over memory. A CPU thread owns rows and passes over blocks of them that
fit the first-level cache, two stages at a time, in the constant geometry of Pease (1968): every pass reads four
neighbors and writes them a quarter of the block apart, which rotates the index by two bits, so that the next stages
are between neighbors again; such a pass vectorizes. The stages between the blocks of a long row run on strips of
columns copied to scratch. A CUDA block keeps a chunk of the array in shared memory for all stages within it; every
further pass over global memory does two stages.

References
----------
Pease. An adaptation of the fast Fourier transform for parallel processing. Journal of the ACM 15, 1968.
Fino, Algazi. Unified matrix treatment of the fast Walsh-Hadamard transform. IEEE Trans. Computers 25, 1976.
"""

import numba
import numpy as np
from numba import prange

from . import _kernel
from ._cuda import cuda
from ._kernel import FASTMATH, Kernel, cpu_jit, cuda_jit, grid, shared

__all__ = ["transform"]

_BLOCK = 4096  # elements that are in the first-level cache (CPU) or shared memory (CUDA) at a time; a power of 4
_STRIP = 64  # columns of a strip

# Inlined by force, so that a literal quarter is a constant of the loop: LLVM has to see that the results are apart.
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


@_inlined
def _rotate(x, quarter, y):
    """Two stages; unsigned, since an index that may wrap does not vectorize."""
    q1, q2, q3 = np.uint64(quarter), np.uint64(2 * quarter), np.uint64(3 * quarter)
    for t in range(quarter):
        i = np.uint64(t)
        k = np.uint64(4) * i
        a, b, c, d = x[k], x[k + np.uint64(1)], x[k + np.uint64(2)], x[k + np.uint64(3)]
        a, b, c, d = a + b, a - b, c + d, c - d
        y[i], y[i + q1], y[i + q2], y[i + q3] = a + c, b + d, a - c, b - d


@shared
def _pass(x, y):
    if x.size == 4096:
        _rotate(x, 1024, y)
    elif x.size == 1024:
        _rotate(x, 256, y)
    elif x.size == 256:
        _rotate(x, 64, y)
    else:
        _rotate(x, x.size // 4, y)


@shared
def _all_stages(block, scratch):
    """Transform a block whose size is a power of 4."""
    x, y = block, scratch
    n_passes = 0
    while 4**n_passes < block.size:
        _pass(x, y)
        x, y = y, x
        n_passes += 1
    if n_passes % 2 == 1:
        block[:] = scratch


@shared
def _one_stage(row, h):
    for first in range(0, row.size, 2 * h):
        u, v = row[first : first + h], row[first + h : first + 2 * h]
        for i in range(h):
            u[i], v[i] = u[i] + v[i], u[i] - v[i]


@shared
def _two_stages(row, h):
    for first in range(0, row.size, 4 * h):
        u, v = row[first : first + h], row[first + h : first + 2 * h]
        w, z = row[first + 2 * h : first + 3 * h], row[first + 3 * h : first + 4 * h]
        for i in range(h):
            a, b, c, d = u[i] + v[i], u[i] - v[i], w[i] + z[i], w[i] - z[i]
            u[i], v[i], w[i], z[i] = a + c, b + d, a - c, b - d


@shared
def _stages_from(row, h):
    """Stages h, 2 h, ... to the end of the row."""
    while 4 * h <= row.size:
        _two_stages(row, h)
        h *= 4
    if 2 * h <= row.size:
        _one_stage(row, h)


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
    p = out.shape[1]
    size = 1  # of a block: the largest power of 4 within the row and the cache
    while 4 * size <= p and size < _BLOCK:
        size *= 4
    for i in prange(out.shape[0]):
        row = out[i]
        row[:] = x[i]
        scratch = np.empty(size, out.dtype)
        for first in range(0, p, size):
            _all_stages(row[first : first + size], scratch)
        if p > 2 * size:
            _stages_between_blocks(row)
        elif p == 2 * size:
            _one_stage(row, size)


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
