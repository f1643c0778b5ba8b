"""Every kernel of `ALL`: one signature, and cpu and cuda give what the reference gives."""

import copy
import inspect

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernels import cases

import ntkfast.kernels._kernel as _kernel
from ntkfast.kernels import ALL
from ntkfast.kernels._cuda import SIMULATED

CASES = cases.load()
EXAMPLES = cases.examples()
IDS = [f"{kernel.name}-{dtype}" for kernel, dtype in EXAMPLES]
for_each_kernel = pytest.mark.parametrize(("kernel", "dtype"), EXAMPLES, ids=IDS)


def _parameters(function):
    function = getattr(function, "py_func", function)
    return [name for name in inspect.signature(function).parameters if name != "stream"]


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_has_one_signature_and_cases(kernel):
    names = _parameters(kernel.reference)
    assert _parameters(kernel.cpu) == names
    assert _parameters(kernel.cuda) == names
    assert inspect.signature(kernel.cuda).parameters["stream"].default == 0
    assert kernel.name in CASES, f"expected tests/kernels/cases_{kernel.name.partition('.')[0]}.py to have it"


def test_names_are_unique_and_cases_belong_to_kernels():
    names = [kernel.name for kernel in ALL]
    assert len(set(names)) == len(names)
    assert set(CASES) <= set(names)


def _outputs(case, arguments):
    return [arguments[position] for position in case.outputs]


def run(function, case, arguments, to_device=None, to_host=None):
    """Outputs of a kernel's function on a copy of the arguments; inputs must stay as they are."""
    mine = copy.deepcopy(arguments)
    given_ = tuple(to_device(a) for a in mine) if to_device else mine
    function(*given_)
    mine = tuple(to_host(a) for a in given_) if to_host else given_
    outputs = {position % len(mine) for position in case.outputs}
    for position, (before, after) in enumerate(zip(arguments, mine, strict=True)):
        if position not in outputs and isinstance(before, np.ndarray):
            np.testing.assert_array_equal(after, before, err_msg=f"argument {position} was changed")
    return _outputs(case, mine)


def compare(got, expected, eps):
    """Equal bits (up to the sign of zero) for eps 0, else closeness in units of the dtype's eps."""
    for a, b in zip(got, expected, strict=True):
        if eps == 0 or a.dtype.kind not in "fc":
            np.testing.assert_array_equal(a, b)
            continue
        assert np.isfinite(a).all()
        scale = float(np.abs(b).max(initial=0.0)) or 1.0
        error = float(np.abs(a.astype(np.complex128) - b).max(initial=0.0)) / scale
        # below the smallest normal number, eps is no longer relative
        assert error <= eps * np.finfo(a.dtype).eps + float(np.finfo(a.dtype).tiny) / scale * eps


def _check(kernel, dtype, function, data):
    case = CASES[kernel.name]
    arguments = data.draw(case.arguments(np.dtype(dtype)))
    compare(run(function, case, arguments), run(kernel.reference, case, arguments), case.eps)


@pytest.mark.skipif(SIMULATED, reason="without JIT the CPU functions are slow Python; they run with it")
@for_each_kernel
@given(data=st.data())
def test_cpu_agrees_with_reference(kernel, dtype, data):
    _check(kernel, dtype, kernel.cpu, data)


@pytest.fixture
def tiny_blocks(monkeypatch):
    """Eight threads to a block, and small chunks, so that small arguments have several and a ragged last one."""
    if not SIMULATED:  # compiled functions have kept the constants
        return
    monkeypatch.setattr(_kernel, "BLOCK", cases.TINY_BLOCK)
    for kernel in ALL:
        for name, value in CASES[kernel.name].small.items():
            monkeypatch.setattr(cases.module_of(kernel), name, value)


@pytest.mark.skipif(not SIMULATED, reason="the CUDA simulator is off (NUMBA_ENABLE_CUDASIM=1 NUMBA_DISABLE_JIT=1)")
@for_each_kernel
@settings(max_examples=5, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_simulated_cuda_and_plain_cpu_agree_with_reference(kernel, dtype, data, tiny_blocks):
    case = CASES[kernel.name]
    arguments = data.draw(case.arguments(np.dtype(dtype)))
    expected = run(kernel.reference, case, arguments)
    compare(run(kernel.cuda, case, arguments), expected, case.eps)
    compare(run(kernel.cpu, case, arguments), expected, case.eps)


CORNERS = [(kernel, dtype) for kernel, dtype in EXAMPLES if CASES[kernel.name].corners]


@pytest.mark.parametrize(("kernel", "dtype"), CORNERS, ids=lambda value: getattr(value, "name", value))
def test_corners_agree_with_reference(kernel, dtype, tiny_blocks):
    case = CASES[kernel.name]
    for arguments in case.corners(np.dtype(dtype)):
        expected = run(kernel.reference, case, arguments)
        compare(run(kernel.cpu, case, arguments), expected, case.eps)
        if SIMULATED:
            compare(run(kernel.cuda, case, arguments), expected, case.eps)


@pytest.mark.gpu
@for_each_kernel
@given(data=st.data())
def test_cuda_agrees_with_reference_on_a_gpu(kernel, dtype, data):
    cupy = pytest.importorskip("cupy")
    if not cupy.is_available():
        pytest.skip("no CUDA device")
    from ntkfast.backends._cupy import backend

    def to_device(a):
        return cupy.asarray(a) if isinstance(a, np.ndarray) else a

    def to_host(a):
        return cupy.asnumpy(a) if isinstance(a, cupy.ndarray) else a

    case = CASES[kernel.name]
    arguments = data.draw(case.arguments(np.dtype(dtype)))
    got = run(lambda *args: backend().launch(kernel, *args), case, arguments, to_device, to_host)
    eps = case.eps if case.gpu_eps is None else case.gpu_eps
    compare(got, run(kernel.reference, case, arguments), eps)
