"""What every call promises: symmetry, bits that depend on nothing but the images, and the memory of its budget."""

import functools
import math
import tracemalloc

import numba
import numpy as np
import pytest
from convolutional.drawn import images, networks
from empirical.networks import smallest_budget
from helpers import assert_close
from hypothesis import given
from hypothesis import strategies as st

from ntkfast.convolutional import cnn_gp, cnn_gp_and_cntk, cntk, cntk_diagonal, flatten_network, gap_network
from ntkfast.convolutional._gram import _BATCH, _BLOCK
from ntkfast.kernels import displacement
from ntkfast.layers import AvgPool2d, Conv2d, Dense, Erf, Flatten, GlobalAvgPool, ReLU, Residual, Sequential

STRIDED = Residual(
    Sequential(ReLU(), Conv2d(4, 3, stride=2), ReLU(), Conv2d(4, 3)), Sequential(Conv2d(4, 3), AvgPool2d(2))
)
NETWORKS = {
    "gap": gap_network(2, b_std=0.1),
    "flatten": flatten_network(2),
    "circular": gap_network(2, padding="CIRCULAR"),
    "pools": Sequential(
        Conv2d(4, 3, b_std=0.1), ReLU(), AvgPool2d(3, stride=2, padding=1), Conv2d(4, 3), Erf(), Flatten(), Dense(1)
    ),
    "residual": Sequential(
        Conv2d(4, 3), STRIDED, Residual(Sequential(ReLU(), Conv2d(4, 3))), ReLU(), GlobalAvgPool(), Dense(1)
    ),
    "larger images": Sequential(
        Residual(Conv2d(4, 3, padding=4), Conv2d(4, 1, padding=3)), ReLU(), Conv2d(4, 3), GlobalAvgPool()
    ),
}
every_network = pytest.mark.parametrize("name", NETWORKS)
every_dtype = pytest.mark.parametrize("dtype", ["float32", "float64"])


def assert_same_bits(found, expected):
    np.testing.assert_array_equal(found.nngp, expected.nngp)
    np.testing.assert_array_equal(found.ntk, expected.ntk)


# --- symmetry -------------------------------------------------------------------------------------


@every_dtype
@given(drawn=networks(), seed=st.integers(0, 9))
def test_one_set_of_images(drawn, seed, dtype):
    """Symmetric, with the diagonal of `cntk_diagonal`, to the bit; positive semidefinite, as a copy of it is."""
    x = images(drawn.size, 4, seed).astype(dtype)
    own, twice = cnn_gp_and_cntk(drawn.network, x), cnn_gp_and_cntk(drawn.network, x, x.copy())
    diagonal, eps = cntk_diagonal(drawn.network, x), np.finfo(dtype).eps
    for kind in ("nngp", "ntk"):
        kernel = getattr(own, kind)
        np.testing.assert_array_equal(kernel, kernel.T)
        np.testing.assert_array_equal(np.diag(kernel), getattr(diagonal, kind))
        np.testing.assert_array_equal(np.diag(kernel), np.diag(getattr(twice, kind)))
        assert_close(getattr(twice, kind), kernel, 200 * eps)
        values = np.linalg.eigvalsh(kernel.astype(np.float64))
        assert values.min() > -200 * eps * values.max()


@every_network
def test_one_kernel_or_both(name):
    x = images((6, 8), 3, seed=0)
    both = cnn_gp_and_cntk(NETWORKS[name], x[:2], x[1:])
    np.testing.assert_array_equal(cntk(NETWORKS[name], x[:2], x[1:]), both.ntk)
    np.testing.assert_array_equal(cnn_gp(NETWORKS[name], x[:2], x[1:]), both.nngp)


@every_network
def test_the_ntk_is_larger_than_the_nngp(name):
    """Their difference is the kernel of all layers but the last: positive definite, too."""
    x = images((6, 8), 5, seed=0)
    found = cnn_gp_and_cntk(NETWORKS[name], x)
    assert np.linalg.eigvalsh(found.ntk - found.nngp).min() > 0


# --- bits -----------------------------------------------------------------------------------------


@every_network
@every_dtype
def test_the_same_bits_for_any_memory(name, dtype):
    x = images((6, 8), 7, seed=0).astype(dtype)
    for others in ((), (x[:3].copy(),)):
        expected = cnn_gp_and_cntk(NETWORKS[name], x, *others)
        least = smallest_budget(lambda others=others, **budget: cntk(NETWORKS[name], x, *others, **budget))
        for budget in (least, 2 * least, 5 * least + 7, 2**40):
            assert_same_bits(cnn_gp_and_cntk(NETWORKS[name], x, *others, max_memory=budget), expected)
        assert_same_bits(cntk_diagonal(NETWORKS[name], x, max_memory=least), cntk_diagonal(NETWORKS[name], x))


@pytest.mark.parametrize("name", ["gap", "pools"])
def test_the_same_bits_for_blocks_and_batches_of_any_size(name, monkeypatch):
    x = images((3, 4), 9, seed=0)
    expected = cnn_gp_and_cntk(NETWORKS[name], x), cnn_gp_and_cntk(NETWORKS[name], x, x[:5])
    for block, batch in ((1, 1), (2, 3), (4, 2), (9, 100)):
        monkeypatch.setattr("ntkfast.convolutional._gram._BLOCK", block)
        monkeypatch.setattr("ntkfast.convolutional._gram._BATCH", batch)
        assert_same_bits(cnn_gp_and_cntk(NETWORKS[name], x), expected[0])
        assert_same_bits(cnn_gp_and_cntk(NETWORKS[name], x, x[:5]), expected[1])


def test_more_images_than_a_block():
    """And more pairs than a batch: every pair is written once, at its place."""
    x = images((1, 2), _BLOCK + 9, seed=0)
    network = Sequential(Conv2d(4, (1, 2)), ReLU(), Flatten(), Dense(1))
    assert len(x) > _BLOCK
    assert len(x) ** 2 > 4 * _BATCH
    expected = np.concatenate([cntk(network, x[:1], part) for part in np.array_split(x, 5)], axis=1)[0]
    for kernel in (cntk(network, x), cntk(network, x, x.copy())):
        np.testing.assert_array_equal(kernel[0], expected)
        np.testing.assert_array_equal(kernel[:4, -3:], cntk(network, x[:4], x[-3:]))


@every_network
@every_dtype
def test_the_same_bits_for_any_number_of_threads(name, dtype, monkeypatch):
    """One pair, whose displacements are shared by the threads, and more pairs than threads."""
    x = images((6, 8), 7, seed=0).astype(dtype)
    calls = [(x[:1], x[1:2]), (x,), (x[:2], x[2:])]
    expected = [cnn_gp_and_cntk(NETWORKS[name], *call) for call in calls]
    for n_threads in (2, 3, 7):
        monkeypatch.setattr(numba, "get_num_threads", lambda n=n_threads: n)
        monkeypatch.setattr(displacement, "get_num_threads", lambda n=n_threads: n)
        for call, wanted in zip(calls, expected, strict=True):
            assert_same_bits(cnn_gp_and_cntk(NETWORKS[name], *call), wanted)


@every_network
def test_an_image_does_not_depend_on_those_beside_it(name):
    """The kernel of two images is the same in any batch, and in any memory order."""
    x = images((6, 8), 6, seed=0)
    expected = cntk(NETWORKS[name], x[:3], x[3:])
    for i, j in ((0, 0), (2, 1)):
        single = cntk(NETWORKS[name], x[i : i + 1], x[3 + j : 4 + j])
        np.testing.assert_array_equal(single[0, 0], expected[i, j])
    strange = np.repeat(np.asfortranarray(x), 2, axis=3)[..., ::2]
    np.testing.assert_array_equal(cntk(NETWORKS[name], strange[:3], strange[3:]), expected)


def _note(seen, *numbers):
    seen.append(numbers)


@pytest.mark.parametrize("least", [False, True])
def test_progress(least):
    """From the first call on, up to all pairs; the result has the same bits."""
    x = images((4, 4), 5, seed=0)
    budget = smallest_budget(lambda **b: cntk(NETWORKS["gap"], x, **b)) if least else None
    for others, total in (((), 15), ((x[:2],), 10)):
        seen = []
        report = functools.partial(_note, seen)
        found = cnn_gp_and_cntk(NETWORKS["gap"], x, *others, max_memory=budget, progress=report)
        assert_same_bits(found, cnn_gp_and_cntk(NETWORKS["gap"], x, *others))
        assert seen[-1] == (total, total)
        assert all(n == total for _, n in seen)
        assert [done for done, _ in seen] == sorted({done for done, _ in seen})
        assert all(type(number) is int for numbers in seen for number in numbers)
    seen = []
    cntk_diagonal(NETWORKS["gap"], x, max_memory=budget, progress=functools.partial(_note, seen))
    assert seen[-1] == (5, 5)


def test_an_interrupt_stops_the_work():
    def interrupt(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cntk(NETWORKS["gap"], images((4, 4), 2, seed=0), progress=interrupt)


@every_network
def test_arguments_stay_as_they_are(name):
    x = images((6, 8), 3, seed=0)
    before = x.copy()
    cntk(NETWORKS[name], x)
    cntk(NETWORKS[name], x, x[:1])
    cntk_diagonal(NETWORKS[name], x)
    np.testing.assert_array_equal(x, before)


# --- memory ---------------------------------------------------------------------------------------


def peak(call):
    """Bytes of arrays in use at the worst moment of a call, beside its results."""
    call()  # imports and caches
    tracemalloc.start()
    try:
        result = call()
        return tracemalloc.get_traced_memory()[1] - result.nngp.nbytes - result.ntk.nbytes
    finally:
        tracemalloc.stop()


#: Bytes of programs, views and lists, which no budget counts.
SMALL = 60_000


@every_network
@pytest.mark.parametrize("size", [(16, 16), (6, 8), (2, 1)])
def test_temporaries_stay_within_the_budget(name, size):
    if name in ("circular", "residual") and min(size) < 6:
        pytest.skip("the image is too small")
    x = images(size, 12, seed=0)
    network = NETWORKS[name]
    least = smallest_budget(lambda **budget: cntk(network, x, **budget))
    for budget in (least, 10 * least) if least < 2e6 else (least,):
        assert peak(lambda b=budget: cnn_gp_and_cntk(network, x[:3], x[3:], max_memory=b)) < budget + SMALL
        assert peak(lambda b=budget: cnn_gp_and_cntk(network, x[:5], max_memory=b)) < budget + SMALL
        assert peak(lambda b=budget: cntk_diagonal(network, x, max_memory=b)) < budget + SMALL


def test_temporaries_of_many_small_images():
    """Where lists of pairs are larger than the images."""
    x = images((1, 1), 200, seed=0)
    network = Sequential(Dense(4), ReLU(), Dense(1))
    for budget in (60_000, 400_000):
        assert peak(lambda b=budget: cnn_gp_and_cntk(network, x, x, max_memory=b)) < budget + SMALL
        assert peak(lambda b=budget: cnn_gp_and_cntk(network, x, max_memory=b)) < budget + SMALL


@every_network
def test_the_smallest_budget_is_that_of_one_pair(name):
    """It grows with the pixels, not with the images."""
    few, many = (images((6, 8), n, seed=0) for n in (1, 50))
    budgets = [smallest_budget(lambda x=x, **budget: cntk(NETWORKS[name], x, **budget)) for x in (few, many)]
    assert budgets[0] == budgets[1]
    assert budgets[0] < 100 * math.prod(few.shape[1:3]) ** 2 * 8


def test_a_plane_is_all_that_is_in_memory():
    """Convolutions and activations in a row need no tensor of all pairs of pixels, which has 16 MB here."""
    x = images((38, 38), 1, seed=0)
    least = smallest_budget(lambda **budget: cntk(NETWORKS["gap"], x, **budget))
    assert least < 1e6 < 8 * 38**4
    found = cntk(NETWORKS["gap"], x, max_memory=least)
    assert np.isfinite(found).all()
