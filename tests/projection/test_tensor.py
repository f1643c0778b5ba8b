"""TensorProjection: the sketch of the Jacobian itself, its moments, its layout and its bits."""

import importlib
import itertools

import numpy as np
import pytest
from empirical.networks import NAMES, named, problem
from helpers import assert_close

from ntkfast.backends import get_backend
from ntkfast.empirical import empirical_ntk, jacobian
from ntkfast.layers import Conv2d, Dense, Embedding, Flatten, LayerNorm, Sequential
from ntkfast.projection import TensorProjection, project, project_jacobian
from ntkfast.projection._collector import Collector

ALGORITHMS = ("direct", "fft", "auto")


def both(case, sketch, **options):
    """The projection from factors, and the sketch of the Jacobian itself."""
    found = project_jacobian(case.net, case.params, case.x1, sketch, **options)
    return found, project(jacobian(case.net, case.params, case.x1), sketch, sample_axes=2)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
def test_the_direct_sketch_of_factors_has_the_bits_of_that_of_the_jacobian(name, combine):
    found, expected = both(named(name), TensorProjection(60, combine=combine, algorithm="direct", seed=3))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("algorithm", ["fft", "auto"])
@pytest.mark.parametrize("width", [60, 61])
def test_transforms_agree_with_the_sketch_of_the_jacobian(name, algorithm, width):
    found, expected = both(named(name), TensorProjection(width, algorithm=algorithm, seed=3))
    assert_close(found, expected, 1e-12)


@pytest.mark.parametrize("name", ["mlp", "cnn_groups", "resnet", "embedding"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_single_precision(name, algorithm):
    found, expected = both(named(name, dtype="float32"), TensorProjection(64, algorithm=algorithm, seed=3))
    assert found.dtype == np.float32
    assert_close(found, expected, 1e-5)


@pytest.mark.parametrize("name", ["mlp", "cnn_gap", "residual"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_chunks_do_not_show(name, algorithm, monkeypatch):
    """Chunks of samples, of positions and of tables, down to one of each."""
    case, sketch = named(name), TensorProjection(32, algorithm=algorithm, seed=1)
    whole = project_jacobian(case.net, case.params, case.x1, sketch)
    monkeypatch.setitem(importlib.import_module("ntkfast.projection.jacobian")._CHUNK, "numpy", 1)
    monkeypatch.setattr("ntkfast.projection.tensor._POSITIONS", 1)
    monkeypatch.setattr("ntkfast.projection.tensor._TABLE", 1)
    assert_close(project_jacobian(case.net, case.params, case.x1, sketch), whole, 1e-12)


def test_tiles_of_outer_products_never_show(monkeypatch):
    """One row of the weights at a time, a few, and all of them: the same bits."""
    case, sketch = named("mlp"), TensorProjection(8, algorithm="direct", seed=1)
    whole = project_jacobian(case.net, case.params, case.x1, sketch)
    monkeypatch.setattr("ntkfast.projection._streamed.TILE", {"numpy": 1})
    for widths in (0, 1, 4):
        monkeypatch.setattr("ntkfast.projection._streamed._WIDTHS", widths)
        np.testing.assert_array_equal(project_jacobian(case.net, case.params, case.x1, sketch), whole)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("vocabulary", "width"), [(1, 1), (2, 3), (40, 2)])
def test_repeated_tokens_are_added_in_the_order_of_positions(vocabulary, width, dtype):
    """Bits of the sketch of the Jacobian, also where one token fills all positions."""
    net = Sequential(Embedding(vocabulary, width), Flatten(), Dense(2))
    params, x = net.init((9,), seed=0, dtype=dtype), np.random.default_rng(0).integers(0, vocabulary, (5, 9))
    sketch = TensorProjection(16, seed=1, algorithm="direct")
    expected = project(jacobian(net, params, x), sketch, sample_axes=2)
    np.testing.assert_array_equal(project_jacobian(net, params, x, sketch), expected)


def test_the_hash_is_that_of_the_definition():
    """Every entry of a unit Jacobian goes to (h_1 + h_2) mod m, with sign s_1 s_2."""
    sketch = TensorProjection(8, seed=5)
    unit = np.eye(12).reshape(12, 4, 3)
    z = project({"w": unit}, sketch)
    assert (np.abs(z).sum(axis=1) == 1).all()
    bucket, sign = np.abs(z).argmax(axis=1).reshape(4, 3), z.sum(axis=1).reshape(4, 3)
    assert len({*((bucket - bucket[:1]) % 8 - ((bucket - bucket[:1]) % 8)[:, :1]).reshape(-1)}) == 1
    np.testing.assert_array_equal(sign * sign[:1] * sign[:, :1] * sign[0, 0], np.ones((4, 3)))


def test_axes_before_the_last_are_rows():
    """The sketch of a convolution's weight is that of its matrix (taps and inputs, outputs)."""
    jac = np.random.default_rng(0).standard_normal((2, 3, 3, 4, 5))
    sketch = TensorProjection(16, seed=0)
    np.testing.assert_array_equal(project({"w": jac}, sketch), project({"w": jac.reshape(2, 36, 5)}, sketch))


# --- moments -------------------------------------------------------------------------------------


def spread(a):
    return (a * a).sum() + np.trace(a @ a) - 2 * (np.diag(a) ** 2).sum()


def variance(x, y, m):
    """The formula of the docstring."""
    x2, y2, g = x * x, y * y, x * y
    diagonal = sum((x2.sum(a) * y2.sum(a)).sum() + (g.sum(a) ** 2).sum() for a in (0, 1)) - 2 * (g * g).sum()
    first = spread(x.T @ y) + spread(x @ y.T) + x2.sum() * y2.sum() + g.sum() ** 2 - diagonal
    second = ((x.T @ x) * (y.T @ y)).sum() + ((x @ x.T) * (y @ y.T)).sum() - diagonal
    return first / m + (2 - m % 2) * second / m**2


def enumerated(x, y, m):
    """Mean and variance of <S x, S y> over all hashes and signs."""
    (i, o), draws = x.shape, []
    signs_1, signs_2 = (np.array(list(itertools.product((1, -1), repeat=side))) for side in (i, o))
    for h in itertools.product(range(m), repeat=i + o):
        bucket = np.add.outer(h[:i], h[i:]) % m
        one_hot = np.eye(m)[bucket]  # (i, o, m)
        sx, sy = (np.einsum("pi,qo,io,iom->pqm", signs_1, signs_2, a, one_hot) for a in (x, y))
        draws.append((sx * sy).sum(axis=-1))
    draws = np.array(draws)
    return draws.mean(), draws.var()


@pytest.mark.parametrize(("i", "o", "m"), [(2, 2, 2), (2, 2, 3), (3, 2, 3), (2, 3, 2), (1, 3, 2)])
def test_mean_and_variance_over_all_hashes(i, o, m):
    """Exact: every hash and sign is tried."""
    x, y = np.random.default_rng(i + o + m).standard_normal((2, i, o))
    mean, spread_of_draws = enumerated(x, y, m)
    assert_close(mean, (x * y).sum(), 1e-12)
    assert_close(spread_of_draws, variance(x, y, m), 1e-12)
    assert variance(x, y, m) <= (6 + 2 * (2 - m % 2) / m) / m * (x * x).sum() * (y * y).sum()


@pytest.mark.stat
@pytest.mark.parametrize("combine", ["sum", "concatenate"])
def test_moments_over_seeds(combine):
    """R = 2000 seeds, two arrays: mean and variance within 6 standard errors, failure probability below 4e-9."""
    rng, draws = np.random.default_rng(0), []
    w, b = rng.standard_normal((2, 6, 5)), rng.standard_normal((2, 5))
    for seed in range(2000):
        z = project({"w": w, "b": b}, TensorProjection(16, combine=combine, seed=seed))
        draws.append(z[0] @ z[1])
    m = (8, 8) if combine == "concatenate" else (16, 16)
    expected = variance(*w, m[0]) + variance(*b[:, None], m[1])
    if combine == "sum":
        one, two = (w * w).sum((1, 2)), (b * b).sum(1)
        expected += (one[0] * two[1] + one[1] * two[0] + 2 * (w[0] * w[1]).sum() * (b[0] @ b[1])) / 16
    error = np.array(draws) - (w[0] * w[1]).sum() - b[0] @ b[1]
    kurtosis = (error**4).mean() / (error**2).mean() ** 2
    assert abs(error.mean()) < 6 * np.sqrt(expected / 2000)
    assert abs((error**2).mean() / expected - 1) < 6 * np.sqrt((kurtosis - 1) / 2000)


@pytest.mark.parametrize("name", ["mlp", "cnn_gap", "residual"])
def test_a_wide_sketch_comes_close_to_the_kernel(name):
    case = named(name)
    z = project_jacobian(case.net, case.params, case.x1, TensorProjection(2**15, seed=0))
    exact = empirical_ntk(case.net, case.params, case.x1, output="full")
    found = np.einsum("ikm,jlm->ijkl", z, z)
    assert np.linalg.norm(found - exact) < 0.1 * np.linalg.norm(exact)


# --- values --------------------------------------------------------------------------------------


def test_parts_depend_on_path_shape_width_and_seed_alone():
    rng = np.random.default_rng(0)
    w, b = rng.standard_normal((3, 4, 5)), rng.standard_normal((3, 5))
    both_arrays = project({"w": w, "b": b}, TensorProjection({"w": 8, "b": 4}, combine="concatenate", seed=0))
    alone = project({"w": w}, TensorProjection(8, seed=0))
    np.testing.assert_array_equal(both_arrays[:, :8], alone)
    assert not np.array_equal(alone, project({"v": w}, TensorProjection(8, seed=0)))
    assert not np.array_equal(alone, project({"w": w}, TensorProjection(8, seed=1)))


def test_sums_do_not_depend_on_the_order_of_arrival():
    rng = np.random.default_rng(0)
    arrays = {"a": rng.standard_normal((2, 4, 5)), "b": rng.standard_normal((2, 5)), "c": rng.standard_normal((2, 7))}
    sketch = TensorProjection(4, algorithm="direct", seed=0)
    case = project(arrays, sketch)
    plan = sketch._plan({path: array.shape[1:] for path, array in arrays.items()})
    for order in itertools.permutations(arrays):
        found = Collector(plan, 2, 1, get_backend(case), case.dtype)
        for path in order:
            found.add_jacobian(path, arrays[path][:, None])
        np.testing.assert_array_equal(found.result()[:, 0], case)


def test_layout():
    shapes = {"0.weight": (3, 4), "0.bias": (4,), "2.weight": (4, 2)}
    assert TensorProjection(8, seed=0).layout(shapes) == dict.fromkeys(shapes, slice(0, 8))
    even = TensorProjection(8, combine="concatenate", seed=0).layout(shapes)
    assert even == {"0.weight": slice(0, 3), "0.bias": slice(3, 6), "2.weight": slice(6, 8)}
    given = TensorProjection({"2.weight": 5, "0.weight": 2, "0.bias": 0}, combine="concatenate", seed=0).layout(shapes)
    assert given == {"0.weight": slice(0, 2), "2.weight": slice(2, 7)}


def test_values_are_equal_and_hash_equally():
    one, two = (
        TensorProjection(widths, combine="concatenate", seed=0) for widths in ({"a": 3, "b": 2}, {"b": 2, "a": 3})
    )
    assert one == two
    assert hash(one) == hash(two)
    assert eval(repr(one)) == one


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((0,), {}, "sketch_dim to be between 1"),
        ((2.5,), {}, "sketch_dim to be an integer"),
        (({"a": 3},), {}, "got widths by path"),
        (({"a": -1},), {"combine": "concatenate"}, r"sketch_dim\['a'\]"),
        (({"a": 0},), {"combine": "concatenate"}, "at least one width above 0"),
        (((("a", 3), ("a", 2)),), {"combine": "concatenate"}, "each path once"),
        ((8,), {"combine": "mean"}, "combine to be one of"),
        ((8,), {"algorithm": "fast"}, "algorithm to be one of"),
        ((8,), {"seed": -1}, "seed to be between"),
    ],
)
def test_bad_fields(arguments, options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        TensorProjection(*arguments, **{"seed": 0, **options})


@pytest.mark.parametrize(
    ("sketch_dim", "message"),
    [(1, "at least 2, one per array"), ({"w": 3}, "every parameter array"), ({"w": 3, "b": 1, "v": 1}, "got 'v'")],
)
def test_widths_that_do_not_fit(sketch_dim, message):
    with pytest.raises(ValueError, match=message):
        TensorProjection(sketch_dim, combine="concatenate", seed=0).layout({"w": (2, 3), "b": (3,)})


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_scales_of_several_axes(axes, algorithm):
    """A scale with several axes has rows as a matrix, but no outer products as factors."""
    net = Sequential(Conv2d(3, 2), LayerNorm(axes=axes), Flatten(), Dense(2))
    found, expected = both(problem(net, (4, 3, 2)), TensorProjection(40, algorithm=algorithm, seed=0))
    assert_close(found, expected, 1e-12)
