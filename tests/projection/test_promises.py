"""What all sketches promise: the sketch of the Jacobian itself, for any network, and the same bits however it is cut.

Moments of each sketch are with its other tests.
"""

import functools
import hashlib
import os
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
from empirical.networks import NAMES, architectures, named, problem, smallest_budget
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from ntkfast.empirical import empirical_ntk, jacobian
from ntkfast.layers import Dense, Embedding, Flatten, GlobalAvgPool, ReLU, Sequential, Tanh
from ntkfast.projection import (
    KroneckerProjection,
    MaskedProjection,
    TensorProjection,
    cross_entropy,
    project,
    project_jacobian,
    projected_ntk,
)
from ntkfast.sketch import (
    SRHT,
    BlockSRHT,
    Composition,
    CoordinateMask,
    CountSketch,
    GaussianSketch,
    RademacherSketch,
    SparseJL,
)

# Sums in a fixed order, whatever the BLAS.
EXACT = {
    "countsketch": lambda p: CountSketch(p, 32, seed=1),
    **{f"sparsejl {nnz}": lambda p, nnz=nnz: SparseJL(p, 32, nnz=nnz, seed=1) for nnz in (1, 2, 4, 8)},
    "srht": lambda p: SRHT(p, 32, seed=1),
    "blocksrht": lambda p: BlockSRHT(p, 32, block=2**12, seed=1),
    "mask": lambda p: CoordinateMask(p, min(p, 32), seed=1),
    "grass": lambda p: Composition(CoordinateMask(p, min(p, 128), seed=1), SparseJL(min(p, 128), 32, nnz=1, seed=1)),
    "transformed twice": lambda p: Composition(BlockSRHT(p, 64, block=64, seed=1), SRHT(64, 32, seed=1)),
}
DENSE = {
    "gaussian": lambda p: GaussianSketch(p, 32, seed=1),
    "rademacher": lambda p: RademacherSketch(p, 32, seed=1),
}
LINEAR = {**EXACT, **DENSE}
IN_PARTS = [name for name in LINEAR if name != "srht"]
JACOBIAN_SKETCHES = {
    "fft": lambda m: TensorProjection(m, algorithm="fft", seed=3),
    "direct": lambda m: TensorProjection(m, algorithm="direct", seed=3),
    "auto": lambda m: TensorProjection(m, seed=3),
    "kronecker": lambda m: KroneckerProjection(m, combine="sum", seed=3),
    "masked": lambda m: MaskedProjection(m, nnz=min(2, m), seed=3),
}


def itself(case, sketch):
    """The sketch of the Jacobian, (n, k, m)."""
    return project(jacobian(case.net, case.params, case.x1), sketch, sample_axes=2)


def n_parameters(case):
    return sum(array[0, 0].size for array in jacobian(case.net, case.params, case.x1).values())


# --- the sketch of the Jacobian itself ----------------------------------------------------------


@pytest.mark.parametrize("network", NAMES)
@pytest.mark.parametrize("name", IN_PARTS)
def test_linear_sketches_of_every_kind_of_network(network, name):
    case = named(network)
    sketch = LINEAR[name](n_parameters(case))
    found = project_jacobian(case.net, case.params, case.x1, sketch)
    assert_close(found, itself(case, sketch), 1e-12)


@pytest.mark.parametrize("network", ["mlp", "wide_output", "residual"])
@pytest.mark.parametrize("name", IN_PARTS)
def test_tiles_of_outer_products_never_show(network, name, monkeypatch):
    """One row of a weight at a time, for all samples: where sums have a fixed order, to the bit."""
    case = named(network)
    sketch = LINEAR[name](n_parameters(case))
    whole = project_jacobian(case.net, case.params, case.x1, sketch)
    monkeypatch.setattr("ntkfast.projection._streamed.TILE", {"numpy": 1})
    monkeypatch.setattr("ntkfast.projection._streamed._WIDTHS", 0)
    np.testing.assert_array_equal(project_jacobian(case.net, case.params, case.x1, sketch), whole)


@given(architectures(), st.sampled_from(sorted(JACOBIAN_SKETCHES)), st.sampled_from((1, 7, 64, 257)))
def test_sketches_of_random_networks(network, name, width):
    case, sketch = problem(*network), JACOBIAN_SKETCHES[name](width)
    found, expected = project_jacobian(case.net, case.params, case.x1, sketch), itself(case, sketch)
    if name == "direct":
        np.testing.assert_array_equal(found, expected)
    assert_close(found, expected, 1e-10)  # sums of what is rounded may cancel


@given(architectures(), st.sampled_from(IN_PARTS))
def test_linear_sketches_of_random_networks(network, name):
    case = problem(*network)
    sketch = LINEAR[name](n_parameters(case))
    assert_close(project_jacobian(case.net, case.params, case.x1, sketch), itself(case, sketch), 1e-10)


@given(architectures(), st.sampled_from(sorted(JACOBIAN_SKETCHES)), st.integers(0, 9))
def test_weighted_outputs_of_random_networks(network, name, seed):
    case, sketch = problem(*network), JACOBIAN_SKETCHES[name](40)
    every = itself(case, sketch)
    ct = np.random.default_rng(seed).standard_normal(every.shape[:2])
    found = project_jacobian(case.net, case.params, case.x1, sketch, cotangents=ct)
    size = np.abs(ct).max() * np.abs(every).max()
    assert np.abs(found - np.einsum("nk,nkm->nm", ct, every)).max() <= 1e-10 * size


@st.composite
def token_networks(draw):
    """An embedding, with or without what mixes its positions, and tokens that repeat."""
    vocabulary, width, length = draw(st.integers(1, 9)), draw(st.integers(1, 5)), draw(st.integers(1, 7))
    body = draw(st.sampled_from(((Flatten(),), (GlobalAvgPool(),), (Dense(3), Tanh(), GlobalAvgPool()))))
    case = problem(Sequential(Embedding(vocabulary, width), *body, Dense(draw(st.integers(1, 3)))), (length,))
    return case._replace(x1=case.x1.astype(draw(st.sampled_from(("int8", "uint8", "int32", "int64")))))


@given(token_networks(), st.sampled_from(sorted(JACOBIAN_SKETCHES)), st.sampled_from((1, 7, 64)))
def test_sketches_of_random_tokens(case, name, width):
    sketch = JACOBIAN_SKETCHES[name](width)
    found, expected = project_jacobian(case.net, case.params, case.x1, sketch), itself(case, sketch)
    if name == "direct":
        np.testing.assert_array_equal(found, expected)
    assert_close(found, expected, 1e-10)


@given(token_networks(), st.sampled_from(IN_PARTS))
def test_linear_sketches_of_random_tokens(case, name):
    sketch = LINEAR[name](n_parameters(case))
    assert_close(project_jacobian(case.net, case.params, case.x1, sketch), itself(case, sketch), 1e-10)


@given(architectures())
def test_isometries_give_the_kernel(network):
    """As many rows of the Hadamard matrix as there are: inner products are kept."""
    case = problem(*network)
    p = n_parameters(case)
    width = 1 << (p - 1).bit_length()
    phi = project_jacobian(case.net, case.params, case.x1, BlockSRHT(p, width, block=width, seed=0))
    for output in ("trace", "diagonal", "full"):
        exact = empirical_ntk(case.net, case.params, case.x1, output=output)
        assert_close(projected_ntk(phi, output=output), exact, 1e-10)


@given(
    st.sampled_from(NAMES), st.sampled_from(sorted({*JACOBIAN_SKETCHES, *IN_PARTS})), st.sampled_from((1, 1.5, 4, 20))
)
def test_budgets_never_show(network, name, factor):
    """From the least one on, with cotangents that are functions of the outputs of all samples."""
    case = named(network, n1=7)
    sketch = JACOBIAN_SKETCHES[name](31) if name in JACOBIAN_SKETCHES else LINEAR[name](n_parameters(case))
    call = functools.partial(project_jacobian, case.net, case.params, case.x1, sketch, cotangents=np.tanh)
    ct = np.tanh(case.net.forward(case.params, case.x1)[0])
    expected = np.einsum("nk,nkm->nm", ct, itself(case, sketch))
    assert_close(call(max_memory=int(factor * smallest_budget(call))), expected, 1e-10)


@pytest.mark.parametrize("name", JACOBIAN_SKETCHES)
def test_duplicated_samples_have_one_sketch(name):
    case, sketch = named("cnn_groups"), JACOBIAN_SKETCHES[name](40)
    x = case.x1[[0, 1, 0, 1, 0]]
    z = project_jacobian(case.net, case.params, x, sketch)
    assert_close(z, z[[0, 1, 0, 1, 0]], 1e-12)
    assert_close(z[:2], project_jacobian(case.net, case.params, case.x1[:2], sketch), 1e-12)


# --- the same bits ------------------------------------------------------------------------------

P = 2**14 + 321


def gradients(n):
    return np.random.default_rng(0).standard_normal((n, P)).astype(np.float32)


@pytest.mark.parametrize("name", EXACT)
@given(data=st.data())
def test_batches_and_cuts_never_show(name, data):
    """Any rows, in any order, their columns cut anywhere, by path or in turn."""
    x, sketch = gradients(12), EXACT[name](P)
    rows = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12))
    cuts = sorted(data.draw(st.lists(st.integers(0, P), max_size=4)))
    parts = np.split(x[rows], cuts, axis=1)
    expected = project(x, sketch)[rows]
    np.testing.assert_array_equal(project({str(i): part for i, part in enumerate(parts)}, sketch), expected)
    np.testing.assert_array_equal(project(iter(parts), sketch), expected)


@pytest.mark.parametrize("name", DENSE)
@given(cuts=st.lists(st.integers(0, P), max_size=4))
def test_cuts_never_show_in_products(name, cuts):
    """Rows do: the BLAS may sum in another order where there are fewer."""
    x, sketch = gradients(12), DENSE[name](P)
    np.testing.assert_array_equal(project(np.split(x, sorted(cuts), axis=1), sketch), project(x, sketch))


def digests():
    """The bits of all sums in a fixed order, of many rows, by the threads of this moment."""
    x, found = np.concatenate([gradients(12)] * 9), []
    for make in EXACT.values():
        found.append(project(x, make(P)))
        found.append(make(P).adjoint(found[-1][:5]))
    jac = {"w": x[:, :4000].reshape(-1, 2, 40, 50), "b": x[:, :100].reshape(-1, 2, 50)}
    found.append(project(jac, TensorProjection(64, seed=0), sample_axes=2))
    return [hashlib.sha256(z.tobytes()).hexdigest() for z in found]


def test_threads_never_show():
    """One, two and three of them, in a process that has three."""
    code = (
        "import numba, sys; from projection.test_promises import digests\n"
        "for n in (1, 2, 3): numba.set_num_threads(n); print(*digests())"
    )
    tests = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = os.pathsep.join([tests, *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "NUMBA_NUM_THREADS": "3", "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    lines = done.stdout.split("\n")[:3]
    assert len(lines[0].split()) == 2 * len(EXACT) + 1
    assert lines[0] == lines[1] == lines[2] == " ".join(digests())


# --- memory -------------------------------------------------------------------------------------


def test_memory_of_the_gradients_of_a_loss():
    """256 gradients of 2.9 million parameters, 3 GB as they are: less than 200 MB at once."""
    net = Sequential(Dense(1024), ReLU(), Dense(1024), ReLU(), Dense(1024), ReLU(), Dense(10))
    params = net.init((784,), seed=0)
    x = np.random.default_rng(0).standard_normal((256, 784)).astype(np.float32)
    loss, sketch = cross_entropy(np.arange(256) % 10), TensorProjection(4096, seed=0)
    tracemalloc.start()
    try:
        phi = project_jacobian(net, params, x, sketch, cotangents=loss)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert phi.shape == (256, 4096)
    assert peak < 200e6


@pytest.mark.parametrize("name", ["blocksrht", "grass", "srht of a mask", "sparsejl"])
def test_memory_of_columns_that_wait(name):
    """What a sketch holds back until a block is whole counts, too: it once was five times the budget."""
    net = Sequential(Dense(400), ReLU(), Dense(400), ReLU(), Dense(10))
    params, p = net.init((100,), seed=0), 204_000
    x = np.random.default_rng(0).standard_normal((256, 100)).astype("float32")
    mask, ct = CoordinateMask(p, 4096, seed=0), np.ones((256, 10), "float32")
    sketch = {
        "blocksrht": BlockSRHT(p, 512, seed=0),
        "grass": Composition(mask, SparseJL(4096, 512, nnz=1, seed=0)),
        "srht of a mask": Composition(mask, SRHT(4096, 512, seed=0)),
        "sparsejl": SparseJL(p, 512, seed=0),
    }[name]
    out = project_jacobian(net, params, x, sketch, cotangents=ct)  # compiles, and keeps the tables
    tracemalloc.start()
    try:
        project_jacobian(net, params, x, sketch, cotangents=ct, max_memory=6 * 2**20)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < out.nbytes + 1.15 * 6 * 2**20
