"""A containerd that runs in a container of a Docker engine."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from integration.rig.cache import PeerUnavailable
from integration.rig.containerd import START_SECONDS, Containerd
from integration.rig.debian_image import CAPABILITIES, SECURITY, container_image
from integration.rig.engine import Dockerd
from integration.rig.process import unix_answers, wait_until

CONTENT = "root/io.containerd.content.v1.content"
"""The content store's folder below a containerd's `root`."""


class ContainerdInDocker(Containerd):
    """A containerd in a container; used like Containerd.

    Its root and its socket's folder are bind mounts at the same paths, and it shares the host's network, so
    the host's ctr and a registry on 127.0.0.1 work with it. Nothing else in it is writable. A kill leaves
    the container, and `start` starts it again; `read_only` names folders below `root` that are mounted
    read-only in the next new container.
    """

    def __init__(
        self,
        dockerd: Dockerd,
        generation: str,
        root: Path,
        config: str = "",
        *,
        capabilities: Sequence[str] = tuple(CAPABILITIES),
    ) -> None:
        super().__init__(generation, root, config)
        self.read_only: tuple[str, ...] = ()
        self._dockerd = dockerd
        self._capabilities = capabilities
        self._container: Any = None

    def start(self) -> None:
        """Start its container with the data in `root`, the old one after a kill; returns when it is ready."""
        # Imported here, since the rig must work with only the standard library.
        from docker.errors import DockerException

        try:
            if self._container is None:
                self._container = self._new_container()
            else:
                self._container.start()
        except DockerException as error:
            raise PeerUnavailable(f"containerd in a container: {error}") from error
        try:
            wait_until(lambda: unix_answers(self.address), START_SECONDS, self._alive, self.log_tail)
        except BaseException:
            self.stop()
            raise

    def _new_container(self) -> Any:
        import docker

        engine = docker.DockerClient(base_url=self._dockerd.address)
        return engine.containers.run(
            container_image(self._dockerd.command, self.generation),
            ["--config", f"{self.root}/config.toml"],
            detach=True,
            network_mode="host",
            cap_drop=["ALL"],
            cap_add=list(self._capabilities),
            security_opt=list(SECURITY),
            read_only=True,
            tmpfs={"/run": "", "/tmp": ""},
            volumes=self._volumes(),
        )

    def _volumes(self) -> dict[str, dict[str, str]]:
        writable = (self.root, self.address.parent)
        fixed = [self.root / name for name in self.read_only]
        return {str(path): {"bind": str(path), "mode": "rw"} for path in writable} | {
            str(path): {"bind": str(path), "mode": "ro"} for path in fixed
        }

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

    @property
    def is_serving(self) -> bool:
        """Whether its socket accepts clients."""
        return unix_answers(self.address)

    @property
    def container(self) -> str:
        """The container's id, for `docker exec`."""
        return str(self._container.id)

    def stop(self) -> None:
        """Stop the daemon, and remove its container."""
        from docker.errors import DockerException

        if self._container is None:
            return
        with suppress(DockerException, OSError):  # its disk may be full, on purpose
            self._container.stop()
            self.log.write_bytes(self._container.logs())
        self._container.remove(force=True)
        self._container.client.close()
        self._container = None

    def kill(self) -> None:
        """Run `docker kill`, which ends every process at once; return when they have ended."""
        self._container.kill()
        self._container.wait()
