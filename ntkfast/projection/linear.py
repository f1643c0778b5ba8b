"""Sketches of flattened gradients: a parameter array is a part of the columns."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

from ..backends import Backend, get_backend
from ..layers.factors import Factors
from ..sketch._base import LinearSketch, PartwiseSketch
from ..sketch._row_stream import RowStream
from ._base import ArraySketch, Plan, Shape
from ._streamed import StreamedArray

__all__ = ["ColumnsOf", "plan_columns"]


@dataclass(frozen=True, slots=True)
class ColumnsOf(StreamedArray):
    """The part of a linear sketch that meets one array.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    start : int
        Its first column.
    sketch : PartwiseSketch
        Of all columns.
    """

    shape: Shape
    start: int
    sketch: PartwiseSketch

    @property
    def width(self) -> int:  # type: ignore[override]
        """Width of the sketch."""
        return self.sketch.sketch_dim

    def _open(self, n_rows: int, backend: Backend, dtype: Any) -> RowStream:
        columns = range(self.start, self.start + math.prod(self.shape))
        return self.sketch._open_columns(n_rows, columns, backend, dtype)

    def numbers(self, factors: Factors) -> int:
        """Numbers per sample that `of_factors` holds at once, those included that wait for their block."""
        held = self.sketch._columns_held(get_backend(factors.ct.shared))
        return StreamedArray.numbers(self, factors) + factors.k * held


def plan_columns(sketch: LinearSketch, shapes: dict[str, Shape]) -> Plan:
    """Arrays as consecutive columns of one linear sketch."""
    if not isinstance(sketch, PartwiseSketch):
        kind = type(sketch).__name__
        raise TypeError(f"expected sketch to take columns in parts, got {kind}; BlockSRHT is the SRHT that does")
    sizes = [math.prod(shape) for shape in shapes.values()]
    if sum(sizes) != sketch.in_dim:
        raise ValueError(f"expected sketch.in_dim = {sum(sizes)}, the number of parameters, got {sketch.in_dim}")
    starts = itertools.accumulate(sizes[:-1], initial=0)
    parts: dict[str, ArraySketch] = {
        path: ColumnsOf(tuple(shape), start, sketch)
        for (path, shape), start in zip(shapes.items(), starts, strict=True)
    }
    return Plan(parts, dict.fromkeys(parts, slice(0, sketch.sketch_dim)), sketch.sketch_dim)
