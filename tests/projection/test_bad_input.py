"""What the table of bad arguments (tests/test_hostile.py) has no column for: labels, cotangents, paths, shapes."""

import dataclasses
import inspect
import pickle
from concurrent.futures import ThreadPoolExecutor

import fakecupy
import numpy as np
import pytest
from empirical.bad_calls import NET, PARAMS, SKETCH, X
from helpers import assert_close, several_threads_may_call

from ntkfast._tree import tree_map
from ntkfast.empirical import jacobian
from ntkfast.errors import MixedBackendError
from ntkfast.layers import Dense, ReLU, Sequential, Tanh
from ntkfast.projection import (
    KroneckerProjection,
    MaskedProjection,
    TensorProjection,
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
    projection_error,
    squared_error,
    suggest_dim,
)
from ntkfast.sketch import SparseJL

LABELS = np.array([0, 1, 1])
CLASSES = (TensorProjection, KroneckerProjection, MaskedProjection)
SHAPES = {path: array.shape[2:] for path, array in jacobian(NET, PARAMS, X).items()}
every_class = pytest.mark.parametrize("cls", CLASSES)


def projected(cotangents=None, **options):
    arguments = {"params": PARAMS, "x": X, "sketch": SKETCH, **options}
    return project_jacobian(NET, cotangents=cotangents, **arguments)


# --- labels and other cotangents ----------------------------------------------------------------


@pytest.mark.parametrize("function", [cross_entropy, margin])
@pytest.mark.parametrize(
    ("labels", "error", "message"),
    [
        (None, TypeError, "expected labels to be a NumPy or CuPy array, got NoneType"),
        ([0, 1, 1], TypeError, "expected labels to be a NumPy or CuPy array, got list"),
        ("012", TypeError, "got str"),
        (LABELS * 1.0, TypeError, "expected labels of an integer dtype, got float64"),
        (LABELS > 0, TypeError, "integer dtype, got bool"),
        (LABELS.astype(object), TypeError, "integer dtype, got object"),
        (LABELS[:, None], ValueError, r"expected labels of shape \(n,\), not empty, got \(3, 1\)"),
        (np.array(1), ValueError, r"got \(\)"),
        (LABELS[:0], ValueError, r"got \(0,\)"),
        (LABELS[:2], ValueError, "expected a label for each of 3 samples, got 2 labels"),
        (np.tile(LABELS, 2), ValueError, "expected a label for each of 3 samples, got 6 labels"),
        (LABELS - 1, ValueError, "expected labels of at least 0, got -1 at index 0"),
        (LABELS + 1, ValueError, "expected labels below 2, got 2 at index 1"),
        (np.full(3, 2**63, np.uint64), ValueError, "expected labels below 2, got 9223372036854775808"),
    ],
)
def test_bad_labels(function, labels, error, message):
    with pytest.raises(error, match=message):
        projected(function(labels))


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
@pytest.mark.parametrize("function", [cross_entropy, margin])
def test_labels_of_every_integer_dtype(function, dtype):
    np.testing.assert_array_equal(projected(function(LABELS.astype(dtype))), projected(function(LABELS)))


def test_labels_and_targets_are_the_functions_own():
    labels, targets = LABELS.copy(), np.ones((3, 2))
    for function, held in (
        (cross_entropy(labels), labels),
        (margin(labels), labels),
        (squared_error(targets), targets),
    ):
        expected = projected(function)
        held[...] = 0
        np.testing.assert_array_equal(projected(function), expected)
        held[...] = 1


BAD_COTANGENTS = {
    "columns": (np.ones((3, 1)), ValueError, r"shape \(3, 2\), got \(3, 1\)"),
    "transposed": (np.ones((2, 3)), ValueError, r"shape \(3, 2\), got \(2, 3\)"),
    "vector": (np.ones(3), ValueError, r"shape \(3, 2\), got \(3,\)"),
    "single": (np.ones((3, 2), "float32"), TypeError, "of dtype float64, got float32"),
    "half": (np.ones((3, 2), "float16"), TypeError, "of dtype float32 or float64, got float16"),
    "labels": (LABELS, TypeError, "of dtype float32 or float64, got int64"),
    "complex": (np.ones((3, 2)) * 1j, TypeError, "got complex128"),
    "list": ([[1.0, 1.0]] * 3, TypeError, "to be a NumPy or CuPy array, got list"),
    "number": (1.0, TypeError, "to be a NumPy or CuPy array, got float"),
    "text": ("margin", TypeError, "to be a NumPy or CuPy array, got str"),
    "NaN": (np.full((3, 2), np.nan), ValueError, r"without NaN or inf, got nan at index \(0, 0\)"),
    "inf": (np.full((3, 2), np.inf), ValueError, "without NaN or inf, got inf"),
}


@pytest.mark.parametrize("what", BAD_COTANGENTS)
def test_bad_cotangents_are_called_by_their_name(what):
    bad, error, message = BAD_COTANGENTS[what]
    for given, name in ((bad, "cotangents"), (lambda y: bad, r"cotangents\(y\)")):
        with pytest.raises(error, match=f"expected {name} .*{message}"):
            projected(given)


def test_a_function_that_returns_nothing():
    with pytest.raises(TypeError, match=r"expected cotangents\(y\) to be a NumPy or CuPy array, got NoneType"):
        projected(lambda y: None)


def test_a_function_may_overwrite_the_outputs_it_is_given():
    """They once were those of the last layer, whose derivative then was that of other outputs."""
    net = Sequential(Dense(5), Tanh(), Dense(2), Tanh())
    params = net.init((4,), seed=0, dtype="float64")

    def doubled(y):
        y *= 2
        return y

    expected = project_jacobian(net, params, X, SKETCH, cotangents=lambda y: 2 * y)
    np.testing.assert_array_equal(project_jacobian(net, params, X, SKETCH, cotangents=doubled), expected)


def test_errors_of_the_callers_function_are_its_own():
    with pytest.raises(ZeroDivisionError):
        projected(lambda y: 1 / 0)


# --- sketches, paths and shapes -----------------------------------------------------------------


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


# --- values at the ends of the range --------------------------------------------------------------


@every_class
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
def test_overflow_is_an_error(cls, dtype, combine):
    """Of gradients whose sums leave the range; never NaN or inf, and no warning."""
    top = np.finfo(dtype).max
    w = np.sign(np.random.default_rng(0).standard_normal((3, 40, 30))).astype(dtype) * top
    with pytest.raises(OverflowError, match=f"the sketch within the range of {dtype}"):
        project({"w": w}, cls(8, combine=combine, seed=0))


@pytest.mark.parametrize("algorithm", ["fft", "direct"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factors_whose_product_overflows(algorithm, dtype):
    net = Sequential(Dense(40), ReLU(), Dense(2))
    params = tree_map(lambda _, w: w.astype(dtype), net.init((30,), seed=0))
    ct = np.full((3, 2), np.finfo(dtype).max / 4, dtype)
    x = 100 * np.random.default_rng(0).standard_normal((3, 30)).astype(dtype)
    with pytest.raises(OverflowError, match=f"the projected Jacobian within the range of {dtype}"):
        project_jacobian(net, params, x, TensorProjection(8, algorithm=algorithm, seed=0), cotangents=ct)


@every_class
@pytest.mark.parametrize("exponent", [-1060, -300, 300])
def test_scale_of_the_gradients(cls, exponent):
    """A power of two changes no rounding but that of denormal numbers."""
    w, scale = np.random.default_rng(0).standard_normal((3, 12, 7)), 2.0**exponent
    whole, found = project({"w": w}, cls(16, seed=0)), project({"w": scale * w}, cls(16, seed=0))
    assert np.isfinite(found).all()
    assert_close(found, scale * whole, 1e-12 if exponent > -1000 else 1e-2)


@every_class
def test_gradients_of_zeros(cls):
    z = projected(np.zeros((3, 2)), sketch=cls(16, seed=0))
    np.testing.assert_array_equal(z, np.zeros((3, 16)))
    with pytest.raises(ValueError, match="expected gradients that are not all zero"):
        allocate_dims(NET, PARAMS, X, 16, cotangents=np.zeros((3, 2)))
    with pytest.raises(ValueError, match="expected gradients that are not all zero"):
        projection_error(NET, PARAMS, X, SKETCH, cotangents=np.zeros((3, 2)))


# --- what surrounds a call ------------------------------------------------------------------------


def test_parameters_may_change_between_calls():
    """Nothing of them is kept."""
    params = tree_map(lambda _, array: array.copy(), PARAMS)
    first = projected(params=params)
    params[0]["weight"][...] *= 2
    assert not np.array_equal(projected(params=params), first)
    np.testing.assert_array_equal(projected(params=params), projected(params=tree_map(lambda _, w: w.copy(), params)))


@pytest.mark.parametrize("form", ["fortran", "strided", "readonly", "memmap"])
def test_memory_of_parameters_and_samples_never_shows(form, tmp_path):
    def changed(_, array):
        if form == "memmap":
            file = tmp_path / str(len(list(tmp_path.iterdir())))
            array.tofile(file)
            return np.memmap(file, array.dtype, "r", shape=array.shape)
        if form == "readonly":
            array = array.copy()
            array.flags.writeable = False
            return array
        return np.asfortranarray(array) if form == "fortran" else np.repeat(array, 2, axis=-1)[..., ::2]

    ct = np.random.default_rng(0).standard_normal((3, 2))
    arguments = {"params": PARAMS, "x": X, "cotangents": ct}
    params = tree_map(changed, PARAMS)
    other = {"params": params, "x": changed("", X), "cotangents": changed("", ct)}
    for sketch in (SKETCH, KroneckerProjection(8, seed=0), MaskedProjection(8, seed=0), SparseJL(37, 8, seed=0)):
        found = projected(sketch=sketch, **other)
        assert type(found) is np.ndarray
        np.testing.assert_array_equal(found, projected(sketch=sketch, **arguments))


def test_arguments_stay_as_they_are():
    params, x, ct = tree_map(lambda _, w: w.copy(), PARAMS), X.copy(), np.ones((3, 2))
    for sketch in (SKETCH, KroneckerProjection(8, seed=0), MaskedProjection(8, seed=0), SparseJL(37, 8, seed=0)):
        for cotangents in (None, ct, margin(LABELS)):
            projected(cotangents, params=params, x=x, sketch=sketch)
    jac = jacobian(NET, params, x)
    held = {path: array.copy() for path, array in jac.items()}
    for cls in CLASSES:
        project(jac, cls(8, seed=0), sample_axes=2)
    allocate_dims(NET, params, x, 16)
    projection_error(NET, params, x, SKETCH)
    np.testing.assert_array_equal(x, X)
    np.testing.assert_array_equal(ct, np.ones((3, 2)))
    assert all((jac[path] == held[path]).all() for path in held)
    assert all((params[i][name] == PARAMS[i][name]).all() for i in (0, 2) for name in PARAMS[i])


def test_threads_may_call_at_once():
    """Two threads of Python, sketches whose tables are made by whichever comes first."""
    projected()  # a parallel kernel
    several_threads_may_call()
    calls = [lambda s=seed, cls=cls: projected(sketch=cls(32, seed=s)) for seed in range(90, 94) for cls in CLASSES]
    calls += [lambda s=seed: projected(sketch=SparseJL(37, 8, seed=s)) for seed in range(90, 94)]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda call: call(), [call for call in calls for _ in range(2)]))
    for call, first, second in zip(calls, found[::2], found[1::2], strict=True):
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(first, call())


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


BEFORE_WORK = {
    "sketch": lambda: projected(sketch=3),
    "width": lambda: projected(sketch=TensorProjection(3, combine="concatenate", seed=0)),
    "columns": lambda: projected(sketch=SparseJL(5, 4, seed=0)),
    "labels": lambda: projected(margin(LABELS + 1)),
    "number of labels": lambda: projected(cross_entropy(LABELS[:2])),
    "targets": lambda: projected(squared_error(np.ones((3, 1)))),
    "cotangents": lambda: projected(np.ones((3, 1))),
    "text as cotangents": lambda: projected("margin"),
    "memory": lambda: projected(max_memory=1.5),
    "no memory": lambda: projected(max_memory=0),
    "rule": lambda: allocate_dims(NET, PARAMS, X, 64, rule="best"),
    "sum of widths": lambda: allocate_dims(NET, PARAMS, X, 3),
    "labels of widths": lambda: allocate_dims(NET, PARAMS, X, 64, cotangents=margin(LABELS + 1)),
    "memory of widths": lambda: allocate_dims(NET, PARAMS, X, 64, max_memory="1"),
    "sketch of an error": lambda: projection_error(NET, PARAMS, X, 3),
    "columns of an error": lambda: projection_error(NET, PARAMS, X, SparseJL(5, 4, seed=0)),
    "outputs of an error": lambda: projection_error(NET, PARAMS, X, SKETCH, output="all"),
    "rows of an error": lambda: projection_error(NET, PARAMS, X, SKETCH, n_rows=1),
    "labels of an error": lambda: projection_error(NET, PARAMS, X, SKETCH, cotangents=margin(LABELS + 1)),
    "sketch of a weighted error": lambda: projection_error(NET, PARAMS, X, 3, cotangents=np.tanh),
    "memory of a weighted error": lambda: projection_error(NET, PARAMS, X, SKETCH, cotangents=np.tanh, max_memory=1.5),
}


@pytest.mark.parametrize("what", BEFORE_WORK)
def test_bad_arguments_are_told_before_the_network_runs(what, monkeypatch):
    def forward(*_):
        raise AssertionError("the network ran")

    monkeypatch.setattr(type(NET), "forward", forward)
    with pytest.raises((ValueError, TypeError), match="expected"):
        BEFORE_WORK[what]()
