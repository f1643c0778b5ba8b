"""Gradients of the kernels against differences, against each other, and at the kernels' kinks."""

import numpy as np
import pytest
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from ntkfast.analytic import expand, nngp, ntk, ntk_hyperparameter_gradient, ntk_vjp
from ntkfast.analytic.activations import CLOSED_FORMS
from ntkfast.errors import MemoryBudgetError

KERNELS = {"nngp": nngp, "ntk": ntk}
STEP = 1e-5
NETWORKS = [(name, b_std) for name in CLOSED_FORMS for b_std in (0.0, 0.3)]


def _points(n, d, seed=0):
    return 0.5 * np.random.default_rng(seed).standard_normal((n, d))


def _slopes(f, x):
    """Central differences of a scalar function of an array."""
    result = np.empty_like(x)
    for index in np.ndindex(*x.shape):
        up, down = x.copy(), x.copy()
        up[index] += STEP
        down[index] -= STEP
        result[index] = (f(up) - f(down)) / (2 * STEP)
    return result


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize(("activation", "b_std"), NETWORKS)
def test_vjp_is_the_limit_of_differences(activation, b_std, kind):
    x, y = _points(4, 3), _points(3, 3, seed=1)
    ct, kernel = np.random.default_rng(2).standard_normal((4, 3)), KERNELS[kind]
    network = {"depth": 2, "W_std": 0.9, "b_std": b_std, "activation": activation}
    gradient = ntk_vjp(x, y, ct, kind=kind, **network)
    assert_close(gradient.x1, _slopes(lambda z: (ct * kernel(z, y, **network)).sum(), x), 1e-8)
    assert_close(gradient.x2, _slopes(lambda z: (ct * kernel(x, z, **network)).sum(), y), 1e-8)


@pytest.mark.parametrize("b_std", [0.0, 0.3])
@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "abs"])
def test_at_a_kink_the_gradient_is_the_mean_of_both_sides(activation, b_std):
    """The limit of a central difference, whose error at a kink is of the order of its step."""
    x = _points(3, 3)
    y = np.concatenate([x[:1], -x[1:2]])
    network = {"depth": 2, "W_std": 0.9, "b_std": b_std, "activation": activation}
    gradient = ntk_vjp(x, y, np.ones((3, 2)), **network)
    assert_close(gradient.x1, _slopes(lambda z: ntk(z, y, **network).sum(), x), 10 * STEP)
    assert_close(gradient.x2, _slopes(lambda z: ntk(x, z, **network).sum(), y), 10 * STEP)


def test_linear_network():
    x, y, ct = _points(4, 3), _points(2, 3, seed=1), np.random.default_rng(2).standard_normal((4, 2))
    gradient = ntk_vjp(x, y, ct, depth=0, W_std=1.5, b_std=0.5)
    assert_close(gradient.x1, 0.75 * ct @ y, 1e-14)
    assert_close(gradient.x2, 0.75 * ct.T @ x, 1e-14)
    assert gradient.W_std == pytest.approx((ct * (x @ y.T)).sum(), rel=1e-13)
    assert gradient.b_std == pytest.approx(ct.sum(), rel=1e-13)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize(("activation", "b_std"), NETWORKS)
def test_symmetric_vjp_sums_both_roles(activation, b_std, kind):
    """Of any cotangent, symmetric or not; the diagonal moves with both roles and never leaves the angle 0."""
    x, kernel = _points(5, 3), KERNELS[kind]
    ct = np.random.default_rng(2).standard_normal((5, 5))
    network = {"depth": 2, "W_std": 0.9, "b_std": b_std, "activation": activation}
    gradient = ntk_vjp(x, None, ct, kind=kind, **network)
    assert gradient.x2 is None
    assert_close(gradient.x1, _slopes(lambda z: (ct * kernel(z, **network)).sum(), x), 1e-8)


@pytest.mark.parametrize("kind", KERNELS)
@pytest.mark.parametrize(("activation", "b_std"), NETWORKS)
def test_hyperparameter_gradient(activation, b_std, kind):
    """Against differences, and against the vjp, which runs the recursion in the other direction."""
    x, y = _points(6, 3), _points(4, 3, seed=1)
    y[0], y[1] = x[0], 0
    ct = np.random.default_rng(2).standard_normal((6, 6))
    depth = 1 if activation == "exp" else 3  # differences of an exponential of an exponential are worth little
    network = {"depth": depth, "W_std": 0.8, "b_std": b_std, "activation": activation}
    for other in (y, None):
        K, by_W_std, by_b_std = ntk_hyperparameter_gradient(x, other, kind=kind, **network)
        cotangent = ct[:, : K.shape[1]].copy()
        vjp = ntk_vjp(x, other, cotangent, kind=kind, **network)
        assert_close(K, KERNELS[kind](x, other, **network), 1e-13)
        assert vjp.W_std == pytest.approx((cotangent * by_W_std).sum(), rel=1e-11)
        assert vjp.b_std == pytest.approx((cotangent * by_b_std).sum(), rel=1e-11, abs=1e-15)
        for name, slope in (("W_std", by_W_std), ("b_std", by_b_std)):
            if network[name] == 0:
                assert not slope.any()
                continue
            up, down = ({**network, name: network[name] + step} for step in (STEP, -STEP))
            difference = (KERNELS[kind](x, other, **up) - KERNELS[kind](x, other, **down)) / (2 * STEP)
            assert_close(slope, difference, 1e-8)


def test_expansions_have_the_closed_forms_gradients():
    x, ct = _points(5, 3), np.random.default_rng(2).standard_normal((5, 5))
    network = {"depth": 2, "W_std": 1.0, "b_std": 0.2}
    exact = ntk_vjp(x, None, ct, **network, activation="sin")
    got = ntk_vjp(x, None, ct, **network, activation=expand(np.sin, degree=40, nodes=128))
    assert_close(got.x1, exact.x1, 1e-9)
    assert got.W_std == pytest.approx(exact.W_std, rel=1e-9)


def test_gradient_near_the_kink_turns_with_the_direction():
    """relu's NTK falls by |y - x| terms: towards y the slope has the sign of the step, at y it is their mean."""
    x, direction = np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])
    slopes = [
        float((ntk_vjp(x + step * direction, x, np.ones((1, 1)), depth=2).x1 @ direction.T).item())
        for step in (-1e-6, 0.0, 1e-6)
    ]
    assert slopes[0] == pytest.approx(-slopes[2], rel=1e-4)
    assert slopes[0] > 0.1
    assert slopes[1] == 0


@given(
    st.sampled_from(sorted(set(CLOSED_FORMS) - {"exp"})),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from(["float32", "float64"]),
    st.integers(0, 3),
    st.integers(0, 2**32 - 1),
)
def test_gradients_are_finite_everywhere(activation, b_std, dtype, depth, seed):
    """Zero, duplicated, opposite and nearly equal rows."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((7, 3)).astype(dtype)
    x[1], x[2], x[3] = x[0], -x[0], 0
    x[4] = x[0] * (1 + 4 * np.finfo(dtype).eps)
    x[5] = x[0] + 1e-5 * x[6]
    network = {"depth": depth, "b_std": b_std, "activation": activation}
    for other in (None, x[::-1].copy()):
        gradient = ntk_vjp(x, other, np.ones((7, 7), dtype), **network)
        assert gradient.x1.dtype == dtype
        for value in (gradient.x1, gradient.W_std, gradient.b_std, *ntk_hyperparameter_gradient(x, other, **network)):
            assert np.isfinite(value).all()


@pytest.mark.parametrize("activation", ["relu", "erf"])
def test_float32_agrees_with_float64(activation):
    x, y, ct = _points(30, 8), _points(20, 8, seed=1), np.random.default_rng(2).standard_normal((30, 20))
    network = {"depth": 3, "b_std": 0.1, "activation": activation}
    exact = ntk_vjp(x, y, ct, **network)
    single = ntk_vjp(*(a.astype(np.float32) for a in (x, y, ct)), **network)
    assert single.x1.dtype == np.float32
    for got, expected in zip(single, exact, strict=True):
        assert_close(got, expected, 2e-5)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_budget_changes_tiles_not_results(activation):
    x, y = _points(70, 5), _points(600, 5, seed=1)
    ct = np.random.default_rng(2).standard_normal((70, 600))
    network = {"depth": 2, "b_std": 0.1, "activation": activation}
    whole, tiled = ntk_vjp(x, y, ct, **network), ntk_vjp(x, y, ct, **network, max_memory=2_000_000)
    for a, b in zip(whole, tiled, strict=True):
        assert_close(b, a, 1e-12)
    whole, tiled = (ntk_hyperparameter_gradient(x, y, **network, max_memory=m) for m in (None, 2_000_000))
    for a, b in zip(whole, tiled, strict=True):
        assert_close(b, a, 1e-13)
    with pytest.raises(MemoryBudgetError):
        ntk_vjp(x, y, ct, **network, max_memory=100)


@pytest.mark.parametrize("activation", ["relu", "sin"])
def test_backends(activation, backend):
    x, y, ct = _points(5, 3), _points(4, 3, seed=1), np.ones((5, 4))
    network = {"depth": 2, "b_std": 0.1, "activation": activation}
    got = ntk_vjp(*(backend.asarray(a) for a in (x, y, ct)), **network)
    expected = ntk_vjp(x, y, ct, **network)
    assert_close(backend.to_numpy(got.x1), expected.x1, 1e-13)
    assert_close(backend.to_numpy(got.x2), expected.x2, 1e-13)


GOOD = np.ones((3, 2))
HOSTILE = [
    ({"ct": np.ones((2, 3))}, ValueError, r"ct of shape \(3, 3\), got \(2, 3\)"),
    ({"ct": np.ones((3, 3), np.float32)}, TypeError, "ct of dtype float64, got float32"),
    ({"ct": np.full((3, 3), np.nan)}, ValueError, "ct without NaN"),
    ({"ct": [[1.0]]}, TypeError, "ct to be a NumPy or CuPy array|NumPy or CuPy array, got"),
    ({"kind": "both"}, ValueError, "kind to be one of nngp, ntk; got 'both'"),
    ({"depth": -1}, ValueError, "depth"),
    ({"x1": np.full((3, 2), np.inf)}, ValueError, "x1 without NaN or inf"),
    ({"x2": np.ones((3, 5))}, ValueError, "x2 of shape"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), HOSTILE)
def test_bad_input_is_named(arguments, error, message):
    arguments = {"x1": GOOD, "x2": None, "ct": np.ones((3, 3)), "depth": 1, **arguments}
    with pytest.raises(error, match=message):
        ntk_vjp(**arguments)
    if "ct" not in message:
        del arguments["ct"]
        with pytest.raises(error, match=message):
            ntk_hyperparameter_gradient(**arguments)
