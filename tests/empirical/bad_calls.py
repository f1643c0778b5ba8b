"""A network, and every function that takes one, for tests with bad arguments."""

import numpy as np
import pytest

from ntkfast.empirical import (
    directional_vjp,
    empirical_ntk,
    empirical_ntk_vjp,
    jacobian,
    jacobian_factors,
    layer_ntks,
    linearize,
    ntk_operator,
    trainability,
)
from ntkfast.layers import Dense, Sequential, Tanh
from ntkfast.projection import TensorProjection, allocate_dims, project_jacobian, projection_error

NET = Sequential(Dense(5, b_std=0.1), Tanh(), Dense(2, b_std=0.1))
PARAMS = NET.init((4,), seed=0, dtype="float64")
X = np.random.default_rng(0).standard_normal((3, 4))

# Every function that takes a network, its parameters and samples.
CALLS = {
    "empirical_ntk": empirical_ntk,
    "layer_ntks": layer_ntks,
    "jacobian": jacobian,
    "jacobian_factors": jacobian_factors,
    "ntk_operator": ntk_operator,
    "linearize": lambda net, params, x: linearize(net, params).predict(x, params),
    "empirical_ntk_vjp": lambda net, params, x: empirical_ntk_vjp(net, params, x, None, np.ones((3, 3))),
    "directional_vjp": lambda net, params, x: directional_vjp(net, params, x, params, np.ones((3, 2))),
    "trainability": trainability,
}
SKETCH = TensorProjection(8, seed=0)
# Those that project gradients.
PROJECTIONS = {
    "project_jacobian": lambda net, params, x: project_jacobian(net, params, x, SKETCH),
    "project_jacobian(cotangents)": lambda net, params, x: project_jacobian(
        net, params, x, SKETCH, cotangents=np.ones((3, 2))
    ),
    "allocate_dims": lambda net, params, x: allocate_dims(net, params, x, 64),
    "projection_error": lambda net, params, x: projection_error(net, params, x, SKETCH),
}
CALLS |= PROJECTIONS
every_call = pytest.mark.parametrize("name", CALLS)


def refused(name, error, message, net=NET, params=PARAMS, x=X):
    """The call raises, and says so in one line; no warning comes before it, which would be an error."""
    with pytest.raises(error, match=message) as caught:
        CALLS[name](net, params, x)
    assert "\n" not in str(caught.value)


def with_weight(change):
    """The parameters with another weight in the last layer."""
    return (*PARAMS[:2], {**PARAMS[2], "weight": change(PARAMS[2]["weight"])})
