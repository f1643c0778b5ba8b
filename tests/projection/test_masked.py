"""MaskedProjection: the map of its definition, its moments, what it keeps, and its values."""

import itertools

import numpy as np
import pytest
from helpers import assert_close

from ntkfast.projection import KroneckerProjection, MaskedProjection, project
from ntkfast.projection._sides import Sampled


def sizes(length, width):
    """Sizes of the strata."""
    return np.diff([length * b // width for b in range(width + 1)])


@pytest.mark.parametrize(("length", "width"), [(12, 5), (7, 7), (9, 1), (100, 33)])
def test_a_mask_keeps_one_coordinate_of_every_stratum(length, width):
    counts = np.zeros(length)
    for key in range(200):
        kept = Sampled(length, width, key).apply(np.eye(length))  # (length, width)
        chosen = np.abs(kept).argmax(axis=0)
        bounds = np.array([length * b // width for b in range(width + 1)])
        assert ((bounds[:-1] <= chosen) & (chosen < bounds[1:])).all()
        np.testing.assert_allclose(kept[chosen, range(width)] ** 2, sizes(length, width), rtol=1e-15)
        np.testing.assert_array_equal((kept != 0).sum(axis=0), 1)
        counts[chosen] += 1
    expected = 200 / np.repeat(sizes(length, width), sizes(length, width))
    assert (np.abs(counts - expected) <= 7 * np.sqrt(expected)).all()  # fixed keys: once right, always right


@pytest.mark.parametrize(("combine", "nnz"), [("sum", 1), ("concatenate", 2)])
def test_the_map_is_that_of_the_definition(combine, nnz):
    """Sampled rows and columns, and the sparse map of what is left."""
    x = np.random.default_rng(0).standard_normal((3, 2, 6, 10))
    sketch = MaskedProjection(8, combine=combine, nnz=nnz, seed=3)
    part = sketch._plan({"w": (2, 6, 10)}).parts["w"]
    assert (part.rows.width, part.columns.width) == (3, 10)
    left, right = (side.apply(np.eye(side.length)) for side in (part.rows, part.columns))
    core = np.einsum("ia,nio,ob->nab", left, x.reshape(3, 12, 10), right).reshape(3, -1)
    assert_close(project({"w": x}, sketch), part.hashes.apply(core), 1e-12)
    assert part.hashes.nnz == nnz


def test_arrays_that_fit_are_kept():
    """With the places, signs and exact inner products of the other two-sided projection."""
    x = np.random.default_rng(0).standard_normal((4, 5, 3))
    for combine in ("sum", "concatenate"):
        z = project({"w": x}, MaskedProjection(16, combine=combine, seed=0))
        assert_close(z @ z.T, np.einsum("nio,mio->nm", x, x), 1e-12)
        np.testing.assert_array_equal((z != 0).sum(axis=1), 15)


def test_nothing_is_masked_below_the_blow_up():
    part = MaskedProjection(8, seed=0)._plan({"w": (5, 6)}).parts["w"]
    assert (part.rows.width, part.columns.width) == (5, 6)
    assert MaskedProjection(8, blow_up=3, seed=0)._plan({"w": (5, 6)}).parts["w"].rows.width == 4


# --- moments -------------------------------------------------------------------------------------


def weights(length, width):
    """w(a, a'): the mean of the product of the squared factors of two coordinates."""
    s = sizes(length, width)
    stratum = np.repeat(np.arange(width), s)
    return np.where(np.eye(length, dtype=bool), s[stratum], stratum[:, None] != stratum)


def variance(x, y, k_in, k_out, c):
    """The formula of the docstring."""
    w_in, w_out, g = weights(len(x), k_in), weights(x.shape[1], k_out), x * y

    def mean_of_products(b, d):
        return ((w_in @ b @ w_out) * d).sum()

    norms = mean_of_products(x * x, y * y)
    fourth = np.diag(w_in) @ (g * g) @ np.diag(w_out)
    return (1 + c) * mean_of_products(g, g) - g.sum() ** 2 + c * (norms - 2 * fourth)


def all_masks(length, width):
    """Every mask of one side as a matrix (length, width), with its probability."""
    bounds = [length * b // width for b in range(width + 1)]
    strata = [range(*pair) for pair in itertools.pairwise(bounds)]
    scale, eye = np.sqrt(sizes(length, width)), np.eye(length)
    return np.array([eye[:, list(chosen)] * scale for chosen in itertools.product(*strata)])


@pytest.mark.parametrize(
    ("i", "o", "k_in", "k_out", "m"), [(3, 2, 2, 2, 2), (4, 3, 2, 2, 2), (5, 3, 2, 1, 3), (1, 5, 1, 3, 2)]
)
def test_mean_and_variance_over_all_masks_and_hashes(i, o, k_in, k_out, m):
    """Exact: every mask, bucket and sign is tried."""
    x, y = np.random.default_rng(i + o).standard_normal((2, i, o))
    masked = [np.einsum("pia,io,qob->pqab", all_masks(i, k_in), z, all_masks(o, k_out)) for z in (x, y)]
    u, v = (z.reshape(-1, k_in * k_out) for z in masked)
    signs = np.array(list(itertools.product((1, -1), repeat=k_in * k_out)))
    draws = []
    for h in itertools.product(range(m), repeat=k_in * k_out):
        su, sv = (np.einsum("pe,qe,em->pqm", z, signs, np.eye(m)[list(h)]) for z in (u, v))
        draws.append((su * sv).sum(axis=-1))
    assert_close(np.mean(draws), (x * y).sum(), 1e-12)
    assert_close(np.var(draws), variance(x, y, k_in, k_out, 1 / m), 1e-12)


@pytest.mark.stat
@pytest.mark.parametrize(
    ("combine", "widths", "nnz", "k", "k_bias"),
    [
        ("sum", 6, 1, (2, 6), None),
        ("sum", 13, 2, (2, 10), None),
        ("sum", 3, 1, (1, 4), 5),
        ("concatenate", {"w": 30, "b": 2}, 4, (5, 12), 4),
    ],
)
def test_moments_over_seeds(combine, widths, nnz, k, k_bias):
    """R = 2000 seeds, two arrays: mean and variance within 6 standard errors, failure probability below 4e-9.

    A bias that fits (no k) is kept: exact by itself, it still meets the weight where they are added.
    """
    rng, draws = np.random.default_rng(0), []
    w, b = rng.standard_normal((2, 7, 12)) + 0.5, rng.standard_normal((2, 5))
    options = {"combine": combine, "blow_up": 2, "nnz": nnz}
    part = MaskedProjection(widths, seed=0, **options)._plan({"w": w[0].shape, "b": b[0].shape}).parts["w"]
    assert (part.rows.width, part.columns.width) == k
    for seed in range(2000):
        z = project({"w": w, "b": b}, MaskedProjection(widths, seed=seed, **options))
        draws.append(z[0] @ z[1])
    m = widths if isinstance(widths, dict) else {"w": widths, "b": widths}
    c = {path: (1 / sizes(m[path], min(nnz, m[path]))).sum() / min(nnz, m[path]) ** 2 for path in m}
    expected = variance(*w, *k, c["w"]) + (variance(*b[:, None], 1, k_bias, c["b"]) if k_bias else 0)
    if combine == "sum":
        one, two = (w * w).sum((1, 2)), (b * b).sum(1)
        cross = one[0] * two[1] + one[1] * two[0] + 2 * (w[0] * w[1]).sum() * (b[0] @ b[1])
        expected += cross * (c["w"] if k_bias else 1 / widths)
    error = np.array(draws) - (w[0] * w[1]).sum() - b[0] @ b[1]
    kurtosis = (error**4).mean() / (error**2).mean() ** 2
    assert abs(error.mean()) < 6 * np.sqrt(expected / 2000)
    assert abs((error**2).mean() / expected - 1) < 6 * np.sqrt((kurtosis - 1) / 2000)


# --- values --------------------------------------------------------------------------------------


def test_a_narrow_array_takes_fewer_nonzeros():
    x = np.ones((1, 30, 4))
    z = project({"w": x}, MaskedProjection({"w": 3}, combine="concatenate", nnz=4, seed=0))
    assert z.shape == (1, 3)


def test_sketches_depend_on_path_and_seed():
    x = np.random.default_rng(0).standard_normal((1, 30, 20))
    one = project({"w": x}, MaskedProjection(16, seed=0))
    assert not np.array_equal(one, project({"w": x}, MaskedProjection(16, seed=1)))
    assert not np.array_equal(one, project({"v": x}, MaskedProjection(16, seed=0)))
    np.testing.assert_array_equal(one, project({"w": x}, MaskedProjection(16, seed=0)))


def test_classes_with_one_seed_are_independent():
    x = np.random.default_rng(0).standard_normal((1, 3, 4))
    z = [project({"w": x}, cls(12, combine="sum", seed=0)) for cls in (MaskedProjection, KroneckerProjection)]
    assert not np.array_equal(*z)


def test_values_are_equal():
    assert eval(repr(MaskedProjection(8, nnz=2, seed=0))) == MaskedProjection(8, nnz=2, blow_up=4, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"blow_up": 0}, "blow_up to be"),
        ({"blow_up": 1.5}, "blow_up to be an integer"),
        ({"nnz": 0}, "nnz to be"),
        ({"combine": "mean"}, "combine to be one of"),
        ({"seed": -1}, "seed to be between"),
    ],
)
def test_bad_fields(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        MaskedProjection(8, **{"seed": 0, **options})
