"""What all benchmarks share: data from a fixed seed, and the matrix product of the same run as the yardstick."""

import statistics
import time

import numpy as np


def rows(n, d, dtype="float32", seed=0):
    """n rows in d dimensions in ten clusters; cosines between about 0.2 and 0.95, as between images."""
    rng = np.random.default_rng(seed)
    centres = np.abs(rng.standard_normal((10, d)))
    noise = 0.5 * np.abs(rng.standard_normal((n, d)))
    return (centres[rng.integers(10, size=n)] + noise).astype(dtype)


def seconds(function, repeat=5):
    """Median seconds of `repeat` calls, after one that is not counted."""
    function()
    times = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def ratio(function, yardstick, repeat=5):
    """Median ratio of the two functions' times, called in turn so that both see the same machine."""
    function(), yardstick()
    ratios = []
    for _ in range(repeat):
        start = time.perf_counter()
        function()
        middle = time.perf_counter()
        yardstick()
        ratios.append((middle - start) / (time.perf_counter() - middle))
    return statistics.median(ratios)


def relative_error(phi, kernel):
    """Relative Frobenius error of the features' Gram matrix."""
    gram = phi.astype(np.float64) @ phi.T.astype(np.float64)
    return float(np.linalg.norm(gram - kernel) / np.linalg.norm(kernel))


def images(n, side=32, channels=3, dtype="float32", seed=0):
    """Random images (n, side, side, channels), standardized, that are smooth like natural ones.

    Amplitudes fall as frequency^-1.5: neighbours and channels have correlations of 0.9, as those of CIFAR-10.
    """
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side))
    amplitude = np.maximum(frequency, 1 / side) ** -1.5
    shared = rng.standard_normal((n, side, side, 1))
    noise = shared + 0.3 * rng.standard_normal((n, side, side, channels))
    x = np.fft.ifft2(np.fft.fft2(noise, axes=(1, 2)) * amplitude[:, :, None], axes=(1, 2)).real
    return ((x - x.mean((0, 1, 2))) / x.std((0, 1, 2))).astype(dtype)
