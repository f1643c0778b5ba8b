"""Whatever the package asks of an array module is in NumPy, in CuPy, and in the stand-in for CuPy.

Read from the source, so that no line has to run. CuPy can be imported without a GPU; where it is not installed, its
half of the comparison is skipped, or fails where NTKFAST_REQUIRE names cupy-names; the stand-in's lists speak for it.
"""

import ast
import importlib
import inspect
import operator
import os
import pathlib

import fakecupy
import numpy as np
import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "ntkfast"
# NumPy arrays have no device.
DEVICE_ONLY = ("cuda", "get_default_memory_pool")


def _chain(node):
    """Names after `xp`: ("linalg", "eigh") of ``backend.xp.linalg.eigh``, or None."""
    names = []
    while isinstance(node, ast.Attribute) and node.attr != "xp":
        names.append(node.attr)
        node = node.value
    is_module = isinstance(node, ast.Attribute) or (isinstance(node, ast.Name) and node.id == "xp")
    return tuple(reversed(names)) if names and is_module else None


def _uses():
    """Dotted names, and for those that are called the keywords."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            called = isinstance(node, ast.Call)
            chain = _chain(node.func if called else node)
            if chain is not None:
                keywords = {keyword.arg for keyword in node.keywords} if called else set()
                found.setdefault(".".join(chain), set()).update(keywords)
    return found


USES = _uses()
KNOWN = fakecupy.FUNCTIONS | fakecupy.TYPES | {f"linalg.{name}" for name in fakecupy.LINALG}
KNOWN |= {f"fft.{name}" for name in fakecupy.FFT}


def test_the_source_was_read():
    assert {"linalg.eigh", "matmul", "zeros", "cuda.runtime.getDevice"} <= set(USES)


@pytest.mark.parametrize("name", sorted(USES))
def test_the_stand_in_has_it(name):
    """Look a new name up in CuPy's documentation before adding it to tests/fakecupy.py."""
    assert operator.attrgetter(name)(fakecupy) is not None
    assert USES[name] <= fakecupy.KEYWORDS


@pytest.mark.parametrize("name", sorted(name for name in USES if not name.startswith(DEVICE_ONLY)))
def test_numpy_has_it(name):
    assert operator.attrgetter(name)(np) is not None


@pytest.fixture(scope="module")
def cupy():
    if "cupy-names" in os.environ.get("NTKFAST_REQUIRE", "").split(","):
        return importlib.import_module("cupy")
    return pytest.importorskip("cupy", exc_type=ImportError)


@pytest.mark.parametrize("name", sorted(KNOWN | set(USES)))
def test_cupy_has_it(name, cupy):
    thing = operator.attrgetter(name)(cupy)
    if inspect.isfunction(thing):
        parameters = inspect.signature(thing).parameters
        assert USES.get(name, set()) <= set(parameters), f"keywords of cupy.{name}: {list(parameters)}"


@pytest.mark.parametrize("name", sorted(fakecupy.METHODS | fakecupy.PROPERTIES | {"flags", "get"}))
def test_arrays_of_cupy_have_it(name, cupy):
    assert hasattr(cupy.ndarray, name)
