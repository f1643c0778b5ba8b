"""Attribution scores: the dense formula, the identities of linear regression, and a memory budget that holds."""

import tracemalloc

import fakecupy
import numpy as np
import pytest
from helpers import assert_close

from ntkfast.errors import MemoryBudgetError, MixedBackendError, NotPositiveDefiniteError
from ntkfast.projection.attribution import attribution, average_attributions

# Columns fewer than training samples, equal, and more: (n, m).
SIZES = {"primal": (60, 9), "square": (12, 12), "dual": (10, 31)}


def _data(n, m, n_test=7, dtype="float64"):
    rng = np.random.default_rng([n, m])
    arrays = rng.standard_normal((n, m)), rng.standard_normal((n_test, m)), rng.random(n)
    return tuple(array.astype(dtype) for array in arrays)


def _dense(train, test, reg, weights):
    """The defining formula, by an inverse (reg=0: a pseudoinverse) of the m x m matrix."""
    train, test = train.astype("f8"), test.astype("f8")
    gram = train.T @ train + reg * np.eye(train.shape[1])
    inverse = np.linalg.inv(gram) if reg else np.linalg.pinv(gram, rcond=1e-10, hermitian=True)
    return test @ inverse @ train.T * weights


# The condition number of a square random matrix has no bound, so that one has a ridge.
DEFINED = [(name, reg) for name in SIZES for reg in (0.0, 0.1, 100.0) if name != "square" or reg > 0]


@pytest.mark.parametrize(("name", "reg"), DEFINED)
def test_is_its_definition(name, reg, backend):
    size = SIZES[name]
    for dtype, rtol in (("float64", 1e-12), ("float32", 1e-5)):
        train, test, weights = _data(*size, dtype=dtype)
        given = [backend.asarray(array) for array in (train, test, weights)]
        got = attribution(*given[:2], reg=reg, weights=given[2])
        assert got.dtype == dtype
        assert_close(backend.to_numpy(got), _dense(train, test, reg, weights), rtol)
        assert_close(backend.to_numpy(attribution(*given[:2], reg=reg)), _dense(train, test, reg, 1.0), rtol)


def test_float32_features_of_a_bad_condition():
    """Condition number 1e10: in float32 the products of features with themselves would not know the small half."""
    train, test, _ = _data(200, 10, dtype="float32")
    scale = np.logspace(0, -5, 10, dtype="float32")
    train, test = train * scale, test * scale
    assert_close(attribution(train, test), _dense_by_qr(train, test), 1e-4)


def _dense_by_qr(train, test):
    q, r = np.linalg.qr(train.astype("f8"))
    return np.linalg.solve(r.T, test.T.astype("f8")).T @ q.T


def test_without_a_ridge_it_is_the_hat_matrix():
    train, test, _ = _data(60, 9)
    hat = attribution(train, train)
    assert_close(hat @ hat, hat, 1e-12)
    assert np.trace(hat) == pytest.approx(9, rel=1e-12)
    assert_close(attribution(train, test) @ train, test, 1e-12)


def test_scale_and_basis_of_the_features_do_not_matter_without_a_ridge():
    train, test, weights = _data(60, 9)
    mixing = np.random.default_rng(0).standard_normal((9, 9))
    expected = attribution(train, test, weights=weights)
    assert_close(attribution(train @ mixing, test @ mixing, weights=weights), expected, 1e-10)
    assert_close(attribution(1e-3 * train, 1e-3 * test, reg=1e-6), attribution(train, test, reg=1.0), 1e-10)


@pytest.mark.parametrize("reg", [0.0, 3.0])
def test_residuals_as_weights_give_the_effect_of_leaving_out(reg):
    """Ridge regression: without sample i predictions fall by tau[:, i] / (1 - leverage), with weights = residuals."""
    train, test, y = _data(60, 9)
    residuals = y - attribution(train, train, reg=reg) @ y
    leverages = attribution(train, train, reg=reg).diagonal()
    tau = attribution(train, test, reg=reg, weights=residuals)
    for i in (0, 17, 59):
        rest = np.arange(60) != i
        change = (attribution(train, test, reg=reg) @ y) - attribution(train[rest], test, reg=reg) @ y[rest]
        assert_close(tau[:, i] / (1 - leverages[i]), change, 1e-10)


def _smallest(n, m):
    """The least budget, as the error tells it."""
    with pytest.raises(MemoryBudgetError, match=r"max_memory of at least \d+ bytes") as error:
        attribution(*_data(n, m)[:2], reg=0.1, max_memory=1)
    return int(str(error.value).split("at least ")[1].split()[0])


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_blocks_budget_and_memory_order_do_not_matter(size, tmp_path):
    train, test, weights = _data(*size)
    expected = attribution(train, test, reg=0.1, weights=weights)
    mapped = np.memmap(tmp_path / "phi", "float64", "w+", shape=train.shape)
    mapped[:] = train
    cuts = [train[:1], train[1:6], train[6:]]
    for phi in (mapped, cuts, tuple(cuts), np.asfortranarray(train), np.repeat(train, 2, axis=1)[:, ::2]):
        for budget in (None, _smallest(*size), 2 * _smallest(*size)):
            for new in (test, [test[:3], test[3:]]):
                got = attribution(phi, new, reg=0.1, weights=weights, max_memory=budget)
                assert type(got) is np.ndarray
                assert_close(got, expected, 1e-13)


def test_equal_calls_give_equal_bits():
    train, test, _ = _data(60, 9)
    assert (attribution(train, test) == attribution(train, test)).all()
    assert (attribution(train, test, out=np.zeros((7, 60))) == attribution(train, test)).all()


def test_scores_are_written_where_they_are_wanted(tmp_path):
    train, test, weights = _data(60, 9, dtype="float32")
    expected = attribution(train, test, weights=weights)
    out = np.memmap(tmp_path / "scores", "float32", "w+", shape=(7, 60))
    assert attribution(train, test, weights=weights, out=out) is out
    assert (np.fromfile(tmp_path / "scores", "float32").reshape(7, 60) == expected).all()
    assert (attribution(train, test, weights=weights, out=np.zeros((60, 7), "f4").T) == expected).all()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", [(700, 100), (100, 700), (300, 300)], ids=str)
def test_temporaries_stay_within_the_budget(size, dtype):
    n, m = size
    train, test, weights = _data(n, m, n_test=80, dtype=dtype)
    blocks, out = [train[: n // 2], train[n // 2 :]], np.empty((80, n), dtype)
    attribution(train[:3], test, reg=0.1, out=out[:, :3])  # imports
    fewest = _smallest(n, m)
    for budget in (fewest, fewest + 100_000, fewest + 1_000_000):
        for phi in (train, blocks):
            tracemalloc.start()
            try:
                attribution(phi, test, reg=0.1, weights=weights, max_memory=budget, out=out)
                used = tracemalloc.get_traced_memory()[1]
            finally:
                tracemalloc.stop()
            assert used < budget + 20_000, "beyond arrays: Python's own objects"


def test_a_singular_matrix_is_repaired_by_a_jitter_or_refused():
    train, test, _ = _data(10, 31)
    twice = np.concatenate([train, train])
    expected = attribution(train, test)
    got = attribution(twice, test)
    assert_close(got[:, :10], got[:, 10:], 1e-3)
    assert_close(got[:, :10] + got[:, 10:], expected, 1e-5)
    for phi in (twice, np.zeros((40, 31)), np.zeros((3, 31))):
        with pytest.raises(NotPositiveDefiniteError):
            attribution(phi, test, max_jitter=0)


def test_zero_rows_and_extreme_sizes():
    train, test, _ = _data(60, 9)
    train[3], test[1] = 0, 0
    tau = attribution(train, test)
    assert not tau[:, 3].any()
    assert not tau[1].any()
    assert attribution(np.ones((1, 1)), np.ones((1, 1))) == 1
    small = (1e-30 * train).astype("f4"), (1e-30 * test).astype("f4")
    assert_close(attribution(*small), tau, 1e-5)
    with pytest.raises(OverflowError):
        attribution(1e200 * train, test)
    with pytest.raises(OverflowError, match="the scores"):
        attribution((1e-25 * train).astype("f4"), (1e25 * test).astype("f4"))


def test_checkpoints_are_averaged_before_they_are_weighted(backend):
    pairs = [_data(60, m) for m in (9, 11)]
    mean = sum(attribution(train, test, reg=0.1) for train, test, _ in pairs) / 2
    given = [[backend.asarray(array) for array in pair] for pair in pairs]
    scores = (attribution(train, test, reg=0.1) for train, test, _ in given)
    got = average_attributions(scores, [weights for _, _, weights in given])
    assert_close(backend.to_numpy(got), mean * (pairs[0][2] + pairs[1][2]) / 2, 1e-12)
    assert_close(average_attributions([mean, mean]), mean, 1e-15)


def test_one_checkpoint_is_attribution():
    train, test, weights = _data(60, 9)
    scores = attribution(train, test)
    kept = scores.copy()
    assert_close(average_attributions([scores], [weights]), attribution(train, test, weights=weights), 1e-15)
    assert (scores == kept).all()


class _Shrinking:
    """Blocks that are fewer at the second pass."""

    def __init__(self, blocks):
        self._blocks = list(blocks)

    def __iter__(self):
        yield from list(self._blocks)
        self._blocks.pop()


TRAIN, TEST, WEIGHTS = _data(60, 9)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: attribution(TRAIN[0], TEST), ValueError, r"phi_train of shape \(n, m\), not empty"),
        (lambda: attribution(TRAIN[None], TEST), ValueError, "phi_train of shape"),
        (lambda: attribution(TRAIN, TEST[:0]), ValueError, "phi_test of shape"),
        (lambda: attribution(TRAIN, TEST[:, :8]), ValueError, r"phi_test of shape \(n, 9\), got \(n, 8\)"),
        (lambda: attribution(TRAIN, TEST.astype("f4")), TypeError, "phi_test of dtype float64, got float32"),
        (lambda: attribution(TRAIN.astype(int), TEST), TypeError, "phi_train of dtype"),
        (lambda: attribution(TRAIN * np.nan, TEST), ValueError, "phi_train without NaN"),
        (lambda: attribution((TRAIN for _ in range(2)), TEST), TypeError, "several times, got generator"),
        (lambda: attribution(3, TEST), TypeError, "phi_train to be an array"),
        (lambda: attribution([], TEST), ValueError, "at least one block"),
        (lambda: attribution(TRAIN.tolist(), TEST), TypeError, r"phi_train\[0\] to be a NumPy or CuPy array, got list"),
        (lambda: attribution([TRAIN, TRAIN[:, :8]], TEST), ValueError, r"phi_train\[1\] of shape \(n, 9\)"),
        (lambda: attribution([TRAIN, TRAIN.astype("f4")], TEST), TypeError, r"phi_train\[1\] of dtype float64"),
        (lambda: attribution([TRAIN, np.inf * TRAIN], TEST), ValueError, r"phi_train\[1\] without NaN or inf"),
        (lambda: attribution(_Shrinking([TRAIN, TRAIN]), TEST), ValueError, "120 rows at every pass over phi_train"),
        (lambda: attribution(TRAIN, TEST, reg=-1.0), ValueError, "reg"),
        (lambda: attribution(TRAIN, TEST, max_jitter=-1.0), ValueError, "max_jitter"),
        (lambda: attribution(TRAIN, TEST, max_memory=0), ValueError, "max_memory"),
        (lambda: attribution(TRAIN, TEST, weights=WEIGHTS[1:]), ValueError, r"weights of shape \(60,\), got \(59,\)"),
        (lambda: attribution(TRAIN, TEST, weights=WEIGHTS.astype("f4")), TypeError, "weights of dtype float64"),
        (lambda: attribution(TRAIN, TEST, weights=WEIGHTS * np.nan), ValueError, "weights without NaN"),
        (lambda: attribution(TRAIN, TEST, out=np.empty((60, 7))), ValueError, r"out of shape \(7, 60\)"),
        (lambda: attribution(TRAIN, TEST, out=np.empty((7, 60), "f4")), ValueError, "dtype float64"),
        (lambda: attribution(TRAIN, TEST, out=[]), TypeError, "out to be a NumPy or CuPy array"),
        (lambda: attribution(TRAIN, TEST, out=np.broadcast_to(0.0, (7, 60))), ValueError, "writeable"),
        (lambda: average_attributions([]), ValueError, "at least one array of scores"),
        (lambda: average_attributions(TRAIN), ValueError, r"scores\[0\] with 2 axes"),
        (lambda: average_attributions([TRAIN, TEST]), ValueError, r"scores\[1\] of shape \(60, 9\)"),
        (lambda: average_attributions([TRAIN, TRAIN.astype("f4")]), TypeError, r"scores\[1\] of dtype"),
        (lambda: average_attributions([TRAIN], [TEST[0], TEST[0]]), ValueError, "as many weights as scores, 1, got 2"),
        (lambda: average_attributions([TRAIN], [WEIGHTS]), ValueError, r"weights of shape \(9,\)"),
        (lambda: average_attributions([TRAIN * 1e307] * 90), OverflowError, "mean scores"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_backends_do_not_mix(monkeypatch):
    fakecupy.install(monkeypatch)
    on_device = fakecupy.asarray(TRAIN)
    for call in (
        lambda: attribution(on_device, TEST),
        lambda: attribution([TRAIN, on_device], TEST),
        lambda: attribution(TRAIN, TEST, weights=fakecupy.asarray(WEIGHTS)),
        lambda: attribution(TRAIN, TEST, out=fakecupy.asarray(np.empty((7, 60)))),
        lambda: average_attributions([TRAIN, on_device]),
    ):
        with pytest.raises(MixedBackendError):
            call()
