"""The trainability report: right numbers, no NaN for degenerate batches and networks, a table and a plot."""

import dataclasses
import math
import time

import numpy as np
import pytest
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, trainability
from ntkfast.errors import BackendUnavailableError
from ntkfast.layers import AvgPool2d, Conv2d, Dense, GlobalAvgPool, ReLU, Sequential
from ntkfast.spectrum import condition_number, entropy_rank, stable_rank, target_alignment, variance_rank

NET = Sequential(Dense(32, b_std=0.1), ReLU(), Dense(4, b_std=0.1))
NUMBERS = ("condition_number", "entropy_rank", "stable_rank", "effective_dimension")


def case(dtype="float64", n=8):
    return NET.init((6,), seed=0, dtype=dtype), np.random.default_rng(0).standard_normal((n, 6)).astype(dtype)


def numbers(report):
    """All numbers of a report; none may be NaN, and only the condition number may be inf."""
    values = [getattr(report, name) for name in NUMBERS] + [report.alignment or 0.0]
    assert not np.isnan(values).any()
    assert np.isfinite(values[1:]).all()
    assert np.isfinite(report.kernel).all()
    assert np.isfinite(report.eigenvalues).all()
    return values


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_report(dtype):
    params, x = case(dtype)
    labels = np.arange(8) % 2
    report = trainability(NET, params, x, y=labels, eps=0.1, reg=0.01)
    kernel = empirical_ntk(NET, params, x)
    assert_close(report.kernel, kernel, 1e-6 if dtype == "float32" else 1e-13)
    kernel = kernel.astype("float64")
    values = np.linalg.eigvalsh(kernel)
    rel = 1e-4 if dtype == "float32" else 1e-10
    assert report.condition_number == pytest.approx(values[-1] / values[0], rel=rel)
    assert report.condition_number == condition_number(report.eigenvalues)
    assert report.variance_rank == variance_rank(kernel, 0.1)
    assert report.entropy_rank == pytest.approx(entropy_rank(kernel), rel=rel)
    assert report.stable_rank == pytest.approx(stable_rank(kernel), rel=rel)
    reg = 0.01 * np.trace(kernel) / 8
    smoother = np.trace(kernel @ np.linalg.inv(kernel + reg * np.eye(8)))
    assert report.effective_dimension == pytest.approx(smoother, rel=rel)
    assert report.alignment == pytest.approx(target_alignment(kernel, labels), rel=rel)
    assert (report.n, report.n_outputs, report.n_parameters) == (8, 4, 6 * 32 + 32 + 32 * 4 + 4)
    assert report.eigenvalues.dtype == dtype


def test_linear_model():
    """K = x x^T / d, so the condition number is the squared one of the samples."""
    net, x = Dense(3, W_std=1.0), np.random.default_rng(0).standard_normal((5, 9))
    report = trainability(net, net.init((9,), seed=0, dtype="float64"), x)
    assert report.condition_number == pytest.approx(np.linalg.cond(x) ** 2, rel=1e-10)
    assert report.alignment is None


def test_backends(backend):
    params, x = case()
    expected = trainability(NET, params, x, y=np.arange(8) % 2)
    on_device = tuple({name: backend.asarray(array) for name, array in entry.items()} for entry in params)
    labels = backend.asarray(np.arange(8) % 2)
    method = "structured_derivatives"
    report = trainability(NET, on_device, backend.asarray(x), y=labels, method=method)
    assert numbers_close(report, expected)
    assert str(report) == str(expected)


def numbers_close(report, expected):
    names = (*NUMBERS, "alignment")
    return [getattr(report, name) for name in names] == pytest.approx([getattr(expected, name) for name in names])


@pytest.mark.parametrize("method", ["structured_derivatives", "jacobian_contraction", "ntk_vector_products"])
def test_methods(method):
    params, x = case()
    assert numbers_close(dataclasses.replace(trainability(NET, params, x, method=method), alignment=0.0),
                         dataclasses.replace(trainability(NET, params, x), alignment=0.0))  # fmt: skip


def test_another_engine():
    anp = pytest.importorskip("autograd.numpy")
    params, x = case()

    def fun(params, x):
        lower, _, upper = params
        hidden = anp.maximum(math.sqrt(2 / 6) * x @ lower["weight"] + 0.1 * lower["bias"], 0)
        return math.sqrt(2 / 32) * hidden @ upper["weight"] + 0.1 * upper["bias"]

    report, expected = trainability(fun, params, x, autodiff="autograd"), trainability(NET, params, x)
    assert_close(report.kernel, expected.kernel, 1e-12)
    assert report.n_parameters == expected.n_parameters


# --- degenerate batches and networks --------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("n", [2, 3, 32])
def test_a_sample_twice(dtype, n):
    params, x = case(dtype, n)
    x[-1] = x[0]
    report = trainability(NET, params, x, y=np.arange(n))
    assert numbers(report)[0] == math.inf
    assert report.variance_rank < n


def test_one_sample():
    params, x = case(n=1)
    report = trainability(NET, params, x, y=np.zeros(1, int))
    assert numbers(report)[:3] == [1.0, 1.0, 1.0]
    assert report.alignment == 0.0


@pytest.mark.parametrize("biases", [True, False])
def test_zero_weights(biases):
    """With biases only the last layer's hold a constant kernel; without, the kernel is 0."""
    net = NET if biases else Sequential(Dense(32), ReLU(), Dense(4))
    params = tuple({name: 0 * array for name, array in entry.items()} for entry in net.init((6,), seed=0))
    report = trainability(net, params, np.ones((5, 6), "float32"), y=np.arange(5))
    assert numbers(report)[0] == math.inf
    assert report.variance_rank == int(biases)
    assert report.alignment == 0.0
    assert "inf" in str(report)


def test_zero_samples():
    params, x = case()
    report = trainability(NET, params, 0 * x)
    assert numbers(report)[0] == math.inf


def test_exploding_network():
    net = Sequential(*[layer for _ in range(6) for layer in (Dense(8), ReLU())], Dense(1))
    params = tuple({name: 1e10 * array for name, array in entry.items()} for entry in net.init((6,), seed=0))
    with pytest.raises(OverflowError, match="expected"):
        trainability(net, params, np.ones((3, 6), "float32"))


# --- table and plot -------------------------------------------------------------------------------


def test_table():
    params, x = case()
    lines = str(trainability(NET, params, x, y=np.arange(8) % 2)).splitlines()
    assert lines[0] == "NTK on 8 samples of a network with 4 outputs and 356 parameters (float64)"
    assert len(lines) == 9
    assert len({len(line) for line in lines[1:]}) == 1
    assert lines[-1].startswith("  alignment with the labels")
    assert "alignment" not in str(trainability(NET, params, x))


def test_plot(tmp_path):
    pytest.importorskip("matplotlib")
    params, x = case()
    report = trainability(NET, params, x)
    ax = report.plot()
    assert ax.get_yscale() == "log"
    assert_close(ax.lines[0].get_ydata(), report.eigenvalues[::-1] / report.eigenvalues[-1], 1e-14)
    assert ax.lines[1].get_xdata()[0] == report.variance_rank
    assert report.plot(ax) is ax
    ax.figure.savefig(tmp_path / "spectrum.png")
    assert (tmp_path / "spectrum.png").stat().st_size > 0


def test_plot_of_a_zero_kernel(tmp_path):
    pytest.importorskip("matplotlib")
    net = Sequential(Dense(32), ReLU(), Dense(4))
    params = net.init((6,), seed=0)
    ax = trainability(net, params, np.zeros((3, 6), "float32")).plot()
    assert ax.get_title() == "condition number inf, 3 eigenvalues 0"
    ax.figure.savefig(tmp_path / "spectrum.png")


def test_plot_without_matplotlib(monkeypatch):
    params, x = case()
    report = trainability(NET, params, x)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(BackendUnavailableError, match=r'pip install "ntkfast\[plot\]"'):
        report.plot()


# --- bad input, speed -----------------------------------------------------------------------------


def test_bad_input():
    params, x = case()
    for keywords, error in [
        ({"eps": 1.0}, ValueError),
        ({"eps": -0.1}, ValueError),
        ({"reg": 0.0}, ValueError),
        ({"y": np.arange(7)}, ValueError),
        ({"y": [0] * 8}, TypeError),
        ({"autodiff": "none"}, ValueError),
    ]:
        with pytest.raises(error, match="expected"):
            trainability(NET, params, x, **keywords)


def small_cnn():
    blocks = [layer for width in (16, 32, 64) for layer in (Conv2d(width, 3), ReLU(), AvgPool2d(2))]
    return Sequential(*blocks, GlobalAvgPool(), Dense(10))


def product_rate():
    """Multiply-adds per second of a float32 matrix product now, two operations each."""
    a = np.ones((1024, 1024), np.float32)
    start = time.perf_counter()
    a @ a
    return 2 * 1024**3 / (time.perf_counter() - start)


@pytest.mark.slow
def test_cnn_on_a_batch_of_images_in_a_second():
    """Best of 5, on cores that multiply matrices at 50 Gflop/s; longer by what they are slower at that time."""
    net = small_cnn()
    params = net.init((32, 32, 3), seed=0)
    x = np.random.default_rng(0).standard_normal((32, 32, 32, 3)).astype("float32")
    report = trainability(net, params, x)
    assert not math.isnan(report.condition_number)
    best = math.inf
    for _ in range(5):
        slowdown = max(1.0, 50e9 / product_rate())
        start = time.perf_counter()
        trainability(net, params, x)
        best = min(best, (time.perf_counter() - start) / slowdown)
    assert best < 1.0
