"""Cotangents and factors against the sums that define them."""

import itertools

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.layers import Cotangent, JacobianFactors, SparseFactors, factors

N, K, C = 4, 3, 6
SPATIAL = [(), (5,), (2, 3)]
BOOLEANS = (False, True)


def _random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def _cotangents(spatial, seed=0):
    """All ways in which axes can have size 1, with and without a gate, as NumPy arrays (shared, gate)."""
    for ones in itertools.product(*[BOOLEANS] * (1 + len(spatial))):
        shape = [1 if one else size for one, size in zip(ones, (N, *spatial), strict=True)]
        for gated in BOOLEANS:
            seed += 1
            yield _random(*shape, K, C, seed=seed), _random(N, *spatial, C, seed=-seed % 1000) if gated else None


def _value(shared, gate, spatial):
    """The definition: gate[n, s, c] shared[n, s, k, c]."""
    full = np.broadcast_to(shared, (N, *spatial, K, C)).copy()
    if gate is not None:
        for k in range(K):
            full[..., k, :] *= gate
    return full


@pytest.fixture
def parallel(monkeypatch):
    """Every product goes to the parallel kernel."""
    monkeypatch.setattr(factors, "_PARALLEL", 0)


@pytest.mark.parametrize("spatial", SPATIAL)
class TestCotangent:
    def test_dense(self, spatial, backend):
        for shared, gate in _cotangents(spatial):
            ct = Cotangent(backend.asarray(shared), None if gate is None else backend.asarray(gate))
            found = ct.dense(N, spatial)
            assert ct.k == K
            assert found.flags.c_contiguous
            assert_close(backend.to_numpy(found), _value(shared, gate, spatial), 0)

    @pytest.mark.usefixtures("parallel")
    def test_dense_in_parallel(self, spatial):
        for shared, gate in _cotangents(spatial):
            assert_close(Cotangent(shared, gate).dense(N, spatial), _value(shared, gate, spatial), 0)

    def test_dense_of_strided_memory(self, spatial):
        shared, gate = np.asfortranarray(_random(N, *spatial, K, C)), np.asfortranarray(_random(N, *spatial, C))
        for found, expected in ((Cotangent(shared), shared), (Cotangent(shared, gate), _value(shared, gate, spatial))):
            assert found.dense(N, spatial).flags.c_contiguous
            assert_close(found.dense(N, spatial), expected, 0)

    def test_gated(self, spatial):
        slope = _random(N, *spatial, C, seed=99)
        for shared, gate in _cotangents(spatial):
            found = Cotangent(shared, gate).gated(slope)
            assert_close(found.dense(N, spatial), _value(shared, gate, spatial) * slope[..., None, :], tol("float64"))
            assert shared.size == N * K * C * np.prod(spatial, dtype=int) or found.shared is shared

    def test_scaled(self, spatial):
        for (shared, gate), factor in itertools.product(_cotangents(spatial), (0.3, _random(C, seed=98))):
            found = Cotangent(shared, gate).scaled(factor)
            assert found.shared.shape == shared.shape
            assert_close(found.dense(N, spatial), _value(shared, gate, spatial) * factor, tol("float64"))

    def test_sum(self, spatial):
        for (one, gate), (other, second) in itertools.product(_cotangents(spatial), _cotangents(spatial, 500)):
            expected = _value(one, gate, spatial) + _value(other, second, spatial)
            found = Cotangent(one, gate) + Cotangent(other, second)
            assert_close(found.dense(N, spatial), expected, tol("float64"))

    def test_sum_under_one_gate_stays_a_product(self, spatial):
        gate, ones = _random(N, *spatial, C), (1,) * (1 + len(spatial))
        found = Cotangent(_random(*ones, K, C), gate) + Cotangent(_random(*ones, K, C, seed=1), gate)
        assert found.gate is gate
        assert found.shared.shape == (*ones, K, C)


def _jacobian(delta, act, groups, scale):
    """The definition: scale sum_t act[n, t, g, i] delta[n, t, k, g, o]."""
    n, t, k, _ = delta.shape
    delta, act = delta.reshape(n, t, k, groups, -1), act.reshape(n, t, groups, -1)
    out = np.zeros((n, k, act.shape[-1], groups, delta.shape[-1]))
    for s in range(t):
        out += np.einsum("ngi,nkgo->nkigo", act[:, s], delta[:, s])
    return scale * out


class Lazy:
    """Acts that are made when asked for."""

    def __init__(self, array):
        self._array, self.shape = array, array.shape

    def __getitem__(self, rows):
        return self._array[rows].copy()


@pytest.mark.parametrize("spatial", SPATIAL)
@pytest.mark.parametrize(("groups", "i"), [(1, 4), (1, 1), (2, 3), (C, 1), (C, 2)])
@pytest.mark.parametrize("make", [np.asarray, Lazy])
def test_jacobian_factors(spatial, groups, i, make):
    t = int(np.prod(spatial, dtype=int))
    act, shape = _random(N, t, groups * i, seed=7), (i, C)
    for shared, gate in _cotangents(spatial):
        found = JacobianFactors(Cotangent(shared, gate), make(act), shape, N, spatial, groups=groups, scale=0.7)
        delta = _value(shared, gate, spatial).reshape(N, t, K, C)
        expected = _jacobian(delta, act, groups, 0.7).reshape(N, K, *shape)
        assert (found.k, found.positions, found.size) == (K, t, i * C)
        assert (found.out_width, found.in_width) == (C, groups * i)
        assert_close(found.delta, delta, 0)
        assert_close(found.jacobian(), expected, tol("float64", t))
        assert_close(found.total(), expected.sum(axis=0), tol("float64", t * N))
        for rows in (slice(1, 3), slice(3, None), slice(0, N)):
            assert_close(found.rows(rows).jacobian(), expected[rows], tol("float64", t))


@pytest.mark.parametrize("spatial", SPATIAL)
def test_factors_of_a_bias(spatial):
    t = int(np.prod(spatial, dtype=int))
    for shared, gate in _cotangents(spatial):
        found = JacobianFactors(Cotangent(shared, gate), None, (C,), N, spatial, scale=0.7)
        expected = 0.7 * _value(shared, gate, spatial).reshape(N, t, K, C).sum(axis=1)
        assert (found.size, found.in_width, found.out_width) == (C, 1, C)
        assert_close(found.jacobian(), expected, tol("float64", t))
        assert_close(found.total(), expected.sum(axis=0), tol("float64", t * N))
        assert_close(found.rows(slice(1, 3)).jacobian(), expected[1:3], tol("float64", t))


@pytest.mark.parametrize("spatial", SPATIAL)
def test_sparse_factors(spatial, backend):
    t, vocabulary = int(np.prod(spatial, dtype=int)), 3
    index = np.random.default_rng(5).integers(0, vocabulary, (N, t))
    for shared, gate in _cotangents(spatial):
        ct = Cotangent(backend.asarray(shared), None if gate is None else backend.asarray(gate))
        found = SparseFactors(ct, backend.asarray(index), (vocabulary, C), N, spatial, 0.7)
        delta, expected = _value(shared, gate, spatial).reshape(N, t, K, C), np.zeros((N, K, vocabulary, C))
        for n, s in np.ndindex(N, t):
            expected[n, :, index[n, s]] += 0.7 * delta[n, s]
        assert (found.k, found.size) == (K, vocabulary * C)
        assert_close(backend.to_numpy(found.jacobian()), expected, tol("float64", t))
        assert_close(backend.to_numpy(found.total()), expected.sum(axis=0), tol("float64", t * N))
        assert_close(backend.to_numpy(found.rows(slice(1, 3)).jacobian()), expected[1:3], tol("float64", t))
