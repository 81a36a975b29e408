"""The commands that a page of docs/ shows, for tests that run them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping

from integration.shell import REPOSITORY_ROOT, Shell


def section(page: str, title: str) -> str:
    """Return the text of a section of a page."""
    text = (REPOSITORY_ROOT / "docs" / page).read_text(encoding="utf-8")
    (found,) = re.findall(rf"^## {re.escape(title)}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    return str(found)


def commands(page: str, title: str, real: Mapping[str, str]) -> list[str]:
    """Return the commands of a section, in their order, with real names in place of its examples."""
    found = re.findall(r"^\$ (.*)$", section(page, title), re.MULTILINE)
    for example, name in real.items():
        found = [command.replace(example, name) for command in found]
    return found


def run(shell: Shell, command: str) -> str:
    """Run a command of a page as the shell's user does, and return its stdout; it must succeed."""
    program = shell.folder / "bin" / "pyctrd"
    program.parent.mkdir(exist_ok=True)
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m pyctrd "$@"\n')
    program.chmod(0o755)
    env = {**shell.env, "PATH": f"{program.parent}:{shell.env.get('PATH', os.environ['PATH'])}"}
    done = subprocess.run(
        ["sh", "-c", command], cwd=shell.folder, env=env, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, f"{command}: {done.stderr.decode(errors='replace')}"
    return done.stdout.decode()
