"""Contraction of parameter blocks, each in the cheapest of several orders.

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
from typing import NamedTuple

from .._typing import Array
from ..backends import Backend
from ..layers.factors import Cotangent, Factors, JacobianFactors, SparseFactors
from ._tiles import slices
from .cost import BlockShape, Rates, cheapest_order, rates
from .embeddings import reads_terms
from .operands import Jacobian, Operand, Positions, Reads, Shared, form, form_columns
from .terms import Direct, Product, SharedProduct, Term

__all__ = ["Step", "block_order", "block_shape", "layer_terms", "operand_terms", "plan_layer"]

# Bytes of the products of `_left_to_right` that are made at a time; on a CPU those of one sample.
_THROUGH_BYTES = {"numpy": 0, "cupy": 2**28}


class Step(NamedTuple):
    """How a parameter array is contracted.

    Attributes
    ----------
    order : str
        "outside_in", "left_to_right", "inside_out", "shared", or "sparse" (an embedding).
    bias_scale : float
        Of the layer's bias, if its term joins; else 0.
    """

    order: str
    bias_scale: float = 0.0


def block_shape(
    f: JacobianFactors, g: JacobianFactors, output: str, n1: int, n2: int, *, symmetric: bool
) -> BlockShape:
    """What the cost of a block between n1 and n2 samples depends on; `f` and `g` are factors of some of them."""
    return BlockShape(
        n1=n1,
        n2=n2,
        positions=f.positions,
        k=f.k,
        inputs=f.in_width // f.groups,
        outputs=f.out_width // f.groups,
        groups=f.groups,
        shared=f.groups == 1 and _is_shared(f.ct) and _is_shared(g.ct),
        gated=f.ct.gate is not None,
        symmetric=symmetric,
        output=output,
        itemsize=f.ct.shared.dtype.itemsize,
    )


def _is_shared(ct: Cotangent) -> bool:
    """Whether all samples and positions have the same cotangents, up to a gate."""
    return all(size == 1 for size in ct.shared.shape[:-2])


def plan_layer(
    backend: Backend,
    first: dict[str, Factors],
    second: dict[str, Factors] | None,
    output: str,
    n1: int,
    n2: int,
) -> dict[str, Step]:
    """Orders for the parameters of a layer between n1 and n2 samples; a bias that joins its weight has none.

    `first` and `second` are factors of some samples of both sides, two at least if not all: the cotangents of a single
    sample look as if all samples shared them. `second` is None where the samples of both sides are the same.
    """
    steps: dict[str, Step] = {}
    for name, f in first.items():
        if name == "bias" and _joins(first, steps):
            steps["weight"] = Step(steps["weight"].order, f.scale)
            continue
        if isinstance(f, SparseFactors):
            steps[name] = Step("sparse")
            continue
        g = f if second is None else second[name]
        assert isinstance(g, JacobianFactors)
        shape = block_shape(f, g, output, n1, n2, symmetric=second is None)
        steps[name] = Step(block_order(f, shape, rates(backend, f"float{8 * shape.itemsize}")))
    return steps


def block_order(f: JacobianFactors, shape: BlockShape, at: Rates) -> str:
    """The cheapest order of a block; that of a bias is a sum over positions, unless its cotangents are shared."""
    return "outside_in" if f.act is None and not shape.shared else cheapest_order(shape, at)


def _joins(found: dict[str, Factors], steps: dict[str, Step]) -> bool:
    """Whether the term of the bias is a constant added to the Gram matrix of the weight's acts."""
    weight, bias = found.get("weight"), found["bias"]
    if "weight" not in steps or not isinstance(weight, JacobianFactors) or weight.ct is not bias.ct:
        return False
    order = steps["weight"].order
    return order == "inside_out" or (order == "shared" and (weight.positions == 1 or weight.ct.gate is None))


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
    n1 = next(iter(first.values())).n
    n2 = n1 if second is None else next(iter(second.values())).n
    for name, step in plan_layer(backend, first, second, output, n1, n2).items():
        f = first[name]
        g = f if second is None else second[name]
        if step.order == "outside_in":
            assert isinstance(f, JacobianFactors)
            assert isinstance(g, JacobianFactors)
            pairs: Iterator[tuple[Operand, Operand]] = form_columns(backend, f, g, output, budget)
        else:
            left = form(backend, f, step.order, step.bias_scale, output)
            right = left if g is f else form(backend, g, step.order, step.bias_scale, output)
            pairs = iter([(left, right)])
        for left, right in pairs:
            yield from operand_terms(backend, left, right, step.order, output, budget)


def operand_terms(backend: Backend, f: Operand, g: Operand, order: str, output: str, budget: int) -> Iterator[Term]:
    """Terms of a parameter array from its operands; `g` is `f` where the samples are the same."""
    if isinstance(f, Jacobian) and isinstance(g, Jacobian):
        yield Product(f.left, g.left, scale=f.scale**2)
    elif isinstance(f, Shared) and isinstance(g, Shared):
        a = None if f.act is None or g.act is None else _act_gram(f.act, g.act, f.scale, f.bias_scale)
        yield SharedProduct(f.s, g.s, f.x, g.x, a, f.scale**2 if a is None else 1.0)
    elif isinstance(f, Reads) and isinstance(g, Reads):
        yield from reads_terms(backend, f, g, output, budget)
    elif isinstance(f, Positions) and isinstance(g, Positions):
        yield from _left_to_right(backend, f, g, output) if order == "left_to_right" else _inside_out(f, g)


def _act_gram(x1: Array, x2: Array, scale: float, bias_scale: float) -> Array:
    """scale^2 <x1[n], x2[m]> + bias_scale^2."""
    a = x1 @ x2.T
    a *= scale**2
    if bias_scale:
        a += bias_scale**2
    return a


def _inside_out(f: Positions, g: Positions) -> Iterator[Term]:
    """A product of Gram matrices for every pair of positions."""
    for t in range(f.act.shape[1]):
        for s in range(g.act.shape[1]):
            left = f.delta[:, t]
            right = left if g is f and s == t else g.delta[:, s]
            yield Product(left, right, _act_gram(f.act[:, t], g.act[:, s], f.scale, f.bias_scale))


def _left_to_right(backend: Backend, f: Positions, g: Positions, output: str) -> Iterator[Term]:
    """J1 times the acts, then the cotangents, of some samples of the second side at a time."""
    xp, (n, t, k, o), i = backend.xp, f.delta.shape, f.act.shape[2]
    left = xp.matmul(f.delta.reshape(n, t, k * o).transpose(0, 2, 1), f.act)  # (n, k o, i)
    sample = n * k * o * g.act.shape[1] * left.dtype.itemsize
    for columns in slices(len(g.act), _THROUGH_BYTES[backend.name] // sample):
        rows = slice(columns.start if g is f else 0, n)  # the lower triangle where the samples are the same
        m = columns.stop - columns.start
        through = xp.matmul(left[rows].reshape(1, -1, i), g.act[columns].transpose(0, 2, 1))  # (m, n k o, s)
        through = through.reshape(m, n - rows.start, k, -1)  # (m, n, k, o s)
        delta = g.delta[columns].transpose(0, 3, 1, 2).reshape(m, -1, g.delta.shape[2])  # (m, o s, q)
        yield Direct(_close(backend, through, delta * f.scale**2, output), rows, columns)


def _close(backend: Backend, through: Array, delta: Array, output: str) -> Array:
    """sum_w through[m, n, k, w] delta[m, w, q], in the shape of the output."""
    m, n, k, w = through.shape
    if output == "full":
        product = backend.xp.matmul(through.reshape(m, n * k, w), delta)
        return product.reshape(m, n, k, -1).transpose(1, 0, 2, 3)
    diagonal = backend.xp.matmul(through.transpose(0, 2, 1, 3), delta.transpose(0, 2, 1)[..., None])  # (m, k, n, 1)
    return diagonal[..., 0].transpose(2, 0, 1) if output == "diagonal" else diagonal[..., 0].sum(axis=1).T
