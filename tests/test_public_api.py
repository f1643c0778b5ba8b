"""Every public name is listed, documented with the sections of the house, and shown by an example."""

import dataclasses
import importlib
import importlib.util
import inspect
import pkgutil

import pytest

import ntkfast

PARTS = (
    *("analytic", "autodiff", "convolutional", "empirical", "features", "images", "layers"),
    *("projection", "regression", "sketch", "spectrum", "testing", "zonal"),
)
MODULES = ["ntkfast", *(f"ntkfast.{part}" for part in PARTS)]
if importlib.util.find_spec("torch") is not None:
    MODULES.append("ntkfast.adapters.torch")


def _public():
    """Public functions and classes, as test parameters."""
    for module_name in MODULES:
        module = importlib.import_module(module_name)
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or inspect.isclass(thing):
                yield pytest.param(thing, id=f"{module_name}.{name}")


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete(name):
    module = importlib.import_module(name)
    assert len(set(module.__all__)) == len(module.__all__)
    assert all(hasattr(module, public) for public in module.__all__)


@pytest.mark.parametrize("thing", list(_public()))
def test_documented(thing):
    doc = inspect.getdoc(thing)
    assert doc, "no docstring"
    if dataclasses.is_dataclass(thing):
        missing = [field.name for field in dataclasses.fields(thing) if field.init and field.name not in doc]
        assert not missing, f"undocumented fields {missing}"
    if inspect.isfunction(thing):
        assert "Examples\n--------" in doc
        assert "Returns\n-------" in doc or inspect.signature(thing).return_annotation is None
        parameters = [p for p in inspect.signature(thing).parameters if not p.startswith("*")]
        missing = [p for p in parameters if p not in doc]
        assert not missing, f"undocumented parameters {missing}"


# Modules that need a package of their own, and what starts the command when imported.
OPTIONAL = {
    "ntkfast.adapters.torch": "torch",
    "ntkfast.autodiff._autograd": "autograd",
    "ntkfast.autodiff._jax": "jax",
    "ntkfast.autodiff._torch": "torch",
    "ntkfast.backends._cupy": "cupy",
}


def _modules(path, prefix):
    """Modules below a package that can be imported here, without importing those that cannot."""
    for info in pkgutil.iter_modules(path, prefix):
        package = OPTIONAL.get(info.name)
        if info.name == "ntkfast.cli.__main__" or (package and importlib.util.find_spec(package) is None):
            continue
        yield info.name
        if info.ispkg:
            yield from _modules(importlib.import_module(info.name).__path__, f"{info.name}.")


def test_every_module_imports():
    """No module of the package needs more than the core, but for those that say so by their names."""
    names = list(_modules(ntkfast.__path__, "ntkfast."))
    assert len(names) > 100
    for name in names:
        importlib.import_module(name)


def test_version_is_a_release_number():
    assert len(ntkfast.__version__.split(".")) == 3
