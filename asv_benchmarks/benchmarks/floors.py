"""Least time of a finite network's NTK: least operations of the factored algorithm over the rate of matrix products.

Symmetric calls, k outputs, n samples. Biases, activations and the k^2 n^2 additions that are common to all are left
out; a product of a matrix with its own transpose counts half.
"""

import itertools
import math
import time

import numpy as np

MLP_INPUT, OUTPUTS = 784, 10
IMAGE, CHANNELS, KERNEL = (32, 32), (3, 32, 64, 128), 9  # convolutions 3x3, stride 1, SAME


def mlp_operations(width, n, output, *, hidden=3, d=MLP_INPUT, k=OUTPUTS):
    """Dense d-width-...-width-k: forward, k cotangents per sample, and two Gram matrices per layer.

    The head's cotangents are the identity, and those below it the head's weight behind a mask, so only `hidden - 1`
    layers are products. Act Grams are n x n; cotangent Grams are n k x n k, or summed over outputs for the trace.
    """
    rows, depth = n * k, hidden * width
    forward = 2 * n * (d * width + (hidden - 1) * width**2 + width * k)
    backward = 2 * rows * (hidden - 1) * width**2
    acts = n**2 * (d + depth)
    cotangents = n**2 * k * depth if output == "trace" else rows**2 * depth
    combine = 2 * (hidden + 1) * (n**2 if output == "trace" else rows**2)
    return forward + backward + acts + cotangents + combine


def cnn_operations(n, output, *, image=IMAGE, channels=CHANNELS, k=OUTPUTS):
    """3x3 convolutions, global average, dense head: forward, cotangents, weight Jacobians, and their Gram matrix.

    All k cotangents of the last convolution share one mask: the head's weight scales one weight Jacobian per sample.
    """
    positions, rows = math.prod(image), n * k
    sizes = [KERNEL * i * o for i, o in itertools.pairwise(channels)]
    forward = 2 * n * positions * sum(sizes)
    backward = 2 * rows * positions * sum(sizes[1:])
    jacobians = 2 * positions * (rows * sum(sizes[:-1]) + n * sizes[-1])
    pairs = n**2 * k if output == "trace" else rows**2
    gram = pairs * sum(sizes[:-1]) + n**2 * sizes[-1]
    return forward + backward + jacobians + gram


def product_rate(size=1024, repeat=3, dtype="float32"):
    """Operations per second of a square matrix product, best of `repeat` right now."""
    a = np.ones((size, size), dtype)
    out = a @ a
    best = math.inf
    for _ in range(repeat):
        start = time.perf_counter()
        np.matmul(a, a, out=out)
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best
