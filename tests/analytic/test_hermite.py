"""Hermite expansions against closed forms, and their errors."""

import pickle

import numpy as np
import pytest
from helpers import assert_close
from scipy.special import erf

from ntkfast.analytic import closed_form, expand, nngp_and_ntk, ntk

CALLABLES = {"erf": erf, "sin": np.sin, "cos": np.cos, "exp": np.exp, "gaussian": lambda z: np.exp(-z * z / 2)}


@pytest.mark.parametrize("name", CALLABLES)
def test_every_function_of_the_record_equals_the_closed_form(name):
    record, exact = expand(CALLABLES[name]), closed_form(name)
    q1, q2 = np.array([0.2, 0.5, 0.9]), np.array([0.3, 1.1])
    q12 = 0.9 * np.sqrt(q1)[:, None] * np.sqrt(q2) * np.array([[1, -0.5], [0, 0.3], [-1, 1]])
    tables = record.points(np, q1)[:, :, None], record.points(np, q2)[:, None, :]
    for function in ("dual", "derivatives"):
        got = getattr(record, function)(np, *tables, q12)
        for value, expected in zip(
            got, getattr(exact, function)(np, q1[None, :, None], q2[None, None], q12), strict=True
        ):
            assert_close(value, expected, 2e-11)
    for value, expected in zip(record.diagonal(np, q1), exact.diagonal(np, q1), strict=True):
        assert_close(value, expected, 2e-11)


def test_degrees_from_a_polynomials_own_on_are_exact():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((6, 4))
    few, many = (
        ntk(x, depth=1, b_std=0.2, activation=expand(lambda z: z**3 - z, degree=degree, nodes=20)) for degree in (3, 9)
    )
    assert_close(few, many, 1e-13)


def test_network_of_a_callable_equals_the_closed_form():
    x = np.random.default_rng(0).standard_normal((8, 5)) * 0.5
    for got, expected in zip(
        nngp_and_ntk(x, depth=2, b_std=0.1, W_std=1.0, activation=erf),
        nngp_and_ntk(x, depth=2, b_std=0.1, W_std=1.0, activation="erf"),
        strict=True,
    ):
        assert_close(got, expected, 1e-10)


def test_a_kink_warns_of_its_missing_energy_and_converges():
    """relu: sum of a_i^2 over i > N falls as N^(-3/2), by 8 for a fourfold N."""
    q = np.array([[1.0]])
    exact = float(closed_form("relu").dual(np, q, q, q[0]).k[0])
    errors = []
    for degree in (4, 16, 64):
        record = expand(lambda z: np.maximum(z, 0), degree=degree, nodes=2000, tolerance=0.1)
        table = record.points(np, q[0])
        errors.append(abs(float(record.dual(np, table, table, q[0]).k[0]) - exact))
    assert errors[1] < errors[0] / 4
    assert errors[2] < errors[1] / 4
    with pytest.warns(RuntimeWarning, match="misses a share"):
        ntk(np.eye(2), depth=1, activation=np.sign)


def test_zero_vectors_have_zero_rows_where_phi_vanishes():
    x = np.array([[0.0, 0.0], [1.0, 2.0]])
    np.testing.assert_allclose(ntk(x, depth=2, activation=np.sin)[0], 0, atol=1e-15)


@pytest.mark.parametrize(
    ("phi", "message"),
    [(lambda z: z.sum(), "shape"), (lambda z: np.where(z > 0, np.nan, z), "NaN or inf")],
)
def test_bad_callables_are_named(phi, message):
    with pytest.raises(ValueError, match=message):
        ntk(np.eye(2), depth=1, activation=phi)


def test_bad_parameters_are_refused():
    with pytest.raises(TypeError, match="callable, got int"):
        ntk(np.eye(2), depth=1, activation=3)
    with pytest.raises(ValueError, match="nodes"):
        expand(np.tanh, degree=64, nodes=64)
    with pytest.raises(ValueError, match="degree"):
        expand(np.tanh, degree=0)


def test_records_can_be_pickled():
    record = pickle.loads(pickle.dumps(expand(np.tanh)))
    np.testing.assert_array_equal(
        ntk(np.eye(3), depth=1, activation=record), ntk(np.eye(3), depth=1, activation=np.tanh)
    )
    assert pickle.loads(pickle.dumps(closed_form("erf"))).name == "erf"
