"""examples/notebook: a notebook that shows diagnoses as tables, executed by a real kernel."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from integration.bench import Bench
from integration.rig.peers import NEWEST
from integration.shell import REPOSITORY_ROOT, Shell
from tests.support import shapes

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)

EXECUTE = """
import sys, nbclient, nbformat
notebook = nbformat.read(sys.argv[1], 4)
nbclient.NotebookClient(notebook, timeout=60, kernel_name="python3").execute()
print(nbformat.writes(notebook))
"""


def test_the_notebook(bench: Bench, shell: Shell) -> None:
    graph = shapes.five_platform()
    name = bench.pull(graph)
    for layer in graph.child(0).document()["layers"]:
        bench.ctr("content", "rm", layer["digest"])
    path = REPOSITORY_ROOT / "examples" / "notebook" / "diagnoses.ipynb"
    done = subprocess.run(
        [sys.executable, "-c", EXECUTE, str(path)],
        env={**shell.env, "JUPYTER_PLATFORM_DIRS": "1", "HOME": str(shell.folder)},
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    outputs: list[Any] = [
        output for cell in json.loads(done.stdout)["cells"] for output in cell.get("outputs", [])
    ]
    assert f"1 images in {shell.namespace}" in "".join(outputs[0]["text"])
    tables = ["".join(output["data"]["text/html"]) for output in outputs[1:]]
    assert len(tables) == 2
    assert all(name in table and "incomplete" in table for table in tables)
    assert "linux/arm64" in tables[1]
