"""Two-sided projections from factors: the sketch of the Jacobian, in every order of their steps, chunk and backend."""

import sys
import tracemalloc

import fakecupy
import numpy as np
import pytest
from empirical.networks import IMAGE, NAMES, architectures, named, problem
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from ntkfast._tree import tree_map
from ntkfast.empirical import jacobian
from ntkfast.empirical.jacobian import jacobian_factors
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Flatten, GlobalAvgPool, LayerNorm, ReLU, Sequential
from ntkfast.layers.factors import JacobianFactors, SparseFactors
from ntkfast.projection import KroneckerProjection, MaskedProjection, project, project_jacobian
from ntkfast.projection._base import ArraySketch, matrix_shape
from ntkfast.projection._bilinear import BilinearArray
from ntkfast.projection._sides import Kept, Mixed, Sampled, mixed_widths, sampled_widths
from ntkfast.projection.kronecker import KroneckerArray

CLASSES = (KroneckerProjection, MaskedProjection)


def both(case, sketch, **options):
    """The projection from factors, and the sketch of the Jacobian itself."""
    found = project_jacobian(case.net, case.params, case.x1, sketch, **options)
    return found, project(jacobian(case.net, case.params, case.x1), sketch, sample_axes=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
@pytest.mark.parametrize("width", [12, 150])
@pytest.mark.parametrize("cls", CLASSES)
def test_the_sketch_of_factors_is_that_of_the_jacobian(name, combine, width, cls):
    found, expected = both(named(name), cls(max(width, 20) if name == "resnet" else width, combine=combine, seed=3))
    assert_close(found, expected, 1e-12)


@given(architectures(), st.sampled_from(CLASSES), st.sampled_from((3, 40, 500)))
def test_random_networks(network, cls, width):
    found, expected = both(problem(*network), cls(width, combine="sum", seed=3))
    assert_close(found, expected, 1e-10)  # sums of what is rounded may cancel


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("cls", CLASSES)
def test_scales_of_several_axes(axes, cls):
    """As many groups as entries, in an array with several rows."""
    net = Sequential(Conv2d(4, 3, padding="SAME"), LayerNorm(axes=axes), ReLU(), Flatten(), Dense(2))
    found, expected = both(problem(net, IMAGE), cls(24, combine="sum", seed=3))
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn_gap", "cnn_groups", "embedding", "norms", "resnet"])
@pytest.mark.parametrize("cls", CLASSES)
def test_given_cotangents(name, cls):
    case = named(name)
    every = project(jacobian(case.net, case.params, case.x1), cls(40, seed=1), sample_axes=2)
    ct = np.random.default_rng(0).standard_normal(every.shape[:2])
    found = project_jacobian(case.net, case.params, case.x1, cls(40, seed=1), cotangents=ct)
    assert_close(found, np.einsum("nk,nkm->nm", ct, every), 1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn_groups", "resnet", "embedding"])
@pytest.mark.parametrize("cls", CLASSES)
def test_single_precision(name, cls):
    found, expected = both(named(name, dtype="float32"), cls(64, seed=3))
    assert found.dtype == np.float32
    assert_close(found, expected, 1e-5)


def parts(shape):
    """Sketches of one array, with every kind of side that fits."""
    rows, columns = matrix_shape(shape)
    kinds = [Kept, lambda length, key: Mixed(length, min(2, length), key)]
    kinds += [lambda length, key: Sampled(length, -(-length // 2), key)]
    return [KroneckerArray(shape, rows * columns, r(rows, 5), c(columns, 6), 0) for r in kinds for c in kinds]


@pytest.mark.parametrize("name", NAMES)
def test_all_orders_agree(name, monkeypatch):
    """Sides of every kind, mapped before and after positions are summed."""
    case = named(name)
    for factors in jacobian_factors(case.net, case.params, case.x1).values():
        for part in parts(factors.shape):
            expected = ArraySketch.of_factors(part, factors)
            for order in part._orders(factors):
                monkeypatch.setattr(BilinearArray, "_order", lambda *_, order=order: order)
                assert_close(part.of_factors(factors), expected, 1e-12)


@pytest.mark.parametrize("places", [1, 12])
@pytest.mark.parametrize("samples", [1, 5])
def test_cotangents_that_samples_or_positions_share(places, samples):
    """Below a linear head, and below a global average."""
    rng = np.random.default_rng(0)
    net = Sequential(Conv2d(4, 3, padding="SAME"), GlobalAvgPool()) if places == 1 else Sequential(
        Conv2d(4, 3, padding="SAME"), AvgPool2d(2), GlobalAvgPool(), *([ReLU()] if samples == 5 else [])
    )  # fmt: skip
    x = rng.standard_normal((5, 4, 6, 3))
    params = net.init(x.shape[1:], seed=0, dtype="float64")
    for cls in CLASSES:
        found = project_jacobian(net, params, x, cls(30, seed=2))
        assert_close(found, project(jacobian(net, params, x), cls(30, seed=2), sample_axes=2), 1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn_gap", "residual", "embedding"])
@pytest.mark.parametrize("cls", CLASSES)
def test_chunks_do_not_show(name, cls, monkeypatch):
    case = named(name)
    whole = project_jacobian(case.net, case.params, case.x1, cls(32, seed=1))
    monkeypatch.setitem(sys.modules["ntkfast.projection.jacobian"]._CHUNK, "numpy", 1)
    assert_close(project_jacobian(case.net, case.params, case.x1, cls(32, seed=1)), whole, 1e-12)


@pytest.mark.parametrize("cls", CLASSES)
def test_batches_do_not_show(cls):
    jac = np.random.default_rng(0).standard_normal((7, 3, 3, 4, 6))
    whole = project({"w": jac}, cls(40, seed=0))
    assert_close(project({"w": jac[2:5]}, cls(40, seed=0)), whole[2:5], 1e-13)


@pytest.mark.parametrize("name", ["mlp", "cnn_groups", "norms", "embedding"])
@pytest.mark.parametrize("cls", CLASSES)
def test_devices(name, cls, monkeypatch):
    """A stand-in for CuPy."""
    case = named(name)
    expected = project_jacobian(case.net, case.params, case.x1, cls(40, combine="sum", seed=1))
    fakecupy.install(monkeypatch)
    params = tree_map(lambda _, leaf: fakecupy.asarray(leaf), case.params)
    found = project_jacobian(case.net, params, fakecupy.asarray(case.x1), cls(40, combine="sum", seed=1))
    assert_close(found.get(), expected, 1e-12)


# --- what it saves -------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", CLASSES)
def test_jacobians_of_weights_and_tables_are_not_formed(cls, monkeypatch):
    dense = named("mlp") if cls is KroneckerProjection else problem(Sequential(Dense(30), ReLU(), Dense(9)), (40,))
    cases = [dense, named("embedding")]
    sketch = cls(4, combine="sum", seed=0) if cls is KroneckerProjection else cls(4, blow_up=2, seed=0)
    formed = []
    for kind in (JacobianFactors, SparseFactors):
        original = kind.jacobian
        monkeypatch.setattr(
            kind, "jacobian", lambda self, original=original: formed.append(self.shape) or original(self)
        )
    for case in cases:
        project_jacobian(case.net, case.params, case.x1, sketch)
    assert all(len(shape) == 1 for shape in formed)  # biases


@pytest.mark.parametrize("cls", CLASSES)
def test_memory_stays_far_below_the_jacobian(cls):
    """64 samples of 210 thousand parameters are 54 MB."""
    net = Sequential(Dense(400), ReLU(), Dense(400), ReLU(), Dense(10))
    params, x = net.init((100,), seed=0), np.random.default_rng(0).standard_normal((64, 100)).astype("float32")
    sketch, ct = cls(1024, seed=0), np.ones((64, 10), "float32")
    project_jacobian(net, params, x, sketch, cotangents=ct)  # compiles, and keeps the tables
    tracemalloc.start()
    try:
        project_jacobian(net, params, x, sketch, cotangents=ct)
        assert tracemalloc.get_traced_memory()[1] < 8e6
    finally:
        tracemalloc.stop()


def test_the_order_follows_the_number_of_positions():
    """One position: sides first. Many, and a small matrix: the sum first."""
    part = KroneckerArray((27, 64), 512, Mixed(27, 16, 0), Mixed(64, 32, 1), 0)
    rng = np.random.default_rng(0)
    net = Sequential(Dense(64), ReLU(), Dense(1))
    for shape, first in [((27,), True), ((900, 27), False)]:
        case = Sequential(*net.layers[:2], *([GlobalAvgPool()] if len(shape) == 2 else []), net.layers[2])
        x = rng.standard_normal((2, *shape))
        factors = jacobian_factors(case, case.init(shape, seed=0, dtype="float64"), x)["0.weight"]
        assert part._order(factors).columns is first


# --- widths of the sides -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sides", "width", "mixed", "sampled"),
    [
        ((3, 4), 12, (3, 4), (3, 4)),
        ((3, 4), 500, (3, 4), (3, 4)),
        ((100, 100), 64, (8, 8), (4, 16)),
        ((100, 100), 70, (8, 8), (4, 16)),
        ((100, 100), 72, (8, 9), (4, 16)),
        ((9, 100), 64, (9, 7), (4, 16)),
        ((100, 9), 64, (7, 9), (7, 9)),
        ((3, 100), 64, (3, 21), (3, 21)),
        ((1, 100), 64, (1, 64), (1, 64)),
        ((30, 100), 64, (8, 8), (4, 16)),
        ((100, 100), 1, (1, 1), (1, 1)),
        ((1, 7), 3, (1, 3), (1, 3)),
    ],
)
def test_widths_of_sides(sides, width, mixed, sampled):
    assert mixed_widths(*sides, width) == mixed
    assert sampled_widths(*sides, width) == sampled


@pytest.mark.parametrize("widths", [mixed_widths, sampled_widths])
def test_sides_fit_the_width_and_are_kept_where_both_fit(widths):
    for i, o, width in np.random.default_rng(0).integers(1, 60, (1000, 3)).tolist():
        k_in, k_out = widths(i, o, width)
        assert 1 <= k_in <= i
        assert 1 <= k_out <= o
        assert k_in * k_out <= width
        assert i * o > width or (k_in, k_out) == (i, o)
