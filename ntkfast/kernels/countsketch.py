"""CountSketch: add every column, times a sign, to one bucket per table row. Its transpose is `gather.signed`.

    add:            out[i, b] += sum over (q, j) with bucket[q, j] = b of sign[q, j] x[i, j]
    apply:          the same onto zeros
    apply_sparse:   apply, for rows in CSR form; cost follows the number of stored entries

Letters: x (n, d), out (n, m); bucket (nnz, d) int32 with 0 <= bucket < m; sign (nnz, d) of x's dtype. nnz = 1 is
CountSketch, more is a sparse Johnson-Lindenstrauss map. Only `add` reads ``out``, the others overwrite it. In `add` and
`apply`, x may be columns of a wider array: rows are contiguous, and any distance apart; nothing is copied.

Promise: bitwise, if the signs are +-1, on every target and for any cut of the rows, and in `add` for any cut of the
columns into tiles that are added in order. A bucket's terms are added one by one in ascending (j, q), and a product
with +-1 is exact, so that fusing it into the sum changes nothing. A scale belongs on the finished sums.

The targets differ in their loops. A CPU thread owns rows and scatters into them. With many rows it takes eight at a
time, whose sums are neighbors, so that a table entry is read once for all of them; for several table rows up to 64,
turning a tile of columns first, so that the additions of an entry are a loop that vectorizes. A CUDA block owns two
rows, with their sums in shared memory, reads every entry once, whatever m is, and adds as many as it has threads at a
time. Where these meet in a bucket, they take turns, the lowest of them first (an integer atomic minimum finds it).

References
----------
Charikar, Chen, Farach-Colton. Finding frequent items in data streams. TCS 312, 2004.
Kane, Nelson. Sparser Johnson-Lindenstrauss transforms. JACM 61, 2014.
"""

import numba
import numpy as np
from numba import prange
from numpy.lib.stride_tricks import as_strided

from . import _kernel
from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, grid, in_threads, rows_jit, shared

__all__ = ["add", "apply", "apply_sparse"]

_ROWS = 8  # rows of a CPU block, or of each part of one: eight float32 are one AVX register
_TILE, _TILE_EIGHTS = 256, 8  # columns of a tile of a CPU block, and eights of rows at most
_BLOCK_BYTES = 2**19  # sums of a block of rows have to stay in the second-level cache
_FITS = 2048  # buckets whose sums a CUDA block holds in shared memory; those of further ones stay in ``out``
_SLOTS = 1024  # owners of buckets in a CUDA block, a power of two; buckets that share one take turns


# --- reference ----------------------------------------------------------------------------------


def _add_reference(x, bucket, sign, out):
    """Add the sketch of dense rows; x (n, d), bucket and sign (nnz, d), out (n, m)."""
    terms = x[:, :, None] * sign.T
    np.add.at(out, (slice(None), bucket.T), terms)


def _apply_reference(x, bucket, sign, out):
    """Sketch of dense rows; x (n, d), bucket and sign (nnz, d), out (n, m)."""
    out[:] = 0
    _add_reference(x, bucket, sign, out)


def _apply_sparse_reference(data, indices, indptr, bucket, sign, out):
    """Sketch of CSR rows; data (nnz_x,), indices (nnz_x,), indptr (n + 1,), bucket and sign (nnz, d), out (n, m)."""
    row = np.repeat(np.arange(out.shape[0]), np.diff(indptr))
    terms = data[:, None] * sign[:, indices].T
    out[:] = 0
    np.add.at(out, (row[:, None], bucket[:, indices].T), terms)


# --- CPU ----------------------------------------------------------------------------------------


@shared
def _scatter_two(row, bucket, sign, sums):
    bucket_0, bucket_1, sign_0, sign_1 = bucket[0], bucket[1], sign[0], sign[1]
    for j in range(row.size):
        sums[bucket_0[j]] += sign_0[j] * row[j]
        sums[bucket_1[j]] += sign_1[j] * row[j]


@shared
def _scatter_four(row, bucket, sign, sums):
    bucket_0, bucket_1, bucket_2, bucket_3 = bucket[0], bucket[1], bucket[2], bucket[3]
    sign_0, sign_1, sign_2, sign_3 = sign[0], sign[1], sign[2], sign[3]
    for j in range(row.size):
        sums[bucket_0[j]] += sign_0[j] * row[j]
        sums[bucket_1[j]] += sign_1[j] * row[j]
        sums[bucket_2[j]] += sign_2[j] * row[j]
        sums[bucket_3[j]] += sign_3[j] * row[j]


@shared
def _scatter_row(row, bucket, sign, sums):
    """Add a row to its sums. Loops over two or four table rows, written out, take a quarter of the time."""
    if bucket.shape[0] == 2:
        _scatter_two(row, bucket, sign, sums)
    elif bucket.shape[0] == 4:
        _scatter_four(row, bucket, sign, sums)
    else:
        for j in range(row.size):
            for q in range(bucket.shape[0]):
                sums[bucket[q, j]] += sign[q, j] * row[j]


@shared
def _add_eight(flat, source, stride, b, factor, sums):
    """Add a column of eight rows; sum r of bucket b is at 8 b + r. Unsigned indices need no test for wrapping."""
    place = np.uint64(b) * np.uint64(_ROWS)
    for r in range(_ROWS):
        sums[place + np.uint64(r)] += factor * flat[source + np.uint64(r) * stride]


@shared
def _scatter_eight(flat, first, stride, bucket, sign, sums):
    """Add eight rows to their sums for one table row, with each entry read where it lies."""
    for j in range(bucket.size):
        _add_eight(flat, np.uint64(first) + np.uint64(j), np.uint64(stride), bucket[j], sign[j], sums)


@shared
def _transpose(flat, first, stride, n_columns, tile):
    """Copy columns of rows to rows of a tile, eight entries at a time: scattered vectors would be slower."""
    width, flat_tile = tile.shape[1], tile.reshape(-1)
    for group in range(0, width, _ROWS):
        for c in range(n_columns):
            place, source = np.uint64(c * width + group), np.uint64(first + group * stride + c)
            for r in range(_ROWS):
                flat_tile[place + np.uint64(r)] = flat[source + np.uint64(r) * np.uint64(stride)]


@shared
def _scatter_tile(tile, n_columns, first, bucket, sign, sums):
    for c in range(n_columns):
        column = tile[c]
        for q in range(bucket.shape[0]):
            place, factor = sums[bucket[q, first + c]], sign[q, first + c]
            for r in range(column.size):
                place[r] += factor * column[r]


@shared
def _scatter_tiles(flat, first, stride, bucket, sign, sums):
    """Add rows to their sums (m, rows), a tile of columns at a time, turned so that a loop over its rows vectorizes."""
    d = bucket.shape[1]
    tile = np.empty((_TILE, sums.shape[1]), sums.dtype)
    for j in range(0, d, _TILE):
        n_columns = min(_TILE, d - j)
        _transpose(flat, first + j, stride, n_columns, tile)
        _scatter_tile(tile, n_columns, j, bucket, sign, sums)


@rows_jit
def _add_blocks(start, stop, flat, stride, bucket, sign, n_blocks, out):
    eights = out.shape[0] // _ROWS
    for block in range(start, stop):
        first, last = _ROWS * (eights * block // n_blocks), _ROWS * (eights * (block + 1) // n_blocks)
        sums = out[first:last].T.copy()
        if bucket.shape[0] == 1:
            _scatter_eight(flat, first * stride, stride, bucket[0], sign[0], sums.reshape(-1))
        else:
            _scatter_tiles(flat, first * stride, stride, bucket, sign, sums)
        out[first:last] = sums.T


@rows_jit
def _add_rows(start, stop, flat, stride, bucket, sign, first, out):
    for i in range(first + start, first + stop):
        _scatter_row(flat[i * stride : i * stride + bucket.shape[1]], bucket, sign, out[i])


def _flat(x):
    """The memory of rows as one row, and the distance of two rows in it: one type for arrays and for their slices."""
    n, d = x.shape
    if x.flags.c_contiguous:  # as_strided takes 10 us
        return x.reshape(-1), d
    stride = x.strides[0] // x.itemsize
    return as_strided(x, ((n - 1) * stride + d,), (x.itemsize,)), stride


def _n_blocks(bucket, out):
    """Blocks of rows: for every thread, if sums of eight rows fit the cache and are met more often than copied."""
    (nnz, d), (n, m), n_threads = bucket.shape, out.shape, numba.get_num_threads()
    eights, fitting = n // _ROWS, _BLOCK_BYTES // (_ROWS * m * out.itemsize)
    if eights < n_threads or fitting == 0 or nnz * d <= 2 * m:
        return 0
    most = 1 if nnz == 1 else min(fitting, _TILE_EIGHTS)
    return max(n_threads, -(-eights // most))


def _add_cpu(x, bucket, sign, out):
    if x.size == 0:
        return
    n_blocks, entries, (flat, stride) = _n_blocks(bucket, out), x.size * bucket.shape[0], _flat(x)
    if n_blocks > 0:
        in_threads(_add_blocks, n_blocks, entries, flat, stride, bucket, sign, n_blocks, out)
    first = len(out) - len(out) % _ROWS if n_blocks > 0 else 0
    if first < len(out):
        in_threads(_add_rows, len(out) - first, entries, flat, stride, bucket, sign, first, out)


def _apply_cpu(x, bucket, sign, out):
    out[:] = 0
    _add_cpu(x, bucket, sign, out)


@cpu_jit
def _apply_sparse_cpu(data, indices, indptr, bucket, sign, out):
    for i in prange(out.shape[0]):
        sums = out[i]
        sums[:] = 0
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            for q in range(bucket.shape[0]):
                sums[bucket[q, j]] += sign[q, j] * data[p]


# --- CUDA ---------------------------------------------------------------------------------------


@shared
def _load(row, sums):
    for b in range(cuda.threadIdx.x, row.size if row.size < _FITS else _FITS, cuda.blockDim.x):
        sums[b] = row[b]


@shared
def _store(sums, row):
    for b in range(cuda.threadIdx.x, row.size if row.size < _FITS else _FITS, cuda.blockDim.x):
        row[b] = sums[b]


@shared
def _free(owner):
    for slot in range(cuda.threadIdx.x, _SLOTS, cuda.blockDim.x):
        owner[0, slot] = cuda.blockDim.x
        owner[1, slot] = cuda.blockDim.x


@shared
def _add_term(sums, row, b, term):
    if b < _FITS:
        sums[b] += term
    else:
        row[b] += term


@shared
def _add_in_turns(sums, owner, out, i, k, b, term_i, term_k):
    """Add an entry of every thread that has one (b >= 0) to rows i and k; whether there was any.

    The lowest of the threads whose buckets share a slot comes first. Turns alternate between two arrays of owners, so
    that it may free its slot while others still read it: nobody bids for it before the next barrier.
    """
    slot, turn, pending, found = b & (_SLOTS - 1), 0, b >= 0, False
    while True:
        if pending:
            cuda.atomic.min(owner, (turn, slot), cuda.threadIdx.x)
        if not cuda.syncthreads_or(np.int32(pending)):
            return found
        found = True
        if pending and owner[turn, slot] == cuda.threadIdx.x:
            owner[turn, slot] = cuda.blockDim.x
            pending = False
            _add_term(sums[0], out[i], b, term_i)
            if k > i:
                _add_term(sums[1], out[k], b, term_k)
        turn = 1 - turn


@shared
def _entry(x, bucket, sign, i, k, q, j):
    """Bucket and sign of an entry of the tables, or -1 beyond them, and the entries of rows i and k that it takes."""
    if q < bucket.shape[0] and j < bucket.shape[1]:
        return bucket[q, j], sign[q, j], x[i, j], x[k, j]
    nothing = x.dtype.type(0)
    return np.int32(-1), nothing, nothing, nothing


@shared
def _next_tile(bucket, q, j):
    """First table row and column of the next tile: of whole columns, or of a part of one if a block has no more."""
    nnz, n_threads = bucket.shape[0], cuda.blockDim.x
    if q + n_threads < nnz:
        return q + n_threads, j
    return 0, j + (n_threads // nnz if nnz < n_threads else 1)


@shared
def _add_pair(x, bucket, sign, i, k, sums, owner, out):
    """Add rows i and k; the entries of two tiles are on their way while those of a third are added."""
    nnz, d = bucket.shape
    own_q, own_j = cuda.threadIdx.x % nnz, cuda.threadIdx.x // nnz
    if nnz < cuda.blockDim.x and own_j >= cuda.blockDim.x // nnz:
        own_j = d  # a tile of whole columns has no room for this part of one
    b_0, sign_0, x_i0, x_k0 = _entry(x, bucket, sign, i, k, own_q, own_j)
    q, j = _next_tile(bucket, 0, 0)
    b_1, sign_1, x_i1, x_k1 = _entry(x, bucket, sign, i, k, q + own_q, j + own_j)
    found = True
    while found:
        q, j = _next_tile(bucket, q, j)
        b_2, sign_2, x_i2, x_k2 = _entry(x, bucket, sign, i, k, q + own_q, j + own_j)
        found = _add_in_turns(sums, owner, out, i, k, b_0, sign_0 * x_i0, sign_0 * x_k0)
        b_0, sign_0, x_i0, x_k0 = b_1, sign_1, x_i1, x_k1
        b_1, sign_1, x_i1, x_k1 = b_2, sign_2, x_i2, x_k2


@cuda_jit
def _add_kernel(x, bucket, sign, out):
    sums = cuda.shared.array((2, _FITS), out.dtype)
    owner = cuda.shared.array((2, _SLOTS), np.int32)
    for i in range(2 * cuda.blockIdx.x, out.shape[0], 2 * cuda.gridDim.x):
        k = i + 1 if i + 1 < out.shape[0] else i  # the last of an odd number of rows is alone
        _load(out[i], sums[0])
        _load(out[k], sums[1])
        _free(owner)
        cuda.syncthreads()
        _add_pair(x, bucket, sign, i, k, sums, owner, out)
        _store(sums[0], out[i])
        if k > i:
            _store(sums[1], out[k])
        cuda.syncthreads()


@cuda_jit
def _add_sparse_kernel(data, indices, indptr, bucket, sign, out):
    sums = cuda.shared.array((1, _FITS), out.dtype)
    owner = cuda.shared.array((2, _SLOTS), np.int32)
    nnz = bucket.shape[0]
    for i in range(cuda.blockIdx.x, out.shape[0], cuda.gridDim.x):
        _load(out[i], sums[0])
        _free(owner)
        cuda.syncthreads()
        n_entries = nnz * (indptr[i + 1] - indptr[i])
        for tile in range(0, n_entries, cuda.blockDim.x):
            entry = tile + cuda.threadIdx.x
            b, term = np.int32(-1), out.dtype.type(0)
            if entry < n_entries:
                q, p = entry % nnz, indptr[i] + entry // nnz
                b, term = bucket[q, indices[p]], sign[q, indices[p]] * data[p]
            _add_in_turns(sums, owner, out, i, i, b, term, term)
        _store(sums[0], out[i])
        cuda.syncthreads()


@cuda_jit
def _zero_kernel(out):
    n, m = out.shape
    for entry in range(cuda.grid(1), n * m, cuda.gridsize(1)):
        out[entry // m, entry % m] = 0


def _blocks(n_blocks):
    """Launch geometry of blocks of rows: as many threads as may have 80 registers, for few rows have few blocks."""
    return max(1, min(n_blocks, 65_535)), 3 * _kernel.BLOCK


def _add_cuda(x, bucket, sign, out, stream=0):
    _add_kernel[(*_blocks((out.shape[0] + 1) // 2), stream)](x, bucket, sign, out)


def _apply_cuda(x, bucket, sign, out, stream=0):
    _zero_kernel[(*grid(out.size), stream)](out)
    _add_cuda(x, bucket, sign, out, stream)


def _apply_sparse_cuda(data, indices, indptr, bucket, sign, out, stream=0):
    _zero_kernel[(*grid(out.size), stream)](out)
    _add_sparse_kernel[(*_blocks(out.shape[0]), stream)](data, indices, indptr, bucket, sign, out)


add = Kernel("countsketch.add", _add_reference, _add_cpu, _add_cuda)
apply = Kernel("countsketch.apply", _apply_reference, _apply_cpu, _apply_cuda)
apply_sparse = Kernel("countsketch.apply_sparse", _apply_sparse_reference, _apply_sparse_cpu, _apply_sparse_cuda)
