"""Gram matrices of a bias-free homogeneous network: one matrix product and one function of the angle."""

import math
from collections.abc import Sequence
from typing import Any

from .._typing import Array
from ..zonal import Zonal
from ._angles import angles, unit_rows


def zonal_gram(
    x1: Array,
    x2: Array | None,
    functions: Sequence[Zonal],
    *,
    scale: float = 1.0,
    max_memory: Any = None,
) -> tuple[Array, ...]:
    """One matrix ``scale |x| |y| k(angle)`` per zonal function, (n1, n2) each.

    Parameters
    ----------
    x1, x2 : checked arrays (`check_pair`); `x2` may be None (symmetric: exactly symmetric, exact diagonal)
    functions : sequence of Zonal
        Usually one, or NNGP and NTK of one depth; all come from one pass.
    scale : float
        Factor of the whole matrix, e.g. (W_std^2 (p^2 + q^2))^depth W_std^2 / d.
    max_memory : int, optional
        Bytes of temporaries.
    """
    del max_memory
    u1, r1 = unit_rows(x1)
    u2, r2 = (u1, r1) if x2 is None else unit_rows(x2)
    t = angles(u1, None if x2 is None else u2)
    root = x1.dtype.type(math.sqrt(scale))
    return tuple(f.of_angle(t) * (root * r1)[:, None] * (root * r2)[None, :] for f in functions)


