"""What one side brings to the contraction of a parameter block: arrays with the samples first, formed from its factors.

A block's Jacobian is J[n, k, i, o] = scale sum_t act[n, t, i] delta[n, t, k, o]. Which arrays are formed depends on the
contraction order (contraction.py); operands of some samples are rows of the operand of all, so that samples may be
worked on a few at a time (`Collected`).
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

from .._typing import Array
from ..backends import Backend
from ..layers.factors import Factors, JacobianFactors, SparseFactors
from ._tiles import slices

__all__ = [
    "Collected",
    "Jacobian",
    "Operand",
    "Positions",
    "Reads",
    "Shared",
    "form",
    "form_columns",
    "operand_bytes",
]

# Bytes of acts (patches of images) that are made at a time: read at once, from the cache of a CPU; a GPU is filled.
_ACT_BYTES = {"numpy": 2**23, "cupy": 2**28}


class Jacobian(NamedTuple):
    """The Jacobian without its scale; left (n, k, w), or (n, 1, k w) where a trace merges the outputs."""

    left: Array
    scale: float


class Shared(NamedTuple):
    """Factors whose cotangents are those of all samples and positions, up to a gate.

    Attributes
    ----------
    x : array, shape (n, o, i), optional
        sum_t gate[n, t, o] act[n, t, i]; with one position the gate alone, (n, o, 1); None without a gate.
    act : array, shape (n, i), optional
        The act of the one position, or the sum over positions without a gate.
    s : array, shape (k, o)
        The cotangents, the same for all samples.
    scale : float
    bias_scale : float
        Of a bias that joins the acts' Gram matrix, times its number of positions.
    """

    x: Array | None
    act: Array | None
    s: Array
    scale: float
    bias_scale: float


class Positions(NamedTuple):
    """Acts (n, t, i) and cotangents (n, t, k, o), as they are."""

    act: Array
    delta: Array
    scale: float
    bias_scale: float


class Reads(NamedTuple):
    """Rows of an embedding table that are read, (n, t), and their cotangents, (n, t, k, c)."""

    index: Array
    delta: Array
    scale: float


Operand: TypeAlias = Jacobian | Shared | Positions | Reads

# Fields that are the same for all samples.
_COMMON = {"s", "scale", "bias_scale"}


def form(backend: Backend, f: Factors, order: str, bias_scale: float, output: str) -> Operand:
    """The operand of some samples' factors in a contraction order."""
    if isinstance(f, SparseFactors):
        return Reads(f.index, f.delta, f.scale)
    if order == "shared":
        return _shared(backend, f, bias_scale)
    if order in ("inside_out", "left_to_right"):
        return Positions(_act(backend, f), f.delta, f.scale, bias_scale)
    return _jacobian(backend, f, slice(0, f.out_width), output)


def form_columns(
    backend: Backend, f: JacobianFactors, g: JacobianFactors, output: str, budget: int
) -> Iterator[tuple[Jacobian, Jacobian]]:
    """Jacobians of both sides, as many columns (outputs o of the weight) at a time as the budget allows."""
    samples = f.n if g is f else f.n + g.n
    column = samples * f.k * f.in_width * f.ct.shared.dtype.itemsize
    most = f.out_width if f.groups > 1 or f.act is None else budget // column
    for columns in slices(f.out_width, most):
        left = _jacobian(backend, f, columns, output)
        yield left, left if g is f else _jacobian(backend, g, columns, output)


def _jacobian(backend: Backend, f: JacobianFactors, columns: slice, output: str) -> Jacobian:
    """Jacobian of some columns: (n, 1, i k o) for a trace, (n, k, i o) otherwise; that of a bias whole, (n, k, o)."""
    if f.act is None:
        return Jacobian(f.delta[:, 0] if f.positions == 1 else f.delta.sum(axis=1), f.scale)
    xp, k, width = backend.xp, f.k, columns.stop - columns.start
    merged = output == "trace" and f.groups == 1
    w = f.in_width // f.groups * width
    out = xp.empty((f.n, 1, k * w) if merged else (f.n, k, w), f.ct.shared.dtype)
    for rows in _act_rows(backend, f):
        part = f.rows(rows)
        if f.groups > 1:
            out[rows] = part.jacobian().reshape(part.n, k, w) / f.scale
            continue
        act = _act(backend, part).transpose(0, 2, 1)
        delta = part.delta[..., columns].reshape(part.n, f.positions, k * width)
        if merged:
            xp.matmul(act, delta, out=out[rows].reshape(part.n, f.in_width, k * width))
        else:
            formed = xp.matmul(act, delta).reshape(part.n, f.in_width, k, width)
            out[rows].reshape(part.n, k, f.in_width, width)[:] = formed.transpose(0, 2, 1, 3)
    return Jacobian(out, f.scale)


def _shared(backend: Backend, f: JacobianFactors, bias_scale: float) -> Shared:
    s = f.ct.shared.reshape(f.k, -1)
    if f.ct.gate is None:
        return Shared(None, _act_sum(backend, f), s, f.scale, f.positions * bias_scale)
    if f.positions == 1:
        return Shared(f.ct.gate.reshape(f.n, -1, 1), _act(backend, f)[:, 0], s, f.scale, bias_scale)
    return Shared(_gated_sum(backend, f), None, s, f.scale, 0.0)


def _act_sum(backend: Backend, f: JacobianFactors) -> Array:
    """sum_t act[n, t], (n, i)."""
    if f.positions == 1:
        return _act(backend, f)[:, 0]
    out = backend.xp.empty((f.n, f.in_width), f.ct.shared.dtype)
    for rows in _act_rows(backend, f):
        out[rows] = _act(backend, f.rows(rows)).sum(axis=1)
    return out


def _gated_sum(backend: Backend, f: JacobianFactors) -> Array:
    """sum_t gate[n, t, o] act[n, t, i], (n, o, i)."""
    assert f.ct.gate is not None
    gate = f.ct.gate.reshape(f.n, f.positions, -1)
    if f.act is None:
        return gate.sum(axis=1)[:, :, None]
    out = backend.xp.empty((f.n, f.out_width, f.in_width), gate.dtype)
    for rows in _act_rows(backend, f):
        backend.xp.matmul(gate[rows].transpose(0, 2, 1), f.act[rows], out=out[rows])
    return out


def _act(backend: Backend, f: JacobianFactors) -> Array:
    """The acts of all samples, (n, t, i); those of a bias are ones."""
    if f.act is None:
        return backend.xp.ones((f.n, f.positions, 1), f.ct.shared.dtype)
    return f.act[0 : f.n]


def _act_rows(backend: Backend, f: JacobianFactors) -> Iterator[slice]:
    """Slices of samples whose acts are made at a time."""
    sample = f.positions * f.in_width * f.ct.shared.dtype.itemsize
    return slices(f.n, _ACT_BYTES[backend.name] // sample)


# --- operands of some samples after those of others -----------------------------------------------


class Collected:
    """The operand of n samples, as its rows come in."""

    def __init__(self, backend: Backend, n: int) -> None:
        self._backend, self._n = backend, n
        self._whole: Any = None

    def put(self, rows: slice, part: Operand) -> None:
        """Keep the operand of some samples."""
        if self._whole is None:
            self._whole = part._replace(**{name: self._empty(array) for name, array in _arrays(part)})
        for name, array in _arrays(part):
            getattr(self._whole, name)[rows] = array

    def _empty(self, like: Array) -> Array:
        return self._backend.xp.empty((self._n, *like.shape[1:]), like.dtype)

    @property
    def operand(self) -> Operand:
        """The whole, once all rows are there."""
        whole: Operand = self._whole
        return whole


def operand_bytes(part: Operand) -> int:
    """Bytes of the arrays that grow with the samples."""
    return sum(int(array.nbytes) for _, array in _arrays(part))


def _arrays(part: Operand) -> list[tuple[str, Array]]:
    """Fields with a row per sample, by name."""
    fields = part._asdict().items()
    return [(name, value) for name, value in fields if name not in _COMMON and value is not None]
