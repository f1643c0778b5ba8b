"""The measured error of a map, and the width suggested for a wanted one."""

import numpy as np
import pytest

from ntkfast.features import OnePassFeatures, gram_error, suggest_n_features

X = np.random.default_rng(0).random((120, 12))


def test_error_of_all_rows_is_the_definition(backend):
    phi = OnePassFeatures(12, 200, depth=2, seed=0)
    kernel = phi.kernel(X)
    expected = np.linalg.norm(phi(X) @ phi(X).T - kernel) / np.linalg.norm(kernel)
    got = gram_error(phi, backend.asarray(X), seed=0)
    assert got.error == pytest.approx(expected, rel=1e-9)
    assert got.standard_error == 0
    assert got.n_rows == 120
    assert got.interval == (got.error, got.error)


@pytest.mark.stat
def test_subsample_agrees_within_its_standard_error():
    """40 rows of 400 against all, for R = 60 choices of rows: median |difference| / standard error in (0.1, 3).

    Choices are independent. If one lies beyond either end with a probability of at most 1/5, 30 of 60 do with
    P(Bin(60, 1/5) >= 30) < 3e-7 for each end. (For a t variable of 7 degrees of freedom, the probabilities are 0.02 and
    0.08; of 400 other choices, 0.015 and 0.11 of them did.)
    """
    x = np.random.default_rng(1).random((400, 12))
    phi = OnePassFeatures(12, 300, depth=3, seed=0)
    full = gram_error(phi, x, seed=0).error
    parts = [gram_error(phi, x, n_rows=40, seed=seed) for seed in range(60)]
    assert all(part.n_rows == 40 and part.standard_error > 0 for part in parts)
    assert 0.1 < np.median([abs(part.error - full) / part.standard_error for part in parts]) < 3


def test_rows_are_a_function_of_the_seed():
    phi = OnePassFeatures(12, 50, depth=1, seed=0)
    assert gram_error(phi, X, n_rows=30, seed=3) == gram_error(phi, X, n_rows=30, seed=3)
    assert gram_error(phi, X, n_rows=30, seed=3) != gram_error(phi, X, n_rows=30, seed=4)


@pytest.mark.parametrize("start", [60, 2000])
def test_suggested_width_meets_the_error_and_is_not_wasteful(start):
    phi = OnePassFeatures(12, start, depth=8, seed=5)
    found = suggest_n_features(phi, X, error=0.06)
    assert found == OnePassFeatures(12, found.n_features, depth=8, seed=5)
    measured = np.median(
        [gram_error(OnePassFeatures(12, found.n_features, depth=8, seed=s), X, seed=0).error for s in range(9)]
    )
    assert 0.03 < measured < 0.075


def test_unreachable_error_is_refused():
    phi = OnePassFeatures(12, 50, depth=8, seed=5)
    with pytest.raises(ValueError, match="max_features"):
        suggest_n_features(phi, X, error=1e-4, max_features=200)


@pytest.mark.parametrize("error", [0.0, -1.0, np.nan])
def test_bad_wanted_errors_are_refused(error):
    with pytest.raises(ValueError, match="error"):
        suggest_n_features(OnePassFeatures(12, 50, depth=1, seed=0), X, error=error)


def test_zero_rows_alone_have_no_error():
    with pytest.raises(ValueError, match="zero"):
        gram_error(OnePassFeatures(12, 50, depth=1, seed=0), np.zeros((3, 12)), seed=0)


def test_maps_without_a_seed_are_refused():
    with pytest.raises(TypeError, match="seed"):
        suggest_n_features(object(), X, error=0.1)
