"""Cases of ntkfast/kernels/zonal.py: one and two kinds, equal and opposite rows, blocks off the diagonal."""

import numpy as np
from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values
from kernels.cases_arccos import block

from ntkfast.zonal import zonal


def _normalize(dtype):
    def make(n, d, seed, kind, power):
        x = values((n, d), dtype, seed, kind) * dtype.type(10.0**power)
        floor = dtype.type(np.sqrt(np.finfo(dtype).tiny))
        return x, floor, garbage((n, d), dtype), garbage(n, dtype)

    return st.builds(make, sizes(18), sizes(40), seeds, kinds, st.sampled_from([0, -30, 30]))


def _evaluate(dtype):
    def make(n, d, seed, kind, mirror, depth, activation, names):
        tables = [zonal(depth, activation=activation, kind=name).table(dtype) for name in names]
        n_terms = max(table.coefficients.shape[1] for table in tables)
        coefficients = np.zeros((len(names), 2, n_terms), dtype)
        for target, table in zip(coefficients, tables, strict=True):
            target[:, : table.coefficients.shape[1]] = table.coefficients
        ends = np.stack([table.ends for table in tables])
        u1, u2, row, column, out = block(n, d, seed, kind, dtype, mirror, (len(names),))
        rng = np.random.default_rng(seed)
        r1, r2 = (rng.uniform(0, 2, len(u)).astype(dtype) for u in (u1, u2))
        return u1, u2, r1, r2, coefficients, ends, dtype.type(1e-3), row, column, mirror, out

    names = st.sampled_from([("ntk",), ("nngp",), ("nngp", "ntk")])
    activations = st.sampled_from(["relu", "leaky_relu", "abs"])
    return st.builds(
        make, sizes(18), sizes(9), seeds, kinds, st.sampled_from([0, 1]), st.sampled_from([1, 3, 8]), activations, names
    )


CASES = {
    "zonal.normalize": Case(_normalize, outputs=(-2, -1), eps=8, small={"ROW_THREADS": 4}),
    "zonal.evaluate": Case(_evaluate, eps=16, small={"CUDA_TILE": 4, "TILE_ROWS": 4, "TILE_COLUMNS": 8}),
}
