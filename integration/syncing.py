"""Two containerds and a real sshd between them, for tests of sync."""

from __future__ import annotations

import fcntl
import os
import pty
import termios
import uuid
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from integration.killing import comes_true
from integration.rig.collector import bad_blobs
from integration.rig.daemons import Containerd, Registry, Sshd
from integration.rig.publish import push
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.shell import Shell
from pyctrd import Client, Progress, RegistryOptions
from tests.support import images
from tests.support.images import Graph

HERE, FOREIGN = "linux/amd64", "linux/arm64"
MIB = 1 << 20


class Pair:
    """A namespace in each of two containerds, and the shell of a user of the first."""

    def __init__(
        self, near: Containerd, far: Containerd, sshd: Sshd, registry: Registry, folder: Path
    ) -> None:
        self.near, self.far, self.sshd, self.registry = near, far, sshd, registry
        self.namespace = f"sync-{uuid.uuid4().hex[:12]}"
        self.folder = folder
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.shell = Shell(near, self.namespace, folder)
        self.there = Shell(far, self.namespace, folder)
        self.shell.env["PATH"] = f"{sshd.bin_dir}:{os.environ['PATH']}"
        self.shell.env["TMPDIR"] = str(self.temporary)

    def address(self, port: int = 0, user: str = "") -> str:
        return f"ssh://{user}127.0.0.1:{port or self.sshd.port}{self.far.address}"

    def publish(self, graph: Graph) -> str:
        return push(graph, self.registry, f"sync/{uuid.uuid4().hex[:12]}")

    def pull(self, graph: Graph, *, far: bool = False, every: bool = False) -> str:
        """Publish an image and pull it with ctr, as users of that machine do."""
        name = self.publish(graph)
        daemon = self.far if far else self.near
        if every:
            daemon.ctr("content", "fetch", "--plain-http", "--all-platforms", name, namespace=self.namespace)
        else:
            daemon.ctr("images", "pull", "--plain-http", name, namespace=self.namespace)
        return name

    def state(self, *, far: bool) -> State:
        return snapshot_of(self.far if far else self.near, self.namespace)

    def check_no_process_is_left(self) -> None:
        """No ssh is running, and its folder is gone."""
        assert comes_true(lambda: not self.sshd.clients() and not list(self.temporary.iterdir()))

    def check_complete(self, name: str, graph: Graph, blobs: set[str], *, far: bool) -> None:
        """ctr calls the image complete, and the collector keeps exactly these blobs."""
        daemon = self.far if far else self.near
        collect_garbage(daemon, self.namespace)
        state = snapshot_of(daemon, self.namespace)
        assert state["images"][name]["target"]["digest"] == graph.digest
        assert set(state["content"]) == blobs
        assert (state["leases"], state["ingests"]) == ({}, {})
        assert bad_blobs(daemon, sorted(blobs)) == []
        lines = daemon.ctr("images", "check", namespace=self.namespace).stdout.decode().splitlines()
        assert [line for line in lines if name in line and " complete " in line], lines

    def drop_leases(self) -> None:
        """Delete the leases of killed clients, which would expire within a day."""
        for daemon in (self.near, self.far):
            for lease in snapshot_of(daemon, self.namespace)["leases"]:
                daemon.ctr("leases", "delete", lease, namespace=self.namespace)


def big(salt: str, layers: int = 4, size: int = 4 * MIB) -> Graph:
    """An index of two platforms with some random layers each."""
    children = []
    for on in (HERE, FOREIGN):
        made = [
            images.random_layer(size, zlib.crc32(f"{salt}{on}{number}".encode())) for number in range(layers)
        ]
        children.append(images.manifest(images.config(made, on), made, on=on))
    return images.index(children)


def blobs_for(graph: Graph, *platforms: str) -> set[str]:
    """List the blobs of an index's platforms."""
    found = {graph.digest}
    for position, on in enumerate((HERE, FOREIGN)):
        if on in platforms:
            found |= set(images.reachable(graph.child(position)))
    return found


def size_of(graph: Graph, digests: set[str]) -> int:
    return sum(len(graph.blobs[digest]) for digest in digests)


def kept(state: State) -> int:
    """How much of an image a namespace has: its content, and the bytes of its unfinished writes."""
    sizes = [blob["size"] for blob in state["content"].values()]
    return sum(sizes) + sum(ingest["offset"] for ingest in state["ingests"].values())


def client(pair: Pair) -> Client:
    """A client of the first containerd in this process, which finds the right ssh."""
    return Client(pair.near.address, pair.namespace, registry=RegistryOptions(plain_http=True))


class After:
    """Calls a function once so many bytes of layers have been sent."""

    def __init__(self, wanted: int, act: Callable[[], object]) -> None:
        self._wanted, self._act = wanted, act
        self._sent: dict[str, int] = {}
        self.acted = False

    def __call__(self, event: Progress) -> None:
        if event.action in ("uploading", "uploaded", "downloading", "downloaded") and event.descriptor:
            self._sent[event.descriptor.digest] = event.offset
        if not self.acted and sum(self._sent.values()) >= self._wanted:
            self.acted = True
            self._act()


class Terminal:
    """A sync of a user at a terminal, to a server whose key ssh does not know yet."""

    def __init__(self, pair: Pair, *arguments: str) -> None:
        self._controller, terminal = pty.openpty()
        self._process = pair.shell.start(
            "sync",
            *arguments,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(terminal)
        self.text = ""

    def read_until(self, words: str) -> None:
        while words not in self.text:
            self.text += os.read(self._controller, 65536).decode(errors="replace")

    def type(self, keys: str) -> None:
        os.write(self._controller, keys.encode())

    def end(self) -> int:
        """Read to the end; return the exit code."""
        with suppress(OSError):  # how Linux says that the other end is closed
            while data := os.read(self._controller, 65536):
                self.text += data.decode(errors="replace")
        os.close(self._controller)
        return self._process.wait()
