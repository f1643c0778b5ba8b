"""Real discrete Fourier transforms of rows: SciPy's on the CPU, on as many threads as the kernels, CuPy's on a GPU."""

from .._typing import Array
from ..backends import Backend

__all__ = ["irfft", "rfft"]


def rfft(x: Array, backend: Backend) -> Array:
    """Spectra (n, length // 2 + 1) of real rows (n, length), complex of the same precision."""
    if backend.name == "cupy":
        return backend.xp.fft.rfft(x, axis=1)
    import scipy.fft

    return scipy.fft.rfft(x, axis=1, workers=_workers())


def irfft(spectrum: Array, length: int, backend: Backend) -> Array:
    """Real rows (n, length) of spectra, which are overwritten."""
    if backend.name == "cupy":
        return backend.xp.fft.irfft(spectrum, length, axis=1)
    import scipy.fft

    return scipy.fft.irfft(spectrum, length, axis=1, workers=_workers(), overwrite_x=True)


def _workers() -> int:
    """As many threads as the kernels use; it heeds numba.set_num_threads and the processor affinity."""
    import numba

    return int(numba.get_num_threads())
