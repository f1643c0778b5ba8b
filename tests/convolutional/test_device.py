"""Convolutional kernels on device arrays: CuPy's where there is a GPU, and everywhere the strict stand-in for it."""

import numpy as np
import pytest
from convolutional.drawn import images
from convolutional.test_promises import NETWORKS
from empirical.networks import smallest_budget
from helpers import assert_close

from ntkfast.convolutional import cnn_gp, cnn_gp_and_cntk, cntk, cntk_diagonal, estimate_cost
from ntkfast.errors import MixedBackendError

every_network = pytest.mark.parametrize("name", NETWORKS)
RTOL = {"float32": 1e-5, "float64": 1e-12}


@pytest.fixture(autouse=True)
def quick(backend):
    if backend.name == "numpy-cudasim":
        pytest.skip("minutes in the simulator, where the kernels themselves are tested")


def sets(dtype):
    """Two sets that share an image; one of zeros, and one with a black half."""
    x = images((6, 8), 5, seed=0).astype(dtype)
    x[1] = 0
    x[2, :3] = 0
    return x[:3], x[[0, 3, 4]]


@every_network
@pytest.mark.parametrize("dtype", RTOL)
def test_kernels_are_those_of_numpy(name, dtype, backend):
    network, (x1, x2) = NETWORKS[name], sets(dtype)
    expected = cnn_gp_and_cntk(network, x1, x2), cnn_gp_and_cntk(network, x1), cntk_diagonal(network, x1)
    x1, x2 = backend.asarray(x1), backend.asarray(x2)
    found = cnn_gp_and_cntk(network, x1, x2), cnn_gp_and_cntk(network, x1), cntk_diagonal(network, x1)
    for got, wanted in zip(found, expected, strict=True):
        for kind in ("nngp", "ntk"):
            kernel = getattr(got, kind)
            assert type(kernel) is type(x1)
            assert kernel.dtype == dtype
            assert_close(backend.to_numpy(kernel), getattr(wanted, kind), RTOL[dtype])


@every_network
def test_blocks_of_any_size_give_the_same_kernel(name, backend):
    network, (x1, x2) = NETWORKS[name], [backend.asarray(x) for x in sets("float64")]
    least = smallest_budget(lambda **budget: cntk(network, x1, x2, **budget))
    for function, sides in ((cntk, (x1, x2)), (cnn_gp, (x1,)), (lambda *a, **k: cntk_diagonal(*a, **k).ntk, (x1,))):
        whole, parts = (function(network, *sides, max_memory=budget) for budget in (None, least))
        rtol = 1e-14 if backend.name == "numpy-reference" else 0.0  # whose sums follow the batch
        assert_close(backend.to_numpy(whole), backend.to_numpy(parts), rtol)


def test_progress_and_cost(backend):
    seen = []
    x1, x2 = (backend.asarray(x) for x in sets("float32"))
    cntk(NETWORKS["gap"], x1, x2, progress=lambda *numbers: seen.append(numbers))
    assert seen[-1] == (9, 9)
    cost = estimate_cost(NETWORKS["gap"], x1, x2)
    assert cost.pairs == 9
    assert cost.seconds > 0


def test_what_is_wrong_is_said(backend):
    """Also where finding out waits for the device."""
    x1, x2 = sets("float64")
    bad = x2.copy()
    bad[1, 2, 3, 1] = np.nan
    with pytest.raises(ValueError, match=r"x2 without NaN or inf, got nan at index \(1, 2, 3, 1\)"):
        cntk(NETWORKS["gap"], backend.asarray(x1), backend.asarray(bad))
    with pytest.raises(OverflowError, match="expected the kernel within the range of float64"):
        cntk(NETWORKS["gap"], backend.asarray(1e300 * x1))
    if "cupy" in backend.name:
        for pair in ((backend.asarray(x1), x2), (x1, backend.asarray(x2))):
            with pytest.raises(MixedBackendError):
                cntk(NETWORKS["gap"], *pair)
