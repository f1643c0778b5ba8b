"""Good calls of what differentiates finite networks; trees of parameters have tests of their own (empirical/)."""

import numpy as np
from hostile_arguments import PLAIN
from hostile_cases import MEMORY, REG, ROWS, Case, method, pair, random_rows, taking

from ntkfast import autodiff, empirical
from ntkfast.layers import Dense, Sequential, Tanh

NET = Sequential(Dense(3, b_std=0.3), Tanh(), Dense(2, b_std=0.3))
LAYERS = {"autodiff": ("layers", "engine")}
ALGORITHM = {"output": ("full", "choice"), "method": ("auto", "choice"), **LAYERS, **MEMORY}


def params_of(x):
    return NET.init(x.shape[1:], seed=0, dtype="float64")


def targets(x):
    return random_rows(len(x), 2)


def network(x):
    return {"params": params_of(x), "x": x}


def of_network(function):
    """Call a function of (net, params, ...)."""
    return lambda params, **arguments: function(NET, params, **arguments)


def entries(function):
    """The arrays of a dictionary that a function returns."""
    return lambda *arguments, **keywords: list(function(*arguments, **keywords).values())


def factors(params, x):
    return [found.jacobian() for found in empirical.jacobian_factors(NET, params, x).values()]


def fitted(params, x):
    return empirical.linearize(NET, params).fit(x, targets(x), reg=0.5)


def numbers(params, x, **keywords):
    report = empirical.trainability(NET, params, x, **keywords)
    return [report.kernel, report.eigenvalues, 1 / report.condition_number, report.effective_dimension]


TWO_SIDES = taking(f"{ROWS}, None", "x2") | taking(ROWS, "x1")
NETWORK_CASES: dict[str, Case] = {
    "empirical_ntk": Case(
        of_network(empirical.empirical_ntk), lambda x: {"params": params_of(x), **pair(x)}, ALGORITHM, TWO_SIDES
    ),
    "layer_ntks": Case(
        of_network(entries(empirical.layer_ntks)),
        lambda x: {"params": params_of(x), **pair(x)},
        ALGORITHM,
        TWO_SIDES,
    ),
    "jacobian": Case(of_network(entries(empirical.jacobian)), network, LAYERS | MEMORY, taking(ROWS, "x")),
    "jacobian_factors": Case(factors, network, takes=taking(ROWS, "x")),
    "ntk_operator": Case(
        lambda params, x1, x2, **keywords: empirical.ntk_operator(NET, params, x1, x2, **keywords) @ np.ones(10),
        lambda x: {"params": params_of(PLAIN), **pair(PLAIN)},
        LAYERS | MEMORY,
        taking("None", "x2") | taking(ROWS, "x1"),
        skips=taking(ROWS, "x2"),
    ),
    "linearize": Case(
        lambda params, x, **keywords: empirical.linearize(NET, params, **keywords).predict(x, params),
        network,
        LAYERS,
        taking(ROWS, "x"),
    ),
    "LinearizedModel.predict": Case(
        lambda of, params, x, **keywords: of.predict(x, params, **keywords),
        lambda x: {
            "of": empirical.linearize(NET, params_of(x)),
            "params": NET.init(x.shape[1:], seed=1, dtype="float64"),
            "x": x,
        },
        MEMORY,
        taking(ROWS, "x"),
    ),
    "LinearizedModel.tangent": Case(
        lambda params, x, **keywords: empirical.linearize(NET, params).tangent(x, params, **keywords),
        network,
        MEMORY,
        taking(ROWS, "x"),
    ),
    "LinearizedModel.fit": Case(
        lambda params, x, y, **keywords: empirical.linearize(NET, params).fit(x, y, **keywords).dual_coef,
        lambda x: {**network(x), "y": targets(x)},
        REG | MEMORY,
    ),
    "LinearizedFit.predict": Case(
        method("predict"), lambda x: {"of": fitted(params_of(x), x), "x": x}, MEMORY, taking(ROWS, "x")
    ),
    "empirical_ntk_vjp": Case(
        of_network(empirical.empirical_ntk_vjp),
        lambda x: {"params": params_of(x), **pair(x), "ct": random_rows(len(x), len(x))},
        {"output": ("trace", "choice"), **MEMORY},
        taking("None", "x2"),
    ),
    "directional_vjp": Case(
        lambda params, x, ct: empirical.directional_vjp(NET, params, x, params, ct),
        lambda x: {**network(x), "ct": targets(x)},
    ),
    "trainability": Case(
        numbers,
        lambda x: {**network(x), "y": targets(x)},
        {"eps": (0.1, "share"), "reg": (0.5, "positive"), "method": ("auto", "choice"), **LAYERS, **MEMORY},
        taking("None, one column more, another dtype", "y"),
    ),
    "Layer.__call__": Case(NET, network, takes=taking(f"{ROWS}, one axis more", "x")),
    "get_autodiff": Case(lambda engine: autodiff.get_autodiff(engine).name, scalars={"engine": ("layers", "engine")}),
}
NETWORK_MADE_BY = {
    "LinearizedModel": "linearize",
    "LinearizedFit": "LinearizedModel.fit",
    "NTKGradient": "empirical_ntk_vjp",
    "Trainability": "trainability",
}
# Protocols, and what an engine's check returns; the plot of a report.
NETWORK_NO_CALLS = {"Autodiff", "Checked", "SupportsDirections", "SupportsFactors", "Trainability.plot"}
