"""Random maps of one side of a parameter's matrix, and how a width is shared between two of them."""

import abc
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from .._memo import memoised
from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import philox
from ..sketch.mask import CoordinateMask, mask_tables

__all__ = ["Kept", "Mixed", "Sampled", "Side", "mixed_widths", "sampled_widths"]


def mixed_widths(rows: int, columns: int, width: int) -> tuple[int, int]:
    """Widths (k_in, k_out) of two sides that are kept or mixed, with a product of at most `width`.

    A side with its own length is kept as it is, and adds nothing to the variance; one that is mixed to k numbers adds
    about 1 / k, and two of them 2 / (k_in k_out) more. Of three choices (one side kept or the other, both mixed to
    about the square root of `width`) this is the one with the least sum: a side up to about twice the root is kept.
    """
    if rows * columns <= width:
        return rows, columns
    root = math.isqrt(width)
    found = [(root, width // root)] if root <= rows and width // root <= columns else []
    found += [(rows, width // rows)] if rows <= width else []
    found += [(width // columns, columns)] if columns <= width else []

    def spread(widths: tuple[int, int]) -> float:
        k_in, k_out = (0.0 if k == side else 1 / k for k, side in zip(widths, (rows, columns), strict=True))
        return k_in + k_out + 2 * k_in * k_out

    return min(found, key=spread)


def sampled_widths(rows: int, columns: int, width: int) -> tuple[int, int]:
    """Widths (k_in, k_out) of two sides that are kept or sampled, with a product of at most `width`.

    Columns get twice the root of `width`, or what they have, and rows what is left: inner products of cotangents are
    concentrated on fewer coordinates than those of activations. On images, for dense and convolutional layers, random
    and trained, the variance was at most a fifth above the least of other ratios, where equal widths took up to twice;
    on normal numbers, whose activations are as concentrated, equal widths take up to two fifths less.
    """
    k_out = min(columns, math.isqrt(4 * width), width)
    k_in = min(rows, width // k_out)
    return k_in, k_out if k_in < rows else min(columns, width // k_in)


class Side(abc.ABC):
    """A random linear map of one side, of `length` coordinates, to `width`: a value.

    Attributes
    ----------
    length, width : int
    key : int
        Of the random stream.
    mixes : bool
        Whether a result depends on more than one coordinate.
    """

    __slots__ = ()

    length: int
    width: int
    key: int
    mixes: ClassVar[bool]

    @property
    @abc.abstractmethod
    def work(self) -> int:
        """Multiply-adds per vector."""

    @abc.abstractmethod
    def apply(self, x: Array) -> Array:
        """Map the last axis."""

    @abc.abstractmethod
    def apply_rows(self, x: Array) -> Array:
        """Map the rows of matrices (n, length, columns)."""

    @abc.abstractmethod
    def read(self, index: Array, like: Array) -> Array:
        """Images of the unit vectors `index`, (*index.shape, width), of the dtype of `like`."""


@dataclass(frozen=True, slots=True)
class Mixed(Side):
    """Product with a matrix of independent signs over sqrt(width)."""

    length: int
    width: int
    key: int

    mixes: ClassVar[bool] = True

    @property
    def work(self) -> int:
        """Multiply-adds per vector."""
        return self.length * self.width

    def matrix(self, like: Array) -> Array:
        """The matrix (length, width)."""
        return memoised(self, _mixing_matrix, get_backend(like), like.dtype)[0]

    def apply(self, x: Array) -> Array:
        """Map the last axis, by one matrix product."""
        flat = get_backend(x).xp.ascontiguousarray(x).reshape(-1, self.length)
        return (flat @ self.matrix(x)).reshape(*x.shape[:-1], self.width)

    def apply_rows(self, x: Array) -> Array:
        """Map the rows of matrices (n, length, columns)."""
        return get_backend(x).xp.matmul(self.matrix(x).T, x)

    def apply_grouped(self, x: Array, groups: int) -> Array:
        """Images of the parts of (n, t, k, g o) that lie in one group, (n, t, g, k, width)."""
        n, t, k, length = x.shape
        xp, o = get_backend(x).xp, length // groups
        parts = xp.ascontiguousarray(x.reshape(-1, groups, o).transpose(1, 0, 2))
        found = xp.matmul(parts, self.matrix(x).reshape(groups, o, self.width))
        return found.reshape(groups, n, t, k, self.width).transpose(1, 2, 0, 3, 4)

    def read(self, index: Array, like: Array) -> Array:
        """Rows of the matrix."""
        return self.matrix(like)[index]


def _mixing_matrix(side: Mixed, backend: Backend, dtype: Any) -> tuple[Array]:
    signs = backend.xp.empty(side.length * side.width, dtype)
    backend.launch(philox.signs, side.key, 0, signs)
    signs *= signs.dtype.type(1.0 / math.sqrt(side.width))
    return (signs.reshape(side.length, side.width),)


class _Selected(Side):
    """Some of the coordinates, each times a number."""

    __slots__ = ()

    mixes: ClassVar[bool] = False

    @property
    def work(self) -> int:
        """Multiplications per vector."""
        return self.width

    @abc.abstractmethod
    def tables(self, like: Array) -> tuple[Array, ...]:
        """Coordinates in ascending order, and what each is multiplied by, (width,) each."""

    def apply(self, x: Array) -> Array:
        """Map the last axis."""
        chosen, factor = self.tables(x)
        # not x[..., chosen], which is not C-contiguous
        return (x if self.width == self.length else get_backend(x).xp.take(x, chosen, axis=-1)) * factor

    def apply_rows(self, x: Array) -> Array:
        """Map the rows of matrices (n, length, columns)."""
        chosen, factor = self.tables(x)
        return (x if self.width == self.length else get_backend(x).xp.take(x, chosen, axis=1)) * factor[:, None]

    def read(self, index: Array, like: Array) -> Array:
        """The number at the place of a coordinate that is kept, and zeros."""
        chosen, factor = self.tables(like)
        return (index[..., None] == chosen) * factor


@dataclass(frozen=True, slots=True)
class Kept(_Selected):
    """Every coordinate, times a random sign."""

    length: int
    key: int

    @property
    def width(self) -> int:  # type: ignore[override]
        """The length."""
        return self.length

    def tables(self, like: Array) -> tuple[Array, ...]:
        """All coordinates and their signs."""
        return memoised(self, _kept_tables, get_backend(like), like.dtype)


def _kept_tables(side: Kept, backend: Backend, dtype: Any) -> tuple[Array, Array]:
    signs = backend.xp.empty(side.length, dtype)
    backend.launch(philox.signs, side.key, 0, signs)
    return backend.xp.arange(side.length), signs


@dataclass(frozen=True, slots=True)
class Sampled(_Selected):
    """One coordinate of every stratum, as `CoordinateMask` has it; a side with its own length is left as it is."""

    length: int
    width: int
    key: int

    def apply(self, x: Array) -> Array:
        """Map the last axis."""
        return x if self.width == self.length else _Selected.apply(self, x)

    def apply_rows(self, x: Array) -> Array:
        """Map the rows of matrices (n, length, columns)."""
        return x if self.width == self.length else _Selected.apply_rows(self, x)

    def tables(self, like: Array) -> tuple[Array, ...]:
        """Sampled coordinates and the roots of the sizes of their strata."""
        mask = CoordinateMask(self.length, self.width, seed=self.key)
        return memoised(mask, mask_tables, get_backend(like), like.dtype)
