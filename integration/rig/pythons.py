"""Other Python versions: Debian's, unpacked with their own libraries, for virtual environments.

`python -m integration.rig.pythons 3.15` prints its path.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from integration.rig.cache import PeerUnavailable, entry
from integration.rig.debs import bound, closure

_SUITES = {"3.11": "bookworm", "3.13": "trixie"}


def python(version: str) -> Path:
    """The path of Debian's Python `version`, e.g. "3.15"; raises PeerUnavailable with the reason.

    It runs on any libc, since it uses its own loader and libraries. It has no ensurepip, so create
    environments with `-m venv --without-pip`, and install with another one's `pip --python`.
    """

    def fill(folder: Path) -> None:
        suite = _SUITES.get(version, "sid")
        # Wheels such as grpcio's need the C++ library of the same release.
        root = closure(suite, f"python{version}", f"python{version}-venv", "libstdc++6")
        shutil.copytree(root, folder, symlinks=True, dirs_exist_ok=True)

    root = entry(f"python/{version}", fill)
    name = f"usr/bin/python{version}"
    if not (root / name).exists():
        raise PeerUnavailable(f"Debian has no Python {version}")
    # Its extensions use the loader and libraries below `root`, too.
    return bound(root, name, "-c", "import ctypes, ssl, sqlite3, venv")


if __name__ == "__main__":
    print(python(sys.argv[1]))
