"""Every layer of the library passes the conformance suite that it offers to authors, on every backend."""

import inspect

import numpy as np
import pytest
from layers.settings import INDEX_SETTINGS, SETTINGS

import ntkfast.layers as layers
from ntkfast.testing import check_layer


def _name(setting):
    layer, of = setting
    return f"{type(layer).__name__}-{of.shape if isinstance(of, np.ndarray) else of}"


@pytest.mark.parametrize("setting", SETTINGS, ids=_name)
def test_layer(setting, backend):
    layer, in_shape = setting
    x = np.random.default_rng(3).standard_normal((3, *in_shape))
    check_layer(layer, in_shape, x=backend.asarray(x))


@pytest.mark.parametrize("setting", INDEX_SETTINGS, ids=_name)
def test_layer_of_integers(setting, backend):
    layer, x = setting
    check_layer(layer, x.shape[1:], x=backend.asarray(x))


@pytest.mark.parametrize("n", [1, 5])
@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("setting", SETTINGS[::5], ids=_name)
def test_numbers_of_samples_and_cotangents(setting, n, k):
    layer, in_shape = setting
    check_layer(layer, in_shape, n=n, k=k, seed=8)


def test_every_layer_has_settings():
    def classes(layer):
        yield type(layer)
        for _, child in layer.children():
            yield from classes(child)

    tested = {cls for layer, _ in SETTINGS + INDEX_SETTINGS for cls in classes(layer)}
    offered = {cls for cls in vars(layers).values() if isinstance(cls, type) and issubclass(cls, layers.Layer)}
    assert tested == {cls for cls in offered if not inspect.isabstract(cls)}
