"""Sketches of tensor products x_1 (x) ... (x) x_q that never form the product.

TensorSketch: the CountSketch of a tensor product whose bucket is the sum of the factors' buckets modulo m, and whose
sign is the product of their signs, is the circular convolution of the factors' CountSketches: with F the discrete
Fourier transform of length m,

    T(x_1, ..., x_q) = F^-1( F C_1 x_1 * ... * F C_q x_q ).

TensorSRHT: a sampled row of the Walsh-Hadamard transform of x_1 (x) x_2 is the product of a row for each factor.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .._check import check_int, quiet
from .._streams import Stream
from .._typing import Array
from ..backends import Backend, get_backend
from ..kernels import philox, tensorsketch
from ._base import Scratch, dense
from ._fft import irfft, rfft
from ._tensor_map import TensorMap
from .countsketch import CountSketch
from .srht import HadamardSample

__all__ = ["TensorSRHT", "TensorSketch"]

MAX_FACTORS = 1024


@dataclass(frozen=True, slots=True)
class TensorSketch(TensorMap):
    """CountSketch of the tensor product of q vectors, through the discrete Fourier transform.

    ``E <T(x_1, ..., x_q), T(y_1, ..., y_q)> = prod_k <x_k, y_k>``.

    Parameters
    ----------
    in_dims : sequence of int
        Widths of the q factors, 1 <= q <= 1024.
    sketch_dim : int
        Output width m; the FFT is fastest where it has small prime factors only.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<T(x), T(y)>``, exactly: with ``c_k = <x_k, y_k>``, ``e_k = sum_i x_ki^2 y_ki^2``,
    ``a_k = |x_k|^2 |y_k|^2 - e_k``, ``b_k = c_k^2 - e_k``, g = 1 for odd m and 2 for even m,

        [ prod (c_k^2 + a_k) + prod (c_k^2 + b_k) - 2 prod c_k^2 ] / m
        + g [ prod (c_k^2 + a_k + b_k) - prod (c_k^2 + a_k) - prod (c_k^2 + b_k) + prod c_k^2 ] / m^2

    It is at most ``(2 + 3^q) / m`` times ``prod |x_k|^2 |y_k|^2``. For q = 1 it is that of `CountSketch`.

    Cost per row: ``sum_k nnz(x_k)`` additions and q + 1 transforms of length m; memory: the result and tiles of
    spectra.

    Determinism: equal calls give equal bits. The FFT library decides on rounding: other devices, and other numbers of
    rows, agree to a few units in the last place. The tables of buckets and signs are bitwise everywhere.

    Backends: numpy (scipy.fft, on as many threads as the kernels), cupy (cuFFT).

    References
    ----------
    Pham, Pagh. Fast and scalable polynomial kernels via explicit feature maps. KDD 2013.
    Avron, Nguyen, Woodruff. Subspace embeddings for the polynomial kernel. NIPS 2014 (the bound).

    Examples
    --------
    >>> import numpy as np
    >>> sketch = TensorSketch((3, 2), 8, seed=0)
    >>> z = sketch.apply(np.array([[0.0, 3.0, 0.0]]), np.array([[0.0, 2.0]]))
    >>> round(float(np.abs(z).sum()), 12)
    6.0
    """

    def __post_init__(self) -> None:
        # slots make dataclass rebuild the class, so super() without arguments would miss it
        TensorMap.__post_init__(self)
        check_int(len(self.in_dims), "the number of in_dims", minimum=1, maximum=MAX_FACTORS)

    @property
    def _tile_width(self) -> int:
        """Entries per row of the largest scratch array of a tile."""
        return self.sketch_dim

    def _apply_tile(self, tiles: Sequence[Any], scratch: Scratch, out: Array) -> None:
        """Write the sketch of checked factors to `out`."""
        backend = scratch.backend
        spectra = self._spectra(tiles, backend)
        total = spectra[0]
        for spectrum in spectra[1:]:
            backend.launch(tensorsketch.multiply, total, spectrum, total)
        out[...] = irfft(total, self.sketch_dim, backend)

    def _pull_tile(self, tiles: Sequence[Any], ct: Array, scratch: Scratch, grads: Sequence[Array]) -> None:
        """Write the gradients of checked factors to `grads`.

        That of a factor is its CountSketch's adjoint, applied to the circular correlation of ct with the other
        factors: a product with conjugated spectra.
        """
        backend = scratch.backend
        spectrum = rfft(ct, backend)
        for sketch, others, grad in zip(self._sketches(), _others(self._spectra(tiles, backend)), grads, strict=True):
            with quiet():
                correlation = irfft(spectrum * others.conj(), self.sketch_dim, backend)
            grad[...] = sketch._adjoint_unchecked(correlation, backend)

    def _sketches(self) -> list[CountSketch]:
        """The CountSketches of the factors."""
        keys = (philox.derive_key(self.seed, Stream.TENSOR_SKETCH, k) for k in range(len(self.in_dims)))
        return [CountSketch(d, self.sketch_dim, seed=key) for d, key in zip(self.in_dims, keys, strict=True)]

    def _spectra(self, tiles: Sequence[Any], backend: Backend) -> list[Array]:
        pairs = zip(self._sketches(), tiles, strict=True)
        return [rfft(sketch._apply_unchecked(tile, backend), backend) for sketch, tile in pairs]


def _others(spectra: Sequence[Array]) -> list[Array]:
    """For each spectrum the product of all others, without a division."""
    one = get_backend(spectra[0]).xp.ones_like(spectra[0])
    before, after = [one], [one]
    for k in range(len(spectra) - 1):
        before.append(before[k] * spectra[k])
        after.append(after[k] * spectra[-1 - k])
    return [left * right for left, right in zip(before, reversed(after), strict=True)]


@dataclass(frozen=True, slots=True)
class TensorSRHT(TensorMap):
    """Sketch of the tensor product of two vectors by sampled Walsh-Hadamard transforms.

    ``S(x_1, x_2) = (P_1 H D_1 x_1) * (P_2 H D_2 x_2) / sqrt(sketch_dim)``, entry by entry, with independent
    signs D and independent balanced samples P of rows (see `SRHT`). ``E <S(x), S(y)> = <x_1, y_1> <x_2, y_2>``.

    Parameters
    ----------
    in_dims : (int, int)
        Widths of the two factors.
    sketch_dim : int
        Output width m.
    seed : int
        Key of the random stream, 0 <= seed < 2**64.

    Raises
    ------
    TypeError, ValueError
        An argument outside what is listed.

    Notes
    -----
    Variance of ``<S(x), S(y)>``, exactly: with ``c_k = <x_k, y_k>``, the spread
    ``V_k = |x_k|^2 |y_k|^2 + c_k^2 - 2 sum_i x_ki^2 y_ki^2``, p_k the power of two at or above in_dims[k],
    ``f_k = (m mod p_k) (p_k - m mod p_k) / (p_k - 1)``, and N the number of ordered pairs of different samples
    that lie in one permutation of both factors (``N = (m - k) (p - 1) + k (k - 1)`` with ``p = min(p_1, p_2)`` and
    ``k = m mod p``),

        [ f_1 V_1 c_2^2 + f_2 V_2 c_1^2 + (m + N / ((p_1 - 1) (p_2 - 1))) V_1 V_2 ] / m^2

    with terms over p_k - 1 = 0 left out. For ``p_1 = p_2 = m`` that is ``V_1 V_2 / (m - 1)``, which for norms
    (x = y) is at most ``4 |x_1|^4 |x_2|^4 / (m - 1)``: half of what independently drawn rows give.

    Cost per row: ``p_1 log2 p_1 + p_2 log2 p_2`` additions; memory: the result and a tile of padded rows. Sparse
    factors are made dense tile by tile.

    Determinism: bitwise across targets, runs, tiles of rows and thread counts.

    Backends: numpy, cupy.

    References
    ----------
    Ahle, Kapralov, Knudsen, Pagh, Velingker, Woodruff, Zandieh. Oblivious sketching of high-degree polynomial
      kernels. SODA 2020.

    Examples
    --------
    >>> import numpy as np
    >>> sketch = TensorSRHT((4, 2), 8, seed=0)
    >>> z = sketch.apply(np.array([[0.0, 3.0, 0.0, 0.0]]), np.array([[0.0, 2.0]]))
    >>> round(float((z * z).sum()), 12)
    36.0
    """

    def __post_init__(self) -> None:
        TensorMap.__post_init__(self)
        if len(self.in_dims) != 2:
            raise ValueError(f"expected in_dims of length 2, got {len(self.in_dims)}")

    @property
    def _tile_width(self) -> int:
        """Entries per row of the largest scratch array of a tile."""
        return max(self.sketch_dim, *(half.order for half in self._halves()))

    def _apply_tile(self, tiles: Sequence[Any], scratch: Scratch, out: Array) -> None:
        """Write the sketch of checked factors to `out`."""
        left, right = self._project(tiles, scratch)
        with quiet():
            scratch.backend.xp.multiply(left, right, out=out)
        scratch.give(left)
        scratch.give(right)

    def _pull_tile(self, tiles: Sequence[Any], ct: Array, scratch: Scratch, grads: Sequence[Array]) -> None:
        """Write the gradients of checked factors to `grads`."""
        left, right = self._project(tiles, scratch)
        for half, other, grad in zip(self._halves(), (right, left), grads, strict=True):
            with quiet():
                half.pull(ct * other, scratch, grad)
        scratch.give(left)
        scratch.give(right)

    def _halves(self) -> list[HadamardSample]:
        """The two factors' maps. The second has the scale; its random order serves both if it is one permutation."""
        m = self.sketch_dim
        keys = [philox.derive_key(self.seed, Stream.TENSOR_SRHT, side) for side in range(2)]
        right = HadamardSample(self.in_dims[1], m, keys[1], 1.0 / math.sqrt(m), shuffled=True)
        left = HadamardSample(self.in_dims[0], m, keys[0], 1.0, shuffled=m > right.order)
        return [left, right]

    def _project(self, tiles: Sequence[Any], scratch: Scratch) -> list[Array]:
        projections = []
        for half, tile in zip(self._halves(), tiles, strict=True):
            out = scratch.take(tile.shape[0], self.sketch_dim)
            half.project(dense(tile), scratch, out)
            projections.append(out)
        return projections
