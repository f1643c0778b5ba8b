import numpy as np
import pytest
from helpers import assert_close

from ntkfast.errors import NotPositiveDefiniteError
from ntkfast.features import NystroemFeatures, nystroem

X = np.random.default_rng(0).standard_normal((150, 4))


@pytest.mark.parametrize(
    "parameters",
    [
        {"depth": 1},
        {"depth": 3, "W_std": 1.2},
        {"depth": 2, "b_std": 0.3},
        {"depth": 2, "kind": "nngp", "b_std": 0.1},
        {"depth": 2, "activation": "erf", "b_std": 0.1},
    ],
)
def test_exact_at_landmarks(parameters):
    phi = nystroem(X, 40, seed=0, **parameters)
    assert phi.n_features == 40
    assert_close(phi(X) @ phi(phi.landmarks).T, phi.kernel(X, phi.landmarks), 1e-9)


def test_features_are_the_nystroem_formula():
    phi = nystroem(X, 20, depth=2, seed=1)
    cross = phi.kernel(X, phi.landmarks)
    expected = cross @ np.linalg.solve(phi.kernel(phi.landmarks), cross.T)
    assert_close(phi(X) @ phi(X).T, expected, 1e-11)


def test_error_is_positive_semidefinite_and_falls_with_the_rank():
    kernel = NystroemFeatures(X[:1], depth=3).kernel(X)
    traces = []
    for m in (5, 20, 80, 150):
        z = nystroem(X, m, depth=3, seed=0)(X)
        error = kernel - z @ z.T
        assert np.linalg.eigvalsh(error).min() > -1e-9
        traces.append(np.trace(error))
    assert traces == sorted(traces, reverse=True)
    assert traces[-1] < 1e-8


def test_trace_error_is_near_the_best_of_that_rank():
    """30 landmarks against the best matrix of rank 30, whose error no landmarks reach; mean of 10 seeds."""
    kernel = NystroemFeatures(X[:1], depth=2).kernel(X)
    best = np.linalg.eigvalsh(kernel)[:-30].sum()
    errors = [np.trace(kernel) - (nystroem(X, 30, depth=2, seed=s)(X) ** 2).sum() for s in range(10)]
    assert best < np.mean(errors) < 2.5 * best


def test_zero_and_repeated_rows_are_never_landmarks_twice():
    x = np.concatenate((X[:10], np.zeros((3, 4)), X[:10], 3 * X[:10]))
    phi = nystroem(x, 33, depth=2, seed=0)
    assert phi.n_features == 10
    assert (np.linalg.norm(phi.landmarks, axis=1) > 0).all()
    assert_close(phi(x) @ phi(x).T, phi.kernel(x), 1e-10)
    assert not phi(x)[10:13].any()


def test_zero_rows_alone_are_refused():
    with pytest.raises(ValueError, match="rows of zeros"):
        nystroem(np.zeros((3, 2)), 2, depth=1, seed=0)


@pytest.mark.parametrize("rows", [[0, 1, 0], [0, 1, 2]])
def test_singular_landmarks_are_refused(rows):
    z = np.array([[1.0, 2.0], [0.5, -1.0], [0.0, 0.0]])[rows]
    with pytest.raises(NotPositiveDefiniteError, match="3 landmarks"):
        NystroemFeatures(z, depth=1)


def test_float32_landmarks_serve_float64_rows():
    phi = nystroem(X.astype(np.float32), 30, depth=2, seed=0)
    assert phi.landmarks.dtype == np.float32
    assert phi(X).dtype == np.float64
    assert_close(phi(X), phi(X.astype(np.float32)), 1e-3)


@pytest.mark.parametrize("parameters", [{"depth": 2}, {"depth": 1, "b_std": 0.5}, {"depth": 2, "kind": "nngp"}])
def test_vjp_of_every_kernel(parameters):
    phi = nystroem(X, 12, seed=0, **parameters)
    rng = np.random.default_rng(2)
    x, ct, direction = rng.standard_normal((6, 4)), rng.standard_normal((6, 12)), rng.standard_normal((6, 4))
    h = 1e-6
    difference = (ct * (phi(x + h * direction) - phi(x - h * direction))).sum(1) / (2 * h)
    assert_close((phi.vjp(x, ct) * direction).sum(1), difference, 1e-6)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"n_features": 0}, ValueError, "n_features"),
        ({"kind": "rbf"}, ValueError, "nngp, ntk"),
        ({"depth": -1}, ValueError, "depth"),
        ({"x": X.astype(int)}, TypeError, "float32"),
        ({"x": X[:0]}, ValueError, "x"),
        ({"seed": -3}, ValueError, "seed"),
        ({"block_size": 0}, ValueError, "block_size"),
    ],
)
def test_bad_arguments_are_refused(change, error, words):
    with pytest.raises(error, match=words):
        nystroem(**{"x": X, "n_features": 5, "depth": 1, "seed": 0, **change})
