"""Cases of ntkfast/kernels/activations.py: every function, near 0, at the joints, and where exponentials underflow."""

import numpy as np
from hypothesis import strategies as st
from kernels.cases import Case, garbage, kinds, seeds, sizes, values

from ntkfast.kernels.activations import FUNCTIONS

JOINTS = [0, 0.5, -0.5, 6, -6, 15, -39, -740, 800, 1e30, -1e30]


def _arguments(dtype):
    def make(function, n, scale, seed, kind):
        x = values(n, dtype, seed, kind) * dtype.type(scale)
        x[:1] = 1  # closeness is relative to the largest entry: test_activations.py asks more of the tails
        x[1::3] = np.random.default_rng(seed).choice(JOINTS, x[1::3].size)
        return function, x, garbage(n, dtype)

    return st.builds(make, st.integers(0, len(FUNCTIONS) - 1), sizes(40, 0), st.sampled_from([1, 10]), seeds, kinds)


CASES = {
    "activations.slope": Case(_arguments, eps=8),
    "activations.value": Case(_arguments, eps=8),
}
