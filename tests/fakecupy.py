"""A stand-in for CuPy: NumPy's arithmetic behind a type that is as strict as a device array.

It catches, without a GPU, what would fail or be slow on one: conversions that nobody asked for (``numpy.asarray(x)``,
NumPy functions on device arrays, NumPy arrays among the operands or as an index), and names or keywords that CuPy does
not have. As in CuPy, reductions and single entries are arrays without axes. Kernels run on the CPU.
"""

import contextlib
import operator
import sys
import types

import numpy as np
import scipy.linalg

from ntkfast.backends import _BACKENDS, Backend


def _names(*lines):
    return {name for line in lines for name in line.split()}


CREATION = _names("arange asarray empty eye from_dlpack full ones zeros")
TYPES = _names("bool_ dtype finfo float32 float64 int32 int64 uint32 uint64")
# What the library may ask of `xp`. All of it is in CuPy; test_cupy_names.py compares, where CuPy is installed.
FUNCTIONS = CREATION | _names(
    "abs arccos arcsin argsort ascontiguousarray broadcast_to clip concatenate copyto cos einsum empty_like",
    "exp expm1 fill_diagonal frexp full_like hypot isfinite ix_ ldexp log log1p matmul maximum may_share_memory",
    "minimum multiply nonzero ones_like shares_memory sign sin sqrt stack take tanh tril triu unique where zeros_like",
)
LINALG, FFT = _names("cholesky eigh eigvalsh qr solve"), _names("irfft rfft")
METHODS = _names(
    "all any argmax argmin argsort astype clip conj copy diagonal fill item max mean min ravel repeat reshape sum",
    "swapaxes transpose",
)
STRIDED = {"countsketch.add"}  # kernels whose first argument may be some columns of a wider array
PROPERTIES = {"T", "dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"}
KEYWORDS = {"axis", "copy", "dtype", "k", "keepdims", "order", "out"}


def host(x):
    """The NumPy array in a device array, also within lists and tuples; NumPy arrays are refused."""
    if isinstance(x, np.ndarray):
        raise TypeError("Unsupported type <class 'numpy.ndarray'>")
    if isinstance(x, (list, tuple)):
        return type(x)(host(item) for item in x)
    return x._host if isinstance(x, ndarray) else x


def device(x):
    """Wrap arrays and NumPy's scalars, also within tuples."""
    if isinstance(x, tuple):
        return tuple(device(item) for item in x)
    return ndarray(np.asarray(x)) if isinstance(x, (np.ndarray, np.generic)) else x


def strict(function, *, creation=False):
    """`function` of NumPy for device arrays; at least one argument is one, unless it creates arrays."""

    def call(*args, **keywords):
        if set(keywords) - KEYWORDS:
            raise TypeError(f"{function.__name__} with keywords {sorted(set(keywords) - KEYWORDS)}")
        given = [item for x in args for item in (x if isinstance(x, (list, tuple)) else [x])]
        if not (creation or any(isinstance(x, ndarray) for x in given)):
            raise TypeError(f"{function.__name__} without a device array")
        return device(function(*host(args), **{key: host(value) for key, value in keywords.items()}))

    return call


class ndarray:
    """An array on the device that does not exist."""

    __module__ = "cupy"
    __slots__ = ("_host",)
    __hash__ = None

    def __init__(self, x):
        self._host = x

    def __getattr__(self, name):
        if name in PROPERTIES:
            return device(getattr(self._host, name)) if name == "T" else getattr(self._host, name)
        if name in METHODS:
            return strict(getattr(self._host, name), creation=True)
        raise AttributeError(f"'cupy.ndarray' object has no attribute {name!r}")

    @property
    def data(self):
        return types.SimpleNamespace(ptr=self._host.__array_interface__["data"][0])

    @property
    def flags(self):
        flags = self._host.flags
        return types.SimpleNamespace(c_contiguous=flags.c_contiguous, f_contiguous=flags.f_contiguous)

    def get(self):
        return self._host.copy()

    def __array__(self, *_, **__):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def __array_ufunc__(self, ufunc, method, *inputs, **keywords):
        """NumPy's scalars on the left come here; NumPy's functions would in CuPy too, but not in the library."""
        if method != "__call__" or keywords or not any(isinstance(x, np.generic) for x in inputs):
            raise TypeError(f"numpy.{ufunc.__name__} of a device array")
        return device(ufunc(*host(inputs)))

    def __getitem__(self, index):
        if any(isinstance(part, list) for part in (index if isinstance(index, tuple) else (index,))):
            raise TypeError("a list as index is a transfer")
        return device(self._host[host(index)])

    def __setitem__(self, index, value):
        self._host[host(index)] = host(value)

    def __len__(self):
        return len(self._host)

    def __iter__(self):
        return (self[i] for i in range(len(self)))


def _operator(name, swapped=False, in_place=False):
    function = getattr(operator, f"i{name.strip('_')}" if in_place else name)

    def apply(self, other):
        result = function(*((host(other), self._host) if swapped else (self._host, host(other))))
        return self if in_place else device(result)

    return apply


for _name in (
    "add",
    "sub",
    "mul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "matmul",
    "and_",
    "or_",
    "xor",
    "lshift",
    "rshift",
):
    for _prefix, _options in (("", {}), ("r", {"swapped": True}), ("i", {"in_place": True})):
        setattr(ndarray, f"__{_prefix}{_name.strip('_')}__", _operator(_name, **_options))
for _name in ("lt", "le", "gt", "ge", "eq", "ne"):
    setattr(ndarray, f"__{_name}__", _operator(_name))
for _name in ("abs", "neg", "invert"):
    setattr(ndarray, f"__{_name}__", lambda self, _name=_name: device(getattr(operator, _name)(self._host)))
for _type in (bool, float, int):
    setattr(ndarray, f"__{_type.__name__}__", lambda self, _t=_type: _t(self._host))


def asarray(x, dtype=None, order=None):
    """Transfer, asked for by name."""
    return device(np.array(x._host if isinstance(x, ndarray) else x, dtype, order=order or "K"))


add = types.SimpleNamespace(at=strict(np.add.at))
linalg = types.SimpleNamespace(**{name: strict(getattr(np.linalg, name)) for name in LINALG})
fft = types.SimpleNamespace(**{name: strict(getattr(np.fft, name)) for name in FFT})
# The number of the device is part of the key of kept arrays: no real device has this one.
_runtime = types.SimpleNamespace(getDevice=lambda: 1_000_000, memGetInfo=lambda: (2**30, 2**30))
_stream = types.SimpleNamespace(synchronize=lambda: None)
cuda = types.SimpleNamespace(runtime=_runtime, get_current_stream=lambda: _stream)


def get_default_memory_pool():
    return types.SimpleNamespace(free_bytes=lambda: 0)


def __getattr__(name):
    if name in TYPES:
        return getattr(np, name)
    if name in FUNCTIONS:
        return strict(getattr(np, name), creation=name in CREATION)
    raise AttributeError(f"module 'cupy' has no attribute {name!r}, as far as tests/fakecupy.py knows")


class _Strict(Backend):
    __slots__ = ()

    def launch(self, kernel, *args):
        for x in args[kernel.name in STRIDED :]:
            assert not isinstance(x, ndarray) or x.flags.c_contiguous, f"{kernel.name} of strided memory"
        kernel.cpu(*host(args))


def _solve_triangular(a, b, trans=0, lower=False):
    return device(scipy.linalg.solve_triangular(host(a), host(b), trans=trans, lower=lower))


class _LinearOperator:
    """What the library may ask of CuPy's."""

    def __init__(self, shape, matvec, rmatvec=None, matmat=None, dtype=None, rmatmat=None):
        self.shape, self.dtype = shape, dtype
        self._products, self._adjoint = (matvec, matmat), (rmatvec, rmatmat)

    def __matmul__(self, v):
        return self._products[v.ndim - 1](v)

    @property
    def T(self):
        (matvec, matmat), (rmatvec, rmatmat) = self._adjoint, self._products
        return _LinearOperator(self.shape[::-1], matvec, rmatvec, matmat, self.dtype, rmatmat)


def install(monkeypatch):
    """Let `get_backend` find the stand-in, and imports of CuPy's companion package its modules."""
    modules = ("", ".scipy", ".scipy.linalg", ".scipy.sparse", ".scipy.sparse.linalg")
    for name in (f"cupyx{module}" for module in modules):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["cupyx"].errstate = lambda **_: contextlib.nullcontext()
    sys.modules["cupyx.scipy.linalg"].solve_triangular = _solve_triangular
    sys.modules["cupyx.scipy.sparse.linalg"].LinearOperator = _LinearOperator
    monkeypatch.setitem(_BACKENDS, ndarray, _Strict("cupy", sys.modules[__name__], "cpu"))
