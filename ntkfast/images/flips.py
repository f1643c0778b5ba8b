"""Images from right to left: augmentation of training sets, and of kernels."""

from collections.abc import Callable

from .._check import array_backend, check_dtype, check_images
from .._typing import Array
from ..backends import Backend, get_backend

__all__ = ["flip", "flip_augmented", "with_flips"]

Kernel = Callable[[Array, Array | None], Array]


def flip(x: Array) -> Array:
    """Images from right to left.

    Parameters
    ----------
    x : array, shape (n, h, w, c), float32 or float64

    Returns
    -------
    array, shape (n, h, w, c)
        A copy, C-contiguous.

    Raises
    ------
    TypeError, ValueError
        Not finite images of float32 or float64.

    Examples
    --------
    >>> import numpy as np
    >>> flip(np.arange(6.0).reshape(1, 2, 3, 1)).reshape(2, 3)
    array([[2., 1., 0.],
           [5., 4., 3.]])
    """
    x, _ = check_images(x, "x")
    return _flipped(x)


def with_flips(x: Array, y: Array) -> tuple[Array, Array]:
    """Training set of twice the size, in which every image also enters flipped.

    Parameters
    ----------
    x : array, shape (n, h, w, c), float32 or float64
    y : array, shape (n, ...)
        Labels or targets of any dtype.

    Returns
    -------
    (array, shape (2 n, h, w, c)), (array, shape (2 n, ...))
        Images as they are, then flipped; targets twice.

    Raises
    ------
    TypeError, ValueError
        Not finite images of float32 or float64, or not n targets.
    MixedBackendError
        Images and targets of two backends.

    Notes
    -----
    For features. With a kernel, `flip_augmented` gives the same predictions from a system of half the size.

    Examples
    --------
    >>> import numpy as np
    >>> x, y = with_flips(np.zeros((5, 8, 8, 3)), np.arange(5))
    >>> x.shape, y.tolist()
    ((10, 8, 8, 3), [0, 1, 2, 3, 4, 0, 1, 2, 3, 4])
    """
    x, backend = check_images(x, "x")
    array_backend(y, "y")
    get_backend(x, y)
    if y.ndim == 0 or y.shape[0] != x.shape[0]:
        raise ValueError(f"expected y of {x.shape[0]} rows, one per image, got shape {y.shape}")
    return backend.xp.concatenate([x, _flipped(x)]), backend.xp.concatenate([y, y])


def flip_augmented(kernel: Kernel, x1: Array, x2: Array | None = None, *, invariant: bool = True) -> Array:
    r"""Kernel of images that all count as their flipped copies, too.

        k_aug(x, y) = mean over f and g in {identity, flip} of k(f x, g y) = (k(x, y) + k(x, flip y)) / 2,

    the latter where k(flip x, flip y) = k(x, y).

    Parameters
    ----------
    kernel : callable
        ``kernel(x1, x2)`` returns the matrix of k, shape (n1, n2); x2 is None where both are the same images.
    x1 : array, shape (n1, h, w, c), float32 or float64
    x2 : array, shape (n2, h, w, c), optional
        Default: x1.
    invariant : bool
        Whether flipping both images does not change k, which takes two evaluations in place of four (three for one
        set of images). True for convolutional networks whose windows lie on the image as in a mirror: kernels of odd
        size with stride 1, and pooling over windows that cover all columns. Not so for even kernels with padding
        "SAME", strides that leave columns out or take padding on one side, and explicit padding of unequal sides.

    Returns
    -------
    array, shape (n1, n2)
        Symmetric and positive semidefinite for one set of images, and the same for flipped images.

    Raises
    ------
    TypeError, ValueError
        Not finite images of one shape and dtype; `kernel` is not callable, or returns another shape or no floats;
        `invariant` is not a bool; or one set of images shows that k is not invariant.
    MixedBackendError
        Images of two backends.

    Notes
    -----
    Ridge regression with k_aug and ridge `reg` predicts what regression on `with_flips` with k and ridge 2 `reg` does
    (Li et al. 2019): symmetry makes the coefficients of an image and of its copy equal.

    References
    ----------
    Arora, Du, Hu, Li, Salakhutdinov, Wang. On exact computation with an infinitely wide neural net. NeurIPS 2019.
    Li, Wang, Yu, Du, Hu, Salakhutdinov, Arora. Enhanced convolutional neural tangent kernels. 2019. arXiv:1911.00809.

    Examples
    --------
    >>> import numpy as np
    >>> from ntkfast.analytic import ntk
    >>> def kernel(a, b=None):
    ...     return ntk(a.reshape(len(a), -1), None if b is None else b.reshape(len(b), -1), depth=2)
    >>> x = np.random.default_rng(0).random((4, 8, 8, 3))
    >>> k = flip_augmented(kernel, x)
    >>> bool(np.allclose(k, flip_augmented(kernel, flip(x), x)))
    True
    """
    if not callable(kernel):
        raise TypeError(f"expected kernel to be a function of two arrays of images, got {type(kernel).__name__}")
    if not isinstance(invariant, bool):
        raise TypeError(f"expected invariant to be True or False, got {invariant!r}")
    x1, backend = check_images(x1, "x1")
    if x2 is None:
        return _augmented_symmetric(backend, kernel, x1, invariant)
    array_backend(x2, "x2")
    get_backend(x1, x2)
    x2, _ = check_images(x2, "x2", x1.shape[1:])
    if x1.dtype != x2.dtype:
        raise TypeError(f"expected x1 and x2 of one dtype, got {x1.dtype} and {x2.dtype}")
    lefts = [x1] if invariant else [x1, _flipped(x1)]
    pairs = [(left, right) for left in lefts for right in (x2, _flipped(x2))]
    return sum(_evaluate(kernel, *pair) for pair in pairs) / len(pairs)


def _augmented_symmetric(backend: Backend, kernel: Kernel, x: Array, invariant: bool) -> Array:
    flipped = _flipped(x)
    same, across = _evaluate(kernel, x, None), _evaluate(kernel, x, flipped)
    if not invariant:
        same = (same + _evaluate(kernel, flipped, None)) / 2
    elif float(abs(across - across.T).max()) > float(backend.xp.finfo(across.dtype).eps) ** 0.5 * float(
        abs(same).max()
    ):
        raise ValueError("expected a kernel that flipping both images leaves as it is, got another; invariant=False")
    return same / 2 + (across / 4 + across.T / 4)


def _evaluate(kernel: Kernel, x1: Array, x2: Array | None) -> Array:
    k, shape = kernel(x1, x2), (len(x1), len(x1 if x2 is None else x2))
    if getattr(k, "shape", None) != shape:
        raise ValueError(f"expected a kernel matrix of shape {shape}, got {getattr(k, 'shape', type(k).__name__)}")
    check_dtype(k, "kernel(x1, x2)")
    return k


def _flipped(x: Array) -> Array:
    return x[:, :, ::-1].copy()
