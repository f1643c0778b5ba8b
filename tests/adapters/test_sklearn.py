"""scikit-learn's own checks in full, and what they do not see: exactness, seeds, data frames, grids, float32."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from helpers import assert_close
from sklearn.base import clone
from sklearn.datasets import load_digits, make_regression
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from ntkfast.adapters.sklearn import NTKClassifier, NTKFeatures, NTKRegressor
from ntkfast.analytic import ntk
from ntkfast.features import OnePassFeatures

METHODS = ("nystroem", "one_pass", "polynomial_sketch", "random_features", "sketch")


# The other methods of NTKFeatures refuse n_components=1, which the checks try.
@parametrize_with_checks(
    [
        NTKFeatures(128),
        NTKFeatures(128, method="nystroem"),
        NTKRegressor(),
        NTKRegressor("loo", solver="features", n_components=64),
        NTKClassifier(),
        NTKClassifier("loo"),
    ]
)
def test_check_estimator(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    return x[:300] / 16, y[:300], x[300:400] / 16, y[300:400]


@pytest.fixture(scope="module")
def regression():
    x, y = make_regression(120, 5, n_targets=2, noise=1.0, random_state=0)
    return x[:100], y[:100], x[100:], y[100:]


class TestNTKFeatures:
    def test_integer_state_is_the_seed_of_the_core(self, digits):
        x = digits[0]
        features = NTKFeatures(256, depth=2, W_std=1.5, random_state=7).fit_transform(x)
        np.testing.assert_array_equal(features, OnePassFeatures(64, 256, depth=2, W_std=1.5, seed=7)(x))

    def test_generator_is_drawn_from(self, digits):
        x = digits[0]
        generator = np.random.RandomState(0)
        first, second = (NTKFeatures(128, random_state=generator).fit(x).seed_ for _ in range(2))
        assert first != second
        assert NTKFeatures(128, random_state=np.random.RandomState(0)).fit(x).seed_ == first

    def test_no_state_draws_a_new_seed(self, digits):
        assert NTKFeatures(128).fit(digits[0]).seed_ != NTKFeatures(128).fit(digits[0]).seed_

    @pytest.mark.parametrize("state", [-1, 2**64, "0", 1.5, True])
    def test_bad_states(self, digits, state):
        with pytest.raises(ValueError, match=r"random_state|seed"):
            NTKFeatures(128, random_state=state).fit(digits[0])

    @pytest.mark.parametrize("method", METHODS)
    def test_approximates_the_exact_kernel(self, digits, method):
        x = digits[0][:80]
        phi = NTKFeatures(300, method=method, depth=1, random_state=0).fit_transform(x)
        exact = ntk(x, depth=1)
        assert np.linalg.norm(phi @ phi.T - exact) < 0.25 * np.linalg.norm(exact)

    def test_names_and_frames(self, digits):
        transformer = NTKFeatures(80, random_state=0).fit(digits[0])
        names = transformer.get_feature_names_out()
        assert list(names[:2]) == ["ntkfeatures0", "ntkfeatures1"]
        assert len(names) == transformer.transform(digits[0]).shape[1]

    def test_pandas_output(self, digits):
        pandas = pytest.importorskip("pandas")
        transformer = NTKFeatures(80, random_state=0).set_output(transform="pandas")
        frame = transformer.fit_transform(pandas.DataFrame(digits[0]).rename(columns=str))
        assert list(frame.columns[:2]) == ["ntkfeatures0", "ntkfeatures1"]
        assert list(transformer.feature_names_in_[:2]) == ["0", "1"]

    def test_bad_method(self, digits):
        with pytest.raises(ValueError, match="expected method to be one of nystroem, one_pass"):
            NTKFeatures(method="fourier").fit(digits[0])

    def test_in_a_grid_search(self, digits):
        x, y = digits[:2]
        search = GridSearchCV(
            make_pipeline(NTKFeatures(128, random_state=0), Ridge()), {"ntkfeatures__depth": [1, 2]}, cv=2
        )
        assert search.fit(x, y).best_params_["ntkfeatures__depth"] in (1, 2)


def test_adapters_do_not_import_sklearn():
    code = "import sys, ntkfast, ntkfast.adapters; assert 'sklearn' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def dual_prediction(x, y, x_test, alpha, **network):
    """Kernel ridge regression on centred targets, written out."""
    mean = y.mean(axis=0)
    coefficients = np.linalg.solve(ntk(x, **network) + alpha * np.eye(len(x)), y - mean)
    return ntk(x_test, x, **network) @ coefficients + mean


class TestNTKRegressor:
    @pytest.mark.parametrize("network", [{"depth": 2}, {"depth": 1, "W_std": 1.2, "b_std": 0.3, "activation": "erf"}])
    def test_is_kernel_ridge_regression(self, regression, network):
        x, y, x_test, _ = regression
        model = NTKRegressor(0.5, **network).fit(x, y)
        assert_close(model.predict(x_test), dual_prediction(x, y, x_test, 0.5, **network), 1e-11)
        assert (model.solver_, model.alpha_) == ("exact", 0.5)

    def test_iterations_agree_with_the_factorization(self, regression):
        x, y, x_test, _ = regression
        exact, iterative = (NTKRegressor(0.1, solver=solver, random_state=0).fit(x, y) for solver in ("exact", "pcg"))
        assert_close(iterative.predict(x_test), exact.predict(x_test), 1e-6)
        assert iterative.n_iter_ > 0

    @pytest.mark.parametrize("alpha", [0.3, "loo"])
    def test_primal_and_dual_features_agree(self, regression, alpha):
        """100 points: 80 features are solved for in the primal, and must give what the dual gives for them."""
        x, y, x_test, _ = regression
        model = NTKRegressor(alpha, solver="features", n_components=80, random_state=3).fit(x, y)
        phi, mean = model.feature_map_, y.mean(axis=0)
        gram = phi(x) @ phi(x).T + model.alpha_ * np.eye(100)
        expected = phi(x_test) @ phi(x).T @ np.linalg.solve(gram, y - mean) + mean
        assert_close(model.predict(x_test), expected, 1e-8)

    def test_many_features_approach_the_exact_solution(self, regression):
        x, y, x_test, _ = regression
        exact = NTKRegressor(1.0).fit(x, y).predict(x_test)
        near = NTKRegressor(1.0, solver="features", n_components=4000, random_state=0).fit(x, y).predict(x_test)
        assert np.linalg.norm(near - exact) < 0.02 * np.linalg.norm(exact)

    @pytest.mark.parametrize("solver", ["exact", "features"])
    @pytest.mark.parametrize("components", [64, 512])
    def test_leave_one_out_beats_its_neighbours(self, regression, solver, components):
        """The chosen ridge has the smallest error among refits without each point (intercept kept)."""
        x, y = regression[0][:40], regression[1][:40, 0]
        settings = {"solver": solver, "n_components": components, "random_state": 1, "depth": 1}
        model = NTKRegressor("loo", **settings).fit(x, y)
        kernel = ntk(x, depth=1) if solver == "exact" else model.feature_map_(x) @ model.feature_map_(x).T
        centred = y - y.mean()

        def error(alpha):
            inverse = np.linalg.inv(kernel + alpha * np.eye(40))
            return np.mean((inverse @ centred / np.diag(inverse)) ** 2)

        assert error(model.alpha_) <= min(error(model.alpha_ * 10 ** (1 / 3)), error(model.alpha_ / 10 ** (1 / 3)))

    def test_shapes_of_targets(self, regression):
        x, y, x_test, _ = regression
        assert NTKRegressor().fit(x, y[:, 0]).predict(x_test).shape == (20,)
        assert NTKRegressor().fit(x, y[:, :1]).predict(x_test).shape == (20, 1)
        assert NTKRegressor().fit(x, y).predict(x_test).shape == (20, 2)

    @pytest.mark.parametrize("solver", ["exact", "pcg", "features"])
    def test_float32_is_kept(self, regression, solver):
        x, y, x_test, _ = (array.astype(np.float32) for array in regression)
        y = y + 1e4  # a large mean must not cost the digits of the rest
        model = NTKRegressor(1.0, solver=solver, n_components=512, random_state=0).fit(x, y.astype(np.float64))
        wide = NTKRegressor(1.0, solver=solver, n_components=512, random_state=0).fit(x.astype(float), y.astype(float))
        prediction = model.predict(x_test.astype(np.float64))
        assert prediction.dtype == np.float32
        assert_close(prediction - y.mean(axis=0), wide.predict(x_test.astype(float)) - y.mean(axis=0), 1e-3)

    def test_constant_targets_and_samples_of_zeros(self):
        x = np.zeros((6, 2))
        for alpha in (1.0, "loo"):
            model = NTKRegressor(alpha).fit(x, np.arange(6.0))
            np.testing.assert_allclose(model.predict(x), 2.5)
        np.testing.assert_allclose(NTKRegressor().fit(np.eye(3), np.full(3, 7.0)).predict(np.eye(3)), 7.0)

    @pytest.mark.parametrize(
        ("parameters", "message"),
        [
            ({"alpha": -1.0}, "alpha"),
            ({"alpha": "cv"}, 'number or "loo"'),
            ({"alpha": float("nan")}, "alpha"),
            ({"solver": "svd"}, "solver"),
            ({"solver": "pcg", "alpha": "loo"}, 'with solver "pcg"'),
            ({"solver": "features", "b_std": 0.1}, "b_std = 0"),
            ({"depth": -1}, "depth"),
            ({"activation": "softplus"}, "activation"),
        ],
    )
    def test_bad_parameters(self, regression, parameters, message):
        with pytest.raises(ValueError, match=message):
            NTKRegressor(**parameters).fit(regression[0], regression[1])

    def test_auto_iterates_above_the_limit(self, regression, monkeypatch):
        monkeypatch.setattr("ntkfast.adapters.sklearn.ridge.EXACT_LIMIT", 50)
        x, y, x_test, _ = regression
        model = NTKRegressor(1.0, random_state=0).fit(x, y)
        assert model.solver_ == "pcg"
        assert_close(model.predict(x_test), NTKRegressor(1.0, solver="exact").fit(x, y).predict(x_test), 1e-6)

    def test_features_by_blocks_are_features_at_once(self, regression, monkeypatch):
        x, y, x_test, _ = regression
        model = NTKRegressor("loo", solver="features", n_components=64, random_state=0)
        at_once = clone(model).fit(x, y).predict(x_test)
        monkeypatch.setattr("ntkfast.adapters.sklearn._solvers.ROWS", 7)
        assert_close(clone(model).fit(x, y).predict(x_test), at_once, 1e-10)


class TestNTKClassifier:
    def test_on_digits(self, digits):
        x, y, x_test, y_test = digits
        model = NTKClassifier("loo").fit(x, y)
        assert model.score(x_test, y_test) > 0.9
        assert model.decision_function(x_test).shape == (100, 10)

    def test_outputs_are_those_of_the_regression(self, digits):
        x, y, x_test, _ = digits
        outputs = NTKRegressor(0.1, depth=2).fit(x, np.eye(10)[y]).predict(x_test)
        assert_close(NTKClassifier(0.1, depth=2).fit(x, y).decision_function(x_test), outputs, 1e-12)

    def test_two_classes_of_strings(self, digits):
        x, y, x_test, y_test = digits
        names = np.array(["even", "odd"])
        model = NTKClassifier(0.01).fit(x, names[y % 2])
        scores = model.decision_function(x_test)
        assert scores.shape == (100,)
        np.testing.assert_array_equal(model.predict(x_test), names[(scores > 0).astype(int)])
        assert model.score(x_test, names[y_test % 2]) > 0.9

    def test_offers_no_probabilities(self):
        assert not hasattr(NTKClassifier(), "predict_proba")

    def test_one_class(self):
        with pytest.raises(ValueError, match="at least 2 classes, got 1 class"):
            NTKClassifier().fit(np.eye(3), np.zeros(3))


@pytest.mark.parametrize("estimator", [NTKFeatures(80), NTKRegressor(), NTKClassifier()])
def test_unfitted_estimators_say_so(estimator):
    method = "transform" if hasattr(estimator, "transform") else "predict"
    with pytest.raises(NotFittedError):
        getattr(estimator, method)(np.eye(3))


@pytest.mark.parametrize("solver", ["exact", "pcg", "features"])
def test_pickled_models_predict_the_same_bits(digits, solver):
    x, y, x_test, _ = digits
    model = NTKClassifier(solver=solver, n_components=128, random_state=0).fit(x, y)
    copy = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(copy.decision_function(x_test), model.decision_function(x_test))
