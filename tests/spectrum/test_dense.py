"""Eigenvalues, condition numbers, effective ranks and alignment of kernel matrices."""

import math

import numpy as np
import pytest
from helpers import assert_close, tol
from hypothesis import given
from hypothesis import strategies as st

from ntkfast.errors import MixedBackendError, NotPositiveDefiniteError
from ntkfast.spectrum import (
    as_matrix,
    condition_number,
    effective_dimension,
    eigenvalues,
    entropy_rank,
    intrinsic_dimension,
    kernel_alignment,
    stable_rank,
    target_alignment,
    variance_rank,
)

LAMBDA = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
RANKS = (variance_rank, entropy_rank, stable_rank, intrinsic_dimension, lambda k: effective_dimension(k, 0.1))
KERNEL_FUNCTIONS = (eigenvalues, condition_number, *RANKS)


def with_spectrum(values, dtype="float64", seed=0):
    """A symmetric matrix with the given eigenvalues."""
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values), len(values))))
    matrix = (q * np.asarray(values)) @ q.T
    return ((matrix + matrix.T) / 2).astype(dtype)


def random_kernel(n, rank, seed=0):
    x = np.random.default_rng(seed).standard_normal((n, rank))
    return x @ x.T


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_eigenvalues_of_a_known_matrix(backend, dtype):
    values = eigenvalues(backend.asarray(with_spectrum(LAMBDA, dtype)))
    assert str(values.dtype) == dtype
    assert_close(backend.to_numpy(values), LAMBDA, tol(dtype, 5))


def test_everything_on_every_backend(backend):
    k = backend.asarray(with_spectrum(LAMBDA))
    p = LAMBDA / LAMBDA.sum()
    assert condition_number(k) == pytest.approx(16.0, rel=1e-12)
    assert variance_rank(k, 0.05) == 4
    assert entropy_rank(k) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-12)
    assert effective_dimension(k, 0.7) == pytest.approx((LAMBDA / (LAMBDA + 0.7)).sum(), rel=1e-12)
    assert stable_rank(k) == pytest.approx((LAMBDA**2).sum() / 64, rel=1e-12)
    assert intrinsic_dimension(k) == pytest.approx(LAMBDA.sum() / 8, rel=1e-12)
    assert kernel_alignment(k, k) == pytest.approx(1.0, rel=1e-12)
    labels, targets = np.array([0, 1, 0, 2, 1]), np.random.default_rng(1).standard_normal((5, 2))
    one_hot = np.eye(3)[labels]
    host = backend.to_numpy(k)
    assert target_alignment(k, backend.asarray(labels)) == pytest.approx(naive_alignment(host, one_hot @ one_hot.T))
    assert target_alignment(k, backend.asarray(targets)) == pytest.approx(naive_alignment(host, targets @ targets.T))


@pytest.mark.parametrize("function", KERNEL_FUNCTIONS[1:])
def test_eigenvalues_stand_for_the_kernel(function):
    k = random_kernel(7, 7)
    shuffled = np.random.default_rng(0).permutation(eigenvalues(k))
    assert function(shuffled) == function(k)


def test_a_full_kernel_is_its_matrix():
    jacobian = np.random.default_rng(0).standard_normal((4, 3, 20))
    full = np.einsum("nkp,mlp->nmkl", jacobian, jacobian)
    matrix = as_matrix(full)
    rows = jacobian.reshape(12, 20)
    assert_close(matrix, rows @ rows.T, 1e-14)
    assert_close(eigenvalues(full), np.linalg.svd(rows, compute_uv=False)[::-1] ** 2, 1e-12)
    assert condition_number(full) == condition_number(matrix)
    assert as_matrix(matrix) is matrix


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_rank_deficient_kernels(dtype):
    """Small negative eigenvalues are rounding errors: 0, an infinite condition number, and no warning."""
    x = np.random.default_rng(0).standard_normal((20, 3)).astype(dtype)
    k = x @ x.T
    k = np.tril(k) + np.tril(k, -1).T
    values = eigenvalues(k)
    assert (values >= 0).all()
    assert condition_number(k) == math.inf
    assert variance_rank(k, 1e-5) == 3
    assert all(math.isfinite(rank(k)) and rank(k) <= 3.01 for rank in RANKS[1:])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_scale_changes_nothing(dtype, scale):
    k, scaled = with_spectrum(LAMBDA, dtype), with_spectrum(LAMBDA * scale, dtype)
    assert_close(eigenvalues(scaled), LAMBDA * scale, tol(dtype, 5))
    for function in (condition_number, entropy_rank, stable_rank, intrinsic_dimension):
        assert function(scaled) == pytest.approx(function(k), rel=100 * tol(dtype, 5))
    assert kernel_alignment(scaled, k) == pytest.approx(1.0)


def test_entries_near_the_largest_number():
    largest = float(np.finfo(np.float64).max)
    assert eigenvalues(np.diag([largest, largest / 2])).tolist() == [largest / 2, largest]
    assert condition_number(np.diag([largest, largest / 2])) == 2.0
    assert effective_dimension(np.diag([largest, largest]), 1.0) == 2.0
    with pytest.raises(OverflowError, match="expected eigenvalues within the range"):
        eigenvalues(np.full((2, 2), largest))


def test_zero_kernel():
    zero = np.zeros((3, 3))
    assert condition_number(zero) == math.inf
    assert [rank(zero) for rank in RANKS] == [0] * 5
    assert kernel_alignment(zero, np.eye(3)) == 0.0
    assert target_alignment(np.eye(3), np.zeros(3)) == 0.0


def test_one_point():
    one = np.array([[2.0]])
    assert condition_number(one) == 1.0
    assert [rank(one) for rank in RANKS[:4]] == [1, 1.0, 1.0, 1.0]
    assert kernel_alignment(one, one) == 0.0
    assert kernel_alignment(one, one, centered=False) == 1.0


def test_indefinite_kernels():
    k = with_spectrum([-1.0, 1.0, 2.0])
    assert_close(eigenvalues(k), np.array([-1.0, 1.0, 2.0]), 1e-14)
    for function in (condition_number, *RANKS):
        with pytest.raises(NotPositiveDefiniteError, match="expected a positive semidefinite"):
            function(k)


def test_condition_number_cap():
    values = np.array([1e-5, 1.0])
    assert condition_number(values) == pytest.approx(1e5)
    assert condition_number(values, rtol=1e-4) == math.inf
    assert condition_number(values.astype("float32")) == pytest.approx(1e5)
    assert condition_number(np.array([1e-8, 1.0], "float32")) == math.inf


def test_effective_dimension_is_the_trace_of_the_smoother():
    k = random_kernel(8, 8)
    assert effective_dimension(k, 0.3) == pytest.approx(np.trace(k @ np.linalg.inv(k + 0.3 * np.eye(8))), rel=1e-12)


def test_stable_rank_of_the_jacobian():
    j = np.random.default_rng(0).standard_normal((6, 9))
    squared = np.linalg.norm(j) ** 2 / np.linalg.norm(j, 2) ** 2
    assert intrinsic_dimension(j @ j.T) == pytest.approx(squared, rel=1e-12)
    assert stable_rank(j @ j.T) == pytest.approx(
        np.linalg.norm(j @ j.T) ** 2 / np.linalg.norm(j @ j.T, 2) ** 2, rel=1e-12
    )


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=12))
def test_order_of_the_ranks(values):
    """1 <= stable <= intrinsic <= number of nonzero values, and stable <= entropy rank <= that number."""
    values = np.array(values)
    count = int((values > 0).sum())
    least = 1 if count else 0
    stable, intrinsic, entropy = stable_rank(values), intrinsic_dimension(values), entropy_rank(values)
    assert least - 1e-12 <= stable <= intrinsic + 1e-12 <= count + 1e-9
    assert least - 1e-12 <= entropy <= count + 1e-9
    assert least <= variance_rank(values, 0.5) <= variance_rank(values, 0.0) <= count


@given(st.integers(1, 10))
def test_equal_eigenvalues(r):
    values = np.array([0.0, 0.0, *[3.0] * r])
    assert [f(values) for f in (entropy_rank, stable_rank, intrinsic_dimension)] == pytest.approx([r] * 3)
    assert variance_rank(values, 1e-9) == r


# --- alignment ------------------------------------------------------------------------------------


def naive_alignment(a, b, centered=True):
    h = np.eye(len(a)) - centered / len(a)
    a, b = h @ a @ h, h @ b @ h
    return (a * b).sum() / (np.linalg.norm(a) * np.linalg.norm(b))


@pytest.mark.parametrize("centered", [True, False])
def test_alignment_by_definition(centered):
    a, b = random_kernel(9, 4, 0), random_kernel(9, 4, 1)
    assert kernel_alignment(a, b, centered=centered) == pytest.approx(naive_alignment(a, b, centered), rel=1e-12)
    assert kernel_alignment(a, b, centered=centered) == kernel_alignment(b, a, centered=centered)


def test_centered_alignment_ignores_a_shift_of_the_features():
    x, y = np.random.default_rng(0).standard_normal((2, 9, 4))
    shifted = x + 5
    got = kernel_alignment(shifted @ shifted.T, y @ y.T)
    assert got == pytest.approx(kernel_alignment(x @ x.T, y @ y.T), rel=1e-10)
    assert kernel_alignment(shifted @ shifted.T, y @ y.T, centered=False) != pytest.approx(got, rel=1e-2)


def test_alignment_in_mixed_precision():
    a, b = random_kernel(9, 4, 0), random_kernel(9, 4, 1)
    assert kernel_alignment(a.astype("float32"), b) == pytest.approx(kernel_alignment(a, b), rel=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_constant_kernel_is_orthogonal_to_all(dtype):
    constant = np.full((7, 7), 0.1, dtype)
    assert kernel_alignment(constant, np.eye(7)) == 0.0


def test_ideal_and_useless_targets():
    labels = np.array([True, False, True, False])
    one_hot = np.eye(2)[labels.astype(int)]
    assert target_alignment(one_hot @ one_hot.T, labels) == pytest.approx(1.0)
    assert target_alignment(np.eye(4), np.ones(4, int)) == 0.0  # one class: nothing is left after centering
    targets = np.array([1.0, -1.0, 2.0, 0.5])
    assert target_alignment(np.outer(targets, targets), targets) == pytest.approx(1.0)
    assert target_alignment(np.outer(targets, targets), 1e200 * targets) == pytest.approx(1.0)


# --- bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ([[1.0]], TypeError),
        (np.eye(2, dtype=int), TypeError),
        (np.eye(2, dtype="float16"), TypeError),
        (np.ones((2, 3)), ValueError),
        (np.ones((2, 2, 2, 3)), ValueError),
        (np.ones((2, 2, 2)), ValueError),
        (np.zeros((0, 0)), ValueError),
        (np.array([[1.0, np.nan], [np.nan, 1.0]]), ValueError),
        (np.array([[1.0, 0.5], [0.4, 1.0]]), ValueError),
    ],
)
def test_bad_kernels(bad, error):
    for function in KERNEL_FUNCTIONS:
        with pytest.raises(error, match="expected"):
            function(bad)
    for alignment in (kernel_alignment, target_alignment):
        with pytest.raises(error, match="expected"):
            alignment(bad, np.eye(2))


def test_bad_numbers_and_targets():
    k = np.eye(3)
    for call in (
        lambda: variance_rank(k, 1.0),
        lambda: variance_rank(k, -0.1),
        lambda: variance_rank(np.zeros(0)),
        lambda: effective_dimension(k, 0.0),
        lambda: condition_number(k, rtol=-1.0),
        lambda: kernel_alignment(k, np.eye(2)),
        lambda: kernel_alignment(np.ones((2, 2, 2, 2)), k),
        lambda: target_alignment(k, np.ones(2)),
        lambda: target_alignment(k, np.ones((3, 1), int)),
        lambda: target_alignment(k, np.array([1.0, np.nan, 0.0])),
    ):
        with pytest.raises(ValueError, match="expected"):
            call()
    with pytest.raises(TypeError, match="expected y"):
        target_alignment(k, [0, 1, 2])


def test_mixed_backends(monkeypatch):
    import fakecupy

    fakecupy.install(monkeypatch)
    with pytest.raises(MixedBackendError):
        target_alignment(fakecupy.asarray(np.eye(2)), np.ones(2))
    with pytest.raises(MixedBackendError):
        kernel_alignment(fakecupy.asarray(np.eye(2)), np.eye(2))
