"""Sketches of gradients that are at hand, as one array or in parts.

Rows are samples, or pairs of a sample and an output; columns are parameters, those of one parameter array after those
of another. Columns are streamed, so gradients are read once, where they lie, and in no larger pieces than a sketch
wants.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from .._check import array_backend, check_dtype, check_finite, check_int, check_range, quiet
from .._typing import Array
from ..backends import get_backend
from ..sketch._base import LinearSketch
from ..sketch._row_stream import RowStream
from ._base import JacobianSketch
from ._collector import Collector

__all__ = ["project"]


def project(
    gradients: Array | Mapping[str, Array] | Iterable[Array],
    sketch: LinearSketch | JacobianSketch,
    *,
    sample_axes: int = 1,
) -> Array:
    """Sketch of gradients that exist as arrays.

    Parameters
    ----------
    gradients : array, mapping of str to array, or iterable of arrays; float32 or float64
        An array (*lead, p) of p columns; or arrays (*lead, *shape) by path, as `ntkfast.empirical.jacobian` returns,
        of which each is a part of the columns, in order, flattened in C order; or such arrays one after another, from
        a generator, none of which is needed again. Memory-mapped arrays are read piece by piece.
    sketch : LinearSketch or JacobianSketch
        A sketch of `ntkfast.sketch` with `in_dim` the number of columns of all parts; or a sketch of Jacobians, such as
        `TensorProjection`, which needs a mapping.
    sample_axes : int
        Number of axes in `lead`, at least 1: 2 for the Jacobians (n, k, *shape) of k outputs.

    Returns
    -------
    array, shape (*lead, m), dtype and backend of `gradients`
        m is the sketch's width. Inner products of its rows estimate those of the gradients without bias.

    Raises
    ------
    TypeError, ValueError
        Arrays of the wrong type, dtype or shape, without samples, of different dtypes or `lead`; columns that are more
        or fewer than `in_dim`; NaN or inf, by name and index.
    MixedBackendError
        Parts on different backends.
    OverflowError
        The sketch leaves the range of the dtype.

    Notes
    -----
    Error: that of the sketch; see there for its variance. ``project(jacobian(...), sketch, sample_axes=2)`` is what
    `project_jacobian` finds without forming the Jacobian.
    Cost: that of the sketch, and nothing to look for NaN and inf: they would show in the result. (So entries that a
    mask does not read, and arrays of width 0, are not checked. Parts of an iterable are checked when they come.)
    Memory: the result, twice at most for parts that end within a block of columns, and a tile of the sketch's tables;
    parts that are not C-contiguous are copied one at a time. `SRHT` alone holds whole rows; `BlockSRHT` does not.
    Determinism: the same bits for every cut of the columns into parts; for hashes, transforms and masks also for every
    batch of samples, thread count and backend. With dense sketches the last bits are the BLAS's.
    Backends: numpy, cupy.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc, Madry. TRAK: attributing model behavior at scale. ICML 2023.
    Hu, Melkonian, Tang, Zhao, Ma. GraSS: scalable data attribution with gradient sparsification and sparse projection.
      NeurIPS 2025, arXiv 2505.18976.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.sketch import SparseJL
    >>> sketch = SparseJL(12, 4, nnz=2, seed=0)
    >>> weight, bias = np.ones((5, 3, 3)), np.ones((5, 3))
    >>> parts = project({"weight": weight, "bias": bias}, sketch)
    >>> whole = project(np.concatenate([weight.reshape(5, 9), bias], axis=1), sketch)
    >>> parts.shape, bool((parts == whole).all())
    ((5, 4), True)
    """
    sample_axes = check_int(sample_axes, "sample_axes", minimum=1)
    if isinstance(sketch, JacobianSketch):
        return _project_arrays(gradients, sketch, sample_axes)
    if not isinstance(sketch, LinearSketch):
        raise TypeError(f"expected sketch to be a JacobianSketch or a LinearSketch, got {type(sketch).__name__}")
    if isinstance(gradients, Mapping):
        return _project_known(_named(gradients, sample_axes), sketch, sample_axes)
    if hasattr(gradients, "dtype"):
        _check_one(gradients, sketch.in_dim, sample_axes)
        return _project_known({"gradients": gradients}, sketch, sample_axes)
    if not isinstance(gradients, Iterable):
        raise TypeError(f"expected gradients to be an array, or arrays by path or in turn, got {_kind(gradients)}")
    return _project_iterable(gradients, sketch, sample_axes)


# --- linear sketches ----------------------------------------------------------------------------


def _project_known(parts: dict[str, Array], sketch: LinearSketch, sample_axes: int) -> Array:
    """Sketch of checked parts that stay at hand, so that NaN can be looked for afterwards."""
    n_columns = sum(_width(x, sample_axes) for x in parts.values())
    if n_columns != sketch.in_dim:
        raise ValueError(_wrong_total(sketch, str(n_columns)))
    first = next(iter(parts.values()))
    stream = _open(sketch, first, sample_axes)
    with quiet():
        for x in parts.values():
            _add(stream, x, sample_axes)
        out = stream.result()
    return _in_range(out, parts, sample_axes)


def _project_iterable(gradients: Iterable[Array], sketch: LinearSketch, sample_axes: int) -> Array:
    """Sketch of parts that are gone when the next one comes."""
    n_columns, lead, stream = 0, (), None
    for x in _checked_parts(gradients, sample_axes):
        n_columns += _width(x, sample_axes)
        if n_columns > sketch.in_dim:
            raise ValueError(_wrong_total(sketch, f"at least {n_columns}"))
        if stream is None:
            lead, stream = x.shape[:sample_axes], _open(sketch, x, sample_axes)
        with quiet():
            _add(stream, x, sample_axes)
    if stream is None or n_columns < sketch.in_dim:
        raise ValueError(_wrong_total(sketch, str(n_columns)))
    with quiet():
        out = stream.result()
    return check_range(out, "the sketch").reshape(*lead, -1)


def _open(sketch: LinearSketch, first: Array, sample_axes: int) -> RowStream:
    n_rows = math.prod(first.shape[:sample_axes])
    return sketch._open_stream(n_rows, get_backend(first), first.dtype)


def _add(stream: RowStream, x: Array, sample_axes: int) -> None:
    """Give a part's columns to a stream; a scalar parameter is one column, an empty one none."""
    width = _width(x, sample_axes)
    if width > 0:  # `asarray`: a memory map's own slices would be slow
        stream.add(get_backend(x).xp.asarray(x).reshape(-1, width))


def _width(x: Array, sample_axes: int) -> int:
    return math.prod(x.shape[sample_axes:])


def _wrong_total(sketch: LinearSketch, found: str) -> str:
    return f"expected gradients of {sketch.in_dim} columns in all, the sketch's in_dim, got {found}"


# --- sketches of Jacobians ----------------------------------------------------------------------


def _project_arrays(gradients: Any, sketch: JacobianSketch, sample_axes: int) -> Array:
    """Sketch of arrays by path, each of which has its own part of the map."""
    if not isinstance(gradients, Mapping):
        kind = type(sketch).__name__
        raise TypeError(f"expected gradients by path, whose shapes {kind} needs, got {_kind(gradients)}")
    arrays = _named(gradients, sample_axes)
    first = next(iter(arrays.values()))
    n_rows = math.prod(first.shape[:sample_axes])
    shapes = {path: x.shape[sample_axes:] for path, x in zip(gradients, arrays.values(), strict=True)}
    backend = get_backend(first)
    collector = Collector(sketch._plan(shapes), n_rows, 1, backend, first.dtype)
    with quiet():  # arrays are added from the last to the first, and come so that none has to wait
        for path, x in reversed(list(zip(shapes, arrays.values(), strict=True))):
            jac = backend.xp.ascontiguousarray(x).reshape(n_rows, 1, *shapes[path])
            collector.add_jacobian(path, jac)
        out = collector.result()
    return _in_range(out.reshape(n_rows, -1), arrays, sample_axes)


# --- checks -------------------------------------------------------------------------------------


def _named(gradients: Mapping[str, Array], sample_axes: int) -> dict[str, Array]:
    """Checked arrays of a mapping, by what they are called in error messages."""
    if not gradients:
        raise ValueError("expected gradients with at least one array, got an empty mapping")
    arrays = {f"gradients[{path!r}]": x for path, x in gradients.items()}
    first = next(iter(arrays.items()))
    for name, x in arrays.items():
        _check_part(x, name, sample_axes, first)
    return arrays


def _checked_parts(gradients: Iterable[Array], sample_axes: int) -> Iterator[Array]:
    """Parts, each checked when it comes: also for NaN and inf, which cannot be looked for when it is gone."""
    first: tuple[str, Array] | None = None
    for number, x in enumerate(gradients):
        name = f"gradients[{number}]"
        _check_part(x, name, sample_axes, first or (name, x))
        check_finite(x, name)
        if first is None:  # an array like the first one, which may go
            first = name, get_backend(x).xp.empty((*x.shape[:sample_axes], 0), x.dtype)
        yield x


def _check_part(x: Any, name: str, sample_axes: int, first: tuple[str, Array]) -> None:
    """Refuse a part that is no array with samples, or unlike the first one."""
    array_backend(x, name)
    check_dtype(x, name)
    lead = x.shape[:sample_axes]
    if len(lead) < sample_axes or 0 in lead:
        raise ValueError(f"expected {name} with {sample_axes} axes of samples, none of them empty, got shape {x.shape}")
    first_name, like = first
    get_backend(like, x)
    if x.dtype != like.dtype:
        raise TypeError(f"expected {name} of dtype {like.dtype}, as {first_name}, got {x.dtype}")
    if lead != like.shape[:sample_axes]:
        raise ValueError(f"expected {name} of shape {_shape(like.shape[:sample_axes])}, as {first_name}, got {x.shape}")


def _check_one(x: Any, in_dim: int, sample_axes: int) -> None:
    """Refuse what is not an array (*lead, in_dim)."""
    _check_part(x, "gradients", sample_axes, ("gradients", x))
    if x.ndim != sample_axes + 1 or x.shape[-1] != in_dim:
        wanted = ", ".join([*["n", "k"][:sample_axes], *["..."] * (sample_axes > 2), str(in_dim)])
        raise ValueError(f"expected gradients of shape ({wanted}), got {x.shape}")


def _shape(lead: tuple[int, ...]) -> str:
    return f"({', '.join(map(str, lead))}, ...)"


def _kind(gradients: Any) -> str:
    return type(gradients).__name__


def _in_range(out: Array, parts: Mapping[str, Array], sample_axes: int) -> Array:
    """A sketch (rows, m) with its axes of samples; one that is not finite is traced back to NaN or inf among the parts.

    What is not finite in a row shows in its sketch, so that gradients are read again only if something is wrong.
    """
    lead = next(iter(parts.values())).shape[:sample_axes]
    try:
        return check_range(out, "the sketch").reshape(*lead, -1)
    except OverflowError:
        backend = get_backend(out)
        finite = backend.to_numpy(backend.xp.isfinite(out).all(axis=1))
        for row in np.flatnonzero(~finite):
            _check_row(tuple(int(i) for i in np.unravel_index(row, lead)), parts)
        raise


def _check_row(row: tuple[int, ...], parts: Mapping[str, Array]) -> None:
    """Refuse NaN and inf in one sample's gradients."""
    for name, x in parts.items():
        xp = get_backend(x).xp
        bad = ~xp.isfinite(xp.asarray(x[row]))
        if bool(bad.any()):
            where = *row, *(int(i) for i in np.unravel_index(int(bad.argmax()), bad.shape))
            raise ValueError(f"expected {name} without NaN or inf, got {float(x[where])} at index {where}") from None
