"""How well a feature map does on a sample, and how wide it must be for a wanted error."""

import dataclasses
import math
from typing import Any, NamedTuple, TypeVar

from .._check import check_int, check_matrix, check_real, check_seed
from .._streams import Stream
from .._typing import Array
from ..kernels import philox
from ._base import FeatureMap

__all__ = ["GramError", "gram_error", "suggest_n_features"]

# Rows whose Gram matrix is formed when the sample is larger; 2000 rows make 16 MB of float32.
DEFAULT_ROWS = 2000

# Groups of rows whose spread gives the standard error of a subsample.
GROUPS = 8

# What the search multiplies a width by, so that chance does not leave the answer just below the wanted error.
MARGIN = 1.1

AnyMap = TypeVar("AnyMap", bound=FeatureMap)


class GramError(NamedTuple):
    """Relative Frobenius error of a Gram matrix, and how sure it is.

    Attributes
    ----------
    error : float
        |Phi Phi^T - K|_F / |K|_F of the rows used.
    standard_error : float
        Of `error` as an estimate for all rows; 0 where all were used.
    n_rows : int
        Rows used.
    """

    error: float
    standard_error: float
    n_rows: int

    @property
    def interval(self) -> tuple[float, float]:
        """Interval of 95 % confidence for the error on all rows: two standard errors to each side."""
        return max(0.0, self.error - 2 * self.standard_error), self.error + 2 * self.standard_error


def gram_error(phi: FeatureMap, x: Array, *, n_rows: int | None = None, seed: int) -> GramError:
    """Relative Frobenius error of a feature map's Gram matrix on a sample.

    |phi(x) phi(x)^T - K|_F / |K|_F with the exact kernel K = ``phi.kernel(x)``; on a random subset of the rows where
    there are more than `n_rows`.

    Parameters
    ----------
    phi : FeatureMap
    x : array, shape (n, phi.in_dim), float32 or float64
    n_rows : int, optional
        Rows to use, at least 2; default 2000. All if n is not larger.
    seed : int
        Key of the choice of rows, 0 <= seed < 2**64; not read where all rows are used.

    Returns
    -------
    GramError

    Raises
    ------
    TypeError, ValueError
        `x` is not a sample that `phi` takes, or its kernel is zero.

    Notes
    -----
    Error: none where all rows are used. A subset's standard error is the jackknife's over 8 groups of rows (a group's
    rows and columns are left out together), which covers the choice of rows, not that of the map's seed: for that,
    measure maps of several seeds.
    Cost: n_rows^2 (n_features + d) multiply-adds and twice n_rows^2 numbers.
    Determinism: the choice of rows depends on n, `n_rows` and the seed alone; sums follow the products' rounding.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import OnePassFeatures
    >>> x = np.random.default_rng(0).random((50, 20))
    >>> gram_error(OnePassFeatures(20, 1000, depth=2, seed=0), x, seed=0).error < 0.05
    True
    """
    if not isinstance(phi, FeatureMap):
        raise TypeError(f"expected phi to be a FeatureMap, got {type(phi).__name__}")
    x, backend = check_matrix(x, "x", columns=phi.in_dim)
    limit = DEFAULT_ROWS if n_rows is None else check_int(n_rows, "n_rows", minimum=2)
    check_seed(seed)
    rows = _subset(x, limit, seed, backend)
    z = phi(rows)
    exact = phi.kernel(rows)
    peak = float(exact.diagonal().max())
    if peak == 0:
        raise ValueError("expected x with a kernel that is not zero, got rows of zeros, or too small for their dtype")
    z = z @ z.T
    z -= exact
    z /= peak  # squares of entries near the ends of the dtype's range would leave it
    exact /= peak
    difference = _sums(z * z, backend)
    size = _sums(exact * exact, backend)
    error = math.sqrt(difference[0] / size[0])
    complete = rows.shape[0] == x.shape[0]
    return GramError(error, 0.0 if complete else _jackknife(difference, size), int(rows.shape[0]))


def _subset(x: Array, limit: int, seed: int, backend: Any) -> Array:
    """At most `limit` rows, drawn without replacement: those with the smallest random numbers."""
    if x.shape[0] <= limit:
        return x
    key = backend.xp.empty(x.shape[0], "float64")
    backend.launch(philox.uniform, philox.derive_key(seed, Stream.GRAM_ROWS), 0, key)
    return backend.xp.ascontiguousarray(x[backend.xp.argsort(key)[:limit]])


def _sums(squares: Array, backend: Any) -> list[float]:
    """Sum of a symmetric matrix, and its sums without the rows and columns of one group each."""
    rows = backend.to_numpy(squares.sum(axis=1, dtype="float64"))
    total = float(rows.sum())
    sums = [total]
    for group in range(min(GROUPS, squares.shape[0])):
        part = slice(group, None, GROUPS)
        sums.append(total - 2 * float(rows[part].sum()) + float(squares[part, part].sum(dtype="float64")))
    return sums


def _jackknife(difference: list[float], size: list[float]) -> float:
    """Standard error of sqrt(difference / size), by leaving out one group at a time."""
    errors = [math.sqrt(max(a, 0.0) / b) if b > 0 else 0.0 for a, b in zip(difference[1:], size[1:], strict=True)]
    n = len(errors)
    mean = sum(errors) / n
    return math.sqrt((n - 1) / n * sum((error - mean) ** 2 for error in errors))


def suggest_n_features(
    phi: AnyMap,
    x: Array,
    *,
    error: float,
    max_features: int = 65_536,
    n_rows: int = 1000,
    n_trials: int = 3,
) -> AnyMap:
    """Return the map `phi` with the smallest width found whose Gram error on a sample is at most `error`.

    The error of every random feature map falls like c / sqrt(m). Starting at the width of `phi`, it is measured (median
    over `n_trials` maps of other seeds), the law gives the next width, and so on until a measured
    median is below the wanted error by no more than a fifth, or four widths were tried; the narrowest that met it wins.

    Parameters
    ----------
    phi : FeatureMap
        A map with the field ``seed``; its other fields, the seed included, are kept.
    x : array, shape (n, phi.in_dim)
        Sample of the data that the map is for.
    error : float
        Wanted relative Frobenius error of the Gram matrix, greater than 0.
    max_features : int
        Largest width to suggest.
    n_rows : int
        Rows of the sample to use.
    n_trials : int
        Seeds per width.

    Returns
    -------
    FeatureMap of the class of `phi`
        ``.n_features`` is the suggested width.

    Raises
    ------
    TypeError, ValueError
        Bad arguments, or the wanted error is not met at `max_features`; the message says what was met.

    Notes
    -----
    The answer was measured, not extrapolated: the median over seeds met the wanted error on the rows used. A single
    map of that width misses it with a probability of about one half at worst, by the spread between seeds.
    Cost: `gram_error` of up to 5 `n_trials` maps.
    Determinism: a function of the fields of `phi` and of `x`.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.features import OnePassFeatures
    >>> x = np.random.default_rng(0).random((60, 10))
    >>> phi = suggest_n_features(OnePassFeatures(10, 256, depth=3, seed=0), x, error=0.05)
    >>> bool(gram_error(phi, x, seed=0).error < 0.07)
    True
    """
    error = check_real(error, "error", minimum=0.0, strict=True)
    check_int(max_features, "max_features", minimum=1)
    check_int(n_rows, "n_rows", minimum=2)
    check_int(n_trials, "n_trials", minimum=1)
    if not hasattr(phi, "seed") or not isinstance(phi, FeatureMap):
        raise TypeError(f"expected a FeatureMap with a seed, got {type(phi).__name__}")
    width, good = min(phi.n_features, max_features), 0
    for _ in range(4):
        measured = _median_error(phi, width, x, n_rows, n_trials)
        if measured <= error:
            good = width if good == 0 else min(good, width)
        if 0.8 * error <= measured <= error or (width == max_features and measured > error):
            break
        width = min(max_features, max(_narrowest(phi), math.ceil(MARGIN * width * (measured / error) ** 2)))
    if good == 0:
        measured = _median_error(phi, max_features, x, n_rows, n_trials)
        if measured > error:
            raise ValueError(f"expected an error of {error:g}, got {measured:.3g} with max_features = {max_features}")
        good = max_features
    return _resized(phi, good)


def _narrowest(phi: FeatureMap) -> int:
    """A width that every map takes: two columns, and one beyond those that its fields have promised away."""
    return max(2, (getattr(phi, "n_relu", None) or 0) + 1)


def _resized(phi: AnyMap, width: int, **fields: Any) -> AnyMap:
    return dataclasses.replace(phi, n_features=width, **fields)  # type: ignore[type-var]


def _median_error(phi: AnyMap, width: int, x: Array, n_rows: int, n_trials: int) -> float:
    """Median over seeds derived from the map's own."""
    own: int = phi.seed  # type: ignore[attr-defined]
    errors = []
    for trial in range(n_trials):
        other = _resized(phi, width, seed=philox.derive_key(own, Stream.WIDTH_TRIALS, trial))
        errors.append(gram_error(other, x, n_rows=n_rows, seed=own).error)
    return sorted(errors)[n_trials // 2]
