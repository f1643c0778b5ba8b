"""Checks of arguments: every error names what was expected and what came, before any work is done."""

import math
import numbers
import operator
import os
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from ._typing import Array
from .backends import Backend, get_backend
from .errors import MemoryBudgetError

__all__ = [
    "array_backend",
    "check_all_finite",
    "check_choice",
    "check_cotangent",
    "check_finite",
    "check_images",
    "check_int",
    "check_matrix",
    "check_pair",
    "check_range",
    "check_real",
    "check_seed",
    "memory_budget",
    "quiet",
    "set_checked",
]

FLOAT_DTYPES = ("float32", "float64")
_FLOATS = frozenset(map(np.dtype, FLOAT_DTYPES))  # looked up in a tenth of the time that a dtype's name takes


def check_matrix(x: Array, name: str, *, columns: int | None = None) -> tuple[Array, Backend]:
    """Check a sample matrix and return it C-contiguous, with its backend.

    Parameters
    ----------
    x : array, shape (n, d), float32 or float64
        n >= 1, d >= 1, finite. Any memory order; a copy is made only where it is not C-contiguous.
    name : str
        Name of the argument in error messages.
    columns : int, optional
        The wanted d.

    Returns
    -------
    array, Backend

    Raises
    ------
    TypeError
        Not a NumPy or CuPy array, or of a dtype other than float32 and float64.
    ValueError
        Wrong number of axes or columns, empty, NaN or inf.
    """
    backend = array_backend(x, name)
    check_dtype(x, name)
    wanted = f"(n, {columns})" if columns is not None else "(n, d)"
    if x.ndim != 2 or (columns is not None and x.shape[1] != columns):
        raise ValueError(f"expected {name} of shape {wanted}, got {x.shape}")
    if x.size == 0:
        raise ValueError(f"expected {name} with at least one row and one column, got shape {x.shape}")
    check_finite(x, name)
    return backend.xp.ascontiguousarray(x), backend


def check_images(x: Array, name: str, shape: tuple[int, int, int] | None = None) -> tuple[Array, Backend]:
    """Check images and return them C-contiguous, with their backend.

    Parameters
    ----------
    x : array, shape (n, h, w, c), float32 or float64
        Not empty, finite. Any memory order; a copy is made only where it is not C-contiguous.
    name : str
        Name of the argument in error messages.
    shape : (int, int, int), optional
        The wanted (h, w, c).

    Returns
    -------
    array, Backend

    Raises
    ------
    TypeError
        Not a NumPy or CuPy array, or of a dtype other than float32 and float64.
    ValueError
        Wrong number of axes or shape of an image, empty, NaN or inf.
    """
    backend = array_backend(x, name)
    check_dtype(x, name)
    if x.ndim != 4 or (shape is not None and x.shape[1:] != tuple(shape)):
        wanted = "height, width, channels" if shape is None else ", ".join(map(str, shape))
        raise ValueError(f"expected {name} of shape (n, {wanted}), got {x.shape}")
    if x.size == 0:
        raise ValueError(f"expected {name} with at least one image, pixel and channel, got shape {x.shape}")
    check_finite(x, name)
    return backend.xp.ascontiguousarray(x), backend


def array_backend(x: Any, name: str) -> Backend:
    """Backend of one array; the error names the argument, and how to convert an array of another library."""
    if not hasattr(x, "dtype") or isinstance(x, float):  # numpy.float64 is a float, too
        raise TypeError(f"expected {name} to be a NumPy or CuPy array, got {type(x).__name__}")
    try:
        return get_backend(x)
    except TypeError as error:
        raise TypeError(f"{name}: {error}") from None


def check_dtype(x: Array, name: str) -> None:
    """Refuse every dtype but float32 and float64."""
    if x.dtype not in _FLOATS:
        raise TypeError(f"expected {name} of dtype float32 or float64, got {x.dtype}; convert it with {name}.astype")


def check_finite(x: Array, name: str) -> None:
    """Refuse NaN and inf, naming the first place.

    One read of the array: a finite total proves finite entries, and only an infinite one (which may
    be an overflow of finite entries) is looked into.
    """
    xp = get_backend(x).xp
    with quiet():
        total = float(_total(x))
    if math.isfinite(total):
        return
    bad = ~xp.isfinite(x)
    if bool(bad.any()):
        where = tuple(int(i) for i in np.unravel_index(int(bad.argmax()), x.shape))  # CuPy's takes no numbers
        raise ValueError(f"expected {name} without NaN or inf, got {float(x[where])} at index {where}")


def _total(x: Array) -> Array:
    """A number that is finite only if all entries are: their squares' sum by BLAS, which reads twice as fast."""
    if x.flags.c_contiguous and x.dtype.kind == "f":
        flat = x.reshape(-1)
        return flat @ flat
    return x.sum()


def check_all_finite(arrays: Mapping[str, Array]) -> None:
    """`check_finite` of several arrays of one backend by name, which waits for a GPU once."""
    with quiet():
        total = float(sum(_total(x) for x in arrays.values()))
    if not math.isfinite(total):
        for name, x in arrays.items():
            check_finite(x, name)


def quiet() -> Any:
    """Silence NumPy about overflow while `check_range` is to follow."""
    return np.errstate(over="ignore", invalid="ignore", divide="ignore")


def check_range(out: Array, name: str) -> Array:
    """Return a result, or refuse it where finite input left the range of its dtype."""
    try:
        check_finite(out, name)
    except ValueError:
        raise OverflowError(f"expected {name} within the range of {out.dtype}; scale the input down") from None
    return out


def check_pair(x1: Array, x2: Array | None) -> tuple[Array, Array | None, Backend]:
    """Check two sample matrices of one width, dtype and backend; `x2` may be None (symmetric)."""
    x1, backend = check_matrix(x1, "x1")
    if x2 is None:
        return x1, None, backend
    if hasattr(x2, "dtype"):
        get_backend(x1, x2)
    x2, _ = check_matrix(x2, "x2", columns=x1.shape[1])
    if x1.dtype != x2.dtype:
        raise TypeError(f"expected x1 and x2 of one dtype, got {x1.dtype} and {x2.dtype}")
    return x1, x2, backend


def check_cotangent(ct: Array, name: str, shape: tuple[int, ...], like: Array) -> Array:
    """Check a cotangent of a result of `shape`, in the dtype and on the backend of `like`; return it C-contiguous."""
    if hasattr(ct, "dtype"):
        get_backend(like, ct)
    ct, _ = check_matrix(ct, name)
    if ct.shape != shape:
        raise ValueError(f"expected {name} of shape {shape}, got {ct.shape}")
    if ct.dtype != like.dtype:
        raise TypeError(f"expected {name} of dtype {like.dtype}, got {ct.dtype}")
    return ct


def check_int(value: Any, name: str, *, minimum: int = 0, maximum: int | None = None) -> int:
    """Return `value` as an int within [minimum, maximum]; booleans and floats are refused."""
    if isinstance(value, bool):
        raise TypeError(f"expected {name} to be an integer, got {value!r}")
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"expected {name} to be an integer, got {value!r}") from None
    if number < minimum or (maximum is not None and number > maximum):
        bounds = f"at least {minimum}" if maximum is None else f"between {minimum} and {maximum}"
        raise ValueError(f"expected {name} to be {bounds}, got {number}")
    return number


def check_real(value: Any, name: str, *, minimum: float = -math.inf, strict: bool = False) -> float:
    """Return `value` as a finite float >= minimum (> minimum if `strict`).

    Numbers of Python and NumPy, and arrays without axes, as reductions on a device return them; no booleans.
    """
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    is_real = isinstance(value, numbers.Real) if kind is None else kind in "fiu" and value.ndim == 0
    if isinstance(value, bool) or not is_real:
        raise TypeError(f"expected {name} to be a real number, got {value!r}")
    try:
        number = float(value)
    except OverflowError:  # an integer beyond the floats
        number = math.inf
    if not math.isfinite(number) or number < minimum or (strict and number == minimum):
        bound = "" if minimum == -math.inf else f" {'greater than' if strict else 'at least'} {minimum:g}"
        raise ValueError(f"expected {name} to be a finite number{bound}, got {number}")
    return number


def check_seed(seed: Any) -> int:
    """Return the key of a random stream: an integer with 0 <= seed < 2**64."""
    return check_int(seed, "seed", minimum=0, maximum=2**64 - 1)


def check_choice(value: Any, name: str, choices: Collection[str]) -> str:
    """Return `value` if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"expected {name} to be one of {', '.join(sorted(choices))}; got {value!r}")
    return value


def set_checked(value: object, **fields: Any) -> None:
    """Store checked fields of a frozen value, so that equal values hold equal Python numbers."""
    for name, checked in fields.items():
        object.__setattr__(value, name, checked)


def memory_budget(max_memory: Any, backend: Backend, *, smallest: int = 0) -> int:
    """Bytes that temporaries may take.

    Parameters
    ----------
    max_memory : int or None
        The caller's limit; None means a quarter of what is free now.
    backend : Backend
        Whose memory is meant.
    smallest : int
        What the smallest possible tile needs.

    Raises
    ------
    MemoryBudgetError
        `max_memory` is below `smallest`.
    """
    if max_memory is None:
        return max(smallest, _free_memory(backend) // 4)
    budget = check_int(max_memory, "max_memory", minimum=1)
    if budget < smallest:
        raise MemoryBudgetError(f"expected max_memory of at least {smallest} bytes, got {budget}")
    return budget


def _free_memory(backend: Backend) -> int:
    if backend.name == "cupy":
        # CuPy keeps the memory of dead arrays in a pool, which the device counts as taken.
        return int(backend.xp.cuda.runtime.memGetInfo()[0] + backend.xp.get_default_memory_pool().free_bytes())
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):  # no such query on this system
        return 2**31
