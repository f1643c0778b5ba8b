"""Engines by name: ours, those of other packages, and what is said where there is none."""

import importlib.metadata
import subprocess
import sys

import pytest

from ntkfast import autodiff
from ntkfast.autodiff import Autodiff, get_autodiff
from ntkfast.errors import BackendUnavailableError


class Point:
    """An entry point."""

    def __init__(self, name, engine):
        self.name, self._engine = name, engine

    def load(self):
        return self._engine


@pytest.fixture
def entry_points(monkeypatch):
    """Install entry points of the group; returns the list of searches."""
    searches = []

    def install(*points):
        def search(*, group):
            searches.append(group)
            return points

        monkeypatch.setattr(importlib.metadata, "entry_points", search)
        return searches

    autodiff._entry_points.cache_clear()
    autodiff._foreign.cache_clear()
    yield install
    autodiff._entry_points.cache_clear()
    autodiff._foreign.cache_clear()


def test_the_default_engine():
    engine = get_autodiff("layers")
    assert engine.name == "layers"
    assert isinstance(engine, Autodiff)
    assert get_autodiff("layers") is engine
    assert get_autodiff(engine) is engine


def test_our_names_search_nothing(entry_points):
    searches = entry_points()
    get_autodiff("layers")
    assert searches == []


def test_engines_of_other_packages_are_searched_once(entry_points):
    mine = get_autodiff("layers")
    searches = entry_points(Point("mine", mine), Point("other", mine))
    assert get_autodiff("mine") is mine
    assert get_autodiff("other") is mine
    assert searches == ["ntkfast.autodiff"]


def test_unknown_names_list_those_that_exist(entry_points):
    entry_points(Point("mine", None))
    with pytest.raises(ValueError, match="one of autograd, jax, layers, mine, torch; got 'thing'"):
        get_autodiff("thing")


def test_an_entry_point_that_is_no_engine_is_refused(entry_points):
    entry_points(Point("broken", object()))
    with pytest.raises(TypeError, match="to be a name or an engine"):
        get_autodiff("broken")


@pytest.mark.parametrize("engine", [None, 3, object(), type("Engine", (), {})], ids=str)
def test_objects_without_the_methods_are_refused(engine):
    with pytest.raises(TypeError, match="without name, check, param_jacobian"):
        get_autodiff(engine)


def test_classes_are_refused():
    with pytest.raises(TypeError, match="a class"):
        get_autodiff(type(get_autodiff("layers")))


@pytest.mark.parametrize("package", ["autograd", "jax", "torch"])
def test_a_missing_package_names_its_installation(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from ntkfast.autodiff import get_autodiff\n"
        "from ntkfast.errors import BackendUnavailableError\n"
        f"try: get_autodiff({package!r})\n"
        "except BackendUnavailableError as error: print(error)"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert f'pip install "ntkfast[{package}]"' in out.stdout
    assert issubclass(BackendUnavailableError, ImportError)


def test_importing_the_package_loads_no_framework():
    code = "import sys, ntkfast.autodiff; print(*{'jax', 'torch', 'autograd'} & set(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert out.stdout.split() == []
