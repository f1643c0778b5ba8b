"""The default engine: networks of `ntkfast.layers`, whose derivatives are written by hand.

A vector-Jacobian product of a batch is the backward pass with one cotangent per sample; a weight's part is one matrix
product over all samples and positions. A Jacobian-vector product is the forward pass with the direction in place of
the parameters, layer by layer.
"""

from collections.abc import Callable, Iterator
from typing import Any

from .._check import check_range
from .._tree import Tree, join, pick
from .._typing import Array
from ..backends import get_backend
from ..layers import Cotangent, Layer
from ..layers._inputs import batch_shape, check_entries, takes_indices
from ..layers.factors import Factors
from ._inputs import check_network, check_samples, refuse_shape
from ._protocol import Checked, InputPullback, ParamPullback, Pushforward

__all__ = ["LayerEngine", "engine"]


class LayerEngine:
    """Engine of networks that are a `Layer`: NumPy and CuPy, no framework."""

    name = "layers"

    def check(self, fun: Any, params: Tree, x1: Array, x2: Array | None = None) -> Checked:
        """Compare the network, its parameters and the samples with each other. See `Autodiff.check`."""
        check_network(fun)
        x1, x2, backend = check_samples(x1, x2, indices=takes_indices(fun))
        n_outputs = _outputs(fun, x1.shape[1:])
        entries = dict(fun.check_params(params, x1.shape[1:]))
        if not entries:
            raise ValueError("expected a network with parameters, got none")
        check_entries(list(entries.items()), x1)
        for path, layer, _ in fun.leaves(x1.shape[1:]):
            for name in layer.buffers:
                del entries[join(path, name)]
        return Checked(x1, x2, backend, entries, n_outputs)

    def factors(
        self,
        fun: Layer,
        params: Tree,
        x: Array,
        outputs: slice = slice(None),
        cotangents: Callable[[Array], Array] | None = None,
    ) -> Iterator[tuple[str, dict[str, Factors]]]:
        """Yield (path of a layer, Jacobian factors by name), from the output down to the input.

        The cotangents are the unit vectors of `outputs`, shared by all samples; or one of each sample, which
        `cotangents` finds from the outputs. What a layer's factors hold is freed once the caller drops them.
        OverflowError where the outputs are not finite.
        """
        y, saved = fun.forward(params, x)
        check_range(y, "the outputs of the network")  # behind a gate of 0 the Jacobian would hide what overflowed
        if cotangents is None:
            head = get_backend(y).xp.eye(y.shape[1], dtype=y.dtype)[outputs][None]
        else:
            head = cotangents(y)[:, None, :]
        yield from fun.backward(params, saved, Cotangent(head), want_input=False)

    def param_jacobian(self, fun: Layer, params: Tree, x: Array) -> dict[str, Array]:
        """Per-sample Jacobians by path, each (n, k, *shape), the output's layer first."""
        layers = self.factors(fun, params, x)
        return {join(path, name): found.jacobian() for path, layer in layers for name, found in layer.items()}

    def param_vjp(self, fun: Layer, params: Tree, x: Array) -> tuple[Array, ParamPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to a tree without buffers."""
        y, saved = fun.forward(params, x)

        def pullback(ct: Array) -> Tree:
            refuse_shape(ct, "ct", y.shape)
            layers = fun.backward(params, saved, Cotangent(ct[:, None, :]), want_input=False)
            totals = {join(path, name): part.total()[0] for path, layer in layers for name, part in layer.items()}
            return pick(params, totals)

        return y, pullback

    def param_jvp(self, fun: Layer, params: Tree, x: Array) -> tuple[Array, Pushforward]:
        """Outputs (n, k), and the derivative (n, k) along a tree of directions without buffers."""
        y, saved = fun.forward(params, x)

        def pushforward(direction: Tree) -> Array:
            pushed = fun.pushforward(params, saved, None, direction)
            assert pushed is not None  # `check` found parameters
            return pushed.reshape(y.shape)

        return y, pushforward

    def input_vjp(self, fun: Layer, params: Tree, x: Array) -> tuple[Array, InputPullback]:
        """Outputs (n, k), and the pullback from cotangents (n, k) to the input."""
        if x.dtype.kind != "f":
            raise TypeError(f"expected x of dtype float32 or float64, got {x.dtype}: no derivative by integers")
        y, saved = fun.forward(params, x)

        def pullback(ct: Array) -> Array:
            refuse_shape(ct, "ct", y.shape)
            low = fun.vjp(params, saved, Cotangent(ct[:, None, :]))
            return low.dense(x.shape[0], x.shape[1:-1]).reshape(x.shape)

        return y, pullback


def _outputs(net: Layer, in_shape: tuple[int, ...]) -> int:
    shape = net.out_shape(in_shape)
    if len(shape) != 1:
        raise ValueError(
            f"expected a network with outputs of shape (n, k), got {batch_shape(shape)} for samples of shape "
            f"{batch_shape(in_shape)}; "
            "put Flatten() or GlobalAvgPool() before its last Dense layer"
        )
    return shape[0]


engine = LayerEngine()
