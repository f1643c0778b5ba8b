"""The first-order model: exact where it must be, of second order elsewhere; its fit is kernel regression."""

import numpy as np
import pytest
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, linearize
from ntkfast.errors import NotPositiveDefiniteError
from ntkfast.layers import BatchNorm, Conv2d, Dense, Flatten, GlobalAvgPool, ReLU, Sequential, Tanh

NETWORKS = {
    "mlp": (Sequential(Dense(32, b_std=0.2), Tanh(), Dense(32), Tanh(), Dense(3, b_std=0.1)), (4,)),
    "cnn": (Sequential(Conv2d(16, 3), BatchNorm(), Tanh(), GlobalAvgPool(), Dense(2)), (4, 4, 2)),
}


def _make(name, dtype="float64"):
    net, in_shape = NETWORKS[name]
    rng = np.random.default_rng(1)
    x, new = (rng.standard_normal((n, *in_shape)).astype(dtype) for n in (6, 4))
    return net, net.init(in_shape, seed=0, dtype=dtype), x, new


def _moved(params, step, seed=3):
    """Parameters some way off, in a fixed direction; buffers stay."""
    rng = np.random.default_rng(seed)
    return tuple(
        {
            name: array if name in BatchNorm().buffers else array + step * rng.standard_normal(array.shape)
            for name, array in entry.items()
        }
        for entry in params
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_the_error_is_of_second_order(name):
    """Halving the step quarters the error, up to a term of third order that is 1/100 of it here."""
    net, params, x, _ = _make(name)
    model = linearize(net, params)
    errors = []
    for step in (2e-3, 1e-3):
        moved = _moved(params, step)
        errors.append(np.linalg.norm(net.forward(moved, x)[0] - model.predict(x, moved)))
    assert 0 < errors[0] < 1e-3
    assert abs(errors[0] / errors[1] - 4) < 0.04


@pytest.mark.parametrize("name", NETWORKS)
def test_at_its_own_parameters_it_is_the_network(name):
    net, params, x, _ = _make(name)
    assert_close(linearize(net, params).predict(x, params), net.forward(params, x)[0], 0.0)


def test_exact_for_networks_linear_in_their_parameters():
    net = Sequential(ReLU(), Flatten(), Dense(3, b_std=0.5))
    params, x = net.init((2, 2), seed=0, dtype="float64"), np.random.default_rng(0).standard_normal((5, 2, 2))
    moved = _moved(params, 10.0)
    assert_close(linearize(net, params).predict(x, moved), net.forward(moved, x)[0], 1e-13)


@pytest.mark.parametrize("name", NETWORKS)
def test_tangent_is_the_limit_of_differences(name):
    net, params, x, _ = _make(name)
    up, down = _moved(params, 1e-5), _moved(params, -1e-5)
    expected = (net.forward(up, x)[0] - net.forward(down, x)[0]) / 2e-5
    direction = tuple(
        {key: _moved(params, 1.0)[i][key] - value for key, value in entry.items()} for i, entry in enumerate(params)
    )
    assert_close(linearize(net, params).tangent(x, direction), expected, 1e-8)


@pytest.mark.parametrize("reg", [1e-3, 1.0])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_fit_predicts_what_kernel_regression_does(name, reg):
    net, params, x, new = _make(name)
    k = net.out_shape(x.shape[1:])[0]
    y = np.random.default_rng(4).standard_normal((len(x), k))
    fit = linearize(net, params).fit(x, y, reg=reg)
    train = _square(empirical_ntk(net, params, x, output="full"))
    cross = _square(empirical_ntk(net, params, new, x, output="full"))
    dual = np.linalg.solve(train + reg * np.eye(len(train)), (y - net.forward(params, x)[0]).reshape(-1))
    expected = net.forward(params, new)[0] + (cross @ dual).reshape(len(new), k)
    assert_close(fit.dual_coef.reshape(-1), dual, 1e-8)
    assert_close(fit.predict(new), expected, 1e-9)
    assert_close(fit.model.predict(new, fit.params), expected, 1e-9)


def _square(theta):
    n, m, k, _ = theta.shape
    return theta.transpose(0, 2, 1, 3).reshape(n * k, m * k)


def test_a_fit_minimizes_its_objective():
    """|y - f_lin|^2 + reg |theta - theta_0|^2 grows along every direction, by its second-order term alone."""
    net, params, x, _ = _make("mlp")
    y, reg = np.ones((6, 3)), 0.3
    fit = linearize(net, params).fit(x, y, reg=reg)

    def objective(tree):
        distance = sum(((a[key] - b[key]) ** 2).sum() for a, b in zip(tree, params, strict=True) for key in a)
        return ((y - fit.model.predict(x, tree)) ** 2).sum() + reg * distance

    least = objective(fit.params)
    for seed in range(3):
        rises = [objective(_moved(fit.params, sign * 1e-3, seed)) - least for sign in (1, -1)]
        assert min(rises) > 0
        assert_close(rises[0], rises[1], 1e-6)


def test_the_model_keeps_its_own_parameters():
    net, params, x, _ = _make("mlp")
    model = linearize(net, params)
    before = model.predict(x, model.params)
    params[0]["weight"] *= 2
    assert_close(model.predict(x, model.params), before, 0.0)


def test_single_precision_and_tiles():
    net, params, x, new = _make("mlp")
    narrow = tuple({name: array.astype("float32") for name, array in entry.items()} for entry in params)
    y = np.ones((6, 3))
    expected = linearize(net, params).fit(x, y, reg=1.0).predict(new)
    fit = linearize(net, narrow).fit(x.astype("float32"), y.astype("float32"), reg=1.0)
    assert fit.predict(new.astype("float32")).dtype == np.float32
    assert_close(fit.predict(new.astype("float32")), expected, 1e-5)
    tiled = linearize(net, params).fit(x, y, reg=1.0, max_memory=2**20)
    assert_close(tiled.predict(new, max_memory=2**17), expected, 1e-12)


def test_a_function_in_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    params = {"w": rng.standard_normal((4, 8)), "v": [rng.standard_normal((8, 2))]}
    x, y = rng.standard_normal((5, 4)), rng.standard_normal((5, 2))
    model = linearize(lambda p, z: torch.tanh(z @ p["w"]) @ p["v"][0], params, autodiff="torch")
    fit = model.fit(x, y, reg=1e-6)
    assert_close(fit.predict(x), y, 1e-4)
    assert_close(model.predict(x, fit.params), fit.predict(x), 1e-9)


def test_backends(backend):
    net, params, x, new = _make("mlp")
    expected = linearize(net, params).fit(x, np.ones((6, 3)), reg=0.1)
    there = tuple({name: backend.asarray(array) for name, array in entry.items()} for entry in params)
    fit = linearize(net, there).fit(backend.asarray(x), backend.asarray(np.ones((6, 3))), reg=0.1)
    assert_close(backend.to_numpy(fit.predict(backend.asarray(new))), expected.predict(new), 1e-10)


def test_a_singular_kernel_is_solved_with_a_jitter():
    """Repeated samples, and targets that agree: the fit goes through them."""
    net, params, x, _ = _make("mlp")
    fit = linearize(net, params).fit(np.repeat(x[:1], 6, axis=0), np.ones((6, 3)), reg=0.0)
    assert 0 < fit.jitter < 1e-6
    assert_close(fit.predict(x[:1]), np.ones((1, 3)), 1e-8)
    assert linearize(net, params).fit(x, np.ones((6, 3)), reg=0.0).jitter == 0


def test_what_no_jitter_mends_is_refused():
    """The zero kernel of a network whose parameters do nothing."""
    net = Sequential(ReLU(), Dense(2))
    params = net.init((3,), seed=0, dtype="float64")
    with pytest.raises(NotPositiveDefiniteError, match="reg = 0"):
        linearize(net, params).fit(-np.ones((4, 3)), np.ones((4, 2)), reg=0.0)


def test_refusals():
    net, params, x, _ = _make("mlp")
    model = linearize(net, params)
    with pytest.raises(ValueError, match=r"expected y of shape \(6, 3\), got \(6, 2\)"):
        model.fit(x, np.ones((6, 2)), reg=1.0)
    with pytest.raises(ValueError, match="reg"):
        model.fit(x, np.ones((6, 3)), reg=-1.0)
    with pytest.raises(ValueError, match=r"new_params to hold '0.weight'"):
        model.predict(x, ({}, {}, {}, {}, {}))
    with pytest.raises(ValueError, match="untied"):
        linearize(net, (params[0], {}, params[2], {}, {**params[4], "bias": params[4]["weight"][0]}))
