"""Cases of ntkfast/kernels/table.py."""

import numpy as np
from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

from ntkfast.kernels.table import pieces

REACH = 1.5


def _table(q, n_cells, dtype):
    """A smooth function, so that a projection on the border of two cells may fall into either."""
    u = np.linspace(-REACH, REACH, n_cells + 1)
    phase = np.arange(q)[:, None]
    return pieces(np.cos(2 * u + phase), -2 * np.sin(2 * u + phase), 2 * REACH / n_cells).astype(dtype)


def _evaluate(dtype):
    def make(n, p, q, n_cells, first, seed, kind):
        out = garbage((n, first + q * p), dtype)
        out[:, :first] = 0  # columns before the first belong to somebody else
        scale = values((n,), dtype, seed + 1)
        return values((n, p), dtype, seed, kind), scale, _table(q, n_cells, dtype), REACH, first, out

    return st.builds(make, sizes(5), sizes(20), sizes(3), sizes(9), st.integers(0, 3), seeds, kinds)


def _pullback(dtype):
    def make(n, p, q, n_cells, first, seed, kind):
        u, scale = values((n, p), dtype, seed, kind), values((n,), dtype, seed + 1)
        ct = values((n, first + q * p + 1), dtype, seed + 2)
        slope, value = garbage((n, p), dtype), garbage((n,), dtype)
        return u, ct, scale, _table(q, n_cells, dtype), REACH, first, slope, value

    return st.builds(make, sizes(5), sizes(20), sizes(3), sizes(9), st.integers(0, 3), seeds, kinds)


CASES = {
    "table.evaluate": Case(_evaluate, eps=64),
    "table.pullback": Case(_pullback, outputs=(-2, -1), eps=256),
}
