"""Exceptions that ntkfast raises beside ValueError and TypeError."""


class NtkfastError(Exception):
    """Base class of the library's own exceptions."""


class BackendUnavailableError(NtkfastError, ImportError):
    """A backend was asked for whose package or device is missing."""


class MixedBackendError(NtkfastError, TypeError):
    """Arrays of different backends met in one call; nothing is transferred silently."""


class NotPositiveDefiniteError(NtkfastError, ValueError):
    """A kernel matrix could not be factorized, even with the largest jitter of the ladder."""


class ConvergenceError(NtkfastError, RuntimeError):
    """An iterative solver stopped at its iteration limit above the wanted residual."""


class MemoryBudgetError(NtkfastError, MemoryError):
    """`max_memory` is below what the smallest possible tile needs."""
