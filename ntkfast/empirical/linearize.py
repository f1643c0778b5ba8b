"""First-order Taylor model of a network in its parameters, and regression with it.

    f_lin(theta, x) = f(theta_0, x) + J(x) (theta - theta_0)

A least-squares fit of the model with the penalty reg |theta - theta_0|^2 has the solution

    theta - theta_0 = J(X)^T (Theta(X, X) + reg I)^-1 (y - f(theta_0, X)),

so that it predicts what kernel regression with the NTK does, by one forward and one tangent pass per new sample.
"""

from dataclasses import dataclass, field
from typing import Any

from .._check import check_range, check_real, quiet
from .._tree import Tree, flatten, pick, rebuild, tree_map
from .._typing import Array
from ..autodiff import Autodiff, Checked, get_autodiff
from ..autodiff._inputs import check_network
from ..layers._inputs import refuse_tied
from ..regression import kernel_ridge
from ._inputs import check_direction, check_like
from ._passes import Directions, Passes
from .ntk import empirical_ntk

__all__ = ["LinearizedFit", "LinearizedModel", "linearize"]


@dataclass(frozen=True, slots=True, eq=False)
class LinearizedModel:
    """First-order Taylor model of a network around parameters; made by `linearize`.

    Attributes
    ----------
    fun : Layer or callable
    params : tree
        theta_0.
    engine : Autodiff
    """

    fun: Any
    params: Tree = field(repr=False)
    engine: Autodiff

    def predict(self, x: Array, new_params: Tree, *, max_memory: int | None = None) -> Array:
        """The model at other parameters, f(params, x) + J(x) (new_params - params).

        Parameters
        ----------
        x : array, shape (n, *s)
        new_params : tree
            Like `params`; buffers may be left out, and count as those of `params`.
        max_memory : int, optional
            Bytes for passes; default a quarter of what is free.

        Returns
        -------
        array, shape (n, k)

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.layers import Dense
        >>> net = Dense(1, W_std=1.0)  # linear in its weight, so that the model is the network
        >>> model = linearize(net, net.init((1,), seed=0, dtype="float64"))
        >>> model.predict(np.array([[2.0]]), {"weight": np.array([[3.0]])})
        array([[6.]])
        """
        checked = self._check(x)
        new = check_direction(new_params, checked.entries, "new_params")
        return self._along(checked, {path: new[path] - old for path, old in checked.entries.items()}, max_memory)

    def tangent(self, x: Array, direction: Tree, *, max_memory: int | None = None) -> Array:
        """The derivative of the network along a direction of the parameters, J(x) direction.

        Parameters
        ----------
        x : array, shape (n, *s)
        direction : tree
            Like `params`; buffers may be left out.
        max_memory : int, optional
            Bytes for passes; default a quarter of what is free.

        Returns
        -------
        array, shape (n, k)

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.layers import Dense
        >>> net = Dense(1, W_std=1.0)
        >>> model = linearize(net, net.init((1,), seed=0, dtype="float64"))
        >>> model.tangent(np.array([[2.0]]), {"weight": np.array([[3.0]])})
        array([[6.]])
        """
        checked = self._check(x)
        directions = check_direction(direction, checked.entries)
        with quiet():
            tangent = self._passes(checked, max_memory).push(_column(directions))[:, :, 0]
        return check_range(tangent, "the tangent")

    def fit(self, x: Array, y: Array, *, reg: float, max_memory: int | None = None) -> "LinearizedFit":
        """Fit the model by least squares with the penalty reg |new_params - params|^2.

        Parameters
        ----------
        x : array, shape (n, *s)
        y : array, shape (n, k)
            Targets, in the dtype of the parameters.
        reg : float
            Ridge, absolute, >= 0.
        max_memory : int, optional
            Bytes for passes and for temporaries of the kernel; default a quarter of what is free.

        Returns
        -------
        LinearizedFit

        Raises
        ------
        TypeError, ValueError
            Arguments that do not fit each other, NaN or inf, negative `reg`.
        NotPositiveDefiniteError
            Theta(x, x) + reg I has no Cholesky factor, even with the jitter that `ntkfast.regression.factorize` adds
            to a singular matrix.
        OverflowError
            The outputs, the kernel or the solution leave the range of their dtype.

        Notes
        -----
        Cost: the full NTK of the samples, and (n k)^3 / 3 operations. Memory: the matrix, (n k)^2 numbers. For more
        samples, solve with `ntk_operator` and conjugate gradients.
        Accuracy: relative error about eps times the condition number of Theta + reg I. With reg = 0 and a singular
        kernel (repeated samples, more samples and outputs than parameters) the fit has `LinearizedFit.jitter` > 0.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.layers import Dense
        >>> net = Dense(1, W_std=1.0)
        >>> model = linearize(net, net.init((1,), seed=0, dtype="float64"))
        >>> fit = model.fit(np.array([[1.0], [2.0]]), np.array([[3.0], [6.0]]), reg=1e-9)
        >>> fit.predict(np.array([[5.0]])).round(6)
        array([[15.]])
        """
        checked = self._check(x)
        reg = check_real(reg, "reg", minimum=0)
        like = next(iter(checked.entries.values()))
        y = check_like(y, "y", (len(x), checked.n_outputs), like)
        with quiet():
            passes = self._passes(checked, max_memory)
            residual = check_range(y - passes.outputs(), "the outputs of the network")
            theta = empirical_ntk(
                self.fun, self.params, checked.x1, output="full", autodiff=self.engine, max_memory=max_memory
            )
            matrix = theta.transpose(0, 2, 1, 3).reshape(y.size, y.size)
            ridge = kernel_ridge(matrix, residual.reshape(-1), reg=reg, overwrite=True)
            dual = ridge.dual_coef.reshape(y.shape)
            step = {path: array[0] for path, array in passes.pull(dual[:, :, None]).items()}
        for path, array in step.items():
            check_range(array, f"the step of {path!r}")
        return LinearizedFit(self, pick(self.params, step), dual, reg, ridge.jitter)

    def _check(self, x: Array) -> Checked:
        with quiet():
            return self.engine.check(self.fun, self.params, x)

    def _passes(self, checked: Checked, max_memory: int | None) -> Passes:
        return Passes(self.engine, self.fun, self.params, checked.x1, checked, max_memory)

    def _along(self, checked: Checked, step: Directions, max_memory: int | None) -> Array:
        with quiet():
            passes = self._passes(checked, max_memory)
            prediction = passes.outputs() + passes.push(_column(step))[:, :, 0]
        return check_range(prediction, "the prediction")


@dataclass(frozen=True, slots=True, eq=False)
class LinearizedFit:
    """A fitted first-order model.

    Attributes
    ----------
    model : LinearizedModel
    step : tree
        theta - theta_0, like the model's parameters, without buffers.
    dual_coef : array, shape (n, k)
        (Theta + (reg + jitter) I)^-1 (y - f(theta_0, X)).
    reg : float
        The ridge asked for.
    jitter : float
        What had to be added to it to solve; 0 almost always.
    """

    model: LinearizedModel
    step: Tree = field(repr=False)
    dual_coef: Array = field(repr=False)
    reg: float
    jitter: float

    @property
    def params(self) -> Tree:
        """The fitted parameters theta, a tree as the model's."""
        old, step = flatten(self.model.params), flatten(self.step)
        return rebuild(self.model.params, {path: a + step[path] if path in step else a for path, a in old.items()})

    def predict(self, x: Array, *, max_memory: int | None = None) -> Array:
        """f(theta_0, x) + J(x) step, shape (n, k); what kernel regression with the NTK predicts.

        Examples
        --------
        >>> import numpy as np
        >>> from ntkfast.layers import Dense
        >>> net = Dense(1, W_std=1.0)
        >>> model = linearize(net, net.init((1,), seed=0, dtype="float64"))
        >>> model.fit(np.array([[1.0]]), np.array([[4.0]]), reg=0.0).predict(np.array([[2.0]])).round(10)
        array([[8.]])
        """
        checked = self.model._check(x)
        return self.model._along(checked, check_direction(self.step, checked.entries, "step"), max_memory)


def linearize(fun: Any, params: Tree, *, autodiff: str | Autodiff = "layers") -> LinearizedModel:
    """First-order Taylor model of a network in its parameters.

    Parameters
    ----------
    fun : Layer or callable
        A network of `ntkfast.layers`, or a function of (params, x) for the other engines.
    params : tree
        Parameters theta_0 around which the model is taken; copied, so that training may go on in their memory.
    autodiff : str or Autodiff
        Engine; see `ntkfast.autodiff.get_autodiff`.

    Returns
    -------
    LinearizedModel
        With `predict` (at other parameters), `tangent` and `fit`.

    Raises
    ------
    TypeError, ValueError
        `fun` is not what the engine differentiates; a leaf of `params` that is no array; two in one memory. Whether
        `params` and samples fit the network is checked when samples come.
    BackendUnavailableError
        The engine's package is missing.

    Notes
    -----
    Error of the model: of second order in the distance from `params`. Exact for networks linear in their parameters.
    Cost of a prediction: two forward passes. Backends: numpy, cupy.

    References
    ----------
    Lee, Xiao, Schoenholz, Bahri, Novak, Sohl-Dickstein, Pennington. Wide neural networks of any depth evolve as linear
    models under gradient descent. NeurIPS 2019, arXiv 1902.06720.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.layers import Dense, Sequential, Tanh
    >>> net = Sequential(Dense(8), Tanh(), Dense(1))
    >>> params = net.init((3,), seed=0, dtype="float64")
    >>> model = linearize(net, params)
    >>> x = np.ones((2, 3))
    >>> bool((model.predict(x, params) == net.forward(params, x)[0]).all())
    True
    """
    engine = get_autodiff(autodiff)
    if engine.name == "layers":
        check_network(fun)
    elif not callable(fun):
        raise TypeError(f"expected fun to be a function of (params, x), got {fun!r}")
    refuse_tied(list(flatten(params).items()))
    return LinearizedModel(fun, tree_map(lambda _, array: array.copy(), params), engine)


def _column(arrays: Directions) -> Directions:
    return {path: array[None] for path, array in arrays.items()}
