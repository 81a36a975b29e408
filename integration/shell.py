"""Run pyctrd as users do, in a separate process, and inspect the results."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from integration.rig.containerd import Containerd
from integration.rig.process import SHOWING_STACKS, limited
from integration.rig.store import digests
from tests.support import schemas
from tests.support.images import Graph

REPOSITORY_ROOT = Path(__file__).parent.parent


class Shell:
    """Runs pyctrd with a namespace of its own."""

    def __init__(self, containerd: Containerd, namespace: str, folder: Path) -> None:
        self.containerd = containerd
        self.namespace = namespace
        self.folder = folder
        self.env = {
            **os.environ,
            "CONTAINERD_ADDRESS": str(containerd.address),
            "CONTAINERD_NAMESPACE": namespace,
            "PYTHONPATH": str(REPOSITORY_ROOT),
            "DOCKER_CONFIG": str(folder / "no-docker-config"),
            **SHOWING_STACKS,
        }

    def start(self, *arguments: str, **how: Any) -> subprocess.Popen[bytes]:
        """Start a command line with a time limit."""
        command = [sys.executable, "-m", "pyctrd", *arguments]
        return limited(subprocess.Popen(command, env=self.env, cwd=self.folder, **how))

    def __call__(
        self,
        *arguments: str,
        code: int = 0,
        **how: Any,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command line; the exit code must be `code`, and JSON must match the schema of the command."""
        with self.start(
            *arguments, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **how}
        ) as process:
            stdout, stderr = process.communicate()
        words = (stderr or b"").decode(errors="replace")
        assert process.returncode == code, f"pyctrd {' '.join(arguments)}: exit {process.returncode}\n{words}"
        assert "Traceback" not in words
        schemas.check_output(arguments, (stdout or b"").decode(errors="replace"))
        return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)

    def json(self, *arguments: str, code: int = 0) -> Any:
        return json.loads(self(*arguments, "--format", "json", code=code).stdout)

    def have(self) -> set[str]:
        return digests(self.containerd, self.namespace)


class Pause(NamedTuple):
    """An image of several platforms, and its name in a registry."""

    graph: Graph
    name: str


def archived(source: Path | bytes) -> set[str]:
    """List the digests of the blobs in an archive, a file or bytes; it must be complete."""
    command = ["tar", "-t", "-f", str(source) if isinstance(source, Path) else "-"]
    done = subprocess.run(
        command, input=None if isinstance(source, Path) else source, capture_output=True, check=True
    )
    names = done.stdout.decode().split()
    assert {"oci-layout", "index.json", "manifest.json"} <= set(names)
    return {
        f"sha256:{name.rpartition('/')[2]}"
        for name in names
        if name.startswith("blobs/sha256/") and name[-1] != "/"
    }


def layers_of(graph: Graph, platform: str) -> set[str]:
    for entry in json.loads(graph.blobs[graph.digest])["manifests"]:
        on = entry["platform"]
        if "/".join(filter(None, (on["os"], on["architecture"], on.get("variant")))) == platform:
            return {layer["digest"] for layer in json.loads(graph.blobs[entry["digest"]])["layers"]}
    raise AssertionError(platform)


def on_a_terminal(shell: Shell, *arguments: str) -> tuple[int, str]:
    """Run with a terminal as stdin, stdout and stderr; return the exit code and the output."""
    controller, terminal = pty.openpty()
    with shell.start(*arguments, stdin=terminal, stdout=terminal, stderr=terminal) as process:
        os.close(terminal)
        text = b"".join(_until_closed(controller))
        os.close(controller)
    return process.returncode, text.decode(errors="replace")


def _until_closed(controller: int) -> Iterator[bytes]:
    while True:
        try:
            yield os.read(controller, 65536)
        except OSError:  # on Linux, the other end is closed
            return
