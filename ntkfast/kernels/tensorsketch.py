"""Product of spectra, in place: the heart of TensorSketch between two fast Fourier transforms.

    out[i, k] = x[i, k] y[i, k]

The CountSketch of an outer product whose bucket is the sum of its factors' buckets (modulo m) is the circular
convolution of their CountSketches (Pham and Pagh 2013), so its spectrum is the product of theirs. The transforms
themselves are SciPy's and CuPy's. Letters: x, y, out (n, k) complex64 or complex128; ``out`` may be x.

Promise: close. A target may fuse the multiply-adds of a complex product.

References
----------
Pham, Pagh. Fast and scalable polynomial kernels via explicit feature maps. KDD 2013.
"""

from numba import prange

from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, grid, shared

__all__ = ["multiply"]


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
