"""Which tools that can export images are on PATH, and which release of nerdctl."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final, NamedTuple

_SECONDS: Final = 2.0
_VERSION: Final = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)")


class Installed(NamedTuple):
    """The tools on PATH: whether `ctr` is, and the version of `nerdctl`, if it is and can be parsed."""

    ctr: bool = False
    nerdctl: tuple[int, int, int] | None = None


def installed() -> Installed:
    """Look for the tools. Runs only `nerdctl --version`, which does not contact containerd."""
    return Installed(ctr=shutil.which("ctr") is not None, nerdctl=_version(shutil.which("nerdctl")))


def _version(program: str | None) -> tuple[int, int, int] | None:
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "--version"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    found = _VERSION.search(done.stdout.decode(errors="replace"))
    return (int(found[1]), int(found[2]), int(found[3])) if found else None
