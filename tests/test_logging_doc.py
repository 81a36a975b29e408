"""docs/reference/logging.md: the loggers and fields that there are, and its program."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

import pyctrd
from tests.containerd.fake import FakeDaemon, serve

PACKAGE: Final = Path(pyctrd.__file__).parent
PAGE: Final = (PACKAGE.parent / "docs" / "reference" / "logging.md").read_text(encoding="utf-8")


def table(heading: str) -> list[str]:
    """Return the first column of a section's table."""
    section = PAGE.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)


def calls(name: str) -> Iterator[ast.Call]:
    """Yield the calls of a function, or of the methods of an object."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and f"{ast.unparse(node.func)}.".startswith(f"{name}."):
                yield node


def test_the_loggers_are_those_of_the_page() -> None:
    names = {ast.unparse(call.args[0]).strip("'") for call in calls("redact.logger")}
    assert names == set(table("Loggers"))


def test_the_fields_are_those_of_the_page() -> None:
    given = [item.value for call in calls("_log") for item in call.keywords if item.arg == "extra"]
    assert all(isinstance(item, ast.Dict) for item in given)
    keys = {ast.literal_eval(key) for item in given if isinstance(item, ast.Dict) for key in item.keys if key}
    assert keys == set(table("Fields"))


def test_every_level_is_on_the_page() -> None:
    levels = {
        method.upper()
        for call in calls("_log")
        if (method := ast.unparse(call.func).rpartition(".")[2]) in ("debug", "info", "warning", "error")
    }
    assert levels == set(table("Levels"))


@pytest.fixture
def socket() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="pyctrd-", dir="/tmp") as folder:
        path = Path(folder) / "c.sock"
        server = serve(path, FakeDaemon())
        yield path
        server.stop(None).wait()


def test_the_program_logs_json_lines(socket: Path) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (example,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "CONTAINERD_ADDRESS": str(socket)},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert done.stdout == "0 images\n"
    (listed,) = [line for line in lines if line["method"] == "containerd.services.images.v1.Images/List"]
    shown = json.loads(example)
    assert list(listed) == list(shown)
    for key in ("level", "logger", "method", "namespace", "subject", "code"):
        assert listed[key] == shown[key]


def test_without_a_handler_nothing_is_printed() -> None:
    code = "from pyctrd import redact; redact.logger('pyctrd.images').warning('left out')"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("", "")
