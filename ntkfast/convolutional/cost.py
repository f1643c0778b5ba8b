"""What a kernel matrix will cost, measured on a few pairs of images before a long run."""

import time
from typing import NamedTuple

from .._typing import Array
from ..layers import Layer
from ._execution import pixel_pairs
from ._gram import check_image_pair, gram, sizes, temporary_bytes
from .architecture import NOWHERE, Plan, plan

__all__ = ["CostEstimate", "estimate_cost"]

# A measurement lasts at least this long, so that starting threads and reading the clock do not count.
_SECONDS = 0.2


class CostEstimate(NamedTuple):
    """What `estimate_cost` finds.

    Attributes
    ----------
    seconds : float
        Time of the whole matrix, at the rate measured now.
    seconds_per_pair : float
    pairs : int
        Pairs of images that are computed: n1 n2, or n1 (n1 + 1) / 2 for one set of images.
    pixel_pairs : int
        Pairs of pixels that go through an activation, per pair of images, summed over activations.
    result_bytes : int
        NNGP and NTK together.
    temporary_bytes : int
        Beside them, under the budget.
    """

    seconds: float
    seconds_per_pair: float
    pairs: int
    pixel_pairs: int
    result_bytes: int
    temporary_bytes: int


def estimate_cost(network: Layer, x1: Array, x2: Array | None = None, *, max_memory: int | None = None) -> CostEstimate:
    """Estimate time and memory of `cntk` before a long run.

    Parameters
    ----------
    network, x1, x2, max_memory
        As for `cntk`.

    Returns
    -------
    CostEstimate

    Raises
    ------
    TypeError, ValueError, MixedBackendError, MemoryBudgetError, OverflowError
        As for `cntk`.

    Notes
    -----
    Cost: pairs of the first images are timed for about half a second, or one pair if that takes longer. The first
    call in a process also loads the kernel, and compiles it if that was never done; that is not in the estimate.
    Error: that of the machine. With other work on it now or later, count on 20 to 50 percent.
    Backends: numpy, cupy.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.convolutional import estimate_cost, gap_network
    >>> cost = estimate_cost(gap_network(), np.zeros((4000, 8, 8, 3), np.float32))
    >>> cost.pairs, cost.pixel_pairs, cost.seconds > 0
    (8002000, 12288, True)
    """
    x1, x2, backend = check_image_pair(x1, x2)
    compiled, in_shape, itemsize = plan(network, x1.shape[1:]), x1.shape[1:], x1.dtype.itemsize
    found = sizes(compiled, in_shape, itemsize, backend, max_memory)
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    pairs = n1 * (n1 + 1) // 2 if x2 is None else n1 * n2
    seconds = _measure(compiled, x1, x1 if x2 is None else x2)
    temporary = temporary_bytes(compiled, in_shape, itemsize, backend, found)
    return CostEstimate(
        seconds * pairs, seconds, pairs, pixel_pairs(compiled, NOWHERE), 2 * itemsize * n1 * n2, temporary
    )


def _measure(compiled: Plan, x1: Array, x2: Array) -> float:
    """Seconds per pair of images: batches grow until they last long enough to be timed."""
    _time(compiled, x1[:1], x2[:1])
    n = 2
    while True:
        first, second = x1[:n], x2[:n]
        seconds = _time(compiled, first, second)
        if seconds >= _SECONDS or n >= max(len(x1), len(x2)):
            return seconds / (len(first) * len(second))
        n *= 2


def _time(compiled: Plan, x1: Array, x2: Array) -> float:
    """Seconds of all pairs; reading one number waits for a GPU."""
    start = time.perf_counter()
    result, _ = gram(compiled, x1, x2, None, None)
    float(result[0, 0])
    return time.perf_counter() - start
