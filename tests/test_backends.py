"""The arrays choose the backend; everything else is refused by name."""

import subprocess
import sys
import timeit
import types

import numpy as np
import pytest

from ntkfast import get_backend
from ntkfast.backends import _BACKENDS, Backend, _forced_target, from_dlpack
from ntkfast.errors import MixedBackendError
from ntkfast.kernels import Kernel


def _record(calls):
    return Kernel(
        "probe",
        lambda *a: calls.append(("reference", a)),
        lambda *a: calls.append(("cpu", a)),
        lambda *a, stream=0: calls.append(("cuda", a)),
    )


def test_numpy_arrays_choose_numpy():
    backend = get_backend(np.zeros(2), None, 3, 1.5, np.zeros(1, np.float32))
    assert (backend.name, backend.xp) == ("numpy", np)


def test_a_subclass_of_ndarray_is_numpy():
    class Tagged(np.ndarray):
        pass

    assert get_backend(np.zeros(2).view(Tagged)).name == "numpy"


@pytest.mark.parametrize(
    ("module", "hint"), [("torch", "from_dlpack"), ("jaxlib.xla", "from_dlpack"), ("pandas.core", "numpy.asarray")]
)
def test_foreign_arrays_are_refused_with_the_conversion(module, hint):
    foreign = type("Tensor", (), {"__module__": module})()
    with pytest.raises(TypeError, match=hint):
        get_backend(foreign)


def test_no_array_is_refused():
    with pytest.raises(TypeError, match="at least one"):
        get_backend(None, 3.0)


@pytest.fixture
def fake_cupy(monkeypatch):
    """A class that looks like cupy.ndarray, with a backend record of its own."""
    cls = type("ndarray", (), {"__module__": "cupy"})
    monkeypatch.setitem(_BACKENDS, cls, Backend("cupy", types.ModuleType("cupy"), "cuda"))
    return cls


def test_mixed_backends_are_refused(fake_cupy):
    with pytest.raises(MixedBackendError, match="numpy and cupy"):
        get_backend(np.zeros(2), fake_cupy())


def test_cupy_is_not_imported_before_a_cupy_array():
    code = "import sys, numpy, ntkfast; ntkfast.get_backend(numpy.zeros(2)); assert 'cupy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("target", ["reference", "cpu", "cuda"])
def test_launch_calls_the_target(target):
    calls = []
    Backend("numpy", np, target).launch(_record(calls), 1, 2)
    assert calls == [(target, (1, 2))]


def test_to_numpy_of_numpy_is_the_array_itself():
    x = np.zeros(3)
    assert get_backend(x).to_numpy(x) is x


def test_forced_target(monkeypatch):
    monkeypatch.setenv("NTKFAST_TARGET", "reference")
    assert _forced_target() == "reference"
    monkeypatch.setenv("NTKFAST_TARGET", "fortran")
    with pytest.raises(ValueError, match="NTKFAST_TARGET"):
        _forced_target()


def test_dispatch_costs_well_under_a_microsecond():
    """The aim is 100 ns for two arrays; the bound leaves room for a busy machine."""
    x = np.zeros(3)
    seconds = min(timeit.repeat(lambda: get_backend(x, x), number=20_000, repeat=5)) / 20_000
    assert seconds < 1e-6


@pytest.mark.gpu
def test_cupy_arrays_choose_cupy():
    import cupy

    assert get_backend(cupy.zeros(2)).name == "cupy"


def test_memory_of_other_libraries_is_shared():
    x = np.arange(6.0).reshape(2, 3).T
    y = from_dlpack(x)
    assert np.shares_memory(x, y)
    np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize("device", [2, 13])  # CUDA memory, CUDA managed memory
def test_memory_of_a_device_goes_to_cupy(device, monkeypatch):
    class Foreign:
        def __dlpack_device__(self):
            return device, 0

    x = Foreign()
    home = types.SimpleNamespace(from_dlpack=lambda given: ("cupy", given))
    monkeypatch.setitem(sys.modules, "ntkfast.backends._cupy", home)
    assert from_dlpack(x) == ("cupy", x)
