"""What every layer offers: forward, pullback, pushforward, and its parameters' Jacobian as factors.

Letters: n samples, *s spatial axes, k cotangents or tangents per sample, c channels. Activations are (n, *s, c),
channels last; cotangents are (n, *s, k, c), as a `Cotangent`; tangents are arrays (n, *s, k, c).

A layer is a value: a frozen dataclass that holds its settings, and none of its parameters. Layers are linear in their
parameters (affine in each; the input enters through what multiplies them), so the derivative along a direction of the
parameters is `forward` with the direction in their place.

A leaf layer writes `parameter_shapes`, `out_shape`, `forward`, `vjp`, `jvp`, and, if it has parameters, `factors`,
`param_jvp` and `act_vjp` (and `unfold_delta`, should the cotangent have other axes in them than in the output); if its
Jacobian with respect to the input depends on the input smoothly, also `curvature`.
Containers write `backward`, `pushforward`, `pair_jvp` and `pair_vjp` in place of `factors`, `vjp` and `jvp`.
"""

import abc
import math
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from .._check import (
    FLOAT_DTYPES,
    array_backend,
    check_choice,
    check_dtype,
    check_int,
    check_range,
    check_seed,
    quiet,
)
from .._streams import Stream
from .._tree import join
from .._typing import Array
from ..backends import get_backend
from ..kernels import philox
from ._inputs import batch_shape, check_batch, check_entries, takes_indices
from .factors import Cotangent, Factors
from .motion import Motion, Pair

__all__ = ["Backward", "Layer", "Params", "Saved", "Shape", "layer_name"]

Shape: TypeAlias = tuple[int, ...]
Params: TypeAlias = Any  # a dictionary of arrays for a leaf layer, a tuple or dictionary of Params for a container
Saved: TypeAlias = Any  # what forward keeps for the other methods
Backward: TypeAlias = Generator[tuple[str, dict[str, Factors]], None, Cotangent | None]


class Layer(abc.ABC):
    """A differentiable function of (params, x), sample by sample."""

    __slots__ = ()

    #: Entries of a leaf's params that are data and not parameters: they have no Jacobian.
    buffers: tuple[str, ...] = ()
    #: Whether a leaf reads integers instead of floating-point numbers: an embedding.
    takes_indices: bool = False

    def children(self) -> Iterable[tuple[str, "Layer"]]:
        """Layers of a container by their names in paths, lowest first; nothing for a leaf."""
        return ()

    # --- shapes and parameters ------------------------------------------------------------------

    def parameter_shapes(self, in_shape: Shape) -> dict[str, Shape]:
        """Shapes of a leaf's arrays, buffers included, for samples of shape `in_shape`."""
        return {}

    @abc.abstractmethod
    def out_shape(self, in_shape: Shape) -> Shape:
        """Shape of one sample of the output; raises ValueError where `in_shape` does not fit."""

    def init(self, in_shape: Shape, *, seed: int, dtype: Any = "float32") -> Params:
        """Draw parameters for samples of shape `in_shape`, as NumPy arrays.

        Parameters
        ----------
        in_shape : tuple of int
            Shape of one sample: (d,), (height, width, channels), ...
        seed : int
            Key of the random stream, 0 <= seed < 2**64.
        dtype : {"float32", "float64"} or the dtype of these
            As the samples will have it: ``x.dtype``.

        Returns
        -------
        params
            A dictionary of arrays for a layer, a tuple of such for a `Sequential`.

        Raises
        ------
        TypeError, ValueError
            A shape that does not fit the network, naming the layer; other dtypes.

        Notes
        -----
        Determinism: a function of (layer, in_shape, seed, dtype) on every machine, up to the last bits
        of normal numbers.

        Examples
        --------
        >>> from ntkfast.layers import Dense
        >>> Dense(2).init((3,), seed=0)["weight"].shape
        (3, 2)
        """
        if not isinstance(in_shape, Sequence):
            raise TypeError(f"expected in_shape to be a tuple of integers such as (784,), got {in_shape!r}")
        shape = tuple(check_int(size, "in_shape", minimum=1) for size in in_shape)
        self.out_shape(shape)
        key = philox.derive_key(check_seed(seed), Stream.LAYERS)
        name = getattr(dtype, "name", getattr(dtype, "__name__", dtype))  # of a dtype, or of NumPy's type
        return self._init(shape, key, np.dtype(check_choice(name, "dtype", FLOAT_DTYPES)))

    def __call__(self, params: Params, x: Array) -> Array:
        """Outputs of a batch; unlike in `forward`, all arguments are checked.

        Parameters
        ----------
        params
            As `init` returns.
        x : array, shape (n, *in_shape)
            In the dtype of `params`; integers where the network begins with an `Embedding`.

        Returns
        -------
        array, shape (n, *out_shape)

        Raises
        ------
        TypeError, ValueError
            Arguments that do not fit each other (the message names the layer, or the entry of `params`), NaN or inf.
        OverflowError
            The outputs leave the range of their dtype.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.layers import Dense, ReLU, Sequential
        >>> net = Sequential(Dense(8), ReLU(), Dense(2))
        >>> net(net.init((3,), seed=0), np.ones((4, 3), np.float32)).shape
        (4, 2)
        """
        x, _ = check_batch(x, "x", takes_indices(self))
        self.out_shape(x.shape[1:])
        entries = list(self.check_params(params, x.shape[1:]))
        if entries:
            check_entries(entries, x)
        with quiet():
            y, _ = self.forward(params, x)
        return check_range(y, "the outputs of the network")

    def _init(self, in_shape: Shape, key: int, dtype: Any) -> Params:
        """Parameters from a key: each by `_draw`."""
        shapes = self.parameter_shapes(in_shape)
        return {name: self._draw(name, shape, philox.derive_key(key, i), dtype)
                for i, (name, shape) in enumerate(shapes.items())}  # fmt: skip

    def _draw(self, name: str, shape: Shape, key: int, dtype: Any) -> Array:
        """One parameter array."""
        return normal(shape, key, dtype)

    def check_params(self, params: Params, in_shape: Shape, path: str = "") -> Iterator[tuple[str, Array]]:
        """Compare a tree of parameters with the layer; yield its entries as (path, array)."""
        shapes = self.parameter_shapes(in_shape)
        where = f"params[{path!r}]" if path else "params"
        if not isinstance(params, Mapping):
            raise TypeError(f"expected {where} to be a dictionary with {_names(shapes)}, got {type(params).__name__}")
        if set(params) != set(shapes):
            raise ValueError(f"expected {where} ({layer_name(self)}) to hold {_names(shapes)}, got {_names(params)}")
        for name, shape in shapes.items():
            entry = join(path, name)
            array = params[name]
            array_backend(array, f"params[{entry!r}]")
            check_dtype(array, f"params[{entry!r}]")
            if array.shape != shape:
                raise ValueError(
                    f"expected params[{entry!r}] ({layer_name(self)}) of shape {shape}, got {array.shape}, "
                    f"for inputs of shape {batch_shape(in_shape)}"
                )
            yield entry, array

    def leaves(self, in_shape: Shape, path: str = "") -> Iterator[tuple[str, "Layer", Shape]]:
        """(path, layer, shape of its input) of every layer that is no container, input first."""
        yield path, self, in_shape

    # --- derivatives ----------------------------------------------------------------------------

    @abc.abstractmethod
    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:
        """Output (n, *out_shape), and what the other methods need; nothing is checked."""

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:
        """Pull k cotangents per sample back to the input; one that is `owned` may be overwritten."""
        raise NotImplementedError(f"{layer_name(self)} has no vjp")

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:
        """Push k tangents per sample, (n, *in_spatial, k, c), forward to the output."""
        raise NotImplementedError(f"{layer_name(self)} has no jvp")

    def factors(self, params: Params, saved: Saved, ct: Cotangent) -> dict[str, Factors]:
        """Jacobians of the layer's parameters under k cotangents per sample, by name."""
        return {}

    def param_jvp(self, params: Params, direction: Params, saved: Saved) -> Array:
        """Derivative of the output (n, *out_shape) along a direction of the parameters."""
        raise NotImplementedError(f"{layer_name(self)} has no parameters")

    def act_vjp(self, params: Params, saved: Saved, name: str, ct: Array) -> Array | None:
        """Pull a cotangent (n, t, g i) of `act` in the factors of parameter `name` back to the input, (n, *in_shape).

        None where `act` does not depend on the input: a bias.
        """
        return None

    def unfold_delta(self, saved: Saved, delta: Array) -> Array:
        """The inverse of what `factors` did to the axes of the cotangent: (n, *spatial, k, g o) to (n, *s, k, c)."""
        return delta

    def curvature(self, params: Params, saved: Saved, ct: Array, tangent: Array) -> Array | None:
        """Gradient with respect to the input x of the sum over k of <ct_k, (dy/dx) tangent_k>, (n, *in_shape).

        `ct` (n, *out_spatial, k, c) and `tangent` (n, *in_spatial, k, c) are held fixed. None where dy/dx is constant
        almost everywhere.
        """
        return None

    # --- what containers replace ----------------------------------------------------------------

    def has_parameters(self) -> bool:
        """Whether the layer, or one within it, has parameters."""
        return type(self).factors is not Layer.factors

    def backward(
        self, params: Params, saved: Saved, ct: Cotangent, path: str = "", want_input: bool = True
    ) -> Backward:
        """Yield (path, factors by name) of all layers with parameters, output first; return the input's cotangent.

        The cotangent of the input is None without `want_input`: nothing below needs it.
        """
        lent = ct.lent()  # factors hold it
        found = self.factors(params, saved, lent)
        if found:
            yield path, found
            ct = lent
        return self.vjp(params, saved, ct) if want_input else None

    def pushforward(
        self, params: Params, saved: Saved, tangent: Array | None, direction: Params | None = None
    ) -> Array | None:
        """Derivative of the output along a tangent of the input and a direction of the parameters, (n, *s, 1, c).

        None stands for zero, both in arguments and in the result.
        """
        pushed = None if tangent is None else self.jvp(params, saved, tangent)
        if not direction:
            return pushed
        return add(pushed, self.param_jvp(params, direction, saved)[..., None, :])

    def pair_jvp(
        self, params: Params, saved: Saved, tangent: Array | None, motion: Motion, path: str = ""
    ) -> tuple[Array | None, Saved]:
        """Push k tangents through while the parameters move; return the output's tangents, and what `pair_vjp` needs.

        None stands for zero, as in `pushforward`.
        """
        pushed = None if tangent is None else self.jvp(params, saved, tangent)
        return add(pushed, motion.push(path, self, params, saved)), tangent

    def pair_vjp(
        self, params: Params, saved: Saved, tangents: Saved, pair: Pair, motion: Motion, path: str = ""
    ) -> Pair:
        """Pull the cotangents of the output and of its k tangents back to the input and its tangents.

        `tangents` is the second result of `pair_jvp`. See motion.py.
        """
        value = None
        if pair.value is not None:
            value = self.vjp(params, saved, pair.value)
        if pair.tangent is None:
            return Pair(value, None)
        value = add(value, motion.pull(path, self, params, saved, pair.tangent.lent()))
        if tangents is None:  # nothing moves below
            return Pair(value, None)
        value = add(value, self._bend(params, saved, pair.tangent, tangents))
        return Pair(value, self.vjp(params, saved, pair.tangent))

    def _bend(self, params: Params, saved: Saved, ct: Cotangent, tangent: Array) -> Cotangent | None:
        """`curvature` of a cotangent that may be a product."""
        if type(self).curvature is Layer.curvature:
            return None
        spatial = self.out_shape((*tangent.shape[1:-2], tangent.shape[-1]))[:-1]
        bent = self.curvature(params, saved, ct.dense(len(tangent), spatial), tangent)
        return None if bent is None else Cotangent(bent[..., None, :])


def add(a: Any, b: Any) -> Any:
    """Sum of two tangents or two cotangents, of which None is zero."""
    if a is None or b is None:
        return b if a is None else a
    return a + b


def layer_name(layer: Layer) -> str:
    """Name of a layer in messages."""
    return type(layer).__name__


def _names(entries: Mapping[str, Any]) -> str:
    return ", ".join(sorted(map(str, entries))) or "nothing"


def normal(shape: Shape, key: int, dtype: Any) -> Array:
    """Standard normal numbers of a stream."""
    out = np.empty(math.prod(shape), dtype)
    get_backend(out).launch(philox.normal, key, 0, out)
    return out.reshape(shape)
