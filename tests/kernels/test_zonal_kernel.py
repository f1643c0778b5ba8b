"""The zonal kernels: norms at the ends of the range, blocks that never overstep, symmetry and exact ends."""

import numpy as np
import pytest

from ntkfast.kernels import zonal as kernels
from ntkfast.zonal import zonal

for_each_dtype = pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])


def normalize(x):
    unit, norm = np.empty_like(x), np.empty(len(x), x.dtype)
    kernels.normalize.cpu(x, x.dtype.type(np.sqrt(np.finfo(x.dtype).tiny)), unit, norm)
    return unit, norm


def evaluate(out, u1, u2, corner=(0, 0), mirror=0, depth=3, threshold=1e-3):
    table, dtype = zonal(depth).table(out.dtype), out.dtype
    ones = [np.ones(len(u), dtype) for u in (u1, u2)]
    tables = (table.coefficients[None], table.ends[None], dtype.type(threshold))
    kernels.evaluate.cpu(u1, u2, *ones, *tables, *corner, mirror, out)


@for_each_dtype
@pytest.mark.parametrize("power", [-30, 0, 30])
def test_normalize_neither_overflows_nor_underflows(dtype, power):
    x = (np.random.default_rng(0).standard_normal((9, 21)) * 10.0**power).astype(dtype)
    x[4] = 0
    unit, norm = normalize(x)
    exact = np.linalg.norm(x.astype(np.float64), axis=1)
    np.testing.assert_allclose(norm, exact, rtol=4 * np.finfo(dtype).eps)
    expected = x / np.where(exact > 0, exact, 1)[:, None]
    np.testing.assert_allclose(unit, expected, rtol=6 * np.finfo(dtype).eps)


@for_each_dtype
def test_normalize_keeps_denormal_and_huge_rows(dtype):
    limits = np.finfo(dtype)
    x = np.array([[limits.smallest_subnormal, 0], [limits.max, limits.max / 4], [-limits.tiny, limits.tiny]], dtype)
    unit, norm = normalize(x)
    np.testing.assert_allclose((unit.astype(np.float64) ** 2).sum(axis=1), 1, rtol=4 * limits.eps)
    # the norm of the second row is beyond the range
    np.testing.assert_array_equal(norm[:2], [limits.smallest_subnormal, np.inf])


@for_each_dtype
def test_a_block_touches_nothing_outside(dtype):
    u = normalize(np.random.default_rng(1).standard_normal((60, 5)).astype(dtype))[0]
    out = np.full((1, 60, 60), 7, dtype)
    out[0, 10:30, 5:50] = u[10:30] @ u[5:50].T
    evaluate(out, u[10:30], u[5:50], corner=(10, 5))
    untouched = np.ones((60, 60), bool)
    untouched[10:30, 5:50] = False
    assert (out[0][untouched] == 7).all()
    assert (out[0][~untouched] < 7).all()


@for_each_dtype
def test_mirrored_blocks_fill_a_symmetric_matrix_with_exact_diagonal(dtype):
    """More rows and columns than a tile has, in uneven blocks; every entry equals the unmirrored one in bits."""
    n = 2 * kernels.TILE_COLUMNS + 3
    u = normalize(np.random.default_rng(2).standard_normal((n, 6)).astype(dtype))[0]
    products = np.triu(u @ u.T)
    products += np.triu(products, 1).T
    whole, out = products[None].copy(), np.full((1, n, n), np.nan, dtype)
    evaluate(whole, u, u)
    for start, stop in ((0, 100), (100, 101), (101, 400), (400, n)):
        out[0, start:stop, start:] = products[start:stop, start:]
        evaluate(out, u[start:stop], u[start:], corner=(start, start), mirror=1)
    assert (out[0].diagonal() == 4).all()
    np.fill_diagonal(whole[0], 4)
    np.testing.assert_array_equal(out, whole)


@for_each_dtype
def test_equal_and_opposite_rows_are_exact_however_wrong_their_product(dtype):
    u = normalize(np.random.default_rng(3).standard_normal((1, 300)).astype(dtype))[0]
    error = dtype(20 * np.finfo(dtype).eps)
    for sign, end in ((1, 0), (-1, np.pi)):
        out = np.array([[[sign * (1 - error)]]], dtype)
        evaluate(out, u, sign * u)
        assert out[0, 0, 0] == dtype(zonal(3).of_angle(end)) if sign > 0 else dtype(zonal(3).table(dtype).ends[1])


@for_each_dtype
def test_chords_replace_products_exactly_where_they_are_too_close(dtype):
    """A product that lies below the threshold is not used; one above it is, however wrong."""
    u1, u2 = np.array([[1, 0]], dtype), np.array([[0.6, 0.8]], dtype)
    for product, used in ((0.999, 0.6), (0.5, 0.5), (-0.5, -0.5)):
        out = np.array([[[product]]], dtype)
        evaluate(out, u1, u2, threshold=0.01)
        assert out[0, 0, 0] == pytest.approx(float(zonal(3).of_cosine(used)), rel=float(8 * np.finfo(dtype).eps))
