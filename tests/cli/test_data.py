"""Data sets of the demo: accepted layouts, scaling, and every way in which a file can be bad."""

import numpy as np
import pytest

from ntkfast.cli._error import CliError
from ntkfast.cli.data import load_digits, load_npz, scale


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def table(rng):
    return {"X": rng.normal(size=(40, 3)), "y": rng.normal(size=40)}


@pytest.fixture
def images(rng):
    x = rng.integers(0, 256, size=(30, 4, 4, 3), dtype=np.uint8)
    return {"x_train": x[:20], "y_train": np.arange(20) % 3, "x_test": x[20:], "y_test": np.arange(10) % 3}


def save(tmp_path, arrays):
    np.savez(tmp_path / "set.npz", **arrays)
    return str(tmp_path / "set.npz")


def test_digits_are_split_once_and_reproducibly():
    data = load_digits(seed=3)
    assert data.x_train.shape == (1438, 64)
    assert data.x_test.shape == (359, 64)
    assert data.task == "classification"
    assert data.classes == tuple("0123456789")
    np.testing.assert_array_equal(data.x_test, load_digits(seed=3).x_test)
    assert not np.array_equal(data.x_test, load_digits(seed=4).x_test)


def test_image_arrays(tmp_path, images):
    data = load_npz(save(tmp_path, images), seed=0)
    assert (data.name, data.task, data.image) == ("set", "classification", True)
    assert data.x_train.shape == (20, 48)
    assert data.x_train.dtype == np.float32
    np.testing.assert_allclose(data.x_train * 255, images["x_train"].reshape(20, 48), rtol=1e-6)
    np.testing.assert_array_equal(data.y_test, images["y_test"])


def test_table_without_split_holds_out_a_fifth(tmp_path, table):
    data = load_npz(save(tmp_path, table), seed=0)
    assert (data.task, data.image) == ("regression", False)
    assert len(data.x_train) == 32
    together = np.sort(np.concatenate([data.y_train, data.y_test]))
    np.testing.assert_array_equal(together, np.sort(table["y"]))


@pytest.mark.parametrize("index", [[[0, 1], [5, 7]], [5, 7]])
def test_published_index(tmp_path, table, index):
    split = np.ndim(index) - 1
    data = load_npz(save(tmp_path, table | {"test_index": np.array(index)}), split=split, seed=0)
    np.testing.assert_array_equal(data.x_test, table["X"][[5, 7]])
    np.testing.assert_array_equal(data.y_train, np.delete(table["y"], [5, 7]))


def test_published_fold(tmp_path, table):
    fold = np.arange(40) % 4
    data = load_npz(save(tmp_path, table | {"test_fold": fold}), split=2, seed=0)
    np.testing.assert_array_equal(data.y_test, table["y"][fold == 2])


def test_string_labels_and_forced_tasks(tmp_path, table):
    labels = np.array(["cat", "dog"])[np.arange(40) % 2]
    data = load_npz(save(tmp_path, table | {"y": labels}), seed=0)
    assert data.classes == ("cat", "dog")
    counts = np.arange(40) % 4
    assert load_npz(save(tmp_path, table | {"y": counts}), seed=0).task == "classification"
    assert load_npz(save(tmp_path, table | {"y": counts}), task="regression", seed=0).y_train.dtype == np.float64
    assert load_npz(save(tmp_path, table | {"y": counts * 0.5}), task="classification", seed=0).classes[1] == "0.5"


def test_images_are_scaled_to_one_norm(tmp_path, images):
    images["x_train"][0] = 0
    data = scale(load_npz(save(tmp_path, images), seed=0))
    squares = (data.x_train**2).sum(axis=1)
    assert squares[0] == 0
    np.testing.assert_allclose(squares[1:], 48, rtol=1e-5)


def test_tables_are_standardized_by_training_rows(tmp_path, table):
    table["X"][:, 1] = 0.1
    data = scale(load_npz(save(tmp_path, table), seed=0))
    assert data.x_train.shape == (32, 4)
    np.testing.assert_allclose(data.x_train.mean(axis=0), [0, 0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(data.x_train.std(axis=0), [1, 0, 1, 0], atol=1e-12)
    assert (data.x_test[:, 1] == 0).all()


def test_missing_and_foreign_files(tmp_path):
    with pytest.raises(CliError, match="no such file"):
        load_npz(str(tmp_path / "none.npz"), seed=0)
    with pytest.raises(CliError, match="no such file"):
        load_npz(str(tmp_path), seed=0)
    (tmp_path / "text.npz").write_text("1,2,3")
    with pytest.raises(CliError, match="npz archive"):
        load_npz(str(tmp_path / "text.npz"), seed=0)
    np.save(tmp_path / "one.npy", np.ones(3))
    with pytest.raises(CliError, match="npz archive"):
        load_npz(str(tmp_path / "one.npy"), seed=0)


def test_damaged_member(tmp_path, table):
    path = save(tmp_path, table)
    with open(path, "r+b") as file:
        file.seek(200)
        file.write(b"\xff" * 64)
    with pytest.raises(CliError, match="cannot read array X"):
        load_npz(path, seed=0)


def test_pickled_arrays_are_refused(tmp_path, table):
    path = save(tmp_path, table | {"y": np.array([{}] * 40, dtype=object)})
    with pytest.raises(CliError, match="cannot read array y"):
        load_npz(path, seed=0)


BAD_TABLES = {
    "no y": ({"y": None}, "expected arrays x_train"),
    "lengths": ({"y": np.ones(39)}, "one length"),
    "2-D targets": ({"y": np.ones((40, 1))}, r"y of shape \(n,\)"),
    "1-D samples": ({"X": np.ones(40)}, "samples in rows"),
    "no columns": ({"X": np.ones((40, 0))}, "samples in rows"),
    "empty": ({"X": np.ones((0, 3)), "y": np.ones(0)}, r"y of shape \(n,\)"),
    "NaN": ({"X": np.full((40, 3), np.nan)}, "X without NaN or inf, got 120"),
    "inf target": ({"y": np.r_[np.inf, np.arange(39.0)]}, "targets without NaN"),
    "constant target": ({"y": np.ones(40)}, "targets that vary"),
    "text samples": ({"X": np.full((40, 3), "a")}, "real numbers"),
    "complex samples": ({"X": np.ones((40, 3), complex)}, "real numbers"),
    "complex labels": ({"y": np.ones(40, complex)}, "labels of numbers or strings"),
    "one class": ({"y": np.zeros(40, int)}, "at least 2 classes"),
    "counts": ({"y": np.arange(40)}, "--task regression"),
    "one row": ({"X": np.ones((1, 3)), "y": np.ones(1)}, "training and test rows, got 0 and 1"),
    "index too large": ({"test_index": np.array([40])}, "between 0 and 39"),
    "negative index": ({"test_index": np.array([-1])}, "between 0 and 39"),
    "boolean index": ({"test_index": np.ones(40, bool)}, "test_index of integers"),
    "no such split": ({"test_index": np.zeros((0, 5), int)}, "--split below 0"),
    "everything is test": ({"test_index": np.arange(40)}, "got 0 and 40"),
    "fold length": ({"test_fold": np.zeros(3)}, r"test_fold of shape \(40,\)"),
    "no such fold": ({"test_fold": np.ones(40)}, "got 40 and 0"),
}


@pytest.mark.parametrize(("change", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_tables(tmp_path, table, change, message):
    arrays = {name: array for name, array in (table | change).items() if array is not None}
    with pytest.raises(CliError, match=message):
        load_npz(save(tmp_path, arrays), seed=0)


def test_bad_parts(tmp_path, images):
    with pytest.raises(CliError, match="one width, got 48 and 16"):
        load_npz(save(tmp_path, images | {"x_test": np.ones((10, 16))}), seed=0)
    with pytest.raises(CliError, match="x_test and y_test of one length"):
        load_npz(save(tmp_path, images | {"y_test": np.ones(9, int)}), seed=0)
    with pytest.raises(CliError, match="occur in training"):
        load_npz(save(tmp_path, images | {"y_test": np.full(10, 7)}), seed=0)
    path = save(tmp_path, images | {"y_train": np.full(20, np.nan), "y_test": np.zeros(10)})
    with pytest.raises(CliError, match="labels without NaN"):
        load_npz(path, task="classification", seed=0)
