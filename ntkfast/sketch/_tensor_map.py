"""What sketches of tensor products share: fields, checks of the factors, and tiles of their rows."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .._check import check_cotangent, check_range, check_seed, set_checked
from .._typing import Array
from ..backends import Backend, get_backend
from ._base import Scratch, check_dim, check_rows, entries, row_tiles

__all__ = ["TensorMap"]


@dataclass(frozen=True, slots=True)
class TensorMap(abc.ABC):
    """A multilinear map from `in_dims` coordinates to `sketch_dim`: its fields, its interface, and all checks."""

    in_dims: tuple[int, ...]
    sketch_dim: int
    seed: int = field(kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.in_dims, Sequence) or isinstance(self.in_dims, str):
            raise TypeError(f"expected in_dims to be a sequence of integers, got {self.in_dims!r}")
        in_dims = tuple(check_dim(d, f"in_dims[{k}]") for k, d in enumerate(self.in_dims))
        set_checked(self, in_dims=in_dims, sketch_dim=check_dim(self.sketch_dim, "sketch_dim"))
        set_checked(self, seed=check_seed(self.seed))

    def apply(self, *xs: Any) -> Array:
        """Sketch of ``x_1 (x) ... (x) x_q``, row by row.

        Parameters
        ----------
        *xs : q arrays or sparse matrices, shapes (n, in_dims[k]), float32 or float64
            All of one dtype and backend.

        Returns
        -------
        array, shape (n, sketch_dim), dtype and backend of `xs`

        Raises
        ------
        TypeError, ValueError
            A factor is of the wrong type, dtype or shape, is empty, or has NaN or inf; or their number is wrong.
        MixedBackendError
            The factors are on different backends.
        OverflowError
            A product leaves the range of the dtype.
        """
        factors, backend = self._check_factors(xs)
        out = backend.xp.empty((factors[0].shape[0], self.sketch_dim), factors[0].dtype)
        scratch = Scratch(backend, out.dtype)
        for rows in row_tiles(out.shape[0], self._tile_width, out.dtype):
            self._apply_tile([x[rows] for x in factors], scratch, out[rows])
        return check_range(out, "the sketch")

    def vjp(self, xs: Sequence[Any], ct: Array) -> tuple[Array, ...]:
        """Gradients with respect to the factors of ``sum(ct * apply(*xs))``.

        Parameters
        ----------
        xs : sequence of q arrays or sparse matrices, shapes (n, in_dims[k]), float32 or float64
        ct : array, shape (n, sketch_dim), dtype and backend of `xs`

        Returns
        -------
        tuple of q arrays, shapes (n, in_dims[k]), dtype and backend of `xs`

        Raises
        ------
        TypeError, ValueError, MixedBackendError, OverflowError
            As `apply`.
        """
        factors, backend = self._check_factors(xs)
        ct = check_cotangent(ct, "ct", (factors[0].shape[0], self.sketch_dim), entries(factors[0]))
        grads = tuple(backend.xp.empty(x.shape, ct.dtype) for x in factors)
        scratch = Scratch(backend, ct.dtype)
        for rows in row_tiles(ct.shape[0], self._tile_width, ct.dtype):
            self._pull_tile([x[rows] for x in factors], ct[rows], scratch, [grad[rows] for grad in grads])
        return tuple(check_range(grad, f"gradient {k}") for k, grad in enumerate(grads))

    @property
    @abc.abstractmethod
    def _tile_width(self) -> int:
        """Entries per row of the largest scratch array of a tile."""

    @abc.abstractmethod
    def _apply_tile(self, tiles: Sequence[Any], scratch: Scratch, out: Array) -> None:
        """Write the sketch of checked factors to `out`."""

    @abc.abstractmethod
    def _pull_tile(self, tiles: Sequence[Any], ct: Array, scratch: Scratch, grads: Sequence[Array]) -> None:
        """Write the gradients of checked factors to `grads`."""

    def _check_factors(self, xs: Sequence[Any]) -> tuple[list[Any], Backend]:
        """Check one matrix per factor, all of one height, dtype and backend."""
        if not hasattr(xs, "__len__"):
            raise TypeError(f"expected xs to be a sequence of {len(self.in_dims)} factors, got {type(xs).__name__}")
        if len(xs) != len(self.in_dims):
            raise ValueError(f"expected {len(self.in_dims)} factors, got {len(xs)}")
        checked = [check_rows(x, f"xs[{k}]", d)[0] for k, (x, d) in enumerate(zip(xs, self.in_dims, strict=True))]
        first = checked[0]
        for k, x in enumerate(checked):
            _check_agreement(x, f"xs[{k}]", first)
        return checked, get_backend(*(entries(x) for x in checked))


def _check_agreement(x: Any, name: str, first: Any) -> None:
    """Refuse a factor of another height or dtype than the first one."""
    if x.shape[0] != first.shape[0]:
        raise ValueError(f"expected {name} of {first.shape[0]} rows, as xs[0], got {x.shape[0]}")
    if x.dtype != first.dtype:
        raise TypeError(f"expected {name} of dtype {first.dtype}, as xs[0], got {x.dtype}")
