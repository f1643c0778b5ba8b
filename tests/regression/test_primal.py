import numpy as np
import pytest
from helpers import assert_close

from ntkfast.errors import NotPositiveDefiniteError
from ntkfast.regression import NormalEquations, kernel_ridge

RNG = np.random.default_rng(11)
PHI, Y = RNG.standard_normal((80, 7)) + 2.0, RNG.standard_normal((80, 3)) + 5.0
BLOCKS = [slice(0, 1), slice(1, 50), slice(50, 80)]


def gathered(phi=PHI, y=Y, blocks=BLOCKS, **options):
    equations = NormalEquations(**options)
    for block in blocks:
        equations.update(phi[block], y[block])
    return equations


def _one_output():
    return gathered(y=Y[:, 0]).decompose()


def solve_plainly(phi, y, reg, intercept):
    """Weights and intercept by one augmented least-squares problem."""
    ones = np.full((len(phi), int(intercept)), 1.0)
    design = np.hstack([phi, ones])
    penalty = np.sqrt(reg) * np.eye(7, design.shape[1])
    weights = np.linalg.lstsq(np.vstack([design, penalty]), np.vstack([y, np.zeros((7, y.shape[1]))]), rcond=None)[0]
    return weights[:7], weights[7] if intercept else np.zeros(y.shape[1])


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("reg", [0.0, 0.1, 100.0])
def test_is_penalized_least_squares(intercept, reg):
    weights, constant = solve_plainly(PHI, Y, reg, intercept)
    equations = gathered(intercept=intercept)
    for fit in (equations.solve(reg), equations.decompose().solve(reg)):
        assert_close(fit.weights, weights, 1e-11)
        assert_close(fit.intercept, constant, 1e-11)
        assert_close(fit.predict(PHI), PHI @ weights + constant, 1e-11)
    assert equations.n_rows == 80


@pytest.mark.parametrize("reg", [1e-3, 1.0])
def test_primal_is_dual(reg):
    fit = gathered().solve(reg)
    dual = kernel_ridge(PHI @ PHI.T, Y, reg=reg)
    assert_close(fit.weights, PHI.T @ dual.dual_coef, 1e-9)


@pytest.mark.parametrize("intercept", [False, True])
def test_blocks_and_merging_do_not_matter(intercept):
    whole = gathered(blocks=[slice(None)], intercept=intercept).solve(0.5)
    left = gathered(blocks=[slice(0, 33)], intercept=intercept)
    right = gathered(blocks=[slice(33, 60), slice(60, 80)], intercept=intercept)
    empty = NormalEquations(intercept=intercept)
    empty.merge(left)
    empty.merge(right)
    empty.merge(NormalEquations(intercept=intercept))
    for fit in (gathered(intercept=intercept).solve(0.5), empty.solve(0.5)):
        assert_close(fit.weights, whole.weights, 1e-12)
        assert_close(fit.intercept, whole.intercept, 1e-12)
    assert (left.n_rows, right.n_rows, empty.n_rows) == (33, 47, 80)


def test_large_means_do_not_cancel():
    shifted = gathered(phi=PHI + 1e7, intercept=True).solve(0.1)
    assert_close(shifted.weights, gathered(intercept=True).solve(0.1).weights, 1e-6)


def test_wide_rows_are_copied_in_pieces(monkeypatch):
    monkeypatch.setattr("ntkfast.regression.primal._COPY_BYTES", 8 * 7 * 9)  # nine rows
    assert_close(gathered(intercept=True).solve(0.1).weights, solve_plainly(PHI, Y, 0.1, True)[0], 1e-11)


def test_float64_sums_of_float32_rows():
    """Features that nearly depend on each other: float32 products cannot resolve the small eigenvalue."""
    phi = np.hstack([PHI, PHI[:, :1] + 1e-3 * RNG.standard_normal((80, 1))]).astype("f4")
    exact = kernel_ridge(phi.astype("f8") @ phi.T.astype("f8"), Y, reg=1e-6).dual_coef
    expected = phi.T.astype("f8") @ exact
    wide, narrow = (gathered(phi, Y.astype("f4"), dtype=dtype).solve(1e-6).weights for dtype in ("float64", None))
    assert wide.dtype == narrow.dtype == np.float32
    assert_close(wide, expected, 1e-4)
    assert np.abs(narrow - expected).max() > 10 * np.abs(wide - expected).max()


@pytest.mark.parametrize("intercept", [False, True])
def test_leave_one_out_is_refitting_without_each_row(intercept):
    regs = (1e-2, 1.0, 50.0)
    path = gathered(intercept=intercept).decompose()
    choice = path.leave_one_out([(PHI[b], Y[b]) for b in BLOCKS], regs=regs)
    for reg, score in zip(regs, choice.scores, strict=True):
        errors = []
        for i in range(80):
            rest = np.arange(80) != i
            weights, constant = solve_plainly(PHI[rest], Y[rest], reg, intercept)
            errors.append(PHI[i] @ weights + constant - Y[i])
        assert score == pytest.approx(np.mean(np.square(errors)), rel=1e-9)
    assert choice.reg == regs[int(np.argmin(choice.scores))]
    assert_close(choice.fit.weights, path.solve(choice.reg).weights, 1e-14)


def test_leave_one_out_accuracy_is_that_of_the_kernel():
    from ntkfast.regression import leave_one_out

    classes = np.eye(3)[RNG.integers(0, 3, 80)]
    dual = leave_one_out(PHI @ PHI.T, classes, regs=[0.1, 10.0], scoring="accuracy")
    path = gathered(y=classes).decompose()
    assert path.leave_one_out([(PHI, classes)], regs=[0.1, 10.0], scoring="accuracy").scores == dual.scores


def test_shapes_follow_the_targets():
    one = gathered(y=Y[:, 0], intercept=True)
    for fit in (one.solve(0.1), one.decompose().solve(0.1)):
        assert fit.weights.shape == (7,)
        assert fit.intercept.shape == ()
        assert fit.predict(PHI).shape == (80,)


def test_every_backend_and_dtype(backend):
    for dtype, rtol in ((np.float64, 1e-12), (np.float32, 1e-3)):
        phi, y = backend.asarray(PHI.astype(dtype)), backend.asarray(Y.astype(dtype))
        equations = gathered(phi, y, intercept=True)
        fit = equations.solve(0.1)
        assert str(fit.weights.dtype) == np.dtype(dtype).name
        assert_close(backend.to_numpy(fit.weights), solve_plainly(PHI, Y, 0.1, True)[0], rtol)
        path = equations.decompose()
        assert path.leave_one_out([(phi, y)], regs=[0.1]).fit.predict(phi).dtype == phi.dtype


def test_overwriting_empties_the_accumulator():
    equations = gathered()
    expected = equations.solve(0.1).weights
    assert_close(equations.solve(0.1, overwrite=True).weights, expected, 1e-14)
    assert equations.n_rows == 0
    with pytest.raises(ValueError, match="rows to have been gathered"):
        equations.solve(0.1)
    equations.update(PHI, Y)
    assert_close(equations.solve(0.1).weights, expected, 1e-11)


def test_dependent_features_take_a_jitter_and_an_empty_column_is_harmless():
    phi = np.hstack([PHI, PHI[:, :2], np.zeros((80, 1))])
    fit = gathered(phi=phi).solve(0.0)
    assert fit.jitter > 0
    assert_close(fit.predict(phi), gathered().solve(0.0).predict(PHI), 1e-5)
    with pytest.raises(NotPositiveDefiniteError):
        gathered(phi=phi).solve(0.0, max_jitter=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda e: e.update(PHI[:, :3], Y), ValueError, "as before"),
        (lambda e: e.update(PHI, Y[:, 0]), ValueError, "as before"),
        (lambda e: e.update(PHI.astype("f4"), Y.astype("f4")), ValueError, "as before"),
        (lambda e: e.update(PHI, Y[:4]), ValueError, "y of shape"),
        (lambda e: e.update(PHI[0], Y), ValueError, "phi of shape"),
        (lambda e: e.update(PHI * np.nan, Y), ValueError, "phi without NaN"),
        (lambda e: e.update(PHI, Y.astype("f4")), TypeError, "y of dtype"),
        (lambda e: e.solve(-1.0), ValueError, "reg"),
        (lambda e: e.merge(PHI), TypeError, "NormalEquations"),
        (lambda e: e.merge(NormalEquations(intercept=True)), ValueError, "same intercept"),
        (lambda e: e.merge(gathered(phi=PHI[:, :2])), ValueError, "as before"),
        (lambda e: e.decompose().leave_one_out([(PHI[:5], Y[:5])], regs=[1.0]), ValueError, "80 rows"),
        (lambda e: e.decompose().leave_one_out([(PHI[:, :5], Y)], regs=[1.0]), ValueError, "phi of shape"),
        (lambda e: e.decompose().leave_one_out([(PHI, Y[:, :1])], regs=[1.0]), ValueError, "as gathered"),
        (lambda e: e.decompose().leave_one_out([(PHI, Y)], regs=[1.0], scoring="r2"), ValueError, "scoring"),
        (lambda _: _one_output().leave_one_out([], regs=[1.0], scoring="accuracy"), ValueError, "k >= 2"),
        (lambda e: e.solve(1.0).predict(PHI[:, :2]), ValueError, "phi of shape"),
        (lambda _: NormalEquations(dtype="float16"), ValueError, "float64"),
    ],
)
def test_bad_input(call, error, message):
    equations = gathered()
    with pytest.raises(error, match=message):
        call(equations)
    assert equations.n_rows == 80
