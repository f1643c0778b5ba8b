"""Mean and variance of sketched inner products against the formulas of the docstrings.

Every test draws R = 2000 independent sketches: of seeds 0, ..., R - 1, or, where columns are hashed one by one, of R
disjoint ranges of columns of one sketch (which also tests that ranges are independent). By the central limit theorem

- the mean of R draws is within 6 standard errors sqrt(variance / R) of the expectation, and
- their sample variance is within 6 standard errors sqrt((kurtosis - 1) / R) of the variance, relatively
  (kurtosis estimated from the draws themselves),

each with a failure probability of 2e-9 for a correct implementation, so below 1e-6 for all draws of this file. Seeds
are fixed: a correct implementation that passed once always passes.
"""

import numpy as np
import pytest
import scipy.sparse
from one_thread import one_thread  # noqa: F401

from ntkfast.sketch import (
    SRHT,
    BlockSRHT,
    Composition,
    CoordinateMask,
    CountSketch,
    GaussianSketch,
    PolySketch,
    RademacherSketch,
    SparseJL,
    TensorSketch,
    TensorSRHT,
)

pytestmark = pytest.mark.stat
R = 2000
BOUND = 6.0


def assert_moments(draws, mean, variance):
    """Compare draws (R,) with their mean and variance; a variance of 0 means no spread at all."""
    draws = np.asarray(draws, np.float64)
    assert draws.shape == (R,)
    centered = draws - mean
    if variance < 1e-20:
        assert np.abs(centered).max() < 1e-12
        return
    assert abs(centered.mean()) < BOUND * np.sqrt(variance / R)
    kurtosis = (centered**4).mean() / (centered**2).mean() ** 2
    assert abs((centered**2).mean() / variance - 1) < BOUND * np.sqrt((kurtosis - 1) / R)


def pair(d, seed=0, cosine=0.6):
    """Two unit rows (2, d) with the given cosine and one large coordinate."""
    if d == 1:
        return np.array([[1.0], [0.5]])
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(d)
    x[0] += 2.0
    y = rng.standard_normal(d)
    x /= np.linalg.norm(x)
    y -= (x @ y) * x
    y /= np.linalg.norm(y)
    return np.stack([x, cosine * x + np.sqrt(1 - cosine**2) * y])


def inner(z):
    return float(z[0] @ z[1])


def in_ranges(rows):
    """Two sparse matrices (R, R d): row k holds a row of `rows` (2, d) in columns k d, ..., k d + d - 1."""
    return [scipy.sparse.kron(scipy.sparse.eye_array(R), row[None], format="csr") for row in rows]


def draws_of_ranges(sketch, *pairs):
    """Inner products of the sketched rows, one per range of columns."""
    left, right = zip(*[in_ranges(pair) for pair in pairs], strict=True)
    return (sketch.apply(*left) * sketch.apply(*right)).sum(axis=1)


def sign_variance(x, y):
    return (x @ x) * (y @ y) + (x @ y) ** 2 - 2 * ((x * y) ** 2).sum()


@pytest.mark.parametrize(("d", "m"), [(12, 5), (40, 16), (7, 1)])
def test_countsketch(d, m):
    x = pair(d)
    draws = draws_of_ranges(CountSketch(d * R, m, seed=0), x)
    assert_moments(draws, x[0] @ x[1], sign_variance(*x) / m)


@pytest.mark.parametrize(("m", "nnz"), [(12, 3), (11, 4), (5, 5)])
def test_sparsejl(m, nnz):
    x = pair(9)
    sizes = np.diff([m * b // nnz for b in range(nnz + 1)])
    draws = draws_of_ranges(SparseJL(9 * R, m, nnz=nnz, seed=0), x)
    assert_moments(draws, x[0] @ x[1], sign_variance(*x) * (1 / sizes).sum() / nnz**2)


def test_gaussian():
    x = pair(9)
    draws = draws_of_ranges(GaussianSketch(9 * R, 7, seed=0), x)
    assert_moments(draws, x[0] @ x[1], ((x[0] @ x[0]) * (x[1] @ x[1]) + (x[0] @ x[1]) ** 2) / 7)


def test_rademacher():
    x = pair(9)
    draws = draws_of_ranges(RademacherSketch(9 * R, 7, seed=0), x)
    assert_moments(draws, x[0] @ x[1], sign_variance(*x) / 7)


@pytest.mark.parametrize(("d", "m"), [(12, 5), (16, 15), (16, 16), (9, 24), (1, 3)])
def test_srht(d, m):
    x = pair(d)
    draws = [inner(SRHT(d, m, seed=s).apply(x)) for s in range(R)]
    assert_moments(draws, x[0] @ x[1], srht_variance(*x, m))


def srht_variance(x, y, m):
    p = 1 << (x.size - 1).bit_length()
    k = m % p
    return sign_variance(x, y) * k * (p - k) / (m * m * (p - 1)) if p > 1 else 0.0


def across(x, y, bounds):
    """``|x|^2 |y|^2 + <x, y>^2`` less the same of every block between `bounds`."""
    blocks = list(zip(np.split(x, bounds), np.split(y, bounds), strict=True))
    return sum(s * ((a @ a) * (b @ b) + (a @ b) ** 2) for s, (a, b) in [(1, (x, y)), *((-1, pair) for pair in blocks)])


@pytest.mark.parametrize(("d", "m", "block"), [(12, 5, 4), (13, 3, 4), (16, 16, 8), (11, 6, 4), (5, 3, 1), (7, 5, 8)])
def test_block_srht(d, m, block):
    """Among the vectors are those of first coordinates of blocks alone, which meet the row of ones."""
    bounds = list(range(block, d, block))
    firsts = np.zeros((2, d))
    firsts[0, ::block], firsts[1, ::block] = 1.0, np.arange(1, len(bounds) + 2)
    for x in (pair(d), firsts):
        blocks = zip(np.split(x[0], bounds), np.split(x[1], bounds), strict=True)
        variance = across(*x, bounds) / m + sum(srht_variance(a, b, m) for a, b in blocks)
        draws = [inner(BlockSRHT(d, m, block=block, seed=s).apply(x)) for s in range(R)]
        assert_moments(draws, x[0] @ x[1], variance)


def mask_variance(x, y, bounds):
    strata = np.split(x * y, bounds)
    return sum(g.size * (g @ g) - g.sum() ** 2 for g in strata)


@pytest.mark.parametrize(("d", "m"), [(12, 4), (13, 5), (9, 1), (6, 6)])
def test_coordinate_mask(d, m):
    x, bounds = pair(d), [d * b // m for b in range(1, m)]
    draws = [inner(CoordinateMask(d, m, seed=s).apply(x)) for s in range(R)]
    assert_moments(draws, x[0] @ x[1], mask_variance(*x, bounds))


@pytest.mark.parametrize(("d", "kept", "m"), [(14, 6, 3), (12, 12, 5), (11, 3, 4)])
def test_mask_and_sparsejl(d, kept, m):
    """GraSS, with the same seed for both."""
    x, bounds = pair(d), [d * b // kept for b in range(1, kept)]
    maps = [(CoordinateMask(d, kept, seed=s), SparseJL(kept, m, nnz=1, seed=s)) for s in range(R)]
    draws = [inner(Composition(*both).apply(x)) for both in maps]
    assert_moments(draws, x[0] @ x[1], mask_variance(*x, bounds) + across(*x, bounds) / m)


def tensor_sketch_variance(pairs, m):
    """The formula of the docstring; `pairs` holds (x_k, y_k)."""
    c2 = np.array([(x @ y) ** 2 for x, y in pairs])
    e = np.array([((x * y) ** 2).sum() for x, y in pairs])
    a = np.array([(x @ x) * (y @ y) for x, y in pairs]) - e
    b = c2 - e
    first = (c2 + a).prod() + (c2 + b).prod() - 2 * c2.prod()
    second = (c2 + a + b).prod() - (c2 + a).prod() - (c2 + b).prod() + c2.prod()
    return first / m + (1 if m % 2 else 2) * second / m**2


@pytest.mark.parametrize(("in_dims", "m"), [((5,), 4), ((5, 4), 8), ((5, 4), 7), ((3, 4, 3), 9), ((3, 4, 3, 2), 10)])
def test_tensor_sketch(in_dims, m):
    pairs = [pair(d, seed=k) for k, d in enumerate(in_dims)]
    variance = tensor_sketch_variance(pairs, m)
    assert variance <= (2 + 3 ** len(in_dims)) / m
    draws = draws_of_ranges(TensorSketch(tuple(d * R for d in in_dims), m, seed=0), *pairs)
    assert_moments(draws, np.prod([x @ y for x, y in pairs]), variance)


def tensor_srht_variance(pairs, in_dims, m):
    """The formula of the docstring."""
    orders = [1 << (d - 1).bit_length() for d in in_dims]
    cosines = [x @ y for x, y in pairs]
    spread = [sign_variance(x, y) for x, y in pairs]
    single = [(m % p) * (p - m % p) / max(p - 1, 1) for p in orders]
    total = single[0] * spread[0] * cosines[1] ** 2 + single[1] * spread[1] * cosines[0] ** 2
    if min(orders) > 1:
        p, k = min(orders), m % min(orders)
        together = (m - k) * (p - 1) + k * (k - 1)
        total += (m + together / ((orders[0] - 1) * (orders[1] - 1))) * spread[0] * spread[1]
    return total / m**2


@pytest.mark.parametrize(
    ("in_dims", "m"), [((8, 8), 8), ((8, 7), 16), ((8, 3), 8), ((5, 12), 11), ((3, 8), 21), ((1, 8), 5), ((9, 6), 1)]
)
def test_tensor_srht(in_dims, m):
    pairs = [pair(d, seed=k) for k, d in enumerate(in_dims)]
    draws = [inner(TensorSRHT(in_dims, m, seed=s).apply(*pairs)) for s in range(R)]
    assert_moments(draws, np.prod([x @ y for x, y in pairs]), tensor_srht_variance(pairs, in_dims, m))


def poly_variance_bound(j, s, m, hashed):
    """The formula of the docstring, for unit vectors of cosine s."""
    leaves = j * s ** (2 * (j - 1)) * (1 + s * s) if hashed else 0.0
    sizes = [2**k for k in range(1, j.bit_length())]
    return (leaves + sum(j / k * s ** (2 * (j - k)) * (1 + s**k) ** 2 for k in sizes)) / m


@pytest.mark.parametrize(("d", "m"), [(20, 32), (100, 64), (10, 11)])
@pytest.mark.parametrize("cosine", [0.3, 0.9])
def test_poly_sketch_means_of_all_powers(d, m, cosine):
    """Unbiased: each power within 6 standard errors, estimated from the draws."""
    x = pair(d, cosine=cosine)
    draws = np.array([[inner(u) for u in PolySketch(d, 5, m, seed=s).apply(x)] for s in range(1000)])
    errors = (draws.mean(axis=0) - cosine ** np.arange(1, 6)) / (draws.std(axis=0) / np.sqrt(1000) + 1e-12)
    assert np.abs(errors).max() < BOUND


@pytest.mark.parametrize("d", [60, 200])
@pytest.mark.parametrize("cosine", [0.3, 0.7, 1.0])
def test_poly_sketch_variance_is_within_its_leading_order(d, cosine):
    """At m = 128, R = 1000: sample variance at most 1.6 times the leading order, and at least 0.4 times.

    Terms of order 1 / m**2 and of the coordinates add or take at most 0.25, and a sample variance of 1000 draws
    of kurtosis up to 9 has a relative standard error of 0.09.
    """
    x = pair(d, cosine=cosine)
    powers = np.array([[inner(u) for u in PolySketch(d, 4, 128, seed=s).apply(x)] for s in range(1000)])
    for j in (2, 4):
        ratio = powers[:, j - 1].var() / poly_variance_bound(j, cosine, 128, hashed=d > 128)
        assert 0.4 < ratio < 1.6
