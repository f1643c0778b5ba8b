"""What the host waits for, and sends, while gradients are projected on a device; counted on the stand-in for CuPy."""

import dataclasses
import functools

import fakecupy
import numpy as np
import pytest
from empirical.test_waits import IMAGE, deep
from projection.test_device import ALL_SKETCHES, PROJECTIONS, SKETCHES, P, at, leaves, normal

from ntkfast._tree import tree_map
from ntkfast.layers import Dense, Embedding, GlobalAvgPool, ReLU, Sequential
from ntkfast.projection import (
    average_attributions,
    cross_entropy,
    margin,
    project,
    project_jacobian,
    projected_ntk,
    projected_regression,
)


@pytest.fixture
def seen(monkeypatch):
    """A list that grows whenever the host needs something of the device, or sends arrays to it."""
    found = []

    def counting(where, name, method):
        def call(*arguments, **keywords):
            if name != "asarray" or not isinstance(arguments[0], fakecupy.ndarray):
                found.append(name)
            return method(*arguments, **keywords)

        monkeypatch.setattr(where, name, call, raising=False)

    fakecupy.install(monkeypatch)
    for name in ("__bool__", "__float__", "__int__", "get"):
        counting(fakecupy.ndarray, name, getattr(fakecupy.ndarray, name))
    for name in ("asarray", "unique", "nonzero"):  # the host is told how many entries the last two find
        counting(fakecupy, name, getattr(fakecupy, name))
    return found


def count(seen, call):
    """What a call needs of the device, once its tables are there."""
    call()
    seen.clear()
    call()
    return list(seen)


@pytest.mark.parametrize("name", [*PROJECTIONS, "sparsejl", "grass", "blocksrht", "gaussian"])
@pytest.mark.parametrize("given", [False, True])
def test_waits_grow_neither_with_samples_nor_with_layers(seen, name, given):
    """There are those of the checks of samples, parameters, cotangents, outputs and result."""
    for n, blocks in ((2, 1), (7, 1), (2, 3)):
        net, x = deep(blocks), fakecupy.asarray(normal(n, *IMAGE))
        params = tree_map(lambda _, leaf: fakecupy.asarray(leaf), net.init(IMAGE, seed=0, dtype="float64"))
        if name in PROJECTIONS:  # concatenated parts of many arrays need more columns
            sketch = dataclasses.replace(PROJECTIONS[name], sketch_dim=200)
        else:
            sketch = SKETCHES[name](sum(array.size for array in leaves(params)))
        ct = fakecupy.asarray(normal(n, 2)) if given else None
        found = count(seen, functools.partial(project_jacobian, net, params, x, sketch, cotangents=ct))
        assert found == ["__float__"] * (5 if given else 4)


@pytest.mark.parametrize("name", [*PROJECTIONS, "sparsejl", "grass", "blocksrht", "gaussian"])
def test_waits_of_tables(seen, name):
    """The tokens of all samples come to the host at once, if they come."""
    net = Sequential(Embedding(9, 4), Dense(3), ReLU(), GlobalAvgPool(), Dense(2))
    params = tree_map(lambda _, leaf: fakecupy.asarray(leaf), net.init((5,), seed=0, dtype="float64"))
    sketch = PROJECTIONS[name] if name in PROJECTIONS else SKETCHES[name](36 + 12 + 6)
    for n in (2, 13):
        x = fakecupy.asarray(np.random.default_rng(n).integers(0, 9, (n, 5)))
        found = count(seen, functools.partial(project_jacobian, net, params, x, sketch))
        assert found.count("get") <= 1
        waits = [what for what in found if what not in ("get", "asarray")]
        assert len(waits) <= 5, waits


@pytest.mark.parametrize("function", [cross_entropy, margin])
def test_waits_of_labels(seen, function):
    net, params, x = at(fakecupy.asarray, "mlp")
    loss = function(fakecupy.asarray(np.arange(len(x)) % 3))
    found = count(seen, lambda: project_jacobian(net, params, x, PROJECTIONS["fft"], cotangents=loss))
    assert len(found) <= 10
    assert set(found) <= {"__float__", "__int__"}


@pytest.mark.parametrize("name", [*ALL_SKETCHES, *PROJECTIONS])
def test_waits_of_gradients_at_hand(seen, name):
    """One look at the result, however many arrays and samples."""
    sketch = PROJECTIONS[name] if name in PROJECTIONS else ALL_SKETCHES[name](P)
    for n, parts in ((3, 5), (20, 15)):
        whole = fakecupy.asarray(normal(n, P))
        width = P // parts
        arrays = {str(i): whole[:, i * width : (i + 1) * width] for i in range(parts)}
        assert count(seen, lambda arrays=arrays: project(arrays, sketch)) == ["__float__"]


def test_waits_of_what_is_done_with_projections(seen):
    phi, new, y = (fakecupy.asarray(normal(n, 40)) for n in (30, 5, 30))
    fit = projected_regression(phi, y, reg=0.3)
    for call, most in (
        (lambda: projected_ntk(phi), 2),
        (lambda: projected_ntk(phi, new), 3),
        (lambda: fit.predict(new), 2),
        (lambda: average_attributions([phi, phi]), 3),
    ):
        found = count(seen, call)
        assert set(found) <= {"__float__"}
        assert len(found) <= most
