"""CuPy arrays, kernels compiled for CUDA. Imported only when a CuPy array arrives."""

import functools
from typing import Any

import cupy

from ..errors import BackendUnavailableError
from ..kernels import Kernel
from ..kernels._cuda import SIMULATED, cuda, prepare
from . import Backend


@functools.cache
def backend() -> Backend:
    """The CuPy backend, after checking that the CUDA JIT can run."""
    if SIMULATED:
        raise BackendUnavailableError("expected a CUDA device for CuPy arrays, got the CUDA simulator")
    if not cuda.is_available():
        raise BackendUnavailableError(
            "expected a CUDA JIT compiler for CuPy arrays, got none that works; "
            'install it with pip install "ntkfast[cuda13]" or "ntkfast[cuda12]"'
        )
    prepare()
    return Backend("cupy", cupy, "cuda")


def launch(kernel: Kernel, args: tuple[Any, ...]) -> None:
    """Launch on CuPy's current stream, so that the result is ordered with the caller's work.

    Arrays are wrapped without Numba's own synchronization: the stream already orders them.
    """
    stream = _numba_stream(cupy.cuda.get_current_stream().ptr, cupy.cuda.runtime.getDevice())
    wrapped = [cuda.as_cuda_array(a, sync=False) if isinstance(a, cupy.ndarray) else a for a in args]
    kernel.cuda(*wrapped, stream=stream)


@functools.lru_cache(maxsize=64)
def _numba_stream(pointer: int, device: int) -> Any:
    """Numba's name for a stream of CuPy on the current device.

    One object per stream, so that Numba finds the launch configurations that it keeps per stream. It owns nothing:
    where CuPy destroys a stream, its pointer is just not asked for again, or belongs to a new one.
    """
    return cuda.external_stream(pointer)


def from_dlpack(x: Any) -> Any:
    """A CuPy array over the memory of an array of another library."""
    return cupy.from_dlpack(x)


def describe() -> str | None:
    """Name of the current device, or None where there is none."""
    if not cupy.is_available():
        return None
    properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return str(properties["name"].decode())
