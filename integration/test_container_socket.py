"""Another daemon's socket replaces ours during a pull.

While the old daemon runs, the connection stays open and the pull ends there. If it is killed, the pull
must not continue with the other one, which has none of the content: it must stay unchanged.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.conftest import DISK_BYTES, peer_required
from integration.killing import MIB, SECONDS, UNREACHABLE, client, in_the_registry, settled
from integration.pulls import assert_equal, assert_nothing_left
from integration.rig.contained import ContainerdInDocker
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Dockerd, Registry
from integration.rig.disk import SmallDisk
from integration.rig.publish import push
from integration.rig.rehash import damage
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.shell import Shell
from pyctrd import Progress
from pyctrd.errors import LeaseLost
from tests.support import shapes

pytestmark = pytest.mark.two_generations

Middle = tuple[Callable[[], bool], Callable[[], None]]


@pytest.fixture
def two(generation: str, dockerd: Dockerd, tmp_path: Path) -> Iterator[list[ContainerdInDocker]]:
    """Two daemons, each in a container."""
    with ExitStack() as stack:
        with peer_required():
            stack.enter_context(SmallDisk(tmp_path, DISK_BYTES))
            daemons = []
            for name in ("one", "other"):
                daemon = ContainerdInDocker(dockerd, generation, tmp_path / name, ISOLATED_CONTENT)
                stack.enter_context(daemon)
                daemons.append(daemon)
        yield daemons


def replace_socket(one: Containerd, other: Containerd) -> None:
    """Replace a daemon's socket by the other's; existing connections stay open."""
    one.address.rename(one.address.with_name("old.sock"))
    one.address.symlink_to(other.address)


def state_of(daemon: Containerd, namespace: str) -> State:
    collect_garbage(daemon, namespace)
    return snapshot_of(daemon, namespace)


def restore_socket(one: Containerd) -> None:
    one.address.unlink()
    one.address.with_name("old.sock").rename(one.address)


def pull_meanwhile(
    shell: Shell, name: str, middle: Middle, meanwhile: Callable[[], None], *options: str
) -> tuple[int, str]:
    """Pull, and do something meanwhile; return the exit code and the output."""
    reached, release = middle
    with shell.start("pull", name, *options, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert reached()
            meanwhile()
            release()
            _, stderr = process.communicate(timeout=SECONDS)
        finally:
            release()
            process.kill()
    words = stderr.decode()
    assert "Traceback" not in words
    return process.returncode, words


def test_a_pull_ends_on_the_daemon_where_it_began(
    two: list[ContainerdInDocker], registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    one, other = two
    shell = Shell(one, namespace, tmp_path)
    graph = shapes.big(12 * MIB, layers=3)
    name = push(graph, registry, repository)
    middle = in_the_registry(shell, registry, graph.document()["layers"][1]["digest"])
    code, words = pull_meanwhile(shell, name, middle, lambda: replace_socket(one, other))
    assert code == 0, words
    assert_nothing_left(state_of(other, namespace))
    restore_socket(one)
    with client(shell, undisturbed := f"{namespace}-undisturbed") as again:
        again.images.pull(name)
    assert_equal(settled(shell), settled(shell, undisturbed))
    assert damage(one) == damage(other) == []


def test_a_pull_does_not_continue_on_another_daemon(
    two: list[ContainerdInDocker], registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    one, other = two
    shell = Shell(one, namespace, tmp_path)
    graph = shapes.big(12 * MIB, layers=3)
    name = push(graph, registry, repository)

    def replace_and_kill() -> None:
        replace_socket(one, other)
        one.kill()

    middle = in_the_registry(shell, registry, graph.document()["layers"][1]["digest"])
    # One call is in progress, and no other starts, since that would reach the other daemon.
    alone = ("--max-concurrent-downloads", "1", "--no-unpack")
    code, words = pull_meanwhile(shell, name, middle, replace_and_kill, *alone)
    assert code == UNREACHABLE, words
    assert f"cannot reach containerd at {one.address}: " in words
    assert "hint: " in words
    assert_nothing_left(state_of(other, namespace))
    restore_socket(one)
    one.start()
    assert damage(one) == damage(other) == []
    shell("pull", name)


def test_a_daemon_replaced_between_two_calls(
    two: list[ContainerdInDocker], registry: Registry, repository: str, namespace: str, tmp_path: Path
) -> None:
    """Between calls the client reconnects to the other daemon without an error.

    It does not have our lease, and so rejects all writes.
    """
    one, other = two
    shell = Shell(one, namespace, tmp_path)
    name = push(shapes.mixed(), registry, repository)

    def meanwhile(event: Progress) -> None:
        if event.action == "exists" and not one.address.is_symlink():
            replace_socket(one, other)
            one.kill()

    with client(shell) as ours:
        ours.images.pull(name)
        with pytest.raises(LeaseLost, match=r"^lease .*: not found: .* content digest sha256:") as caught:
            ours.images.pull(name, progress=meanwhile, concurrency=1)
    assert caught.value.kind == "lease"
    assert f"{one.address} now belongs to another containerd" in (caught.value.hint or "")
    assert_nothing_left(state_of(other, namespace))
    restore_socket(one)
    one.start()
    shell("pull", name)
    assert damage(one) == damage(other) == []
