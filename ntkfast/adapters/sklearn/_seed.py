"""scikit-learn's ``random_state`` as a seed of ntkfast."""

import numbers
from typing import Any

import numpy as np
from sklearn.utils import check_random_state

__all__ = ["seed_of"]


def seed_of(random_state: Any) -> int:
    """Seed that a ``random_state`` stands for.

    Parameters
    ----------
    random_state : int, numpy.random.RandomState or None
        An integer is the seed itself, so that the core gives the same bits for it. A generator is drawn
        from (and moves on); None draws from NumPy's global one.

    Returns
    -------
    int
        Between 0 and 2**64 - 1.

    Raises
    ------
    ValueError
        Anything else, or an integer outside those bounds.

    Examples
    --------
    >>> seed_of(7)
    7
    """
    if isinstance(random_state, bool):
        raise ValueError(f"expected random_state to be an integer, a RandomState or None, got {random_state}")
    if isinstance(random_state, numbers.Integral):
        seed = int(random_state)
        if not 0 <= seed < 2**64:
            raise ValueError(f"expected random_state between 0 and 2**64 - 1, got {seed}")
        return seed
    high, low = check_random_state(random_state).randint(0, 2**32, size=2, dtype=np.uint64)
    return (int(high) << 32) | int(low)
