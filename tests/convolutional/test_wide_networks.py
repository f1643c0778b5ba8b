"""Empirical NTKs of wide random networks, described by the same layers, approach the infinite-width kernel.

So the exact kernels are those of the networks that `ntkfast.layers` computes: its padding, strides, scales and sums.
"""

import math

import numpy as np
import pytest
from convolutional.drawn import images

from ntkfast.convolutional import cntk
from ntkfast.empirical import empirical_ntk
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Erf, Flatten, GlobalAvgPool, LeakyReLU, ReLU, Residual, Sequential

OUTPUTS = 4


def circular(c):
    conv = Conv2d(c, 3, padding="CIRCULAR", b_std=0.3)
    return conv, ReLU(), Conv2d(c, (2, 3), padding="CIRCULAR", stride=(2, 1)), LeakyReLU(0.2), GlobalAvgPool()


def pooled(c):
    pool = AvgPool2d(3, stride=2, padding=((1, 0), (0, 1)))
    return Conv2d(c, 2, b_std=0.3), Erf(), pool, Conv2d(c, 3), ReLU(), Flatten()


def enlarging(c):
    return Conv2d(c, (2, 3), padding=((2, 1), (0, 3)), b_std=0.5, W_std=1.2), ReLU(), Conv2d(c, 2), Erf(), Flatten()


def residual(c):
    body = Sequential(ReLU(), Conv2d(c, 3, stride=2, W_std=1.2), ReLU(), Conv2d(c, 3))
    return Conv2d(c, 3), Residual(body, Conv2d(c, 1, stride=2, b_std=0.3)), ReLU(), GlobalAvgPool()


def nested(c):
    """A body that ends with a sum, one summand of which is the body's input: independent of the shortcut's weights."""
    inner = Residual(Sequential(ReLU(), Conv2d(c, 3)))
    return Conv2d(c, 3, W_std=1.1), Residual(inner, Conv2d(c, 2, b_std=0.3)), ReLU(), GlobalAvgPool()


def linear_shortcut(c):
    """The same within a branch of fresh weights."""
    branch = Sequential(Conv2d(c, 2), Residual(Sequential(ReLU(), Conv2d(c, 3, b_std=0.3))))
    return Conv2d(c, 3), Residual(branch), ReLU(), GlobalAvgPool()


BODIES = [circular, pooled, enlarging, residual, nested, linear_shortcut]


def finite_kernels(body, channels, seeds, x):
    network = Sequential(*body(channels), Dense(OUTPUTS, b_std=0.2))
    draws = (network.init(x.shape[1:], seed=seed, dtype="float64") for seed in range(seeds))
    return np.stack([empirical_ntk(network, params, x) for params in draws])


@pytest.mark.stat
@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_the_limit_of_wide_networks(body):
    """At 16 times as many channels the median deviation is a quarter, and the mean is right.

    R = 60 networks each. The logarithm of a median of 60 absolute normal deviations has standard deviation 0.15, that
    of a ratio 0.21, and so has the mean over three entries at most. A factor of 3.2 either way is 1.16, more than 5.5
    of these: 4e-8. Errors that stay have the ratio 1, a rate of the number of channels itself 16. The mean over wide
    networks is off by at most 7 standard errors (Student's t with 59 degrees of freedom: 3e-9 per entry) and
    the bias of order 1 / channels, for which 5 percent are left. Failure probability below 1e-7 per network.
    """
    x = images((4, 6), 2, seed=0)
    triangle = np.triu_indices(2)
    exact = cntk(Sequential(*body(1), Dense(1, b_std=0.2)), x)[triangle]
    narrow, wide = (finite_kernels(body, c, 60, x)[:, *triangle] for c in (8, 128))
    medians = [np.median(abs(found - exact), axis=0) for found in (narrow, wide)]
    ratio = math.exp(np.log(medians[0] / medians[1]).mean())
    assert 4 / 3.2 < ratio < 4 * 3.2
    standard_error = wide.std(axis=0, ddof=1) / math.sqrt(len(wide))
    assert (abs(wide.mean(axis=0) - exact) < 7 * standard_error + 0.05 * abs(exact)).all()
    assert (standard_error < 0.03 * abs(exact)).all()
