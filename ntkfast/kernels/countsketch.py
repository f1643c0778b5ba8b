"""CountSketch: add every column, times a sign, to one bucket per table row; and its transpose.

    apply:          out[i, b] = sum over (q, j) with bucket[q, j] = b of sign[q, j] x[i, j]
    adjoint:        out[i, j] = sum over q of sign[q, j] z[i, bucket[q, j]]
    apply_sparse:   apply, for rows in CSR form; cost follows the number of stored entries

Letters: x (n, d), z (n, m); bucket (nnz, d) int32 with 0 <= bucket < m; sign (nnz, d) of x's dtype. nnz = 1 is
CountSketch, more is a sparse Johnson-Lindenstrauss map. ``out`` is overwritten.

Promise: bitwise, if the signs are +-1, on every target and for any cut of the rows. A bucket's terms are added one
by one in ascending (j, q), and a product with +-1 is exact, so that fusing it into the sum changes nothing.
A scale belongs on the finished sums.

The targets differ in their loops. A CPU thread owns rows and scatters into them; with many rows it takes eight at a
time, so that a table entry is read once and its eight sums lie in one vector. A CUDA block owns a row and a range of
buckets in shared memory, and reads a tile of entries at a time, one per thread. Where entries of a tile meet in a
bucket, they are added in rounds, the lowest of them first (an integer atomic minimum finds it).

References
----------
Charikar, Chen, Farach-Colton. Finding frequent items in data streams. TCS 312, 2004.
Kane, Nelson. Sparser Johnson-Lindenstrauss transforms. JACM 61, 2014.
"""

import numba
import numpy as np
from numba import prange

from . import _kernel
from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, grid, shared

__all__ = ["adjoint", "apply", "apply_sparse"]

_ROWS = 8  # rows of a CPU block: eight float32 sums are one AVX register
_BLOCK_BYTES = 2**19  # sums of a block of rows have to stay in the second-level cache
_STRIP = 4096  # columns of the adjoint that a CPU thread makes at a time
_RANGE = 2048  # buckets that a CUDA block holds in shared memory


# --- reference ----------------------------------------------------------------------------------


def _apply_reference(x, bucket, sign, out):
    """Sketch of dense rows; x (n, d), bucket and sign (nnz, d), out (n, m)."""
    terms = x[:, :, None] * sign.T
    out[:] = 0
    np.add.at(out, (slice(None), bucket.T.reshape(-1)), terms.reshape(x.shape[0], -1))


def _apply_sparse_reference(data, indices, indptr, bucket, sign, out):
    """Sketch of CSR rows; data (nnz_x,), indices (nnz_x,), indptr (n + 1,), bucket and sign (nnz, d), out (n, m)."""
    row = np.repeat(np.arange(out.shape[0]), np.diff(indptr))
    terms = data[:, None] * sign[:, indices].T
    out[:] = 0
    np.add.at(out, (row[:, None], bucket[:, indices].T), terms)


def _adjoint_reference(z, bucket, sign, out):
    """Transpose of `apply`; z (n, m), bucket and sign (nnz, d), out (n, d)."""
    out[:] = 0
    for q in range(bucket.shape[0]):
        out += sign[q] * z[:, bucket[q]]


# --- CPU ----------------------------------------------------------------------------------------


@shared
def _scatter_row(row, bucket, sign, sums):
    for j in range(row.size):
        for q in range(bucket.shape[0]):
            sums[bucket[q, j]] += sign[q, j] * row[j]


@shared
def _add_column(x, first, j, b, factor, sums):
    """Add a column of eight rows; sum r of bucket b is at 8 b + r. An index that may wrap would not vectorize."""
    place = np.uint64(b) * np.uint64(_ROWS)
    for r in range(_ROWS):
        sums[place + np.uint64(r)] += factor * x[first + r, j]


@shared
def _scatter_block(x, first, bucket, sign, sums):
    if bucket.shape[0] == 1:  # the usual case, a quarter faster without the inner loop
        bucket_0, sign_0 = bucket[0], sign[0]
        for j in range(x.shape[1]):
            _add_column(x, first, j, bucket_0[j], sign_0[j], sums)
    else:
        for j in range(x.shape[1]):
            for q in range(bucket.shape[0]):
                _add_column(x, first, j, bucket[q, j], sign[q, j], sums)


@cpu_jit
def _apply_rows(x, bucket, sign, n_blocks, out):
    n, m = out.shape
    for block in prange(n_blocks):
        sums = np.zeros(_ROWS * m, out.dtype)
        first = block * _ROWS
        _scatter_block(x, first, bucket, sign, sums)
        for r in range(_ROWS):
            for b in range(m):
                out[first + r, b] = sums[_ROWS * b + r]
    for rest in prange(n - n_blocks * _ROWS):
        i = n_blocks * _ROWS + rest
        out[i, :] = 0
        _scatter_row(x[i], bucket, sign, out[i])


def _apply_cpu(x, bucket, sign, out):
    # blocks are worth it where every thread gets one, and their sums fit the cache
    n, m = out.shape
    blocked = n >= _ROWS * numba.get_num_threads() and m * _ROWS * out.itemsize <= _BLOCK_BYTES
    _apply_rows(x, bucket, sign, n // _ROWS if blocked else 0, out)


@cpu_jit
def _apply_sparse_cpu(data, indices, indptr, bucket, sign, out):
    for i in prange(out.shape[0]):
        sums = out[i]
        sums[:] = 0
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            for q in range(bucket.shape[0]):
                sums[bucket[q, j]] += sign[q, j] * data[p]


@shared
def _gather_strip(z, bucket, sign, out):
    for j in range(out.size):
        out[j] += sign[j] * z[bucket[j]]


@cpu_jit
def _adjoint_cpu(z, bucket, sign, out):
    n, d = out.shape
    n_strips = (d + _STRIP - 1) // _STRIP
    for strip in prange(n * n_strips):
        i, first = strip // n_strips, (strip % n_strips) * _STRIP
        last = min(first + _STRIP, d)
        part = out[i, first:last]
        part[:] = 0
        for q in range(bucket.shape[0]):
            _gather_strip(z[i], bucket[q, first:last], sign[q, first:last], part)


# --- CUDA ---------------------------------------------------------------------------------------


@shared
def _clear(sums, owner):
    for b in range(cuda.threadIdx.x, _RANGE, cuda.blockDim.x):
        sums[b] = 0
        owner[b] = cuda.blockDim.x
    cuda.syncthreads()


@shared
def _add_tile(sums, owner, b, term, pending):
    """Add the terms of a block's threads to their buckets, in the order of the threads where they meet."""
    thread = cuda.threadIdx.x
    while cuda.syncthreads_or(np.int32(pending)):
        if pending:
            cuda.atomic.min(owner, b, thread)
        cuda.syncthreads()
        if pending and owner[b] == thread:
            sums[b] += term
            owner[b] = cuda.blockDim.x
            pending = False


@shared
def _store(sums, first_bucket, out):
    cuda.syncthreads()
    n_rest = out.size - first_bucket
    for b in range(cuda.threadIdx.x, _RANGE if n_rest > _RANGE else n_rest, cuda.blockDim.x):
        out[first_bucket + b] = sums[b]
    cuda.syncthreads()


@cuda_jit
def _apply_kernel(x, bucket, sign, out):
    sums = cuda.shared.array(_RANGE, out.dtype)
    owner = cuda.shared.array(_RANGE, np.int32)
    nnz, d = bucket.shape
    n_ranges = (out.shape[1] + _RANGE - 1) // _RANGE
    for task in range(cuda.blockIdx.x, out.shape[0] * n_ranges, cuda.gridDim.x):
        i, first_bucket = task // n_ranges, (task % n_ranges) * _RANGE
        _clear(sums, owner)
        for tile in range(0, nnz * d, cuda.blockDim.x):
            entry = tile + cuda.threadIdx.x
            b, term = -1, out.dtype.type(0)
            if entry < nnz * d:
                q, j = entry % nnz, entry // nnz
                b = bucket[q, j] - first_bucket
                if 0 <= b < _RANGE:
                    term = sign[q, j] * x[i, j]
            _add_tile(sums, owner, b, term, 0 <= b < _RANGE)
        _store(sums, first_bucket, out[i])


@cuda_jit
def _apply_sparse_kernel(data, indices, indptr, bucket, sign, out):
    sums = cuda.shared.array(_RANGE, out.dtype)
    owner = cuda.shared.array(_RANGE, np.int32)
    nnz = bucket.shape[0]
    n_ranges = (out.shape[1] + _RANGE - 1) // _RANGE
    for task in range(cuda.blockIdx.x, out.shape[0] * n_ranges, cuda.gridDim.x):
        i, first_bucket = task // n_ranges, (task % n_ranges) * _RANGE
        n_entries = nnz * (indptr[i + 1] - indptr[i])
        _clear(sums, owner)
        for tile in range(0, n_entries, cuda.blockDim.x):
            entry = tile + cuda.threadIdx.x
            b, term = -1, out.dtype.type(0)
            if entry < n_entries:
                q, p = entry % nnz, indptr[i] + entry // nnz
                b = bucket[q, indices[p]] - first_bucket
                if 0 <= b < _RANGE:
                    term = sign[q, indices[p]] * data[p]
            _add_tile(sums, owner, b, term, 0 <= b < _RANGE)
        _store(sums, first_bucket, out[i])


def _blocks(out):
    """Launch geometry: a block per row and range of buckets."""
    n_tasks = out.shape[0] * -(-out.shape[1] // _RANGE)
    return max(1, min(n_tasks, 65_535)), _kernel.BLOCK


def _apply_cuda(x, bucket, sign, out, stream=0):
    _apply_kernel[(*_blocks(out), stream)](x, bucket, sign, out)


def _apply_sparse_cuda(data, indices, indptr, bucket, sign, out, stream=0):
    _apply_sparse_kernel[(*_blocks(out), stream)](data, indices, indptr, bucket, sign, out)


@cuda_jit
def _adjoint_kernel(z, bucket, sign, out):
    n, d = out.shape
    for entry in range(cuda.grid(1), n * d, cuda.gridsize(1)):
        i, j = entry // d, entry % d
        total = out.dtype.type(0)
        for q in range(bucket.shape[0]):
            total += sign[q, j] * z[i, bucket[q, j]]
        out[i, j] = total


def _adjoint_cuda(z, bucket, sign, out, stream=0):
    _adjoint_kernel[(*grid(out.size), stream)](z, bucket, sign, out)


apply = Kernel("countsketch.apply", _apply_reference, _apply_cpu, _apply_cuda)
apply_sparse = Kernel("countsketch.apply_sparse", _apply_sparse_reference, _apply_sparse_cpu, _apply_sparse_cuda)
adjoint = Kernel("countsketch.adjoint", _adjoint_reference, _adjoint_cpu, _adjoint_cuda)
