"""LayerNorm and BatchNorm against loops, HIPS autograd and PyTorch; what they refuse."""

import numpy as np
import pytest
from helpers import assert_close, tol

from ntkfast.layers import BatchNorm, Cotangent, Dense, LayerNorm, Sequential

N, K = 3, 2
SHAPES = [(1, (6,)), (1, (4, 6)), (1, (3, 2, 6)), (2, (3, 6)), (2, (2, 3, 6)), (3, (2, 3, 4))]
all_shapes = pytest.mark.parametrize(("axes", "shape"), SHAPES)


def _random(*shape, seed=0, dtype="float64"):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def _params(shape, *names):
    return {name: _random(*shape, seed=i) + 0.5 for i, name in enumerate(names, 1)}


def _loops(x, params, epsilon, axes):
    """The definition, one normalized block at a time."""
    y = np.empty_like(x)
    for place in np.ndindex(*x.shape[: x.ndim - axes]):
        block = x[place]
        deviation = block - block.sum() / block.size
        variance = (deviation**2).sum() / block.size
        y[place] = params["scale"] * deviation / np.sqrt(variance + epsilon) + params["shift"]
    return y


class TestLayerNorm:
    @all_shapes
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_forward_is_the_definition(self, axes, shape, dtype):
        layer, x, params = LayerNorm(0.3, axes), _random(N, *shape), _params(shape[-axes:], "scale", "shift")
        cast = {name: array.astype(dtype) for name, array in params.items()}
        y, _ = layer.forward(cast, x.astype(dtype))
        assert y.dtype == dtype
        assert_close(y, _loops(x, params, 0.3, axes), tol(dtype, 4))

    @all_shapes
    def test_pytorch_means_the_same(self, axes, shape):
        torch = pytest.importorskip("torch")
        x, params = _random(N, *shape), _params(shape[-axes:], "scale", "shift")
        scale, shift = (torch.from_numpy(params[name]) for name in ("scale", "shift"))
        expected = torch.nn.functional.layer_norm(torch.from_numpy(x), shape[-axes:], scale, shift)
        assert_close(LayerNorm(axes=axes).forward(params, x)[0], expected.numpy(), tol("float64", 8))

    @all_shapes
    def test_derivatives_against_autograd(self, axes, shape):
        pytest.importorskip("autograd")
        import autograd.numpy as anp
        from autograd import elementwise_grad, grad, jacobian

        layer, x, params = LayerNorm(0.3, axes), _random(1, *shape), _params(shape[-axes:], "scale", "shift")
        over = tuple(range(x.ndim - axes, x.ndim))

        def forward(scale, shift, x):
            deviation = x - anp.mean(x, axis=over, keepdims=True)
            return scale * deviation / anp.sqrt(anp.mean(deviation**2, axis=over, keepdims=True) + 0.3) + shift

        _, saved = layer.forward(params, x)
        ct, tangent = _random(1, *shape[:-1], K, shape[-1], seed=7), _random(1, *shape[:-1], K, shape[-1], seed=8)
        arguments = (params["scale"], params["shift"], x)

        def contraction(k, x):  # <ct_k, y>
            return lambda scale, shift, x: anp.sum(ct[..., k, :] * forward(scale, shift, x))

        low = layer.vjp(params, saved, Cotangent(ct)).dense(1, shape[:-1])
        factors = layer.factors(params, saved, Cotangent(ct))
        for k in range(K):
            f = contraction(k, x)
            assert_close(low[..., k, :], grad(f, 2)(*arguments), tol("float64", 20))
            assert_close(factors["scale"].jacobian()[0, k], grad(f, 0)(*arguments), tol("float64", 20))
            assert_close(factors["shift"].jacobian()[0, k], grad(f, 1)(*arguments), tol("float64", 20))

        def bent(x):  # sum over k of <ct_k, dy/dx tangent_k>
            slopes = jacobian(lambda x: forward(params["scale"], params["shift"], x))(x).reshape(x.size, x.size)
            columns = np.moveaxis(tangent, -2, 0).reshape(K, -1)
            return anp.sum(np.moveaxis(ct, -2, 0).reshape(K, -1) * anp.dot(columns, slopes.T))

        assert_close(layer.curvature(params, saved, ct, tangent), elementwise_grad(bent)(x), tol("float64", 50))

    def test_moments_of_the_normalized_input(self):
        layer, x = LayerNorm(1e-9), 3 + 5 * _random(N, 4, 50)
        y, _ = layer.forward(layer.init((4, 50), seed=0, dtype="float64"), x)
        assert_close(y.mean(axis=-1), np.zeros((N, 4)), 1e-14)
        assert_close((y**2).mean(axis=-1), np.ones((N, 4)), 1e-10)

    @pytest.mark.parametrize("factor", [1e-30, 1e-3, 1e10, 1e30, 3e37])
    def test_any_size_of_input(self, factor):
        """Squares of the entries would leave float32; the result depends on the size only through epsilon."""
        x = _random(N, 8)
        params = {"scale": np.ones(8, np.float32), "shift": np.zeros(8, np.float32)}
        y, saved = LayerNorm().forward(params, (factor * x).astype(np.float32))
        deviation = factor * (x - x.mean(axis=1, keepdims=True))
        expected = deviation / np.sqrt((deviation**2).mean(axis=1, keepdims=True) + 1e-5)
        low = LayerNorm().vjp(params, saved, Cotangent(np.ones((1, 1, 8), np.float32) * np.float32(0.5)))
        assert_close(y, expected, 1e-5)
        assert np.isfinite(low.shared).all()

    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    @pytest.mark.parametrize("value", [0.0, -3.0, 1e30, -3e38])
    def test_constant_rows_give_the_shift(self, value, dtype):
        """Up to what rounding of the mean leaves of a row: nothing here, since the mean of 8 equal numbers is exact."""
        params = {name: array.astype(dtype) for name, array in _params((8,), "scale", "shift").items()}
        x = np.full((2, 8), value, dtype)
        y, saved = LayerNorm().forward(params, x)
        assert_close(y, np.broadcast_to(params["shift"], (2, 8)), 0)
        ct = _random(2, K, 8, dtype=dtype)
        for found in (
            LayerNorm().vjp(params, saved, Cotangent(ct)).shared,
            LayerNorm().jvp(params, saved, ct),
            LayerNorm().curvature(params, saved, ct, ct),
        ):
            assert np.isfinite(found).all()

    def test_initial_parameters(self):
        params = LayerNorm(axes=2).init((5, 3, 4), seed=3)
        assert {name: (array.shape, array.dtype) for name, array in params.items()} == {
            "scale": ((3, 4), np.float32),
            "shift": ((3, 4), np.float32),
        }
        assert np.all(params["scale"] == 1)
        assert not params["shift"].any()

    def test_shapes_that_do_not_fit(self):
        with pytest.raises(
            ValueError, match=r"layer 1 \(LayerNorm\): expected samples with at least 2 axes, got shape"
        ):
            Sequential(Dense(3), LayerNorm(axes=2)).out_shape((4,))

    @pytest.mark.parametrize(
        ("keywords", "error"),
        [
            ({"epsilon": 0}, ValueError),
            ({"epsilon": -1.0}, ValueError),
            ({"axes": 0}, ValueError),
            ({"axes": 1.5}, TypeError),
        ],
    )
    def test_settings(self, keywords, error):
        with pytest.raises(error, match=f"expected {next(iter(keywords))}"):
            LayerNorm(**keywords)


class TestBatchNorm:
    NAMES = ("scale", "shift", "mean", "var")

    def _params(self, c=4):
        params = _params((c,), *self.NAMES)
        return params | {"var": params["var"] ** 2}

    @pytest.mark.parametrize("shape", [(4,), (5, 4), (3, 2, 4)])
    @pytest.mark.parametrize("dtype", ["float32", "float64"])
    def test_forward_is_the_definition(self, shape, dtype):
        x, params = _random(N, *shape), self._params()
        cast = {name: array.astype(dtype) for name, array in params.items()}
        y, _ = BatchNorm(0.1).forward(cast, x.astype(dtype))
        expected = params["scale"] * (x - params["mean"]) / np.sqrt(params["var"] + 0.1) + params["shift"]
        assert y.dtype == dtype
        assert_close(y, expected, tol(dtype))

    def test_pytorch_means_the_same(self):
        torch = pytest.importorskip("torch")
        x, params = _random(N, 3, 2, 4), self._params()
        mean, var, scale, shift = (torch.from_numpy(params[name]) for name in ("mean", "var", "scale", "shift"))
        expected = torch.nn.functional.batch_norm(torch.from_numpy(x).movedim(-1, 1), mean, var, scale, shift)
        assert_close(BatchNorm().forward(params, x)[0], expected.movedim(1, -1).numpy(), tol("float64", 4))

    def test_buffers_have_no_jacobian(self):
        layer, params, x = BatchNorm(), self._params(), _random(N, 4)
        assert set(layer.factors(params, layer.forward(params, x)[1], Cotangent(_random(1, K, 4)))) == {
            "scale",
            "shift",
        }
        assert layer.buffers == ("mean", "var")

    def test_cotangents_stay_separable(self):
        """Channels are scaled; what is shared stays shared, and the gate is not touched."""
        layer, params, x = BatchNorm(), self._params(), _random(N, 3, 2, 4)
        _, saved = layer.forward(params, x)
        ct = Cotangent(_random(1, 1, 1, K, 4), _random(N, 3, 2, 4))
        low = layer.vjp(params, saved, ct)
        assert low.gate is ct.gate
        assert low.shared.shape == ct.shared.shape

    def test_a_channel_that_never_varied(self):
        params = self._params() | {"var": np.zeros(4)}
        list(BatchNorm().check_params(params, (4,)))
        assert np.isfinite(BatchNorm().forward(params, _random(N, 4))[0]).all()

    def test_initial_parameters_change_nothing(self):
        layer, x = BatchNorm(1e-12), _random(N, 4)
        params = layer.init((4,), seed=0, dtype="float64")
        assert list(params) == list(self.NAMES)
        assert_close(layer.forward(params, x)[0], x, 1e-11)

    @pytest.mark.parametrize("missing", [("mean", "var"), ("var",), ("mean",)])
    def test_training_mode_is_refused(self, missing):
        params = {name: array for name, array in self._params().items() if name not in missing}
        with pytest.raises(
            ValueError, match=r"params\['1'\] \(BatchNorm\) to hold mean and var.* only evaluation mode"
        ):
            list(Sequential(Dense(4), BatchNorm()).check_params(({"weight": np.ones((3, 4))}, params), (3,)))

    def test_a_negative_variance_is_refused(self):
        params = self._params() | {"var": np.array([1.0, 2.0, -0.5, 1.0])}
        with pytest.raises(ValueError, match=r"expected var >= 0 in params \(BatchNorm\), got -0.5"):
            list(BatchNorm().check_params(params, (4,)))

    def test_other_entries_are_named(self):
        with pytest.raises(ValueError, match=r"params\['var'\] \(BatchNorm\) of shape \(4,\), got \(5,\)"):
            list(BatchNorm().check_params(self._params() | {"var": np.ones(5)}, (4,)))
        with pytest.raises(ValueError, match="to hold mean, scale, shift, var, got mean, var"):
            list(BatchNorm().check_params({"mean": np.ones(4), "var": np.ones(4)}, (4,)))
        with pytest.raises(TypeError, match="expected params to be a dictionary"):
            list(BatchNorm().check_params(None, (4,)))

    def test_settings(self):
        with pytest.raises(ValueError, match="expected epsilon to be a finite number greater than 0"):
            BatchNorm(0)
        with pytest.raises(ValueError, match="at least one axis"):
            BatchNorm().out_shape(())
