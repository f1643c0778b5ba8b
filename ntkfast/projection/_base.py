"""What sketches of Jacobians share: a linear map for each parameter array, and how these become one vector.

Letters: n samples, k cotangents per sample, t positions, g groups, m width of a sketch; i inputs and o outputs of a
weight. A parameter array of shape s is read as a matrix of shape (prod(s[:-1]), s[-1]) = (i, g o), an array with one
axis as one row. So a sketch is a function of the stored array, by whatever engine its Jacobian was found.
"""

import abc
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .._check import check_choice, check_int, check_seed, set_checked
from .._streams import Stream
from .._typing import Array
from ..backends import get_backend
from ..kernels import philox
from ..layers.factors import Factors

__all__ = ["COMBINE", "ArraySketch", "JacobianSketch", "Plan", "Shape", "matrix_shape"]

COMBINE = ("sum", "concatenate")

Shape = tuple[int, ...]


def matrix_shape(shape: Shape) -> tuple[int, int]:
    """Rows and columns of a parameter array as a matrix."""
    return math.prod(shape[:-1]), shape[-1] if shape else 1


class ArraySketch(abc.ABC):
    """The sketch of one parameter array: a value; its tables are made by `memoised`.

    Attributes
    ----------
    shape : tuple of int
        Of the array.
    width : int
        m.
    """

    __slots__ = ()

    shape: Shape
    width: int

    @abc.abstractmethod
    def of_jacobian(self, jac: Array) -> Array:
        """Sketch of Jacobians (rows, *shape), C-contiguous: (rows, width). A row's result is its own."""

    def of_factors(self, factors: Factors) -> Array:
        """Sketch of the Jacobian of some samples, (n, k, width)."""
        jac = factors.jacobian()
        n, k = jac.shape[:2]
        xp = get_backend(jac).xp
        return self.of_jacobian(xp.ascontiguousarray(jac).reshape(n * k, *self.shape)).reshape(n, k, self.width)

    def numbers(self, factors: Factors) -> int:
        """Numbers per sample that `of_factors`, or `add_spectrum`, holds at once."""
        in_width = getattr(factors, "in_width", 1)
        delta = math.prod(factors.spatial) * (in_width + factors.k * factors.ct.shared.shape[-1])
        return int(delta + 2 * factors.k * factors.size + factors.k * self.width)

    def is_spectral(self, factors: Factors) -> bool:
        """Whether the sketch of these factors is found as its discrete Fourier transform, by `add_spectrum`."""
        return False

    def add_spectrum(self, factors: Factors, out: Array) -> None:
        """Add the transforms of the sketches to `out` (n, k, width // 2 + 1)."""
        raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Plan:
    """Where the sketches of the parameter arrays go in one vector.

    Attributes
    ----------
    parts : dict of str to ArraySketch
        By path, in the tree's order. Arrays without one are left out.
    places : dict of str to slice
        Of the vector; they are equal where sketches are added.
    width : int
        Of the vector.
    """

    parts: dict[str, ArraySketch]
    places: dict[str, slice]
    width: int


@dataclass(frozen=True, slots=True)
class JacobianSketch(abc.ABC):
    """Random linear map of a network's parameter Jacobians, one parameter array at a time.

    Attributes
    ----------
    sketch_dim : int or mapping of str to int
        Width of the result. With ``combine="concatenate"`` the arrays share it evenly (the first ones get what does not
        divide), unless a mapping gives each path its own; 0 leaves an array out. A mapping is kept as a tuple of its
        items, sorted by path, so that sketches can be compared and hashed.
    combine : {"sum", "concatenate"}
        Whether the sketches of the arrays, which are independent, are added or lie one after another.
    seed : int
        Key of the random stream, 0 <= seed < 2**64. The sketch of an array is a function of the seed, its path, its
        shape and its width.
    """

    sketch_dim: int | Mapping[str, int]
    combine: str = field(default="sum", kw_only=True)
    seed: int = field(kw_only=True)

    _stream: ClassVar[Stream]

    def __post_init__(self) -> None:
        check_choice(self.combine, "combine", COMBINE)
        set_checked(self, sketch_dim=_check_dims(self.sketch_dim, self.combine), seed=check_seed(self.seed))

    def layout(self, shapes: Mapping[str, Shape]) -> dict[str, slice]:
        """Place of every array's sketch in the vector.

        Parameters
        ----------
        shapes : mapping of str to tuple of int
            Shapes of the arrays by path, in the tree's order.

        Returns
        -------
        dict of str to slice
            Arrays that are left out have no entry.

        Raises
        ------
        TypeError, ValueError
            `shapes` is no such mapping, or empty; the widths do not fit the arrays.

        Examples
        --------
        >>> from ntkfast.projection import TensorProjection
        >>> sketch = TensorProjection(9, combine="concatenate", seed=0)
        >>> sketch.layout({"0.weight": (3, 4), "0.bias": (4,)})
        {'0.weight': slice(0, 5, None), '0.bias': slice(5, 9, None)}
        """
        return self._plan(shapes).places

    def _plan(self, shapes: Mapping[str, Shape]) -> Plan:
        shapes = _check_shapes(shapes)
        widths = self._widths(shapes)
        parts = {
            path: self._part(shapes[path], width, philox.derive_key(self.seed, self._stream, *_tags(path)))
            for path, width in widths.items()
        }
        if self.combine == "sum":
            (width,) = set(widths.values())
            return Plan(parts, dict.fromkeys(parts, slice(0, width)), width)
        places, stop = {}, 0
        for path, part in parts.items():
            places[path] = slice(stop, stop + part.width)
            stop += part.width
        return Plan(parts, places, stop)

    @abc.abstractmethod
    def _part(self, shape: Shape, width: int, key: int) -> ArraySketch:
        """The sketch of one array."""

    def _widths(self, shapes: Mapping[str, Shape]) -> dict[str, int]:
        """Widths by path, without those that are left out."""
        if not isinstance(self.sketch_dim, int):
            return _given_widths(dict(self.sketch_dim), shapes)
        if self.combine == "sum":
            return dict.fromkeys(shapes, self.sketch_dim)
        if self.sketch_dim < len(shapes):
            raise ValueError(f"expected sketch_dim of at least {len(shapes)}, one per array, got {self.sketch_dim}")
        share, rest = divmod(self.sketch_dim, len(shapes))
        return {path: share + (number < rest) for number, path in enumerate(shapes)}


def _check_shapes(shapes: Any) -> dict[str, Shape]:
    """Shapes of parameter arrays by path."""
    if not isinstance(shapes, Mapping) or not all(isinstance(shape, (tuple, list)) for shape in shapes.values()):
        raise TypeError(f"expected shapes to be a mapping of paths to tuples of integers, got {shapes!r}")
    if not shapes:
        raise ValueError("expected shapes of at least one parameter array, got none")
    for path in shapes:
        if not isinstance(path, str):
            raise TypeError(f"expected paths of parameter arrays to be strings, got {path!r}")
    return {path: tuple(check_int(side, f"shapes[{path!r}]") for side in shape) for path, shape in shapes.items()}


def _check_dims(sketch_dim: Any, combine: str) -> int | tuple[tuple[str, int], ...]:
    """A width, or widths by path as a sorted tuple of pairs, so that equal mappings are equal and hash equally."""
    if not isinstance(sketch_dim, (Mapping, tuple)):
        return check_int(sketch_dim, "sketch_dim", minimum=1, maximum=2**31 - 1)
    pairs = tuple(sketch_dim.items()) if isinstance(sketch_dim, Mapping) else sketch_dim
    if not all(isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str) for pair in pairs):
        raise TypeError(f"expected sketch_dim to be an integer, or a mapping of paths to integers, got {sketch_dim!r}")
    if combine == "sum":
        raise ValueError('expected sketch_dim to be an integer with combine="sum", got widths by path')
    checked = {path: check_int(width, f"sketch_dim[{path!r}]", maximum=2**31 - 1) for path, width in pairs}
    if len(checked) < len(pairs):
        raise ValueError(f"expected sketch_dim to name each path once, got {sketch_dim!r}")
    if not any(checked.values()):
        raise ValueError("expected sketch_dim with at least one width above 0")
    return tuple(sorted(checked.items()))


def _given_widths(given: dict[str, int], shapes: Mapping[str, Shape]) -> dict[str, int]:
    for path in [*given, *shapes]:
        if path not in shapes:
            raise ValueError(
                f"expected sketch_dim to name parameter arrays, got {path!r}; there are {', '.join(shapes)}"
            )
        if path not in given:
            raise ValueError(
                f"expected sketch_dim to name every parameter array (0 leaves one out), {path!r} is missing"
            )
    return {path: given[path] for path in shapes if given[path] > 0}


def _tags(path: str) -> list[int]:
    """A path as integers below 2**64; the length first, so that no path begins like another."""
    name = path.encode()
    return [len(name), *(int.from_bytes(name[i : i + 8], "little") for i in range(0, len(name), 8))]
