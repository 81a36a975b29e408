"""The container of a containerd is killed during a pull or an ensure, and restarted.

Expected: the documented exit code, no partial content in the store (each blob is hashed) or on our
side, and a next run that ends like one without the fault. A fault that blocks until it is released, in
the registry or between pyctrd and the socket, determines the moment.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.killing import (
    AFTERWARDS,
    ARM64,
    MIB,
    WRITTEN,
    big_for_two,
    client,
    in_the_registry,
    kill_in_the_middle,
    settled,
)
from integration.pulls import assert_equal
from integration.rig.contained import ContainerdInDocker
from integration.rig.daemons import Registry
from integration.rig.publish import push
from integration.rig.rehash import damage
from integration.rig.store import snapshot_of
from integration.shell import Shell
from integration.test_ensure import layers_of
from tests.support import shapes

pytestmark = pytest.mark.two_generations


@pytest.fixture
def shell(contained: ContainerdInDocker, namespace: str, tmp_path: Path) -> Iterator[Shell]:
    yield Shell(contained, namespace, tmp_path)
    assert contained.is_serving
    assert damage(contained) == []


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_killed_during_a_pull(shell: Shell, registry: Registry, repository: str, afterwards: str) -> None:
    graph = shapes.big(12 * MIB, layers=3)
    name = push(graph, registry, repository)
    stuck = graph.document()["layers"][1]["digest"]
    kill_in_the_middle(shell, ["pull", name], *in_the_registry(shell, registry, stuck), afterwards)
    assert damage(shell.containerd) == []
    assert snapshot_of(shell.containerd, shell.namespace)["images"] == {}
    shell("pull", name)
    with client(shell, undisturbed := f"{shell.namespace}-undisturbed") as other:
        other.images.pull(name)
    assert_equal(settled(shell), settled(shell, undisturbed))


def test_a_pull_resumes_after_a_restart(shell: Shell, registry: Registry, repository: str) -> None:
    """What the daemon had stored when it was killed is protected by our lease and used by the next pull."""
    graph = shapes.big(12 * MIB, layers=3)
    name = push(graph, registry, repository)
    first, stuck, last = (layer["digest"] for layer in graph.document()["layers"])
    reached, release = in_the_registry(shell, registry, stuck)
    one_by_one = ["pull", "--max-concurrent-downloads", "1", "--no-unpack", name]
    kill_in_the_middle(shell, one_by_one, reached, release, "back-later")
    registry.clear_requests()
    shell(*one_by_one)
    asked = {one.path.rpartition("/")[2]: one.range for one in registry.requests() if one.method == "GET"}
    assert first not in asked
    assert asked[last] == ""
    assert asked[stuck] == f"bytes={WRITTEN}-"


@pytest.mark.parametrize("afterwards", AFTERWARDS)
def test_killed_during_an_ensure(shell: Shell, registry: Registry, repository: str, afterwards: str) -> None:
    graph = big_for_two(shell.namespace)
    name = push(graph, registry, repository)
    with client(shell) as before_it:
        before_it.images.pull(name)
    before = snapshot_of(shell.containerd, shell.namespace)["images"]
    (stuck,) = layers_of(graph.child(1))
    arguments = ["ensure", "--platform", ARM64, name]
    kill_in_the_middle(shell, arguments, *in_the_registry(shell, registry, stuck), afterwards)
    assert damage(shell.containerd) == []
    assert snapshot_of(shell.containerd, shell.namespace)["images"] == before
    shell(*arguments)
    with client(shell, undisturbed := f"{shell.namespace}-undisturbed") as other:
        other.images.pull(name)
        other.images.ensure(name, platforms=[ARM64])
    assert_equal(settled(shell), settled(shell, undisturbed))
