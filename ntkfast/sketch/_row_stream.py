"""Sketches of rows whose columns come in consecutive parts: the same bits for every cut of the columns into parts.

A stream belongs to one call. `add` takes the next columns of all rows, and `result` ends it. What keeps the bits is
that sums either run column by column, or over blocks of columns that are cut at places known beforehand: then parts
are held back until their block is whole.
"""

import abc
from collections.abc import Callable

from .._typing import Array
from ..backends import get_backend

__all__ = ["BlockStream", "ChainStream", "ColumnStream", "RowStream"]


class RowStream(abc.ABC):
    """Rows of which the columns up to some place have come."""

    @abc.abstractmethod
    def add(self, x: Array) -> None:
        """Take the next columns, x (n_rows, w), w >= 1; any memory order. They are not read again later."""

    @abc.abstractmethod
    def result(self) -> Array:
        """The sketch (n_rows, sketch_dim), after all columns have come. It ends the stream."""


class ColumnStream(RowStream):
    """The columns themselves, side by side: a stream that sketches nothing, for the end of a chain of them.

    Parameters
    ----------
    out : array, shape (n_rows, m)
    place : int
        Where the first column goes.
    """

    def __init__(self, out: Array, place: int = 0) -> None:
        self._out, self._place = out, place

    def add(self, x: Array) -> None:
        """Store the next columns."""
        self._out[:, self._place : self._place + x.shape[1]] = x
        self._place += x.shape[1]

    def result(self) -> Array:
        """All columns."""
        return self._out


class ChainStream(RowStream):
    """A sketch of a sketch, where the first is known at its end only."""

    def __init__(self, first: RowStream, second: RowStream) -> None:
        self._first, self._second = first, second

    def add(self, x: Array) -> None:
        """Sketch the next columns by the first map."""
        self._first.add(x)

    def result(self) -> Array:
        """The sketch, by the second map, of that by the first."""
        self._second.add(self._first.result())
        return self._second.result()


class BlockStream(RowStream):
    """Sums over blocks of columns, which are cut at the multiples of a width.

    Parameters
    ----------
    columns : range
        The columns that are to come.
    width : int
        Of a block; the first and the last may be shorter.
    add_block : callable
        ``add_block(x, first, out)`` adds the sketch of a block to `out`, x (n_rows, <= width) being its columns from
        column `first` on.
    out : array, shape (n_rows, sketch_dim)
        The sums so far.
    scale : float
        Factor of the finished sums.
    """

    def __init__(
        self,
        columns: range,
        width: int,
        add_block: Callable[[Array, int, Array], None],
        out: Array,
        scale: float = 1.0,
    ) -> None:
        self._first, self._stop, self._width = columns.start, columns.stop, width
        self._add_block, self._out, self._scale = add_block, out, scale
        self._held: Array | None = None
        self._n_held = 0

    def add(self, x: Array) -> None:
        """Add the blocks that become whole, and hold the rest back."""
        done = 0
        while done < x.shape[1]:
            length = self._block_end() - self._first
            taken = min(length - self._n_held, x.shape[1] - done)
            part = x[:, done : done + taken]
            if taken < length:
                part = self._hold(part)
            if part.shape[1] == length:
                self._add_block(part, self._first, self._out)
                self._first, self._n_held = self._first + length, 0
            done += taken

    def result(self) -> Array:
        """The sums, which lack nothing once the last block is whole."""
        if self._scale != 1.0:
            self._out *= self._out.dtype.type(self._scale)
        return self._out

    def _block_end(self) -> int:
        return min(self._stop, (self._first // self._width + 1) * self._width)

    def _hold(self, x: Array) -> Array:
        """Copy columns of an unfinished block behind those before; returns all of the block so far."""
        if self._held is None:
            width = min(self._width, self._stop - self._first)
            self._held = get_backend(x).xp.empty((x.shape[0], width), x.dtype)
        self._held[:, self._n_held : self._n_held + x.shape[1]] = x
        self._n_held += x.shape[1]
        return self._held[:, : self._n_held]
