"""A node of Kubernetes without its kubelet: a containerd with the CRI plugin, and the real crictl."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from integration.rig import peers
from integration.rig.containerd import Containerd
from integration.rig.process import wait_until
from tests.support.images import Graph, config, index, layer, manifest

NAMESPACE = "k8s.io"
"""The only namespace of the kubelet."""
SNAPSHOTTER = "overlayfs"
READY_SECONDS = 60.0
_HOST = 2  # NamespaceMode.NODE of the CRI: no network has to be set up
_SLEEP = ["/bin/busybox", "sleep", "2147483647"]

# runc may not lower the OOM score here. Usage of snapshots is measured every 10 seconds by default.
_CONFIG_1 = """
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{sandbox}"
  restrict_oom_score_adj = true
  stats_collect_period = 1
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = "{certs_d}"
"""
_CONFIG_2 = """
[plugins."io.containerd.cri.v1.images"]
  stats_collect_period = 1
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "{sandbox}"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "{certs_d}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
"""


class Crictl:
    """Runs the real crictl against one containerd; raises AssertionError with its words if it fails."""

    def __init__(self, program: Path, daemon: Containerd) -> None:
        address = f"unix://{daemon.address}"
        # The default of 2 s is too short on a busy machine.
        self._command: list[str | Path] = [program, "-t", "60s", "-r", address, "-i", address]

    def __call__(self, *arguments: str | Path, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run([*self._command, *arguments], capture_output=True, check=False, timeout=60)
        if check and done.returncode:
            words = done.stderr.decode(errors="replace").strip()
            raise AssertionError(f"crictl {' '.join(map(str, arguments))}: exit {done.returncode}: {words}")
        return done

    def json(self, command: str, *arguments: str) -> Any:
        return json.loads(self(command, "-o", "json", *arguments).stdout)

    def images(self) -> list[dict[str, Any]]:
        """Return the images, by their ids."""
        found: list[dict[str, Any]] = self.json("images")["images"]
        return sorted(found, key=lambda image: str(image["id"]))

    def image(self, name: str) -> dict[str, Any] | None:
        """Return the image with that name, digest or id as the kubelet sees it; None without one."""
        for image in self.images():
            if name in (image["id"], *image["repoTags"], *image["repoDigests"]):
                return image
        return None

    def used_bytes(self) -> int:
        """Return what imagefsinfo reports for the snapshots, measured after this call has begun; 0 is not
        a measurement, so there must be a snapshot."""
        begun = time.time_ns()
        while True:
            (measured,) = self.json("imagefsinfo")["status"]["imageFilesystems"]
            size = int(measured["usedBytes"]["value"])
            if size and int(measured["timestamp"]) > begun:
                return size
            time.sleep(0.05)


@dataclass(frozen=True)
class Pod:
    """A running pod with one container. Their ids are those of the records in the containers service, and
    the keys of their active snapshots."""

    sandbox: str
    container: str
    image: str


class Node:
    """A containerd with the CRI plugin; a context manager. It runs pods with the host's network.

    `sandbox` is the name of the pinned image for the sandboxes of pods, from a registry; the folder `certs_d`
    is for hosts.toml files.
    """

    def __init__(self, generation: str, root: Path, sandbox: str = "") -> None:
        self.root = root
        self.certs_d = root / "certs.d"
        text = _CONFIG_1 if generation.startswith("1.") else _CONFIG_2
        self.containerd = Containerd(
            generation,
            root / "containerd",
            text.format(sandbox=sandbox, certs_d=self.certs_d),
            cri=True,
        )

    def __enter__(self) -> Node:
        self.certs_d.mkdir(parents=True)
        self._program = peers.crictl()
        self.containerd.__enter__()
        try:
            self._wait()
        except BaseException:
            self.containerd.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.containerd.__exit__(kind, error, trace)

    @cached_property
    def crictl(self) -> Crictl:
        return Crictl(self._program, self.containerd)

    def restart(self) -> None:
        """Restart containerd, which reads all image records again; returns when crictl gets an answer."""
        self.containerd.restart()
        self._wait()

    def wait_until(self, seen: Callable[[Crictl], object], seconds: float = READY_SECONDS) -> None:
        """Wait until `seen(crictl)` is true; CRI follows changes of other clients by events."""
        wait_until(
            lambda: bool(seen(self.crictl)), seconds, lambda: True, lambda: json.dumps(self.crictl.images())
        )

    def _wait(self) -> None:
        self.wait_until(lambda crictl: crictl("images", "-q", check=False).returncode == 0)

    @contextmanager
    def pod(self, image: str, name: str = "pod") -> Iterator[Pod]:
        """Run a pod with one container of that image, which must be `runnable`."""
        crictl, options = self.crictl, {"network": _HOST, "pid": _HOST, "ipc": _HOST}
        linux = {"security_context": {"namespace_options": options}}
        pod, container = self.root / f"{name}.pod.json", self.root / f"{name}.json"
        metadata = {"name": name, "namespace": "default", "uid": name}
        pod.write_text(json.dumps({"metadata": metadata, "log_directory": str(self.root), "linux": linux}))
        container.write_text(
            json.dumps(
                {
                    "metadata": {"name": name},
                    "image": {"image": image},
                    "log_path": f"{name}.log",
                    "linux": linux,
                }
            )
        )
        sandbox = crictl("runp", pod).stdout.decode().strip()
        try:
            made = crictl("create", sandbox, container, pod).stdout.decode().strip()
            crictl("start", made)
            yield Pod(sandbox, made, image)
        finally:
            crictl("rmp", "--force", sandbox)


def runnable(salt: str = "", *, platforms: int = 1) -> Graph:
    """An image that sleeps, for pods; with `platforms` 2 its index also lists arm64."""
    layers = [layer({"bin/busybox": peers.tool("busybox").read_bytes()}), layer({"salt": salt.encode()})]
    on = ("linux/amd64", "linux/arm64")[:platforms]
    return index([manifest(config(layers, one, config={"Entrypoint": _SLEEP}), layers, on=one) for one in on])
