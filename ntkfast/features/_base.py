"""What every feature map shares: the interface, the checks and the row blocks.

A feature map is a frozen dataclass that derives from `FeatureMap` and supplies

- ``_kernel(x1, x2)``: the exact kernel that it approximates;
- ``_write(backend, x, out)``: the features of a block of checked rows;
- ``_pullback(backend, x, ct)``: their vector-Jacobian product;
- ``_row_bytes(itemsize)``: bytes of temporaries per row, so that blocks obey ``max_memory``.
"""

import abc
import math
from collections.abc import Iterator
from typing import Any

from .._check import (
    check_cotangent,
    check_int,
    check_matrix,
    check_range,
    check_real,
    check_seed,
    memory_budget,
    quiet,
    set_checked,
)
from .._typing import Array
from ..analytic import ntk
from ..backends import Backend, get_backend
from ..zonal.slopes import Slopes, slopes_of

__all__ = ["FeatureMap", "ReluNTKMap", "check_scale", "row_blocks"]

# Rows of a block on the CPU. The passes after the matrix product would like fewer, to find them in cache, but each
# change between the threads of BLAS and those of a kernel costs milliseconds where either wait by spinning.
CPU_ROWS = 4096


class FeatureMap(abc.ABC):
    """A map phi such that phi(x) . phi(y) approximates a kernel k(x, y).

    Attributes
    ----------
    in_dim : int
        Width d of the rows that the map takes.
    n_features : int
        Width m of the rows that it returns.
    """

    __slots__ = ()

    in_dim: int
    n_features: int

    def __call__(self, x: Array, *, max_memory: int | None = None) -> Array:
        """Features of the rows of `x`; the same as `apply`."""
        return self.apply(x, max_memory=max_memory)

    def apply(self, x: Array, *, max_memory: int | None = None) -> Array:
        """Features of the rows of `x`.

        Parameters
        ----------
        x : array, shape (n, in_dim), float32 or float64
            Rows are samples.
        max_memory : int, optional
            Bytes that temporaries may take, the result and the map's own weights not counted;
            default a quarter of what is free.

        Returns
        -------
        array, shape (n, n_features), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError
            `x` is not such an array, or has NaN or inf.
        MemoryBudgetError
            `max_memory` is below what one row needs.
        OverflowError
            The features leave the range of the dtype.

        Notes
        -----
        Determinism: does not depend on `max_memory`, up to the rounding of the matrix product.
        A zero row has zero features.
        """
        x, backend = check_matrix(x, "x", columns=self.in_dim)
        out = backend.xp.empty((x.shape[0], self.n_features), x.dtype)
        for rows in row_blocks(x.shape[0], self._row_bytes(x.dtype.itemsize), backend, max_memory):
            with quiet():
                self._write(backend, x[rows], out[rows])
        return _check_features(x, out)

    def vjp(self, x: Array, ct: Array, *, max_memory: int | None = None) -> Array:
        """Vector-Jacobian product: the gradient of sum(ct * phi(x)) with respect to `x`.

        Parameters
        ----------
        x : array, shape (n, in_dim), float32 or float64
        ct : array, shape (n, n_features), dtype and backend of `x`
            Cotangent of the features.
        max_memory : int, optional
            As in `apply`.

        Returns
        -------
        array, shape (n, in_dim), dtype and backend of `x`

        Raises
        ------
        TypeError, ValueError, MixedBackendError
            Arrays of wrong shape or dtype, of two backends, or with NaN or inf.
        OverflowError
            The gradient leaves the range of the dtype.

        Notes
        -----
        A zero row has zero gradient (the kernel has a cone there, so 0 is its mean value).
        """
        x, backend = check_matrix(x, "x", columns=self.in_dim)
        ct = check_cotangent(ct, "ct", (x.shape[0], self.n_features), x)
        out = backend.xp.empty_like(x)
        for rows in row_blocks(x.shape[0], self._row_bytes(x.dtype.itemsize), backend, max_memory):
            with quiet():
                out[rows] = self._pullback(backend, x[rows], ct[rows])
        return check_range(out, "the gradient")

    def kernel(self, x1: Array, x2: Array | None = None) -> Array:
        """Exact kernel that phi(x1) @ phi(x2).T approximates.

        Parameters
        ----------
        x1 : array, shape (n1, in_dim), float32 or float64
        x2 : array, shape (n2, in_dim), optional
            None means `x1`.

        Returns
        -------
        array, shape (n1, n2), dtype and backend of `x1`

        Raises
        ------
        TypeError, ValueError, MixedBackendError, OverflowError
            As `ntkfast.analytic.ntk`.
        """
        for name, x in (("x1", x1), ("x2", x2)):
            if x is not None and getattr(x, "ndim", 0) == 2 and x.shape[1] != self.in_dim:
                raise ValueError(f"expected {name} of shape (n, {self.in_dim}), got {x.shape}")
        return self._kernel(x1, x2)

    @abc.abstractmethod
    def _kernel(self, x1: Array, x2: Array | None) -> Array:
        """`kernel` of rows of width `in_dim`; all other checks are its own."""

    @abc.abstractmethod
    def _write(self, backend: Backend, x: Array, out: Array) -> None:
        """Write the features of the checked rows `x` (b, d) into `out` (b, m), both C-contiguous."""

    @abc.abstractmethod
    def _pullback(self, backend: Backend, x: Array, ct: Array) -> Array:
        """Gradient (b, d) of sum(ct * phi(x)) for checked rows `x` (b, d), `ct` (b, m)."""

    @abc.abstractmethod
    def _row_bytes(self, itemsize: int) -> int:
        """Bytes of temporaries that one row of a block takes in `_write` or `_pullback`."""


def _check_features(x: Array, out: Array) -> Array:
    """Return features, or refuse them where they left the range of their dtype.

    Features grow with their row, so those of the row with the largest entry tell whether all need to be read.
    """
    features = abs(out[int(abs(x).max(axis=1).argmax())])
    limit = math.sqrt(float(get_backend(x).xp.finfo(out.dtype).max))
    return out if float(features.max()) < limit else check_range(out, "the features")


class ReluNTKMap(FeatureMap):
    """A map that approximates the NTK of a relu network without biases.

    Attributes
    ----------
    depth : int
        Number of hidden layers.
    W_std : float
        Standard deviation of the weights.
    seed : int
        Key of the random stream.
    """

    __slots__ = ()

    depth: int
    W_std: float
    seed: int

    def _check_fields(self, fewest_features: int) -> None:
        """Check and store the fields that all these maps have."""
        set_checked(self, in_dim=check_int(self.in_dim, "in_dim", minimum=1))
        set_checked(self, n_features=check_int(self.n_features, "n_features", minimum=fewest_features))
        set_checked(self, depth=check_int(self.depth, "depth", minimum=1))
        set_checked(self, W_std=check_scale(self.W_std, slopes_of("relu"), self.depth, self.in_dim))
        set_checked(self, seed=check_seed(self.seed))

    def _kernel(self, x1: Array, x2: Array | None) -> Array:
        return ntk(x1, x2, depth=self.depth, W_std=self.W_std)

    @property
    def _root_scale(self) -> float:
        """Square root of the NTK's scale."""
        return math.sqrt(slopes_of("relu").scale(self.depth, self.W_std, self.in_dim))


def check_scale(W_std: Any, slopes: Slopes, depth: int, in_dim: int) -> float:
    """Return W_std if it is positive and the kernel's scale finite."""
    checked = check_real(W_std, "W_std", minimum=0.0, strict=True)
    if not math.isfinite(slopes.scale(depth, checked, in_dim)):
        raise ValueError(f"expected W_std with a finite kernel at depth {depth}, got {checked}")
    return checked


def row_blocks(
    n: int, row_bytes: int, backend: Backend, max_memory: int | None, *, cpu_rows: int = CPU_ROWS
) -> Iterator[slice]:
    """Slices that cover n rows, with at most `max_memory` bytes of temporaries each, and `cpu_rows` rows on the CPU."""
    budget = memory_budget(max_memory, backend, smallest=row_bytes)
    rows = max(1, min(n, budget // max(1, row_bytes)))
    if backend.name == "numpy":
        rows = min(rows, cpu_rows)
    return (slice(start, min(start + rows, n)) for start in range(0, n, rows))
