"""Signed gather: every column is a sum of columns of z, times signs. The transpose of `countsketch.apply`.

    signed:  out[i, j] = sum over q of sign[q, j] z[i, bucket[q, j]]

Letters: z (n, m); bucket (nnz, d) int32 with 0 <= bucket < m; sign (nnz, d) of z's dtype; out (n, d). With nnz = 1 it
samples columns: the rows of a Hadamard matrix that an SRHT keeps.

Promise: bitwise, if the signs are +-1. The terms of a sum are added in the order of q, and a product with +-1 is exact.
"""

from numba import prange

from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, grid, shared

__all__ = ["signed"]

_STRIP = 4096  # columns that a CPU thread makes at a time


def _signed_reference(z, bucket, sign, out):
    """Signed sum of gathered columns; z (n, m), bucket and sign (nnz, d), out (n, d)."""
    out[:] = 0
    for q in range(bucket.shape[0]):
        out += sign[q] * z[:, bucket[q]]


@shared
def _gather_strip(z, bucket, sign, out):
    for j in range(out.size):
        out[j] += sign[j] * z[bucket[j]]


@cpu_jit
def _signed_cpu(z, bucket, sign, out):
    n, d = out.shape
    n_strips = (d + _STRIP - 1) // _STRIP
    for strip in prange(n * n_strips):
        i, first = strip // n_strips, (strip % n_strips) * _STRIP
        last = min(first + _STRIP, d)
        part = out[i, first:last]
        part[:] = 0
        for q in range(bucket.shape[0]):
            _gather_strip(z[i], bucket[q, first:last], sign[q, first:last], part)


@cuda_jit
def _signed_kernel(z, bucket, sign, out):
    n, d = out.shape
    for entry in range(cuda.grid(1), n * d, cuda.gridsize(1)):
        i, j = entry // d, entry % d
        total = out.dtype.type(0)
        for q in range(bucket.shape[0]):
            total += sign[q, j] * z[i, bucket[q, j]]
        out[i, j] = total


def _signed_cuda(z, bucket, sign, out, stream=0):
    _signed_kernel[(*grid(out.size), stream)](z, bucket, sign, out)


signed = Kernel("gather.signed", _signed_reference, _signed_cpu, _signed_cuda)
