"""What the table of bad arguments (tests/test_hostile.py) has no column for: widths, shapes, blocks, subsets."""

import dataclasses
import inspect
import pickle

import fakecupy
import numpy as np
import pytest
from empirical.bad_calls import NET, PARAMS, SKETCH, X
from helpers import assert_close
from projection.calls import CLASSES, LABELS, SHAPES, every_class, projected

from ntkfast._tree import tree_map
from ntkfast.empirical import jacobian
from ntkfast.errors import MixedBackendError
from ntkfast.layers import Dense, Sequential
from ntkfast.projection import (
    allocate_dims,
    attribution,
    average_attributions,
    cross_entropy,
    linear_datamodeling_score,
    margin,
    project,
    project_jacobian,
    projected_ntk,
    projected_regression,
    squared_error,
    suggest_dim,
)


@every_class
@pytest.mark.parametrize(
    ("widths", "error", "message"),
    [
        ("12", TypeError, "sketch_dim to be an integer"),
        ([1, 2], TypeError, "sketch_dim to be an integer"),
        (8.0, TypeError, "sketch_dim to be an integer"),
        ((1, 2), TypeError, "expected sketch_dim to be an integer, or a mapping of paths to integers"),
        ({1: 3}, TypeError, "a mapping of paths to integers, got {1: 3}"),
        ({}, ValueError, "at least one width above 0"),
        (dict.fromkeys(SHAPES, 0), ValueError, "at least one width above 0"),
        (dict.fromkeys(SHAPES, 3.5), TypeError, r"sketch_dim\['0.weight'\] to be an integer, got 3.5"),
        (dict.fromkeys(SHAPES, -1), ValueError, r"sketch_dim\['0.weight'\] to be between 0"),
        ({**dict.fromkeys(SHAPES, 3), "head": 2}, ValueError, "name parameter arrays, got 'head'; there are 0.weight"),
        ({"0.weight": 3}, ValueError, r"name every parameter array \(0 leaves one out\), '0.bias' is missing"),
        (3, ValueError, "sketch_dim of at least 4, one per array, got 3"),
    ],
)
def test_bad_widths(cls, widths, error, message):
    with pytest.raises(error, match=message):
        projected(sketch=cls(widths, combine="concatenate", seed=0))


@every_class
def test_a_sketch_can_be_replaced_pickled_and_hashed(cls):
    """Also one with widths by path, which are kept as pairs."""
    for sketch in (cls(7, seed=0), cls(dict.fromkeys(SHAPES, 3), combine="concatenate", seed=0)):
        twin = pickle.loads(pickle.dumps(dataclasses.replace(dataclasses.replace(sketch, seed=5), seed=0)))
        assert twin == sketch
        assert hash(twin) == hash(sketch)
        np.testing.assert_array_equal(projected(sketch=twin), projected(sketch=sketch))


@every_class
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
@pytest.mark.parametrize(
    ("shapes", "error", "message"),
    [
        (None, TypeError, "expected shapes to be a mapping of paths to tuples of integers, got None"),
        ([("w", (2,))], TypeError, "expected shapes to be a mapping"),
        ({"w": 3}, TypeError, "expected shapes to be a mapping of paths to tuples of integers, got {'w': 3}"),
        ({"w": "ab"}, TypeError, "expected shapes to be a mapping"),
        ({"w": np.ones(3)}, TypeError, "expected shapes to be a mapping"),
        ({0: (3,)}, TypeError, "expected paths of parameter arrays to be strings, got 0"),
        ({"w": (2.5,)}, TypeError, r"expected shapes\['w'\] to be an integer, got 2.5"),
        ({"w": (-1,)}, ValueError, r"expected shapes\['w'\] to be at least 0, got -1"),
        ({}, ValueError, "expected shapes of at least one parameter array, got none"),
    ],
)
def test_bad_shapes(cls, combine, shapes, error, message):
    with pytest.raises(error, match=message):
        cls(4, combine=combine, seed=0).layout(shapes)


@every_class
def test_paths_of_gradients_must_be_strings(cls):
    with pytest.raises(TypeError, match="expected paths of parameter arrays to be strings, got 0"):
        project({0: np.ones((2, 3))}, cls(4, seed=0))


@every_class
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (2, 0, 3)])
def test_arrays_without_entries_add_nothing(cls, combine, shape):
    w, sketch = np.random.default_rng(0).standard_normal((4, 6, 5)), cls(14, combine=combine, seed=0)
    found = project({"none": np.ones((4, *shape)), "w": w}, sketch)
    place = sketch.layout({"none": shape, "w": (6, 5)})["w"]
    alone = project({"w": w}, cls(place.stop - place.start, combine=combine, seed=0))
    np.testing.assert_array_equal(found[:, place], alone)
    np.testing.assert_array_equal(project({"none": np.ones((4, *shape))}, sketch), np.zeros((4, 14)))


@every_class
def test_parameters_without_axes(cls):
    """A number is an array of one entry: inner products are exact."""
    scale = np.random.default_rng(0).standard_normal(5)
    z = project({"scale": scale}, cls(3, seed=0))
    assert_close(z @ z.T, np.outer(scale, scale), 1e-12)


@every_class
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
@pytest.mark.parametrize("width", [4, 5, 7, 13, 97, 1009, 65537])
def test_widths_of_every_kind(cls, combine, width):
    """Narrower than a side, prime, wider than all parameters: the sketch of the Jacobian itself."""
    sketch = cls(width, combine=combine, seed=1)
    expected = project(jacobian(NET, PARAMS, X), sketch, sample_axes=2)
    assert expected.shape == (3, 2, width)
    assert_close(projected(sketch=sketch), expected, 1e-12)


@every_class
@pytest.mark.parametrize("width", [1, 2, 3])
def test_narrow_sums(cls, width):
    sketch = cls(width, combine="sum", seed=1)
    assert_close(projected(sketch=sketch), project(jacobian(NET, PARAMS, X), sketch, sample_axes=2), 1e-12)


@every_class
def test_one_output_and_one_sample(cls):
    net = Sequential(Dense(1))
    params, x = net.init((1,), seed=0, dtype="float64"), np.array([[2.0]])
    z = project_jacobian(net, params, x, cls(1, seed=0))
    assert z.shape == (1, 1, 1)
    assert_close(abs(z), np.full((1, 1, 1), 8**0.5), 1e-12)
    ct = np.array([[3.0]])
    assert_close(project_jacobian(net, params, x, cls(1, seed=0), cotangents=ct), 3 * z[:, 0], 1e-12)


# --- what is done with projections ---------------------------------------------------------------


def test_arrays_of_two_backends_are_refused(monkeypatch):
    fakecupy.install(monkeypatch)
    put = fakecupy.asarray
    there = tree_map(lambda _, w: put(w), PARAMS)
    w = np.ones((3, 4))
    for call in (
        lambda: projected(params=there),
        lambda: projected(x=put(X)),
        lambda: projected(put(np.ones((3, 2)))),
        lambda: projected(cross_entropy(put(LABELS))),
        lambda: projected(margin(put(LABELS))),
        lambda: projected(squared_error(put(np.ones((3, 2))))),
        lambda: projected(put),
        lambda: projected(np.ones((3, 2)), params=there, x=put(X)),
        lambda: project({"a": w, "b": put(w)}, SKETCH),
        lambda: attribution(w, put(w)),
        lambda: attribution(w, w, weights=put(np.ones(3))),
        lambda: attribution(w, w, out=put(np.ones((3, 3)))),
        lambda: projected_regression(w, put(np.ones(3)), reg=1.0),
        lambda: linear_datamodeling_score(w, [[0], [1], [2]], put(np.ones((3, 3)))),
    ):
        with pytest.raises(MixedBackendError, match="expected"):
            call()


@pytest.mark.parametrize(
    ("subsets", "error", "message"),
    [
        (None, TypeError, "subsets to be masks or lists of indices, got NoneType"),
        ("012", TypeError, "got str"),
        (3, TypeError, "got int"),
        ([[0], [1]], ValueError, "at least 3 subsets, got 2"),
        ([[0], [1], [4]], ValueError, r"subsets\[2\] with indices from 0 to 3, got 4 to 4"),
        ([[0], [1], [-1]], ValueError, "with indices from 0 to 3"),
        ([[0], [1], [2, 2]], ValueError, "each index once"),
        ([[0], [1], [0.5]], TypeError, r"subsets\[2\] to be a list of indices, got dtype float64"),
        ([[0], [1], [[2]]], TypeError, "list of indices"),
        ([[0], [1], 2], TypeError, "list of indices"),
        ([[0], [1], None], TypeError, "list of indices"),
        ([[0], [1], ["a"]], TypeError, "list of indices"),
        ([[0], [1], [[2], [0, 3]]], TypeError, r"subsets\[2\] to be a list of indices"),
        ([[0], [1], [2**70]], TypeError, "list of indices, got dtype object"),
        ([[True, False, True, False]] * 3, TypeError, "list of indices, got dtype bool"),
        (np.ones((3, 5), bool), ValueError, r"subsets of shape \(n_subsets, 4\), got \(3, 5\)"),
        (np.ones((3, 4)), TypeError, "list of indices, got dtype float64"),
        (np.ones(4, bool), ValueError, r"subsets of shape \(n_subsets, 4\), got \(4,\)"),
    ],
)
def test_bad_subsets(subsets, error, message):
    with pytest.raises(error, match=f"expected .*{message}"):
        linear_datamodeling_score(np.ones((2, 4)), subsets, np.ones((3, 2)))


@pytest.mark.parametrize(
    ("scores", "weights", "error", "message"),
    [
        (None, None, TypeError, "scores to be an iterable of arrays, got NoneType"),
        ([], None, ValueError, "at least one array of scores, got none"),
        ([None], None, TypeError, r"scores\[0\] to be a NumPy or CuPy array, got NoneType"),
        (np.ones((2, 3)), None, ValueError, r"scores\[0\] with 2 axes, not empty, got shape \(3,\)"),
        ([np.ones((2, 3)), np.ones((2, 4))], None, ValueError, r"scores\[1\] of shape \(2, 3\), got \(2, 4\)"),
        ([np.ones((2, 3)), np.ones((2, 3), "float32")], None, TypeError, r"scores\[1\] of dtype float64, got float32"),
        ([np.ones((2, 3))], 3, TypeError, "weights to be an iterable of arrays, got int"),
        ([np.ones((2, 3))], np.ones(3), TypeError, r"weights\[0\] to be a NumPy or CuPy array, got float64"),
        ([np.ones((2, 3))], [np.ones(3)] * 2, ValueError, "as many weights as scores, 1, got 2"),
        ([np.ones((2, 3))], [np.ones(2)], ValueError, r"mean weights of shape \(3,\), got \(2,\)"),
    ],
)
def test_bad_checkpoints(scores, weights, error, message):
    with pytest.raises(error, match=f"expected .*{message}"):
        average_attributions(scores, weights)


def test_scores_have_memory_of_their_own():
    """Over the training samples they once were wrong without a word."""
    a, b = np.random.default_rng(0).standard_normal((2, 6, 6))
    for out, others, name in (
        (a, (a, b), "phi_train"),
        (a[::-1], ([b, a], b), r"phi_train\[1\]"),
        (b, (a, b), "phi_test"),
    ):
        with pytest.raises(ValueError, match=f"expected out in memory of its own, got memory of {name}"):
            attribution(*others, reg=1.0, out=out)
    out = np.ones((6, 6))
    with pytest.raises(ValueError, match="got memory of weights"):
        attribution(a, b, reg=1.0, weights=out[0], out=out)
    both = np.stack([b, b])
    np.testing.assert_array_equal(attribution(a, both[0], reg=1.0, out=both[1]), attribution(a, b, reg=1.0))


def test_rows_of_another_width_are_told_which():
    fit = projected_regression(np.ones((3, 4)), np.ones(3), reg=1.0)
    for bad in (np.ones((3, 5)), np.ones(4), np.ones((3, 1, 4)), np.ones((0, 4)), np.array(1.0)):
        with pytest.raises(ValueError, match=r"expected phi of shape \(n, 4\), not empty, got"):
            fit.predict(bad)
        with pytest.raises(ValueError, match=r"expected phi2 of shape \(n, 4\), not empty, got"):
            projected_ntk(np.ones((3, 4)), bad)


def test_norms_that_overflow_are_called_so():
    """Gradients are in the range of float32, their squares are not."""
    params = tree_map(lambda _, w: w.astype("float32"), PARAMS)
    with pytest.raises(OverflowError, match="expected squared norms of gradients within the range of float32"):
        allocate_dims(NET, params, X.astype("float32"), 64, cotangents=np.full((3, 2), 1e25, "float32"))


def test_a_sketch_is_no_class_of_sketches():
    with pytest.raises(TypeError, match="expected sketch to be a class of sketches or its name, got a Tensor"):
        suggest_dim(0.1, 0.1, sketch=SKETCH)


def test_seeds_are_by_name_only():
    for cls in CLASSES:
        seed = inspect.signature(cls).parameters["seed"]
        assert (seed.kind, seed.default) == (seed.KEYWORD_ONLY, seed.empty)
