"""The demo in process, on small data: its table, figures and JSON, and what it says when something is missing."""

import json
import subprocess
import sys

import numpy as np
import pytest

from ntkfast import cli
from ntkfast.cli.compare import Settings, compare, n_steps
from ntkfast.cli.data import load_digits, load_npz, scale
from ntkfast.cli.report import atomic_path

QUICK = ["--features", "128", "--seeds", "2", "--depth", "1", "--limit", "60"]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def classes(tmp_path):
    """Three noisy prototypes, as images."""
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = np.clip(rng.integers(0, 255, (3, 5, 5))[y] + rng.normal(0, 20, (120, 5, 5)), 0, 255).astype(np.uint8)
    path = tmp_path / "shapes.npz"
    np.savez(path, x_train=x[:90], y_train=y[:90], x_test=x[90:], y_test=y[90:])
    return str(path)


@pytest.fixture
def targets(tmp_path):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(100, 4))
    path = tmp_path / "waves.npz"
    np.savez(path, X=x, y=5 + 3 * np.abs(x[:, 0]) + 0.1 * rng.normal(size=100), test_fold=np.arange(100) % 5)
    return str(path)


def test_classification_from_end_to_end(classes, tmp_path, capsys):
    folder = tmp_path / "new" / "folder"
    assert cli.main(["demo", "--data", classes, "--output", str(folder), *QUICK]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    for text in ("exact NTK", "NTK features, 128", "RBF kernel ridge", "linear ridge", "test accuracy", "subset of 60"):
        assert text in " ".join(captured.out.split())
    assert {path.name for path in folder.iterdir()} == {
        "gram_error.png",
        "gram_matrix.png",
        "results.json",
        "score_seconds.png",
    }
    assert all(path.read_bytes().startswith(PNG) for path in folder.glob("*.png"))
    found = json.loads((folder / "results.json").read_text())
    assert [method["n_train"] for method in found["methods"]] == [60, 90, 90, 60, 90]
    assert min(method["score"] for method in found["methods"]) > 0.8
    assert found["installation"]["numpy"] == np.__version__


def test_regression(targets, tmp_path):
    assert cli.main(["demo", "--data", targets, "--output", str(tmp_path), *QUICK]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert found["score"].startswith("test RMSE")
    score = {method["family"]: method["score"] for method in found["methods"]}
    assert 0.05 < score["exact"] < 0.5 * score["linear"]


def test_equal_seeds_give_equal_numbers(classes):
    data = scale(load_npz(classes, seed=0))
    settings = Settings(depth=2, n_features=128, n_draws=2, seed=5, limit=1000)
    first, second = (compare(data, settings, lambda description: None) for _ in range(2))
    assert first.results.sweep == second.results.sweep
    for one, other in zip(first.results.methods, second.results.methods, strict=True):
        assert (one.name, one.ridge, one.score) == (other.name, other.ridge, other.score)
    np.testing.assert_array_equal(first.approximate, second.approximate)


def test_comparison_on_digits():
    """Steps are counted right; errors fall with the width; the exact NTK beats the linear model."""
    steps = []
    settings = Settings(depth=2, n_features=256, n_draws=3, seed=0, limit=300)
    comparison = compare(scale(load_digits(seed=0)), settings, steps.append)
    assert len(steps) == n_steps(settings)
    medians = np.median(comparison.results.sweep.errors, axis=1)
    assert comparison.results.sweep.n_features == (64, 128, 256)
    # 4 times the features: half the error, give or take
    assert 0.25 < medians[-1] / medians[0] < 0.75
    by_family = {method.family: method for method in comparison.results.methods}
    assert by_family["exact"].gram_error == 0
    assert by_family["features"].gram_error == comparison.results.sweep.errors[-1][0]
    assert by_family["exact"].score > 0.9
    assert comparison.exact.shape == comparison.approximate.shape == (300, 300)


def fails(arguments, capsys):
    """The only line on the standard error of a run that ends with exit code 2."""
    assert cli.main(["demo", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    return line


@pytest.mark.parametrize("package", ["rich", "matplotlib", "sklearn"])
def test_missing_extra(monkeypatch, capsys, package):
    monkeypatch.setitem(sys.modules, package, None)
    line = fails([], capsys)
    assert package in line
    assert 'pip install "ntkfast[demo]"' in line


def test_bad_file_and_folder(tmp_path, capsys, classes):
    assert "no such file" in fails(["--data", str(tmp_path / "none.npz")], capsys)
    (tmp_path / "taken").touch()
    assert "cannot make folder" in fails(["--data", classes, "--output", str(tmp_path / "taken")], capsys)
    assert "digits are classes" in fails(["--task", "regression"], capsys)


def test_interrupt(monkeypatch, capsys, classes, tmp_path):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("ntkfast.cli.compare.compare", interrupt)
    assert cli.main(["demo", "--data", classes, "--output", str(tmp_path)]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "ntkfast: interrupted"


def test_files_appear_whole_or_not_at_all(tmp_path):
    target = tmp_path / "result"
    target.write_text("before")

    def fail_halfway():
        with atomic_path(target) as path:
            path.write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_halfway()
    assert [p.name for p in tmp_path.iterdir()] == ["result"]
    assert target.read_text() == "before"
    with atomic_path(target) as path:
        path.write_text("after")
    assert target.read_text() == "after"


def test_command_needs_no_extra_to_start():
    """The module runs with -m, and neither starting nor info loads an optional package."""
    code = "import sys; from ntkfast import cli; cli.main(['info']); print(sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert not [name for name in ("sklearn", "matplotlib", "rich") if f"'{name}'" in out.splitlines()[-1]]
    version = subprocess.run([sys.executable, "-m", "ntkfast.cli", "--version"], check=True, capture_output=True)
    assert version.stdout.startswith(b"ntkfast ")
