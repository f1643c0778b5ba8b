"""The table that a choice of the ridge returns, and how held-out predictions are scored."""

from collections.abc import Sequence
from dataclasses import dataclass

from .._check import check_choice, check_range, quiet
from .._typing import Array
from .dual import KernelRidge
from .ridge import Ridge

__all__ = ["RidgeChoice", "best", "check_scoring", "score"]


@dataclass(frozen=True, slots=True, eq=False)
class RidgeChoice:
    """Table of ridges and scores, and the best one.

    Attributes
    ----------
    reg : float
        The ridge of the best score; of equal ones the largest.
    regs : tuple of float
    scores : tuple of float
        One per ridge, in the order of `regs`: mean squared held-out error ("mse", smaller is better) or share
        of right classes ("accuracy", larger is better).
    scoring : str
    fit : KernelRidge or Ridge
        The regression on all points at `reg`.
    held_out : array, shape (n,) or (n, k), or None
        Predictions of every training point by the fit without it (or its fold), at `reg`. None where the rows
        are streamed.
    """

    reg: float
    regs: tuple[float, ...]
    scores: tuple[float, ...]
    scoring: str
    fit: KernelRidge | Ridge
    held_out: Array | None = None


def check_scoring(scoring: str, targets: Array) -> None:
    """Refuse an unknown scoring, and "accuracy" where `targets` (rows, k) has a single column."""
    check_choice(scoring, "scoring", ("mse", "accuracy"))
    if scoring == "accuracy" and targets.shape[1] < 2:
        raise ValueError('expected y of shape (n, k) with k >= 2 for scoring="accuracy", got one output')


def score(scoring: str, targets: Array, held_out: Array) -> float:
    """Mean squared error, or the share of rows whose largest output is the largest target.

    Examples
    --------
    >>> import numpy as np
    >>> score("mse", np.array([[1.0], [2.0]]), np.array([[1.0], [4.0]]))
    2.0
    """
    if scoring == "accuracy":
        return float((held_out.argmax(axis=1) == targets.argmax(axis=1)).mean())
    with quiet():
        squares = (held_out - targets) ** 2
    return float(check_range(squares, "held-out squared errors").mean(dtype="float64"))


def best(scoring: str, values: tuple[float, ...], scores: Sequence[float]) -> int:
    """Index of the best score; of equal ones that of the largest ridge.

    Examples
    --------
    >>> best("mse", (0.1, 1.0, 10.0), [2.0, 2.0, 3.0])
    1
    """
    sign = -1.0 if scoring == "mse" else 1.0
    return max(range(len(values)), key=lambda i: (sign * scores[i], values[i]))
