"""Cases of kernels/displacement_gradient.py: the stages of cases_displacement.py, with random cotangents."""

import numpy as np
from hypothesis import strategies as st
from kernels import cases_displacement
from kernels.cases import Case, garbage, seeds

from ntkfast.kernels.displacement import Boundary


def arguments_of(walk, seed):
    """Arguments of `pull` for those of `walk`; every cotangent of a sum is one number."""
    *inputs, k_out, _ = walk
    images, k_in, tables, pairs, boundary = inputs[0], inputs[2], inputs[4], inputs[6], inputs[11]
    b, dtype, rng = len(pairs), k_out.dtype, np.random.default_rng(seed)
    shape = (b, 1, 1, 1, 1) if boundary[0] == Boundary.SUM else k_out.shape
    cts = (rng.standard_normal(shape).astype(dtype) for _ in range(2))
    of_images = (garbage((b, *images.shape[1:]), dtype) for _ in range(2))
    of_inputs = (np.zeros((b if len(k_in) else 0, *k_in.shape[1:]), dtype) for _ in range(2))
    of_tables = (garbage((b, tables.shape[1], *tables.shape[3:]), dtype) for _ in range(2))
    return *inputs, *cts, *of_images, *of_inputs, *of_tables


@st.composite
def _pull(draw, dtype):
    return arguments_of(draw(cases_displacement.CASES["displacement.walk"].arguments(dtype)), draw(seeds))


def _large(dtype):
    """Planes that do not fit into shared memory."""
    return arguments_of(cases_displacement.CASES["displacement.walk"].large(dtype), 0)


CASES = {"displacement_gradient.pull": Case(_pull, outputs=(-6, -5, -4, -3, -2, -1), eps=2048.0, large=_large)}
