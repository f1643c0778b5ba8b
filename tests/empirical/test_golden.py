"""Outputs, kernels, contributions and Jacobian norms of fourteen networks against the stored references."""

import functools

import numpy as np
import pytest
from golden_files import FINITE_NETWORKS, finite_network
from helpers import GOLDEN_RTOL, assert_close

from ntkfast.empirical import empirical_ntk, jacobian, layer_ntks

METHODS = ("auto", "structured_derivatives", "jacobian_contraction", "ntk_vector_products")

loaded = functools.cache(finite_network)

pytestmark = [pytest.mark.parametrize("dtype", GOLDEN_RTOL), pytest.mark.parametrize("name", FINITE_NETWORKS)]
by_method = pytest.mark.parametrize("method", METHODS)


def check(got, expected, dtype):
    assert got.dtype == dtype
    assert_close(got, expected, GOLDEN_RTOL[dtype])


def test_outputs(name, dtype):
    ref = loaded(name, dtype)
    check(ref.net.forward(ref.params, ref.x1)[0], ref.f1, dtype)
    check(ref.net.forward(ref.params, ref.x2)[0], ref.f2, dtype)


@by_method
def test_full(name, dtype, method):
    ref = loaded(name, dtype)
    call = functools.partial(empirical_ntk, ref.net, ref.params, output="full", method=method)
    check(call(ref.x1), ref.ntk11, dtype)
    check(call(ref.x1, ref.x2), ref.ntk12, dtype)


@by_method
def test_trace(name, dtype, method):
    ref = loaded(name, dtype)
    call = functools.partial(empirical_ntk, ref.net, ref.params, output="trace", method=method)
    check(call(ref.x1), np.einsum("ijoo->ij", ref.ntk11) / ref.f1.shape[1], dtype)
    check(call(ref.x1, ref.x2), ref.trace12, dtype)


@by_method
def test_diagonal(name, dtype, method):
    ref = loaded(name, dtype)
    call = functools.partial(empirical_ntk, ref.net, ref.params, output="diagonal", method=method)
    check(call(ref.x1), np.einsum("ijoo->ijo", ref.ntk11), dtype)
    check(call(ref.x1, ref.x2), np.einsum("ijoo->ijo", ref.ntk12), dtype)


@by_method
def test_contributions_of_the_arrays(name, dtype, method):
    ref = loaded(name, dtype)
    parts = layer_ntks(ref.net, ref.params, ref.x1, ref.x2, output="trace", method=method)
    assert set(parts) == set(ref.trace12_by_path)
    for path, part in parts.items():
        check(part, ref.trace12_by_path[path], dtype)
    full = layer_ntks(ref.net, ref.params, ref.x1, ref.x2, output="full", method=method)
    check(sum(full.values()), ref.ntk12, dtype)


def test_norms_of_the_jacobian(name, dtype):
    ref = loaded(name, dtype)
    leaves = jacobian(ref.net, ref.params, ref.x1)
    assert set(leaves) == set(ref.norm1_by_path)
    squares = {path: (leaf.reshape(len(leaf), -1) ** 2).sum(axis=1) for path, leaf in leaves.items()}
    for path, square in squares.items():
        check(np.sqrt(square), ref.norm1_by_path[path], dtype)
    check(np.sqrt(sum(squares.values())), ref.norm1, dtype)
