"""NumPy arrays, kernels compiled for the CPU."""

import functools

import numpy

from . import Backend, _forced_target


@functools.cache
def backend() -> Backend:
    """The NumPy backend; its target is ``"reference"`` where NTKFAST_TARGET asks for it."""
    return Backend("numpy", numpy, _forced_target() or "cpu")
