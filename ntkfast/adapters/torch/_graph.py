"""From a module to rows of steps that split and join: rows by their order, everything else by tracing.

A traced graph is read from its output upwards. A sum joins two branches; they part at the nearest node through which
every path from the input to the sum goes, its immediate dominator. What lies between is a `Fork`. Graphs that are not
nested this way would read a node twice, and are refused.
"""

import functools
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import fx, nn
from torch.nn.utils import parametrize

from ._functions import operation

__all__ = ["Fork", "Row", "Step", "describe", "row", "supported_class"]

SUMS = frozenset({operator.add, operator.iadd, torch.add, "add", "add_"})
SIZES = frozenset({getattr, operator.getitem, "size", "dim"})


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: a module, or the equivalent of a function, with its qualified name."""

    name: str
    module: Any


@dataclass(frozen=True, slots=True)
class Fork:
    """Sum of two rows applied to the same value."""

    name: str
    left: "Row"
    right: "Row"


@dataclass(frozen=True, slots=True)
class Unsupported:
    """A call that nothing of ours does."""

    call: str


Row: TypeAlias = tuple["Step | Fork", ...]
IsLeaf: TypeAlias = Callable[[Any], bool]


def describe(name: str, module: Any) -> str:
    """Name and type of a module in messages, or the call that stands for it."""
    if isinstance(module, Unsupported):
        return f"{module.call} at {name!r}"
    return f"{name or 'the module itself'} ({type(module).__name__})"


_BEHAVIOUR = frozenset({"forward", "_conv_forward", "__call__", "__torch_function__", "weight", "bias"})


def supported_class(module: Any, classes: Any) -> type | None:
    """The class among `classes` that `module` computes like: its own, or a base of which it changes nothing."""
    changed = set(getattr(module, "__dict__", ()))
    for cls in type(module).__mro__:
        if cls in classes:
            return None if changed & _BEHAVIOUR else cls
        changed |= set(vars(cls))
    return None


def row(module: Any, name: str, is_leaf: IsLeaf) -> Row:
    """Steps of a module, in order.

    Parameters
    ----------
    module : torch.nn.Module
    name : str
        Its qualified name; "" for the outermost.
    is_leaf : callable
        Whether a module is one step.
    """
    _refuse_hooks(module, name)
    if is_leaf(module) or _is_own(module):
        return (Step(name, module),)
    if _is_row(module):
        children = module._modules.items()  # named_children() would pass over a repeated module
        return tuple(step for key, child in children for step in row(child, _join(name, key), is_leaf))
    return _traced(module, name, is_leaf)


def _is_row(module: Any) -> bool:
    return supported_class(module, (nn.Sequential,)) is not None


def _is_own(module: Any) -> bool:
    """Whether a module comes with PyTorch (and is not a row): it is never looked into."""
    return type(module).__module__.startswith("torch.nn.") and not _is_row(module)


def _refuse_hooks(module: Any, name: str) -> None:
    if parametrize.is_parametrized(module):
        raise ValueError(
            f"expected plain parameters, got a parametrization of {describe(name, module)}; "
            "torch.nn.utils.parametrize.remove_parametrizations makes its value the parameter"
        )
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(f"expected modules without forward hooks, got one on {describe(name, module)}")


# --- tracing ------------------------------------------------------------------------------------


def _traced(module: Any, name: str, is_leaf: IsLeaf) -> Row:
    """Steps of a module whose forward is Python code."""
    tracer = _Tracer(is_leaf)
    try:
        graph = tracer.trace(module)
    except Exception as error:  # whatever the user's code raises when it meets a symbolic value
        raise ValueError(
            f"expected a forward that torch.fx can trace, got {describe(name, module)}: {error}; "
            "build it from torch.nn.Sequential, or name its function with autodiff='torch'"
        ) from error
    return _Reader(graph, tracer.root, name, is_leaf).read()


class _Tracer(fx.Tracer):  # type: ignore[misc]
    """Keeps supported modules and rows as they are, and looks into all others."""

    def __init__(self, is_leaf: IsLeaf) -> None:
        super().__init__()
        self._is_leaf = is_leaf

    def is_leaf_module(self, module: Any, name: str) -> bool:
        return self._is_leaf(module) or _is_row(module) or _is_own(module)


class _Reader:
    """Reads a graph of one input from its output upwards."""

    def __init__(self, graph: Any, root: Any, name: str, is_leaf: IsLeaf) -> None:
        self.graph, self.root, self.name, self.is_leaf = graph, root, name, is_leaf
        self.input = next((node for node in graph.nodes if node.op == "placeholder"), None)
        self.place = {node: i for i, node in enumerate(graph.nodes)}
        self.dominators = _dominators(graph)
        self.read_nodes: set[Any] = set()

    def read(self) -> Row:
        """Steps from the input to the output."""
        output = next(node for node in self.graph.nodes if node.op == "output").args[0]
        if not isinstance(output, fx.Node):
            raise ValueError(f"expected one output, got {type(output).__name__} in {describe(self.name, self.root)}")
        steps = self._between(self.input, output)
        for node in self.graph.nodes:
            if node not in self.read_nodes and self._changes(node):
                raise ValueError(f"expected a result to be used, got {self._call(node)} that changes its argument only")
        return steps

    def _between(self, start: Any, end: Any) -> Row:
        """Steps that make the value of node `end` from that of node `start`."""
        found: list[Row] = []
        while end is not start:
            if end is None:
                raise ValueError(f"expected values made by layers from one input, got {self._second_source()}")
            self._once(end)
            end, steps = self._fork(end) if _is_sum(end) else self._steps(end)
            found.append(steps)
        return tuple(step for steps in reversed(found) for step in steps)

    def _fork(self, node: Any) -> tuple[Any, Row]:
        """Where the branches of a sum part, and the branches."""
        name = _join(self.name, node.name)
        if node.target in (operator.iadd, "add_"):
            self._refuse_overwriting(node, name, lambda user: self.place[user] > self.place[node])
        start = self.dominators[node]
        left, right = (self._between(start, branch) for branch in node.args)
        return start, (Fork(name, left, right),)

    def _steps(self, node: Any) -> tuple[Any, Row]:
        """What a node reads, and what it does; an unsupported call becomes a step, so that the first one is named."""
        if node.op == "call_module" and len(node.args) == 1 and not node.kwargs:
            module, name = self.root.get_submodule(node.target), _join(self.name, str(node.target))
            found = row(module, name, self.is_leaf)
        else:
            module, name = operation(node), _join(self.name, node.name)
            found = (Step(name, module or Unsupported(self._call(node))),)
        if module is None:
            return self.dominators[node] or next(iter(node.all_input_nodes), None), found
        if _overwrites(module):
            self._refuse_overwriting(node, name, lambda user: user is not node)
        return node.args[0], found

    def _changes(self, node: Any) -> bool:
        """Whether a node changes its argument, as PyTorch's names and keywords tell."""
        if node.op == "call_module":
            return _overwrites(self.root.get_submodule(node.target))
        name = getattr(node.target, "__name__", str(node.target))
        by_name = node.op in ("call_function", "call_method") and name.endswith("_") and not name.endswith("__")
        return by_name or bool(node.kwargs.get("inplace")) or "out" in node.kwargs

    def _call(self, node: Any) -> str:
        """A call as the code has it."""
        target = getattr(node.target, "__name__", str(node.target))
        if node.op == "call_module":
            target = type(self.root.get_submodule(node.target)).__name__
        return f"{target}({', '.join([*map(str, node.args), *(f'{key}={x}' for key, x in node.kwargs.items())])})"

    def _once(self, node: Any) -> None:
        if node in self.read_nodes:
            raise ValueError(
                f"expected branches that part and join in pairs, got {_join(self.name, node.name)!r} in two of them"
            )
        self.read_nodes.add(node)

    def _second_source(self) -> str:
        """What a value is made from beside the input."""
        for node in self.graph.nodes:
            if node.op in ("placeholder", "get_attr") and node is not self.input and node.users:
                what = "a second input" if node.op == "placeholder" else "a tensor of the module"
                return f"{what}, {_join(self.name, str(node.target))!r}"
        return f"another in {describe(self.name, self.root)}"

    def _refuse_overwriting(self, node: Any, name: str, sees: Callable[[Any], bool]) -> None:
        """Refuse an in-place operation on a value that others read, too: the graph does not show the change."""
        if any(sees(user) and user.target not in SIZES for user in node.args[0].users):
            raise ValueError(f"expected values that are read twice to stay, got {name!r} in place; set inplace=False")


def _is_sum(node: Any) -> bool:
    operands = node.args if node.op in ("call_function", "call_method") else ()
    are_nodes = len(operands) == 2 and all(isinstance(operand, fx.Node) for operand in operands)
    return node.target in SUMS and are_nodes and not node.kwargs


def _overwrites(module: Any) -> bool:
    """Whether a module changes its argument."""
    if not _is_row(module):
        return bool(getattr(module, "inplace", False)) and not isinstance(module, nn.Dropout)
    return any(_overwrites(child) for child in _first(module))


def _first(module: Any) -> Iterator[Any]:
    """The children of a row that get its very argument: those before one that makes a new value, and that one."""
    for child in module:
        yield child
        if not isinstance(child, (nn.Identity, nn.Flatten, nn.Dropout)):
            return


def _dominators(graph: Any) -> dict[Any, Any]:
    """Immediate dominator of every node: the nearest one through which all paths to it go; None for inputs."""
    found: dict[Any, Any] = {None: None}
    depth: dict[Any, int] = {None: -1}

    def meet(a: Any, b: Any) -> Any:
        while a is not b:
            if depth[a] < depth[b]:
                a, b = b, a
            a = found[a]
        return a

    for node in graph.nodes:
        parents = [parent for parent in node.all_input_nodes if parent.target not in SIZES] or node.all_input_nodes
        found[node] = functools.reduce(meet, parents) if parents else None
        depth[node] = depth[found[node]] + 1
    return found


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
