"""Feature maps: time, the ratio to their own matrix product, and the Gram error, side by side."""

import numpy as np

from ntkfast.analytic import ntk
from ntkfast.features import (
    ArcCosineFeatures,
    NTKPolynomialSketch,
    NTKRandomFeatures,
    NTKSketch,
    OnePassFeatures,
    nystroem,
)

from .common import ratio, relative_error, rows

N, D, DEPTH = 2000, 784, 3

MAPS = {
    "one-pass": lambda m: OnePassFeatures(D, m, depth=DEPTH, seed=0),
    "random features": lambda m: NTKRandomFeatures(D, m, depth=DEPTH, seed=0),
    "polynomial sketch": lambda m: NTKPolynomialSketch(D, m, depth=DEPTH, seed=0),
    "recursive sketch": lambda m: NTKSketch(D, m, depth=DEPTH, seed=0),
}


class Maps:
    params = [list(MAPS), [1024, 4096]]
    param_names = ["map", "n_features"]
    timeout = 180

    def setup(self, name, n_features):
        x = rows(N, D)
        self.x = x / np.linalg.norm(x, axis=1, keepdims=True)
        self.phi = MAPS[name](n_features)
        self.phi(self.x)

    def time_apply(self, name, n_features):
        self.phi(self.x)

    def peakmem_apply(self, name, n_features):
        self.phi(self.x)

    def track_gram_error(self, name, n_features):
        return relative_error(self.phi(self.x), ntk(self.x.astype(np.float64), depth=DEPTH))


class OnePass:
    """The default map beside two products: with a matrix of its width, and with the narrower one that it has."""

    params = [[1, 3, 10]]
    param_names = ["depth"]

    def setup(self, depth):
        self.x = rows(N, D)
        self.phi = OnePassFeatures(D, 4096, depth=depth, seed=0)
        self.w = np.random.default_rng(0).standard_normal((D, 4096), dtype="float32")
        self.ct = self.phi(self.x)

    def track_ratio_to_product(self, depth):
        return ratio(lambda: self.phi(self.x), lambda: self.x @ self.w)

    def track_ratio_to_own_product(self, depth):
        own = np.ascontiguousarray(self.w[:, : self.phi.n_directions])
        return ratio(lambda: self.phi(self.x), lambda: self.x @ own)

    def time_vjp(self, depth):
        self.phi.vjp(self.x, self.ct)

    def time_set_up(self, depth):
        """A new seed each time: directions are made, tables are memoised."""
        self.seed = getattr(self, "seed", 0) + 1
        OnePassFeatures(D, 4096, depth=depth, seed=self.seed)(self.x[:1])


class Others:
    def setup(self):
        self.x = rows(N, D)
        self.arccos = ArcCosineFeatures(D, 4096, order=1, seed=0)
        self.landmarks = nystroem(self.x, 256, depth=DEPTH, seed=0)
        self.time_arc_cosine(), self.time_nystroem_apply()

    def time_arc_cosine(self):
        self.arccos(self.x)

    def time_nystroem_choose_256(self):
        nystroem(self.x, 256, depth=DEPTH, seed=0)

    def time_nystroem_apply(self):
        self.landmarks(self.x)
