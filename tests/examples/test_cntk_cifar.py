"""The example runs from end to end on small images; its kernel is the kernel, and a run that was stopped goes on."""

import functools
import importlib
import json
import pathlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from ntkfast.convolutional import cntk, gap_network
from ntkfast.features import cntk_features
from ntkfast.images import flip_augmented, with_flips
from ntkfast.regression import NormalEquations

EXAMPLES = pathlib.Path(__file__).parents[2] / "examples"
NET = gap_network(2)


@pytest.fixture(scope="module")
def example():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(EXAMPLES)
        yield importlib.import_module("cntk_cifar")
        for name in ("cntk_cifar", "cntk_cifar_report"):
            del sys.modules[name]


@pytest.fixture
def report(example):
    return sys.modules["cntk_cifar_report"]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Noisy stripes in two directions and none, in two parts."""
    rng, folder = np.random.default_rng(0), tmp_path_factory.mktemp("data")
    stripes = np.stack([np.tile([1, -1], (8, 4)), np.tile([[1], [-1]], (4, 8)), np.zeros((8, 8))])
    for part in range(2):
        y = rng.integers(3, size=120)
        x = np.clip(128 + 60 * stripes[y][..., None] + rng.normal(0, 60, (120, 8, 8, 3)), 0, 255).astype(np.uint8)
        arrays = {"x_train": x[:80], "y_train": y[:80], "x_test": x[80:], "y_test": y[80:]}
        np.savez(folder / f"part{part}.npz", **arrays)
    return [folder / "part0.npz", folder / "part1.npz"]


@pytest.fixture(scope="module")
def data(example, files):
    return example.load(files).first(40, 10)


def test_from_end_to_end(example, files, tmp_path, capsys):
    out, figure = tmp_path / "table.json", tmp_path / "plot.png"
    options = ["--train", "60", "--test", "30", "--depth", "2", "--features", "32", "200"]
    methods = ["--method", "gradient", "random", "sketch", "--cache", str(tmp_path / "cache")]
    rows = example.main([*map(str, files), *options, *methods, "--out", str(out), "--plot", str(figure)])
    exact, features = rows[0], rows[1:]
    # a third is chance
    assert exact.accuracy > 0.8
    assert [(row.method, row.n_features, row.n_train, row.n_test) for row in features] == [
        (method, n_features, *sizes)
        for sizes in ((60, 30), (160, 80))
        for method in ("gradient", "random", "sketch")
        for n_features in (32, 200)
    ]
    assert all(row.accuracy > 0.6 and row.made_s > 0 and row.solve_s > 0 and row.peak_gb > 0.01 for row in rows)
    assert json.loads(out.read_text())[0]["accuracy"] == exact.accuracy
    assert figure.stat().st_size > 5000
    assert "exact kernel: 3630 pairs" in capsys.readouterr().out


def test_features_only_and_options_of_the_map(example, files):
    options = ["--no-exact", "--depth", "1", "--reduce", "2", "--zca", "0.1", "--flips", "--features", "24"]
    (row,) = example.main([*map(str, files), *options, "--option", "n_networks=2"])
    assert (row.method, row.n_train, row.n_test) == ("gradient", 160, 80)


def test_images_of_all_files_are_standardized(example, files):
    data = example.load(files)
    assert data.x_train.shape == (160, 8, 8, 3)
    assert data.x_train.dtype == np.float32
    np.testing.assert_allclose(data.x_train.mean((0, 1, 2), dtype=np.float64), 0, atol=1e-6)
    np.testing.assert_allclose(data.x_train.std((0, 1, 2), dtype=np.float64), 1, atol=1e-6)
    counts = sum(np.bincount(np.load(file)["y_train"], minlength=3) for file in files)
    np.testing.assert_array_equal(np.bincount(data.y_train), counts)
    np.testing.assert_allclose(data.targets().sum(axis=1), 0, atol=1e-15)
    assert set(data.targets().round(6).ravel()) == {round(2 / 3, 6), round(-1 / 3, 6)}


def test_means_over_squares(example):
    x = np.arange(16.0).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(example.reduced(x, 2)[0, :, :, 0], [[2.5, 4.5], [10.5, 12.5]])


@pytest.mark.parametrize("flips", [False, True])
def test_rows_make_the_whole_kernel(example, data, flips):
    kernel = functools.partial(cntk, NET)
    kernel = functools.partial(flip_augmented, kernel) if flips else kernel
    k, k_test, seconds = example.exact_kernel(kernel, data, None)
    np.testing.assert_allclose(k, kernel(data.x_train), rtol=1e-6)
    np.testing.assert_allclose(k_test, kernel(data.x_test, data.x_train), rtol=1e-6)
    np.testing.assert_array_equal(k, k.T)
    assert seconds > 0


def test_a_run_that_was_stopped_goes_on(example, data, tmp_path):
    calls, folder = [], tmp_path / "rows"

    def kernel(x1, x2=None):
        calls.append(len(x1))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return cntk(NET, x1, x2)

    with pytest.raises(KeyboardInterrupt):
        example.exact_kernel(kernel, data, folder)
    assert [path.name for path in sorted(folder.iterdir())] == ["rows-000000.npz", "rows-000016.npz"]
    k, k_test, seconds = example.exact_kernel(kernel, data, folder)
    again = example.exact_kernel(None, data, folder)
    assert calls[6:] == [8, 8]
    np.testing.assert_array_equal(k, cntk(NET, data.x_train))
    np.testing.assert_array_equal(k_test, again[1])
    assert seconds == again[2]


def test_no_file_before_it_is_whole(example, tmp_path):
    def fail():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        example.kept(tmp_path / "rows.npz", fail)
    assert list(tmp_path.iterdir()) == []


def test_other_images_have_another_name(example, data):
    name = example.fingerprint(NET, data, flips=False)
    others = [
        example.fingerprint(NET, data, flips=True),
        example.fingerprint(gap_network(3), data, flips=False),
        example.fingerprint(NET, data.first(39, 10), flips=False),
        example.fingerprint(NET, data.first(40, 9), flips=False),
    ]
    assert name == example.fingerprint(NET, data, flips=False)
    assert len({name, *others}) == 5


def test_normal_equations_and_kernel_of_features_agree(example, data):
    phi = cntk_features(NET, (8, 8, 3), 24, method="random", seed=0)
    found = []
    for regress in (example.stream, example.through_kernel):
        watch = example.Stopwatch()
        transform = example.Transform(phi, watch, lambda done: None)
        found.append(regress(transform, data, watch))
    assert found[0][1] == pytest.approx(found[1][1], rel=0.2)  # the same ridge, of means over other images
    reg, y = found[0][1], data.targets("float32")
    equations = NormalEquations(dtype="float64")
    equations.update(phi(data.x_train), y)
    np.testing.assert_allclose(found[0][0], equations.solve(reg).predict(phi(data.x_test)), atol=1e-5)
    np.testing.assert_allclose(found[0][0], found[1][0], atol=0.05)


def test_mean_of_flipped_features_is_the_flipped_kernel(example, data):
    phi = cntk_features(NET, (8, 8, 3), 64, method="random", seed=0)
    features = example.flipped_mean(phi, data.x_train)
    flipped, _ = with_flips(data.x_train, data.y_train)
    k, n = (phi(flipped) @ phi(flipped).T), len(data.x_train)
    expected = (k[:n, :n] + k[n:, n:] + k[:n, n:] + k[n:, :n]) / 4
    np.testing.assert_allclose(features @ features.T, expected, rtol=1e-4)


@pytest.mark.parametrize(("errors", "chosen"), [((3, 2, 1, 2, 0), 2), ((1, 2, 3), 0)])
def test_ridge_before_the_error_grows(example, errors, chosen):
    left = iter(errors)
    reg = example.choose_ridge(lambda reg: np.sqrt([next(left)]), 10.0, np.zeros(1))
    assert reg == example.RIDGES[chosen] * 10


def test_lines_of_progress_leave_out_what_was_there(report, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(report, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    tell = report.lines("kernel", 100)
    for seconds, done in ((0.5, 50), (10.5, 55), (40.5, 70), (41.0, 71)):
        now[0] = seconds
        tell(done)
    assert capsys.readouterr().out == "kernel: 70.0 %, 0:01:00 left\n"


def test_durations(report):
    assert [report.duration(seconds) for seconds in (0.6, 61, 3723)] == ["0:00:01", "0:01:01", "1:02:03"]


def test_no_plot_without_matplotlib(report, monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    report.plot([], tmp_path / "plot.png")
    assert capsys.readouterr().out == "no plot: matplotlib is not installed\n"
    assert not list(tmp_path.iterdir())
