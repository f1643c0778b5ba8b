"""The whole public interface against bad and extreme arguments.

`hostile_cases.CASES` has a good call of every public function, constructor and method. Hostile arguments then take the
place of good ones. The claim is always the same: a clear error, which says what was expected, or the right finite
answer; never NaN, a silent wrong result, or a changed input. A new public name fails
`test_every_public_name_has_a_case` until it is there.
"""

import dataclasses
import inspect
import pickle
import types
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import hostile_cases
import numpy as np
import pytest
from helpers import assert_close, several_threads_may_call
from hostile_arguments import BAD_ARRAYS, BAD_SCALARS, GOOD_ARRAYS, INTEGERS, PLAIN, SAMPLES
from hostile_cases import (
    FLOW,
    FUNCTION,
    MADE_BY,
    MAPS,
    NO_CALLS,
    PATH,
    PLAIN_METHODS,
    SKETCHES,
    SPECTRUM,
    map_of,
    pair,
    random_rows,
)
from hostile_convolutional import CONVOLUTIONAL_CASES, CONVOLUTIONAL_MADE_BY, CONVOLUTIONAL_NO_CALLS
from hostile_networks import NETWORK_CASES, NETWORK_MADE_BY, NETWORK_NO_CALLS
from hostile_projections import PROJECTION_CASES, PROJECTION_MADE_BY, PROJECTION_NO_CALLS
from hypothesis import given
from hypothesis import strategies as st

import ntkfast
from ntkfast import (
    analytic,
    autodiff,
    backends,
    convolutional,
    empirical,
    features,
    images,
    projection,
    regression,
    sketch,
    spectrum,
    zonal,
)
from ntkfast.errors import NtkfastError

CASES = {**hostile_cases.CASES, **NETWORK_CASES, **PROJECTION_CASES, **CONVOLUTIONAL_CASES}
RECORDS = {**MADE_BY, **NETWORK_MADE_BY, **PROJECTION_MADE_BY, **CONVOLUTIONAL_MADE_BY}
NOT_CALLED = NO_CALLS | NETWORK_NO_CALLS | PROJECTION_NO_CALLS | CONVOLUTIONAL_NO_CALLS
PARTS = (
    ntkfast,
    analytic,
    autodiff,
    convolutional,
    empirical,
    features,
    images,
    projection,
    regression,
    sketch,
    spectrum,
    zonal,
)
CLEAR = (ValueError, TypeError, OverflowError, NtkfastError)


def public_names():
    """Functions and classes of the parts, and the classes' methods."""
    for part in PARTS:
        for name in part.__all__:
            thing = getattr(part, name)
            if isinstance(thing, types.ModuleType) or name in NOT_CALLED:
                continue
            yield RECORDS.get(name, name)
            if inspect.isclass(thing):
                yield from methods(thing)


def methods(cls):
    for name, _ in inspect.getmembers(cls, inspect.isfunction):
        own = f"{cls.__name__}.{name}"
        if not name.startswith("_") and own not in PLAIN_METHODS | NOT_CALLED:
            yield own


def test_every_public_name_has_a_case():
    assert sorted(set(public_names()) - set(CASES)) == []


def leaves(result: Any) -> list[Any]:
    """The arrays and numbers of a result, in order."""
    if dataclasses.is_dataclass(result):
        return leaves([getattr(result, field.name) for field in dataclasses.fields(result)])
    if isinstance(result, (tuple, list)):
        return [leaf for part in result for leaf in leaves(part)]
    return [result] if isinstance(result, (np.ndarray, float)) and np.asarray(result).dtype.kind == "f" else []


def arrays_of(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in arguments.items() if isinstance(value, np.ndarray)}


def refused(call: Callable[[], Any]) -> None:
    """The call must raise, and say what was expected."""
    with pytest.raises(CLEAR, match="expected"):
        call()


def assert_finite(result: Any) -> None:
    for leaf in leaves(result):
        assert np.isfinite(leaf).all(), f"NaN or inf in {leaf}"


ARRAY_CASES = [name for name, case in CASES.items() if arrays_of(case.arguments(PLAIN))]
SCALARS = [(name, scalar) for name, case in CASES.items() for scalar in case.scalars]


@pytest.mark.parametrize("name", ARRAY_CASES)
@pytest.mark.parametrize("what", BAD_ARRAYS)
def test_bad_array(name, what):
    case = CASES[name]
    good = case.good(PLAIN)
    for argument, array in arrays_of(good).items():
        changed = {**good, argument: BAD_ARRAYS[what](array)}
        if f"{argument}: {what}" in case.skips:
            continue
        if f"{argument}: {what}" in case.takes:
            result = case.call(**changed)
            if what not in ("NaN", "inf", "-inf"):
                assert_finite(result)
        else:
            try:
                refused(lambda changed=changed: case.call(**changed))
            except pytest.fail.Exception:
                pytest.fail(f"{name} takes {what} as {argument}")


@pytest.mark.parametrize("name", ARRAY_CASES)
@pytest.mark.parametrize("what", GOOD_ARRAYS)
def test_memory_does_not_matter(name, what):
    case = CASES[name]
    good = case.good(PLAIN)
    expected = leaves(case.call(**good))
    changed = {**good, **{argument: GOOD_ARRAYS[what](array) for argument, array in arrays_of(good).items()}}
    for got, wanted in zip(leaves(case.call(**changed)), expected, strict=True):
        assert_close(got, wanted, 1e-10)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", SAMPLES)
def test_samples(name, kind, monkeypatch):
    """Finite, equal to what the plain NumPy kernels give, and without a change of the arguments."""
    case = CASES[name]
    good = case.good(SAMPLES[kind])
    if not case.arguments(SAMPLES[kind]) and kind != "plain":
        return  # takes no sample
    before = {argument: array.copy() for argument, array in arrays_of(good).items()}
    if kind in case.refuses:
        refused(lambda: case.call(**good))
        return
    result = case.call(**good)
    assert_finite(result)
    for argument, array in before.items():
        np.testing.assert_array_equal(good[argument], array)
    monkeypatch.setitem(backends._BACKENDS, np.ndarray, backends.Backend("numpy", np, "reference"))
    for got, expected in zip(leaves(result), leaves(case.call(**case.good(SAMPLES[kind]))), strict=True):
        assert_close(got, expected, 1e-7)


@pytest.mark.parametrize(("name", "scalar"), SCALARS)
def test_bad_scalar(name, scalar):
    case = CASES[name]
    good = case.good(PLAIN)
    for bad in BAD_SCALARS[case.scalars[scalar][1]]:
        try:
            refused(lambda bad=bad: case.call(**{**good, scalar: bad}))
        except pytest.fail.Exception:
            pytest.fail(f"{name} takes {scalar}={bad!r}")


@pytest.mark.parametrize(("name", "scalar"), [s for s in SCALARS if CASES[s[0]].scalars[s[1]][1] in INTEGERS])
@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "uint64"])
def test_numpy_integers_are_integers(name, scalar, dtype):
    case = CASES[name]
    good = case.good(PLAIN)
    expected = leaves(case.call(**good))
    value = np.dtype(dtype).type(min(good[scalar], 100))
    if value != good[scalar]:
        expected = leaves(case.call(**{**good, scalar: int(value)}))
    for got, wanted in zip(leaves(case.call(**{**good, scalar: value})), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


# Values that a map of `CASES` is made of, for the tests below.
VALUES = {
    **{make.__name__: map_of(make, PLAIN) for make in MAPS},
    "nystroem": features.nystroem(PLAIN, 3, depth=2, b_std=0.3, seed=3),
    **{name: make(4) for name, make in SKETCHES.items()},
}
FITS = {
    "KernelRidge": regression.kernel_ridge(PLAIN @ PLAIN.T, PLAIN.copy(), reg=0.5),
    "CholeskyFactor": regression.factorize(PLAIN @ PLAIN.T, reg=0.5),
    "KernelSpectrum": SPECTRUM,
    "GradientFlow": FLOW,
    "GaussianProcess": regression.gaussian_process(PLAIN @ PLAIN.T, PLAIN.copy(), reg=0.5),
    "RidgePath": PATH,
    "Ridge": PATH.solve(0.5),
    "Zonal": FUNCTION,
    "ProjectedRegression": projection.projected_regression(PLAIN, PLAIN.copy(), reg=0.5),
    "LinearDatamodelingScore": projection.linear_datamodeling_score(PLAIN, [[0], [1], [2]], random_rows(3, 5)),
}


@pytest.mark.parametrize("name", VALUES)
def test_values_survive_pickling(name):
    value = VALUES[name]
    twin = pickle.loads(pickle.dumps(value))
    np.testing.assert_array_equal(twin.apply(PLAIN), value.apply(PLAIN))
    if name != "nystroem":  # which holds arrays, and so is compared by identity
        assert twin == value
        assert hash(twin) == hash(value)


@pytest.mark.parametrize("name", FITS)
def test_fits_can_be_pickled_compared_and_hashed(name):
    """Also those that hold arrays, whose comparison has no truth value."""
    fit = FITS[name]
    twin = pickle.loads(pickle.dumps(fit))
    for got, expected in zip(leaves(twin), leaves(fit), strict=True):
        np.testing.assert_array_equal(got, expected)
    assert fit in [twin, fit]
    assert fit in {fit}


@pytest.mark.parametrize("make", MAPS, ids=lambda make: make.__name__)
def test_fields_of_maps_become_python_numbers(make):
    """A map of NumPy integers is the same value; small ones would overflow in its formulas."""
    small = {name: np.int8(value) if kind in INTEGERS else value for name, (value, kind) in MAPS[make].items()} | {
        "seed": np.uint64(3)
    }
    phi = make(np.int8(4), np.int8(8), **small)
    assert phi == map_of(make, PLAIN)
    assert {type(v) for v in dataclasses.astuple(phi)} <= {int, float, str}


@pytest.mark.parametrize("name", [*VALUES, "ntk"])
@given(exponent=st.integers(-300, 300))
def test_scale_of_the_rows(name, exponent):
    """Kernels are of degree 2 in the rows, features and sketches of degree 1; a power of two changes no rounding."""
    degree = 2 if name == "ntk" else 1
    call = (lambda x: analytic.ntk(x, depth=2)) if name == "ntk" else VALUES[name].apply
    if name == "nystroem":  # with its biases it is of no degree
        call = features.nystroem(PLAIN, 3, depth=2, seed=3).apply
    scale = 2.0**exponent
    assert_close(call(scale * PLAIN) / scale**degree, call(PLAIN), 1e-12)


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_overflow_is_an_error(name, dtype):
    """At the end of the range a result is finite or refused, and no warning escapes."""
    x = np.sign(PLAIN).astype(dtype) * np.finfo(dtype).max
    try:
        assert_finite(VALUES[name].apply(x))
    except CLEAR as error:
        assert "expected" in str(error)  # noqa: PT017


@pytest.mark.parametrize("name", [make.__name__ for make in MAPS])
@pytest.mark.parametrize("W_std", [1e-40, 1e10, 1e40, 1e200])
def test_extreme_weights(name, W_std):
    """Features follow W_std over its whole range, or are refused."""
    make = getattr(features, name)
    if "W_std" not in MAPS[make]:
        return
    fields = {key: value for key, (value, _) in MAPS[make].items()}
    try:
        phi = make(4, 8, seed=3, **fields | {"W_std": W_std})
        expected = map_of(make, PLAIN)(PLAIN) * (W_std / fields["W_std"]) ** 3  # one layer more than depth 2
        assert_close(phi(PLAIN), expected, 1e-12)
    except CLEAR as error:
        assert "expected" in str(error)  # noqa: PT017


@pytest.mark.parametrize("make", MAPS, ids=lambda make: make.__name__)
def test_kernels_of_maps_refuse_rows_of_another_width(make):
    refused(lambda: map_of(make, PLAIN).kernel(PLAIN[:, :3]))


@pytest.mark.parametrize("what", ["NaN", "inf", "one row more", "one axis less", "float16", "list", "None", "tensor"])
def test_bad_results_of_kernel_functions(what):
    """The caller's kernel is checked like the caller's arrays; NaN once made the pivoted Cholesky run for ever."""

    def kernel(x1, x2):
        return BAD_ARRAYS[what](x1 @ x2.T)

    refused(lambda: regression.KernelOperator(kernel, PLAIN) @ np.ones(5))
    block = lambda rows, columns: kernel(PLAIN if rows is None else PLAIN[rows], PLAIN[columns])  # noqa: E731
    refused(lambda: features.random_pivoted_cholesky(block, 3, diagonal=(PLAIN**2).sum(axis=1), seed=0))


@pytest.mark.parametrize("t", [-0.1, 3.2, np.nan, np.inf, -np.inf])
def test_angles_outside_their_range(t):
    for call in (FUNCTION.of_angle, FUNCTION.derivative):
        refused(lambda call=call: call(t))
        refused(lambda call=call: call(np.array([1.0, t])))
    refused(lambda: FUNCTION.of_cosine(t if t != -0.1 else -1.1))


@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e-6, 1.0, 1e6, 1e12, 1e18])
def test_hyperparameter_gradients_at_every_scale(scale):
    """Biases make angles of small and of collinear large rows tiny; both ways of differentiation must agree there."""
    arguments = pair(scale * PLAIN)
    network = {"depth": 2, "W_std": 1.2, "b_std": 0.3}
    _, by_weight, by_bias = analytic.ntk_hyperparameter_gradient(**arguments, **network)
    gradient = analytic.ntk_vjp(**arguments, ct=np.ones((5, 5)), **network)
    assert_close(gradient.W_std, by_weight.sum(), 1e-8)
    assert abs(gradient.b_std - by_bias.sum()) <= 1e-8 * abs(by_bias).sum()
    step = 1e-4
    ends = [analytic.ntk(**arguments, **network | {"W_std": 1.2 + sign * step}).sum() for sign in (1, -1)]
    assert_close(by_weight.sum(), (ends[0] - ends[1]) / (2 * step), 1e-6)


def test_repeated_landmarks_are_refused_with_biases():
    refused(lambda: features.NystroemFeatures(PLAIN[[0, 1, 0]], depth=2, b_std=0.3))


def test_landmarks_are_the_maps_own():
    points = PLAIN[:3].copy()
    phi = features.NystroemFeatures(points, depth=2)
    expected = phi(PLAIN)
    points[...] = 0
    np.testing.assert_array_equal(phi(PLAIN), expected)


def test_threads_may_call_at_once():
    """On layers that several Python threads may enter."""
    x = random_rows(300, 20)
    expected = analytic.ntk(x, depth=3)
    several_threads_may_call()
    with ThreadPoolExecutor(3) as pool:
        for got in pool.map(lambda _: analytic.ntk(x, depth=3), range(12)):
            np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("depth", [0, 1, 200])
@pytest.mark.parametrize("activation", ["relu", "abs", "leaky_relu", "erf"])
def test_extreme_depth(depth, activation):
    """The table of the angle and the recursion with vanishing biases agree at any depth."""
    x = PLAIN[:, :3]
    network = {"depth": depth, "activation": activation, "W_std": 1.0 if activation != "relu" else 2**0.5}
    assert_close(analytic.ntk(x, **network), analytic.ntk(x, b_std=1e-300, **network), 1e-11)


def test_widest_and_narrowest_suggestions():
    """A generous error leads to a width that the map takes, not to one column."""
    for make in (features.NTKPolynomialSketch, features.NTKRandomFeatures):
        phi = features.suggest_n_features(map_of(make, PLAIN), PLAIN, error=1e6)
        assert 2 <= phi.n_features <= 8


@pytest.mark.parametrize("scale", [1e-100, 1e100])
def test_gram_error_at_the_ends_of_the_range(scale):
    phi = map_of(features.OnePassFeatures, PLAIN)
    expected = features.gram_error(phi, PLAIN, seed=0)
    assert_close(features.gram_error(phi, scale * PLAIN, seed=0).error, expected.error, 1e-10)


@pytest.mark.parametrize("scale", [1e-320, 1e-300, 1e300, 1e307])
@pytest.mark.parametrize("name", ["kernel_ridge", "gaussian_process", "gradient_flow", "leave_one_out"])
def test_kernels_at_the_ends_of_the_range(name, scale):
    k, y = scale * (PLAIN @ PLAIN.T + np.eye(5)), PLAIN.copy()
    options = {"gradient_flow": {}, "leave_one_out": {"regs": [scale]}}.get(name, {"reg": 0.0})
    try:
        assert_finite(getattr(regression, name)(k, y, **options))
    except CLEAR as error:
        assert "expected" in str(error)  # noqa: PT017


@pytest.mark.parametrize("intercept", [False, True])
def test_normal_equations_of_overflowing_rows(intercept):
    equations = regression.NormalEquations(intercept=intercept)
    equations.update(1e200 * PLAIN, PLAIN.copy())
    refused(lambda: equations.solve(0.5))
    refused(equations.decompose)


ESTIMATORS = {
    "NTKRegressor": {
        "alpha": [-1.0, np.nan, "best", None, True],
        "depth": [-1, 1.5, None],
        "W_std": [0, -1.0, np.nan],
        "b_std": [-1.0, np.inf],
        "activation": ["unknown", None],
        "solver": ["unknown", None],
    },
    "NTKClassifier": {"alpha": [-1.0, "best"], "depth": [-1, "3"], "solver": [1]},
    "NTKFeatures": {
        "n_components": [0, -1, 1.5],
        "method": ["unknown", None],
        "depth": [-1, 1.5],
        "W_std": [0, np.nan],
        "random_state": [-1, 2**64, True],
    },
}


@pytest.mark.parametrize(("name", "parameter"), [(n, p) for n, ps in ESTIMATORS.items() for p in ps])
def test_bad_parameters_of_estimators(name, parameter):
    sklearn = pytest.importorskip("ntkfast.adapters.sklearn")
    assert sorted(sklearn.__all__) == sorted([*ESTIMATORS, "NTKKernel"])
    for bad in ESTIMATORS[name][parameter]:
        estimator = getattr(sklearn, name)(**{parameter: bad})
        refused(lambda estimator=estimator: estimator.fit(PLAIN, [0, 1, 0, 1, 1]))


@pytest.mark.parametrize("bad", [{"depth": -1}, {"W_std": 0.0}, {"b_std": -1.0}, {"activation": "unknown"}])
def test_bad_parameters_of_the_gaussian_process_kernel(bad):
    kernel = pytest.importorskip("ntkfast.adapters.sklearn").NTKKernel(**bad)
    refused(lambda: kernel(PLAIN))


@pytest.mark.parametrize(
    "x", [np.full((2, 2), np.nan), np.ones((2, 2)) * 1j, [["a"]], np.ones((0, 2)), np.ones((2, 2, 2))]
)
def test_bad_rows_of_the_gaussian_process_kernel(x):
    kernel = pytest.importorskip("ntkfast.adapters.sklearn").NTKKernel()
    refused(lambda: kernel(x))
    refused(lambda: kernel.diag(x))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--depth", "0"],
        ["--depth", "3.0"],
        ["--features", "-64"],
        ["--seed", "18446744073709551616"],
        ["--seeds", "one"],
        ["--limit", "9"],
        ["--task", "unknown"],
        ["--data", "no-such-file.npz"],
        ["--data", "."],
        ["--data", ""],
        ["--data", "\0"],
        ["unknown"],
    ],
)
def test_bad_options_of_the_command(arguments, capsys):
    """Code 2 and one line, without a traceback."""
    from ntkfast.cli import main

    try:
        code = main(["demo", *arguments])
    except SystemExit as stop:  # argparse
        code = stop.code
    assert code == 2
    assert "Traceback" not in capsys.readouterr().err
