"""Gram matrices and regression of projected gradients: dense formulas, and the kernel's side of the same problem."""

import tracemalloc

import fakecupy
import numpy as np
import pytest
from helpers import assert_close

from ntkfast.empirical import empirical_ntk, jacobian, linearize
from ntkfast.errors import MemoryBudgetError, MixedBackendError
from ntkfast.layers import Dense, Sequential, Tanh
from ntkfast.projection.regression import projected_ntk, projected_regression
from ntkfast.regression import kernel_ridge

RNG = np.random.default_rng(5)
OUTPUTS = ("trace", "diagonal", "full")
SUMS = {"trace": "npa,lpa->nl", "diagonal": "npa,lpa->nlp", "full": "npa,lqa->nlpq"}
# More features than rows, and fewer: (n, k, m).
SHAPES = {"wide": (7, 3, 40), "high": (30, 3, 5)}


def _phi(n, *shape, dtype="float64"):
    return RNG.standard_normal((n, *shape)).astype(dtype)


def _dense(phi1, phi2, output):
    kernel = np.einsum(SUMS[output], phi1.astype("f8"), phi2.astype("f8"))
    return kernel / phi1.shape[1] if output == "trace" else kernel


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("output", OUTPUTS)
def test_kernel_is_its_definition(output, dtype, backend):
    phi1, phi2 = _phi(9, 3, 17, dtype=dtype), _phi(4, 3, 17, dtype=dtype)
    rtol = {"float64": 1e-13, "float32": 1e-5}[dtype]
    for second in (phi2, None):
        got = projected_ntk(*(None if phi is None else backend.asarray(phi) for phi in (phi1, second)), output=output)
        assert got.dtype == dtype
        assert_close(backend.to_numpy(got), _dense(phi1, phi1 if second is None else phi2, output), rtol)


@pytest.mark.parametrize("n", [1, 5, 333])
@pytest.mark.parametrize("output", OUTPUTS)
def test_symmetric_to_the_bit(output, n):
    kernel = projected_ntk(_phi(n, 3, 50, dtype="float32"), output=output)
    swapped = {"trace": (1, 0), "diagonal": (1, 0, 2), "full": (1, 0, 3, 2)}[output]
    assert (kernel == kernel.transpose(swapped)).all()


@pytest.mark.parametrize("output", OUTPUTS)
def test_one_output_needs_no_axis(output):
    phi = _phi(8, 6)
    expected = (phi @ phi.T).reshape(projected_ntk(phi[:, None], output=output).shape)
    assert_close(projected_ntk(phi, output=output), expected, 1e-13)
    assert_close(projected_ntk(phi, phi[:3], output=output), expected[:, :3], 1e-13)


@pytest.fixture(scope="module")
def network():
    net = Sequential(Dense(16, b_std=0.3), Tanh(), Dense(3, b_std=0.1))
    params = net.init((4,), seed=0, dtype="float64")
    return net, params, RNG.standard_normal((9, 4)), RNG.standard_normal((5, 4))


def _jacobian(network, x):
    return np.concatenate([a.reshape(len(x), 3, -1) for a in jacobian(*network[:2], x).values()], axis=2)


@pytest.mark.parametrize("output", OUTPUTS)
def test_the_whole_jacobian_gives_the_empirical_ntk(network, output):
    net, params, x, new = network
    phi, phi_new = _jacobian(network, x), _jacobian(network, new)
    assert_close(projected_ntk(phi, output=output), empirical_ntk(net, params, x, output=output), 1e-12)
    assert_close(projected_ntk(phi_new, phi, output=output), empirical_ntk(net, params, new, x, output=output), 1e-12)


def test_full_regression_on_the_whole_jacobian_is_the_linearized_fit(network):
    net, params, x, new = network
    y = RNG.standard_normal((9, 3))
    expected = linearize(net, params).fit(x, y, reg=0.1).predict(new)
    fit = projected_regression(_jacobian(network, x), y - net.forward(params, x)[0], reg=0.1, output="full")
    assert_close(net.forward(params, new)[0] + fit.predict(_jacobian(network, new)), expected, 1e-10)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("targets", [(), (4,)], ids=["(n,)", "(n, 4)"])
def test_trace_regression_is_kernel_regression(shape, targets):
    phi, new, y = _phi(*shape), _phi(4, *shape[1:]), RNG.standard_normal((shape[0], *targets))
    fit = projected_regression(phi, y, reg=0.3)
    kernel = kernel_ridge(_dense(phi, phi, "trace"), y, reg=0.3)
    assert_close(fit.predict(new), kernel.predict(_dense(new, phi, "trace")), 1e-11)
    assert fit.weights.shape == (*shape[1:], *targets)
    assert fit.predict(new).shape == (4, *targets)
    assert (fit.reg, fit.jitter, fit.output) == (0.3, 0.0, "trace")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_full_regression_is_kernel_regression(shape):
    (n, k, m), (phi, new) = shape, (_phi(*shape), _phi(4, *shape[1:]))
    y = RNG.standard_normal((n, k))
    theta = _dense(phi, phi, "full").transpose(0, 2, 1, 3).reshape(n * k, n * k)
    dual = kernel_ridge(theta, y.reshape(-1), reg=0.3).dual_coef.reshape(n, k)
    fit = projected_regression(phi, y, reg=0.3, output="full")
    assert_close(fit.predict(new), np.einsum("nlpq,lq->np", _dense(new, phi, "full"), dual), 1e-11)
    assert fit.weights.shape == (m,)


@pytest.mark.parametrize("output", ["trace", "full"])
@pytest.mark.parametrize("n", [6, 50])
def test_one_output_is_ridge_regression(n, output):
    phi, y = _phi(n, 9), RNG.standard_normal((n, 2))
    weights = np.linalg.solve(phi.T @ phi + 0.2 * np.eye(9), phi.T @ y)
    for targets, expected in ((y, weights), (y[:, 0], weights[:, 0])):
        fit = projected_regression(phi, targets, reg=0.2, output=output)
        assert_close(fit.weights, expected, 1e-11)
        assert_close(fit.predict(phi), phi @ expected, 1e-11)


@pytest.mark.parametrize("output", ["trace", "full"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_blocks_are_the_whole(shape, output):
    phi, y = _phi(*shape), RNG.standard_normal((shape[0], 3))
    whole = projected_regression(phi, y, reg=0.3, output=output)
    cuts = (slice(0, 1), slice(1, 5), slice(5, None))
    blocks = projected_regression(((phi[c], y[c]) for c in cuts), reg=0.3, output=output)
    assert_close(blocks.weights, whole.weights, 1e-10)
    assert (blocks.shape, blocks.output, blocks.reg) == (whole.shape, output, 0.3)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_jitter_is_told_in_units_of_the_ridge(shape):
    """Twice the same samples, or twice the same columns: the kernel is singular, and reg=0 needs a jitter."""
    n, k, m = shape
    phi = _phi(n // 2, k, m).repeat(2, axis=0) if n < k * m else _phi(n, k, m // 2).repeat(2, axis=2)
    y = RNG.standard_normal(len(phi))
    fit = projected_regression(phi, y, reg=0.0)
    assert 0 < fit.jitter < 1e-6 * np.linalg.eigvalsh(projected_ntk(phi))[-1]
    assert_close(fit.predict(phi), projected_regression(phi, y, reg=fit.jitter).predict(phi), 1e-5)


def test_every_backend_and_dtype(backend):
    for dtype, rtol in (("float64", 1e-11), ("float32", 1e-4)):
        for shape in SHAPES.values():
            phi, y = _phi(*shape, dtype=dtype), RNG.standard_normal((shape[0], 3)).astype(dtype)
            for output in ("trace", "full"):
                expected = projected_regression(phi.astype("f8"), y.astype("f8"), reg=1.0, output=output).predict(
                    phi.astype("f8")
                )
                fit = projected_regression(backend.asarray(phi), backend.asarray(y), reg=1.0, output=output)
                got = fit.predict(backend.asarray(phi))
                assert got.dtype == dtype
                assert_close(backend.to_numpy(got), expected, rtol)
                pairs = [(backend.asarray(phi), backend.asarray(y))]
                assert_close(
                    backend.to_numpy(projected_regression(pairs, reg=1.0, output=output).predict(pairs[0][0])),
                    expected,
                    rtol,
                )


def test_memory_is_one_matrix():
    for n, d in ((300, 900), (900, 300)):
        phi, y = _phi(n, d), RNG.standard_normal(n)
        projected_regression(phi, y, reg=0.1)
        tracemalloc.start()
        try:
            projected_regression(phi, y, reg=0.1)
            used = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert used < 4.5 * 300 * 300 * 8  # the matrix, and the squares of `mirror`, which are not small here
        projected_regression(phi, y, reg=0.1, max_memory=300 * 300 * 8)
        with pytest.raises(MemoryBudgetError, match="720000 bytes"):
            projected_regression(phi, y, reg=0.1, max_memory=300 * 300 * 8 - 1)
    with pytest.raises(MemoryBudgetError, match="6480000 bytes"):
        projected_regression([(phi.T.copy(), y[:300])], reg=0.1, max_memory=10**6)


def test_range_is_kept_or_told():
    phi = _phi(5, 2, 3)
    with pytest.raises(OverflowError, match="the projected NTK"):
        projected_ntk(1e200 * phi)
    for shape in SHAPES.values():
        with pytest.raises(OverflowError):
            projected_regression(1e200 * _phi(*shape), np.ones(shape[0]), reg=1.0)
    assert not projected_ntk(0 * phi).any()
    assert not projected_regression(0 * phi, np.ones(5), reg=1.0).predict(phi).any()


PHI, Y = np.random.default_rng(0).standard_normal((6, 2, 4)), np.ones((6, 2))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: projected_ntk(PHI[0, 0]), ValueError, r"phi1 of shape \(n, m\) or \(n, k, m\)"),
        (lambda: projected_ntk(PHI[:0]), ValueError, "not empty"),
        (lambda: projected_ntk(PHI.tolist()), TypeError, "phi1 to be a NumPy or CuPy array, got list"),
        (lambda: projected_ntk(PHI.astype("f2")), TypeError, "phi1 of dtype float32 or float64, got float16"),
        (lambda: projected_ntk(PHI * np.nan), ValueError, "phi1 without NaN"),
        (lambda: projected_ntk(PHI, PHI[:, :1]), ValueError, r"phi2 of shape \(n, 2, 4\), not empty, got \(6, 1, 4\)"),
        (lambda: projected_ntk(PHI, PHI[:, 0]), ValueError, "phi2 of shape"),
        (lambda: projected_ntk(PHI, PHI.astype("f4")), TypeError, "phi2 of dtype float64, got float32"),
        (lambda: projected_ntk(PHI, output="mean"), ValueError, "output"),
        (lambda: projected_regression(PHI, Y, reg=-1.0), ValueError, "reg"),
        (lambda: projected_regression(PHI, Y, reg=1.0, output="diagonal"), ValueError, "output"),
        (lambda: projected_regression(PHI, Y[:4], reg=1.0), ValueError, r"y of shape \(6, 2\), got \(4, 2\)"),
        (lambda: projected_regression(PHI, Y[:, :0], reg=1.0), ValueError, "at least one target"),
        (lambda: projected_regression(PHI, Y[:, 0], reg=1.0, output="full"), ValueError, r"y of shape \(6, 2\)"),
        (lambda: projected_regression(PHI, Y[:, [0, 0, 0]], reg=1.0, output="full"), ValueError, "y of shape"),
        (lambda: projected_regression(PHI, Y.tolist(), reg=1.0), TypeError, "NumPy or CuPy array"),
        (lambda: projected_regression(PHI, Y.astype("f4"), reg=1.0), TypeError, "y of dtype float64"),
        (lambda: projected_regression(PHI, Y * np.inf, reg=1.0), ValueError, "y without NaN or inf"),
        (lambda: projected_regression(PHI, reg=1.0), TypeError, "pairs"),
        (lambda: projected_regression(3, reg=1.0), TypeError, "pairs"),
        (lambda: projected_regression([], reg=1.0), ValueError, "got none"),
        (lambda: projected_regression([PHI], reg=1.0), TypeError, r"blocks\[0\] to be a pair"),
        (lambda: projected_regression([(PHI, Y), (PHI[..., :3], Y)], reg=1.0), ValueError, r"shape \(2, 4\) .*\[1\]"),
        (lambda: projected_regression([(PHI, Y), (PHI, Y[:, 0])], reg=1.0), ValueError, "as before"),
        (lambda: projected_regression([(PHI, Y), (PHI, Y[:5])], reg=1.0), ValueError, r"blocks\[1\]: y of shape"),
        (lambda: projected_regression(PHI, Y, reg=1.0).predict(PHI[:, :1]), ValueError, r"phi of shape \(n, 2, 4\)"),
        (lambda: projected_regression(PHI, Y, reg=1.0).predict(PHI.astype("f4")), TypeError, "phi of dtype float64"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_backends_do_not_mix(monkeypatch):
    fakecupy.install(monkeypatch)
    with pytest.raises(MixedBackendError):
        projected_ntk(fakecupy.asarray(PHI), PHI)
    with pytest.raises(MixedBackendError):
        projected_regression(fakecupy.asarray(PHI), Y, reg=1.0)
