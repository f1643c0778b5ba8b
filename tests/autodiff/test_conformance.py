"""Every engine through the public suite, and wrong engines to see that it finds them."""

import numpy as np
import pytest
from function_networks import need

from ntkfast.autodiff import get_autodiff
from ntkfast.layers import BatchNorm, Conv2d, Dense, Embedding, Flatten, GlobalAvgPool, Residual, Sequential, Tanh
from ntkfast.testing import check_autodiff


@pytest.mark.parametrize("name", ["autograd", "jax", "torch"])
def test_function_engines(name):
    need(name)
    check_autodiff(name)


NETS = {
    "mlp": (Sequential(Dense(4, b_std=0.1), Tanh(), Dense(2, parameterization="standard", bias=True)), (3,)),
    "one_layer": (Dense(2, b_std=0.5), (3,)),
    "cnn": (Sequential(Conv2d(3, 3, padding="SAME"), BatchNorm(), Tanh(), GlobalAvgPool(), Dense(2)), (4, 4, 2)),
    "residual": (
        Sequential(Dense(4), Residual(Sequential(Tanh(), Dense(4)), Dense(4, b_std=0.3)), Tanh(), Dense(1)),
        (3,),
    ),
}


@pytest.mark.parametrize("name", NETS)
def test_layers(name):
    net, shape = NETS[name]
    x = np.random.default_rng(1).standard_normal((4, *shape))
    check_autodiff("layers", net, net.init(shape, seed=2, dtype="float64"), x)


def test_layers_that_read_integers():
    net = Sequential(Embedding(7, 3), Flatten(), Dense(2))
    x = np.random.default_rng(1).integers(0, 7, (4, 5))
    check_autodiff("layers", net, net.init((5,), seed=2, dtype="float64"), x)


# --- wrong engines ----------------------------------------------------------------------------------


class Broken:
    """The engine of the layers, with one method replaced."""

    name = "broken"

    def __init__(self, **methods):
        self._methods = methods

    def __getattr__(self, attribute):
        if attribute in ("_methods", "param_jvps"):
            raise AttributeError(attribute)
        return self._methods.get(attribute, getattr(get_autodiff("layers"), attribute))


LAYERS = get_autodiff("layers")


def scaled_jacobian(fun, params, x):
    return {path: 1.001 * j for path, j in LAYERS.param_jacobian(fun, params, x).items()}


def batch_jacobian(fun, params, x):
    return {path: j - j.mean(axis=0) for path, j in LAYERS.param_jacobian(fun, params, x).items()}


def scaled_vjp(fun, params, x):
    y, pullback = LAYERS.param_vjp(fun, params, x)
    return y, lambda ct: pullback(2 * ct)


def consuming_vjp(fun, params, x):
    y, pullback = LAYERS.param_vjp(fun, params, x)

    def once(ct):
        tree = pullback(ct)
        ct *= 0
        return tree

    return y, once


def wide_jvp(fun, params, x):
    y, push = LAYERS.param_jvp(fun, params, x)
    return y, lambda direction: push(direction).astype("float64")


def negative_input_vjp(fun, params, x):
    y, pullback = LAYERS.input_vjp(fun, params, x)
    return y, lambda ct: -pullback(ct)


def lenient_check(fun, params, x1, x2=None):
    return LAYERS.check(fun, params, np.nan_to_num(x1), x2)


@pytest.mark.parametrize(
    ("methods", "message"),
    [
        ({"param_jacobian": scaled_jacobian}, "param_jacobian times a direction"),
        ({"param_jacobian": batch_jacobian}, "param_jacobian"),
        ({"param_vjp": scaled_vjp}, "against param_vjp"),
        ({"param_vjp": consuming_vjp}, "engine 'broken'"),
        ({"param_jvp": wide_jvp}, "param_jvp: expected float32"),
        ({"input_vjp": negative_input_vjp}, "input_vjp, against differences"),
        ({"check": lenient_check}, "check of"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_wrong_engines_are_found(methods, message):
    net, shape = NETS["mlp"]
    x = np.random.default_rng(1).standard_normal((4, *shape))
    with pytest.raises(AssertionError, match=message):
        check_autodiff(Broken(**methods), net, net.init(shape, seed=2, dtype="float64"), x)


def test_arguments_come_together():
    with pytest.raises(ValueError, match="all of fun, params and x"):
        check_autodiff("layers", NETS["mlp"][0])
