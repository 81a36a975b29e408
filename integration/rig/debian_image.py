"""An image with one generation of containerd, and the minimum that its container needs.

Nothing is pulled: Debian's packages are unpacked into one tree (once, into the cache), and the engine imports
it. A generation that Debian lacks is built statically, and put into a tree with runc. Standard library only,
and the engine is used through its own client, since scripts/containerd-up uses this, too.
"""

from __future__ import annotations

import shutil
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from integration.rig.cache import PeerUnavailable, entry
from integration.rig.debs import closure
from integration.rig.peers import BUILT, SUITE_OF_GENERATION, containerd

PROGRAM = "/usr/bin/containerd"
CAPABILITIES: dict[str, str] = {
    "SYS_ADMIN": "mounts a snapshot to unpack a layer onto it (those of native, too)",
    "CHOWN": "gives a layer's files their owners",
    "DAC_OVERRIDE": "writes into folders that belong to those owners",
    "FOWNER": "sets modes, times and attributes of files that belong to them",
    "FSETID": "keeps setgid bits; without it they are lost in silence",
    "MKNOD": "makes a layer's device nodes",
    "SETFCAP": "gives a layer's files their capabilities (security.capability)",
}
"""The capabilities that containerd needs to unpack any layer. To store and serve content it needs none.

`--privileged` would add the host's devices, which CI sandboxes may not allow.
"""
SECURITY = ("no-new-privileges", "apparmor=unconfined")
"""Docker's AppArmor profile forbids mounts on hosts with AppArmor; its seccomp profile can be used."""
_NOT_IN_IMAGE = ("usr/share/doc", "usr/share/man", "usr/share/locale", "run-in", "packages.txt")
_BASE_SUITE = "trixie"
_SECONDS = 300.0


def container_image(docker: Sequence[str | Path], generation: str) -> str:
    """The name of an image with that containerd, created if the engine has none; raises PeerUnavailable.

    `docker` is the client's command with the options to find its engine.
    """
    name = f"pyctrd-rig/containerd:{generation}"
    known = subprocess.run([*docker, "image", "inspect", name], capture_output=True, check=False)
    if known.returncode:
        tree = _tree(generation)
        _import(tree, [*docker, "import", "--change", f'ENTRYPOINT ["{PROGRAM}"]', "-", name])
    return name


def _tree(generation: str) -> Path:
    if generation not in BUILT:
        return closure(SUITE_OF_GENERATION[generation], "containerd", "runc")

    def fill(folder: Path) -> None:
        programs = folder / PROGRAM.lstrip("/")
        shutil.copytree(closure(_BASE_SUITE, "runc"), folder, symlinks=True, dirs_exist_ok=True)
        shutil.copytree(containerd(generation).bin_dir, programs.parent, dirs_exist_ok=True)

    return entry(f"containerd-tree/{generation}", fill)


def _import(tree: Path, command: Sequence[str | Path]) -> None:
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as client:
        assert client.stdin
        assert client.stderr
        try:
            with client.stdin, tarfile.open(fileobj=client.stdin, mode="w|") as archive:
                archive.add(tree, ".", filter=_into_image)
        except BrokenPipeError:
            pass  # the client has exited, and its output says why
        words = client.stderr.read().decode(errors="replace").strip()
        if client.wait(_SECONDS):
            raise PeerUnavailable(f"docker import: {words}")


def _into_image(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.name.removeprefix("./").startswith(_NOT_IN_IMAGE):
        return None
    entry.uid = entry.gid = 0
    return entry
