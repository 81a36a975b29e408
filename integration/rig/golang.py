"""nerdctl, built from the Go module proxy inside a scratch module.

`go install pkg@version` refuses a module with a replace directive (nerdctl from 2.1 on), and checks every
dependency with sum.golang.org, which not every network lets through. A scratch module that requires nerdctl
and carries nerdctl's own go.sum builds all releases, and go.sum still proves each dependency.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

from integration.rig.cache import PeerUnavailable, entry, peers_dir
from integration.rig.debs import closure, run

MODULE = "github.com/containerd/nerdctl/v2"
TIGRON = "github.com/containerd/nerdctl/mod/tigron"
# nerdctl's own entries are not in its go.sum: these were taken from the module proxy when the rig was
# written, and hold every later download to the same bytes.
SUMS = {
    "2.0.3": (
        "h1:hdbDSsFHFNehQEbUortBTXpYUOY13bQmLAvtNHBthc8=",
        "h1:BR4V7WjbUFKJW4E2x6WLVsDcH3QpYvfUK4y2uPZu6oo=",
    ),
    "2.0.4": (
        "h1:Ll0nsizkvTUMc2PAwXy90je0PAeYLEIvggDSisRRmyk=",
        "h1:YapMqyk+PZ7pDrWUfvuTHQTS1N0pmq+ZIYFwNWgqNFs=",
    ),
    "2.2.2": (
        "h1:wW+nrriM86rZkItsuhq0CtmS4re3eRSs7u8P2Cit4NM=",
        "h1:38TLdfajzOhOxjdGrMxl8R0UAUyCgyPcqQkJFD1XckI=",
    ),
    "2.3.5": (
        "h1:auYeWpIM29NUvqWxFvar8HIbSVrGBn6dRPx45rrUApY=",
        "h1:j2i2sTqQ0Z9YaZDI8XroU+NYtP5C1jC4mjtuvYvV0TE=",
    ),
}
OLDEST_GO = (1, 26, 3)
"""What go.mod of the newest nerdctl, 2.3.5, asks for."""


@cache
def go() -> Path:
    """A Go compiler: the machine's when it is new enough, else Debian sid's, unpacked into the cache."""
    found = shutil.which("go")
    if found and _version(Path(found)) >= OLDEST_GO:
        return Path(found)
    programs = sorted(closure("sid", "golang-go").glob("usr/lib/go-1.*/bin/go"))
    if not programs:
        raise PeerUnavailable("Debian's golang-go holds no go command")
    return programs[-1]


def _version(program: Path) -> tuple[int, ...]:
    """(1, 24, 3) of "go version go1.24.3 linux/amd64"; () when it can't be told."""
    words = run([program, "env", "GOVERSION"]).strip().removeprefix("go").split(".")
    return tuple(int(word) for word in words if word.isdigit())


def _environment() -> dict[str, str]:
    """go's environment: everything it downloads and caches stays in our cache folder."""
    home = peers_dir() / "go"
    own = {
        "GOPATH": str(home),
        "GOCACHE": str(home / "build"),
        "GOFLAGS": "-modcacherw",
        "GOSUMDB": "off",  # the sums come from SUMS and nerdctl's go.sum, and go compares them
        "GOTOOLCHAIN": "local",
        "CGO_ENABLED": "0",
        "GOROOT": str(go().resolve().parents[1]),
    }
    return {**os.environ, **own}


def nerdctl(version: str) -> Path:
    """The nerdctl binary of `version` (one of SUMS); the first call takes minutes."""

    def fill(folder: Path) -> None:
        with tempfile.TemporaryDirectory(dir=peers_dir()) as scratch:
            _build(version, Path(scratch), folder / "nerdctl")

    return entry(f"nerdctl/{version}", fill) / "nerdctl"


def _build(version: str, scratch: Path, output: Path) -> None:
    """Build `output` in the scratch module; -mod=mod fails on a sum that differs from go.sum's."""
    env = _environment()
    zip_sum, mod_sum = SUMS[version]
    where = run([go(), "mod", "download", "-json", f"{MODULE}@v{version}"], cwd=_empty(scratch), env=env)
    source = Path(where.partition('"Dir": "')[2].partition('"')[0])
    own = f"{MODULE} v{version} {zip_sum}\n{MODULE} v{version}/go.mod {mod_sum}\n"
    (scratch / "go.sum").write_text((source / "go.sum").read_text() + own)
    lines = (source / "go.mod").read_text().splitlines()
    needed = next(line for line in lines if line.startswith("go "))
    text = f"module scratch\n\n{needed}\n\nrequire {MODULE} v{version}\n"
    if any("mod/tigron" in line for line in lines):
        text += f"\nreplace {TIGRON} v0.0.0 => ./tigron\n"
        _write_tigron(scratch / "tigron")
    (scratch / "go.mod").write_text(text)
    flags = f"-s -w -X {MODULE}/pkg/version.Version=v{version}"
    command: list[str | Path] = [
        go(),
        "build",
        "-mod=mod",
        "-trimpath",
        "-ldflags",
        flags,
        "-o",
        output,
        f"{MODULE}/cmd/nerdctl",
    ]
    run(command, cwd=scratch, env=env)


def _write_tigron(folder: Path) -> None:
    """The module that nerdctl replaces by a folder which its published zip leaves out.

    All that the program's own sources name of it (in a helper of its tests that is compiled in and never
    called) is an interface of testing.
    """
    _empty(folder, TIGRON)
    (folder / "tig").mkdir()
    (folder / "tig/tig.go").write_text('package tig\n\nimport "testing"\n\ntype T = testing.TB\n')


def _empty(folder: Path, module: str = "scratch") -> Path:
    """A folder with an empty module."""
    folder.mkdir(exist_ok=True)
    (folder / "go.mod").write_text(f"module {module}\n\ngo 1.22\n")
    return folder
