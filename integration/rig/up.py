"""scripts/containerd-up: a containerd of one generation in a container, to try pyctrd.

Standard library only; the engine is used through its own client, `docker`, with its usual configuration.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from integration.rig.cache import PeerUnavailable
from integration.rig.debian_image import CAPABILITIES, SECURITY, container_image
from integration.rig.peers import GENERATIONS
from integration.rig.process import unix_answers, wait_until

START_SECONDS = 30.0
_CERTIFICATES = Path("/etc/ssl/certs")
_CONFIG = """\
version = {version}
# Nobody asks this one for pods.
disabled_plugins = [
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
]

[grpc]
  address = "{address}"
  uid = {uid}
  gid = {gid}
"""
_NO_ENGINE = """\
containerd-up: no Docker engine: {reason}
Get one, e.g. by `apt-get install docker.io`, and start it (`systemctl start docker`), or name the socket of
one in DOCKER_HOST. Podman's does, too: `podman system service -t 0 unix:///run/podman.sock &`."""
_READY = """\
containerd {generation} serves {address}

  export CONTAINERD_ADDRESS={address}
  pyctrd version
  pyctrd pull registry.k8s.io/pause:3.10
  pyctrd diagnose registry.k8s.io/pause:3.10
  docker exec {container} ctr --address {address} images ls    # its own ctr
  docker logs {container}
  scripts/containerd-up {generation} --down                    # stop it, and remove what it has"""


class Box:
    """One generation's container, with the volume of its data and the folder of its socket."""

    def __init__(self, generation: str, folder: Path) -> None:
        self.generation = generation
        self.folder = folder
        self.address = folder / "containerd.sock"
        self.container = f"pyctrd-containerd-{generation}"

    def up(self) -> None:
        """Start it, unless it is running; raises PeerUnavailable."""
        self._write_config()
        if not self._is_running():
            self._remove_container()
            docker("run", *self._options(), container_image(["docker"], self.generation), *self._arguments())
        wait_until(lambda: unix_answers(self.address), START_SECONDS, self._is_running, self._log)

    def down(self) -> None:
        """Stop it, and remove the container, its data and the folder, as far as they exist."""
        self._remove_container()
        if self.container in docker("volume", "ls", "--quiet").split():
            docker("volume", "rm", self.container)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _write_config(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        version = 2 if self.generation.startswith("1.") else 3
        text = _CONFIG.format(version=version, address=self.address, uid=os.getuid(), gid=os.getgid())
        (self.folder / "config.toml").write_text(text)

    def _options(self) -> list[str]:
        volumes = [f"{self.folder}:{self.folder}", f"{self.container}:/var/lib/containerd"]
        # For requests of the daemon itself to registries (with `ctr images pull` of 2.x).
        volumes += [f"{_CERTIFICATES}:{_CERTIFICATES}:ro"] if _CERTIFICATES.is_dir() else []
        return [
            "--detach",
            f"--name={self.container}",
            "--network=host",
            "--read-only",
            "--tmpfs=/run",
            "--tmpfs=/tmp",
            "--cap-drop=ALL",
            *(f"--cap-add={one}" for one in CAPABILITIES),
            *(f"--security-opt={one}" for one in SECURITY),
            *(f"--volume={one}" for one in volumes),
        ]

    def _arguments(self) -> list[str]:
        return ["--config", str(self.folder / "config.toml")]

    def _is_running(self) -> bool:
        return self.container in docker("ps", "--format={{.Names}}").split()

    def _remove_container(self) -> None:
        if self.container in docker("ps", "--all", "--format={{.Names}}").split():
            docker("rm", "--force", self.container)

    def _log(self) -> str:
        return docker("logs", "--tail=20", self.container)


def docker(*arguments: str) -> str:
    """stdout and stderr of `docker ARGUMENTS`; raises PeerUnavailable with them if it fails."""
    try:
        done = subprocess.run(
            ["docker", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
    except OSError as error:
        raise PeerUnavailable(f"docker: {error.strerror}") from error
    if done.returncode:
        raise PeerUnavailable(f"docker {arguments[0]}: {done.stdout.strip()}")
    return done.stdout


def _generation(text: str) -> str:
    """The generation of a version such as 2.4, v2.4.2 or 1.7.24."""
    for known in GENERATIONS:
        if re.fullmatch(rf"v?{re.escape(known)}(\..*)?", text):
            return known
    raise argparse.ArgumentTypeError(f"no such version: {text} (have {', '.join(GENERATIONS)})")


def _default_folder(generation: str) -> Path:
    base = "/run" if os.geteuid() == 0 else os.environ.get("XDG_RUNTIME_DIR", "/tmp")
    return Path(base) / "pyctrd-containerd" / generation


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return 0, or 1 if there is no engine or it fails."""
    parser = argparse.ArgumentParser(
        "containerd-up", description="Start a containerd in a container, to try pyctrd on (or stop it)."
    )
    parser.add_argument("version", type=_generation, metavar="VERSION", help=", ".join(GENERATIONS))
    parser.add_argument("--down", action="store_true", help="stop it, and remove it with all that it has")
    parser.add_argument("--folder", type=Path, help="where its socket goes (default: below /run)")
    given = parser.parse_args(arguments)
    box = Box(given.version, (given.folder or _default_folder(given.version)).absolute())
    try:
        docker("version")
    except PeerUnavailable as error:
        print(_NO_ENGINE.format(reason=str(error).splitlines()[-1]), file=sys.stderr)
        return 1
    try:
        box.down() if given.down else box.up()
    except PeerUnavailable as error:
        print(f"containerd-up: {error}", file=sys.stderr)
        return 1
    if not given.down:
        print(_READY.format(generation=box.generation, address=box.address, container=box.container))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
