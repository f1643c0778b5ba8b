"""Fixtures: the matrix of backends, and a Numba cache that belongs to this version of the kernels."""

import hashlib
import os
import pathlib
import tempfile

_KERNELS = pathlib.Path(__file__).parents[1] / "ntkfast" / "kernels"


def _cache_folder() -> str:
    """A folder per content of the kernels: Numba does not notice a changed callee in another file."""
    digest = hashlib.sha256()
    for path in sorted(_KERNELS.glob("*.py")):
        digest.update(path.read_bytes())
    return str(pathlib.Path(tempfile.gettempdir()) / f"ntkfast-numba-{os.getuid()}-{digest.hexdigest()[:16]}")


# Before anything imports numba.
os.environ.setdefault("NUMBA_CACHE_DIR", _cache_folder())
# OpenMP threads that spin while they wait take the cores from each other where tests share a machine.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import fakecupy  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402
from hypothesis import HealthCheck, settings  # noqa: E402

import ntkfast.backends as backends  # noqa: E402
from ntkfast.kernels._cuda import SIMULATED  # noqa: E402

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]}
settings.register_profile("dev", max_examples=20, **_COMMON)
settings.register_profile("ci", max_examples=50, derandomize=True, **_COMMON)
settings.register_profile("nightly", max_examples=2000, **_COMMON)
settings.load_profile("ci" if os.environ.get("CI") else os.environ.get("HYPOTHESIS_PROFILE", "dev"))

REQUIRED = set(filter(None, os.environ.get("NTKFAST_REQUIRE", "").split(",")))


def _unavailable(name: str) -> str | None:
    """Why a backend of the matrix cannot run here, or None."""
    if name == "numpy-cudasim":
        return None if SIMULATED else "the CUDA simulator is off (NUMBA_ENABLE_CUDASIM=1)"
    if name == "cupy-cuda":
        return None if "cupy" in backends.available_backends() else "no CUDA device"
    if name == "fake-cupy":
        return "the stand-in needs compiled kernels" if SIMULATED else None
    return None


def pytest_runtest_setup(item):
    """A GPU test without a GPU is a visible skip, or a failure where NTKFAST_REQUIRE names it."""
    if item.get_closest_marker("gpu") is None:
        return
    reason = _unavailable("cupy-cuda")
    if reason is not None:
        (pytest.fail if "cupy-cuda" in REQUIRED else pytest.skip)(reason)


class ArrayBackend:
    """Makes arrays of one entry of the backend matrix, and brings results back to NumPy."""

    def __init__(self, name: str) -> None:
        self.name = name

    def asarray(self, x):
        if self.name == "cupy-cuda":
            import cupy

            return cupy.asarray(x)
        if self.name == "fake-cupy":
            return fakecupy.asarray(x)
        x = np.array(x)
        x.flags.writeable = self.name != "numpy-readonly"
        return x

    def to_numpy(self, x):
        return x.get() if "cupy" in self.name else np.asarray(x)


@pytest.fixture(
    params=[
        "numpy-cpu",
        "numpy-reference",
        "numpy-readonly",
        "numpy-cudasim",
        "fake-cupy",
        pytest.param("cupy-cuda", marks=pytest.mark.gpu),
    ]
)
def backend(request, monkeypatch):
    """One entry of the backend matrix; a missing one is a visible skip, or a failure if required."""
    reason = _unavailable(request.param)
    if reason is not None:
        if request.param in REQUIRED:
            pytest.fail(f"required backend {request.param}: {reason}")
        pytest.skip(reason)
    if request.param == "fake-cupy":
        fakecupy.install(monkeypatch)
        return ArrayBackend(request.param)
    target = {"numpy-reference": "reference", "numpy-cudasim": "cuda"}.get(request.param, "cpu")
    if request.param != "cupy-cuda":
        monkeypatch.setitem(backends._BACKENDS, np.ndarray, backends.Backend("numpy", np, target))
    return ArrayBackend(request.param)
