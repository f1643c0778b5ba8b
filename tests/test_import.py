"""What importing the package costs, and what it must not load."""

import json
import statistics
import subprocess
import sys

FORBIDDEN = {"cupy", "jax", "torch", "autograd", "sklearn", "matplotlib", "rich", "dask", "zarr"}

PROBE = """
import json, sys, time
start = time.perf_counter()
import numpy, numba
others = time.perf_counter() - start
import ntkfast
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "others": others, "modules": sorted({m.split(".")[0] for m in sys.modules})}))
"""


def _probe() -> dict:
    out = subprocess.run([sys.executable, "-c", PROBE], check=True, capture_output=True, text=True)
    return json.loads(out.stdout)


def test_import_loads_no_optional_package():
    assert not FORBIDDEN & set(_probe()["modules"])


def test_import_takes_under_600_ms():
    """Median of five fresh processes; on a slow or busy machine, less than three times what NumPy and Numba take."""
    probes = [_probe() for _ in range(5)]
    seconds, others = (statistics.median(probe[name] for probe in probes) for name in ("seconds", "others"))
    assert seconds < max(0.6, 3 * others)


def test_package_works_under_another_name(tmp_path):
    """Embedding: a copy of the folder under another name imports and computes."""
    import pathlib
    import shutil

    import ntkfast

    shutil.copytree(pathlib.Path(ntkfast.__file__).parent, tmp_path / "embedded_ntk")
    code = "import embedded_ntk, sys; assert 'ntkfast' not in sys.modules; print(embedded_ntk.available_backends())"
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=tmp_path)
    assert "numpy" in out.stdout
