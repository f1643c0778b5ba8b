"""Cases of kernels/recursion.py: rows with duplicates, opposites and zeros, with and without biases.

The deviation is relative to rho rho', so the norms vary only as much as the allowed eps leaves room for.
"""

import math

import numpy as np
from hypothesis import strategies as st

from .cases import Case, garbage, seeds, sizes

W_STD = 1.3


def _units(rng, n1, n2, d):
    """Unit rows: random ones, and copies, negatives, near copies and zeros of the first side's."""
    first = rng.standard_normal((n1, d))
    second = np.empty((n2, d))
    for j in range(n2):
        row = first[rng.integers(n1)]
        near = row + 10.0 ** rng.uniform(-9, -1) * rng.standard_normal(d)
        second[j] = (rng.standard_normal(d), row, -row, near, -near, 0 * row)[rng.integers(6)]
    norms = np.linalg.norm(second, axis=1, keepdims=True)
    return first / np.linalg.norm(first, axis=1, keepdims=True), second / np.where(norms > 0, norms, 1)


def _table(rng, n, depth, b_std, gain):
    """s, b, rho of all layers, of points with random norms; the first norm is 0."""
    weight = 10.0 ** rng.uniform(-1, 0.5, n)
    weight[0] = 0
    layers = []
    for _ in range(depth + 1):
        rho = np.hypot(weight, b_std)
        safe = np.where(rho > 0, rho, 1)
        layers.append(np.stack([weight / safe, b_std / safe, rho]))
        weight = W_STD * math.sqrt(gain) * rho
    return np.stack(layers)


@st.composite
def _arguments(draw, dtype):
    dtype = np.dtype(dtype)
    n1, n2, d, depth = draw(sizes(6)), draw(sizes(9)), draw(sizes(5)), draw(st.integers(0, 3))
    odd, even = draw(st.sampled_from([(0.5, 0.5), (0.0, 1.0), (0.505, 0.495), (1.0, 0.0)]))
    b_std, rng = draw(st.sampled_from([0.0, 0.1, 3.0])), np.random.default_rng(draw(seeds))
    gain = odd**2 + even**2
    unit1, unit2 = (unit.astype(dtype) for unit in _units(rng, n1, n2, d))
    tables = (_table(rng, n, depth, b_std, gain).astype(dtype) for n in (n1, n2))
    constants = dtype.type(even**2 / gain), dtype.type(W_STD**2 * gain), dtype.type(1e-2)
    wanted = draw(st.sampled_from([(True, True), (True, False), (False, True)]))
    outputs = (garbage((n1, n2) if want else (0, 0), dtype) for want in wanted)
    return (unit1 @ unit2.T, unit1, unit2, *tables, *constants, *outputs)


CASES = {"recursion.walk": Case(_arguments, outputs=(-2, -1), eps=256.0, small={"_WIDTH": 3})}
