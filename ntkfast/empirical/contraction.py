"""Terms of the NTK of one parameter block, from its factors, in the cheapest of several contraction orders.

A block's Jacobian is J[n, k, i, o] = sum_t act[n, t, i] delta[n, t, k, o], and its NTK the sum over positions t and s

    Theta[n, m, k, q] = sum_{t, s} <act1[n, t], act2[m, s]> <delta1[n, t, k], delta2[m, s, q]>.

- outside in: form J1 and J2, then their Gram matrix;
- left to right: form J1, multiply by act2, then by delta2;
- inside out: the Gram matrix of the acts times that of the cotangents, for every pair of positions; with one position
  (a dense layer) that is one product of Gram matrices;
- shared: where all samples and positions have the same cotangents up to a gate, delta[n, t, k, o] = gate[n, t, o]
  shared[k, o] (the last convolution below a global average and a linear head), sums over positions need no k:
  X[n, o, i] = sum_t gate[n, t, o] act[n, t, i], and Theta = sum_o <X1[n, o], X2[m, o]> shared[k, o] shared[q, o].

A bias has act = 1. Its term joins that of the weight where the acts' Gram matrix is formed.

References
----------
Novak, Sohl-Dickstein, Schoenholz. Fast finite width neural tangent kernel. ICML 2022, arXiv 2206.08720, section 3.3.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple, TypeAlias

import numpy as np

from .._typing import Array
from ..backends import Backend
from ..layers.factors import Cotangent, Factors, JacobianFactors, SparseFactors
from .cost import BlockShape, cheapest_order, rates

__all__ = ["Direct", "Product", "SharedProduct", "Term", "block_shape", "layer_terms"]

# Bytes of acts (patches of images) that are made at a time: read at once, from the cache of a CPU; a GPU is filled.
_ACT_BYTES = {"numpy": 2**23, "cupy": 2**28}
# Bytes of the products of `left_to_right` that are made at a time; on a CPU those of one sample.
_THROUGH_BYTES = {"numpy": 0, "cupy": 2**28}
# Parts into which the budget is cut where the sum may keep that many terms waiting.
_WAITING = 16


class Product(NamedTuple):
    """Theta[n, m, k, q] += scale a[n, m] <left[n, k], right[m, q]>.

    Attributes
    ----------
    left, right : array, shape (n, k, w)
        With output "trace" the outputs may have been merged into w. The same object where the samples are the same.
    a : array, shape (n, m), optional
        None means ones.
    scale : float
    """

    left: Array
    right: Array
    a: Array | None = None
    scale: float = 1.0


class SharedProduct(NamedTuple):
    """Theta[n, m, k, q] += scale a[n, m] sum_o <x1[n, o], x2[m, o]> s1[k, o] s2[q, o].

    Attributes
    ----------
    s1, s2 : array, shape (k, o)
    x1, x2 : array, shape (n, o, i), optional
        None means that <x1, x2> is one.
    a : array, shape (n, m), optional
    scale : float
    """

    s1: Array
    s2: Array
    x1: Array | None = None
    x2: Array | None = None
    a: Array | None = None
    scale: float = 1.0


class Direct(NamedTuple):
    """Theta[rows][:, columns] += values, in the shape of the output; a trace is not divided by k."""

    values: Array
    rows: Array | slice
    columns: Array | slice


Term: TypeAlias = Product | SharedProduct | Direct


def block_shape(f: JacobianFactors, g: JacobianFactors, output: str) -> BlockShape:
    """What the cost of a block depends on; `g` is `f` where the samples are the same."""
    return BlockShape(
        n1=f.n,
        n2=g.n,
        positions=f.positions,
        k=f.k,
        inputs=f.in_width // f.groups,
        outputs=f.out_width // f.groups,
        groups=f.groups,
        shared=f.groups == 1 and _is_shared(f.ct) and _is_shared(g.ct),
        gated=f.ct.gate is not None,
        symmetric=g is f,
        output=output,
        itemsize=f.ct.shared.dtype.itemsize,
    )


def _is_shared(ct: Cotangent) -> bool:
    """Whether all samples and positions have the same cotangents, up to a gate."""
    return all(size == 1 for size in ct.shared.shape[:-2])


def layer_terms(
    backend: Backend, first: dict[str, Factors], second: dict[str, Factors] | None, output: str, budget: int
) -> Iterator[Term]:
    """Terms of all parameters of a layer; their temporaries take about `budget` bytes at a time.

    Parameters
    ----------
    first, second : dict of str to Factors
        The layer's factors on the two sides; None where the samples are the same.
    output : {"trace", "diagonal", "full"}
    budget : int
    """
    bias_scale = _joined_bias(backend, first, second, output)
    for name, f in first.items():
        if bias_scale and name == "bias":
            continue
        g = f if second is None else second[name]
        if isinstance(f, SparseFactors):
            assert isinstance(g, SparseFactors)
            yield from _by_chunks(backend, f, g, budget) if backend.name == "cupy" else _sparse(backend, f, g, output)
        else:
            assert isinstance(g, JacobianFactors)
            yield from _terms(backend, f, g, output, budget, bias_scale if name == "weight" else 0.0)


def _joined_bias(backend: Backend, first: dict[str, Factors], second: dict[str, Factors] | None, output: str) -> float:
    """Scale of a bias whose term joins that of the weight, or 0."""
    weight, bias = first.get("weight"), first.get("bias")
    if not isinstance(weight, JacobianFactors) or not isinstance(bias, JacobianFactors) or weight.ct is not bias.ct:
        return 0.0
    other = weight if second is None else second["weight"]
    assert isinstance(other, JacobianFactors)
    shape = block_shape(weight, other, output)
    order = _order(backend, shape)
    joins = order == "inside_out" or (order == "shared" and (shape.positions == 1 or not shape.gated))
    return bias.scale if joins else 0.0


def _order(backend: Backend, shape: BlockShape) -> str:
    return cheapest_order(shape, rates(backend, f"float{8 * shape.itemsize}"))


def _terms(
    backend: Backend, f: JacobianFactors, g: JacobianFactors, output: str, budget: int, bias_scale: float
) -> Iterator[Term]:
    """Terms of one parameter array, and of the bias beside it if `bias_scale` is given."""
    shape = block_shape(f, g, output)
    if f.act is None and not shape.shared:
        left = _bias_jacobian(f)
        yield Product(left, left if g is f else _bias_jacobian(g), scale=f.scale**2)
        return
    order = _order(backend, shape)
    if order == "shared":
        yield _shared(backend, f, g, bias_scale)
    elif order == "inside_out":
        yield from _inside_out(backend, f, g, bias_scale)
    elif order == "left_to_right":
        yield from _left_to_right(backend, f, g, output)
    else:
        yield from _outside_in(backend, f, g, output, budget)


def _bias_jacobian(f: JacobianFactors) -> Array:
    """Jacobian of a bias without its scale, (n, k, o)."""
    return f.delta[:, 0] if f.positions == 1 else f.delta.sum(axis=1)


def _act(backend: Backend, f: JacobianFactors) -> Array:
    """The acts of all samples, (n, t, i)."""
    if f.act is None:
        return backend.xp.ones((f.n, f.positions, 1), f.ct.shared.dtype)
    return f.act[0 : f.n]


# --- shared -------------------------------------------------------------------------------------


def _shared(backend: Backend, f: JacobianFactors, g: JacobianFactors, bias_scale: float) -> SharedProduct:
    """The one term of a block with shared cotangents."""
    s1, s2 = (h.ct.shared.reshape(h.k, -1) for h in (f, g))
    if f.ct.gate is None:
        x1 = _act_sum(backend, f)
        a = _act_gram(x1, x1 if g is f else _act_sum(backend, g), f.scale, f.positions * bias_scale)
        return SharedProduct(s1, s2, a=a)
    if f.positions == 1:
        assert g.ct.gate is not None  # the same layer on both sides
        act1, gate1 = _act(backend, f)[:, 0], f.ct.gate.reshape(f.n, -1, 1)
        act2, gate2 = (act1, gate1) if g is f else (_act(backend, g)[:, 0], g.ct.gate.reshape(g.n, -1, 1))
        return SharedProduct(s1, s2, gate1, gate2, _act_gram(act1, act2, f.scale, bias_scale))
    x1 = _gated_sum(backend, f)
    return SharedProduct(s1, s2, x1, x1 if g is f else _gated_sum(backend, g), scale=f.scale**2)


def _act_gram(x1: Array, x2: Array, scale: float, bias_scale: float) -> Array:
    """scale^2 <x1[n], x2[m]> + bias_scale^2."""
    a = x1 @ x2.T
    a *= scale**2
    if bias_scale:
        a += bias_scale**2
    return a


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


def _act_rows(backend: Backend, f: JacobianFactors) -> Iterator[slice]:
    """Slices of samples whose acts are made at a time."""
    sample = f.positions * f.in_width * f.ct.shared.dtype.itemsize
    return _slices(f.n, _ACT_BYTES[backend.name] // sample)


def _slices(n: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` of n samples, and of one at least."""
    step = max(1, most)
    return (slice(start, min(start + step, n)) for start in range(0, n, step))


# --- inside out ---------------------------------------------------------------------------------


def _inside_out(backend: Backend, f: JacobianFactors, g: JacobianFactors, bias_scale: float) -> Iterator[Term]:
    """A product of Gram matrices for every pair of positions."""
    act1, delta1 = _act(backend, f), f.delta
    act2, delta2 = (act1, delta1) if g is f else (_act(backend, g), g.delta)
    for t in range(f.positions):
        for s in range(g.positions):
            left = delta1[:, t]
            right = left if g is f and s == t else delta2[:, s]
            yield Product(left, right, _act_gram(act1[:, t], act2[:, s], f.scale, bias_scale))


# --- outside in ---------------------------------------------------------------------------------


def _outside_in(backend: Backend, f: JacobianFactors, g: JacobianFactors, output: str, budget: int) -> Iterator[Term]:
    """Gram matrices of Jacobians, some columns (outputs o of the weight) at a time."""
    for columns in _columns(f, g, budget):
        left = _jacobian(backend, f, columns, output)
        yield Product(left, left if g is f else _jacobian(backend, g, columns, output), scale=f.scale**2)


def _columns(f: JacobianFactors, g: JacobianFactors, budget: int) -> Iterator[slice]:
    samples = f.n if g is f else f.n + g.n
    column = samples * f.k * f.in_width * f.ct.shared.dtype.itemsize
    width = max(1, budget // column)
    if f.groups > 1 or width >= f.out_width:
        width = f.out_width
    return (slice(start, min(start + width, f.out_width)) for start in range(0, f.out_width, width))


def _jacobian(backend: Backend, f: JacobianFactors, columns: slice, output: str) -> Array:
    """Jacobian of some columns without its scale: (n, 1, i k o) for a trace, (n, k, i o) otherwise."""
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
    return out


# --- left to right ------------------------------------------------------------------------------


def _left_to_right(backend: Backend, f: JacobianFactors, g: JacobianFactors, output: str) -> Iterator[Term]:
    """J1 times the acts, then the cotangents, of some samples of the second side at a time."""
    left = _jacobian(backend, f, slice(0, f.out_width), "full").reshape(f.n, f.k, f.in_width, f.out_width)
    left = backend.xp.ascontiguousarray(left.transpose(0, 1, 3, 2))  # (n, k, o, i)
    sample = f.n * f.k * f.out_width * g.positions * left.dtype.itemsize
    for columns in _slices(g.n, _THROUGH_BYTES[backend.name] // sample):
        part = g.rows(columns)
        rows = slice(0, columns.stop if g is f else f.n)  # half of the pairs where the samples are the same
        act = _act(backend, part).transpose(0, 2, 1)  # (m, i, s)
        through = backend.xp.matmul(left[rows].reshape(1, -1, f.in_width), act)  # (m, n k o, s)
        through = through.reshape(part.n, rows.stop, f.k, -1)  # (m, n, k, o s)
        delta = part.delta.transpose(0, 3, 1, 2).reshape(part.n, -1, g.k) * f.scale**2  # (m, o s, q)
        yield Direct(_close(backend, through, delta, output), rows, columns)


def _close(backend: Backend, through: Array, delta: Array, output: str) -> Array:
    """sum_w through[m, n, k, w] delta[m, w, q], in the shape of the output."""
    m, n, k, w = through.shape
    if output == "full":
        product = backend.xp.matmul(through.reshape(m, n * k, w), delta)
        return product.reshape(m, n, k, -1).transpose(1, 0, 2, 3)
    diagonal = backend.xp.matmul(through.transpose(0, 2, 1, 3), delta.transpose(0, 2, 1)[..., None])  # (m, k, n, 1)
    return diagonal[..., 0].transpose(2, 0, 1) if output == "diagonal" else diagonal[..., 0].sum(axis=1).T


# --- embeddings ---------------------------------------------------------------------------------


def _sparse(backend: Backend, f: SparseFactors, g: SparseFactors, output: str) -> Iterator[Term]:
    """Gram matrices of the rows of an embedding table, over the samples that read them."""
    for token in _common(backend, f.index, g.index):
        rows, left = _reads(backend, f, int(token))
        columns, right = (rows, left) if g is f else _reads(backend, g, int(token))
        yield Direct(_gram(backend, left, right, output, f.scale**2), rows, columns)


def _common(backend: Backend, first: Array, second: Array) -> Any:
    """Rows of a table that both sides read, on the host."""
    tokens = backend.to_numpy(backend.xp.unique(first))
    return tokens if second is first else np.intersect1d(tokens, backend.to_numpy(backend.xp.unique(second)))


def _by_chunks(backend: Backend, f: SparseFactors, g: SparseFactors, budget: int) -> Iterator[Product]:
    """As `_sparse` with many rows of the table at a time, most of which a sample does not read: GPUs have few calls."""
    sample = 3 * (f.n if g is f else f.n + g.n) * f.ct.shared.dtype.itemsize  # reads, Jacobian, and its transpose
    each = sample * (f.index.shape[1] + f.k * f.shape[1])
    tokens = backend.xp.asarray(_common(backend, f.index, g.index))
    for part in _slices(len(tokens), budget // (_WAITING * each)):
        left = _rows_jacobian(backend, f, tokens[part])
        right = left if g is f else _rows_jacobian(backend, g, tokens[part])
        yield Product(left, right, scale=f.scale * g.scale)


def _rows_jacobian(backend: Backend, f: SparseFactors, tokens: Array) -> Array:
    """Jacobian of some rows of the table without its scale, (n, k, rows c)."""
    reads = (f.index[:, None, :] == tokens[:, None]).astype(f.ct.shared.dtype)  # (n, rows, t)
    formed = backend.xp.matmul(reads, f.delta.reshape(f.n, -1, f.k * f.shape[1]))
    formed = formed.reshape(f.n, len(tokens), f.k, -1).transpose(0, 2, 1, 3)
    return formed.reshape(f.n, f.k, -1)


def _reads(backend: Backend, f: SparseFactors, token: int) -> tuple[Array, Array]:
    """Samples that read a row of the table, and their Jacobians of it, (rows, k, c)."""
    reads = f.index == token  # (n, t)
    rows = backend.xp.nonzero(reads.any(axis=1))[0]
    weights = reads[rows].astype(f.ct.shared.dtype)
    return rows, backend.xp.einsum("nt,ntkc->nkc", weights, f.delta[rows])


def _gram(backend: Backend, left: Array, right: Array, output: str, scale: float) -> Array:
    """Scaled <left[n, k], right[m, q]> in the shape of the output."""
    path = {"full": "nkc,mqc->nmkq", "diagonal": "nkc,mkc->nmk", "trace": "nkc,mkc->nm"}[output]
    return scale * backend.xp.einsum(path, left, right)
