"""Containers: layers in a row, and a body beside a shortcut."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from .._tree import join
from .._typing import Array
from ..kernels import philox
from ._base import Backward, Layer, Params, Saved, Shape, add, layer_name
from .factors import Cotangent
from .motion import Motion, Pair

__all__ = ["Residual", "Sequential"]


@dataclass(frozen=True, slots=True, init=False)
class Sequential(Layer):
    """Layers applied one after the other.

    Parameters
    ----------
    *layers : Layer

    Notes
    -----
    Parameters: a tuple with one entry per layer, ``{}`` for those without parameters. In paths, entry
    "weight" of layer 2 is ``"2.weight"``.

    Examples
    --------
    >>> from ntkfast.layers import Dense, ReLU
    >>> net = Sequential(Dense(64), ReLU(), Dense(10))
    >>> net.out_shape((784,))
    (10,)
    >>> [sorted(entry) for entry in net.init((784,), seed=0)]
    [['weight'], [], ['weight']]
    """

    layers: tuple[Layer, ...]

    def __init__(self, *layers: Layer) -> None:
        for i, layer in enumerate(layers):
            if not isinstance(layer, Layer):
                hint = "; give them one by one" if isinstance(layer, (list, tuple)) else ""
                hint = "; write it with parentheses" if isinstance(layer, type) else hint
                raise TypeError(f"expected layer {i} to be a Layer, got {layer!r}{hint}")
        if not layers:
            raise ValueError("expected at least one layer, got none")
        object.__setattr__(self, "layers", layers)

    def children(self) -> Iterable[tuple[str, Layer]]:  # noqa: D102
        return ((str(i), layer) for i, layer in enumerate(self.layers))

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        for i, layer in enumerate(self.layers):
            in_shape = _out_shape(layer, in_shape, str(i))
        return in_shape

    def _init(self, in_shape: Shape, key: int, dtype: Any) -> Params:
        params = []
        for i, layer in enumerate(self.layers):
            params.append(layer._init(in_shape, philox.derive_key(key, i), dtype))
            in_shape = layer.out_shape(in_shape)
        return tuple(params)

    def check_params(self, params: Params, in_shape: Shape, path: str = "") -> Iterator[tuple[str, Array]]:  # noqa: D102
        is_row = isinstance(params, (tuple, list))
        if not is_row or len(params) != len(self.layers):
            where = f"params[{path!r}]" if path else "params"
            got = f"{len(params)} entries" if is_row else type(params).__name__
            error = ValueError if is_row else TypeError
            raise error(f"expected {where} to be a tuple with {len(self.layers)} entries, one per layer, got {got}")
        for i, (layer, entry) in enumerate(zip(self.layers, params, strict=True)):
            name = join(path, str(i))
            yield from layer.check_params(entry, in_shape, name)
            in_shape = _out_shape(layer, in_shape, name)

    def leaves(self, in_shape: Shape, path: str = "") -> Iterator[tuple[str, Layer, Shape]]:  # noqa: D102
        for i, layer in enumerate(self.layers):
            yield from layer.leaves(in_shape, join(path, str(i)))
            in_shape = layer.out_shape(in_shape)

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        saved = []
        for layer, entry in zip(self.layers, params, strict=True):
            x, kept = layer.forward(entry, x)
            saved.append(kept)
        return x, saved

    def has_parameters(self) -> bool:  # noqa: D102
        return any(layer.has_parameters() for layer in self.layers)

    def backward(  # noqa: D102
        self, params: Params, saved: Saved, ct: Cotangent, path: str = "", want_input: bool = True
    ) -> Backward:
        lowest = next((i for i, layer in enumerate(self.layers) if layer.has_parameters()), len(self.layers))
        current: Cotangent | None = ct
        for i in reversed(range(len(self.layers))):
            if i < lowest and not want_input:
                return None
            assert current is not None
            want = want_input or i > lowest
            current = yield from self.layers[i].backward(params[i], saved[i], current, join(path, str(i)), want)
        return current

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        for layer, entry, kept in zip(self.layers[::-1], params[::-1], saved[::-1], strict=True):
            ct = layer.vjp(entry, kept, ct)
        return ct

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        for layer, entry, kept in zip(self.layers, params, saved, strict=True):
            tangent = layer.jvp(entry, kept, tangent)
        return tangent

    def pushforward(  # noqa: D102
        self, params: Params, saved: Saved, tangent: Array | None, direction: Params | None = None
    ) -> Array | None:
        moves = direction or (None,) * len(self.layers)
        for layer, entry, kept, move in zip(self.layers, params, saved, moves, strict=True):
            tangent = layer.pushforward(entry, kept, tangent, move)
        return tangent

    def pair_jvp(  # noqa: D102
        self, params: Params, saved: Saved, tangent: Array | None, motion: Motion, path: str = ""
    ) -> tuple[Array | None, Saved]:
        tangents = []
        for i, layer in enumerate(self.layers):
            tangent, kept = layer.pair_jvp(params[i], saved[i], tangent, motion, join(path, str(i)))
            tangents.append(kept)
        return tangent, tangents

    def pair_vjp(  # noqa: D102
        self, params: Params, saved: Saved, tangents: Saved, pair: Pair, motion: Motion, path: str = ""
    ) -> Pair:
        for i in reversed(range(len(self.layers))):
            pair = self.layers[i].pair_vjp(params[i], saved[i], tangents[i], pair, motion, join(path, str(i)))
        return pair


@dataclass(frozen=True, slots=True)
class Residual(Layer):
    """Sum of a body and a shortcut, both applied to the same input.

    Parameters
    ----------
    body : Layer
    shortcut : Layer, optional
        Default: the identity.

    Notes
    -----
    Parameters: a dictionary with "body", and "shortcut" if there is one.

    Examples
    --------
    >>> from ntkfast.layers import Dense, ReLU, Sequential
    >>> Residual(Sequential(ReLU(), Dense(8))).out_shape((8,))
    (8,)
    """

    body: Layer
    shortcut: Layer | None = None

    def __post_init__(self) -> None:
        for name, branch in self._branches():
            if not isinstance(branch, Layer):
                raise TypeError(f"expected {name} to be a Layer, got {branch!r}")

    def children(self) -> Iterable[tuple[str, Layer]]:  # noqa: D102
        return self._branches()

    def _branches(self) -> tuple[tuple[str, Layer], ...]:
        body = (("body", self.body),)
        return body if self.shortcut is None else (*body, ("shortcut", self.shortcut))

    def out_shape(self, in_shape: Shape) -> Shape:  # noqa: D102
        shapes = [_out_shape(branch, in_shape, name) for name, branch in self._branches()]
        shapes += [in_shape] if self.shortcut is None else []
        if shapes[0] != shapes[1]:
            raise ValueError(f"expected body and shortcut of one output shape, got {shapes[0]} and {shapes[1]}")
        return shapes[0]

    def _init(self, in_shape: Shape, key: int, dtype: Any) -> Params:
        return {name: branch._init(in_shape, philox.derive_key(key, i), dtype)
                for i, (name, branch) in enumerate(self._branches())}  # fmt: skip

    def check_params(self, params: Params, in_shape: Shape, path: str = "") -> Iterator[tuple[str, Array]]:  # noqa: D102
        names = [name for name, _ in self._branches()]
        where = f"params[{path!r}]" if path else "params"
        if not isinstance(params, Mapping):
            raise TypeError(f"expected {where} to be a dictionary with {', '.join(names)}, got {type(params).__name__}")
        if set(params) != set(names):
            got = ", ".join(sorted(map(str, params))) or "nothing"
            raise ValueError(f"expected {where} (Residual) to hold {', '.join(names)}, got {got}")
        for name, branch in self._branches():
            yield from branch.check_params(params[name], in_shape, join(path, name))

    def leaves(self, in_shape: Shape, path: str = "") -> Iterator[tuple[str, Layer, Shape]]:  # noqa: D102
        for name, branch in self._branches():
            yield from branch.leaves(in_shape, join(path, name))

    def forward(self, params: Params, x: Array) -> tuple[Array, Saved]:  # noqa: D102
        y, saved = self.body.forward(params["body"], x)
        if self.shortcut is None:
            return y + x, (saved, None)
        z, kept = self.shortcut.forward(params["shortcut"], x)
        return y + z, (saved, kept)

    def has_parameters(self) -> bool:  # noqa: D102
        return any(branch.has_parameters() for _, branch in self._branches())

    def backward(  # noqa: D102
        self, params: Params, saved: Saved, ct: Cotangent, path: str = "", want_input: bool = True
    ) -> Backward:
        ct = ct.lent()
        low = yield from self.body.backward(params["body"], saved[0], ct, join(path, "body"), want_input)
        side: Cotangent | None = ct
        if self.shortcut is not None:
            side = yield from self.shortcut.backward(
                params["shortcut"], saved[1], ct, join(path, "shortcut"), want_input
            )
        return low + side if low is not None and side is not None else None

    def vjp(self, params: Params, saved: Saved, ct: Cotangent) -> Cotangent:  # noqa: D102
        ct = ct.lent()
        low = self.body.vjp(params["body"], saved[0], ct)
        return low + (ct if self.shortcut is None else self.shortcut.vjp(params["shortcut"], saved[1], ct))

    def jvp(self, params: Params, saved: Saved, tangent: Array) -> Array:  # noqa: D102
        side = tangent if self.shortcut is None else self.shortcut.jvp(params["shortcut"], saved[1], tangent)
        return self.body.jvp(params["body"], saved[0], tangent) + side

    def pushforward(  # noqa: D102
        self, params: Params, saved: Saved, tangent: Array | None, direction: Params | None = None
    ) -> Array | None:
        moves = direction or {}
        pushed = self.body.pushforward(params["body"], saved[0], tangent, moves.get("body"))
        side = tangent
        if self.shortcut is not None:
            side = self.shortcut.pushforward(params["shortcut"], saved[1], tangent, moves.get("shortcut"))
        return add(pushed, side)

    def pair_jvp(  # noqa: D102
        self, params: Params, saved: Saved, tangent: Array | None, motion: Motion, path: str = ""
    ) -> tuple[Array | None, Saved]:
        pushed, kept = self.body.pair_jvp(params["body"], saved[0], tangent, motion, join(path, "body"))
        if self.shortcut is None:
            return add(pushed, tangent), (kept, None)
        name = join(path, "shortcut")
        side, beside = self.shortcut.pair_jvp(params["shortcut"], saved[1], tangent, motion, name)
        return add(pushed, side), (kept, beside)

    def pair_vjp(  # noqa: D102
        self, params: Params, saved: Saved, tangents: Saved, pair: Pair, motion: Motion, path: str = ""
    ) -> Pair:
        pair = side = pair.lent()
        low = self.body.pair_vjp(params["body"], saved[0], tangents[0], pair, motion, join(path, "body"))
        if self.shortcut is not None:
            name = join(path, "shortcut")
            side = self.shortcut.pair_vjp(params["shortcut"], saved[1], tangents[1], pair, motion, name)
        return Pair(add(low.value, side.value), add(low.tangent, side.tangent))


def _out_shape(layer: Layer, in_shape: Shape, path: str) -> Shape:
    """Output shape of a layer within a container; the error names the layer."""
    try:
        return layer.out_shape(in_shape)
    except ValueError as error:
        raise ValueError(f"layer {path} ({layer_name(layer)}): {error}") from None
