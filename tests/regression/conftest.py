"""One small regression problem, shared by the tests of the solvers."""

from typing import NamedTuple

import numpy as np
import pytest


class Problem(NamedTuple):
    x: np.ndarray  # (n, d) training points
    y: np.ndarray  # (n, k)
    x_test: np.ndarray
    k: np.ndarray  # (n, n)
    k_test: np.ndarray  # (m, n)
    k_test_test: np.ndarray  # (m, m)


def arccos_ntk(x1, x2):
    """Depth-1 ReLU NTK with unit weights: a kernel with a slowly decaying spectrum.

    The angle comes from |u - v| and |u + v|, so that equal points are exact whatever the tile.
    """
    r1, r2 = np.linalg.norm(x1, axis=1), np.linalg.norm(x2, axis=1)
    u, v = x1 / r1[:, None], x2 / r2[:, None]
    apart = np.linalg.norm(u[:, None] - v, axis=2)
    angle = 2 * np.arctan2(apart, np.linalg.norm(u[:, None] + v, axis=2))
    shape = (2 * np.cos(angle) * (np.pi - angle) + np.sin(angle)) / np.pi
    return (np.outer(r1, r2) * shape).astype(x1.dtype)


@pytest.fixture(scope="session")
def kernel():
    return arccos_ntk


@pytest.fixture(scope="session")
def problem():
    rng = np.random.default_rng(5)
    x, x_test = rng.standard_normal((60, 5)), rng.standard_normal((13, 5))
    y = np.stack([np.sin(x[:, 0]), x[:, 1] ** 2, rng.standard_normal(60)], axis=1)
    return Problem(x, y, x_test, arccos_ntk(x, x), arccos_ntk(x_test, x), arccos_ntk(x_test, x_test))
