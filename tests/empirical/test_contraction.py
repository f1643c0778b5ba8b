"""Every contraction order of a parameter block against the Gram matrix of its materialized Jacobian."""

import numpy as np
import pytest
from helpers import assert_close, tol
from hypothesis import given
from hypothesis import strategies as st

from ntkfast.backends import get_backend
from ntkfast.empirical import contraction, embeddings, operands, sums
from ntkfast.empirical.contraction import layer_terms
from ntkfast.empirical.cost import BlockShape, order_costs
from ntkfast.empirical.sums import ntk_sum
from ntkfast.layers import Cotangent, JacobianFactors, SparseFactors

OUTPUTS = ("trace", "diagonal", "full")


def block(n, t, k, i, o, groups, kind, rng, shared=None, act=True):
    """Random factors; `kind` says what the cotangents share."""
    g = groups
    gate = rng.standard_normal((n, t, g * o)) if "gate" in kind else None
    if "shared" in kind:
        values = shared.reshape(1, 1, k, g * o)
    elif "samples" in kind:
        values = rng.standard_normal((1, t, k, g * o))
    else:
        values = rng.standard_normal((n, t, k, g * o))
    acts = rng.standard_normal((n, t, g * i)) if act else None
    shape = (i, g * o) if act else (g * o,)
    return JacobianFactors(Cotangent(values, gate), acts, shape, n, (t,), groups, 0.7)


def reference(f, g, output):
    j1, j2 = f.jacobian(), g.jacobian()
    full = np.einsum("nkw,mqw->nmkq", j1.reshape(f.n, f.k, -1), j2.reshape(g.n, g.k, -1))
    diagonal = np.einsum("nmkk->nmk", full)
    return {"full": full, "diagonal": diagonal, "trace": diagonal.mean(axis=-1)}[output]


def contracted(first, second, output, budget=2**20):
    f = next(iter(first.values()))
    g = f if second is None else next(iter(second.values()))
    backend = get_backend(f.ct.shared)
    total = ntk_sum(output, backend, (f.n, f.k), (g.n, g.k), np.float64, second is None)
    for term in layer_terms(backend, first, second, output, budget):
        total.add(term)
    return total.result() / (f.k if output == "trace" else 1)


KINDS = ("plain", "gate", "samples", "samples gate", "shared", "shared gate")
ORDERS = ("outside_in", "left_to_right", "inside_out", "shared")


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("order", ORDERS)
@given(
    sizes=st.tuples(*(st.integers(1, high) for high in (7, 7, 4, 3, 4, 3))),
    groups=st.sampled_from([1, 1, 3]),
    kind=st.sampled_from(KINDS),
    symmetric=st.booleans(),
    act=st.booleans(),
    budget=st.sampled_from([1, 500, 2**20]),
    seed=st.integers(0, 1000),
)
def test_orders_agree_with_the_jacobian(monkeypatch, output, order, sizes, groups, kind, symmetric, act, budget, seed):
    n1, n2, t, k, i, o = sizes
    rng = np.random.default_rng(seed)
    shared = rng.standard_normal((k, groups * o))
    f = block(n1, t, k, i, o, groups, kind, rng, shared, act)
    g = f if symmetric else block(n2, t, k, i, o, groups, kind, rng, shared, act)
    forced = (
        order
        if order in order_costs(contraction.block_shape(f, g, output, f.n, g.n, symmetric=g is f))
        else "outside_in"
    )
    monkeypatch.setattr(contraction, "cheapest_order", lambda shape, at: forced)
    got = contracted({"weight": f}, None if symmetric else {"weight": g}, output, budget)
    assert_close(got, reference(f, g, output), tol(np.float64, t * i * o * k, 100))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("t", [1, 3])
def test_a_bias_is_never_lost(monkeypatch, output, order, kind, t):
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((3, 4))
    weight = block(5, t, 3, 2, 4, 1, kind, rng, shared)
    bias = JacobianFactors(weight.ct, None, (4,), 5, (t,), scale=0.3)
    forced = (
        order
        if order in order_costs(contraction.block_shape(weight, weight, output, 5, 5, symmetric=True))
        else "outside_in"
    )
    monkeypatch.setattr(contraction, "cheapest_order", lambda shape, at: forced)
    got = contracted({"weight": weight, "bias": bias}, None, output)
    expected = reference(weight, weight, output) + reference(bias, bias, output)
    assert_close(got, expected, tol(np.float64, 100))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("symmetric", [True, False])
def test_an_embedding_meets_the_samples_that_read_a_row(output, symmetric):
    rng = np.random.default_rng(1)

    def sparse(n):
        index = rng.integers(0, 6, (n, 4))
        return SparseFactors(Cotangent(rng.standard_normal((n, 4, 2, 3))), index, (6, 3), n, (4,), 0.5)

    f = sparse(5)
    g = f if symmetric else sparse(3)
    got = contracted({"weight": f}, None if symmetric else {"weight": g}, output)
    assert_close(got, reference(f, g, output), tol(np.float64, 30))


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("budget", [1, 5000, 2**20])
def test_rows_of_an_embedding_in_chunks(output, symmetric, budget):
    """What runs on a GPU; rows that only one side reads, and that none does, have no part in it."""
    rng = np.random.default_rng(1)

    def sparse(n, low, high):
        index = rng.integers(low, high, (n, 4))
        return SparseFactors(Cotangent(rng.standard_normal((n, 4, 2, 3))), index, (9, 3), n, (4,), 0.5)

    f = sparse(5, 0, 6)
    g = f if symmetric else sparse(3, 2, 8)
    backend = get_backend(f.ct.shared)
    total = ntk_sum(output, backend, (f.n, f.k), (g.n, g.k), np.float64, symmetric)
    left = operands.form(backend, f, "sparse", 0.0, output)
    right = left if symmetric else operands.form(backend, g, "sparse", 0.0, output)
    terms = list(embeddings._by_chunks(backend, left, right, budget))
    for term in terms:
        total.add(term)
    assert (len(terms) > 1) == (budget < 2**20)
    assert_close(total.result() / (f.k if output == "trace" else 1), reference(f, g, output), tol(np.float64, 30))


SIZES = {
    contraction: ("_THROUGH_BYTES",),
    operands: ("_ACT_BYTES",),
    sums: ("_OUTPUT_GRAMS", "_CHANNEL_GRAMS", "_GRAM_COLUMNS", "_MIRROR_ROWS"),
}


@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["plain", "shared gate"])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("size", [3, 2000, 2**26])
def test_sizes_of_chunks_do_not_change_the_sum(monkeypatch, output, order, kind, symmetric, size):
    """Also the sizes of a GPU, and ends of chunks within a block."""
    for module, names in SIZES.items():
        for name in names:
            monkeypatch.setitem(getattr(module, name), "numpy", size)
    monkeypatch.setitem(sums._TILE, "numpy", (size, size))
    rng = np.random.default_rng(3)
    shared = rng.standard_normal((3, 4))
    f = block(19, 2, 3, 2, 4, 1, kind, rng, shared)
    g = f if symmetric else block(7, 2, 3, 2, 4, 1, kind, rng, shared)
    forced = (
        order
        if order in order_costs(contraction.block_shape(f, g, output, f.n, g.n, symmetric=g is f))
        else "outside_in"
    )
    monkeypatch.setattr(contraction, "cheapest_order", lambda shape, at: forced)
    got = contracted({"weight": f}, None if symmetric else {"weight": g}, output)
    assert_close(got, reference(f, g, output), tol(np.float64, 100))


@pytest.mark.parametrize("output", OUTPUTS)
def test_many_tiles_and_many_terms(output):
    """More samples than a tile, more layers than wait at a time, products wide and narrow."""
    rng = np.random.default_rng(2)
    blocks = [block(150, 1, 7, 3, width, 1, "plain", rng) for width in [2] * 18 + [700]]
    backend = get_backend(blocks[0].act)
    total = ntk_sum(output, backend, (150, 7), (150, 7), np.float64, symmetric=True)
    for f in blocks:
        for term in layer_terms(backend, {"weight": f}, None, output, 2**20):
            total.add(term)
    expected = sum(reference(f, f, output) for f in blocks)
    got = total.result() / (7 if output == "trace" else 1)
    assert_close(got, expected, tol(np.float64, 3000))


DENSE = BlockShape(64, 64, 1, 10, 256, 256, 1, False, False, True, "full", 4)


def test_costs_of_a_dense_layer_are_those_of_the_paper():
    """Structured derivatives N^2 k^2 W, Jacobian contraction N^2 k^2 W^2 (arXiv 2206.08720, table 1)."""
    costs = order_costs(DENSE)
    assert costs["inside_out"].operations == pytest.approx(64 * 65 * (256 + 100 * 256))
    assert costs["outside_in"].operations == pytest.approx(64 * 65 * 100 * 256**2 + 2 * 64 * 10 * 256**2)


def test_a_rectangular_call_costs_twice_a_symmetric_one():
    both = order_costs(DENSE._replace(symmetric=False))
    half = order_costs(DENSE)
    for order in half:
        assert 1.8 < both[order].operations / half[order].operations <= 2


def test_costs_of_a_convolution_are_those_of_the_paper():
    """k N D W + N^2 k^2 (F W^2, D W + D F W^2 / k, ...): the three orders (papers' table for CNNs)."""
    shape = BlockShape(8, 8, 64, 10, 9 * 16, 16, 1, False, False, False, "full", 4)
    costs = order_costs(shape)
    assert costs["outside_in"].operations == 2 * (16 * 64 * 10 * 9 * 256 + 64 * 100 * 9 * 256)
    assert costs["left_to_right"].operations == 2 * (
        8 * 64 * 10 * 9 * 256 + 64 * 10 * 64 * 9 * 256 + 64 * 100 * 64 * 16
    )
    assert costs["inside_out"].operations == 2 * 64 * 64**2 * (9 * 16 + 100 * 16)
