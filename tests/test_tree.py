"""Trees of arrays: paths, rebuilding, and errors that name the entry."""

from typing import NamedTuple

import numpy as np
import pytest

from ntkfast._tree import flatten, leaves, pick, rebuild, tree_map


class Pair(NamedTuple):
    first: object
    second: object


ONE, TWO, THREE, FOUR = (np.full(i, float(i)) for i in (1, 2, 3, 4))


def test_paths_join_keys_in_the_order_of_the_tree():
    tree = [{"weight": ONE, "bias": TWO}, {}, (THREE, Pair(FOUR, ()))]
    found = flatten(tree)
    assert list(found) == ["0.weight", "0.bias", "2.0", "2.1.0"]
    assert all(found[path] is array for path, array in zip(found, (ONE, TWO, THREE, FOUR), strict=True))


def test_an_array_is_a_tree_with_an_empty_path():
    assert flatten(ONE) == {"": ONE}
    assert rebuild(ONE, {"": 5}) == 5


def test_keys_with_dots_work_where_paths_stay_apart():
    assert list(flatten({"0.weight": ONE, "0.bias": TWO})) == ["0.weight", "0.bias"]
    with pytest.raises(ValueError, match=r"one entry per path, got two at params\['a.b'\]"):
        flatten({"a.b": ONE, "a": {"b": TWO}})


@pytest.mark.parametrize("leaf", [None, 1.0, "text", {1, 2}], ids=str)
def test_foreign_leaves_are_named(leaf):
    with pytest.raises(TypeError, match=r"params\['0.weight'\].* NumPy or CuPy array, got .*" + type(leaf).__name__):
        flatten([{"weight": leaf}])


def test_arrays_of_other_libraries_are_named():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"direction\['a'\].*got torch.Tensor"):
        flatten({"a": torch.ones(2)}, "direction")


def test_containers_keep_their_types():
    tree = Pair({"a": ONE}, [TWO, (THREE,)])
    mapped = tree_map(lambda path, leaf: (path, leaf.size), tree)
    assert mapped == Pair({"a": ("0.a", 1)}, [("1.0", 2), (("1.1.0", 3),)])
    assert isinstance(mapped, Pair)
    assert isinstance(mapped.second, list)


def test_rebuild_inverts_flatten():
    tree = ({"weight": ONE, "bias": TWO}, {}, [THREE])
    again = rebuild(tree, flatten(tree))
    assert leaves(again) == leaves(tree)
    assert again[1] == {}


def test_pick_leaves_buffers_out():
    tree = {"body": ({"scale": ONE, "mean": TWO}, {}), "shortcut": {"weight": THREE}}
    assert pick(tree, {"body.0.scale": 1, "shortcut.weight": 3}) == {
        "body": ({"scale": 1}, {}),
        "shortcut": {"weight": 3},
    }
