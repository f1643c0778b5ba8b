"""Hostile arguments: what no array or number of a call may be, and samples and memory layouts that every call takes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse

PLAIN = np.random.default_rng(0).standard_normal((5, 4))

# Valid samples: every call gives finite results for them, or names them among those it `refuses`.
SAMPLES = {
    "plain": PLAIN,
    "one row": PLAIN[:1],
    "one column": PLAIN[:, :1],
    "one number": PLAIN[:1, :1],
    "a zero row": PLAIN * [[1], [0], [1], [1], [0]],
    "zeros": np.zeros((5, 4)),
    "duplicates": PLAIN[[0, 1, 0, 1, 2]],
    "opposites": PLAIN[[0, 1, 0, 1, 2]] * [[1], [1], [-1], [-1], [1]],
    "tiny": 1e-30 * PLAIN,
    "huge": 1e18 * PLAIN,
}


class DataFrame:
    """What a pandas frame shows of itself."""

    __module__ = "pandas.core.frame"
    dtypes = ("float64",)
    shape, ndim = PLAIN.shape, 2

    def __array__(self, dtype=None, copy=None):
        return PLAIN.copy()


class Tensor:
    """What a torch tensor shows of itself."""

    __module__ = "torch"
    dtype = "torch.float64"
    shape, ndim = PLAIN.shape, 2

    def __array__(self, dtype=None, copy=None):
        return PLAIN.copy()


def poisoned(value: float) -> Callable[[Any], Any]:
    """Replace the last entry."""

    def change(x):
        x = x.copy()
        x.reshape(-1)[-1] = value
        return x

    return change


# What no array argument may be.
BAD_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "NaN": poisoned(np.nan),
    "inf": poisoned(np.inf),
    "-inf": poisoned(-np.inf),
    "a masked NaN": lambda x: np.ma.masked_invalid(poisoned(np.nan)(x)),
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[..., :0],
    "one row more": lambda x: np.concatenate([x, x[:1]]),
    "one column more": lambda x: np.concatenate([x, x[..., :1]], axis=-1),
    "one axis more": lambda x: x[None],
    "one axis less": lambda x: x[0],
    "float16": lambda x: x.astype(np.float16),
    "integers": lambda x: x.astype(int),
    "bool": lambda x: x > 0,
    "complex": lambda x: x.astype(complex),
    "object": lambda x: x.astype(object),
    "strings": lambda x: x.astype(str),
    "big-endian": lambda x: x.astype(">f8"),
    "long double": lambda x: x.astype(np.longdouble),
    "another dtype": lambda x: x.astype(np.float32),
    "list": lambda x: x.tolist(),
    "tuple": tuple,
    "number": lambda x: 1.0,
    "text": lambda x: "x",
    "None": lambda x: None,
    "sparse": lambda x: scipy.sparse.csr_array(x.reshape(len(x), -1) if x.ndim > 1 else x[None]),
    "data frame": lambda x: DataFrame(),
    "tensor": lambda x: Tensor(),
}

# What makes no difference.
GOOD_ARRAYS: dict[str, Callable[[Any], Any]] = {
    "Fortran order": np.asfortranarray,
    "strided": lambda x: (
        np.repeat(np.repeat(x, 2, axis=0), 3, axis=-1)[::2, ..., ::3] if x.ndim > 1 else np.repeat(x, 2)[::2]
    ),
    "reversed": lambda x: x[::-1].copy()[::-1],
    "read-only": lambda x: np.frombuffer(x.tobytes()).reshape(x.shape),
    "subclass": lambda x: x.copy().view(type("Subclass", (np.ndarray,), {})),
}

NOT_A_NUMBER = ["1", None, True, np.bool_(True), 1j, [1.0], np.ones(1), b"1", np.nan]
NOT_AN_INTEGER = ["1", None, True, np.bool_(True), 1.0, [1], np.ones(1, int), 1j, np.nan]
NOT_A_NAME = ["unknown", "", None, 1, True, ("ntk",)]


def but_none(values):
    return [value for value in values if value is not None]


# What no argument of a kind may be.
BAD_SCALARS: dict[str, list[Any]] = {
    "depth": [*NOT_AN_INTEGER, -1],
    "count": [*NOT_AN_INTEGER, 0, -1],
    "optional count": [*but_none(NOT_AN_INTEGER), 0, -1],
    "dim": [*NOT_AN_INTEGER, 1, -1],
    "optional dim": [*but_none(NOT_AN_INTEGER), 1, -1],
    "start": [*NOT_AN_INTEGER, 4, -1],
    "seed": [*NOT_AN_INTEGER, -1, 2**64],
    "memory": [*but_none(NOT_AN_INTEGER), 0, -1, 1],  # 1 is too small, whatever has to be kept
    "real": [*NOT_A_NUMBER, np.inf],
    "positive": [*NOT_A_NUMBER, np.inf, 0, -1.0],
    "not negative": [*NOT_A_NUMBER, np.inf, -1.0],
    "optional": [*but_none(NOT_A_NUMBER), np.inf, -1.0],
    "values": ["1", None, True, 1.0, [], [np.nan], [-1.0], [None], ["1"], [1j]],
    "share": [*NOT_A_NUMBER, np.inf, -1.0, 1.0],
    "positive share": [*NOT_A_NUMBER, np.inf, -1.0, 0.0, 1.0],
    "choice": NOT_A_NAME,
    "engine": [*NOT_A_NAME, "Layers", str, len],
    "optional choice": but_none(NOT_A_NAME),
    "activation": ["unknown", "", None, 1, True, np.ones(3), ("relu",)],
    "callable": ["tanh", None, 1, lambda z: z[0], lambda z: z * np.nan],
    "dtype": ["float16", "int64", "unknown", None, 1],
    "width": [
        *NOT_AN_INTEGER,
        0,
        -1,
        2**31,
        [1, 2],
        {},
        {"w": 0, "b": 0},
        {"w": 4},
        {"w": 4.0, "b": 4},
        {"w": -1, "b": 9},
    ],
    "widths of four": [*NOT_AN_INTEGER, 3, 0, -1, 2**31],
    "dims": [4, None, "44", (4,), (4, 0), (4, 4.0), (4, -1), (), (4, "4")],
}
INTEGERS = ("depth", "count", "optional count", "dim", "optional dim", "start", "seed", "width")
