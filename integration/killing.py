"""Kill a daemon's container at a certain point of a pyctrd command, and check what is left."""

from __future__ import annotations

import subprocess
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

from integration.rig.daemons import Fault, Registry
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.shell import Shell
from pyctrd import Client
from tests.support import images
from tests.support.images import Graph

ARM64: Final = "linux/arm64"
UNREACHABLE: Final = 6
MIB: Final = 1 << 20
WRITTEN: Final = 2 * MIB
SECONDS: Final = 60.0
# What pyctrd finds after the kill: the daemon, already restarted, or nothing yet.
AFTERWARDS: Final = ("back-at-once", "back-later")


def client(shell: Shell, namespace: str = "") -> Client:
    """A client in this process on the same daemon, for setup and checks."""
    return Client(str(shell.containerd.address), namespace or shell.namespace)


def kill_in_the_middle(
    shell: Shell,
    arguments: list[str],
    reached: Callable[[], bool],
    release: Callable[[], None],
    afterwards: str,
) -> None:
    """Kill the container when the point is reached; pyctrd must then end as documented."""
    with shell.start(*arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert reached(), "the point of the kill was never reached"
            assert process.poll() is None
            shell.containerd.kill()
            if afterwards == "back-at-once":
                shell.containerd.start()
            release()
            _, stderr = process.communicate(timeout=SECONDS)
        finally:
            release()
            process.kill()
    words = stderr.decode()
    if afterwards == "back-later":
        shell.containerd.start()
    assert process.returncode == UNREACHABLE, words
    assert "Traceback" not in words
    assert f"cannot reach containerd at {shell.env['CONTAINERD_ADDRESS']}: " in words
    assert "hint: " in words


def in_the_registry(
    shell: Shell, registry: Registry, digest: str
) -> tuple[Callable[[], bool], Callable[[], None]]:
    """A fault that holds a blob's download: the wait until the daemon has WRITTEN bytes of it, and its end.

    pyctrd writes in units of a MiB, so the daemon does not have the incomplete next one yet.
    """
    fault = registry.add_fault(Fault(f"blobs/{digest}", stall_after=WRITTEN + 1000, times=1))

    def written() -> bool:
        ingests = snapshot_of(shell.containerd, shell.namespace)["ingests"]
        return any(digest in ref and one["offset"] == WRITTEN for ref, one in ingests.items())

    def reached() -> bool:
        port = registry.proxy.port
        return fault.stalled.wait(SECONDS) and comes_true(written) and comes_true(lambda: all_received(port))

    return reached, fault.release.set


def all_received(port: int) -> bool:
    """Whether all bytes sent over connections of a local port were received by the programs at both ends."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    queues = [row[4] for row in rows if port in (int(address.partition(":")[2], 16) for address in row[1:3])]
    return set(queues) == {"00000000:00000000"}


def comes_true(condition: Callable[[], bool]) -> bool:
    """Whether a condition holds within SECONDS."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def settled(shell: Shell, namespace: str = "") -> State:
    """The state of a namespace after deleting the leases that could not be deleted on a dead daemon.

    They must be ours and expire within a day.
    """
    namespace = namespace or shell.namespace
    for name, lease in snapshot_of(shell.containerd, namespace)["leases"].items():
        assert set(lease["labels"]) == {"containerd.io/gc.expire", "pyctrd.io/command"}
        shell.containerd.ctr("leases", "delete", name, namespace=namespace)
    collect_garbage(shell.containerd, namespace)
    return snapshot_of(shell.containerd, namespace)


def big_for_two(salt: str, size: int = 4 * MIB) -> Graph:
    """An index of two platforms with one layer of this size each."""
    children = []
    for number, on in enumerate(("linux/amd64", ARM64)):
        layers = [images.random_layer(size, zlib.crc32(f"{salt}{number}".encode()))]
        children.append(images.manifest(images.config(layers, on), layers, on=on))
    return images.index(children)
