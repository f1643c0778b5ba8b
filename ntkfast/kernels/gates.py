"""Product of cotangents with a gate that they share.

    out[i, k, c] = ct[i // q, k, c] gate[i, c]        q = m / p

Letters: m pixels of all samples, k cotangents, c channels; ct (p, k, c) where p divides m: one block of cotangents per
pixel, per sample, or for all. gate (m, c), out (m, k, c); ``out`` may be ct where p = m.

Promise: bitwise on every target; an entry is one product.
"""

from numba import prange

from ._cuda import cuda
from ._kernel import Kernel, cpu_jit, cuda_jit, grid

__all__ = ["multiply"]


def _multiply_reference(ct, gate, out):
    """Gated cotangents; ct (p, k, c), gate (m, c), out (m, k, c)."""
    p, k, c = ct.shape
    blocks = out.reshape(p, -1, k, c)
    blocks[:] = ct[:, None] * gate.reshape(p, -1, 1, c)


@cpu_jit
def _multiply_cpu(ct, gate, out):
    m, k, c = out.shape
    pixels = m // ct.shape[0]
    for i in prange(m):
        slope = gate[i]
        for j in range(k):
            source, target = ct[i // pixels, j], out[i, j]
            for channel in range(c):
                target[channel] = source[channel] * slope[channel]


@cuda_jit
def _multiply_kernel(ct, gate, out):
    m, k, c = out.shape
    pixels = m // ct.shape[0]
    for entry in range(cuda.grid(1), out.size, cuda.gridsize(1)):
        channel, rest = entry % c, entry // c
        j, i = rest % k, rest // k
        out[i, j, channel] = ct[i // pixels, j, channel] * gate[i, channel]


def _multiply_cuda(ct, gate, out, stream=0):
    _multiply_kernel[(*grid(out.size), stream)](ct, gate, out)


multiply = Kernel("gates.multiply", _multiply_reference, _multiply_cpu, _multiply_cuda)
