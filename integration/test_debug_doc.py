"""The commands of docs/howto/debug.md, unchanged, and the lines that it shows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from integration.pages import run
from integration.rig.daemons import Containerd, Registry
from integration.rig.peers import NEWEST
from integration.rig.publish import push
from integration.shell import REPOSITORY_ROOT, Shell
from tests.support import shapes
from tests.test_bug_report import FILES

PAGE: Final = (REPOSITORY_ROOT / "docs" / "howto" / "debug.md").read_text(encoding="utf-8")
HOST, REPOSITORY, TAG = "registry.example.com", "team/app", "1.4"

pytestmark = pytest.mark.parametrize("generation", [NEWEST], indirect=True)


def shape(line: str) -> str:
    """Return a line without what differs from run to run: times, sizes, digests and identifiers."""
    line = re.sub(r"sha256:[0-9a-f]{12}|\b\d+-[A-Za-z0-9_-]{4}\b", "ID", line)
    return re.sub(r"\d+\.\d+ (s|ms)|[\d.]+ [KMG]?i?B|\[ *[\d.]+\]| +", lambda found: found[1] or " ", line)


def output_of(command: str, shell: Shell, registry: Registry, repository: str) -> list[str]:
    """Run a command of the page, and return the lines that it prints, with the names of the page.

    It may exit with 1, as doctor does on a machine with a problem.
    """
    real = command.replace(f"{HOST}/{REPOSITORY}", f"{registry.host}/{repository}")
    printed = run(shell, f"{{ {real}; }} 2>&1 || [ $? = 1 ]")
    assert "Traceback" not in printed
    return printed.replace(f"http://{registry.host}/v2/{repository}", f"{HOST}/v2/{REPOSITORY}").splitlines()


def test_the_page(
    containerd: Containerd, registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    push(shapes.five_platform(salt=repository), registry, repository, TAG)
    shell = Shell(containerd, namespace, tmp_path)
    ran = 0
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL):
        output: list[str] = []
        for line in block.splitlines():
            if line.startswith("$ "):
                output = output_of(line[2:], shell, registry, repository)
                ran += 1
            elif line != "...":
                assert shape(line) in map(shape, output), line
    assert ran == 5
    with (tmp_path / "pyctrd-bug-report" / "README.txt").open() as listing:
        assert {line.split()[0] for line in listing.read().splitlines()[3:]} == set(FILES) - {"README.txt"}
    assert re.findall(r"^\| `([\w.]+)` \|", PAGE, re.MULTILINE) == list(FILES)
