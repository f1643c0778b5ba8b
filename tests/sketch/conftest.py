"""In the simulator, a thousand times slower, sketches only run where their bits are compared with the reference's."""

import pytest

from ntkfast.kernels import _kernel
from ntkfast.kernels._cuda import SIMULATED

COMPARED = "test_targets_agree"


@pytest.fixture(autouse=True)
def _small_in_the_simulator(request, monkeypatch):
    if not SIMULATED:
        return
    name = request.node.name
    if not (name.startswith(COMPARED) and "numpy-cudasim-float32" in name):
        pytest.skip("too slow in the simulator; its kernels are tested there")
    monkeypatch.setattr(_kernel, "BLOCK", 8)
