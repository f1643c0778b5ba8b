"""Type aliases of the public signatures."""

from typing import Any, TypeAlias

# A NumPy or CuPy array. CuPy is optional and untyped, so the alias is deliberately wide;
# the backend dispatch (ntkfast.backends) is what refuses everything else at run time.
Array: TypeAlias = Any
