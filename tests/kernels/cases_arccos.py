"""Cases of ntkfast/kernels/arccos.py: cosines beyond 1 by rounding, equal and opposite rows, all blocks."""

import numpy as np
from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values


def unit(x):
    """Rows over their norms in float64; zero rows stay zero."""
    wide = x.astype(np.float64)
    wide /= np.where(np.abs(wide).max(axis=1) > 0, np.abs(wide).max(axis=1), 1)[:, None]
    length = np.linalg.norm(wide, axis=1)
    return (wide / np.where(length > 0, length, 1)[:, None]).astype(x.dtype)


def rows(n, d, seed, kind, dtype):
    """Unit rows, some of them equal to, opposite to, or a hair beside the first."""
    x = values((n, d), dtype, seed, kind)
    x[1::4], x[2::4] = x[0], -x[0]
    x[3::4] += x[0] * np.dtype(dtype).type(1e3)
    return unit(x)


def block(n, d, seed, kind, dtype, mirror, kinds_=()):
    """A block of products at a random corner: (u1, u2, row, column, out), out filled with 1/2 elsewhere."""
    rng = np.random.default_rng(seed)
    u = rows(n, d, seed, kind, dtype)
    other = u if mirror else rows(n + 2, d, seed + 1, kind, dtype)
    if not mirror:
        other[0] = u[0]
    row, column = (int(rng.integers(0, m)) for m in (len(u), len(other)))
    u1, u2 = u[row : row + 1 + n // 2].copy(), other[column:].copy()
    out = np.full((*kinds_, len(u), len(other)), 0.5, dtype)
    out[..., row : row + len(u1), column : column + len(u2)] = u1 @ u2.T
    return u1, u2, row, column, out


def _cosines(n, seed, dtype):
    c = np.random.default_rng(seed).uniform(-1, 1, n)
    c[::3] = np.random.default_rng(seed + 1).choice([-1, 1, 0, 0.5, -0.5, 1 + 2e-7, -1 - 2e-7, 1 - 1e-6], len(c[::3]))
    return c.astype(dtype)


def _kappa(dtype):
    def make(n, seed):
        return _cosines(n, seed, dtype), garbage(n, dtype), garbage(n, dtype)

    return st.builds(make, sizes(40), seeds)


def _slope(dtype):
    def make(n, seed):
        return _cosines(n, seed, dtype), dtype.type(np.finfo(dtype).epsneg), garbage(n, dtype), garbage(n, dtype)

    return st.builds(make, sizes(40), seeds)


def _kappa_of_angle(dtype):
    def make(n, seed, ratio):
        t = np.random.default_rng(seed).uniform(0, np.pi, n)
        t[::5], t[1::5] = 0, np.finfo(dtype).tiny
        return np.minimum(t, 3.14159).astype(dtype), dtype.type(ratio), garbage(n, dtype), garbage(n, dtype)

    return st.builds(make, sizes(40), seeds, st.sampled_from([0.0, 0.5, 0.75, 1.0]))


def _angle(dtype):
    def make(n, d, seed, kind, mirror):
        u1, u2, row, column, out = block(n, d, seed, kind, dtype, mirror)
        return u1, u2, dtype.type(1e-3), row, column, mirror, out

    return st.builds(make, sizes(18), sizes(9), seeds, kinds, st.sampled_from([0, 1]))


CASES = {
    "arccos.kappa": Case(_kappa, outputs=(-2, -1), eps=4),
    # Next to |c| = 1, 1 - c^2 is known to half an ulp of 1 only where the compiler fuses (1 - c) (1 + c).
    "arccos.slope": Case(_slope, outputs=(-2, -1), eps=8),
    "arccos.kappa_of_angle": Case(_kappa_of_angle, outputs=(-2, -1), eps=8),
    "arccos.angle": Case(_angle, eps=8, small={"CUDA_TILE": 4, "TILE_ROWS": 4, "TILE_COLUMNS": 8}),
}
