"""A Docker engine of its own."""

from __future__ import annotations

import json
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

from integration.rig import peers
from integration.rig.process import Process, ending, remove_folder, unix_answers

ENGINE_SECONDS = 60.0


class Dockerd:
    """A running dockerd on a private socket; a context manager. Needs root; does not change the firewall.

    Images go into docker's own store, or with `containerd_store` into that of the containerd behind it.
    """

    def __init__(self, root: Path, *, containerd_store: bool = False) -> None:
        self.root = root
        self.containerd_store = containerd_store
        self.log = root / "dockerd.log"
        self._process: Process | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> Dockerd:
        daemon, engine = peers.tool("dockerd"), peers.containerd(peers.NEWEST)
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
        (self.root / "daemon.json").write_text(
            json.dumps({"features": {"containerd-snapshotter": self.containerd_store}})
        )
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

    @property
    def command(self) -> tuple[str | Path, ...]:
        """The real `docker` with the option for this engine."""
        return (self._client, "--host", self.address)

    def _ready(self) -> bool:
        if not unix_answers(Path(self.address.removeprefix("unix://"))):
            return False
        return self.docker("version", check=False).returncode == 0

    def docker(
        self, *arguments: str | Path, check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `docker ARGUMENTS`; if it fails and `check` is set, raises AssertionError with its output."""
        command = [*self.command, *arguments]
        done = subprocess.run(command, input=stdin, capture_output=True, timeout=600, check=False)
        if check and done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise AssertionError(f"docker {' '.join(map(str, arguments))}: {done.returncode}: {words}")
        return done
