"""Linear datamodeling score: how well attributions predict what training on other samples gives.

For a test sample j, LDS_j is the Spearman correlation, over subsets S of the training samples, of

    sum over i in S of tau[j, i]    and    the output of a model trained on S alone at j.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .._check import check_matrix, check_range, quiet
from .._typing import Array
from ..backends import Backend, get_backend
from ..empirical._inputs import check_like

__all__ = ["LinearDatamodelingScore", "linear_datamodeling_score"]

# Bytes of subsets, as floats, that are multiplied with scores at a time.
_MASK_BYTES = 2**24

# Numbers (subsets times test samples) that are ranked at a time, so that their parts stay in cache.
_RANKED = 2**15

# Groups of subsets that are left out in turn for the standard error.
_GROUPS = 8


@dataclass(frozen=True, slots=True, eq=False)
class LinearDatamodelingScore:
    """Agreement of attributions with models trained on subsets.

    Attributes
    ----------
    score : float
        Mean of `per_test`, in [-1, 1]; 1 where attributions order all models right.
    per_test : array, shape (n_test,), float64
        Spearman correlation by test sample; 0 where all outputs, or all predictions, are equal.
    standard_error : float
        Of `score`, for the choice of the subsets and the training on them. The test samples are taken as given: their
        choice adds ``per_test.std() / sqrt(n_test)``.
    n_subsets : int
    """

    score: float
    per_test: Array = field(repr=False)
    standard_error: float
    n_subsets: int


def linear_datamodeling_score(scores: Array, subsets: Any, outputs: Array) -> LinearDatamodelingScore:
    """Linear datamodeling score (LDS) of attributions.

    Parameters
    ----------
    scores : array, shape (n_test, n), float32 or float64
        Attributions tau of n training samples.
    subsets : array, shape (n_subsets, n), bool; or sequence of sequences of int
        The training samples of each model, at least 3 subsets: as masks, or as lists of indices, each index once.
    outputs : array, shape (n_subsets, n_test), of the dtype of `scores`
        Output of the model trained on each subset (TRAK: the margin of the right class) at each test sample. Means
        over several trainings on one subset have less noise, and so a higher score.

    Returns
    -------
    LinearDatamodelingScore

    Raises
    ------
    TypeError, ValueError
        Arguments that do not fit each other, NaN or inf, an index beyond n or twice in one subset.
    MixedBackendError
        NumPy and CuPy arrays in one call; lists of indices go with either.
    OverflowError
        The sums of scores leave the range of their dtype.

    Notes
    -----
    Equal values share the mean of their ranks. The standard error is the jackknife's over 8 groups of subsets. With
    random attributions each test sample has a standard deviation of 1 / sqrt(n_subsets - 1) around 0, and as test
    samples share the subsets their mean may have as much.
    Cost: n_subsets n n_test multiply-adds and 2 n_subsets^2 n_test comparisons.
    Backends: numpy, cupy.

    References
    ----------
    Park, Georgiev, Ilyas, Leclerc, Madry. TRAK: attributing model behavior at scale. ICML 2023, arXiv 2303.14186.
    Ilyas, Park, Engstrom, Leclerc, Madry. Datamodels: predicting predictions from training data. ICML 2022.

    Examples
    --------
    >>> import numpy as np
    >>> scores = np.array([[1.0, 2.0, 4.0]])
    >>> outputs = np.array([[0.3], [0.5], [0.7]])  # of models trained on two of three samples
    >>> linear_datamodeling_score(scores, [[0, 1], [0, 2], [1, 2]], outputs).score
    1.0
    """
    scores, backend = check_matrix(scores, "scores")
    masks = _masks(subsets, scores, backend)
    outputs = check_like(outputs, "outputs", (len(masks), len(scores)), scores)
    with quiet():
        predictions = check_range(_sums(masks, scores, backend), "the sums of scores")
        per_test, left_out = _correlations(predictions, outputs, backend)
    total = float(per_test.mean())
    groups = len(left_out)
    error = ((groups - 1) / groups * sum((value - sum(left_out) / groups) ** 2 for value in left_out)) ** 0.5
    return LinearDatamodelingScore(total, per_test, error, len(masks))


def _masks(subsets: Any, scores: Array, backend: Backend) -> Array:
    """Subsets as a boolean array (n_subsets, n)."""
    n = scores.shape[1]
    if str(getattr(subsets, "dtype", "")) == "bool":
        get_backend(subsets, scores)
        masks = subsets
        if masks.ndim != 2 or masks.shape[1] != n:
            raise ValueError(f"expected subsets of shape (n_subsets, {n}), got {masks.shape}")
    elif isinstance(subsets, (Sequence, np.ndarray)) and not isinstance(subsets, str):
        host = np.zeros((len(subsets), n), bool)
        for i, subset in enumerate(subsets):
            host[i, _indices(subset, f"subsets[{i}]", n)] = True
        masks = backend.xp.asarray(host)
    else:
        raise TypeError(f"expected subsets to be masks or lists of indices, got {type(subsets).__name__}")
    if len(masks) < 3:
        raise ValueError(f"expected at least 3 subsets, got {len(masks)}")
    return masks


def _indices(subset: Any, name: str, n: int) -> Any:
    try:
        indices = np.asarray(subset)
    except ValueError:  # lists of several lengths
        raise TypeError(f"expected {name} to be a list of indices, got {subset!r}") from None
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise TypeError(f"expected {name} to be a list of indices, got dtype {indices.dtype}, shape {indices.shape}")
    if indices.size and (indices.min() < 0 or indices.max() >= n):
        raise ValueError(f"expected {name} with indices from 0 to {n - 1}, got {indices.min()} to {indices.max()}")
    if len(np.unique(indices)) < len(indices):
        raise ValueError(f"expected {name} with each index once; give masks as booleans")
    return indices.astype(np.intp)


def _sums(masks: Array, scores: Array, backend: Backend) -> Array:
    """Sums of scores over each subset, (n_subsets, n_test)."""
    total = backend.xp.zeros((len(masks), len(scores)), scores.dtype)
    width = max(1, _MASK_BYTES // (len(masks) * int(scores.dtype.itemsize)))
    for start in range(0, scores.shape[1], width):
        part = slice(start, start + width)
        total += masks[:, part].astype(scores.dtype) @ scores[:, part].T
    return total


def _correlations(a: Array, b: Array, backend: Backend) -> tuple[Array, list[float]]:
    """Spearman correlation of the columns, and its mean with each group of rows left out."""
    n_subsets, n_test = a.shape
    groups = min(_GROUPS, n_subsets)
    found = backend.xp.empty((groups + 1, n_test), "float64")
    width = max(1, _RANKED // n_subsets)
    for start in range(0, n_test, width):
        columns = slice(start, start + width)
        first, second = (_rank_parts(x[:, columns], groups, backend) for x in (a, b))
        found[0, columns] = _cosine(first.sum(axis=0), second.sum(axis=0), backend)
        for group in range(groups):
            rest = backend.xp.asarray(np.arange(n_subsets) % groups != group)
            left, right = ((parts.sum(axis=0) - parts[group])[rest] for parts in (first, second))
            found[group + 1, columns] = _cosine(left, right, backend)
    return found[0], [float(row.mean()) for row in found[1:]]


def _rank_parts(x: Array, groups: int, backend: Backend) -> Array:
    """Signs of differences, summed by group: (groups, *x.shape).

    The rank of x[i] among all, counted from their mean rank, is half the sum over j of sign(x[i] - x[j]), ties
    included. So the sum over the groups is twice the ranks, and without one of them that of the ranks without it.
    """
    parts = backend.xp.zeros((groups, *x.shape), "float64")
    for j in range(len(x)):
        parts[j % groups] += backend.xp.sign(x - x[j])
    return parts


def _cosine(a: Array, b: Array, backend: Backend) -> Array:
    """Cosines between the columns; 0 for zero columns."""
    products, squares = (a * b).sum(axis=0), (a * a).sum(axis=0) * (b * b).sum(axis=0)
    return products / backend.xp.sqrt(backend.xp.where(squares > 0, squares, 1.0))
