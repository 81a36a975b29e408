"""The disk of a containerd in a container: full, read-only, or empty after a restart.

Each case ends with a documented exit code and without damage; with space available, the next run succeeds.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.conftest import peer_required
from integration.killing import ARM64, MIB, big_for_two, client, settled
from integration.pulls import assert_equal
from integration.rig.contained import CONTENT, ContainerdInDocker
from integration.rig.daemons import Dockerd, Registry
from integration.rig.disk import SmallDisk
from integration.rig.publish import push
from integration.rig.rehash import damage
from integration.rig.store import snapshot_of
from integration.shell import Shell, archived
from pyctrd.oci.platforms import parse
from tests.support import images, shapes
from tests.support.images import Graph

pytestmark = pytest.mark.two_generations

SMALL, LARGE = 24 * MIB, 512 * MIB
FAILED, NOT_FOUND = 1, 3


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with ExitStack() as stack:
        with peer_required():
            made = stack.enter_context(SmallDisk(tmp_path / "disk", SMALL))
        yield made


@pytest.fixture
def shell(
    generation: str, dockerd: Dockerd, disk: SmallDisk, namespace: str, tmp_path: Path
) -> Iterator[Shell]:
    """pyctrd with a container whose data is on the small disk."""
    home = tmp_path / "home"
    home.mkdir()
    with ExitStack() as stack:
        with peer_required():
            daemon = ContainerdInDocker(dockerd, generation, disk.place)
            stack.enter_context(daemon)
        yield Shell(daemon, namespace, home)
        assert daemon.is_serving
        assert damage(daemon) == []


def contained_in(shell: Shell) -> ContainerdInDocker:
    assert isinstance(shell.containerd, ContainerdInDocker)
    return shell.containerd


def refused(shell: Shell, *arguments: str, phrase: str) -> None:
    """Run a command that fails because of the daemon's disk; it prints the daemon's message and a hint."""
    words = shell(*arguments, code=FAILED).stderr.decode()
    assert phrase in words
    assert "hint: " in words
    assert list(shell.folder.iterdir()) == []


# --- full --------------------------------------------------------------------------------------------------


def wide() -> Graph:
    """Two layers of a few KiB to download, and 64 MiB to unpack."""
    layers = [images.layer({f"zeros/{number}": bytes(32 * MIB)}) for number in range(2)]
    return images.manifest(images.config(layers), layers)


@pytest.mark.parametrize("what", ["pull", "unpack"])
def test_a_disk_that_is_full_during_a_pull(
    shell: Shell, disk: SmallDisk, registry: Registry, repository: str, what: str
) -> None:
    graph = wide() if what == "unpack" else shapes.big(48 * MIB, layers=3)
    name = push(graph, registry, repository)
    refused(shell, "pull", name, phrase="no space left on device")
    assert snapshot_of(shell.containerd, shell.namespace)["images"] == {}
    assert damage(shell.containerd) == []
    disk.resize(LARGE)
    shell("pull", name)
    ours = settled(shell)
    with client(shell, undisturbed := f"{shell.namespace}-undisturbed") as other:
        other.images.pull(name)
    assert_equal(ours, settled(shell, undisturbed))


def test_a_disk_that_is_full_during_an_ensure(
    shell: Shell, disk: SmallDisk, registry: Registry, repository: str
) -> None:
    graph = big_for_two(shell.namespace, size=14 * MIB)
    name = push(graph, registry, repository)
    with client(shell) as before:
        before.images.pull(name, unpack=False)
    arguments = ["save", "-o", "image.tar", "--platform", ARM64, name]
    refused(shell, *arguments, phrase="no space left on device")
    assert snapshot_of(shell.containerd, shell.namespace)["images"][name]["target"]["digest"] == graph.digest
    disk.resize(LARGE)
    shell(*arguments)
    assert archived(shell.folder / "image.tar") <= set(graph.blobs)


# --- read only ---------------------------------------------------------------------------------------------


def test_a_read_only_store_can_be_read(shell: Shell, registry: Registry, repository: str) -> None:
    """Stored content is reported and saved; missing content fails at once and leaves the store unchanged."""
    daemon = contained_in(shell)
    graph = big_for_two(shell.namespace, size=MIB)
    name, absent = (
        push(one, registry, f"{repository}/{one.digest[7:15]}") for one in (graph, shapes.mixed())
    )
    with client(shell) as before:
        before.images.pull(name)
    daemon.stop()
    daemon.read_only = (CONTENT,)
    daemon.start()
    before_it = settled(shell)
    refused(shell, "pull", absent, phrase="read-only file system")
    refused(shell, "ensure", "--platform", ARM64, name, phrase="read-only file system")
    refused(shell, "save", "-o", "x.tar", "--platform", ARM64, name, phrase="read-only file system")
    assert shell.json("diagnose", name)["complete"]
    shell("save", "-o", "image.tar", name)
    assert graph.digest in archived(shell.folder / "image.tar")
    assert settled(shell) == before_it
    daemon.stop()
    daemon.read_only = ()
    daemon.start()
    shell("ensure", "--platform", ARM64, name)
    shell("pull", absent)


# --- a new content root ------------------------------------------------------------------------------------


def test_a_restart_with_a_new_root(shell: Shell, registry: Registry, repository: str) -> None:
    daemon = contained_in(shell)
    name = push(shapes.five_platform(), registry, repository)
    with client(shell) as before:
        before.images.pull(name)
        daemon.stop()
        (daemon.root / "root").rename(daemon.root / "lost")
        daemon.start()
        for command in (["diagnose"], ["ensure"], ["save", "-o", "image.tar"]):
            words = shell(*command, name, code=NOT_FOUND).stderr.decode()
            assert f'image "{name}": not found' in words
            assert "hint: " in words
        assert list(shell.folder.iterdir()) == []
        # The client from before the restart continues with the new daemon.
        assert before.images.pull(name).unpacked == (parse("linux/amd64"),)
    shell("save", "-o", "image.tar", name)
