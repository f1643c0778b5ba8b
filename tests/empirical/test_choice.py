"""The choice between the algorithms: what it depends on, what it shows, and that the contraction follows it."""

import numpy as np
import pytest
from empirical.networks import NAMES, named
from function_networks import need

from ntkfast.autodiff import get_autodiff
from ntkfast.backends import get_backend
from ntkfast.empirical import empirical_ntk
from ntkfast.empirical.contraction import plan_layer
from ntkfast.layers import Dense, ReLU, Sequential

X = np.random.default_rng(0).standard_normal((6, 4))


def _explanation(width=5, x=X, **settings):
    net = Sequential(Dense(width, b_std=0.1), ReLU(), Dense(2))
    return empirical_ntk(net, net.init((4,), seed=0, dtype="float64"), x, explain=True, **settings)


def test_equal_calls_are_explained_once():
    assert _explanation() is _explanation()
    for other in (_explanation(width=6), _explanation(x=X[:5]), _explanation(output="full"), _explanation(x2=X)):
        assert other is not _explanation()


def test_a_function_is_explained_for_each_shape_of_its_parameters():
    need("autograd")
    rng = np.random.default_rng(0)

    def linear(params, x):
        return x @ params["first"] @ params["second"]

    found = [
        empirical_ntk(linear, {"first": rng.standard_normal((4, width)), "second": rng.standard_normal((width, 2))}, X,
                      autodiff="autograd", explain=True).operations["jacobian_contraction"]
        for width in (3, 30)
    ]  # fmt: skip
    assert found[1] == 10 * found[0]


def test_the_least_time_is_chosen_and_marked():
    explanation = _explanation()
    assert explanation.seconds[explanation.method] == min(explanation.seconds.values())
    marked = [line for line in str(explanation).splitlines() if line.startswith("*")]
    assert len(marked) == 1
    assert explanation.method in marked[0]
    for name in (*explanation.seconds, "0.weight", "0.bias", "2.weight"):
        assert name in str(explanation)


@pytest.mark.parametrize("output", ["trace", "diagonal", "full"])
@pytest.mark.parametrize("name", NAMES)
def test_the_contraction_takes_the_orders_that_are_shown(name, output):
    p = named(name, n1=7, n2=4)
    shown = {block.path: block.order for block in empirical_ntk(*p, output=output, explain=True).blocks}
    first, second = (get_autodiff("layers").factors(p.net, p.params, x) for x in (p.x1, p.x2))
    for (path, found), (_, other) in zip(first, second, strict=True):
        for entry, step in plan_layer(get_backend(p.x1), found, other, output, 7, 4).items():
            assert step.order == shown[f"{path}.{entry}" if path else entry]
