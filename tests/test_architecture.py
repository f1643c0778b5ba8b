"""Imports go down only: every import edge between parts of ntkfast is in the table below."""

import ast
import pathlib

import pytest

PACKAGE = pathlib.Path(__file__).parents[1] / "ntkfast"

BESIDE = {"errors", "_check", "_memo", "_streams", "_tree", "_typing"}

# part -> the parts it may import (a part may always import itself, and BESIDE from floor 1 on)
ALLOWED = {
    "errors": set(),
    "_streams": set(),
    "_typing": set(),
    "_check": {"backends", "errors", "_typing"},
    "_memo": {"backends", "_typing"},
    "_tree": {"backends", "_typing"},
    "kernels": set(),
    "backends": {"kernels"},
    "_angles": {"backends", "kernels"},
    "zonal": {"backends", "kernels"},
    "sketch": {"backends", "kernels"},
    "layers": {"backends", "kernels"},
    "analytic": {"_angles", "backends", "kernels", "zonal"},
    "convolutional": {"backends", "kernels", "zonal", "layers", "analytic"},
    "images": {"backends"},
    "features": {"_angles", "backends", "kernels", "zonal", "sketch", "layers", "analytic", "convolutional"},
    "autodiff": {"backends", "layers"},
    "regression": {"backends", "kernels", "zonal", "sketch", "analytic", "features"},
    "spectrum": {"backends", "kernels", "sketch"},
    "empirical": {"backends", "kernels", "layers", "autodiff", "regression", "spectrum"},
    "projection": {"backends", "kernels", "sketch", "layers", "autodiff", "empirical", "regression", "spectrum"},
    "adapters": {"backends", "zonal", "sketch", "layers", "analytic", "features", "regression"},
    "cli": {"backends", "kernels", "zonal", "sketch", "analytic", "features", "regression", "adapters", "__init__"},
    "__init__": {
        *("backends", "zonal", "sketch", "layers", "analytic", "convolutional", "images"),
        *("features", "autodiff", "regression", "empirical", "projection", "spectrum"),
    },
    "testing": {"backends", "layers", "autodiff", "empirical"},
}


def _part(path: pathlib.Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _imported_parts(path: pathlib.Path) -> set[str]:
    """Parts of ntkfast that a file imports, anywhere in it."""
    package = ["ntkfast", *path.relative_to(PACKAGE).parts[:-1]]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found.update(f"{module}.{alias.name}" for alias in node.names)
    parts = {name.split(".")[1] for name in found if name.startswith("ntkfast.") and name.count(".") >= 1}
    names = {p.name.removesuffix(".py") for p in PACKAGE.iterdir()}
    return {part if part in names else "__init__" for part in parts}


FILES = sorted(PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path):
    part = _part(path)
    allowed = ALLOWED[part] | {part} | (set() if part == "kernels" else BESIDE)
    assert _imported_parts(path) <= allowed


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_cupy_and_the_cuda_jit_have_one_home(path):
    """CuPy is imported in backends/_cupy.py alone, numba.cuda in kernels/_cuda.py alone."""
    text = path.read_text()
    imports = {
        name
        for node in ast.walk(ast.parse(text))
        if isinstance(node, (ast.Import, ast.ImportFrom))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [f"{node.module}.{alias.name}" for alias in node.names if node.level == 0]
        )
    }
    home = path.relative_to(PACKAGE).as_posix()
    if home != "backends/_cupy.py":
        assert not any(name.split(".")[0] == "cupy" for name in imports)
    if home != "kernels/_cuda.py":
        assert not any(name.startswith("numba.cuda") for name in imports)


def test_every_part_is_in_the_table():
    assert {_part(path) for path in FILES} <= set(ALLOWED)


def _seeded_calls(path: pathlib.Path):
    """Calls of derive_key on something called a seed."""
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    for call in calls:
        first = ast.unparse(call.args[0]).rpartition(".")[2] if call.args else ""
        if ast.unparse(call.func).endswith("derive_key") and first in {"seed", "check_seed(seed)"}:
            yield call


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_seeds_are_split_by_the_table_of_streams(path):
    """The first tag under a seed comes from ntkfast._streams.Stream, so that no two objects draw the same numbers."""
    for call in _seeded_calls(path):
        tag = ast.unparse(call.args[1])
        assert tag.startswith("Stream.") or tag.endswith("._stream"), ast.unparse(call)


def test_seeds_are_split_somewhere():
    assert sum(1 for path in FILES for _ in _seeded_calls(path)) > 10
