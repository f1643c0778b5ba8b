"""Sums of blocks of finite-width NTKs from their factors, in the axis order of the result.

    accumulate:  out[i0 + i, j0 + j, p, q] += sum_l a[l, i, j] b[l, i, p, j, q] + sum_r c[r, i, j] s[r, p, q]
    mirror:      out[j, i, q, p] = out[i, j, p, q]  for j < i, and for j = i, q < p

The NTK of a dense layer l is the Gram matrix a of its inputs times the Gram matrix b of its k cotangents per sample
(Novak, Sohl-Dickstein, Schoenholz 2022, section 3.3); where all samples share their cotangents, b is a constant s. A
matrix product leaves the outputs p and q beside their samples i and j; the result has them last. Letters: L and R
layers, n and m samples, k and K outputs; a (L, n, m), b (L, n, k, m, K), c (R, n, m), s (R, k, K), out (N, M, k, K),
for mirror (n, n, k, k).

Promise: close. Terms are added in the order of l, then r, on every target, but may be fused multiply-adds.

References
----------
Novak, Sohl-Dickstein, Schoenholz. Fast finite width neural tangent kernel. ICML 2022, arXiv 2206.08720.
"""

import math

import numpy as np

from ._cuda import cuda
from ._kernel import Kernel, cuda_jit, grid, in_threads, rows_jit

__all__ = ["accumulate", "mirror"]

# Samples of a square of `mirror`: its rows and columns stay in cache.
_SQUARE = 8


# --- accumulate ---------------------------------------------------------------------------------


def _accumulate_reference(a, b, c, s, i0, j0, out):
    """Add a tile at (i0, j0); a (L, n, m), b (L, n, k, m, K), c (R, n, m), s (R, k, K), out (N, M, k, K)."""
    n, m = a.shape[1:]
    out[i0 : i0 + n, j0 : j0 + m] += np.einsum("lij,lipjq->ijpq", a, b) + np.einsum("rij,rpq->ijpq", c, s)


@rows_jit
def _accumulate_rows(start, stop, a, b, c, s, i0, j0, out):
    layers, _, k, m, others = b.shape
    for i in range(start, stop):
        row = out[i0 + i]
        for layer in range(layers):
            for j in range(m):
                weight = a[layer, i, j]
                for p in range(k):
                    for q in range(others):
                        row[j0 + j, p, q] += weight * b[layer, i, p, j, q]
        for layer in range(c.shape[0]):
            for j in range(m):
                weight = c[layer, i, j]
                for p in range(k):
                    for q in range(others):
                        row[j0 + j, p, q] += weight * s[layer, p, q]


def _accumulate_cpu(a, b, c, s, i0, j0, out):
    (layers, n, m), (constants, k, others) = a.shape, s.shape
    entries = (layers + constants) * n * m * k * others
    in_threads(_accumulate_rows, n, entries, a, b, c, s, i0, j0, out)


@cuda_jit
def _accumulate_kernel(a, b, c, s, i0, j0, out):
    layers, n, outputs, m, others = b.shape
    for entry in range(cuda.grid(1), n * m * outputs * others, cuda.gridsize(1)):
        q, rest = entry % others, entry // others
        p, rest = rest % outputs, rest // outputs
        j, i = rest % m, rest // m
        total = out[i0 + i, j0 + j, p, q]
        for layer in range(layers):
            total += a[layer, i, j] * b[layer, i, p, j, q]
        for layer in range(c.shape[0]):
            total += c[layer, i, j] * s[layer, p, q]
        out[i0 + i, j0 + j, p, q] = total


def _accumulate_cuda(a, b, c, s, i0, j0, out, stream=0):
    n_threads = a.shape[1] * a.shape[2] * out.shape[2] * out.shape[3]
    _accumulate_kernel[(*grid(n_threads), stream)](a, b, c, s, i0, j0, out)


accumulate = Kernel("factors.accumulate", _accumulate_reference, _accumulate_cpu, _accumulate_cuda)


# --- mirror -------------------------------------------------------------------------------------


def _mirror_reference(out):
    """Copy the lower triangle of the matrix of (samples, outputs) to the upper; out (n, n, k, k)."""
    i, j = np.tril_indices(out.shape[0], -1)
    out[j, i] = out[i, j].transpose(0, 2, 1)
    for sample in range(out.shape[0]):
        out[sample, sample] = np.tril(out[sample, sample]) + np.tril(out[sample, sample], -1).T


@rows_jit
def _mirror_rows(start, stop, out):
    """Squares start to stop of the lower triangle, numbered row by row."""
    n, _, k, _ = out.shape
    for square in range(start, stop):
        row = int((math.sqrt(8.0 * square + 1.0) - 1.0) / 2.0)
        column = square - row * (row + 1) // 2
        for j in range(column * _SQUARE, min(n, (column + 1) * _SQUARE)):
            for i in range(max(j, row * _SQUARE), min(n, (row + 1) * _SQUARE)):
                for q in range(k):
                    for p in range(q if i == j else 0, k):
                        out[j, i, q, p] = out[i, j, p, q]


def _mirror_cpu(out):
    squares = -(-out.shape[0] // _SQUARE)
    in_threads(_mirror_rows, squares * (squares + 1) // 2, out.size, out)


@cuda_jit
def _mirror_kernel(out):
    n, k = out.shape[0], out.shape[2]
    for entry in range(cuda.grid(1), n * n * k * k, cuda.gridsize(1)):
        q, rest = entry % k, entry // k
        p, rest = rest % k, rest // k
        j, i = rest % n, rest // n
        if j < i or (j == i and q < p):
            out[j, i, q, p] = out[i, j, p, q]


def _mirror_cuda(out, stream=0):
    _mirror_kernel[(*grid(out.size), stream)](out)


mirror = Kernel("factors.mirror", _mirror_reference, _mirror_cpu, _mirror_cuda)
