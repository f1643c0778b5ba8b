"""How often the host waits for a device, counted on the stand-in for CuPy: not once per layer."""

import functools

import fakecupy
import numpy as np
import pytest

from ntkfast.empirical import empirical_ntk, empirical_ntk_vjp, linearize, ntk_operator
from ntkfast.layers import (
    AvgPool2d,
    Conv2d,
    Dense,
    GlobalAvgPool,
    LayerNorm,
    MaxPool2d,
    ReLU,
    Residual,
    Sequential,
    Tanh,
)

N, K, IMAGE = 4, 2, (6, 5, 2)


def deep(blocks):
    """A network whose depth is told by a number, with most kinds of layers in every block."""
    first = Conv2d(4, 3, b_std=0.1)
    body = [
        layer
        for _ in range(blocks)
        for layer in (
            LayerNorm(),
            Residual(Sequential(Conv2d(4, 3, groups=2), ReLU(), Conv2d(4, 1))),
            MaxPool2d(1),
            Tanh(),
        )
    ]
    return Sequential(first, *body, AvgPool2d(2), GlobalAvgPool(), Dense(8), ReLU(), Dense(K, b_std=0.1))


def moved(tree):
    """A tree of NumPy arrays on the device that does not exist."""
    if isinstance(tree, dict):
        return {name: moved(entry) for name, entry in tree.items()}
    return tuple(map(moved, tree)) if isinstance(tree, tuple) else fakecupy.asarray(tree)


def normal(*shape):
    return fakecupy.asarray(np.random.default_rng(0).standard_normal(shape))


@pytest.fixture
def waits(monkeypatch):
    """A list that grows whenever the host needs a number or an array of the device."""
    seen = []

    def counting(name):
        method = getattr(fakecupy.ndarray, name)

        def call(self):
            seen.append(name)
            return method(self)

        monkeypatch.setattr(fakecupy.ndarray, name, call)

    fakecupy.install(monkeypatch)
    for name in ("__bool__", "__float__", "__int__", "get"):
        counting(name)
    return seen


CALLS = {
    **{
        f"{method} {output}": functools.partial(empirical_ntk, method=method, output=output)
        for method in ("structured_derivatives", "jacobian_contraction", "ntk_vector_products")
        for output in ("trace", "diagonal", "full")
    },
    "auto": empirical_ntk,
    "gradient": lambda net, params, x: empirical_ntk_vjp(net, params, x, None, normal(N, N)),
    "tangent": lambda net, params, x: linearize(net, params).tangent(x, params),
    "operator": lambda net, params, x: ntk_operator(net, params, x) @ normal(N * K),
}


@pytest.mark.parametrize("name", CALLS)
def test_waits_do_not_grow_with_depth(waits, name):
    counts = []
    for blocks in (1, 4):
        net, x = deep(blocks), normal(N, *IMAGE)
        params = moved(net.init(IMAGE, seed=0, dtype="float64"))
        CALLS[name](net, params, x)  # what is measured once per process
        waits.clear()
        CALLS[name](net, params, x)
        counts.append(len(waits))
    assert counts[0] == counts[1] <= 6
