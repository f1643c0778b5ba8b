"""The README's Python examples run as they stand, one after another, and give sensible numbers."""

import pathlib
import re

README = pathlib.Path(__file__).parents[1] / "README.md"


def test_python_examples_run():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    assert len(blocks) >= 2
    names: dict = {}
    for block in blocks:
        exec(compile(block, str(README), "exec"), names)
    assert names["prediction"].shape == (100,)
    assert names["error"] < 0.1
    assert names["scores"].shape == (5, 15)
    theta = names["theta"]
    assert abs(names["estimate"] - theta).max() < 0.1 * abs(theta).max()
