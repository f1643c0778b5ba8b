"""The sketches of a tile of samples, put together array by array."""

import math
from typing import Any

from .._typing import Array
from ..backends import Backend
from ..empirical._tiles import slices
from ..layers.factors import Factors
from ..sketch._fft import irfft
from ._base import ArraySketch, Plan

__all__ = ["Collector"]


class Collector:
    """Sketches of one tile of samples, put together array by array as they come.

    Arrays that are sketched as vectors are added in the reverse of the tree's order, whichever order they come in, so
    that sums have the same bits for every engine. Transforms are added as they come, and transformed back once. `chunk`
    is how many numbers a part may hold at once, beyond those of one sample.
    """

    def __init__(self, plan: Plan, n: int, k: int, backend: Backend, dtype: Any, *, chunk: int = 1) -> None:
        self._plan, self._backend, self._chunk = plan, backend, chunk
        self._shape, self._dtype = (n, k, plan.width), dtype
        self._out: Array | None = None  # zeros that nobody adds to would cost two passes
        self._spectra: dict[tuple[int, int], Array] = {}
        self._expected = list(plan.parts)
        self._arrived: dict[str, Array | None] = {}

    def add(self, path: str, factors: Factors) -> None:
        """Sketch an array's factors."""
        part = self._plan.parts.get(path)
        if part is None:
            return
        n, k, xp, spectral = factors.n, factors.k, self._backend.xp, part.is_spectral(factors)
        if math.prod(factors.spatial) == 1:
            factors.ct.product()  # the layer below needs it, too; chunks would form theirs again
        out = self._spectrum(path, part) if spectral else xp.empty((n, k, part.width), self._dtype)
        for rows in slices(n, self._chunk // part.numbers(factors)):
            some = factors if rows == slice(0, n) else factors.rows(rows)
            if spectral:
                part.add_spectrum(some, out[rows])
            else:
                out[rows] = part.of_factors(some)
        self._arrive(path, None if spectral else out)

    def add_jacobian(self, path: str, jac: Array) -> None:
        """Sketch an array's Jacobian, (n, k, *shape), C-contiguous."""
        part = self._plan.parts.get(path)
        if part is not None:
            n, k = jac.shape[:2]
            self._arrive(path, part.of_jacobian(jac.reshape(n * k, *part.shape)).reshape(n, k, part.width))

    def result(self) -> Array:
        """All sketches as one vector per sample and cotangent, (n, k, width)."""
        for (start, stop), spectrum in self._spectra.items():
            flat = spectrum.reshape(-1, spectrum.shape[-1])
            found = irfft(flat, stop - start, self._backend)
            found = found.reshape(*self._shape[:2], -1)
            if found.shape == self._shape and self._out is None:
                self._out = found
            else:
                self._total()[..., start:stop] += found
        return self._total()

    def _total(self) -> Array:
        """The sum so far."""
        if self._out is None:
            self._out = self._backend.xp.zeros(self._shape, self._dtype)
        return self._out

    def _spectrum(self, path: str, part: ArraySketch) -> Array:
        """Where transforms of the same place are added."""
        place = self._plan.places[path]
        key, n_frequencies = (place.start, place.start + part.width), part.width // 2 + 1
        if key not in self._spectra:
            dtype = f"complex{16 * self._dtype.itemsize}"
            self._spectra[key] = self._backend.xp.zeros((*self._shape[:2], n_frequencies), dtype)
        return self._spectra[key]

    def _arrive(self, path: str, sketch: Array | None) -> None:
        """Add what has arrived to the result, as far as nothing before it is missing."""
        self._arrived[path] = sketch
        while self._expected and self._expected[-1] in self._arrived:
            following = self._expected.pop()
            found = self._arrived.pop(following)
            if found is not None:
                self._total()[..., self._plan.places[following]] += found
