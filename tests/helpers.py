"""Tolerances and comparisons shared by the tests."""

import math

import numpy as np
import pytest

GOLDEN_RTOL = {"float64": 1e-12, "float32": 1e-5}


def tol(dtype, length: int = 1, condition: float = 1.0) -> float:
    """Relative tolerance of a sum of `length` terms in `dtype`, times a condition number."""
    return 8.0 * float(np.finfo(dtype).eps) * math.sqrt(max(length, 1)) * condition


def deviation(got, expected) -> float:
    """Largest absolute difference over the largest absolute entry of `expected`."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, f"expected shape {expected.shape}, got {got.shape}"
    assert np.isfinite(got).all(), "result has NaN or inf"
    scale = float(np.abs(expected).max(initial=0.0)) or 1.0
    return float(np.abs(got - expected).max(initial=0.0)) / scale


def assert_close(got, expected, rtol: float) -> None:
    """Assert shape, finiteness and `deviation` at most `rtol`, reporting the worst index."""
    error = deviation(got, expected)
    if error > rtol:
        difference = np.abs(np.asarray(got, np.float64) - np.asarray(expected, np.float64))
        where = np.unravel_index(int(difference.argmax()), difference.shape)
        raise AssertionError(
            f"deviation {error:.3e} above {rtol:.3e}, worst at {where}: "
            f"got {np.asarray(got)[where]!r}, expected {np.asarray(expected)[where]!r}"
        )


def arc_cosine_kernel(order: int, gram):
    """Arc-cosine kernel matrix, from its definition, of vectors whose inner products are `gram` (n, n)."""
    norms = np.sqrt(np.diag(gram))
    cosine = np.clip(gram / np.outer(norms, norms), -1, 1)
    angle = np.arccos(cosine)
    np.fill_diagonal(angle, 0)  # arccos loses half the digits at 1
    if order == 0:
        return 1 - angle / math.pi
    return np.outer(norms, norms) * (np.sin(angle) + (math.pi - angle) * cosine) / math.pi


def several_threads_may_call():
    """Skip where Numba's layer of threads takes one Python thread at a time."""
    numba = pytest.importorskip("numba")
    try:
        layer = numba.threading_layer()
    except ValueError:  # no parallel kernel has run: they are switched off
        layer = "none"
    if layer == "workqueue":
        pytest.skip("workqueue takes one thread at a time")
