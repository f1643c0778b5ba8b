"""A good call of every public function, constructor and method, and what may take the place of its arguments."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from hostile_arguments import PLAIN

import ntkfast
from ntkfast import analytic, features, regression, sketch, spectrum, zonal


@dataclasses.dataclass(frozen=True)
class Case:
    """A good call: ``call(**arguments(x), **scalars)`` for a sample x, and what may be put in the place of what.

    Attributes
    ----------
    scalars : (good value, kind of bad ones) by name
    takes : bad arrays that mean something here, "argument: what"
    refuses : samples for which it must raise
    skips : bad arrays on which the caller's own function would fail first
    """

    call: Callable[..., Any]
    arguments: Callable[[Any], dict[str, Any]] = lambda x: {}
    scalars: Mapping[str, tuple[Any, str]] = dataclasses.field(default_factory=dict)
    takes: frozenset[str] = frozenset()
    refuses: frozenset[str] = frozenset()
    skips: frozenset[str] = frozenset()

    def good(self, x: Any) -> dict[str, Any]:
        return {**self.arguments(x), **{name: value for name, (value, _) in self.scalars.items()}}


def taking(what: str, *names: str) -> frozenset[str]:
    """`what` is a comma-separated list of bad arrays that the arguments `names` take."""
    return frozenset(f"{name}: {part}" for name in names for part in what.split(", "))


def method(name: str) -> Callable[..., Any]:
    """Call a method of the argument `of`."""
    return lambda of, **arguments: getattr(of, name)(**arguments)


# Arguments of calls.

ROWS = "one row more"
SIZES = "one row more, one column more"
ALONE = "one row more, one column more, another dtype"
OF_MAP = "one row more, another dtype"


def pair(x):
    return {"x1": x, "x2": 0.5 * x[::-1] + 0.25 * x}


def system(x):
    return {"k_train": x @ x.T, "y": x[:, 0].copy()}


def many(x):
    return {"k_train": x @ x.T, "y": x.copy()}


def linear(x1, x2):
    return x1 @ x2.T


def random_rows(*shape):
    return np.random.default_rng(1).standard_normal(shape)


WIDE = random_rows(3, 9)
MEMORY = {"max_memory": (10**7, "memory")}
NETWORK = {"depth": (2, "depth"), "W_std": (1.2, "positive"), "b_std": (0.3, "not negative")}
NAMED = {"activation": ("relu", "activation")}
KIND = {"kind": ("ntk", "choice")}
SEED = {"seed": (3, "seed")}
REG = {"reg": (0.5, "not negative")}
JITTER = {"max_jitter": (1e-6, "optional")}

CASES: dict[str, Case] = {}

# Exact kernels.

for _name in ("ntk", "nngp", "nngp_and_ntk", "ntk_hyperparameter_gradient"):
    _kind = KIND if _name == "ntk_hyperparameter_gradient" else {}
    _takes = taking(ROWS + ", None", "x2") | taking(ROWS, "x1")
    CASES[_name] = Case(getattr(analytic, _name), pair, {**NETWORK, **NAMED, **MEMORY, **_kind}, _takes)
for _name in analytic.activations.CLOSED_FORMS:
    _few = {"depth": (2, "depth"), "W_std": (1.2, "positive"), "activation": (_name, "activation"), **MEMORY}
    _overflow = frozenset({"huge", "one column"}) if _name == "exp" else frozenset()
    _takes = taking(ROWS + ", None", "x2") | taking(ROWS, "x1")
    CASES[f"ntk({_name})"] = Case(analytic.ntk, pair, _few, _takes, _overflow)
CASES["ntk(x)"] = Case(analytic.ntk, lambda x: {"x1": x}, {**NETWORK, **NAMED, **MEMORY}, taking(ALONE, "x1"))
CASES["ntk(diagonal)"] = Case(
    lambda **k: analytic.ntk(diagonal=True, **k), lambda x: {"x1": x}, {**NETWORK, **NAMED}, taking(ALONE, "x1")
)
CASES["ntk_vjp"] = Case(
    analytic.ntk_vjp,
    lambda x: pair(x) | {"ct": np.ones((len(x), len(x)))},
    {**NETWORK, **NAMED, **KIND, **MEMORY},
    taking("None", "x2"),
)
CASES["expand"] = Case(
    lambda x, phi, **k: analytic.nngp(x, depth=1, activation=analytic.expand(phi, **k)),
    lambda x: {"x": x},
    {"phi": (np.tanh, "callable"), "degree": (9, "count"), "nodes": (40, "count"), "tolerance": (1.0, "not negative")},
    taking(ALONE, "x"),
)
CASES["closed_form"] = Case(analytic.closed_form, scalars={"name": ("relu", "choice")})
CASES["leaky_relu"] = Case(analytic.leaky_relu, scalars={"leak": (0.2, "real")})

# Zonal functions.

CASES["zonal"] = Case(
    zonal.zonal,
    scalars={"depth": (2, "depth"), "activation": ("abs", "choice"), "kind": ("ntk", "choice"), "leak": (0.1, "real")},
)
CASES["harmonic_multiplicity"] = Case(zonal.harmonic_multiplicity, scalars={"dim": (4, "dim"), "degree": (3, "depth")})
FUNCTION = zonal.zonal(2)
for _name, _argument in (("of_angle", "t"), ("derivative", "t"), ("of_cosine", "s")):
    CASES[f"Zonal.{_name}"] = Case(
        method(_name),
        lambda x, a=_argument: {"of": FUNCTION, a: abs(np.sin(x))},
        takes=taking(f"{ALONE}, no rows, no columns, one axis more, one axis less, number", _argument),
    )
CASES["Zonal.series"] = Case(FUNCTION.series, scalars={"n_terms": (5, "count")})
CASES["Zonal.gegenbauer"] = Case(FUNCTION.gegenbauer, scalars={"dim": (4, "dim"), "n_terms": (5, "count")})
CASES["Zonal.table"] = Case(FUNCTION.table, scalars={"dtype": ("float64", "dtype")})

# Sketches.


def narrow(in_dim, sketch_dim=8):
    """A mask of so many coordinates, or all."""
    return sketch.CoordinateMask(in_dim, min(in_dim, sketch_dim), seed=3)


def grass(in_dim, sketch_dim=8):
    mask = narrow(in_dim)
    return sketch.Composition(mask, sketch.CountSketch(mask.sketch_dim, sketch_dim, seed=3))


def sketches(make, **options):
    """A function of both widths, with a seed."""
    return lambda in_dim, sketch_dim=8: make(in_dim, sketch_dim, seed=3, **options)


SKETCHES = {
    "CountSketch": sketches(sketch.CountSketch),
    "SparseJL": sketches(sketch.SparseJL, nnz=1),
    "SRHT": sketches(sketch.SRHT),
    "BlockSRHT": sketches(sketch.BlockSRHT, block=2),
    "CoordinateMask": narrow,
    "Composition": grass,
    "GaussianSketch": sketches(sketch.GaussianSketch),
    "RademacherSketch": sketches(sketch.RademacherSketch),
}
_more = {"SparseJL": {"nnz": (3, "count")}, "BlockSRHT": {"block": (4, "count")}}
for _name, _make in SKETCHES.items():
    _sizes = {"in_dim": (9, "count"), "sketch_dim": (8, "count"), **_more.get(_name, {}), **SEED}
    if _name == "Composition":
        CASES[_name] = Case(lambda: grass(4).apply(PLAIN))
    else:
        CASES[_name] = Case(lambda name=_name, **k: getattr(sketch, name)(**k).apply(WIDE), scalars=_sizes)
    CASES[f"{_name}.apply"] = Case(
        method("apply"), lambda x, make=_make: {"of": make(x.shape[1]), "x": x}, takes=taking(OF_MAP + ", sparse", "x")
    )
    CASES[f"{_name}.adjoint"] = Case(
        method("adjoint"), lambda x, make=_make: {"of": make(7, x.shape[1]), "z": x}, takes=taking(OF_MAP, "z")
    )
    if _name != "SRHT":
        CASES[f"{_name}.apply_part"] = Case(
            method("apply_part"),
            lambda x, make=_make: {"of": make(x.shape[1] + 2), "x": x},
            {"start": (2, "start")},
            taking(OF_MAP + ", sparse", "x"),
        )
for _make in (sketch.TensorSketch, sketch.TensorSRHT):
    _name = _make.__name__
    CASES[_name] = Case(
        lambda make=_make, **k: make(**k).apply(PLAIN, PLAIN),
        scalars={"in_dims": ((4, 4), "dims"), "sketch_dim": (8, "count"), **SEED},
    )
    CASES[f"{_name}.apply"] = Case(
        lambda of, x1, x2: of.apply(x1, x2),
        lambda x, make=_make: {"of": make((x.shape[1], x.shape[1]), 8, seed=3), **pair(x)},
        takes=taking("sparse", "x1", "x2"),
    )
    CASES[f"{_name}.vjp"] = Case(
        lambda of, x1, x2, ct: of.vjp((x1, x2), ct),
        lambda x, make=_make: {
            "of": make((x.shape[1], x.shape[1]), 8, seed=3),
            **pair(x),
            "ct": random_rows(len(x), 8),
        },
        takes=taking("sparse", "x1", "x2"),
    )
CASES["PolySketch"] = Case(
    lambda **k: sketch.PolySketch(**k).apply(PLAIN),
    scalars={"in_dim": (4, "count"), "degree": (3, "count"), "sketch_dim": (8, "count"), **SEED},
)
CASES["PolySketch.apply"] = Case(
    method("apply"),
    lambda x: {"of": sketch.PolySketch(x.shape[1], 3, 8, seed=3), "x": x},
    takes=taking(OF_MAP + ", sparse", "x"),
)
CASES["PolySketch.vjp"] = Case(
    lambda of, x, ct: of.vjp(x, [ct, ct]),
    lambda x: {"of": sketch.PolySketch(x.shape[1], 2, 8, seed=3), "x": x, "ct": random_rows(len(x), 8)},
    takes=taking("sparse", "x"),
)

# Feature maps: fields, and what they do.

MAPS: dict[Any, dict[str, tuple[Any, str]]] = {
    features.OnePassFeatures: {
        "depth": (2, "depth"),
        "W_std": (1.2, "positive"),
        "activation": ("relu", "choice"),
        "kind": ("ntk", "choice"),
        "projection": ("auto", "choice"),
        "max_degree": (20, "dim"),
    },
    features.ArcCosineFeatures: {"order": (1, "depth"), "sampling": ("gaussian", "choice")},
    features.NTKRandomFeatures: {
        "depth": (2, "count"),
        "W_std": (1.2, "positive"),
        "sampling": ("gaussian", "choice"),
        "product": ("tensor_srht", "choice"),
        "n_relu": (3, "optional count"),
        "n_step": (3, "optional count"),
    },
    features.NTKSketch: {
        "depth": (2, "count"),
        "W_std": (1.2, "positive"),
        "degree": (3, "count"),
        "expansion": ("fitted", "choice"),
        "sketch_dim": (8, "optional count"),
    },
    features.NTKPolynomialSketch: {
        "depth": (2, "count"),
        "W_std": (1.2, "positive"),
        "degree": (3, "count"),
        "sketch_dim": (8, "optional count"),
    },
}


def map_of(make, x):
    return make(x.shape[1], 8, seed=3, **{name: value for name, (value, _) in MAPS[make].items()})


def nystroem_map(x):
    """Landmarks and biases of the sample's size, so that landmarks stay different points."""
    size = float(abs(x).max()) or 1.0
    return features.NystroemFeatures(size * random_rows(3, x.shape[1]), depth=1, b_std=size / 3)


def map_cases(name: str, of: Callable[[Any], Any]) -> dict[str, Case]:
    with_ct = lambda x: {"of": of(x), "x": x, "ct": random_rows(len(x), of(x).n_features)}  # noqa: E731
    with_pair = lambda x: {"of": of(x), **pair(x)}  # noqa: E731
    return {
        f"{name}.apply": Case(method("apply"), lambda x: {"of": of(x), "x": x}, MEMORY, taking(OF_MAP, "x")),
        f"{name}.__call__": Case(method("__call__"), lambda x: {"of": of(x), "x": x}, MEMORY, taking(OF_MAP, "x")),
        f"{name}.vjp": Case(method("vjp"), with_ct, MEMORY),
        f"{name}.kernel": Case(method("kernel"), with_pair, {}, taking(ROWS + ", None", "x2") | taking(ROWS, "x1")),
    }


for _make, _fields in MAPS.items():
    _sizes = {"in_dim": (4, "count"), "n_features": (8, "count"), **_fields, **SEED}
    CASES[_make.__name__] = Case(lambda make=_make, **k: make(**k)(PLAIN), scalars=_sizes)
    CASES |= map_cases(_make.__name__, lambda x, make=_make: map_of(make, x))
CASES |= map_cases("NystroemFeatures", nystroem_map)
CASES["NTKPolynomialSketch.nugget"] = Case(
    method("nugget"), lambda x: {"of": map_of(features.NTKPolynomialSketch, x), "x": x}, takes=taking(OF_MAP, "x")
)
CASES["NystroemFeatures"] = Case(
    lambda landmarks, **k: features.NystroemFeatures(landmarks, **k)(landmarks),
    lambda x: {"landmarks": x[:3]},
    {**NETWORK, **NAMED, **KIND},
    taking("one column more, another dtype", "landmarks"),
    frozenset({"duplicates", "zeros", "tiny"}),  # with biases tiny ones are equal
)
CASES["nystroem"] = Case(
    lambda x, **k: features.nystroem(x, **k)(x),
    lambda x: {"x": x},
    {"n_features": (3, "count"), "block_size": (2, "count"), **NETWORK, **NAMED, **KIND, **SEED},
    taking(ALONE, "x"),
)
CASES["random_pivoted_cholesky"] = Case(
    features.random_pivoted_cholesky,
    lambda x: {"kernel": x @ x.T},
    {"rank": (2, "count"), "block_size": (2, "count"), "tolerance": (1e-9, "optional"), **SEED},
    taking("another dtype", "kernel"),
)
CASES["random_pivoted_cholesky(callable)"] = Case(
    lambda of, diagonal: features.random_pivoted_cholesky(of.block, 3, diagonal=diagonal, seed=0),
    lambda x: {"of": regression.KernelOperator(linear, x), "diagonal": (x * x).sum(axis=1)},
    takes=taking("another dtype", "diagonal"),
    skips=taking(SIZES, "diagonal"),
)
CASES["gram_error"] = Case(
    lambda of, x, **k: features.gram_error(of, x, **k).error,
    lambda x: {"of": map_of(features.OnePassFeatures, x), "x": x},
    {"n_rows": (4, "optional dim"), **SEED},
    taking(OF_MAP, "x"),
    frozenset({"zeros"}),
)
CASES["suggest_n_features"] = Case(
    lambda of, x, **k: features.suggest_n_features(of, x, **k).n_features,
    lambda x: {"of": map_of(features.OnePassFeatures, x), "x": x},
    {"error": (0.9, "positive"), "max_features": (64, "count"), "n_rows": (4, "dim"), "n_trials": (1, "count")},
    taking(OF_MAP, "x"),
    frozenset({"zeros"}),
)

# Regression.

ONE = frozenset({"one row", "one number"})
CASES["factorize"] = Case(
    lambda **k: regression.factorize(**k).lower.diagonal(),
    lambda x: {"k_train": x @ x.T},
    {**REG, **JITTER},
    taking("another dtype", "k_train"),
)
CASES["CholeskyFactor.solve"] = Case(
    lambda k_train, b: regression.factorize(k_train, reg=0.5).solve(b),
    lambda x: {"k_train": x @ x.T, "b": x.copy()},
    takes=taking("one column more", "b"),
)
CASES["kernel_ridge"] = Case(regression.kernel_ridge, system, {**REG, **JITTER})
CASES["kernel_ridge(many)"] = Case(regression.kernel_ridge, many, {**REG, **JITTER}, taking("one column more", "y"))
CASES["KernelRidge.predict"] = Case(
    method("predict"),
    lambda x: {"of": regression.KernelRidge(np.ones(x.shape[1]), 0.5), "k_test_train": x},
    takes=taking(ROWS, "k_test_train"),
)
CASES["decompose"] = Case(
    lambda k_train: regression.decompose(k_train).eigenvalues,
    lambda x: {"k_train": x @ x.T},
    takes=taking("another dtype", "k_train"),
)
SPECTRUM = regression.decompose(PLAIN @ PLAIN.T)
CASES["KernelSpectrum.inverse"] = Case(SPECTRUM.inverse, scalars=REG)
CASES["KernelSpectrum.solve"] = Case(
    lambda k_train, y, **k: regression.decompose(k_train).solve(y, **k), many, REG, taking("one column more", "y")
)
for _name, _more in (("leave_one_out", {}), ("k_fold", {"folds": (2, "dim")})):
    CASES[_name] = Case(
        lambda k_train, y, name=_name, **k: getattr(regression, name)(k_train, y, **k),
        many,
        {"regs": ((0.5, 1.0), "values"), "scoring": ("mse", "choice"), **_more},
        taking("one column more", "y"),
        ONE,
    )
CASES["gradient_flow"] = Case(
    lambda k_train, y, **k: regression.gradient_flow(k_train, y, **k).train([0.5, np.inf]),
    lambda x: many(x) | {"initial": 0.5 * x},
    {"learning_rate": (0.5, "positive"), "loss": ("mean", "choice")},
    taking("None", "initial"),
)
FLOW = regression.gradient_flow(PLAIN @ PLAIN.T, PLAIN.copy())
TIMES = {"times": ((0.0, 0.5), "values")}
CASES["GradientFlow.dual_coef"] = Case(FLOW.dual_coef, scalars=TIMES)
CASES["GradientFlow.train"] = Case(FLOW.train, scalars=TIMES)
CASES["GradientFlow.predict"] = Case(
    FLOW.predict, lambda x: {"k_test_train": random_rows(3, 5)}, TIMES, taking(ROWS, "k_test_train")
)
CASES["GradientFlow.ensemble"] = Case(
    lambda of, **k: of.ensemble(**k),
    lambda x: {
        "of": regression.gradient_flow(x @ x.T, np.ones(len(x))),
        "k_test_train": x @ x.T,
        "nngp_train": x @ x.T,
        "nngp_test_train": x @ x.T,
        "nngp_test": (x * x).sum(axis=1),
    },
    TIMES,
)
CASES["gaussian_process"] = Case(
    lambda **k: regression.gaussian_process(**k).log_marginal_likelihood, system, {**REG, **JITTER}
)
for _name in ("mean", "variance", "covariance"):
    CASES[f"GaussianProcess.{_name}"] = Case(
        method(_name),
        lambda x, name=_name: (
            {"of": regression.gaussian_process(x @ x.T, np.ones(len(x)), reg=0.5), "k_test_train": x @ x.T}
            | {"mean": {}, "variance": {"k_test": (x * x).sum(axis=1)}, "covariance": {"k_test": x @ x.T}}[name]
        ),
        takes=taking(ROWS, "k_test_train") if _name == "mean" else frozenset(),
    )

CASES["KernelOperator"] = Case(
    lambda x, **k: regression.KernelOperator(linear, x, **k) @ np.ones(len(x), x.dtype),
    lambda x: {"x": x},
    {"dtype": ("float64", "optional choice"), **MEMORY},
    taking(ALONE, "x"),
)
CASES["KernelOperator(matrix)"] = Case(
    lambda kernel: regression.KernelOperator(kernel).diagonal(),
    lambda x: {"kernel": x @ x.T},
    takes=taking("another dtype", "kernel"),
)
CASES["KernelOperator.__matmul__"] = Case(
    lambda of, v: of @ v,
    lambda x: {"of": regression.KernelOperator(linear, x), "v": x},
    takes=taking("one column more, another dtype", "v"),
)
CASES["KernelOperator.diagonal"] = Case(
    lambda x: regression.KernelOperator(linear, x).diagonal(), lambda x: {"x": x}, takes=taking(ALONE, "x")
)
CASES["KernelOperator.block"] = Case(
    lambda x: regression.KernelOperator(linear, x).block(None, np.array([0])),
    lambda x: {"x": x},
    takes=taking(ALONE, "x"),
)
CASES["KernelOperator.predict"] = Case(
    method("predict"),
    lambda x: {"of": regression.KernelOperator(linear, x), "x_test": 0.5 * x, "dual_coef": x},
    MEMORY,
    taking(ROWS, "x_test") | taking("one column more, another dtype", "dual_coef"),
)
CASES["conjugate_gradient"] = Case(
    lambda x, **k: regression.conjugate_gradient(regression.KernelOperator(linear, x), **k).dual_coef,
    lambda x: {"x": x, "y": x.copy(), "start": 0.1 * x},
    {**REG, "rtol": (1e-6, "positive"), "max_iterations": (100, "count")},
    taking("one column more", "x") | taking("another dtype", "y", "x", "start") | taking("None", "start"),
    frozenset({"huge"}),  # a condition number of 1e36
)
CASES["random_preconditioner"] = Case(
    lambda x, **k: regression.random_preconditioner(regression.KernelOperator(linear, x), **k),
    lambda x: {"x": x},
    {**REG, "rank": (2, "count"), **SEED},
    taking(ALONE, "x"),
)
CASES["low_rank_preconditioner"] = Case(
    regression.low_rank_preconditioner,
    lambda x: {"factor": x, "diagonal": (x * x).sum(axis=1)},
    REG,
    taking("one column more, no columns, another dtype", "factor") | taking("another dtype", "diagonal"),
)
CASES["LowRankPreconditioner.apply"] = Case(
    lambda of, v: of.apply(v),
    lambda x: {"of": regression.low_rank_preconditioner(x, (x * x).sum(axis=1), reg=0.5), "v": x.copy()},
    takes=taking("one column more, another dtype", "v"),
)


def normal_equations(x, intercept=True):
    equations = regression.NormalEquations(intercept=intercept)
    equations.update(x, x[:, 0].copy())
    return equations


CASES["NormalEquations"] = Case(
    lambda **k: regression.NormalEquations(**k).n_rows, scalars={"dtype": ("float64", "optional choice")}
)
CASES["NormalEquations.update"] = Case(
    lambda phi, y: regression.NormalEquations().update(phi, y),
    lambda x: {"phi": x, "y": x[:, 0].copy()},
    takes=taking("one column more", "phi"),
)
CASES["NormalEquations.solve"] = Case(method("solve"), lambda x: {"of": normal_equations(x)}, {**REG, **JITTER})
CASES["NormalEquations.decompose"] = Case(
    lambda of, **k: of.decompose().solve(**k), lambda x: {"of": normal_equations(x)}, REG
)
CASES["NormalEquations.merge"] = Case(lambda of: of.merge(of), lambda x: {"of": normal_equations(x)})
PATH = normal_equations(PLAIN).decompose()
CASES["RidgePath.solve"] = Case(PATH.solve, scalars=REG)
CASES["RidgePath.leave_one_out"] = Case(
    lambda phi, y, **k: PATH.leave_one_out([(phi, y)], **k).scores,
    lambda x: {"phi": PLAIN, "y": PLAIN[:, 0].copy()},
    {"regs": ((0.5, 1.0), "values"), "scoring": ("mse", "choice")},
)
CASES["Ridge.predict"] = Case(
    method("predict"),
    lambda x: {"of": regression.Ridge(np.ones(x.shape[1]), np.array(0.5), 0.5), "phi": x},
    takes=taking(ROWS, "phi"),
)

# Spectrum. A singular kernel's condition number is inf: its inverse is what is finite.

GRAM = lambda x: {"kernel": x @ x.T}  # noqa: E731
CASES["as_matrix"] = Case(spectrum.as_matrix, GRAM, takes=taking(ALONE, "kernel"))
CASES["eigenvalues"] = Case(spectrum.eigenvalues, GRAM, takes=taking("another dtype", "kernel"))
CASES["condition_number"] = Case(
    lambda kernel, **k: 1 / spectrum.condition_number(kernel, **k),
    GRAM,
    {"rtol": (1e-9, "optional")},
    taking("another dtype", "kernel"),
)
for _name in ("entropy_rank", "stable_rank", "intrinsic_dimension"):
    CASES[_name] = Case(getattr(spectrum, _name), GRAM, takes=taking("another dtype", "kernel"))
CASES["variance_rank"] = Case(
    lambda kernel, **k: float(spectrum.variance_rank(kernel, **k)),
    GRAM,
    {"eps": (0.1, "not negative")},
    taking("another dtype", "kernel"),
)
CASES["effective_dimension"] = Case(
    spectrum.effective_dimension, GRAM, {"reg": (0.5, "positive")}, taking("another dtype", "kernel")
)
CASES["kernel_alignment"] = Case(
    spectrum.kernel_alignment,
    lambda x: {"k1": x @ x.T, "k2": (x @ x.T) * (x @ x.T)},
    takes=taking("another dtype", "k1", "k2"),
)
CASES["target_alignment"] = Case(
    spectrum.target_alignment,
    lambda x: {"kernel": x @ x.T, "y": x[:, 0].copy()},
    takes=taking("another dtype", "kernel", "y") | taking("integers, bool", "y"),
)
for _name in ("hutchinson_trace", "hutchinson_diagonal", "xtrace", "xdiag"):
    _more = {"distribution": ("gaussian", "choice")} if _name == "hutchinson_trace" else {}
    CASES[_name] = Case(
        getattr(spectrum, _name),
        lambda x: {"operator": x @ x.T},
        {"n_vectors": (2, "dim"), **_more, **SEED},
        taking("another dtype, sparse", "operator"),
    )
LANCZOS = {"n_vectors": (2, "dim"), "steps": (3, "count"), **SEED, **MEMORY}
CASES["spectral_density"] = Case(
    lambda **k: spectrum.spectral_density(**k).trace(np.square),
    lambda x: {"operator": x @ x.T},
    LANCZOS,
    taking("another dtype, sparse", "operator"),
)
CASES["log_determinant"] = Case(
    spectrum.log_determinant,
    lambda x: {"operator": x @ x.T},
    {**REG, **LANCZOS},
    taking("another dtype, sparse", "operator"),
)
DENSITY = spectrum.spectral_density(PLAIN @ PLAIN.T, n_vectors=2, steps=3, seed=3)
CASES["SpectralDensity.trace"] = Case(DENSITY.trace, scalars={"function": (np.exp, "callable")})
CASES["SpectralDensity.density"] = Case(
    DENSITY.density,
    lambda x: {"grid": x[:, 0].copy()},
    {"width": (0.1, "optional")},
    taking("one row more, one column more, another dtype, None", "grid"),
)

# Names that are no calls: modules and abstract classes, and records, which only the named call makes.
NO_CALLS = {"FeatureMap", "__version__"}
MADE_BY = {
    "Backend": "get_backend",
    "KernelPair": "nngp_and_ntk",
    "Activation": "closed_form",
    "HyperparameterGradient": "ntk_hyperparameter_gradient",
    "KernelGradient": "ntk_vjp",
    "Zonal": "zonal",
    "ZonalTable": "Zonal.table",
    "GramError": "gram_error",
    "PivotedCholesky": "random_pivoted_cholesky",
    "CholeskyFactor": "factorize",
    "KernelRidge": "kernel_ridge",
    "KernelSpectrum": "decompose",
    "GradientFlow": "gradient_flow",
    "Ensemble": "GradientFlow.ensemble",
    "GaussianProcess": "gaussian_process",
    "IterativeSolution": "conjugate_gradient",
    "LowRankPreconditioner": "low_rank_preconditioner",
    "RidgeChoice": "leave_one_out",
    "RidgePath": "NormalEquations.decompose",
    "Ridge": "NormalEquations.solve",
    "Estimate": "hutchinson_trace",
    "SpectralDensity": "spectral_density",
}
# Methods without arguments of the caller, or that only other parts of the package call.
PLAIN_METHODS = {
    "Backend.launch",
    "Backend.to_numpy",
    "Backend.synchronize",
    "CholeskyFactor.log_determinant",
    "CountSketch.apply_unchecked",
    "CountSketch.adjoint_unchecked",
    "SparseJL.apply_unchecked",
    "SparseJL.adjoint_unchecked",
    "TensorSketch.check_factors",
    "TensorSketch.check_cotangent",
    "TensorSRHT.check_factors",
    "TensorSRHT.check_cotangent",
}
CASES["get_backend"] = Case(
    lambda x: ntkfast.get_backend(x).name,
    lambda x: {"x": x},
    takes=taking(
        "NaN, inf, -inf, no rows, no columns, one axis more, one axis less, float16, integers, bool, complex, object, "
        "strings, big-endian, long double",
        "x",
    )
    | taking(ALONE, "x"),
)
CASES["available_backends"] = Case(ntkfast.available_backends)
