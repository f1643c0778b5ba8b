"""The linear datamodeling score: SciPy's correlation, known truths, and attribution of a model that is retrained."""

import fakecupy
import numpy as np
import pytest
from helpers import assert_close
from scipy.stats import spearmanr
from sklearn.datasets import load_digits

from ntkfast.errors import MixedBackendError
from ntkfast.layers import Dense
from ntkfast.projection.attribution import attribution, average_attributions
from ntkfast.projection.cotangents import cross_entropy, margin
from ntkfast.projection.datamodeling import linear_datamodeling_score
from ntkfast.projection.jacobian import project_jacobian
from ntkfast.projection.kronecker import KroneckerProjection

RNG = np.random.default_rng(2)
MASKS = RNG.random((30, 50)) < 0.5
SCORES = RNG.standard_normal((6, 50))
SUMS = MASKS @ SCORES.T
NOISY = SUMS + 5 * RNG.standard_normal(SUMS.shape)


def _spearman(predictions, outputs):
    return np.array([spearmanr(a, b).statistic for a, b in zip(predictions.T, outputs.T, strict=True)])


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_is_spearmans_correlation(dtype, backend):
    given = [backend.asarray(array.astype(dtype)) for array in (SCORES, NOISY)]
    found = linear_datamodeling_score(given[0], backend.asarray(MASKS), given[1])
    expected = _spearman(SUMS, NOISY)
    assert_close(backend.to_numpy(found.per_test), expected, 1e-13)
    assert found.score == pytest.approx(expected.mean(), rel=1e-13)
    assert found.n_subsets == 30


def test_equal_values_share_the_mean_of_their_ranks():
    outputs, scores = NOISY.round(-1), SCORES.round()
    assert len(np.unique(outputs)) < 15
    assert_close(
        linear_datamodeling_score(scores, MASKS, outputs).per_test, _spearman(MASKS @ scores.T, outputs), 1e-13
    )


def test_standard_error_is_the_jackknife():
    means = []
    for group in range(8):
        rest = np.arange(30) % 8 != group
        means.append(_spearman(SUMS[rest], NOISY[rest]).mean())
    expected = np.sqrt(7 / 8 * np.square(means - np.mean(means)).sum())
    assert linear_datamodeling_score(SCORES, MASKS, NOISY).standard_error == pytest.approx(expected, rel=1e-10)


@pytest.mark.stat
def test_standard_error_covers_the_choice_of_subsets():
    """Noise as outputs, whose score is 0 in the mean: median |score| / standard error in (0.1, 3) of R = 60 draws.

    Draws are independent. If one lies beyond either end with a probability of at most 1/5, 30 of 60 do with
    P(Bin(60, 1/5) >= 30) < 3e-7 for each end. (For a t variable of 7 degrees of freedom the probabilities are 0.08 and
    0.02.)
    """
    rng, ratios = np.random.default_rng(0), []
    for _ in range(60):
        masks, scores = rng.random((24, 30)) < 0.5, rng.standard_normal((5, 30))
        found = linear_datamodeling_score(scores, masks, rng.standard_normal((24, 5)))
        ratios.append(abs(found.score) / found.standard_error)
    assert 0.1 < np.median(ratios) < 3


def test_linear_datamodels_have_score_one():
    found = linear_datamodeling_score(SCORES, MASKS, SUMS + np.arange(6.0))
    assert (found.score, found.standard_error) == (1.0, 0.0)
    assert linear_datamodeling_score(SCORES, MASKS, -SUMS).score == -1.0


@pytest.mark.stat
def test_noise_has_score_zero():
    """R = 400 test samples with independent outputs: |score| < 0.06.

    Given the predictions, all orders of the S = 50 outputs are equally likely, so that the correlations are
    independent, within [-1, 1], of mean 0 and variance 1 / 49. Bernstein's inequality: 2 exp(-17.8) < 4e-8.
    """
    rng = np.random.default_rng(1)
    scores, masks = rng.standard_normal((400, 30)), rng.random((50, 30)) < 0.5
    found = linear_datamodeling_score(scores, masks, rng.standard_normal((50, 400)))
    assert abs(found.score) < 0.06
    assert 0.8 < found.per_test.std() * 7 < 1.2


def test_only_the_order_counts():
    expected = linear_datamodeling_score(SCORES, MASKS, NOISY)
    found = linear_datamodeling_score(SCORES, MASKS, np.exp(NOISY / 10))
    assert (found.per_test == expected.per_test).all()
    order = RNG.permutation(30)
    assert_close(linear_datamodeling_score(SCORES, MASKS[order], NOISY[order]).per_test, expected.per_test, 1e-14)


def test_lists_of_indices_are_masks(backend):
    expected = linear_datamodeling_score(SCORES, MASKS, NOISY)
    lists = [np.flatnonzero(mask) for mask in MASKS]
    scores, outputs = backend.asarray(SCORES), backend.asarray(NOISY)
    for subsets in (lists, [list(map(int, subset)) for subset in lists]):
        found = linear_datamodeling_score(scores, subsets, outputs)
        assert (backend.to_numpy(found.per_test) == expected.per_test).all()
        assert (found.score, found.standard_error) == (expected.score, expected.standard_error)
    square = np.argsort(RNG.random((4, 50)))[:, :20]
    same = np.zeros((4, 50), bool)
    np.put_along_axis(same, square, True, axis=1)
    results = [linear_datamodeling_score(SCORES, subsets, NOISY[:4]).score for subsets in (square, same)]
    assert results[0] == results[1]


def test_blocks_do_not_matter(monkeypatch):
    expected = linear_datamodeling_score(SCORES, MASKS, NOISY)
    monkeypatch.setattr("ntkfast.projection.datamodeling._RANKED", 70)
    monkeypatch.setattr("ntkfast.projection.datamodeling._MASK_BYTES", 8 * 30 * 7)
    found = linear_datamodeling_score(SCORES, MASKS, NOISY)
    assert (found.per_test == expected.per_test).all()
    assert found.standard_error == expected.standard_error


def test_what_has_no_order_has_no_correlation():
    outputs = NOISY.copy()
    outputs[:, 2] = 7.0
    found = linear_datamodeling_score(SCORES * (np.arange(6) != 4)[:, None], MASKS, outputs)
    assert (found.per_test[[2, 4]] == 0).all()
    assert (found.per_test[[0, 1, 3, 5]] != 0).all()
    extremes = linear_datamodeling_score(SCORES[:1], MASKS[:3], np.array([[-1.7e308], [1.7e308], [0.0]]))
    assert extremes.per_test == pytest.approx(spearmanr(SUMS[:3, 0], [0, 2, 1]).statistic)


def _logistic_regression(x, y, reg, steps=30):
    """Weights of least logistic loss with the penalty reg |w|^2 / 2, labels +-1, by Newton's method."""
    weights = np.zeros(x.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-y * (x @ weights)))
        hessian = (x.T * (p * (1 - p))) @ x + reg * np.eye(x.shape[1])
        weights -= np.linalg.solve(hessian, reg * weights - x.T @ (y * (1 - p)))
    return weights


def test_attribution_predicts_retrained_models():
    """Threes against eights: logistic regressions on 40 halves of 240 samples, and margins of 100 other samples.

    The gradient of the margin is y x. Twelve choices of samples and subsets had scores of 0.81 to 0.84, and after a
    shuffle of the training samples -0.07 to 0.08.
    """
    images, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(np.flatnonzero((labels == 3) | (labels == 8)))[:340]
    x = np.hstack([images[chosen] / 16, np.ones((340, 1))])
    y = np.where(labels[chosen] == 3, 1.0, -1.0)
    train, test = y[:240, None] * x[:240], y[240:, None] * x[240:]
    p = 1 / (1 + np.exp(-train @ _logistic_regression(x[:240], y[:240], 1.0)))
    subsets = [np.random.default_rng([1, i]).permutation(240)[:120] for i in range(40)]
    outputs = np.stack([test @ _logistic_regression(x[s], y[s], 1.0) for s in map(np.sort, subsets)])
    tau = attribution(train, test, reg=5.0, weights=1 - p)
    score = linear_datamodeling_score(tau, subsets, outputs)
    shuffled = linear_datamodeling_score(tau[:, np.random.default_rng(2).permutation(240)], subsets, outputs)
    assert score.score > 0.75
    assert abs(shuffled.score) < 0.15
    assert score.standard_error < 0.05


NET = Dense(10, W_std=8.0, b_std=1.0)  # scale 1: multinomial logistic regression of 64 inputs


def _classifier(x, labels, steps=200):
    """Parameters of `NET` after gradient descent with momentum on the cross entropy and a penalty."""
    params = {"weight": np.zeros((64, 10)), "bias": np.zeros(10)}
    motion = dict.fromkeys(params, 0.0)
    for _ in range(steps):
        outputs = NET.forward(params, x)[0]
        delta = cross_entropy(labels)(outputs) / len(x)
        gradients = {"weight": x.T @ delta, "bias": delta.sum(axis=0)}
        for name, gradient in gradients.items():
            motion[name] = 0.9 * motion[name] + gradient + 1e-2 * params[name]
            params[name] = params[name] - 0.5 * motion[name]
    return params


def _margins(params, x, labels):
    """log(p / (1 - p)) of the right classes."""
    p = np.exp(NET.forward(params, x)[0])
    right = p[np.arange(len(x)), labels]
    return np.log(right / (p.sum(axis=1) - right))


def test_projected_gradients_of_a_network_predict_retrained_models():
    """Ten digits, 650 parameters projected to 128 numbers: the whole of TRAK, and the mean over four sketches.

    Measured: 0.66 to 0.69 for single sketches, 0.85 for the mean of the four.
    """
    images, labels = load_digits(return_X_y=True)
    chosen = np.random.default_rng(0).permutation(len(images))[:400]
    x, labels = images[chosen] / 16, labels[chosen]
    train, test = (x[:300], labels[:300]), (x[300:], labels[300:])
    params = _classifier(*train)
    subsets = [np.sort(np.random.default_rng([1, i]).permutation(300)[:150]) for i in range(40)]
    outputs = np.stack([_margins(_classifier(x[s], labels[s]), *test) for s in subsets])
    scores = []
    for seed in range(4):
        sketch = KroneckerProjection(128, seed=seed)
        phi = [project_jacobian(NET, params, images, sketch, cotangents=margin(y)) for images, y in (train, test)]
        scores.append(attribution(*phi, reg=10.0))
    weights = 1 / (1 + np.exp(_margins(params, *train)))
    single = [linear_datamodeling_score(tau * weights, subsets, outputs).score for tau in scores]
    mean = linear_datamodeling_score(average_attributions(scores, [weights] * 4), subsets, outputs)
    assert min(single) > 0.5
    assert mean.score > max(single) + 0.05
    assert mean.standard_error < 0.05


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: linear_datamodeling_score(SCORES[0], MASKS, NOISY), ValueError, "scores of shape"),
        (lambda: linear_datamodeling_score(SCORES * np.nan, MASKS, NOISY), ValueError, "scores without NaN"),
        (
            lambda: linear_datamodeling_score(SCORES, MASKS[:, 1:], NOISY),
            ValueError,
            r"subsets of shape \(n_subsets, 50\)",
        ),
        (lambda: linear_datamodeling_score(SCORES, MASKS[0], NOISY), ValueError, "subsets of shape"),
        (lambda: linear_datamodeling_score(SCORES, MASKS[:2], NOISY[:2]), ValueError, "at least 3 subsets, got 2"),
        (
            lambda: linear_datamodeling_score(SCORES, MASKS.astype(int), NOISY),
            ValueError,
            "each index once; give masks",
        ),
        (lambda: linear_datamodeling_score(SCORES, MASKS.astype(float), NOISY), TypeError, r"subsets\[0\] .* float64"),
        (
            lambda: linear_datamodeling_score(SCORES, [[0], [1], [50]], NOISY[:3]),
            ValueError,
            r"subsets\[2\] .* 0 to 49",
        ),
        (lambda: linear_datamodeling_score(SCORES, [[0], [-1], [2]], NOISY[:3]), ValueError, r"subsets\[1\]"),
        (lambda: linear_datamodeling_score(SCORES, [0, 1, 2], NOISY[:3]), TypeError, r"subsets\[0\] to be a list"),
        (lambda: linear_datamodeling_score(SCORES, 3, NOISY), TypeError, "got int"),
        (lambda: linear_datamodeling_score(SCORES, MASKS, NOISY.T), ValueError, r"outputs of shape \(30, 6\), got"),
        (lambda: linear_datamodeling_score(SCORES, MASKS, NOISY * np.inf), ValueError, "outputs without NaN or inf"),
        (lambda: linear_datamodeling_score(SCORES, MASKS, NOISY.astype("f4")), TypeError, "outputs of dtype float64"),
        (lambda: linear_datamodeling_score(SCORES / 4 * 1e308, MASKS | True, NOISY), OverflowError, "sums of scores"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_backends_do_not_mix(monkeypatch):
    fakecupy.install(monkeypatch)
    for given in ((SCORES, MASKS, fakecupy.asarray(NOISY)), (SCORES, fakecupy.asarray(MASKS), NOISY)):
        with pytest.raises(MixedBackendError):
            linear_datamodeling_score(*given)
