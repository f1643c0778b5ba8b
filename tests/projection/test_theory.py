"""suggest_dim: the bounds that it inverts, the constants in them, and the promise itself."""

import itertools
import math

import numpy as np
import pytest

from ntkfast import projection, sketch
from ntkfast.projection import TensorProjection
from ntkfast.projection.theory import suggest_dim
from ntkfast.sketch import SRHT, CountSketch, GaussianSketch, RademacherSketch, SparseJL

LINEAR = {"GaussianSketch": GaussianSketch, "RademacherSketch": RademacherSketch, "CountSketch": CountSketch,
          "SparseJL": SparseJL, "SRHT": SRHT}  # fmt: skip
WORST = dict.fromkeys([*LINEAR, "BlockSRHT"], (2, 0)) | {"TensorProjection": (6, 4)}


def _bound(name, m, eps, delta):
    """The probability of a larger error that theory gives, over delta."""
    a, b = WORST[name]
    bound = (a + b / m) / m / eps**2
    if name in ("GaussianSketch", "RademacherSketch"):
        e = min(eps, 1.0)
        bound = min(bound, 4 * math.exp(-m * (e**2 / 4 - e**3 / 6)))
    return bound / delta


@pytest.mark.parametrize("name", WORST)
@pytest.mark.parametrize("eps", [0.05, 0.3, 0.99, 1.0, 1.4, 3.0])
@pytest.mark.parametrize("delta", [1e-3, 0.1, 0.9])
def test_is_the_smallest_width_of_the_bounds(name, eps, delta):
    for n_pairs in (1, 50):
        m = suggest_dim(eps, delta, sketch=name, n_pairs=n_pairs)
        step = 4 if name == "SparseJL" else 1
        assert m % step == 0
        assert _bound(name, m, eps, delta / n_pairs) <= 1 + 1e-9
        assert m == step or _bound(name, m - step, eps, delta / n_pairs) > 1 - 1e-9


def test_classes_and_names_are_the_same():
    for name, kind in (LINEAR | {"TensorProjection": TensorProjection}).items():
        assert suggest_dim(0.2, 0.05, sketch=kind) == suggest_dim(0.2, 0.05, sketch=name)
    assert suggest_dim(0.2, 0.05) == suggest_dim(0.2, 0.05, sketch=TensorProjection)


def test_names_are_those_of_classes():
    """A renamed class would lose its promise without a sound."""
    for name in WORST:
        assert hasattr(sketch, name) or hasattr(projection, name)


@pytest.mark.parametrize("name", ["KroneckerProjection", "MaskedProjection", "CoordinateMask", "Composition"])
def test_no_promise_by_width_alone(name):
    with pytest.raises(ValueError, match=rf"{name}.*shapes of the arrays.*projection_error"):
        suggest_dim(0.1, 0.1, sketch=name)
    if hasattr(projection, name):
        with pytest.raises(ValueError, match="projection_error"):
            suggest_dim(0.1, 0.1, sketch=getattr(projection, name))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "match"),
    [
        ((0.0, 0.1), {}, ValueError, "eps"),
        ((float("nan"), 0.1), {}, ValueError, "eps"),
        (("0.1", 0.1), {}, TypeError, "eps"),
        ((0.1, 0.0), {}, ValueError, "delta"),
        ((0.1, 1.0), {}, ValueError, "between 0 and 1, got 1"),
        ((0.1, 0.1), {"n_pairs": 0}, ValueError, "n_pairs"),
        ((0.1, 0.1), {"n_pairs": 10**400}, ValueError, "n_pairs"),
        ((0.1, 0.1), {"sketch": "FFT"}, ValueError, "one of GaussianSketch"),
        ((0.1, 0.1), {"sketch": int}, ValueError, "got 'int'"),
        ((0.1, 0.1), {"sketch": CountSketch(4, 4, seed=0)}, TypeError, "class of sketches"),
        ((1e-5, 0.1), {}, ValueError, "2147483647 columns"),
        ((1e-200, 1e-200), {"sketch": GaussianSketch}, ValueError, "columns"),
    ],
)
def test_bad_input(arguments, options, error, match):
    with pytest.raises(error, match=match):
        suggest_dim(*arguments, **options)


def test_large_errors_need_one_column():
    for name in WORST:
        assert suggest_dim(1e200, 0.5, sketch=name) == (4 if name == "SparseJL" else 1)


# --- the constants --------------------------------------------------------------------------------


def _covariance(i, o, m):
    """Second moments of the error for all hashes: E[C C^T] with C[p q] = [p != q meet] sign_p sign_q, p = (a, b)."""
    hashes = itertools.product(itertools.product(range(m), repeat=i), itertools.product(range(m), repeat=o))
    signs = list(itertools.product((-1, 1), repeat=i + o))
    total, count = 0, 0
    for h1, h2 in hashes:
        bucket = (np.add.outer(h1, h2) % m).ravel()
        meet = (bucket[:, None] == bucket) & ~np.eye(i * o, dtype=bool)
        for s in signs:
            sign = np.outer(s[:i], s[i:]).ravel()
            entries = (meet * np.outer(sign, sign)).ravel()
            total, count = total + np.outer(entries, entries), count + 1
    return total / count


@pytest.mark.parametrize(("shape", "m"), [((2, 2), 1), ((2, 2), 2), ((2, 2), 3), ((2, 3), 2), ((2, 2), 4)])
def test_no_gradients_have_more_variance_than_the_tensor_bound(shape, m):
    """All hashes and signs enumerated; X and Y by alternating maximization, from random starts."""
    second = _covariance(*shape, m)
    p, rng, most = math.prod(shape), np.random.default_rng(0), 0.0
    for _ in range(20):
        x = rng.standard_normal(p)
        for _ in range(50):  # the best Y of this X, then the best X of that Y: top eigenvectors
            form = np.einsum("i,iqjr,j->qr", x, second.reshape(p, p, p, p), x)
            values, vectors = np.linalg.eigh((form + form.T) / 2)
            most, x = max(most, values[-1] / (x @ x)), vectors[:, -1]
    assert 0 < most <= (6 + 4 / m) / m
    if m == 2:
        assert most > 2 / m  # more than independent hashes have


@pytest.mark.stat
def test_the_tensor_bound_is_nearly_attained():
    """Flat gradients of rank one, 32 x 32, m = 32, R = 1000 seeds: mean squared error above half of its value.

    The value, 6 / m + 4 / m^2 but for terms of 1 / 32, is three times that of independent hashes. Squares are
    nonnegative, so P(mean < value / 2) <= exp(-R (1/2)^2 / (2 K)) by Bernstein's inequality, with the kurtosis K of the
    error, measured as 7.3: below 1e-7 for K = 7.3, below 1e-6 for K <= 9.
    """
    d, m = 32, 32
    x = np.full((1, d, d), 1 / d)
    errors = []
    for seed in range(1000):
        part = TensorProjection(m, seed=seed)._plan({"w": (d, d)}).parts["w"]
        errors.append(float((part.of_jacobian(x) ** 2).sum()) - 1)
    rest = 1 - 1 / d
    value = (4 * rest + 2 * rest**2) / m + 4 * rest**2 / m**2
    assert np.mean(np.square(errors)) > value / 2
    assert 0.9 * (6 + 4 / m) / m < value < (6 + 4 / m) / m


# --- the promise ----------------------------------------------------------------------------------

EPS, DELTA, R = 0.5, 0.1, 300

# P(Bin(300, 0.1) > 61) < 1e-7; four pairs of vectors have four times that.
MOST = 61


def _hard_pairs(p):
    """Pairs of vectors on which sketches do badly: flat and equal, two coordinates, random, opposite."""
    rng = np.random.default_rng(0)
    flat, two = np.ones(p), np.zeros(p)
    two[[0, p // 2]] = 1
    return [(flat, flat), (two, two), (flat, -flat), tuple(rng.standard_normal((2, p)))]


def _violations(apply, pairs):
    """How many seeds break the promise, for each pair."""
    broken = np.zeros(len(pairs), int)
    for seed in range(R):
        for number, (x, y) in enumerate(pairs):
            sx, sy = apply(np.stack([x, y]), seed)
            broken[number] += abs(sx @ sy - x @ y) > EPS * np.linalg.norm(x) * np.linalg.norm(y)
    return broken


@pytest.mark.stat
@pytest.mark.parametrize("name", LINEAR)
def test_the_promise_holds(name):
    """At most 61 of R = 300 seeds violate, for each of 4 pairs, what may have a probability of 0.1: P(more) < 1e-6."""
    m = suggest_dim(EPS, DELTA, sketch=name)
    assert _violations(lambda x, seed: LINEAR[name](96, m, seed=seed).apply(x), _hard_pairs(96)).max() <= MOST


@pytest.mark.stat
def test_a_twentieth_of_the_width_breaks_it():
    """That the count above can fail: signs with a twentieth of the width violate it for more than 61 of R = 300 seeds.

    m = 4, and four times the squared norm of a flat vector's sketch is about chi-squared with 4 degrees of freedom:
    outside (2, 6) with a probability of 0.46. Were it only 0.4, P(Bin(300, 0.4) <= 61) < 1e-11.
    """
    m = suggest_dim(EPS, DELTA, sketch=RademacherSketch) // 20
    apply = lambda x, seed: RademacherSketch(96, m, seed=seed).apply(x)  # noqa: E731
    assert _violations(apply, _hard_pairs(96)[:1]).max() > MOST


@pytest.mark.stat
def test_the_promise_holds_for_tensors():
    """As above, with arrays of rank one, flat and random, and one of two arrays that are added."""
    m = suggest_dim(EPS, DELTA)
    shapes = {"a": (8, 8), "b": (4, 8)}

    def apply(x, seed):
        parts = TensorProjection(m, seed=seed)._plan(shapes).parts
        first, second = (np.ascontiguousarray(part) for part in np.split(x, [64], axis=1))
        return parts["a"].of_jacobian(first.reshape(-1, 8, 8)) + parts["b"].of_jacobian(second.reshape(-1, 4, 8))

    assert _violations(apply, _hard_pairs(96)).max() <= MOST
