"""Arguments with which every kernel is tested: on the CPU, in the simulator, on a GPU, and compiled to PTX.

How to add a kernel's cases: write ``cases_<file>.py`` beside this file, for ``ntkfast/kernels/<file>.py``, with

    CASES = {"<file>.<name>": Case(arguments, ...), ...}

``arguments(dtype)`` is a hypothesis strategy of the positional arguments, outputs included. Fill an output that is to
be overwritten with ``garbage``, so that a kernel that forgets an element is caught. Draw sizes down to 1 (and 0 where
that is valid) and up to a few times `TINY_BLOCK`, and values with ``values``: some are zeros or denormals. Nothing
else is needed: what is compiled to PTX, and for which types, is what the launcher launches with these arguments.

``Case.small`` names constants of the kernel's file that bound a block or a chunk; in the simulator they get these small
values, so that small arguments reach every branch. ``Case.corners`` lists arguments for branches that random ones may
miss. ``Case.large`` gives arguments of full size for PTX, where nothing is executed, if a launcher chooses its kernels
by size.
"""

import importlib
import pathlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from hypothesis import strategies as st

from ntkfast.kernels import ALL, Kernel

TINY_BLOCK = 8
KINDS = ("normal", "normal", "zeros", "denormal", "constant")


@dataclass(frozen=True)
class Case:
    """How to test one kernel.

    Attributes
    ----------
    arguments : dtype -> strategy of tuples
        All positional arguments.
    outputs : tuple of int
        Positions of the outputs; all other arrays must stay as they are.
    eps : float
        Largest deviation of cpu and cuda from the reference, relative to the largest entry and in units of the
        dtype's eps. 0 promises equal bits.
    gpu_eps : float
        The same on a real GPU, where the compiler may fuse multiply-adds.
    dtypes : tuple of str
        Passed to `arguments`.
    small : dict of str to int
        Constants of the kernel's file in the simulator.
    corners : dtype -> list of tuples, optional
        Arguments that are always tested.
    large : dtype -> tuple, optional
        Full-size arguments, for PTX only.
    """

    arguments: Callable[[np.dtype], st.SearchStrategy[tuple]]
    outputs: tuple[int, ...] = (-1,)
    eps: float = 0.0
    gpu_eps: float | None = None
    dtypes: tuple[str, ...] = ("float32", "float64")
    small: dict[str, int] = field(default_factory=dict)
    corners: Callable[[np.dtype], list[tuple]] | None = None
    large: Callable[[np.dtype], tuple] | None = None


def values(shape, dtype, seed: int, kind: str = "normal") -> np.ndarray:
    """Array of one of `KINDS`, real or complex."""
    dtype, rng = np.dtype(dtype), np.random.default_rng(seed)
    x = rng.standard_normal(shape)
    if dtype.kind == "c":
        x = x + 1j * rng.standard_normal(shape)
    factor = {"normal": 1.0, "zeros": 0.0, "denormal": float(np.finfo(dtype).tiny) / 8, "constant": 0.0}[kind]
    return np.asarray(x * factor + (kind == "constant") * 1.5).astype(dtype)


def garbage(shape, dtype) -> np.ndarray:
    """What an output that has to be overwritten holds before."""
    dtype = np.dtype(dtype)
    return np.full(shape, np.nan if dtype.kind in "fc" else 77, dtype)


def sizes(maximum: int, minimum: int = 1) -> st.SearchStrategy[int]:
    """Sizes with the edges and the multiples of the block more likely than chance would have them."""
    edges = {minimum, 1, TINY_BLOCK - 1, TINY_BLOCK, TINY_BLOCK + 1, 2 * TINY_BLOCK, maximum}
    return st.sampled_from(sorted(e for e in edges if minimum <= e <= maximum)) | st.integers(minimum, maximum)


seeds = st.integers(0, 2**32 - 1)
kinds = st.sampled_from(KINDS)


def load() -> dict[str, Case]:
    """All cases, by the names of their kernels."""
    found: dict[str, Case] = {}
    for path in sorted(pathlib.Path(__file__).parent.glob("cases_*.py")):
        found.update(importlib.import_module(f"kernels.{path.stem}").CASES)
    return found


def module_of(kernel: Kernel) -> Any:
    """The module of a kernel's file."""
    return importlib.import_module(f"ntkfast.kernels.{kernel.name.partition('.')[0]}")


def examples() -> list[tuple[Kernel, str]]:
    """Every kernel of `ALL` that has cases, with each of its dtypes."""
    cases = load()
    return [(kernel, dtype) for kernel in ALL if kernel.name in cases for dtype in cases[kernel.name].dtypes]
