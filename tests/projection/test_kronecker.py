"""KroneckerProjection: the map of its definition, its moments, what it keeps, and its values."""

import itertools

import numpy as np
import pytest
from empirical.networks import named
from helpers import assert_close

from ntkfast.empirical import empirical_ntk
from ntkfast.projection import KroneckerProjection, project, project_jacobian
from ntkfast.projection._sides import Kept, Mixed

ARRAYS = {"w": (6, 5), "b": (5,)}


def pairs(seed=0):
    """Two Jacobians of a weight and of a bias."""
    rng = np.random.default_rng(seed)
    return {path: rng.standard_normal((2, *shape)) for path, shape in ARRAYS.items()}


def matrix(side):
    """The matrix of a side."""
    return side.apply(np.eye(side.length))


@pytest.mark.parametrize("width", [6, 12, 30, 40])
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
def test_the_map_is_that_of_the_definition(width, combine):
    """Numbers of A^T X C in order, from a place that is 0 or random, zeros elsewhere."""
    x = np.random.default_rng(0).standard_normal((3, 2, 3, 5))
    sketch = KroneckerProjection(width, combine=combine, seed=3)
    part = sketch._plan({"w": (2, 3, 5)}).parts["w"]
    core = np.einsum("ia,nio,ob->nab", matrix(part.rows), x.reshape(3, 6, 5), matrix(part.columns)).reshape(3, -1)
    expected = np.zeros((3, width))
    expected[:, (part.start + np.arange(core.shape[1])) % width] = core
    assert_close(project({"w": x}, sketch), expected, 1e-12)
    assert combine == "sum" or part.start == 0


def test_entries_are_signs():
    mixed = matrix(Mixed(40, 16, 7))
    np.testing.assert_array_equal(np.abs(mixed), np.full((40, 16), 0.25))
    assert abs(mixed.sum()) < 6 * 0.25 * np.sqrt(640)
    kept = matrix(Kept(40, 7))
    np.testing.assert_array_equal(np.abs(kept), np.eye(40))
    assert abs(kept.sum()) < 6 * np.sqrt(40)
    assert not np.array_equal(mixed, matrix(Mixed(40, 16, 8)))


def test_places_of_sums_are_spread():
    """Of 400 paths, every one of 8 places gets 10 to 90: outside with probability below 8e-10."""
    sketch = KroneckerProjection(8, combine="sum", seed=0)
    starts = [part.start for part in sketch._plan({str(path): (2,) for path in range(400)}).parts.values()]
    counts = np.bincount(starts, minlength=8)
    assert counts.shape == (8,)
    assert counts.min() >= 10
    assert counts.max() <= 90


# --- moments -------------------------------------------------------------------------------------


def spread(b):
    return (b * b).sum() + np.trace(b @ b) - 2 * (np.diag(b) ** 2).sum()


def variance(x, y, k_in, k_out):
    """The formula of the docstring; a kept side has k = inf."""
    m, n, x2, y2 = x.T @ y, x @ y.T, x * x, y * y
    cross = (m * m).sum() + x2.sum() * y2.sum() - 2 * (x2.sum(1) * y2.sum(1)).sum()
    cross += (n * n).sum() + (x * y).sum() ** 2 - 2 * (np.diag(n) ** 2).sum()
    cross -= 2 * ((x2.sum(0) * y2.sum(0)).sum() + (np.diag(m) ** 2).sum() - 2 * (x2 * y2).sum())
    return spread(n) / k_in + spread(m) / k_out + cross / (k_in * k_out)


def all_matrices(length, k):
    """Every matrix of one side, with probability equal for all; k = inf keeps it."""
    if k == np.inf:
        return np.array([np.diag(signs) for signs in itertools.product((1, -1), repeat=length)])
    signs = np.array(list(itertools.product((1, -1), repeat=length * k)))
    return signs.reshape(-1, length, k) / np.sqrt(k)


@pytest.mark.parametrize(
    ("i", "o", "k_in", "k_out"),
    [(2, 2, 1, 1), (2, 3, 1, 2), (3, 2, 2, 1), (2, 2, 2, 2), (3, 3, 2, np.inf), (3, 2, np.inf, 2),
     (2, 2, np.inf, np.inf), (1, 4, np.inf, 2)],
)  # fmt: skip
def test_mean_and_variance_over_all_signs(i, o, k_in, k_out):
    """Exact: every matrix of signs is tried."""
    x, y = np.random.default_rng(i + o).standard_normal((2, i, o))
    left, right = all_matrices(i, k_in), all_matrices(o, k_out)
    sx, sy = (np.einsum("pia,io,qob->pqab", left, z, right, optimize=True) for z in (x, y))
    draws = (sx * sy).sum(axis=(2, 3))
    assert_close(draws.mean(), (x * y).sum(), 1e-12)
    assert abs(draws.var() - variance(x, y, k_in, k_out)) < 1e-12 * (x * x).sum() * (y * y).sum()
    bound = 2 / k_in + 2 / k_out + 4 / (k_in * k_out)
    assert variance(x, y, k_in, k_out) <= bound * (x * x).sum() * (y * y).sum() + 1e-12


@pytest.mark.stat
@pytest.mark.parametrize(
    ("combine", "widths", "k", "k_bias"),
    [
        ("sum", 2, (1, 2), 2),
        ("sum", 6, (6, 1), np.inf),
        ("sum", 16, (3, 5), np.inf),
        ("concatenate", {"w": 4, "b": 3}, (2, 2), 3),
        ("concatenate", {"w": 12, "b": 3}, (6, 2), 3),
    ],
)
def test_moments_over_seeds(combine, widths, k, k_bias):
    """R = 2000 seeds, two arrays: mean and variance within 6 standard errors, failure probability below 4e-9.

    The second may be kept, and then still meets the first where they are added.
    """
    data, draws = pairs(), []
    part = KroneckerProjection(widths, combine=combine, seed=0)._plan(ARRAYS).parts["w"]
    assert (part.rows.width, part.columns.width) == k
    for seed in range(2000):
        z = project(data, KroneckerProjection(widths, combine=combine, seed=seed))
        draws.append(z[0] @ z[1])
    w, b = data["w"], data["b"]
    kept = [np.inf if width == side else width for width, side in zip(k, (6, 5), strict=True)]
    expected = variance(*w, *kept) + variance(*b[:, None], np.inf, k_bias)
    if combine == "sum":
        one, two = (w * w).sum((1, 2)), (b * b).sum(1)
        expected += (one[0] * two[1] + one[1] * two[0] + 2 * (w[0] * w[1]).sum() * (b[0] @ b[1])) / widths
    error = np.array(draws) - (w[0] * w[1]).sum() - b[0] @ b[1]
    kurtosis = (error**4).mean() / (error**2).mean() ** 2
    assert abs(error.mean()) < 6 * np.sqrt(expected / 2000)
    assert abs((error**2).mean() / expected - 1) < 6 * np.sqrt((kurtosis - 1) / 2000)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mlp", "cnn_groups", "norms", "embedding", "resnet"])
def test_arrays_that_fit_are_exact(name):
    case = named(name)
    sizes = {path: int(np.prod(shape)) for path, shape in shapes(case).items()}
    z = project_jacobian(case.net, case.params, case.x1, KroneckerProjection(sizes, seed=0))
    exact = empirical_ntk(case.net, case.params, case.x1, output="full")
    assert_close(np.einsum("ikm,jlm->ijkl", z, z), exact, 1e-12)


def shapes(case):
    """Shapes of the parameters by path."""
    from ntkfast.autodiff import get_autodiff

    return {path: a.shape for path, a in get_autodiff("layers").check(case.net, case.params, case.x1).entries.items()}


def test_unused_numbers_are_zeros():
    z = project(pairs(), KroneckerProjection({"w": 40, "b": 7}, seed=0))
    assert z.shape == (2, 47)
    assert (z[:, :30] != 0).all()
    assert (z[:, 30:40] == 0).all()
    assert (z[:, 45:] == 0).all()


def test_a_mapping_leaves_arrays_out():
    data = pairs()
    z = project(data, KroneckerProjection({"w": 6, "b": 0}, seed=0))
    np.testing.assert_array_equal(z, project({"w": data["w"]}, KroneckerProjection(6, seed=0)))


def test_sketches_depend_on_path_and_seed():
    x = np.ones((1, 6, 5))
    one = project({"w": x}, KroneckerProjection(6, seed=0))
    assert not np.array_equal(one, project({"w": x}, KroneckerProjection(6, seed=1)))
    assert not np.array_equal(one, project({"v": x}, KroneckerProjection(6, seed=0)))
    np.testing.assert_array_equal(one, project({"w": x}, KroneckerProjection(6, seed=0)))


def test_concatenation_is_the_default():
    assert KroneckerProjection(8, seed=0) == KroneckerProjection(8, combine="concatenate", seed=0)
    assert eval(repr(KroneckerProjection(8, seed=0))) == KroneckerProjection(8, seed=0)


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "sketch_dim to be between 1"),
        ((8,), {"combine": "mean"}, "combine to be one of"),
        (({"w": 3},), {"combine": "sum"}, "got widths by path"),
        ((8,), {"seed": -1}, "seed to be between"),
    ],
)
def test_bad_fields(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        KroneckerProjection(*arguments, **{"seed": 0, **options})
