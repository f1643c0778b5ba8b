"""The public surface on device arrays: CuPy's where there is a GPU, and everywhere the strict stand-in for it.

A case is a function of ``put``, which makes an array of the backend, and of rows x, y and a target. Its results are
compared with those of NumPy arrays and must be arrays of the backend. What the stand-in refuses is in its module.
"""

import functools
import math

import numpy as np
import pytest
from helpers import assert_close

from ntkfast import features, nngp, nngp_and_ntk, ntk, regression, sketch
from ntkfast.analytic import expand, leaky_relu, ntk_hyperparameter_gradient, ntk_vjp
from ntkfast.errors import MixedBackendError
from ntkfast.zonal import zonal

N, D = 24, 7
REGS = [1e-2, 1.0]


def data():
    """Rows x (N, D), of which two agree, two are opposite and one is zero; y (9, D); targets (N, 2)."""
    rng = np.random.default_rng(3)
    x, y, target = rng.standard_normal((N, D)), rng.standard_normal((9, D)), rng.standard_normal((N, 2))
    x[1], x[2], x[5] = x[0], -x[0], 0
    return x, y, target


def kernels(put, **network):
    """Asymmetric, symmetric and diagonal kernels, in one tile and in several."""
    x, y, _ = map(put, data())
    tiles = {"max_memory": 8192}
    return (
        nngp_and_ntk(x, y, **network),
        nngp_and_ntk(x, **network),
        ntk(x, **network, diagonal=True),
        nngp(x, y, **network, **tiles),
        ntk(x, **network, **tiles),
    )


def gradients(put, **network):
    x, y, _ = map(put, data())
    x = x[6:]  # no kinks, where rounding decides on the direction
    cross, own = put(np.ones((N - 6, 9))), put(np.ones((N - 6, N - 6)))
    return (
        ntk_vjp(x, y, cross, **network),
        ntk_vjp(x, None, own, **network, kind="nngp", max_memory=30_000),
        ntk_hyperparameter_gradient(x, y, **network),
        ntk_hyperparameter_gradient(x, **network, kind="nngp"),
    )


def feature_map(put, make, **settings):
    x = put(data()[0])
    phi = make(D, 40, **settings, seed=0)
    z = phi(x)
    return z, phi(x, max_memory=2**18), phi.kernel(x), phi.kernel(x, x[:3]), phi.vjp(x, z)


def landmarks(put):
    """The landmarks may depend on rounding, so they are given here; `nystroem` follows."""
    x = put(data()[0][6:])
    phi = features.NystroemFeatures(x[:8], depth=2)
    drawn = features.nystroem(x, 10, depth=2, b_std=0.1, seed=0)
    return phi(x), phi.vjp(x, phi(x)), drawn(x) @ drawn(x).T


def pivots(put):
    k = ntk(put(data()[0]), depth=1)
    found = features.random_pivoted_cholesky(k, 6, seed=1, block_size=4)
    return found.pivots, found.factor


def sizes(put):
    phi, x = features.OnePassFeatures(D, 64, depth=2, seed=0), put(data()[0])
    error = features.gram_error(phi, x, n_rows=10, seed=1)
    return error.error, error.standard_error, features.suggest_n_features(phi, x, error=0.2).n_features


def nugget(put):
    return features.NTKPolynomialSketch(D, 16, depth=2, seed=0).nugget(put(data()[0]))


def functions_of_the_angle(put):
    t = put(np.linspace(0, math.pi, 9))
    function = zonal(3, activation="leaky_relu")
    return function.of_angle(t), function.derivative(t), function.of_cosine(put(np.linspace(-1, 1, 9)))


def linear_sketch(put, make):
    x, s = put(data()[0]), make(D, 5, seed=2)
    parts = (s.apply_part(x[:, :3], 0), s.apply_part(x[:, 3:], 3)) if hasattr(s, "apply_part") else ()
    return s.apply(x), s.adjoint(s.apply(x)), *parts


def tensor_sketch(put, make):
    x, s = put(data()[0]), make((D, D), 8, seed=2)
    z = s.apply(x, x)
    return z, s.vjp((x, x), z)


def powers(put):
    x, s = put(data()[0]), sketch.PolySketch(D, 3, 4, seed=2)
    return s.apply(x), s.vjp(x, s.apply(x))


def problem(put, first=6):
    """Kernel of training rows, of other rows with them, its diagonal at those, and targets.

    From row 6 on no two agree, so that no eigenvalue is rounding error.
    """
    x, y, target = data()
    x, y, target = put(x[first:]), put(y), put(target[first:])
    return ntk(x, depth=2), ntk(y, x, depth=2), ntk(y, depth=2, diagonal=True), target


def ridge(put):
    k, cross, _, target = problem(put, first=0)
    factor = regression.factorize(k, reg=0.1)
    jittered = regression.factorize(k, reg=0.0)  # of two equal rows
    fit = regression.kernel_ridge(k, target[:, 0].copy(), reg=0.1)
    return fit.predict(cross), factor.solve(target), factor.log_determinant(), jittered.jitter


def choices(put):
    k, _, _, target = problem(put)
    spectrum = regression.decompose(k)
    options = {"regs": REGS, "scoring": "accuracy"}
    found = regression.leave_one_out(spectrum, target, **options), regression.k_fold(k, target, **options, folds=3)
    groups = regression.k_fold(spectrum, target, regs=REGS, folds=np.arange(N - 6) % 4)
    return [(c.held_out, c.scores, c.fit.dual_coef) for c in (*found, groups)], spectrum.solve(target, 0.3).dual_coef


def flow(put):
    k, cross, diagonal, target = problem(put)
    solved = regression.gradient_flow(k, target, loss="mean", initial=target * 0.1)
    times = [0.0, 3.0, 50.0]
    ensemble = solved.ensemble(cross, k, cross, diagonal, times)
    return solved.dual_coef(times), solved.predict(cross, times), solved.train(times), ensemble


def process(put):
    k, cross, diagonal, target = problem(put)
    found = regression.gaussian_process(k, target, reg=0.2)
    covariance = found.covariance(cross, ntk(put(data()[1]), depth=2))
    return found.mean(cross), found.variance(cross, diagonal), covariance, found.log_marginal_likelihood


def iterations(put):
    x, y, target = map(put, data())
    kernel = functools.partial(ntk, depth=2)
    kept, anew = (regression.KernelOperator(kernel, x, cache=cache, max_memory=6000) for cache in (True, False))
    conditioner = regression.random_preconditioner(kept, reg=0.1, rank=8, seed=0)
    first = regression.conjugate_gradient(kept, target, reg=0.1, preconditioner=conditioner, rtol=1e-12)
    start = first.dual_coef * 0.9
    second = regression.conjugate_gradient(anew, target, reg=0.1, start=start, rtol=1e-12, max_iterations=400)
    predicted = anew.predict(y, first.dual_coef, max_memory=6000)
    return first.dual_coef, second.dual_coef, predicted, kept.diagonal(), anew.block(None, put(np.arange(3)))


def single_precision(put):
    """Products of tiles in float32, with residuals in float64."""
    x, _, target = map(put, data())
    operator = regression.KernelOperator(functools.partial(ntk, depth=2), x, dtype="float32")
    product = operator @ target
    return product, regression.conjugate_gradient(operator, target[:, 0].copy(), reg=1.0, rtol=1e-10).dual_coef


def normal_equations(put, **options):
    x, _, target = map(put, data())
    first, second = (regression.NormalEquations(**options) for _ in range(2))
    first.update(x[:10], target[:10])
    second.update(x[10:], target[10:])
    first.merge(second)
    path = first.decompose()
    choice = path.leave_one_out([(x[:7], target[:7]), (x[7:], target[7:])], regs=REGS)
    return first.solve(0.1).predict(x), path.solve(0.2).weights, choice.scores, choice.fit.intercept


def single_process(put):
    """Everything once in float32."""
    x, y, target = (put(a.astype(np.float32)) for a in data())
    phi = features.OnePassFeatures(D, 32, depth=3, seed=0)
    k = ntk(x, depth=3, b_std=0.1)
    fit = regression.kernel_ridge(k, target, reg=1.0)
    general = nngp(4 * x, y, depth=2, activation="erf", W_std=3.0)
    return phi(x), fit.predict(ntk(y, x, depth=3, b_std=0.1)), general, phi.vjp(x, phi(x))


NETWORKS = {
    "relu": {"depth": 3},
    "relu with biases": {"depth": 3, "b_std": 0.2},
    "leaky relu": {"depth": 2, "activation": leaky_relu(0.3)},
    "hermite": {"depth": 2, "activation": expand(lambda z: z * abs(z) * 0.2, degree=8, nodes=24, tolerance=1.0)},
    **{name: {"depth": 2, "W_std": 0.9, "b_std": 0.1, "activation": name} for name in ("abs", "erf", "gelu", "sin")},
    **{name: {"depth": 1, "W_std": 0.5, "activation": name} for name in ("cos", "gaussian", "exp")},
}
MAPS = {
    "one pass": (features.OnePassFeatures, {"depth": 3}),
    "one pass hadamard": (features.OnePassFeatures, {"depth": 2, "kind": "nngp", "projection": "hadamard"}),
    "steps": (features.ArcCosineFeatures, {"order": 0}),
    "rectified": (features.ArcCosineFeatures, {"order": 1, "sampling": "leverage"}),
    "random features": (features.NTKRandomFeatures, {"depth": 2}),
    "random features fft": (features.NTKRandomFeatures, {"depth": 2, "product": "tensor_sketch"}),
    "recursive sketch": (features.NTKSketch, {"depth": 2, "degree": 3}),
    "polynomial sketch": (features.NTKPolynomialSketch, {"depth": 2, "degree": 3}),
}
LINEAR = (sketch.CountSketch, sketch.SparseJL, sketch.SRHT, sketch.GaussianSketch, sketch.RademacherSketch)
PLAIN = (landmarks, pivots, sizes, nugget, functions_of_the_angle, powers, ridge, choices, flow, process, iterations)
CASES = {
    **{f"kernels of {name}": functools.partial(kernels, **network) for name, network in NETWORKS.items()},
    **{f"gradients of {name}": functools.partial(gradients, **network) for name, network in NETWORKS.items()},
    **{name: functools.partial(feature_map, make=make, **rest) for name, (make, rest) in MAPS.items()},
    **{make.__name__: functools.partial(linear_sketch, make=make) for make in LINEAR},
    **{make.__name__: functools.partial(tensor_sketch, make=make) for make in (sketch.TensorSketch, sketch.TensorSRHT)},
    **{case.__name__.replace("_", " "): case for case in (*PLAIN, single_precision, single_process)},
    "normal equations": normal_equations,
    "normal equations with intercept": functools.partial(normal_equations, intercept=True, dtype="float64"),
}
# What a product in float32 loses depends on its order of summation; ridges amplify it.
LOOSE = {"single process": 1e-3, "single precision": 1e-3}


def leaves(result):
    """Arrays and numbers of nested tuples, lists and records."""
    if isinstance(result, (tuple, list)):
        return [leaf for item in result for leaf in leaves(item)]
    return [] if result is None else [result]


on_devices = pytest.mark.parametrize(
    "backend", ["fake-cupy", pytest.param("cupy-cuda", marks=pytest.mark.gpu)], indirect=True
)


@on_devices
@pytest.mark.parametrize("case", CASES.values(), ids=[name.replace(" ", "-") for name in CASES])
def test_agrees_with_numpy_and_stays_on_the_device(case, backend):
    got, expected = leaves(case(backend.asarray)), leaves(case(np.asarray))
    name = next(name for name, value in CASES.items() if value is case)
    kind = type(backend.asarray(np.zeros(1)))
    for found, b in zip(got, expected, strict=True):
        assert isinstance(found, kind) == isinstance(b, np.ndarray), f"got {type(found)} where NumPy gives {type(b)}"
        a = backend.to_numpy(found) if isinstance(b, np.ndarray) else np.float64(found)
        assert (a.shape, a.dtype) == (np.shape(b), getattr(b, "dtype", "float64"))
        assert_close(np.atleast_1d(a), np.atleast_1d(b), LOOSE.get(name, 1e-9))


@on_devices
def test_bad_values_are_named_by_their_place(backend):
    x = data()[0]
    x[3, 4] = np.nan
    with pytest.raises(ValueError, match=r"x1 without NaN or inf, got nan at index \(3, 4\)"):
        ntk(backend.asarray(x), depth=1)


@on_devices
def test_arrays_of_two_backends_are_refused(backend):
    x, y, _ = data()
    with pytest.raises(MixedBackendError, match="cupy and numpy"):
        ntk(backend.asarray(x), y, depth=1)
    phi = features.OnePassFeatures(D, 16, depth=1, seed=0)
    with pytest.raises(MixedBackendError):
        phi.vjp(backend.asarray(x), phi(x))
