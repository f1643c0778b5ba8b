"""TensorSketch of Jacobians: the CountSketch of an outer product is a circular convolution of two small CountSketches.

An entry (a, b) of a parameter's matrix goes to bucket (h_1(a) + h_2(b)) mod m with the sign s_1(a) s_2(b). With C_1 and
C_2 the CountSketches of the two sides and F the discrete Fourier transform,

    S( scale sum_t act_t (x) delta_t ) = F^-1( scale sum_t F C_1 act_t * F C_2 delta_t ),

where nothing of the size of the parameters is formed, positions are summed as transforms, and arrays as well: one
inverse transform ends it. Where the matrix is small, or has many positions, forming it is cheaper: the same map.
"""

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

import numpy as np

from .._check import check_choice
from .._memo import memoised
from .._streams import Stream
from .._typing import Array
from ..backends import Backend, get_backend
from ..empirical._tiles import slices
from ..kernels import countsketch, philox, tensorsketch
from ..layers.factors import Factors, JacobianFactors, SparseFactors
from ..sketch._fft import rfft
from ..sketch._row_stream import RowStream
from ._base import ArraySketch, JacobianSketch, Shape, matrix_shape
from ._streamed import StreamedArray

__all__ = ["TensorProjection"]

ALGORITHMS = ("auto", "fft", "direct")

# Entries of a table of the outer product: made at once, and held while all samples pass.
_TABLE = 2**17

# Numbers of the sketches of one tile of positions.
_POSITIONS = 2**18


class _Costs(NamedTuple):
    """Nanoseconds, of which only ratios matter.

    Of a transform, per number and stage; of a number of a side, to be hashed; of an entry of a Jacobian, to be formed
    and hashed, and per product that is summed over positions.
    """

    transform: float
    side: float
    entry: float
    product: float


# Those of a CPU are measured on a core with dozens of samples, that of an entry between products of matrices, whose
# threads spin where ours would hash. Of a GPU it is assumed that entries, which pass through memory, cost more.
_COSTS = {"numpy": _Costs(0.1, 1.5, 1.5, 0.02), "cupy": _Costs(0.1, 1.5, 2.5, 0.02)}


@dataclass(frozen=True, slots=True)
class TensorProjection(JacobianSketch):
    """CountSketch of Jacobians with product hashes, computed from their factors by fast Fourier transforms.

    ``E <S x, S y> = <x, y>`` for any two gradients, so inner products of sketched Jacobians estimate the NTK.

    Parameters
    ----------
    sketch_dim : int or mapping of str to int
        Width m of the result. With ``combine="concatenate"`` the arrays share it evenly, unless a mapping gives each
        path its own width; 0 leaves an array out. Fastest where it has small prime factors only.
    combine : {"sum", "concatenate"}
        Whether the sketches of the arrays, which are independent, are added (each has the whole width) or lie one
        after another.
    algorithm : {"auto", "fft", "direct"}
        "fft" never forms a Jacobian; "direct" hashes the Jacobian of a few samples and one array at a time; "auto"
        takes the cheaper one for each array. They are the same map up to rounding. Tables of embeddings, biases and
        scales are always hashed directly.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S X, S Y>`` for one array, exactly, where X and Y are its Jacobians as matrices (i, o), X_a their
    rows and x_b their columns: with ``V(A) = |A|^2 + tr(A A) - 2 sum_a A_aa^2``, g = 1 for odd m and 2 for even m, and
    ``D = sum_a (|X_a|^2 |Y_a|^2 + <X_a, Y_a>^2) + sum_b (|x_b|^2 |y_b|^2 + <x_b, y_b>^2) - 2 sum_ab X_ab^2 Y_ab^2``,

        [ V(X^T Y) + V(X Y^T) + |X|^2 |Y|^2 + <X, Y>^2 - D ] / m + g [ <X^T X, Y^T Y> + <X X^T, Y Y^T> - D ] / m^2

    It is at most (6 + 2 g / m) / m times |X|^2 |Y|^2; entries with independent hashes have at most 2 / m. Sums of
    arrays: the variances of the arrays, and ``(|X_a|^2 |Y_b|^2 + <X_a, Y_a> <X_b, Y_b>) / m`` for every ordered pair
    a, b of different arrays. Concatenated arrays: the variances of the arrays.

    Cost per sample and array of one position: two transforms of length m and i + o additions ("fft"), or the product
    (i, o) and an addition for each of its entries ("direct"). Positions multiply the transforms. k cotangents share the
    transforms of the acts. Memory: the result, and tiles of transforms or Jacobians.

    Determinism: hashes are the same bits everywhere. "direct" gives the bits of the sketch of the Jacobian itself,
    for any batch, chunk and thread count; the FFT library decides on the rounding of "fft": other devices and other
    batches agree to a few units in the last place of the largest entries.

    Backends: numpy (scipy.fft), cupy (cuFFT).

    References
    ----------
    Pham, Pagh. Fast and scalable polynomial kernels via explicit feature maps. KDD 2013.
    Avron, Nguyen, Woodruff. Subspace embeddings for the polynomial kernel. NIPS 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> from ntkfast.projection import project_jacobian
    >>> net = Sequential(Dense(64), ReLU(), Dense(1))
    >>> x = np.random.default_rng(0).standard_normal((5, 20))
    >>> params = net.init((20,), seed=0, dtype="float64")
    >>> project_jacobian(net, params, x, TensorProjection(256, seed=0)).shape
    (5, 1, 256)
    """

    algorithm: str = field(default="auto", kw_only=True)

    _stream: ClassVar[Stream] = Stream.TENSOR_PROJECTION

    def __post_init__(self) -> None:
        # slots make dataclass rebuild the class, so super() without arguments would miss it
        JacobianSketch.__post_init__(self)
        check_choice(self.algorithm, "algorithm", ALGORITHMS)

    def _part(self, shape: Shape, width: int, key: int) -> ArraySketch:
        return HashedArray(shape, width, key, self.algorithm)


@dataclass(frozen=True, slots=True)
class HashedArray(StreamedArray):
    """CountSketch of one parameter array with a product hash.

    Attributes
    ----------
    shape, width
        See `ArraySketch`.
    key : int
        Of the stream from which those of the two sides are derived.
    algorithm : str
    """

    shape: Shape
    width: int
    key: int
    algorithm: str

    def _open(self, n_rows: int, backend: Backend, dtype: Any) -> RowStream:
        return _HashedStream(self, n_rows, backend, dtype)

    def of_factors(self, factors: Factors) -> Array:
        """Hash the Jacobian of some samples; of an embedding, that of the rows of the table that a sample reads."""
        if isinstance(factors, SparseFactors):
            backend = get_backend(factors.ct.shared)
            tokens = backend.to_numpy(factors.index)  # one wait for all samples
            found = [self._of_rows_read(factors.rows(slice(s, s + 1)), tokens[s], backend) for s in range(factors.n)]
            return backend.xp.stack(found)
        return StreamedArray.of_factors(self, factors)

    def _of_rows_read(self, factors: SparseFactors, tokens: Any, backend: Backend) -> Array:
        """Sketch (k, width) of one sample, which reads the rows `tokens`, an array of the host."""
        xp = backend.xp
        read, place = np.unique(tokens, return_inverse=True)
        jac = factors.scale * _sums_of_equal(factors.delta[0], place.reshape(-1), backend)
        jac = xp.ascontiguousarray(jac.swapaxes(0, 1)).reshape(factors.k, -1)
        out = xp.zeros((factors.k, self.width), jac.dtype)
        sides = _Sides(*memoised(self, _side_tables, backend, jac.dtype))
        backend.launch(countsketch.add, jac, *sides.product(xp.asarray(read), self.width), out)
        return out

    # --- transforms -----------------------------------------------------------------------------

    def is_spectral(self, factors: Factors) -> bool:
        """Whether transforms are wanted, or cheaper than the Jacobian."""
        if not isinstance(factors, JacobianFactors) or factors.act is None or factors.in_width == factors.groups:
            return False  # no outer products of vectors
        if self.algorithm != "auto":
            return self.algorithm == "fft"
        k, t, costs = factors.k, factors.positions, _COSTS[get_backend(factors.ct.shared).name]
        transform = self.width * math.log2(2 * self.width) * costs.transform
        sides = (factors.in_width + k * factors.out_width) * costs.side
        return t * (factors.groups * (1 + k) * transform + sides) < k * factors.size * (costs.entry + t * costs.product)

    def numbers(self, factors: Factors) -> int:
        """Numbers per sample that are held at once."""
        places = math.prod(factors.spatial)
        if isinstance(factors, SparseFactors):  # cotangents, their sums and tables
            return int(places * self.shape[1] * (4 * factors.k + 6) + 2 * factors.k * self.width)
        if not self.is_spectral(factors):
            return StreamedArray.numbers(self, factors)
        delta = places * factors.k * factors.ct.shared.shape[-1]
        return int(self._positions_at_once(places, factors.k) * (1 + factors.k) * 2 * self.width + 2 * delta)

    def _positions_at_once(self, places: int, k: int) -> int:
        return max(1, min(places, _POSITIONS // ((1 + k) * self.width)))

    def add_spectrum(self, factors: Factors, out: Array) -> None:
        """Add the products of the two sides' transforms, summed over positions and groups."""
        assert isinstance(factors, JacobianFactors)
        assert factors.act is not None  # else it is not spectral
        backend, act, delta = get_backend(out), factors.act[0 : factors.n], factors.delta
        sides = _Sides(*memoised(self, _side_tables, backend, delta.dtype))
        i, o = factors.in_width // factors.groups, factors.out_width // factors.groups
        places = slices(factors.positions, self._positions_at_once(factors.positions, factors.k))
        for g, some in itertools.product(range(factors.groups), places):
            rows, columns = slice(g * i, (g + 1) * i), slice(g * o, (g + 1) * o)
            left = self._transform(act[:, some, rows], *sides.rows(factors.scale), backend)
            right = self._transform(delta[:, some, :, columns], *sides.columns(columns), backend)
            backend.launch(tensorsketch.accumulate, left, right, out)

    def _transform(self, x: Array, bucket: Array, sign: Array, backend: Backend) -> Array:
        """Transforms of the CountSketches of the last axis."""
        xp = backend.xp
        flat = xp.ascontiguousarray(x).reshape(-1, x.shape[-1])
        sketch = xp.empty((len(flat), self.width), x.dtype)
        backend.launch(countsketch.apply, flat, bucket, sign, sketch)
        return rfft(sketch, backend).reshape(*x.shape[:-1], -1)


def _sums_of_equal(delta: Array, place: Any, backend: Backend) -> Array:
    """Sums (r, k, c) of the cotangents (t, k, c) of equal places 0 <= place < r, each added in the order of t.

    The j-th of every place at a time: `add.at` would take them one by one, and a GPU in any order.
    """
    asarray, counts = backend.xp.asarray, np.bincount(place)
    order, first = np.argsort(place, kind="stable"), np.cumsum(counts) - counts
    out = delta[asarray(order[first])]
    for j in range(1, int(counts.max())):
        rows = np.flatnonzero(counts > j)
        out[asarray(rows)] += delta[asarray(order[first[rows] + j])]
    return out


class _HashedStream(RowStream):
    """Sums of the entries of each bucket, in the order of the array, which comes in whole rows."""

    def __init__(self, part: HashedArray, n_rows: int, backend: Backend, dtype: Any) -> None:
        self._part, self._backend, self._row = part, backend, 0
        self._out = backend.xp.zeros((n_rows, part.width), dtype)

    def add(self, x: Array) -> None:
        """Add the next rows of the array."""
        columns = matrix_shape(self._part.shape)[1]
        step = max(1, _TABLE // columns)
        while x.shape[1]:  # tables are cut at multiples of their height, so that equal ones are kept once
            start, height = self._row, min(x.shape[1] // columns, step - self._row % step)
            tile = start // step * step
            tables = memoised((self._part, tile, tile + step), _product_tables, self._backend, x.dtype)
            bucket, sign = (t[:, (start - tile) * columns : (start - tile + height) * columns] for t in tables)
            self._backend.launch(countsketch.add, x[:, : height * columns], bucket, sign, self._out)
            self._row, x = start + height, x[:, height * columns :]

    def result(self) -> Array:
        """The sums."""
        return self._out


def _side_tables(part: HashedArray, backend: Backend, dtype: Any) -> tuple[Array, ...]:
    """Buckets and signs of rows (1, i) and columns (1, o)."""
    tables = []
    for side, length in enumerate(matrix_shape(part.shape)):
        bucket, sign = backend.xp.empty(length, np.int32), backend.xp.empty(length, dtype)
        backend.launch(philox.bucket_sign, philox.derive_key(part.key, side), 0, part.width, bucket, sign)
        tables += [bucket[None], sign[None]]
    return tuple(tables)


def _product_tables(span: tuple[HashedArray, int, int], backend: Backend, dtype: Any) -> tuple[Array, ...]:
    """Buckets and signs of all entries of some rows, (1, rows o)."""
    part, start, stop = span
    sides = _Sides(*memoised(part, _side_tables, backend, dtype))
    return sides.product(slice(start, stop), part.width)


class _Sides(NamedTuple):
    """Tables of the two sides of a matrix."""

    bucket_1: Array
    sign_1: Array
    bucket_2: Array
    sign_2: Array

    def rows(self, scale: float) -> tuple[Array, Array]:
        """Tables of the rows, with a factor in the signs."""
        return self.bucket_1, self.sign_1 * self.sign_1.dtype.type(scale)

    def columns(self, columns: slice) -> tuple[Array, Array]:
        """Tables of some columns, C-contiguous."""
        ascontiguousarray = get_backend(self.bucket_2).xp.ascontiguousarray
        return ascontiguousarray(self.bucket_2[:, columns]), ascontiguousarray(self.sign_2[:, columns])

    def product(self, rows: Any, width: int) -> tuple[Array, Array]:
        """Buckets (h_1 + h_2) mod m and signs s_1 s_2 of the entries of some rows."""
        bucket = (self.bucket_1[:, rows].T.astype(np.int64) + self.bucket_2) % width
        return bucket.astype(np.int32).reshape(1, -1), (self.sign_1[:, rows].T * self.sign_2).reshape(1, -1)
