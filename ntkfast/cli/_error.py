"""The error that the command line shows as one line."""

from ..errors import NtkfastError

__all__ = ["CliError"]


class CliError(NtkfastError):
    """A file, option or installation that the user can mend; ends the command with exit code 2."""
