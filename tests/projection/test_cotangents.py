"""Gradients of losses and margins: finite differences, identities, extreme outputs, bad input, and projections."""

import fakecupy
import numpy as np
import pytest
from empirical.networks import mlp, problem
from helpers import assert_close

from ntkfast.errors import MixedBackendError
from ntkfast.projection import project_jacobian
from ntkfast.projection.cotangents import cross_entropy, margin, squared_error
from ntkfast.projection.jacobian import PerSample
from ntkfast.sketch import GaussianSketch

N = 6


def _case(k, dtype="float64", scale=3.0):
    """Outputs, labels and targets."""
    rng = np.random.default_rng(k)
    y = (scale * rng.standard_normal((N, k))).astype(dtype)
    return y, rng.integers(max(k, 2), size=N), rng.standard_normal((N, k)).astype(dtype)


def _logits(y):
    """One output as two."""
    return np.concatenate([np.zeros_like(y), y], axis=1) if y.shape[1] == 1 else y


def _cross_entropy(y, labels):
    y = _logits(y)
    return np.log(np.exp(y).sum(axis=1)) - y[np.arange(N), labels]


def _margin(y, labels):
    p = np.exp(-_cross_entropy(y, labels))
    return np.log(p / (1 - p))


def _differences(fun, y, step=1e-5):
    """Gradient of a function (n, k) -> (n,) by central differences."""
    columns = []
    for unit in np.eye(y.shape[1]):
        columns.append((fun(y + step * unit) - fun(y - step * unit)) / (2 * step))
    return np.stack(columns, axis=1)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("name", ["cross_entropy", "margin", "squared_error"])
def test_is_the_gradient(name, k, backend):
    y, labels, targets = _case(k)
    made, fun = {
        "cross_entropy": (cross_entropy(backend.asarray(labels)), lambda y: _cross_entropy(y, labels)),
        "margin": (margin(backend.asarray(labels)), lambda y: _margin(y, labels)),
        "squared_error": (squared_error(backend.asarray(targets)), lambda y: ((y - targets) ** 2).sum(axis=1) / 2),
    }[name]
    found = backend.to_numpy(made(backend.asarray(y)))
    assert_close(found, _differences(fun, y), 1e-8)
    narrow = made(backend.asarray(y.astype("float32"))) if name != "squared_error" else None
    if narrow is not None:
        assert narrow.dtype == "float32"
        assert_close(backend.to_numpy(narrow), found, 1e-6)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_value_and_weights_of_the_margin(k):
    y, labels, _ = _case(k)
    p = np.exp(-_cross_entropy(y, labels))
    assert_close(margin(labels).value(y), _margin(y, labels), 1e-12)
    assert_close(margin(labels).weights(y), 1 - p, 1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_the_loss_is_the_margin_with_its_weights(k):
    """d log(1 / p) = -(1 - p) d log(p / (1 - p)), so the two gradients differ by TRAK's weights."""
    y, labels, _ = _case(k)
    expected = -margin(labels).weights(y)[:, None] * margin(labels)(y)
    assert_close(cross_entropy(labels)(y), expected, 1e-14)


def test_one_output_is_two_with_a_zero():
    y, labels, _ = _case(1)
    for made in (cross_entropy(labels), margin(labels)):
        assert_close(made(y)[:, 0], made(_logits(y))[:, 1], 1e-14)


def test_a_sure_network_keeps_its_digits():
    """p = 1 - exp(-60) is 1 in float64; 1 - p is not 0."""
    y = np.array([[60.0, 0.0], [60.0, 0.0]])
    labels = np.array([0, 1])
    assert_close(cross_entropy(labels)(y)[0], np.exp(-60.0) * np.array([-1.0, 1.0]), 1e-14)
    assert_close(margin(labels)(y), np.array([[1.0, -1.0], [-1.0, 1.0]]), 1e-14)
    assert_close(margin(labels).weights(y)[:1], np.exp([-60.0]), 1e-14)
    assert_close(cross_entropy(labels[1:])(y[1:, :1]), -np.exp(np.array([[-60.0]])), 1e-14)


@pytest.mark.parametrize("size", [1e30, 3e38])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("k", [1, 2, 5])
def test_large_outputs(k, dtype, size):
    y, labels, _ = _case(k, dtype)
    y = np.sign(y) * np.asarray(size, dtype)
    for found in (cross_entropy(labels)(y), margin(labels)(y), margin(labels).weights(y)):
        assert found.dtype == dtype
        assert np.isfinite(found).all()
        assert abs(found).max() <= 1
    assert_close(cross_entropy(labels)(y).sum(axis=1) if k > 1 else np.zeros(N), np.zeros(N), 1e-6)


def test_values_beyond_the_range_are_refused():
    y = np.array([[-3e38, 3e38]], "float32")
    with pytest.raises(OverflowError, match="margin"):
        margin(np.array([0])).value(y)
    with pytest.raises(OverflowError, match="squared_error"):
        squared_error(-y)(y)


def test_rows_and_copies():
    y, labels, targets = _case(5)
    for made in (cross_entropy(labels), margin(labels), squared_error(targets)):
        assert isinstance(made, PerSample)
        for rows in (slice(1, 4), slice(None, None, 2)):
            np.testing.assert_array_equal(made.rows(rows)(y[rows]), made(y)[rows])
    made, before = cross_entropy(labels), labels.copy()
    labels[:] = 0
    np.testing.assert_array_equal(made.labels, before)


@pytest.mark.parametrize("make", [cross_entropy, margin])
@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [
        ([0, 1], TypeError, "NumPy or CuPy"),
        (np.zeros(3), TypeError, "integer dtype, got float64"),
        (np.zeros(3, bool), TypeError, "integer dtype, got bool"),
        (np.zeros((3, 1), int), ValueError, r"shape \(n,\)"),
        (np.zeros(0, int), ValueError, "not empty"),
        (np.array([0, -1]), ValueError, "at least 0, got -1 at index 1"),
    ],
)
def test_bad_labels(make, labels, error, match):
    with pytest.raises(error, match=match):
        make(labels)


@pytest.mark.parametrize("make", [cross_entropy, margin])
def test_labels_that_do_not_fit(make):
    made = make(np.array([0, 3, 1]))
    with pytest.raises(ValueError, match="below 3, got 3 at index 1"):
        made(np.zeros((3, 3)))
    with pytest.raises(ValueError, match="below 2, got 3"):
        made(np.zeros((3, 1)))
    with pytest.raises(ValueError, match="each of 4 samples, got 3"):
        made(np.zeros((4, 4)))
    with pytest.raises(ValueError, match="NaN"):
        made(np.full((3, 4), np.nan))
    with pytest.raises(TypeError, match="float32 or float64"):
        made(np.zeros((3, 4), int))
    with pytest.raises(ValueError, match=r"shape \(n, k\)"):
        made(np.zeros(3))


def test_bad_targets():
    with pytest.raises(TypeError, match="float32 or float64"):
        squared_error(np.zeros((3, 2), int))
    made = squared_error(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="shape"):
        made(np.zeros((3, 1)))
    with pytest.raises(TypeError, match="dtype float32"):
        made(np.zeros((3, 2), "float32"))


def test_labels_of_another_backend(monkeypatch):
    fakecupy.install(monkeypatch)
    with pytest.raises(MixedBackendError):
        cross_entropy(np.array([0]))(fakecupy.asarray(np.zeros((1, 2))))


# --- projections ----------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("make", [cross_entropy, margin])
def test_projections_by_labels(make, k):
    """The same as an array of cotangents, however the samples are cut."""
    case = problem(mlp((8,), k, b_std=0.1), (4,), n1=9)
    labels = np.random.default_rng(0).integers(max(2, k), size=9)
    sketch = GaussianSketch(40 + 9 * k, 16, seed=0)
    ct = make(labels)(case.net.forward(case.params, case.x1)[0])
    expected = project_jacobian(case.net, case.params, case.x1, sketch, cotangents=ct)
    for max_memory in (None, 2**16):
        found = project_jacobian(case.net, case.params, case.x1, sketch, cotangents=make(labels), max_memory=max_memory)
        assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("n_labels", [8, 10])
def test_a_wrong_number_of_labels_is_found_before_work(n_labels, monkeypatch):
    """Also where samples come in tiles, the last of which could not tell that labels are left."""
    case = problem(mlp((8,), 3), (4,), n1=9)
    monkeypatch.setattr(type(case.net), "forward", lambda *_: pytest.fail("a pass before the check"))
    with pytest.raises(ValueError, match=f"each of 9 samples, got {n_labels}"):
        project_jacobian(
            case.net, case.params, case.x1, GaussianSketch(56, 16, seed=0), cotangents=margin(np.zeros(n_labels, int))
        )
