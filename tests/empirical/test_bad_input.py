"""Trees of parameters that do not fit: a clear error that names the entry.

Arrays and numbers are in the table of tests/test_hostile.py; here is what has a tree in it.
"""

import typing

import numpy as np
import pytest
from empirical.bad_calls import CALLS, NET, PARAMS, PROJECTIONS, X, every_call, refused, with_weight
from helpers import assert_close

from ntkfast import empirical
from ntkfast.empirical import (
    directional_vjp,
    empirical_ntk,
    empirical_ntk_vjp,
    layer_ntks,
    linearize,
    ntk_operator,
)
from ntkfast.errors import MixedBackendError
from ntkfast.layers import (
    BatchNorm,
    Dense,
    LayerNorm,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)


def test_every_function_is_called():
    made = {"LinearizedFit", "LinearizedModel", "NTKGradient", "Trainability"}
    assert set(CALLS) - set(PROJECTIONS) == set(empirical.__all__) - made


class Row(typing.NamedTuple):
    first: dict
    second: dict
    third: dict


class Tensor:
    """What a tensor of PyTorch shows of itself."""

    __module__ = "torch"
    dtype, shape, ndim = "torch.float64", (5, 2), 2


BAD_WEIGHTS = {
    "None": (lambda w: None, TypeError),
    "number": (lambda w: 1.0, TypeError),
    "numpy number": (lambda w: w[0, 0], TypeError),
    "no axes": (lambda w: np.array(1.0), ValueError),
    "list": (lambda w: w.tolist(), TypeError),
    "tuple": (tuple, (TypeError, ValueError)),
    "dictionary": (lambda w: {"weight": w}, (TypeError, ValueError)),
    "text": (lambda w: "weight", TypeError),
    "tensor": (lambda w: Tensor(), TypeError),
    "masked": (np.ma.array, TypeError),
    "float16": (lambda w: w.astype("float16"), TypeError),
    "float32": (lambda w: w.astype("float32"), TypeError),
    "integers": (lambda w: w.astype(int), TypeError),
    "complex": (lambda w: w.astype(complex), TypeError),
    "object": (lambda w: w.astype(object), TypeError),
    "strings": (lambda w: w.astype(str), TypeError),
    "big-endian": (lambda w: w.astype(">f8"), TypeError),
    "transposed": (lambda w: w.T, ValueError),
    "one row more": (lambda w: np.ones((6, 2)), ValueError),
    "broadcasts": (lambda w: w[:1], ValueError),
    "NaN": (lambda w: np.where(w == w.max(), np.nan, w), ValueError),
    "inf": (lambda w: np.where(w == w.max(), np.inf, w), ValueError),
}


@every_call
@pytest.mark.parametrize("what", BAD_WEIGHTS)
def test_bad_weights_are_named(name, what):
    change, error = BAD_WEIGHTS[what]
    refused(name, error, r"params\['2\.weight", params=with_weight(change))


def test_a_data_frame_is_named():
    pandas = pytest.importorskip("pandas")
    for name in CALLS:
        refused(name, TypeError, r"params\['2\.weight'\]", params=with_weight(pandas.DataFrame))
        refused(name, TypeError, "x1", x=pandas.DataFrame(X))


def test_a_tensor_is_named_with_its_conversion():
    torch = pytest.importorskip("torch")
    for name in CALLS:
        refused(name, TypeError, r"params\['2\.weight'\].*from_dlpack", params=with_weight(torch.from_numpy))
        refused(name, TypeError, "x1.*from_dlpack", x=torch.from_numpy(X))


BAD_TREES = {
    "a key missing": ((PARAMS[0], {}, {"weight": PARAMS[2]["weight"]}), ValueError, r"params\['2'\].*bias, weight"),
    "a key too many": ((PARAMS[0], {}, PARAMS[2] | {"gain": np.ones(2)}), ValueError, r"params\['2'\].*bias, gain"),
    "a key misspelt": (
        (PARAMS[0], {}, {"weights": PARAMS[2]["weight"], "bias": PARAMS[2]["bias"]}),
        ValueError,
        r"params\['2'\].*got bias, weights",
    ),
    "a number as key": ((PARAMS[0], {}, PARAMS[2] | {0: np.ones(2)}), ValueError, r"params\['2'\].*got 0, bias"),
    "a list for a dictionary": ((PARAMS[0], {}, list(PARAMS[2].values())), TypeError, r"params\['2'\].*got list"),
    "None for a dictionary": ((PARAMS[0], {}, None), TypeError, r"params\['2'\]"),
    "an array for a dictionary": ((PARAMS[0], {}, np.ones((5, 2))), TypeError, r"params\['2'\].*got ndarray"),
    "None for no entries": ((PARAMS[0], None, PARAMS[2]), TypeError, r"params\['1'\]"),
    "a tuple for no entries": ((PARAMS[0], (), PARAMS[2]), TypeError, r"params\['1'\].*got tuple"),
    "too short": (PARAMS[:2], ValueError, "tuple with 3 entries, one per layer, got 2 entries"),
    "too long": ((*PARAMS, {}), ValueError, "tuple with 3 entries, one per layer, got 4 entries"),
    "in another order": (PARAMS[::-1], ValueError, r"params\['0\.weight'\] \(Dense\) of shape \(4, 5\), got \(5, 2\)"),
    "a dictionary by number": (dict(enumerate(PARAMS)), TypeError, "expected params to be a tuple.*got dict"),
    "a generator": ((entry for entry in PARAMS), TypeError, "expected params to be.*got generator"),
    "None": (None, TypeError, "expected params to be.*got NoneType"),
    "an array": (np.ones((4, 5)), TypeError, "expected params to be a tuple.*got ndarray"),
    "text": ("abc", TypeError, "expected params to be.*got str"),
    "empty": ((), ValueError, "tuple with 3 entries, one per layer, got 0 entries"),
}


@every_call
@pytest.mark.parametrize("what", BAD_TREES)
def test_trees_that_do_not_match_are_named(name, what):
    tree, error, message = BAD_TREES[what]
    refused(name, error, message, params=tree)


@every_call
@pytest.mark.parametrize("make", [list, lambda p: Row(*p)], ids=["list", "named tuple"])
def test_rows_of_any_kind_are_taken(name, make):
    got, expected = CALLS[name](NET, make(PARAMS), X), CALLS[name](NET, PARAMS, X)
    if isinstance(expected, np.ndarray):
        np.testing.assert_array_equal(got, expected)


BLOCK = {"body": ({}, {"weight": np.ones((4, 4))})}


@every_call
@pytest.mark.parametrize(
    ("tree", "error", "message"),
    [
        (BLOCK["body"], TypeError, r"params\['0'\] to be a dictionary with body, got tuple"),
        ({}, ValueError, r"params\['0'\] \(Residual\) to hold body, got nothing"),
        (BLOCK | {"shortcut": {}}, ValueError, r"params\['0'\] \(Residual\) to hold body, got body, shortcut"),
        ({"body": BLOCK["body"][1:]}, ValueError, r"params\['0\.body'\] to be a tuple with 2 entries"),
        ({"body": ({}, {"weight": np.ones((4, 3))})}, ValueError, r"params\['0\.body\.1\.weight'\] \(Dense\)"),
    ],
)
def test_places_within_a_residual_are_named(name, tree, error, message):
    net = Sequential(Residual(Sequential(ReLU(), Dense(4))), Dense(2))
    refused(name, error, message, net, (tree, {"weight": np.ones((4, 2))}))


# --- tied weights ---------------------------------------------------------------------------------

SQUARE = Sequential(Dense(4), Tanh(), Dense(4))
BUFFER = np.random.default_rng(1).standard_normal(64)
MATRIX = BUFFER[:16].reshape(4, 4)
TABLE = BUFFER.reshape(8, 8)


def square(first, second):
    return ({"weight": first}, {}, {"weight": second})


@pytest.mark.parametrize("call", [lambda p: empirical_ntk(SQUARE, p, X), lambda p: linearize(SQUARE, p)])
@pytest.mark.parametrize(
    "second",
    [MATRIX, MATRIX[:], MATRIX.T, MATRIX[::-1], BUFFER[15:31].reshape(4, 4), BUFFER[:31:2][:16].reshape(4, 4)],
    ids=["same", "view", "transposed", "reversed", "last entry", "strided"],
)
def test_tied_weights_are_refused_naming_both(call, second):
    with pytest.raises(ValueError, match=r"untied.*params\['0\.weight'\] and params\['2\.weight'\]|'2\.weight'.*'0\."):
        call(square(MATRIX, second))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (MATRIX, BUFFER[16:32].reshape(4, 4)),
        (TABLE[:4, :4], TABLE[:4, 4:]),
        (TABLE[:4, :4], TABLE[4:, :4]),
        (TABLE[::2, ::2], TABLE[::2, 1::2]),
        (TABLE[:4, :4], TABLE[:4, 4:].T),
    ],
    ids=["flat buffer", "columns", "rows", "interleaved", "columns, transposed"],
)
def test_disjoint_slices_of_one_array_are_taken(first, second):
    expected = empirical_ntk(SQUARE, square(first.copy(), second.copy()), X)
    assert_close(empirical_ntk(SQUARE, square(first, second), X), expected, 1e-13)


def test_a_third_array_that_ties_is_found():
    """Also when an array that is not tied lies between the two in memory."""
    net = Sequential(Dense(4), Dense(4), Dense(4))
    params = ({"weight": TABLE[:4, :4]}, {"weight": TABLE[:4, 4:]}, {"weight": TABLE[3:7, :4]})
    with pytest.raises(ValueError, match=r"'0\.weight'.*'2\.weight'"):
        empirical_ntk(net, params, X)


# --- backends, engines, memory --------------------------------------------------------------------


def test_arrays_of_two_backends_are_refused(backend):
    """Nothing is moved silently, whichever argument comes from elsewhere."""
    if "cupy" not in backend.name:
        return
    there = tuple({key: backend.asarray(array) for key, array in entry.items()} for entry in PARAMS)
    mixed = (there[0], there[1], PARAMS[2])
    for call in CALLS.values():
        for params, x in ((PARAMS, backend.asarray(X)), (there, X), (mixed, backend.asarray(X))):
            with pytest.raises(MixedBackendError, match="expected arrays of one backend"):
                call(NET, params, x)
    x = backend.asarray(X)
    with pytest.raises(MixedBackendError, match="expected arrays of one backend"):
        empirical_ntk(NET, there, x, X)
    with pytest.raises(MixedBackendError, match="expected arrays of one backend"):
        directional_vjp(NET, there, x, PARAMS, backend.asarray(np.ones((3, 2))))
    with pytest.raises(MixedBackendError, match="expected arrays of one backend"):
        empirical_ntk_vjp(NET, there, x, None, np.ones((3, 3)))


@pytest.mark.parametrize("call", [empirical_ntk, layer_ntks])
def test_structured_derivatives_need_layers(call):
    pytest.importorskip("autograd")
    with pytest.raises(ValueError, match="expected autodiff='layers' for structured derivatives, got the engine 'aut"):
        call(
            lambda params, x: x @ params[0], (np.ones((4, 2)),), X, autodiff="autograd", method="structured_derivatives"
        )


@pytest.mark.parametrize("bad", [1j * np.ones(6), np.ones(6) > 0, np.ones(6).astype(str), np.ones(6).astype(object)])
def test_operators_take_vectors_of_real_numbers(bad):
    with pytest.raises(TypeError, match="expected a vector of real numbers"):
        ntk_operator(NET, PARAMS, X) @ bad


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_operators_take_finite_vectors(value):
    operator = ntk_operator(NET, PARAMS, X)
    with pytest.raises(ValueError, match="expected the vector without NaN or inf"):
        operator @ np.full(6, value)
    with pytest.raises(ValueError, match="expected the vector without NaN or inf"):
        operator.rmatmat(np.full((6, 2), value))
    with pytest.raises(OverflowError, match="expected the product with the NTK within the range"):
        operator @ np.full(6, 1.7e308)


@pytest.mark.parametrize(
    ("in_shape", "error", "message"),
    [
        (4, TypeError, r"in_shape to be a tuple of integers such as \(784,\), got 4"),
        (None, TypeError, "in_shape to be a tuple"),
        ("4", TypeError, "in_shape to be an integer, got '4'"),
        ((4.0,), TypeError, "in_shape to be an integer, got 4.0"),
        ((True,), TypeError, "in_shape to be an integer, got True"),
        ((0,), ValueError, "in_shape to be at least 1, got 0"),
        ((), ValueError, r"layer 0 \(Dense\): expected samples with at least one axis"),
    ],
)
def test_init_checks_its_shape(in_shape, error, message):
    with pytest.raises(error, match=message):
        NET.init(in_shape, seed=0)


@pytest.mark.parametrize("dtype", ["float16", "f4", np.float16, np.dtype("int64"), None, float, 4])
def test_init_draws_float32_or_float64(dtype):
    with pytest.raises(ValueError, match="expected dtype to be one of float32, float64"):
        NET.init((4,), seed=0, dtype=dtype)


@pytest.mark.parametrize("dtype", ["float64", np.float64, np.dtype("float64"), X.dtype])
def test_init_takes_dtypes(dtype):
    np.testing.assert_array_equal(NET.init((4,), seed=0, dtype=dtype)[0]["weight"], PARAMS[0]["weight"])


@pytest.mark.parametrize("seed", [None, -1, 2**64, 1.0, True, "1"])
def test_init_takes_a_seed(seed):
    with pytest.raises((TypeError, ValueError), match="expected seed"):
        NET.init((4,), seed=seed)


def test_nothing_is_modified():
    """Arrays in any order of memory, read-only ones included, go in and stay as they are."""
    net = Sequential(Dense(4, b_std=0.1), LayerNorm(), Tanh(), BatchNorm(), Dense(2))
    params = net.init((4,), seed=0, dtype="float64")
    before = [{key: array.copy() for key, array in entry.items()} for entry in params]
    for entry in params:
        for array in entry.values():
            array.flags.writeable = False
    for x in (X[::-1], np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2]):
        x = x.view()  # noqa: PLW2901
        x.flags.writeable = False
        copy = np.ascontiguousarray(x).copy()
        for name, call in CALLS.items():
            got, expected = call(net, params, x), call(net, params, copy)
            np.testing.assert_array_equal(x, copy)
            if isinstance(expected, np.ndarray):
                np.testing.assert_array_equal(got, expected, err_msg=name)
    for entry, kept in zip(params, before, strict=True):
        for key, array in entry.items():
            np.testing.assert_array_equal(array, kept[key])
