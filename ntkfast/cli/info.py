"""``ntkfast info``: what a bug report needs to know about an installation."""

import argparse
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import numba
import numpy as np

from .. import __version__
from ..backends import available_backends
from ..kernels._cuda import SIMULATED, cuda

__all__ = ["facts", "run"]

PACKAGES = (
    "numpy",
    "scipy",
    "numba",
    "numba-cuda",
    "cupy-cuda12x",
    "cupy-cuda13x",
    "scikit-learn",
    "matplotlib",
    "rich",
    "autograd",
    "jax",
    "torch",
    "dask",
    "zarr",
    "threadpoolctl",
)


def run(args: argparse.Namespace) -> int:
    """Print `facts`, one line each; return the exit code 0."""
    for name, value in facts().items():
        print(f"{name:<16} {value}")
    return 0


def facts() -> dict[str, str]:
    """Versions, backends, devices, threading layer and BLAS of this process.

    Returns
    -------
    dict of str to str
        In the order in which they are printed. Packages that are not installed are left out.

    Examples
    --------
    >>> facts()["numpy"] == np.__version__
    True
    """
    return {
        "ntkfast": __version__,
        "python": f"{platform.python_version()} ({platform.python_implementation()}, {sys.platform})",
        "machine": f"{platform.machine()}, {_cpu()}",
        **_versions(),
        **{f"backend {name}": text for name, text in available_backends().items()},
        "cuda jit": _cuda_jit(),
        "numba threads": _threads(),
        **_blas(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _cpu() -> str:
    """Numba's name of the processor: the instruction set that the kernels are compiled for."""
    from llvmlite import binding  # type: ignore[import-untyped]

    return str(binding.get_host_cpu_name())


def _cuda_jit() -> str:
    """Which package compiles CUDA kernels, and the devices it sees."""
    if SIMULATED:
        return "simulator"
    provider = "numba-cuda" if "numba-cuda" in _versions() else "numba (built in)"
    try:
        usable = cuda.is_available()
        devices = [_text(device.name) for device in cuda.gpus] if usable else []
    except Exception as error:  # a broken driver is a fact to report, not a failure of this command
        return f"{provider}, {type(error).__name__} from the driver"
    return f"{provider}, {', '.join(devices) or 'no device'}"


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _threads() -> str:
    """Number of threads and threading layer; Numba chooses the layer when the threads are started."""
    n_threads = numba.get_num_threads()
    return f"{n_threads}, layer {numba.threading_layer()}"


def _blas() -> dict[str, str]:
    """BLAS libraries loaded (with threadpoolctl), else the one NumPy was built with."""
    try:
        import scipy.linalg  # noqa: F401 (loads SciPy's own BLAS, so that it is listed too)
        from threadpoolctl import threadpool_info
    except ImportError:
        built = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return {"blas": f"{built['name']} {built['version']} (at build time)"}
    pools = [pool for pool in threadpool_info() if pool["user_api"] == "blas"]
    return {f"blas {i}" if i else "blas": _pool(pool) for i, pool in enumerate(pools)}


def _pool(pool: dict[str, Any]) -> str:
    core = pool.get("architecture")
    return f"{pool['internal_api']} {pool['version']}, {pool['num_threads']} threads" + (f", {core}" if core else "")
