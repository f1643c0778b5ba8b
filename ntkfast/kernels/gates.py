"""Product of cotangents with a gate that they share.

    out[i, p, k, c] = ct[i, p, k, c] gate[i, p, c]

Letters: i samples, p positions, k cotangents, c channels. ct (n or 1, t or 1, k, c): an axis of size 1 is the same for
all; gate (n, t, c), out (n, t, k, c); ``out`` may be ct.

Promise: bitwise on every target; an entry is one product.
"""

from ._cuda import cuda
from ._kernel import Kernel, cuda_jit, grid, in_threads, rows_jit

__all__ = ["multiply"]

# Cotangents of a CUDA thread: the divisions that find its place take longer than a product.
_RUN = 8


def _multiply_reference(ct, gate, out):
    """Gated cotangents; ct (n or 1, t or 1, k, c), gate (n, t, c), out (n, t, k, c)."""
    out[:] = ct * gate[:, :, None]


@rows_jit
def _multiply_rows(start, stop, ct, gate, out):
    _, t, k, c = out.shape
    per_sample, per_position = ct.shape[0] > 1, ct.shape[1] > 1
    for place in range(start, stop):
        i, p = place // t, place % t
        slope = gate[i, p]
        block = ct[i if per_sample else 0, p if per_position else 0]
        for j in range(k):
            source, target = block[j], out[i, p, j]
            for channel in range(c):
                target[channel] = source[channel] * slope[channel]


def _multiply_cpu(ct, gate, out):
    in_threads(_multiply_rows, out.shape[0] * out.shape[1], out.size, ct, gate, out)


@cuda_jit
def _multiply_kernel(ct, gate, out):
    n, t, k, c = out.shape
    runs = (k + _RUN - 1) // _RUN
    per_sample, per_position = ct.shape[0] > 1, ct.shape[1] > 1
    for entry in range(cuda.grid(1), n * t * runs * c, cuda.gridsize(1)):
        channel, rest = entry % c, entry // c
        run, rest = rest % runs, rest // runs
        p, i = rest % t, rest // t
        slope = gate[i, p, channel]
        source, place = i if per_sample else 0, p if per_position else 0
        first, stop = run * _RUN, (run + 1) * _RUN
        for j in range(first, stop if stop < k else k):
            out[i, p, j, channel] = ct[source, place, j, channel] * slope


def _multiply_cuda(ct, gate, out, stream=0):
    n, t, k, c = out.shape
    _multiply_kernel[(*grid(n * t * -(-k // _RUN) * c), stream)](ct, gate, out)


multiply = Kernel("gates.multiply", _multiply_reference, _multiply_cpu, _multiply_cuda)
