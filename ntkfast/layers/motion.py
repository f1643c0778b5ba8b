"""Second order: derivatives of the pair (value, tangent) of a network whose parameters move.

    S(x) = sum over n, k of <ct[n, k], J(x[n]) V[n, k]>

is a contraction of the parameters' Jacobian with directions V of the parameters. Its gradient with respect to x takes
one pass up, `Layer.pair_jvp`, of the tangents u that V causes, and one pass down, `Layer.pair_vjp`, of the cotangents
of the pair: that of the tangents is the cotangent ct of the backward pass as ever, and that of the values collects what
a layer's derivatives contribute to dS/dx by depending on x:

    value_in = D^T value_out + curvature(ct, u) + (what V does to the layer, pulled back)      D = dy/dx of the layer.

A `Motion` says what V does to a layer. Letters as in _base.py.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from .._typing import Array
from .factors import Cotangent

if TYPE_CHECKING:
    from ._base import Layer

__all__ = ["Motion", "Pair", "SharedMotion"]


class Pair(NamedTuple):
    """Cotangents of the values, one per sample, and of the k tangents; None stands for zero."""

    value: Cotangent | None
    tangent: Cotangent | None

    def lent(self) -> "Pair":
        """The same pair, not to be overwritten."""
        return Pair(self.value and self.value.lent(), self.tangent and self.tangent.lent())


class Motion(Protocol):
    """How the parameters of a network move: for each sample and each of its k tangents, or for all alike."""

    def push(self, path: str, layer: "Layer", params: Any, saved: Any) -> Array | None:
        """Derivative of the output of the layer at `path` along its parameters' motion, (n, *s, k, c)."""

    def pull(self, path: str, layer: "Layer", params: Any, saved: Any, ct: Cotangent) -> Cotangent | None:
        """Gradient of the sum of <ct, push> with respect to the layer's input, one cotangent per sample."""


@dataclass(frozen=True, slots=True)
class SharedMotion:
    """One direction of the parameters for all samples: k = 1.

    Attributes
    ----------
    directions : mapping of str to dict
        By path of a layer, the directions of its parameters by name, buffers left out.
    """

    directions: Mapping[str, Mapping[str, Array]]

    def push(self, path: str, layer: "Layer", params: Any, saved: Any) -> Array | None:  # noqa: D102
        direction = self.directions.get(path)
        return None if direction is None else layer.param_jvp(params, direction, saved)[..., None, :]

    def pull(self, path: str, layer: "Layer", params: Any, saved: Any, ct: Cotangent) -> Cotangent | None:  # noqa: D102
        # Layers are linear in their parameters: the directions in their place leave the layer that `push` applies.
        direction = self.directions.get(path)
        return None if direction is None else layer.vjp({**params, **direction}, saved, ct)
