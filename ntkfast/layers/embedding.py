"""Embedding: z[n, s, c] = scale E[x[n, s], c].

A sample reads few rows of the table, so its Jacobian stays a list of rows: `SparseFactors`, never one-hot vectors.
"""

from dataclasses import KW_ONLY, dataclass

from .._check import check_choice, check_int, check_real, set_checked
from .._typing import Array
from ._base import Layer, Params, Saved, Shape, normal
from .dense import PARAMETERIZATIONS
from .factors import Cotangent, Factors, SparseFactors

__all__ = ["Embedding"]


@dataclass(frozen=True, slots=True)
class Embedding(Layer):
    """Table of vectors, looked up by integers.

    Parameters
    ----------
    vocabulary : int
        Number of rows of the table.
    dim : int
        Length of a vector.
    W_std : float
    parameterization : {"ntk", "standard"}
        "ntk": z = W_std E[x], entries of E drawn from N(0, 1) (the fan-in of a table is 1). "standard": z = E[x],
        drawn from N(0, W_std^2).

    Notes
    -----
    Parameters: "weight", shape (vocabulary, dim). Input (n, ...), integers in [0, vocabulary); output (n, ..., dim).
    It has no derivative with respect to its input, so it can only be the first layer.

    Examples
    --------
    >>> import numpy as np
    >>> layer = Embedding(5, 2)
    >>> y, _ = layer.forward({"weight": np.arange(10.0).reshape(5, 2)}, np.array([[4, 0, 4]]))
    >>> y[0]
    array([[8., 9.],
           [0., 1.],
           [8., 9.]])
    """

    takes_indices = True

    vocabulary: int
    dim: int
    _: KW_ONLY
    W_std: float = 1.0
    parameterization: str = "ntk"

    def __post_init__(self) -> None:
        set_checked(
            self,
            vocabulary=check_int(self.vocabulary, "vocabulary", minimum=1),
            dim=check_int(self.dim, "dim", minimum=1),
            W_std=check_real(self.W_std, "W_std", minimum=0.0, strict=True),
            parameterization=check_choice(self.parameterization, "parameterization", PARAMETERIZATIONS),
        )

    @property
    def _scale(self) -> float:
        return self.W_std if self.parameterization == "ntk" else 1.0

    def parameter_shapes(self, in_shape: Shape) -> dict[str, Shape]:  # noqa: D102
        return {"weight": (self.vocabulary, self.dim)}

    def _draw(self, name: str, shape: Shape, key: int, dtype: object) -> Array:
        drawn = normal(shape, key, dtype)
        if self.parameterization == "standard":
            drawn *= self.W_std
        return drawn

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        return (*in_shape, self.dim)

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        self._check_indices(x)
        y = params["weight"][x]
        if self._scale != 1.0:
            y *= self._scale
        return y, x

    def _check_indices(self, x: Array) -> None:
        """Refuse what is no index: indexing itself would count negative ones from the end and, on a GPU, wrap all."""
        if x.dtype.kind not in "iu":
            raise TypeError(f"expected integers as input of an Embedding, got dtype {x.dtype}")
        for extreme in (int(x.min()), int(x.max())) if x.size else ():
            if not 0 <= extreme < self.vocabulary:
                raise ValueError(
                    f"expected integers in [0, {self.vocabulary}), the vocabulary of the Embedding, got {extreme}"
                )

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        raise TypeError("expected no gradient by the input of an Embedding: integers have none")

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        raise TypeError("expected no tangent of the input of an Embedding: integers have none")

    def factors(self, params: Params, saved: Saved, ct: Cotangent) -> dict[str, Factors]:  # noqa: D102
        n, spatial = saved.shape[0], saved.shape[1:]
        shape = (self.vocabulary, self.dim)
        return {"weight": SparseFactors(ct, saved.reshape(n, -1), shape, n, spatial, self._scale)}

    def param_jvp(self, params: Params, direction: Params, saved: Saved) -> Array:  # noqa: D102
        return self.forward(direction, saved)[0]
