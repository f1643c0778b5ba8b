"""The Walsh-Hadamard transform against its matrix, and its identities."""

import numpy as np
import pytest
import scipy.linalg
from helpers import assert_close, tol
from kernels.cases import values

from ntkfast.kernels import hadamard


@pytest.mark.parametrize("function", ["reference", "cpu"])
@pytest.mark.parametrize("order", [0, 1, 2, 3, 5, 8, 9, 10])
def test_is_the_product_with_the_matrix(function, order):
    x = values((2, 1 << order), np.float64, order)
    out = np.empty_like(x)
    getattr(hadamard.transform, function)(x, out)
    assert_close(out, x @ scipy.linalg.hadamard(1 << order), tol(np.float64, 1 << order))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("order", [11, 12, 13, 14])
def test_twice_is_a_multiple_of_the_identity_and_lengths_are_kept(dtype, order):
    x = values((1, 1 << order), dtype, order)
    once, twice = np.empty_like(x), np.empty_like(x)
    hadamard.transform.cpu(x, once)
    hadamard.transform.cpu(once, twice)
    assert_close(twice / (1 << order), x, tol(dtype, order))
    assert_close(np.linalg.norm(once) ** 2, (1 << order) * np.linalg.norm(x) ** 2, tol(dtype, 1 << order))


@pytest.mark.parametrize("order", [6, 12, 13, 15])
def test_a_unit_vector_gives_a_row_of_the_matrix(order):
    """The entry (j, k) is the parity of the bits that j and k share: tests the natural order at every width."""
    p = 1 << order
    j = 0x5A5A5 % p
    x, out = np.zeros((1, p), np.float32), np.empty((1, p), np.float32)
    x[0, j] = 1
    hadamard.transform.cpu(x, out)
    parity = np.array([(j & k).bit_count() % 2 for k in range(p)])
    np.testing.assert_array_equal(out[0], 1 - 2 * parity)
