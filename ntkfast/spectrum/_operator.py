"""What the matrix-free functions ask of an operator: a square shape, and products with blocks of vectors."""

import math
from typing import Any, NamedTuple, Protocol

import numpy as np

from .._check import FLOAT_DTYPES, check_dtype, check_finite, quiet
from .._typing import Array
from ..backends import Backend, _cupy_backend, _numpy_backend, get_backend
from ..kernels import philox

__all__ = ["LinearOperator", "Products", "adopt", "check_symmetric", "gaussian", "rademacher", "spherical"]


class LinearOperator(Protocol):
    """Anything with a shape (n, n) and ``operator @ v`` for blocks v (n, m).

    Arrays, linear operators and sparse matrices of SciPy or CuPy, `ntkfast.regression.KernelOperator`.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, n)."""

    def __matmul__(self, v: Array) -> Array:
        """Product with a block (n, m)."""


class Products(NamedTuple):
    """An operator whose products are checked: float64 blocks in, float64 blocks out."""

    operator: Any
    n: int
    backend: Backend
    dtype: str

    @property
    def eps(self) -> float:
        """Rounding unit of the products."""
        return float(np.finfo(self.dtype).eps)

    def __call__(self, v: Array) -> Array:
        """A v for v (n, m) float64; the product itself is done in the operator's dtype."""
        product = self.operator @ v.astype(self.dtype, copy=False)
        if getattr(product, "shape", None) != v.shape:
            got = getattr(product, "shape", type(product).__name__)
            raise ValueError(f"expected operator @ v of shape {v.shape}, got {got}")
        if get_backend(product).name != self.backend.name:
            raise TypeError(f"expected operator @ v to be an array of {self.backend.name}, got {type(product)}")
        wide = product.astype("float64", copy=False)
        with quiet():
            square = float((wide * wide).sum()) * self.n**2
        if not math.isfinite(square):
            check_finite(product, "operator @ v")
            raise OverflowError("expected products whose squares are within the range of float64; scale the operator")
        return wide


def adopt(operator: Any, *, symmetric: bool = False) -> Products:
    """Check an operator; of arrays also the entries and, if asked for, the symmetry."""
    shape = getattr(operator, "shape", None)
    if not isinstance(shape, tuple) or not hasattr(operator, "__matmul__"):
        raise TypeError(f"expected operator to have a shape and products operator @ v, got {type(operator).__name__}")
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] == 0:
        raise ValueError(f"expected operator of shape (n, n) with n >= 1, got {shape}")
    backend = _backend_of(operator)
    if _is_array(operator):
        check_dtype(operator, "operator")
        check_finite(operator, "operator")
        if symmetric:
            check_symmetric(operator, "operator")
    return Products(operator, int(shape[0]), backend, _product_dtype(operator))


def _is_array(operator: Any) -> bool:
    return any(base.__name__ == "ndarray" for base in type(operator).__mro__)


def _backend_of(operator: Any) -> Backend:
    """Backend of an array; else what the operator names; else that of the package its class comes from."""
    if _is_array(operator):
        return get_backend(operator)
    named = getattr(operator, "backend", None)
    if isinstance(named, Backend):
        return named
    on_device = any(base.__module__.partition(".")[0] == "cupyx" for base in type(operator).__mro__)
    return _cupy_backend() if on_device else _numpy_backend()


def _product_dtype(operator: Any) -> str:
    """Dtype of the vectors an operator is given: its own, or float64 where it has none or integers."""
    dtype = getattr(operator, "dtype", None)
    if dtype is not None and np.dtype(dtype).kind == "c":
        raise TypeError(f"expected a real operator, got dtype {dtype}")
    return str(dtype) if str(dtype) in FLOAT_DTYPES else "float64"


# Rows that are compared with columns at a time.
_ROWS = 1024


def check_symmetric(k: Array, name: str) -> None:
    """Refuse a matrix whose asymmetry exceeds sqrt(eps) of its largest entry."""
    n, xp = k.shape[0], get_backend(k).xp
    worst, largest = 0.0, 0.0
    for start in range(0, n, _ROWS):
        rows, columns = k[start : start + _ROWS, start:], k[start:, start : start + _ROWS].T
        largest = max(largest, float(xp.abs(rows).max()), float(xp.abs(columns).max()))
        worst = max(worst, float(xp.abs(rows / 2 - columns / 2).max()))  # halves do not overflow
    allowed = float(np.finfo(str(k.dtype)).eps) ** 0.5 * largest
    if 2 * worst > allowed:
        raise ValueError(f"expected {name} to be symmetric, got entries that differ by {2 * worst:g} from their mirror")


# --- test vectors: columns of (n, m) float64, vector j at positions j n ... (j + 1) n of a stream --------------------


def rademacher(products: Products, key: int, start: int, m: int) -> Array:
    """Vectors start ... start + m - 1 of independent signs."""
    return _draw(products, philox.signs, key, start, m)


def gaussian(products: Products, key: int, start: int, m: int) -> Array:
    """Vectors start ... start + m - 1 of independent standard normal numbers."""
    return _draw(products, philox.normal, key, start, m)


def spherical(products: Products, key: int, start: int, m: int) -> Array:
    """Vectors start ... start + m - 1, uniform on the sphere of radius sqrt(n)."""
    z = gaussian(products, key, start, m)
    return z * (products.n / (z * z).sum(axis=0)) ** 0.5


def _draw(products: Products, kernel: Any, key: int, start: int, m: int) -> Array:
    xp, n = products.backend.xp, products.n
    out = xp.empty(n * m, "float64")
    products.backend.launch(kernel, key, start * n, out)
    return xp.ascontiguousarray(out.reshape(m, n).T)
