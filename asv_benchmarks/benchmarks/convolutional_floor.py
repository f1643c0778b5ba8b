"""Least time of the convolutional NTK: its arithmetic per pixel pair and layer, on vectors that stay in the cache.

For one 3x3 convolution and ReLU the recursion takes, of K and Theta,

    window sums              2 + 2 additions each: rows, then columns
    convolution              scale * sum + bias, and K + scale * sum
    sine of the angle        sqrt(q1 (q2 - K) + K (q1 - K)) / sqrt(q1 q2), which keeps small angles
    angle                    a polynomial in sine or cosine, whichever is smaller, as short as the dtype lets it be
    results                  2/pi sqrt(q1 q2) sin t + (1 - 2 t / pi) K, and Theta (1 - 2 t / pi)

The loop below does that on vectors in two passes, compiled by the compiler of the library, on as many threads. Left out
is what images add: K of the pixels, zeros around the planes of every displacement, sums over planes. It is no bound for
other formulas or hand-written code, but what the library's own would take if nothing else were there.
"""

import concurrent.futures
import functools
import math
import time

import numba
import numpy as np

LENGTH = 1024  # ten vectors of float32 take 40 kB
REPEAT = 2000


@functools.cache
def arcsine(dtype):
    """Coefficients of 2/pi arcsin(sqrt m) / sqrt m on [0, 1/2], highest power first in halves, to eps / 2 or 4 eps."""
    nodes = 0.25 + 0.25 * np.cos((np.arange(200) + 0.5) * np.pi / 200)
    values = 2 / np.pi * np.arcsin(np.sqrt(nodes)) / np.sqrt(nodes)
    for degree in range(4, 25):
        series = np.polynomial.Chebyshev.fit(nodes, values, degree, domain=[0, 0.5])
        if abs(series(nodes) / values - 1).max() < max(np.finfo(dtype).eps / 2, 1e-15):
            break
    powers = [np.dtype(dtype).type(c) for c in series.convert(kind=np.polynomial.Polynomial).coef[::-1]]
    return tuple(powers[: len(powers) // 2]), tuple(powers[len(powers) // 2 :])


@numba.njit(fastmath={"contract", "nsz"}, error_model="numpy")
def _polynomial(high, low, x):
    total = high[0]
    for k in range(1, len(high)):
        total = total * x + high[k]
    for k in range(len(low)):
        total = total * x + low[k]
    return total


@numba.njit(fastmath={"contract", "nsz"}, error_model="numpy", nogil=True)
def layers(k, theta, rows, q, out, high, low, units, repeat):
    """`repeat` layers on LENGTH pixel pairs: k, theta (3, LENGTH + 2) and rows (2, LENGTH + 2) of sums over rows."""
    zero, one, two, scale, slope = units
    n = out.shape[1]
    for _ in range(repeat):
        for i in range(n + 2):
            rows[0, i] = k[0, i] + k[1, i] + k[2, i]
            rows[1, i] = theta[0, i] + theta[1, i] + theta[2, i]
        for i in range(n):
            a = scale * (rows[0, i] + rows[0, i + 1] + rows[0, i + 2])
            b = scale * (rows[1, i] + rows[1, i + 1] + rows[1, i + 2]) + a
            determinant = q[0, i] * (q[1, i] - a) + a * (q[0, i] - a)
            root = math.sqrt(determinant if determinant > zero else zero)
            g = q[2, i] * q[3, i]
            cosine, sine = abs(a) * g, root * g
            near = cosine > sine
            small = sine if near else cosine
            turned = small * _polynomial(high, low, small * small)
            turned = turned if near else one - turned
            kappa = one - (turned if a > zero else two - turned)
            out[0, i] = slope * root + a * kappa
            out[1, i] = b * kappa


def vectors(dtype):
    """Arguments of `layers`: window sums with cosines from -1 to 1."""
    rng = np.random.default_rng(0)
    k = (rng.uniform(-1, 1, (3, LENGTH + 2)) / 3).astype(dtype)
    theta, rows = k.copy(), np.zeros((2, LENGTH + 2), dtype)
    q = np.ones((4, LENGTH), dtype)
    units = tuple(np.dtype(dtype).type(unit) for unit in (0, 1, 2, 1 / 3, 2 / math.pi))
    return k, theta, rows, q, np.empty((2, LENGTH), dtype), *arcsine(dtype), units


@functools.cache
def _pool(n_threads):
    return concurrent.futures.ThreadPoolExecutor(n_threads)


def floor_ns(dtype="float32", repeat=REPEAT):
    """Nanoseconds per pixel pair and layer right now, on all of Numba's threads together; best of ten."""
    n_threads = numba.get_num_threads()
    arguments = [vectors(dtype) for _ in range(n_threads)]
    layers(*arguments[0], 1)
    best = math.inf
    for _ in range(10):
        start = time.perf_counter()
        for part in [_pool(n_threads).submit(layers, *own, repeat) for own in arguments]:
            part.result()
        best = min(best, time.perf_counter() - start)
    return best / (repeat * LENGTH * n_threads) * 1e9
