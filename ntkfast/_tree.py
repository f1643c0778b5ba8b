"""Trees of arrays: dictionaries, tuples, named tuples and lists, in any nesting.

An entry's path is its keys from the root down, joined by dots: ``"0.weight"``, ``"3.body.1.bias"``. Entries come in
the order in which the tree holds them.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

from ._check import array_backend
from ._typing import Array

__all__ = ["Tree", "flatten", "join", "leaves", "pick", "rebuild", "tree_map"]

Tree: TypeAlias = Any  # an array, or a dictionary, tuple, named tuple or list of trees


def join(path: str, key: object) -> str:
    """Path of what lies under `key` at `path`."""
    return f"{path}.{key}" if path else str(key)


def flatten(tree: Tree, name: str = "params") -> dict[str, Array]:
    """Entries of a tree by path, in the tree's order.

    Parameters
    ----------
    tree : array, dict, tuple, named tuple or list of trees
        Arrays are NumPy or CuPy arrays. Empty containers have no entries.
    name : str
        Name of the tree in error messages.

    Returns
    -------
    dict of str to array
        The arrays themselves. The path of a tree that is one array is ``""``.

    Raises
    ------
    TypeError
        A leaf that is no NumPy or CuPy array; the message names its path.
    ValueError
        Two leaves with one path, as in ``{"a.b": ..., "a": {"b": ...}}``.

    Examples
    --------
    >>> import numpy as np
    >>> list(flatten([{"weight": np.ones(2)}, {}, (np.ones(1),)]))
    ['0.weight', '2.0']
    """
    entries: dict[str, Array] = {}
    for path, leaf in _walk(tree, ""):
        if path in entries:
            raise ValueError(f"expected one entry per path, got two at {name}[{path!r}]")
        array_backend(leaf, f"{name}[{path!r}]" if path else name)
        entries[path] = leaf
    return entries


def leaves(tree: Tree) -> dict[str, Any]:
    """Leaves of any type by path, unchecked.

    Examples
    --------
    >>> leaves({"a": [1.0, 2.0]})
    {'a.0': 1.0, 'a.1': 2.0}
    """
    return dict(_walk(tree, ""))


def _walk(tree: Tree, path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(tree, (Mapping, tuple, list)):
        yield path, tree
        return
    for key, branch in tree.items() if isinstance(tree, Mapping) else enumerate(tree):
        yield from _walk(branch, join(path, key))


def tree_map(function: Callable[[str, Any], Any], tree: Tree, path: str = "") -> Tree:
    """The tree with ``function(path, leaf)`` in place of every leaf; containers keep their types.

    Examples
    --------
    >>> tree_map(lambda path, leaf: path, {"a": [1.0, 2.0], "b": ()})
    {'a': ['a.0', 'a.1'], 'b': ()}
    """
    if isinstance(tree, Mapping):
        return {key: tree_map(function, branch, join(path, key)) for key, branch in tree.items()}
    if isinstance(tree, (tuple, list)):
        branches = [tree_map(function, branch, join(path, i)) for i, branch in enumerate(tree)]
        return _like(tree, branches)
    return function(path, tree)


def _like(tree: Any, branches: list[Any]) -> Any:
    """`branches` in a list, a tuple or a named tuple, as `tree` is."""
    if isinstance(tree, list):
        return branches
    return type(tree)(*branches) if hasattr(tree, "_fields") else tuple(branches)


def rebuild(tree: Tree, values: Mapping[str, Any]) -> Tree:
    """The tree with values in place of its leaves, which are looked up by path and may be of any type.

    Examples
    --------
    >>> rebuild(({"weight": None}, {}), {"0.weight": 1.0})
    ({'weight': 1.0}, {})
    """
    return tree_map(lambda path, _: values[path], tree)


def pick(tree: Tree, values: Mapping[str, Any], path: str = "") -> Tree:
    """As `rebuild`, but entries of dictionaries without a value are left out: buffers, beside parameters.

    Examples
    --------
    >>> pick(({"scale": None, "mean": None}, {}), {"0.scale": 1.0})
    ({'scale': 1.0}, {})
    """
    if isinstance(tree, Mapping):
        found = ((key, branch, join(path, key)) for key, branch in tree.items())
        return {
            key: pick(branch, values, where)
            for key, branch, where in found
            if isinstance(branch, (Mapping, tuple, list)) or where in values
        }
    if isinstance(tree, (tuple, list)):
        return _like(tree, [pick(branch, values, join(path, i)) for i, branch in enumerate(tree)])
    return values[path]
