"""Every check names what was expected and what came."""

import numpy as np
import pytest

from ntkfast import _check
from ntkfast.backends import get_backend
from ntkfast.errors import MemoryBudgetError

GOOD = np.arange(6.0).reshape(3, 2)


@pytest.mark.parametrize(
    "x",
    [GOOD, GOOD.astype(np.float32), np.asfortranarray(GOOD), np.arange(24.0).reshape(6, 4)[::2, ::2], GOOD[:1]],
    ids=["float64", "float32", "fortran", "strided", "one row"],
)
def test_matrix_comes_back_contiguous_and_equal(x):
    checked, backend = _check.check_matrix(x, "x", columns=2)
    assert checked.flags.c_contiguous
    assert checked.dtype == x.dtype
    assert backend.name == "numpy"
    np.testing.assert_array_equal(checked, x)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[1.0]], TypeError, "NumPy or CuPy array, got list"),
        (GOOD.astype(int), TypeError, "float32 or float64, got int64"),
        (GOOD.astype(np.float16), TypeError, "got float16"),
        (GOOD.astype(complex), TypeError, "got complex128"),
        (GOOD.astype(object), TypeError, "got object"),
        (GOOD[0], ValueError, r"shape \(n, 2\), got \(2,\)"),
        (GOOD[None], ValueError, r"got \(1, 3, 2\)"),
        (GOOD[:, :1], ValueError, r"got \(3, 1\)"),
        (GOOD[:0], ValueError, "at least one row"),
        (np.where(GOOD == 3, np.nan, GOOD), ValueError, r"nan at index \(1, 1\)"),
        (np.where(GOOD == 3, -np.inf, GOOD), ValueError, r"-inf at index \(1, 1\)"),
    ],
)
def test_bad_matrix(x, error, message):
    with pytest.raises(error, match=message):
        _check.check_matrix(x, "x", columns=2)


IMAGES = np.arange(36.0).reshape(2, 3, 2, 3)


@pytest.mark.parametrize("x", [IMAGES, IMAGES.astype(np.float32), IMAGES[:, :, ::-1], IMAGES[:1]])
@pytest.mark.parametrize("shape", [None, (3, 2, 3), [3, 2, 3]])
def test_images_come_back_contiguous_and_equal(x, shape):
    checked, backend = _check.check_images(x, "x", shape)
    assert checked.flags.c_contiguous
    assert checked.dtype == x.dtype
    assert backend.name == "numpy"
    np.testing.assert_array_equal(checked, x)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        ([[[[1.0]]]], TypeError, "expected x to be a NumPy or CuPy array, got list"),
        (IMAGES.astype(np.uint8), TypeError, "float32 or float64, got uint8; convert it with x.astype"),
        (IMAGES[0], ValueError, r"x of shape \(n, height, width, channels\), got \(3, 2, 3\)"),
        (IMAGES.reshape(2, -1), ValueError, r"got \(2, 18\)"),
        (IMAGES[:0], ValueError, r"at least one image, pixel and channel, got shape \(0, 3, 2, 3\)"),
        (IMAGES[..., :0], ValueError, r"got shape \(2, 3, 2, 0\)"),
        (np.where(IMAGES == 20, np.nan, IMAGES), ValueError, r"nan at index \(1, 0, 0, 2\)"),
    ],
)
def test_bad_images(x, error, message):
    with pytest.raises(error, match=message):
        _check.check_images(x, "x")


def test_images_of_another_shape():
    with pytest.raises(ValueError, match=r"expected x of shape \(n, 3, 3, 3\), got \(2, 3, 2, 3\)"):
        _check.check_images(IMAGES, "x", (3, 3, 3))


def test_finite_entries_whose_sum_overflows_are_fine():
    _check.check_finite(np.full((2, 2), 1e308), "x")


def test_infinities_that_cancel_are_found():
    with pytest.raises(ValueError, match="inf"):
        _check.check_finite(np.array([[np.inf, -np.inf]]), "x")


def test_the_first_bad_one_of_several_arrays_is_named():
    arrays = {"a": np.ones(2), "b": np.array([1.0, np.nan]), "c": np.array([[np.inf]])}
    with pytest.raises(ValueError, match=r"expected b without NaN or inf, got nan at index \(1,\)"):
        _check.check_all_finite(arrays)


@pytest.mark.parametrize("entry", [3.4e38, -3.4e38])
def test_finite_arrays_whose_sums_overflow_together_are_fine(entry):
    _check.check_all_finite({"a": np.full(3, entry, np.float32), "b": np.full(3, -entry, np.float32)})
    _check.check_all_finite({"a": np.full(1, entry, np.float32), "b": np.full(1, entry, np.float32)})


def test_infinities_of_two_arrays_that_cancel_are_found():
    with pytest.raises(ValueError, match=r"b without NaN or inf, got inf"):
        _check.check_all_finite({"a": np.ones(2), "b": np.array([np.inf]), "c": np.array([-np.inf])})


def test_pair_of_two_widths():
    with pytest.raises(ValueError, match=r"x2 of shape \(n, 2\), got \(3, 3\)"):
        _check.check_pair(GOOD, np.ones((3, 3)))


def test_pair_of_two_dtypes():
    with pytest.raises(TypeError, match="one dtype"):
        _check.check_pair(GOOD, GOOD.astype(np.float32))


@pytest.mark.parametrize("value", [True, 1.0, "3", None])
def test_not_an_integer(value):
    with pytest.raises(TypeError, match="expected depth to be an integer"):
        _check.check_int(value, "depth")


@pytest.mark.parametrize("value", [-1, 4])
def test_integer_out_of_bounds(value):
    with pytest.raises(ValueError, match=f"between 0 and 3, got {value}"):
        _check.check_int(value, "depth", maximum=3)


def test_numpy_numbers_are_numbers():
    assert _check.check_int(np.int64(3), "depth") == 3
    assert _check.check_real(np.float32(0.5), "reg") == 0.5


@pytest.mark.parametrize(("value", "error"), [("1", TypeError), (None, TypeError), (True, TypeError), (-1, ValueError)])
def test_bad_real(value, error):
    with pytest.raises(error, match="expected reg"):
        _check.check_real(value, "reg", minimum=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_real_must_be_finite_and_positive(value):
    with pytest.raises(ValueError, match="greater than 0"):
        _check.check_real(value, "W_std", minimum=0, strict=True)


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seed_is_a_64_bit_key(seed):
    with pytest.raises(ValueError, match="seed"):
        _check.check_seed(seed)


def test_choice():
    with pytest.raises(ValueError, match="one of a, b; got 'c'"):
        _check.check_choice("c", "kind", {"b", "a"})


def test_memory_budget_names_the_smallest_that_works():
    backend = get_backend(GOOD)
    assert _check.memory_budget(None, backend) > 0
    assert _check.memory_budget(100, backend, smallest=100) == 100
    with pytest.raises(MemoryBudgetError, match="at least 101 bytes, got 100"):
        _check.memory_budget(100, backend, smallest=101)
