"""Products of spectra: the heart of TensorSketch between two fast Fourier transforms.

    multiply:    out[i, k] = x[i, k] y[i, k]
    accumulate:  out[n, k, f] += sum over t of x[n, t, f] y[n, t, k, f]

The CountSketch of an outer product whose bucket is the sum of its factors' buckets (modulo m) is the circular
convolution of their CountSketches (Pham and Pagh 2013), so its spectrum is the product of theirs. The transforms
themselves are SciPy's and CuPy's. A sum of outer products is the sum of the products of their spectra.

Letters, complex64 or complex128: in `multiply` x, y, out (n, k), and ``out`` may be x; in `accumulate` n samples, t
terms, k vectors y that meet one x, f frequencies: x (n, t, f), y (n, t, k, f), out (n, k, f).

Promise: close. A target may fuse the multiply-adds of a complex product. Terms of a sum are added in the order of t.

References
----------
Pham, Pagh. Fast and scalable polynomial kernels via explicit feature maps. KDD 2013.
"""

import numpy as np
from numba import prange

from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, grid, in_threads, rows_jit, shared

__all__ = ["accumulate", "multiply"]

# --- multiply -----------------------------------------------------------------------------------


def _multiply_reference(x, y, out):
    """Product of two spectra; x, y and out (n, k)."""
    out[:] = x * y


@shared
def _multiply_row(x, y, out):
    for k in range(out.size):
        out[k] = x[k] * y[k]


@cpu_jit
def _multiply_cpu(x, y, out):
    for i in prange(out.shape[0]):
        _multiply_row(x[i], y[i], out[i])


@cuda_jit
def _multiply_kernel(x, y, out):
    n, width = out.shape
    for entry in range(cuda.grid(1), n * width, cuda.gridsize(1)):
        i, k = entry // width, entry % width
        out[i, k] = x[i, k] * y[i, k]


def _multiply_cuda(x, y, out, stream=0):
    _multiply_kernel[(*grid(out.size), stream)](x, y, out)


multiply = Kernel("tensorsketch.multiply", _multiply_reference, _multiply_cpu, _multiply_cuda)


# --- accumulate ---------------------------------------------------------------------------------


def _accumulate_reference(x, y, out):
    """Sum of products of spectra; x (n, t, f), y (n, t, k, f), out (n, k, f)."""
    out += np.einsum("ntf,ntkf->nkf", x, y)


@shared
def _add_product(x, y, out):
    for f in range(out.size):
        out[f] += x[f] * y[f]


@rows_jit
def _accumulate_rows(start, stop, x, y, out):
    for i in range(start, stop):
        for t in range(x.shape[1]):
            for k in range(out.shape[1]):
                _add_product(x[i, t], y[i, t, k], out[i, k])


def _accumulate_cpu(x, y, out):
    in_threads(_accumulate_rows, x.shape[0], y.size, x, y, out)


@cuda_jit
def _accumulate_kernel(x, y, out):
    n, vectors, width = out.shape
    for entry in range(cuda.grid(1), n * vectors * width, cuda.gridsize(1)):
        f, rest = entry % width, entry // width
        k, i = rest % vectors, rest // vectors
        total = out[i, k, f]
        for t in range(x.shape[1]):
            total += x[i, t, f] * y[i, t, k, f]
        out[i, k, f] = total


def _accumulate_cuda(x, y, out, stream=0):
    _accumulate_kernel[(*grid(out.size), stream)](x, y, out)


accumulate = Kernel("tensorsketch.accumulate", _accumulate_reference, _accumulate_cpu, _accumulate_cuda)
