"""A Docker engine of its own, and a containerd that runs in one of its containers."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from integration.rig import peers
from integration.rig.cache import PeerUnavailable
from integration.rig.containerd import START_SECONDS, Containerd
from integration.rig.debs import closure
from integration.rig.process import Process, ending, remove_folder, unix_answers, wait_until

ENGINE_SECONDS = 60.0
_NOT_IN_IMAGE = ("usr/share/doc", "usr/share/man", "usr/share/locale", "run-in", "packages.txt")


class Dockerd:
    """A running dockerd on a private socket; a context manager. Needs root, leaves the firewall alone."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = root / "dockerd.log"
        self._process: Process | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> Dockerd:
        daemon, engine = peers.tool("dockerd"), peers.containerd("2")
        self._client = peers.tool("docker")
        self.root.mkdir(parents=True, exist_ok=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="pd-", dir="/tmp"))
        command: list[str | Path] = [
            daemon,
            f"--host={self.address}",
            f"--data-root={self.root}/data",
            f"--exec-root={self._sockets}/x",
            f"--pidfile={self._sockets}/pid",
            f"--config-file={self.root}/daemon.json",
            "--iptables=false",
            "--ip6tables=false",
            "--bridge=none",
            "--userland-proxy=false",
        ]
        (self.root / "daemon.json").write_text("{}")
        try:
            with ending(Process(command, self.log, peers.tool_environment(engine.bin_dir))) as process:
                process.wait_until(self._ready, ENGINE_SECONDS)
        except BaseException:
            remove_folder(self._sockets)
            raise
        self._process = process
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._process.stop()
        if self._sockets:
            remove_folder(self._sockets)

    @property
    def address(self) -> str:
        """unix:// and the socket, for DOCKER_HOST."""
        return f"unix://{self._sockets}/d.sock"

    def _ready(self) -> bool:
        if not unix_answers(Path(self.address.removeprefix("unix://"))):
            return False
        return self.docker("version", check=False).returncode == 0

    def docker(
        self, *arguments: str | Path, check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `docker ARGUMENTS`; raises AssertionError with its words when `check` and it fails."""
        command = [self._client, "--host", self.address, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=600, check=False)
        if check and done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise AssertionError(f"docker {' '.join(map(str, arguments))}: {done.returncode}: {words}")
        return done


def container_image(dockerd: Dockerd, generation: str) -> str:
    """The name of an image with that containerd, built from Debian packages without a registry."""
    name = f"pyctrd-rig/containerd:{generation}"
    if dockerd.docker("image", "inspect", name, check=False).returncode == 0:
        return name
    rootfs = closure(peers.SUITE_OF_GENERATION[generation], "containerd", "runc")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.add(rootfs, ".", filter=_into_image)
    entry = 'ENTRYPOINT ["/usr/bin/containerd"]'
    dockerd.docker("import", "--change", entry, "-", name, stdin=buffer.getvalue())
    return name


def _into_image(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.name.removeprefix("./").startswith(_NOT_IN_IMAGE):
        return None
    entry.uid = entry.gid = 0
    return entry


class ContainerdInDocker(Containerd):
    """A containerd in a container; used like Containerd.

    Its root and its socket's folder are bind mounts at the same paths, and it shares the host's network, so
    the host's ctr and a registry on 127.0.0.1 work with it.
    """

    def __init__(self, dockerd: Dockerd, generation: str, root: Path, config: str = "") -> None:
        super().__init__(generation, root, config)
        self._dockerd = dockerd
        self._container: Any = None

    def start(self) -> None:
        """Start a container on what `root` holds; returns when it serves."""
        # Here, not above: the rig must load where only the standard library is.
        import docker
        from docker.errors import DockerException

        image = container_image(self._dockerd, self.generation)
        places = {str(path): {"bind": str(path), "mode": "rw"} for path in (self.root, self.address.parent)}
        try:
            engine = docker.DockerClient(base_url=self._dockerd.address)
            # --privileged asks for devices that a machine like a CI sandbox does not give; this is enough.
            self._container = engine.containers.run(
                image,
                ["--config", f"{self.root}/config.toml"],
                detach=True,
                network_mode="host",
                cap_add=["SYS_ADMIN"],
                security_opt=["seccomp=unconfined", "apparmor=unconfined"],
                volumes=places,
            )
        except DockerException as error:
            raise PeerUnavailable(f"containerd in a container: {error}") from error
        try:
            wait_until(lambda: unix_answers(self.address), START_SECONDS, self._alive, self.log_tail)
        except BaseException:
            self.kill()
            raise

    def _alive(self) -> bool:
        self._container.reload()
        return str(self._container.status) != "exited"

    def log_tail(self) -> str:
        """The end of the daemon's output."""
        return bytes(self._container.logs(tail=40)).decode(errors="replace")

    @property
    def pid(self) -> int:
        """The daemon's process id on the host."""
        self._container.reload()
        return int(self._container.attrs["State"]["Pid"])

    def stop(self) -> None:
        """End the daemon in order, and remove its container."""
        self._end("stop")

    def kill(self) -> None:
        """End the daemon as a crash does, and remove its container."""
        self._end("kill")

    def _end(self, how: str) -> None:
        from docker.errors import DockerException

        if self._container is None:
            return
        with suppress(DockerException):
            self.log.write_bytes(self._container.logs())
            getattr(self._container, how)()
        self._container.remove(force=True)
        self._container.client.close()
        self._container = None
