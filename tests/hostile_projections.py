"""Good calls of what projects Jacobians, and of what is done with the projections."""

import numpy as np
from hostile_arguments import PLAIN
from hostile_cases import JITTER, MEMORY, REG, ROWS, SEED, SKETCHES, Case, method, random_rows, taking
from hostile_networks import LAYERS, NET, network, targets

from ntkfast import projection, sketch

PROJECTIONS = {
    "TensorProjection": {"algorithm": ("auto", "choice")},
    "KroneckerProjection": {},
    "MaskedProjection": {"blow_up": (2, "count"), "nnz": (2, "count")},
}
SHAPES = {"w": (4, 3), "b": (4,)}


def make(name, combine="sum", sketch_dim=8):
    return getattr(projection, name)(sketch_dim, combine=combine, seed=3)


def arrays(x, width=3):
    """Gradients of a weight and of a bias with the samples of x."""
    return {"w": x[:, :, None] * np.arange(1.0, 1 + width), "b": x}


def project_arrays(of, w, b):
    return projection.project({"w": w, "b": b}, of)


def projected(params, x, cotangents=None, **keywords):
    return projection.project_jacobian(NET, params, x, make("TensorProjection"), cotangents=cotangents, **keywords)


def columns_projected(of, params, x, **keywords):
    return projection.project_jacobian(NET, params, x, of, **keywords)


def hashed(x):
    """A sketch of all parameters as columns."""
    return sketch.SparseJL(3 * x.shape[1] + 11, 8, seed=3)


def widths(params, x, cotangents, sketch_dim, **keywords):
    found = projection.allocate_dims(NET, params, x, sketch_dim, cotangents=cotangents, **keywords)
    assert sum(found.values()) == sketch_dim
    return [float(width) for width in found.values()]


def numbers(params, x, **keywords):
    return projection.projection_error(NET, params, x, make("TensorProjection"), **keywords)


def fit(x):
    return projection.projected_regression(x, x[:, 0].copy(), reg=0.5)


PROJECTION_CASES: dict[str, Case] = {
    "project_jacobian": Case(projected, network, LAYERS | MEMORY, taking(ROWS, "x")),
    "project_jacobian(cotangents)": Case(
        projected, lambda x: {**network(x), "cotangents": targets(x)}, LAYERS | MEMORY, taking("None", "cotangents")
    ),
    "project_jacobian(columns)": Case(
        columns_projected, lambda x: {"of": hashed(x), **network(x)}, LAYERS | MEMORY, taking(ROWS, "x")
    ),
    "allocate_dims": Case(
        widths,
        lambda x: {**network(x), "cotangents": targets(x)},
        {"sketch_dim": (64, "widths of four"), "rule": ("energy", "choice"), **LAYERS, **MEMORY},
        taking("None", "cotangents"),
    ),
    "projection_error": Case(
        numbers,
        network,
        {"output": ("full", "choice"), "n_rows": (4, "optional dim"), **LAYERS, **MEMORY},
        taking(ROWS, "x"),
    ),
    "projection_error(cotangents)": Case(
        numbers, lambda x: {**network(x), "cotangents": targets(x)}, {}, taking("None", "cotangents")
    ),
    "squared_error": Case(
        lambda y, targets: projection.squared_error(targets)(y), lambda x: {"y": 0.5 * x, "targets": x}
    ),
    "suggest_dim": Case(
        projection.suggest_dim,
        scalars={
            "eps": (0.5, "positive"),
            "delta": (0.1, "positive share"),
            "sketch": ("SparseJL", "choice"),
            "n_pairs": (3, "count"),
        },
    ),
    "projected_ntk": Case(
        projection.projected_ntk,
        lambda x: {"phi1": x, "phi2": 0.5 * x},
        {"output": ("trace", "choice")},
        taking(ROWS, "phi1", "phi2") | taking("None", "phi2"),
    ),
    "projected_ntk(outputs)": Case(
        lambda **k: projection.projected_ntk(output="full", **k),
        lambda x: {"phi1": np.stack([x, 2 * x], axis=1), "phi2": np.stack([0.5 * x, x[::-1]], axis=1)},
        takes=taking(ROWS, "phi1", "phi2") | taking("None", "phi2"),
    ),
    "projected_regression": Case(
        lambda **k: projection.projected_regression(**k).weights,
        lambda x: {"phi": x, "y": x[:, 0].copy()},
        {**REG, "output": ("trace", "choice"), **MEMORY},
        taking("one column more", "phi"),
    ),
    "projected_regression(outputs)": Case(
        lambda **k: projection.projected_regression(**k).weights,
        lambda x: {"phi": np.stack([x, 2 * x], axis=1), "y": x[:, :1] * [1.0, 2.0]},
        {**REG, "output": ("full", "choice"), **MEMORY},
        taking("one column more", "phi"),
    ),
    "ProjectedRegression.predict": Case(
        method("predict"), lambda x: {"of": fit(x), "phi": x}, takes=taking(ROWS, "phi")
    ),
    "attribution": Case(
        projection.attribution,
        lambda x: {"phi_train": x, "phi_test": 0.5 * x, "weights": abs(x[:, 0])},
        {**REG, **JITTER, **MEMORY},
        taking(ROWS, "phi_test") | taking("None", "weights"),
    ),
    "average_attributions": Case(
        lambda a, b, c: projection.average_attributions([a, b], [c, c]),
        lambda x: {"a": x, "b": 0.5 * x, "c": x[0].copy()},
    ),
    "linear_datamodeling_score": Case(
        lambda of, scores, outputs: projection.linear_datamodeling_score(scores, of, outputs).per_test,
        lambda x: {
            "of": [[i % x.shape[1]] for i in range(5)] + [[]],
            "scores": x,
            "outputs": random_rows(6, len(x)),
        },
        takes=taking("one column more", "scores"),
    ),
}
for _name, _make in SKETCHES.items():
    PROJECTION_CASES[f"project({_name})"] = Case(
        lambda of, gradients, **k: projection.project(gradients, of, **k),
        lambda x, make=_make: {"of": make(x.shape[1]), "gradients": x},
        {"sample_axes": (1, "count")},
        taking(f"{ROWS}, another dtype", "gradients"),
    )
PROJECTION_CASES["project"] = PROJECTION_CASES.pop("project(CountSketch)")
for _name, _fields in PROJECTIONS.items():
    for _combine in ("sum", "concatenate"):
        _more = {"sketch_dim": (8, "width"), "combine": (_combine, "choice"), **_fields, **SEED}
        _key = _name if _combine == "sum" else f"{_name}(concatenate)"
        PROJECTION_CASES[_key] = Case(
            lambda name=_name, **k: projection.project(arrays(PLAIN), getattr(projection, name)(**k)), scalars=_more
        )
        PROJECTION_CASES[f"{_key}.project"] = Case(
            project_arrays,
            lambda x, name=_name, combine=_combine: {"of": make(name, combine), **arrays(x)},
            takes=taking("one column more, no columns", "w", "b"),
        )
    PROJECTION_CASES[f"{_name}.layout"] = Case(lambda name=_name: make(name).layout(SHAPES))
for _name in ("cross_entropy", "margin"):
    PROJECTION_CASES[_name] = Case(
        lambda of, y: of(y),
        lambda x, name=_name: {"of": getattr(projection, name)(np.arange(len(x)) % 2), "y": x},
        takes=taking("one column more, another dtype", "y"),
    )

for _name in ("value", "weights"):
    PROJECTION_CASES[f"margin.{_name}"] = Case(
        method(_name),
        lambda x: {"of": projection.margin(np.arange(len(x)) % 2), "y": x},
        takes=taking("one column more, another dtype", "y"),
    )

PROJECTION_MADE_BY = {
    "ProjectionError": "projection_error",
    "ProjectedRegression": "projected_regression",
    "LinearDatamodelingScore": "linear_datamodeling_score",
}
# The base class of the sketches.
PROJECTION_NO_CALLS = {"JacobianSketch", "JacobianSketch.layout"}
