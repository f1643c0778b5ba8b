"""projection_error: its numbers against their definitions, cotangents, engines, subsets of rows, bad input."""

import dataclasses
import math

import numpy as np
import pytest
from empirical.networks import mlp, named, problem
from function_networks import need
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, jacobian
from ntkfast.layers import Dense, ReLU, Sequential
from ntkfast.projection import TensorProjection, project_jacobian, projected_ntk
from ntkfast.projection import accuracy as module
from ntkfast.projection.accuracy import projection_error
from ntkfast.projection.cotangents import cross_entropy, margin
from ntkfast.sketch import CountSketch, GaussianSketch

CASE = problem(mlp((8,), 3, b_std=0.1), (4,), n1=9)
P = 4 * 8 + 8 + 8 * 3 + 3
SKETCH = GaussianSketch(P, 40, seed=1)
LABELS = np.arange(9) % 3


def _call(sketch=SKETCH, case=CASE, **options):
    return projection_error(case.net, case.params, case.x1, sketch, **options)


def _columns(case=CASE):
    """The Jacobian (n, k, p)."""
    found = jacobian(case.net, case.params, case.x1)
    return np.concatenate([a.reshape(*a.shape[:2], -1) for a in found.values()], axis=2)


def _expected(left, exact):
    """Error, median and largest error, and relative error of the trace, for features and kernel of one output."""
    difference, scale = left @ left.T - exact, np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
    relative = (abs(difference) / scale)[np.triu_indices(len(exact))]
    error = np.linalg.norm(difference) / np.linalg.norm(exact)
    return error, np.median(relative), relative.max(), np.trace(difference) / np.trace(exact)


def _numbers(found):
    return np.array([found.error, found.median_error, found.largest_error, found.trace_bias])


def test_trace_is_its_definition():
    jac = _columns()
    phi = SKETCH.apply(jac.reshape(-1, P)).reshape(9, -1) / math.sqrt(3)
    exact = np.einsum("nkp,mkp->nm", jac, jac) / 3
    found = _call()
    assert_close(_numbers(found), np.array(_expected(phi, exact)), 1e-9)
    assert (found.width, found.n_rows, found.n_pairs) == (40, 9, 45)


def test_full_and_diagonal_are_their_definitions():
    jac = _columns()
    phi, flat = SKETCH.apply(jac.reshape(-1, P)), jac.reshape(-1, P)
    found = _call(output="full")
    assert_close(_numbers(found), np.array(_expected(phi, flat @ flat.T)), 1e-9)
    assert found.n_pairs == 27 * 28 // 2
    phi, found = phi.reshape(9, 3, -1), _call(output="diagonal")
    error, exact = (np.einsum("nkp,mkp->knm", a, a) for a in (phi, jac))
    assert found.error == pytest.approx(np.linalg.norm(error - exact) / np.linalg.norm(exact), rel=1e-9)
    assert found.n_pairs == 3 * 45


COTANGENTS = {
    "array": np.random.default_rng(0).standard_normal((9, 3)),
    "function": lambda y: y - 1,
    "cross_entropy": cross_entropy(LABELS),
    "margin": margin(LABELS),
}


def _weights(cotangents, case=CASE):
    y = case.net.forward(case.params, case.x1)[0]
    return cotangents(y) if callable(cotangents) else cotangents


@pytest.mark.parametrize("name", COTANGENTS)
def test_cotangents_are_their_definition(name):
    jac = np.einsum("nk,nkp->np", _weights(COTANGENTS[name]), _columns())
    found = _call(cotangents=COTANGENTS[name])
    assert_close(_numbers(found), np.array(_expected(SKETCH.apply(jac), jac @ jac.T)), 1e-9)
    rows = slice(None, None, 3)
    part = _call(cotangents=COTANGENTS[name], n_rows=3)
    assert part.n_rows == 3
    assert_close(_numbers(part), np.array(_expected(SKETCH.apply(jac[rows]), jac[rows] @ jac[rows].T)), 1e-9)


@pytest.mark.parametrize("name", ["mlp", "cnn_gap", "cnn_groups", "norms", "embedding", "resnet", "wide_output"])
def test_the_weighted_kernel_is_that_of_all_outputs(name):
    case = named(name)
    full = empirical_ntk(case.net, case.params, case.x1, output="full")
    ct = np.random.default_rng(0).standard_normal((5, full.shape[-1]))
    expected = np.einsum("nk,nmkl,ml->nm", ct, full, ct)
    engine = module.get_autodiff("layers")
    checked = engine.check(case.net, case.params, case.x1)
    found = module._weighted_ntk(engine, case.net, case.params, checked, ct, None)
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("engine", ["autograd", "jax", "torch"])
def test_other_engines(engine):
    need(engine)
    rng = np.random.default_rng(0)
    params, x = {"a": rng.standard_normal((4, 5)), "b": rng.standard_normal((5, 2))}, rng.standard_normal((6, 4))
    net = Sequential(Dense(5, parameterization="standard"), Dense(2, parameterization="standard"))
    sketch = GaussianSketch(30, 20, seed=0)
    for ct in (None, rng.standard_normal((6, 2))):
        tree = ({"weight": params["a"]}, {"weight": params["b"]})
        expected = projection_error(net, tree, x, sketch, cotangents=ct)
        found = projection_error(
            lambda p, x: x @ p["a"] @ p["b"], params, x, sketch, cotangents=ct, autodiff=engine, n_rows=6
        )
        assert_close(_numbers(found), _numbers(expected), 1e-8)


def test_on_every_backend(backend):
    params = tuple({name: backend.asarray(a) for name, a in layer.items()} for layer in CASE.params)
    for options in ({}, {"cotangents": cross_entropy(backend.asarray(LABELS)), "n_rows": 5}):
        given = {"cotangents": cross_entropy(LABELS), "n_rows": 5} if options else {}
        found = projection_error(CASE.net, params, backend.asarray(CASE.x1), SKETCH, **options)
        assert_close(_numbers(found), _numbers(_call(**given)), 1e-9)


def test_an_isometry_has_no_error():
    """A CountSketch without collisions; one is found among seeds, of a network with five parameters."""
    case = problem(Sequential(Dense(1)), (5,))
    for seed in range(1000):
        sketch = CountSketch(5, 25, seed=seed)
        if len(set(abs(sketch.apply(np.eye(5))).argmax(axis=1))) == 5:
            break
    found = _call(sketch, case)
    assert max(abs(_numbers(found))) < 1e-14


def test_extreme_sizes_stay_in_range():
    """Squares of kernel entries near either end of float64 would leave it."""
    case = problem(Sequential(Dense(1)), (5,))
    expected = _numbers(_call(GaussianSketch(5, 8, seed=0), case))
    for size in (1e-140, 1e140):
        found = projection_error(case.net, case.params, size * case.x1, GaussianSketch(5, 8, seed=0))
        assert_close(_numbers(found), expected, 1e-9)


def test_zero_gradients_are_left_out():
    case = problem(Sequential(Dense(1)), (5,))
    case.x1[2] = 0
    found = _call(GaussianSketch(5, 8, seed=0), case)
    assert found.n_pairs == 10
    case.x1[:] = 0
    with pytest.raises(ValueError, match="kernel of zeros"):
        _call(GaussianSketch(5, 8, seed=0), case)


def test_report_has_all_numbers():
    text = str(_call())
    assert "40 dimensions, 9 samples, 45 pairs" in text
    assert len(text.splitlines()) == 4
    assert f"{_call().error:.3g}" in text


@pytest.mark.stat
def test_gaussian_error_is_that_of_gaussian_sketches():
    """Root mean square error of R = 200 seeds within a fifth of its value, for one output.

    The squared error of a seed, over its expectation, has a standard deviation of 0.67 (measured with 600 seeds), the
    mean of 200 one of 0.047. Its bounds, 0.8^2 and 1.2^2, are 7.6 and 9.3 of them away: P < 1e-12 by a normal law, and
    below 1e-6 with room for its tails.
    """
    case = problem(mlp((8,), 1), (4,), n1=9)
    found = [_call(GaussianSketch(40, 30, seed=seed), case) for seed in range(200)]
    assert len({one.gaussian_error for one in found}) == 1
    ratio = math.sqrt(np.mean([one.error**2 for one in found])) / found[0].gaussian_error
    assert 0.8 < ratio < 1.2


def test_tensor_projections():
    sketch = TensorProjection(64, seed=3)
    phi = project_jacobian(CASE.net, CASE.params, CASE.x1, sketch)
    exact = empirical_ntk(CASE.net, CASE.params, CASE.x1)
    expected = np.linalg.norm(projected_ntk(phi) - exact) / np.linalg.norm(exact)
    assert _call(sketch).error == pytest.approx(expected, rel=1e-9)
    assert _call(dataclasses.replace(sketch, seed=4)).error != pytest.approx(expected, rel=1e-3)


def test_the_sample_is_cut_to_the_rows():
    net = Sequential(Dense(16), ReLU(), Dense(1))
    params, x = net.init((3,), seed=0), np.random.default_rng(0).standard_normal((1000, 3)).astype("float32")
    found = projection_error(net, params, x, GaussianSketch(64, 32, seed=0))
    assert found == projection_error(net, params, x[::4], GaussianSketch(64, 32, seed=0))
    assert found.n_rows == 250


def test_bad_input():
    with pytest.raises(ValueError, match="leave one output, got 'full'"):
        _call(cotangents=np.ones((9, 3)), output="full")
    with pytest.raises(ValueError, match="output"):
        _call(output="mean")
    with pytest.raises(ValueError, match="n_rows"):
        _call(n_rows=1)
    with pytest.raises(ValueError, match=r"shape \(9, 3\), got \(8, 3\)"):
        _call(cotangents=np.ones((8, 3)), n_rows=4)
    with pytest.raises(ValueError, match=r"shape \(9, 3\), got \(9, 1\)"):
        _call(cotangents=lambda y: y[:, :1], n_rows=4)
    with pytest.raises(ValueError, match="each of 9 samples, got 12"):
        _call(cotangents=margin(np.zeros(12, int)), n_rows=4)
    with pytest.raises(TypeError, match="sketch"):
        _call(sketch=40)
    with pytest.raises(ValueError, match="in_dim"):
        _call(sketch=GaussianSketch(3, 4, seed=0))
