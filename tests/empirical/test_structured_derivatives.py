"""Samples in passes or in pairs of tiles: the same kernel, and what each way needs."""

import functools

import numpy as np
import pytest
from empirical.networks import NAMES, named
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, layer_ntks, structured_derivatives
from ntkfast.layers import Conv2d, Dense, GlobalAvgPool, ReLU, Sequential

OUTPUTS = ["trace", "diagonal", "full"]


@pytest.fixture
def contractions(monkeypatch):
    """A list that grows whenever operands of all samples are contracted."""
    counted = []
    contracted = structured_derivatives._Contraction._contracted

    def count(self, *operands):
        counted.append(1)
        return contracted(self, *operands)

    monkeypatch.setattr(structured_derivatives._Contraction, "_contracted", count)
    return counted


def shortest_pass(p):
    """Bytes of the shortest pass of a problem's samples."""
    kept, widest = structured_derivatives._sample_sizes(p.net, p.x1.shape[1:])
    return structured_derivatives._LEAST_ROWS * p.x1.itemsize * (kept + p.net.out_shape(p.x1.shape[1:])[0] * widest)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("function", [empirical_ntk, layer_ntks])
def test_passes_of_samples_do_not_change_the_kernel(contractions, monkeypatch, name, output, function):
    p = named(name, n1=7, n2=4)
    for samples in ((p.x1,), (p.x1, p.x2), (p.x1, p.x2[:1]), (p.x2[:1], p.x1)):
        call = functools.partial(function, p.net, p.params, *samples, output=output, method="structured_derivatives")
        expected = call()
        assert not contractions
        with monkeypatch.context() as patch:
            patch.setitem(structured_derivatives._PASS_BYTES, "numpy", shortest_pass(p))
            got = call()
        assert contractions.pop()
        pairs = [(got, expected)] if function is empirical_ntk else [(got[path], expected[path]) for path in expected]
        for ours, theirs in pairs:
            assert_close(ours, theirs, 1e-12)


def test_operands_that_do_not_fit_leave_tiles(contractions):
    """Jacobians of all samples above the budget: pairs of tiles take over, with the same result."""
    net = Sequential(Conv2d(16, 3), ReLU(), Conv2d(64, 3), ReLU(), Conv2d(8, 3), ReLU(), GlobalAvgPool(), Dense(4))
    params = net.init((12, 12, 3), seed=0, dtype="float64")
    x = np.random.default_rng(0).standard_normal((24, 12, 12, 3))
    expected = empirical_ntk(net, params, x)
    got = empirical_ntk(net, params, x, max_memory=2**22)
    assert not contractions
    assert_close(got, expected, 1e-12)
