"""A containerd of one generation in a folder of its own."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from integration.rig import peers
from integration.rig.process import Process, ending, limited, remove_folder, unix_answers, unmount_below

START_SECONDS = 30.0
ISOLATED_CONTENT = """
[plugins."io.containerd.metadata.v1.bolt"]
  content_sharing_policy = "isolated"
"""
"""Configuration without content sharing between namespaces: every pull fetches from the registry."""
_CONFIG = """\
version = {version}
root = "{root}/root"
state = "{root}/state"
# Nothing here needs Kubernetes, tracing or block devices, and each of them costs start-up time or a failure.
disabled_plugins = [
{kubernetes}
  "io.containerd.internal.v1.opt", "io.containerd.internal.v1.tracing", "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[grpc]
  address = "{address}"

{extra}
"""


_KUBERNETES = """\
  "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
  "io.containerd.internal.v1.restart", "io.containerd.monitor.container.v1.restart",
  "io.containerd.podsandbox.controller.v1.podsandbox", "io.containerd.grpc.v1.sandbox-controllers","""


class Ctr:
    """Runs the real ctr against one address; the oracle of the tests."""

    def __init__(self, program: Path, address: Path, env: dict[str, str] | None = None) -> None:
        self._program = program
        self._address = address
        self._env = env

    def __call__(
        self, *arguments: str | Path, namespace: str = "default", check: bool = True, stdin: bytes = b""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `ctr ARGUMENTS`; raises AssertionError with ctr's words when `check` and it fails."""
        done = subprocess.run(
            self._command(arguments, namespace),
            input=stdin,
            capture_output=True,
            env=self._env,
            timeout=600,
            check=False,
        )
        if check and done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise AssertionError(f"ctr {' '.join(map(str, arguments))}: exit {done.returncode}: {words}")
        return done

    def start(
        self, *arguments: str | Path, namespace: str = "default", **how: Any
    ) -> subprocess.Popen[bytes]:
        """Start `ctr ARGUMENTS` with a time limit."""
        return limited(subprocess.Popen(self._command(arguments, namespace), env=self._env, **how))

    def _command(self, arguments: Sequence[str | Path], namespace: str) -> list[str | Path]:
        return [self._program, "--address", self._address, "--namespace", namespace, *arguments]


class Containerd:
    """A running containerd; a context manager that stops it and keeps its log in `root`.

    `root` may be any folder: the socket lives in a short-named folder of its own (sun_path holds 107 bytes).
    `config` is TOML appended to the configuration, e.g. another table of plugins. `cri` runs the services
    for the kubelet, too.
    """

    def __init__(self, generation: str, root: Path, config: str = "", *, cri: bool = False) -> None:
        self.peer = peers.containerd(generation)
        self.generation = generation
        self.version = self.peer.version
        self.root = root
        self.log = root / "containerd.log"
        self._extra = config
        self._cri = cri
        self._process: Process | None = None
        self._sockets: Path | None = None

    def __enter__(self) -> Containerd:
        self.root.mkdir(parents=True, exist_ok=True)
        self._sockets = Path(tempfile.mkdtemp(prefix="pc-", dir="/tmp"))
        text = _CONFIG.format(
            version=2 if self.is_1 else 3,
            root=self.root,
            address=self.address,
            extra=self._extra,
            kubernetes="" if self._cri else _KUBERNETES,
        )
        (self.root / "config.toml").write_text(text)
        try:
            self.start()
        except BaseException:
            self._remove_sockets()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._remove_sockets()

    def _remove_sockets(self) -> None:
        if self._sockets:
            remove_folder(self._sockets)
        unmount_below(self.root)

    @property
    def is_1(self) -> bool:
        """Whether this is a 1.x, whose ctr pulls and exports by itself, and needs `--all-metadata`."""
        return self.generation.startswith("1.")

    @property
    def address(self) -> Path:
        """The gRPC socket."""
        assert self._sockets, "not started"
        return self._sockets / "c.sock"

    @property
    def pid(self) -> int:
        """The daemon's process id (for measuring its memory)."""
        assert self._process, "not started"
        return self._process.pid

    @cached_property
    def ctr(self) -> Ctr:
        """`daemon.ctr("images", "ls", namespace="x")` runs the ctr of the same generation."""
        return Ctr(self.peer.ctr, self.address, peers.tool_environment(self.peer.bin_dir))

    @cached_property
    def snapshotters(self) -> tuple[str, ...]:
        """Names of the snapshotters that work here, sorted, e.g. ("native", "overlayfs")."""
        rows = [line.split() for line in self.ctr("plugins", "ls").stdout.decode().splitlines()]
        return tuple(sorted(row[1] for row in rows if row[0].endswith(".snapshotter.v1") and row[-1] == "ok"))

    def start(self) -> None:
        """Start the daemon with the data in `root`; returns when it is ready."""
        command: list[str | Path] = [self.peer.containerd, "--config", self.root / "config.toml"]
        process = Process(command, self.log, peers.tool_environment(self.peer.bin_dir))
        with ending(process):
            # Not `ctr version` in a loop: without a socket each call blocks for ten seconds.
            process.wait_until(lambda: unix_answers(self.address), START_SECONDS)
        self._process = process

    def stop(self) -> None:
        """Stop the daemon with SIGTERM."""
        if self._process:
            self._process.stop()

    def kill(self) -> None:
        """Kill the daemon, like a crash."""
        if self._process:
            self._process.kill()

    def restart(self) -> None:
        """Stop it, and start it again with the same root and address."""
        self.stop()
        self.start()
