"""The only file that knows which package provides the CUDA JIT, and its versions.

Providers, all imported as ``numba.cuda``:

- numba-cuda >= 0.20 (installed by the extras ``cuda12`` and ``cuda13``): redirects ``numba.cuda`` to itself;
- Numba's built-in, deprecated target, where numba-cuda is not installed;
- the simulator, where ``NUMBA_ENABLE_CUDASIM=1`` was set before the import.

Importing this file needs neither a GPU nor a driver and asks for none.
"""

import numpy as np
from numba import config, cuda

__all__ = ["SIMULATED", "cuda", "prepare"]

SIMULATED: bool = bool(config.ENABLE_CUDASIM)


def prepare() -> None:
    """Mend known incompatibilities of the provider; call before the first compilation.

    numba-cuda <= 0.30 looks up ``numpy.row_stack``, which NumPy 2.5 removed, so that every
    compilation fails. Adding the old alias of ``vstack`` is what upstream's fix amounts to.

    Every launch of fewer than 128 blocks warns of low occupancy. Small arrays need no more, and the
    advice is for authors of kernels, not for callers of this library.
    """
    config.CUDA_LOW_OCCUPANCY_WARNINGS = 0
    if not hasattr(np, "row_stack"):
        np.row_stack = np.vstack  # type: ignore[attr-defined] # noqa: NPY201
