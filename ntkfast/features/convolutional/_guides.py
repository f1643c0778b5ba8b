"""Random images with the spectrum of natural ones: what they have in common with these, maps take exactly.

Natural images have amplitudes that fall with the inverse of the frequency (Field 1987), and channels that mostly agree.
Guides only say which few directions are made free of variance: no expectation depends on them.

References
----------
Field. Relations between the statistics of natural images and the response properties of cortical cells. Journal of the
Optical Society of America A 4, 1987.
"""

from typing import Any

import numpy as np

from ...layers._base import normal

__all__ = ["guide_images"]

# Correlation of any two channels; between those of red, green and blue in photographs it is 0.8 to 0.95.
AGREEMENT = 0.85


def guide_images(n: int, shape: tuple[int, int, int], key: int) -> Any:
    """Gaussian images (n, h, w, c), float64 of NumPy, with amplitudes 1 / frequency and variance 1 on average."""
    h, w, c = shape
    noise = normal((n, h, w, c + 1), key, np.float64)
    mixed = np.sqrt(1 - AGREEMENT) * noise[..., :c] + np.sqrt(AGREEMENT) * noise[..., c:]
    amplitude = _amplitudes(h, w)[:, :, None]
    return np.fft.ifft2(np.fft.fft2(mixed, axes=(1, 2)) * amplitude, axes=(1, 2)).real


def _amplitudes(h: int, w: int) -> Any:
    """1 / frequency (h, w), with a mean square of 1; a constant counts as the lowest frequency that there is."""
    frequency = np.hypot(np.fft.fftfreq(h)[:, None], np.fft.fftfreq(w)[None, :])
    frequency[0, 0] = 1.0 / max(h, w)
    amplitude = 1.0 / frequency
    return amplitude / np.sqrt(np.mean(amplitude**2))
