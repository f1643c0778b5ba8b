"""The example runs from end to end on few digits, and its regressions agree with each other where they must."""

import importlib.util
import json
import pathlib
import sys

import numpy as np
import pytest

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "projected_regression.py"
SMALL = ["--train", "300", "--test", "100", "--steps", "200"]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("projected_regression", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for their module
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def images():
    """Three noisy prototypes."""
    rng = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = np.clip(rng.integers(0, 255, (3, 8, 8))[y] + rng.normal(0, 60, (90, 8, 8)), 0, 255).astype(np.uint8)
    return {"x_train": x[:60], "y_train": y[:60], "x_test": x[60:], "y_test": y[60:]}


@pytest.fixture(scope="module")
def data(example, images, tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "shapes.npz"
    np.savez(path, **images)
    return example.load(path, 1000, 1000, 0)


def test_digits_from_end_to_end(example, tmp_path, capsys):
    out = tmp_path / "table.json"
    network, exact, *projected = example.main([*SMALL, "--dims", "16", "512", "--out", str(out)])
    # a tenth is chance; the regressions are on 300 samples
    assert network.accuracy > 0.7
    assert exact.accuracy > 0.85
    assert [row.method for row in projected] == [
        f"{kind} {m}" for kind in ("TensorProjection", "SparseJL") for m in (16, 512)
    ]
    assert all(abs(row.accuracy - exact.accuracy) <= 0.04 for row in projected if row.method.endswith("512"))
    assert json.loads(out.read_text())[0]["accuracy"] == network.accuracy
    printed = capsys.readouterr().out
    assert "300 training and 100 test images, 14378 parameters" in printed
    assert "of the exact kernel's accuracy from dimension" in printed


def test_data_are_standardized(data, images):
    assert data.x_train.shape == (60, 8, 8, 1)
    assert data.x_train.dtype == np.float32
    assert abs(data.x_train.mean()) < 1e-5
    assert abs(data.x_train.std() - 1) < 1e-5
    np.testing.assert_array_equal(data.y_test, images["y_test"])
    np.testing.assert_allclose(data.targets.mean(axis=0), 0, atol=1e-6)


def test_training_lowers_the_loss_reproducibly(example, data):
    net = example.network(data.n_classes)
    before, after = (example.train(net, data, steps=steps, seed=0) for steps in (1, 60))
    again = example.train(net, data, steps=60, seed=0)
    assert example.accuracy(net(after, data.x_train), data.y_train) > 0.95
    assert example.accuracy(net(before, data.x_train), data.y_train) < 0.95
    np.testing.assert_array_equal(after[0]["weight"], again[0]["weight"])


def test_features_and_their_kernel_give_the_same_regression(example, data):
    rng = np.random.default_rng(1)
    phi, phi_test = (rng.standard_normal((len(x), 20)) for x in (data.x_train, data.x_test))
    phi[:, :3] += 2 * data.targets
    one = example.regress_on_features(phi.astype("float32"), phi_test.astype("float32"), data)
    other = example.regress_on_kernel((phi @ phi.T).astype("float32"), (phi_test @ phi.T).astype("float32"), data)
    assert one[1] == pytest.approx(other[1], rel=1e-5)
    np.testing.assert_allclose(one[0], other[0], atol=1e-4)


@pytest.mark.parametrize(
    ("lost", "expected"),
    [((0.1, 0.005, 0.0), "64 (A)"), ((0.0, 0.1, 0.0), "256 (A)"), ((0.1, 0.1, 0.1), "none of these")],
)
def test_dimension_from_which_on_nothing_is_lost(example, lost, expected):
    rows = [example.Row(f"A {m}", 0.9 - less, 0.0, 0.0, 0.0) for m, less in zip((16, 64, 256), lost, strict=True)]
    assert example.sufficient(rows, 0.9).endswith(expected)
