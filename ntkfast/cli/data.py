"""Data sets of the demo: scikit-learn's digits, or the arrays of an npz file, checked and scaled.

The accepted layouts are listed in ``ntkfast demo --help`` (`ntkfast.cli.LAYOUTS`).
"""

import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from .._typing import Array
from ._error import CliError

__all__ = ["Dataset", "load_digits", "load_npz", "scale"]

Task: TypeAlias = Literal["classification", "regression"]

TEST_SHARE = 0.2  # of the rows, where a file does not say which ones


@dataclass(frozen=True, slots=True, eq=False)
class Dataset:
    """Training and test samples with their targets.

    Attributes
    ----------
    name : str
        For titles.
    task : {"classification", "regression"}
        What `y_train` and `y_test` are.
    x_train, x_test : ndarray, shape (n, d), float32 or float64
        Samples.
    y_train, y_test : ndarray, shape (n,)
        Class numbers 0, 1, ... (int64), or targets (float64).
    classes : tuple of str
        Names of the classes; empty for a regression.
    image : bool
        Whether the samples are images (see `scale`).
    """

    name: str
    task: Task
    x_train: Array
    y_train: Array
    x_test: Array
    y_test: Array
    classes: tuple[str, ...]
    image: bool


def load_digits(*, seed: int) -> Dataset:
    """The 1,797 digits of 8 x 8 pixels that come with scikit-learn, a random fifth of them for testing.

    Parameters
    ----------
    seed : int
        Of the split.

    Returns
    -------
    Dataset
    """
    from sklearn.datasets import load_digits as load

    digits = load()
    test = _random_test_rows(len(digits.target), seed)
    return _from_table("digits", digits.images, digits.target, test, "classification")


def load_npz(path: str, *, task: str = "auto", split: int = 0, seed: int) -> Dataset:
    """Load a data set from an npz file, checking everything in it that is used.

    Parameters
    ----------
    path : str
        The file.
    task : {"auto", "classification", "regression"}
        "auto": floating-point targets mean regression.
    split : int
        Which of the published splits (``test_index``, ``test_fold``).
    seed : int
        Of the split, where the file has none.

    Returns
    -------
    Dataset

    Raises
    ------
    CliError
        No such file, not an npz file, pickled arrays, missing arrays, wrong shapes or dtypes, NaN or inf,
        lengths that do not match, a single class.
    """
    arrays = _Archive(path)
    name = Path(path).stem
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.names:
        train = arrays.read("x_train"), arrays.read("y_train")
        return _from_parts(name, *train, arrays.read("x_test"), arrays.read("y_test"), task)
    if {"X", "y"} <= arrays.names:
        x, y = arrays.read("X"), arrays.read("y")
        return _from_table(name, x, y, _test_rows(arrays, _length(y, "y"), split, seed), task)
    found = ", ".join(sorted(arrays.names)[:8]) or "none"
    raise CliError(f"expected arrays x_train, y_train, x_test, y_test or X, y in {path}, got {found}")


def scale(data: Dataset) -> Dataset:
    """Scale samples with what the training rows alone say.

    Images: every row is divided by its norm and multiplied by sqrt(d), so that contrast does not matter.
    Tables: columns are standardized (constant ones become 0), and a constant 1 is appended: a kernel without
    biases cannot tell x from 2 x, the constant lets it.

    Parameters
    ----------
    data : Dataset

    Returns
    -------
    Dataset
        Rows whose squared norms are about d.
    """
    if data.image:
        return replace(data, x_train=_sphere(data.x_train), x_test=_sphere(data.x_test))
    mean = data.x_train.mean(axis=0, dtype=np.float64)
    deviation = data.x_train.std(axis=0, dtype=np.float64)
    # rounding leaves constant columns a deviation of about eps times their size
    constant = deviation <= 1e-6 * np.abs(mean)
    deviation[constant] = np.inf

    def standardized(x: Array) -> Array:
        return np.hstack([(x - mean) / deviation, np.ones((len(x), 1))]).astype(x.dtype)

    return replace(data, x_train=standardized(data.x_train), x_test=standardized(data.x_test))


def _sphere(x: Array) -> Array:
    norms = np.linalg.norm(x, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return x * (np.sqrt(x.shape[1]).astype(x.dtype) / norms)


class _Archive:
    """An npz file whose arrays are read one at a time; every failure is a `CliError`."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            if not Path(path).is_file():
                raise CliError(f"no such file: {path}")
            if not zipfile.is_zipfile(path):
                raise CliError(f"expected an npz archive (numpy.savez), got {path}")
            with np.load(path, allow_pickle=False) as archive:
                self.names = set(archive.files)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise CliError(f"cannot read {path}: {error}") from None

    def read(self, name: str) -> Array:
        """One array; pickled objects and damaged members are refused."""
        try:
            with np.load(self.path, allow_pickle=False) as archive:
                array = archive[name]
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            raise CliError(f"cannot read array {name} of {self.path}: {error}") from None
        if not isinstance(array, np.ndarray):  # a member that is not in npy format comes as bytes
            raise CliError(f"cannot read array {name} of {self.path}: not in npy format")
        return array


def _from_parts(name: str, x_train: Array, y_train: Array, x_test: Array, y_test: Array, task: str) -> Dataset:
    _same_length(x_train, y_train, "x_train", "y_train")
    _same_length(x_test, y_test, "x_test", "y_test")
    train, test = _samples(x_train, "x_train"), _samples(x_test, "x_test")
    if train.shape[1] != test.shape[1]:
        raise CliError(f"expected x_train and x_test of one width, got {train.shape[1]} and {test.shape[1]}")
    common = np.result_type(train, test)
    samples = train.astype(common, copy=False), test.astype(common, copy=False)
    return _assemble(name, _is_image(x_train), samples, (y_train, y_test), task)


def _from_table(name: str, x: Array, y: Array, test: Array, task: str) -> Dataset:
    _same_length(x, y, "X", "y")
    train = np.setdiff1d(np.arange(len(y)), test)
    if not len(train) or not len(test):
        raise CliError(f"expected training and test rows, got {len(train)} and {len(test)}")
    rows = _samples(x, "X")
    return _assemble(name, _is_image(x), (rows[train], rows[test]), (y[train], y[test]), task)


def _assemble(name: str, image: bool, samples: tuple[Array, Array], targets: tuple[Array, Array], task: str) -> Dataset:
    kind = _task(targets[0], task)
    read = _class_numbers if kind == "classification" else _real_targets
    y_train, y_test, classes = read(*targets)
    return Dataset(name, kind, samples[0], y_train, samples[1], y_test, classes, image)


def _is_image(x: Array) -> bool:
    return bool(x.ndim > 2 or x.dtype == np.uint8)


def _test_rows(arrays: _Archive, n: int, split: int, seed: int) -> Array:
    """Rows of the test set: the published split, else a random fifth."""
    if "test_index" in arrays.names:
        return _published_index(arrays.read("test_index"), n, split)
    if "test_fold" in arrays.names:
        fold = arrays.read("test_fold")
        if fold.shape != (n,):
            raise CliError(f"expected test_fold of shape ({n},), got {fold.shape}")
        return np.flatnonzero(fold == split)
    return _random_test_rows(n, seed)


def _published_index(index: Array, n: int, split: int) -> Array:
    if index.dtype.kind not in "iu" or index.ndim not in (1, 2):
        raise CliError(f"expected test_index of integers with one or two axes, got {index.dtype} {index.shape}")
    splits = np.atleast_2d(index)
    if split >= len(splits):
        raise CliError(f"expected --split below {len(splits)}, the number of splits in test_index, got {split}")
    rows = splits[split]
    if rows.size and not 0 <= int(rows.min()) <= int(rows.max()) < n:
        raise CliError(f"expected test_index between 0 and {n - 1}, got {rows.min()} to {rows.max()}")
    return np.unique(rows)


def _random_test_rows(n: int, seed: int) -> Array:
    return np.sort(np.random.default_rng(seed).permutation(n)[: max(1, round(TEST_SHARE * n))])


def _samples(x: Array, name: str) -> Array:
    """Rows of floats: uint8 pixels over 255, and axes after the first flattened."""
    if x.dtype.kind not in "fiub":
        raise CliError(f"expected {name} of real numbers, got dtype {x.dtype}")
    if x.ndim < 2 or x.size == 0:
        raise CliError(f"expected {name} with samples in rows, got shape {x.shape}")
    small = x.dtype in (np.uint8, np.float16, np.float32)
    rows: Array = np.ascontiguousarray(x.reshape(len(x), -1), np.float32 if small else np.float64)
    if x.dtype == np.uint8:
        rows = rows / np.float32(255)
    if not np.isfinite(rows).all():
        raise CliError(f"expected {name} without NaN or inf, got {np.count_nonzero(~np.isfinite(rows))} of them")
    return rows


def _length(y: Array, name: str) -> int:
    if y.ndim != 1 or not len(y):
        raise CliError(f"expected {name} of shape (n,), got {y.shape}")
    return len(y)


def _same_length(x: Array, y: Array, x_name: str, y_name: str) -> None:
    n = _length(y, y_name)
    if x.ndim < 1 or len(x) != n:
        raise CliError(f"expected {x_name} and {y_name} of one length, got shapes {x.shape} and {y.shape}")


def _task(y: Array, task: str) -> Task:
    if task == "regression" or (task == "auto" and y.dtype.kind == "f"):
        return "regression"
    if task == "auto" and len(np.unique(y)) > len(y) // 2:
        raise CliError(f"expected classes, got {len(np.unique(y))} labels in {len(y)} rows; add --task regression")
    return "classification"


def _class_numbers(y_train: Array, y_test: Array) -> tuple[Array, Array, tuple[str, ...]]:
    if y_train.dtype.kind not in "iubfUS" or y_test.dtype.kind not in "iubfUS":
        raise CliError(f"expected labels of numbers or strings, got dtypes {y_train.dtype} and {y_test.dtype}")
    if y_train.dtype.kind == "f" and not np.isfinite(y_train).all():
        raise CliError("expected labels without NaN or inf")
    classes, numbers = np.unique(y_train, return_inverse=True)
    if len(classes) < 2:
        raise CliError(f"expected at least 2 classes in the training labels, got {len(classes)}")
    unknown = np.setdiff1d(y_test, classes)
    if len(unknown):
        raise CliError(f"expected test labels that occur in training, got {unknown[0]!r}")
    return numbers, np.searchsorted(classes, y_test), tuple(str(label) for label in classes)


def _real_targets(y_train: Array, y_test: Array) -> tuple[Array, Array, tuple[str, ...]]:
    for y in (y_train, y_test):
        if y.dtype.kind not in "fiub":
            raise CliError(f"expected targets of real numbers, got dtype {y.dtype}")
        if not np.isfinite(y.astype(np.float64)).all():
            raise CliError("expected targets without NaN or inf")
    if np.ptp(y_train.astype(np.float64)) == 0:
        raise CliError(f"expected targets that vary, got {y_train[0]} in every training row")
    return y_train.astype(np.float64), y_test.astype(np.float64), ()
