"""containerd is killed during a save, or during ctr's import of our archive, and restarted.

Expected: the documented exit code, no partial content in the store (each blob is hashed) or on our
side, and a next run that ends like one without the fault. A fault that blocks until it is released, in
the registry or between pyctrd and the socket, determines the moment.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.killing import (
    AFTERWARDS,
    MIB,
    SECONDS,
    big_for_two,
    client,
    in_the_registry,
    kill_in_the_middle,
    settled,
)
from integration.rig.contained import ContainerdInDocker
from integration.rig.daemons import Registry
from integration.rig.publish import push
from integration.rig.rehash import damage
from integration.rig.relay import Relay
from integration.rig.store import collect_garbage, snapshot_of
from integration.shell import Shell, archived
from integration.test_ensure import layers_of
from tests.support import shapes

pytestmark = pytest.mark.two_generations


@pytest.fixture
def shell(contained: ContainerdInDocker, namespace: str, tmp_path: Path) -> Iterator[Shell]:
    yield Shell(contained, namespace, tmp_path)
    assert contained.is_serving
    assert damage(contained) == []


def test_killed_while_a_save_fetches(shell: Shell, registry: Registry, repository: str) -> None:
    graph = big_for_two(shell.namespace)
    name = push(graph, registry, repository)
    with client(shell) as before:
        before.images.pull(name, metadata_only=True)
    (stuck,) = layers_of(graph.child(0))
    arguments = ["save", "-o", "image.tar", name]
    kill_in_the_middle(shell, arguments, *in_the_registry(shell, registry, stuck), "back-later")
    assert list(shell.folder.iterdir()) == []
    shell(*arguments)
    assert {graph.digest, stuck} <= archived(shell.folder / "image.tar")


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_killed_while_a_save_writes(
    shell: Shell, registry: Registry, repository: str, afterwards: str
) -> None:
    graph = shapes.big(24 * MIB, layers=2)
    name = push(graph, registry, repository)
    with client(shell) as undisturbed:
        undisturbed.images.pull(name)
        undisturbed.images.save([name], shell.folder / "whole.tar")
    before = settled(shell)
    archive = shell.folder / "image.tar"
    archive.write_bytes(b"an older one")
    socket = shell.containerd.address
    with Relay(socket, socket.with_name("relay.sock"), hold_after=16 * MIB) as relay:
        shell.env["CONTAINERD_ADDRESS"] = str(relay.path)
        arguments = ["save", "-o", "image.tar", name]
        release = relay.release if afterwards == "back-later" else relay.go_on
        kill_in_the_middle(shell, arguments, lambda: relay.held.wait(SECONDS), release, afterwards)
    shell.env["CONTAINERD_ADDRESS"] = str(socket)
    assert archive.read_bytes() == b"an older one"
    assert {path.name for path in shell.folder.iterdir()} == {"image.tar", "whole.tar"}
    assert settled(shell) == before
    shell(*arguments)
    assert archive.read_bytes() == (shell.folder / "whole.tar").read_bytes()


def test_killed_while_ctr_imports_the_archive(shell: Shell, registry: Registry, repository: str) -> None:
    graph = shapes.big(24 * MIB, layers=2)
    name = push(graph, registry, repository)
    with client(shell) as ours:
        ours.images.pull(name)
        ours.images.save([name], shell.folder / "image.tar")
    archive = (shell.folder / "image.tar").read_bytes()
    middle = len(archive) * 3 // 4
    loaded = Shell(shell.containerd, f"{shell.namespace}-loaded", shell.folder)
    with start_import(loaded) as process:
        assert process.stdin
        assert process.stderr
        try:
            # Three quarters of the archive; all but the 64 KiB that a pipe buffers has been read by ctr.
            process.stdin.write(archive[:middle])
            process.stdin.flush()
            assert process.poll() is None
            shell.containerd.kill()
            shell.containerd.start()
            process.communicate(archive[middle:], timeout=SECONDS)
        finally:
            process.kill()
    assert process.returncode != 0
    assert damage(shell.containerd) == []
    assert snapshot_of(shell.containerd, loaded.namespace)["images"] == {}
    with start_import(loaded) as process:
        _, words = process.communicate(archive, timeout=SECONDS)
    assert process.returncode == 0, words
    collect_garbage(shell.containerd, loaded.namespace)
    loaded("save", "--offline", "-o", "again.tar", name)
    assert archived(shell.folder / "again.tar") == archived(shell.folder / "image.tar")


def start_import(shell: Shell) -> subprocess.Popen[bytes]:
    daemon = shell.containerd
    command: list[str | Path] = [daemon.peer.ctr, "--address", daemon.address, "--namespace", shell.namespace]
    return subprocess.Popen(
        [*command, "images", "import", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
