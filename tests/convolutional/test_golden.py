"""Kernels of convolutional networks against reference values, which hold to 3e-14."""

import pytest
from convolutional.reference import kernels
from empirical.networks import smallest_budget
from golden_files import CNTK_CASES, archive, cntk_inputs, cntk_kernels
from helpers import assert_close

from ntkfast.convolutional import cnn_gp, cnn_gp_and_cntk, cntk, cntk_diagonal, flatten_network, gap_network
from ntkfast.layers import AvgPool2d, Conv2d, Dense, GlobalAvgPool, ReLU, Sequential

RTOL = {"float64": 2e-13, "float32": 3e-6}

of_small = pytest.mark.parametrize(("network", "b_std"), [case[1:] for case in CNTK_CASES if case[0] == "crop8"])


def build(name, b_std):
    if name == "conv3_gap":
        return gap_network(3, b_std=b_std)
    if name == "conv3_flatten":
        return flatten_network(3, b_std=b_std)
    block = Conv2d(8, 3, b_std=b_std), ReLU()
    return Sequential(*block, *block, AvgPool2d(2), *block, GlobalAvgPool(), Dense(1, b_std=b_std))


def assert_pair(got, expected, dtype):
    for kernel, wanted in zip(got, expected, strict=True):
        assert_close(kernel, wanted, RTOL[dtype])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(("dataset", "network", "b_std"), CNTK_CASES)
def test_equals_the_reference(dataset, network, b_std, dtype):
    x1, x2 = (x.astype(dtype) for x in cntk_inputs(dataset))
    pair = cnn_gp_and_cntk(build(network, b_std), x1, x2)
    assert pair.nngp.dtype == pair.ntk.dtype == dtype
    assert_pair((pair.nngp, pair.ntk), cntk_kernels(dataset, network, b_std), dtype)


@of_small
def test_equals_the_reference_within_the_smallest_memory(network, b_std):
    x1, x2 = cntk_inputs("crop8")
    net = build(network, b_std)
    least = smallest_budget(lambda **budget: cntk(net, x1, x2, **budget))
    pair = cnn_gp_and_cntk(net, x1, x2, max_memory=least)
    assert_pair((pair.nngp, pair.ntk), cntk_kernels("crop8", network, b_std), "float64")


@of_small
def test_every_backend_equals_the_reference(network, b_std, backend):
    if backend.name == "numpy-cudasim":
        pytest.skip("minutes in the simulator, where the kernels themselves are tested")
    x1, x2 = (backend.asarray(x[:3]) for x in cntk_inputs("crop8"))
    expected = cntk_kernels("crop8", network, b_std)
    pair = cnn_gp_and_cntk(build(network, b_std), x1, x2)
    assert_pair([backend.to_numpy(k) for k in (pair.nngp, pair.ntk)], [k[:3, :3] for k in expected], "float64")


@of_small
def test_coincident_images_are_exact(network, b_std):
    """x2[0] is x1[0]: with an angle from a cosine, the NTK would be off by 1e-9 there."""
    x1, x2 = cntk_inputs("crop8")
    expected = cntk_kernels("crop8", network, b_std)
    net = build(network, b_std)
    assert abs(cntk(net, x1[:1], x2[:1])[0, 0] / expected.ntk[0, 0] - 1) < 1e-13
    assert abs(cnn_gp(net, x1[:1], x2[:1])[0, 0] / expected.nngp[0, 0] - 1) < 1e-13
    assert abs(cntk_diagonal(net, x1[:1]).ntk[0] / expected.ntk[0, 0] - 1) < 1e-13


@of_small
def test_the_recursion_of_these_tests_equals_the_reference(network, b_std):
    """Which the random architectures are then compared with."""
    x1, x2 = cntk_inputs("crop8")
    found = kernels(build(network, b_std), x1[:3], x2[:3])
    for got, expected in zip(found, cntk_kernels("crop8", network, b_std), strict=True):
        assert_close(got, expected[:3, :3], 1e-13)


def test_every_kernel_of_the_file_is_compared():
    names = {f"{dataset}/{network}/b{b_std:g}" for dataset, network, b_std in CNTK_CASES}
    assert names == {name.rsplit("/", 1)[0] for name in archive("cntk_infinite") if name.endswith("ntk12")}
