"""Memory: budgets do not change results, and the peaks grow as the algorithms promise."""

import functools
import math
import tracemalloc

import numpy as np
import pytest
from empirical.networks import mlp, named, problem, smallest_budget
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, layer_ntks

METHODS = ("structured_derivatives", "jacobian_contraction", "ntk_vector_products")

by_method = pytest.mark.parametrize("method", METHODS)


def peak(call):
    """Bytes in use at the worst moment of a call beyond those before it."""
    call()  # imports and caches
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1] - sum(a.nbytes for a in np.atleast_1d(result))
    finally:
        tracemalloc.stop()


@by_method
@pytest.mark.parametrize("name", ["mlp", "cnn_groups", "resnet"])
@pytest.mark.parametrize("output", ["trace", "diagonal", "full"])
def test_the_budget_does_not_change_the_kernel(name, output, method):
    p = named(name, n1=7, n2=4)
    for others in ((), (p.x2,)):
        call = functools.partial(empirical_ntk, p.net, p.params, p.x1, *others, output=output, method=method)
        expected, least = call(max_memory=2**30), smallest_budget(call)
        for budget in (least, 2 * least, 5 * least):
            assert_close(call(max_memory=budget), expected, 1e-13)


@by_method
def test_the_budget_does_not_change_the_parts(method):
    p = named("cnn_gap", n1=7, n2=4)
    call = functools.partial(layer_ntks, *p, output="full", method=method)
    expected, least = call(max_memory=2**30), smallest_budget(call)
    found = call(max_memory=2 * least)
    for path, part in expected.items():
        assert_close(found[path], part, 1e-13)


@by_method
def test_the_peak_stays_near_the_budget(method):
    """A budget counts the large temporaries; half of it again is left for the small ones. Without one, it is more."""
    p = problem(mlp((64, 64), k=4), (32,), n1=60, n2=1)
    weights = sum(a.nbytes for entry in p.params for a in entry.values())
    call = functools.partial(empirical_ntk, p.net, p.params, p.x1, method=method)
    larger = {"structured_derivatives": 2**17, "jacobian_contraction": 2**22, "ntk_vector_products": 2**20}[method]
    for budget in (larger // 4, larger):
        allowed = 1.5 * budget + 2 * weights
        assert peak(functools.partial(call, max_memory=budget)) < allowed < peak(call)


def _peaks(method, widths):
    """Peaks without a limit on two dense nets; the weights, which any algorithm may scale, are not counted."""
    found = []
    for width in widths:
        p = problem(mlp((width, width), k=4, parameterization="standard"), (16,), n1=8, n2=1)
        found.append(peak(functools.partial(empirical_ntk, p.net, p.params, p.x1, method=method, max_memory=2**33)))
    return found


def test_structured_derivatives_never_hold_a_jacobian():
    """Their peak is N k W and the activations: exponent 1 in the width; that of Jacobian contraction is N k W^2: 2."""
    widths = (128, 512)
    exponents = {}
    for method in METHODS[:2]:
        low, high = _peaks(method, widths)
        exponents[method] = math.log(high / low) / math.log(widths[1] / widths[0])
    assert exponents["structured_derivatives"] < 1.2
    assert exponents["jacobian_contraction"] > 1.7
    structured, contraction = (_peaks(method, widths[1:])[0] for method in METHODS[:2])
    assert structured < contraction / 20
