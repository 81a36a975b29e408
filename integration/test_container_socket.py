"""Another daemon's socket comes to stand where ours was, while a pull runs.

As long as the old daemon lives, the connection to it does, and the pull ends there. When it dies, the pull must
not go on with the other one, which knows nothing of what was done: nothing of it may be found there.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from integration.conftest import DISK_BYTES, peer_required
from integration.killing import MIB, SECONDS, client, in_the_registry, settled
from integration.rig import shapes
from integration.rig.contained import ContainerdInDocker
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Dockerd, Registry
from integration.rig.disk import SmallDisk
from integration.rig.publish import push
from integration.rig.rehash import damage
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.shell import Shell
from integration.test_pull import assert_equal, assert_nothing_left


@pytest.fixture
def two(generation: str, dockerd: Dockerd, tmp_path: Path) -> Iterator[list[ContainerdInDocker]]:
    """Two daemons in containers of their own."""
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
    """Put the other daemon's socket where the one's is; its own way to it stays, and so does the connection."""
    one.address.rename(one.address.with_name("old.sock"))
    one.address.symlink_to(other.address)


def state_of(daemon: Containerd, namespace: str) -> State:
    collect_garbage(daemon, namespace)
    return snapshot_of(daemon, namespace)
