"""The end of clients: closed, cancelled, timed out or failed in the middle of a call, on real daemons."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from integration import figures
from integration.dying import EXPIRE
from integration.killing import MIB, WRITTEN, comes_true, in_the_registry
from integration.rig.daemons import Containerd, Fault, Registry
from integration.rig.process import limited
from integration.rig.publish import push
from integration.rig.store import collect_garbage, snapshot_of
from integration.rig.throttle import Throttle
from integration.shell import Shell
from pyctrd import Cancelled, Client, ClientClosed, Digest, PyctrdError
from tests.support import images

LINE_BYTES_PER_SECOND = 8 * MIB
LAYERS = 3
SECONDS = 30


def image(salt: str) -> tuple[images.Graph, str]:
    """Return an image, and the digest of its last layer."""
    layers = [
        images.random_layer(3 * MIB, zlib.crc32(f"{salt}{number}".encode())) for number in range(LAYERS)
    ]
    return images.manifest(images.config(layers), layers), layers[-1].digest


@pytest.fixture(scope="module")
def slow(session_registry: Registry) -> Iterator[Throttle]:
    with Throttle(session_registry.proxy.port, in_all=LINE_BYTES_PER_SECOND) as line:
        yield line


@pytest.mark.every_generation
@pytest.mark.timeout(3600)
def test_close_timeout_and_error_during_calls(
    isolated_containerd: Containerd, registry: Registry, slow: Throttle, generation: str, tmp_path: Path
) -> None:
    """In a separate process, since a failure may be SIGSEGV, or a thread that never ends."""
    name = push(image("closing")[0], registry, "closing/slow").replace(registry.host, slow.host)
    broken, last = image("broken")
    missing = push(broken, registry, "closing/broken")
    registry.add_fault(Fault(f"blobs/{last}", status=404))
    runs = figures.runs(6)
    shell = Shell(isolated_containerd, "closing", tmp_path)
    command = [sys.executable, "-m", "integration.closing", str(isolated_containerd.address)]
    with limited(
        subprocess.Popen(
            [*command, name, missing, str(runs), str(figures.seed())],
            env=shell.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        ),
        60 + 10 * runs,
    ) as process:
        output = process.communicate()[0].decode()
    assert process.returncode == 0, output
    assert len(output.splitlines()) == runs, output
    figures.record("close, timeout and error", generation, runs=runs, crashes=0, lost=0, left_over=0)


def test_a_missing_layer_while_another_one_is_unpacked(
    containerd: Containerd, registry: Registry, namespace: str, repository: str, tmp_path: Path
) -> None:
    """Exit 5, and nothing is left; the unpacking thread must not use a closed channel."""
    graph, last = image(repository)
    name = push(graph, registry, repository)
    shell = Shell(containerd, namespace, tmp_path)
    for _ in range(4):
        registry.clear_faults()
        collect_garbage(containerd, namespace)  # snapshots of the last round would not be unpacked again
        absent = registry.add_fault(Fault(f"blobs/{last}", status=404, wait=60))
        with shell.start("pull", "--progress", "json", name, stderr=subprocess.PIPE) as process:
            assert process.stderr is not None
            for line in process.stderr:
                if b'"unpacking"' in line:
                    break
            absent.release.set()
            told = process.stderr.read().decode()
        assert process.returncode == 5, told
        assert last in told.rpartition("pyctrd: ")[2]
        assert snapshot_of(containerd, namespace)["leases"] == {}
        assert snapshot_of(containerd, namespace)["images"] == {}


@pytest.mark.parametrize(("end", "kind"), [("close", ClientClosed), ("cancel", Cancelled)])
def test_close_ends_a_pull(
    containerd: Containerd,
    registry: Registry,
    namespace: str,
    repository: str,
    tmp_path: Path,
    end: str,
    kind: type[PyctrdError],
) -> None:
    """At once, although the registry sends nothing; downloaded data is kept for a day."""
    graph, last = image(repository)
    name = push(graph, registry, repository)
    shell = Shell(containerd, namespace, tmp_path)
    reached, release = in_the_registry(shell, registry, last)
    client = Client(str(containerd.address), namespace)
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.images.pull, name, unpack=False)
        assert reached()
        getattr(client, end)()
        with pytest.raises(kind):
            future.result(SECONDS)
    client.close()
    release()
    state = snapshot_of(containerd, namespace)
    assert [EXPIRE in lease["labels"] for lease in state["leases"].values()] == [True]
    assert [one["offset"] for ref, one in state["ingests"].items() if last in ref] == [WRITTEN + 1000]
    with Client(str(containerd.address), namespace) as again:
        resumed = again.images.pull(name, unpack=False).resumed  # perhaps of other layers, too
    assert {blob.digest: count for blob, count in resumed.items()}[Digest(last)] == WRITTEN + 1000


def test_cancelling_a_call_does_not_affect_the_client(
    containerd: Containerd, registry: Registry, namespace: str, repository: str, tmp_path: Path
) -> None:
    """Received data is kept for a day, as after an interrupt; other calls of the client continue."""
    graph, last = image(repository)
    name = push(graph, registry, repository)
    other = push(image(f"{repository}-other")[0], registry, f"{repository}/other")
    reached, release = in_the_registry(Shell(containerd, namespace, tmp_path), registry, last)
    cancel = threading.Event()
    with Client(containerd.address, namespace) as client, ThreadPoolExecutor(1) as pool:
        future = pool.submit(client.images.pull, name, unpack=False, cancel=cancel)
        assert reached()
        assert client.images.pull(other, unpack=False).image.name == other
        begun = time.monotonic()
        cancel.set()
        with pytest.raises(Cancelled):
            future.result(SECONDS)
        assert time.monotonic() - begun < SECONDS / 2
        release()
        assert [image.name for image in client.images.list()] == [other]
        state = snapshot_of(containerd, namespace)
        assert [EXPIRE in lease["labels"] for lease in state["leases"].values()] == [True]
        assert client.images.pull(name, unpack=False).bytes_resumed >= WRITTEN


def test_close_during_a_save_removes_its_lease_and_its_file(
    containerd: Containerd, registry: Registry, namespace: str, repository: str, tmp_path: Path
) -> None:
    """To a pipe whose reader has stopped, so that nothing else wakes the save up."""
    graph, _ = image(repository)
    name = push(graph, registry, repository)
    client = Client(str(containerd.address), namespace)
    client.images.pull(name, unpack=False)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pipe.open("r+b", buffering=0) as reader, ThreadPoolExecutor(1) as pool:
        writing = pool.submit(client.images.save, [name], pipe)
        assert comes_true(lambda: bool(snapshot_of(containerd, namespace)["leases"]))
        assert reader.read(1)
        client.close()
        with pytest.raises(ClientClosed):
            writing.result(SECONDS)
    assert snapshot_of(containerd, namespace)["leases"] == {}
