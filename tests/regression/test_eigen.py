import numpy as np
import pytest
from helpers import assert_close

from ntkfast.errors import NotPositiveDefiniteError
from ntkfast.regression import decompose, k_fold, kernel_ridge, leave_one_out

REGS = (1e-3, 0.1, 3.0)


def without(problem, rows, reg, columns=slice(None)):
    """Predictions at `rows` of a fit without them."""
    rest = np.setdiff1d(np.arange(60), rows)
    system = problem.k[np.ix_(rest, rest)] + reg * np.eye(len(rest))
    return problem.k[np.ix_(rows, rest)] @ np.linalg.solve(system, problem.y[rest])[:, columns]


@pytest.mark.parametrize("overwrite", [False, True])
def test_decomposition_and_its_solutions(problem, overwrite):
    k = problem.k.copy()
    spectrum = decompose(k, overwrite=overwrite)
    assert_close((spectrum.eigenvectors * spectrum.eigenvalues) @ spectrum.eigenvectors.T, problem.k, 1e-13)
    assert overwrite or np.array_equal(k, problem.k)
    assert overwrite == np.shares_memory(k, spectrum.eigenvectors)
    for reg in REGS:
        expected = kernel_ridge(problem.k, problem.y, reg=reg).dual_coef
        assert_close(spectrum.solve(problem.y, reg).dual_coef, expected, 1e-11)


def test_leave_one_out_is_refitting_without_each_point(problem):
    choice = leave_one_out(problem.k, problem.y, regs=REGS)
    brute = {reg: np.concatenate([without(problem, [i], reg) for i in range(60)]) for reg in REGS}
    scores = [np.mean((brute[reg] - problem.y) ** 2) for reg in REGS]
    np.testing.assert_allclose(choice.scores, scores, rtol=1e-10)
    assert choice.regs == REGS
    assert choice.reg == REGS[int(np.argmin(scores))]
    assert_close(choice.held_out, brute[choice.reg], 1e-10)
    assert_close(choice.fit.dual_coef, kernel_ridge(problem.k, problem.y, reg=choice.reg).dual_coef, 1e-10)


@pytest.mark.parametrize("folds", [2, 7, 60, "labels"])
def test_k_fold_is_refitting_without_each_fold(problem, folds):
    labels = np.arange(60) % folds if isinstance(folds, int) else np.random.default_rng(1).integers(-2, 3, 60)
    choice = k_fold(problem.k, problem.y, regs=REGS, folds=folds if isinstance(folds, int) else labels)
    for reg, score in zip(REGS, choice.scores, strict=True):
        held_out = np.empty_like(problem.y)
        for label in np.unique(labels):
            rows = np.flatnonzero(labels == label)
            held_out[rows] = without(problem, rows, reg)
        assert score == pytest.approx(np.mean((held_out - problem.y) ** 2), rel=1e-10)
        if reg == choice.reg:
            assert_close(choice.held_out, held_out, 1e-10)


def test_every_backend(problem, backend):
    k, y = backend.asarray(problem.k), backend.asarray(problem.y[:, 0])
    spectrum = decompose(k)
    expected = leave_one_out(problem.k, problem.y[:, 0], regs=REGS)
    found = leave_one_out(spectrum, y, regs=REGS)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-11)
    assert backend.to_numpy(found.held_out).shape == (60,)
    np.testing.assert_allclose(k_fold(spectrum, y, regs=REGS, folds=60).scores, expected.scores, rtol=1e-10)


def test_accuracy_counts_the_largest_output(problem):
    y = np.eye(3)[problem.y.argmax(axis=1)] - 1 / 3
    choice = leave_one_out(problem.k, y, regs=REGS, scoring="accuracy")
    hits = [
        np.mean(np.concatenate([without(problem._replace(y=y), [i], reg) for i in range(60)]).argmax(1) == y.argmax(1))
        for reg in REGS
    ]
    np.testing.assert_allclose(choice.scores, hits)
    assert choice.scores[REGS.index(choice.reg)] == max(hits)


def test_equal_scores_choose_the_largest_ridge():
    choice = leave_one_out(np.eye(4), np.zeros(4), regs=[0.1, 10.0, 1.0])
    assert choice.reg == 10.0


def test_repeated_points_without_ridge_stay_finite(problem):
    rows = np.r_[np.arange(60), np.arange(5)]
    k, y = problem.k[np.ix_(rows, rows)], problem.y[rows]
    spectrum = decompose(k)
    fit = spectrum.solve(y, 0.0)
    assert_close(k @ fit.dual_coef, y, 1e-8)
    assert np.isfinite(leave_one_out(spectrum, y, regs=[0.0, 1.0]).scores).all()
    assert np.isfinite(k_fold(spectrum, y, regs=[0.0, 1.0], folds=5).scores).all()


def test_float32_agrees_with_float64(problem):
    double = leave_one_out(problem.k, problem.y, regs=REGS)
    single = leave_one_out(problem.k.astype("f4"), problem.y.astype("f4"), regs=REGS)
    assert single.held_out.dtype == np.float32
    np.testing.assert_allclose(single.scores, double.scores, rtol=1e-3)


def test_indefinite_and_zero_kernels_are_refused(problem):
    with pytest.raises(NotPositiveDefiniteError, match="eigenvalues from -"):
        decompose(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(NotPositiveDefiniteError, match="K = 0 and reg = 0"):
        decompose(np.zeros((3, 3))).solve(np.ones(3), 0.0)
    assert decompose(np.zeros((3, 3))).solve(np.ones(3), 2.0).dual_coef.tolist() == [0.5, 0.5, 0.5]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"regs": []}, ValueError, "at least one"),
        ({"regs": 0.1}, TypeError, "sequence"),
        ({"regs": [1.0, -1.0]}, ValueError, r"regs\[1\]"),
        ({"scoring": "f1"}, ValueError, "scoring to be one of accuracy, mse"),
        ({"folds": 1}, ValueError, "between 2 and 60"),
        ({"folds": 61}, ValueError, "between 2 and 60"),
        ({"folds": np.zeros(60, int)}, ValueError, "at least 2 folds"),
        ({"folds": np.zeros(5, int)}, ValueError, "integer NumPy array of shape"),
        ({"folds": np.zeros(60)}, ValueError, "integer NumPy array of shape"),
        ({"folds": 2.5}, TypeError, "integer"),
    ],
)
def test_bad_choices(problem, change, error, message):
    with pytest.raises(error, match=message):
        k_fold(problem.k, problem.y, **({"regs": REGS, "folds": 5} | change))


def test_one_output_has_no_accuracy_and_one_point_no_rest(problem):
    with pytest.raises(ValueError, match="k >= 2"):
        leave_one_out(problem.k, problem.y[:, 0], regs=REGS, scoring="accuracy")
    with pytest.raises(ValueError, match="at least 2 training points"):
        leave_one_out(np.eye(1), np.ones(1), regs=REGS)
