"""Every CUDA kernel compiles for sm_90 without a GPU, stays in its precision and keeps its values in registers.

What is compiled is what the launchers launch with the cases' arguments: launching is replaced by taking notes. PTX is
made by whichever NVVM the CUDA JIT finds, and assembled by `cuda.core` (a dependency of ``numba-cuda[cu13]``; no system
CUDA needed) or by the ptxas program. The file relies on private names of Numba, so it may be skipped where they are
gone, and it is never the only check of a kernel.
"""

import functools
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import types

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernels import cases

import ntkfast.kernels
from ntkfast.kernels._cuda import SIMULATED, cuda, prepare

if SIMULATED:
    pytest.skip("the CUDA simulator compiles nothing", allow_module_level=True)

CASES = cases.load()
EXAMPLES = cases.examples()
CAPABILITY = (9, 0)
Dispatcher = type(cuda.jit(lambda: None))


@functools.cache
def _missing() -> str | None:
    """Why nothing can be compiled here, or None."""
    prepare()
    import numba.cuda.dispatcher

    # the one question that compilation asks a device
    numba.cuda.dispatcher.get_current_device = lambda: types.SimpleNamespace(compute_capability=CAPABILITY)
    try:
        assemble(_ptx(cuda.jit(lambda: None), ()))
    except Exception as error:  # whatever the missing library raises
        return f"no compiler for {CAPABILITY}: {type(error).__name__}: {error}"
    return None


@pytest.fixture(autouse=True)
def _compiler():
    reason = _missing()
    if reason is not None and "ptx" in os.environ.get("NTKFAST_REQUIRE", "").split(","):
        pytest.fail(reason)
    if reason is not None:
        pytest.skip(reason)


def _ptx(dispatcher, signature):
    return cuda.compile_ptx(dispatcher.py_func, signature, cc=CAPABILITY)[0]


def assemble(ptx: str) -> str:
    """Assemble for sm_90 and return the assembler's report on registers and spills."""
    try:
        from cuda.core import Linker, LinkerOptions, ObjectCode
    except ImportError:
        return _run_ptxas(ptx)
    linker = Linker(ObjectCode.from_ptx(ptx.encode()), options=LinkerOptions(arch="sm_90", verbose=True))
    linker.link("cubin")
    return linker.get_info_log()


def _run_ptxas(ptx: str) -> str:
    program = shutil.which("ptxas") or "/usr/local/cuda/bin/ptxas"
    command = [program, "-arch=sm_90", "-v", "-o", os.devnull, "-"]
    done = subprocess.run(command, input=ptx, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stderr


def launches(kernel, dtype, monkeypatch):
    """CUDA kernels, with the types of their arguments, that a kernel launches on its cases; nothing runs."""
    seen = {}

    def note(dispatcher, _geometry):
        def launch(*arguments):
            signature = tuple(dispatcher.typeof_pyval(a) for a in arguments)
            seen[dispatcher.py_func.__name__, signature] = dispatcher

        return launch

    monkeypatch.setattr(Dispatcher, "__getitem__", note)
    case = CASES[kernel.name]

    @settings(max_examples=20, phases=[Phase.generate], derandomize=True, database=None)
    @given(arguments=case.arguments(np.dtype(dtype)))
    def collect(arguments):
        kernel.cuda(*arguments)

    collect()
    if case.large is not None:
        kernel.cuda(*case.large(np.dtype(dtype)))
    return {(name, signature): dispatcher for (name, signature), dispatcher in seen.items()}


def _spilled_bytes(report: str) -> int:
    return sum(int(n) for n in re.findall(r"(\d+) bytes spill (?:stores|loads)", report))


@pytest.mark.parametrize(("kernel", "dtype"), EXAMPLES, ids=lambda value: getattr(value, "name", value))
def test_compiles_for_sm_90_in_its_precision_without_spills(kernel, dtype, monkeypatch):
    found = launches(kernel, dtype, monkeypatch)
    assert found, "the launcher launches nothing"
    for (name, signature), dispatcher in found.items():
        ptx = _ptx(dispatcher, signature)
        if dtype in ("float32", "complex64"):
            doubles = [line.strip() for line in ptx.splitlines() if ".f64" in line]
            assert not doubles, f"{name}: double precision in a {dtype} kernel, e.g. {doubles[:3]}"
        # their order would decide the last bits of a sum
        assert not re.search(r"\b(atom|red)\.\S*\.f(32|64)\b", ptx), f"{name}: floating-point atomics"
        report = assemble(ptx)
        assert "registers" in report, f"{name}: no report from the assembler"
        assert _spilled_bytes(report) == 0, f"{name}: {report}"


def test_every_cuda_kernel_is_launched_by_some_case(monkeypatch):
    names = [name for _, name, _ in pkgutil.iter_modules(ntkfast.kernels.__path__)]
    files = [importlib.import_module(f"ntkfast.kernels.{name}") for name in names]
    declared = {value.py_func for file in files for value in vars(file).values() if isinstance(value, Dispatcher)}
    seen = set()
    for kernel, dtype in EXAMPLES:
        seen |= {dispatcher.py_func for dispatcher in launches(kernel, dtype, monkeypatch).values()}
    assert seen == declared


@given(st.integers(1, 9), st.integers(1, 9))
def test_report_of_spills_is_understood(stores, loads):
    line = f"    0 bytes stack frame, {stores} bytes spill stores, {loads} bytes spill loads"
    assert _spilled_bytes(line) == stores + loads
