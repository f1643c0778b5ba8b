"""Projections at the ends of the range of numbers, and what surrounds a call: memory, changes, threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from empirical.bad_calls import NET, PARAMS, SKETCH, X
from helpers import assert_close, several_threads_may_call
from projection.calls import CLASSES, LABELS, every_class, projected

from ntkfast._tree import tree_map
from ntkfast.empirical import jacobian
from ntkfast.layers import Dense, ReLU, Sequential
from ntkfast.projection import (
    KroneckerProjection,
    MaskedProjection,
    TensorProjection,
    allocate_dims,
    margin,
    project,
    project_jacobian,
    projection_error,
)
from ntkfast.sketch import SparseJL


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
