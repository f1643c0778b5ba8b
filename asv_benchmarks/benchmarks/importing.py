"""What a user pays before the first result."""


class Import:
    """A fresh interpreter each time."""

    def timeraw_import(self):
        return "import ntkfast"

    def timeraw_first_exact_kernel(self):
        """Import, and compilation or the disk cache of Numba."""
        return "import numpy, ntkfast; ntkfast.ntk(numpy.ones((2, 3)), depth=3)"
