"""An interrupted pull is resumed: after SIGKILL at random moments, after Ctrl-C, during another pull.

PYCTRD_SEED selects other moments.
"""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from integration import figures
from integration.conftest import peer_required
from integration.pulls import layer_of, leave_ingest, pull
from integration.rig import publish
from integration.rig.daemons import ISOLATED_CONTENT, Containerd, Fault, Registry
from integration.rig.process import wait_until
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.rig.throttle import Throttle
from integration.shell import Shell
from pyctrd.errors import AlreadyExists
from pyctrd.operations.pull import PullResult
from pyctrd.progress import Progress
from tests.support import shapes
from tests.support.images import Graph

MIB = 1 << 20
LAYERS = 8
LAYER_BYTES = 2 * MIB
STALL_AFTER = MIB + MIB // 2
# Long enough that every phase can be hit, and short enough for thirty pulls.
LINE_BYTES_PER_SECOND = 40 * MIB
PHASES = ("downloading", "downloaded", "unpacking", "unpacked")
KILLS = {"1.7": 5, "2.3": 5, "2.4": 20}


class World(NamedTuple):
    """A daemon whose namespaces share no content, and an image behind a slow connection."""

    daemon: Containerd
    registry: Registry
    graph: Graph
    name: str

    def wait_for_quiet(self) -> None:
        """Return when the proxy has noticed that its clients are gone and has logged their requests."""
        wait_until(lambda: not self.registry.proxy.connections, 30, lambda: True, lambda: "still connected")
        self.registry.clear_requests()


@pytest.fixture(scope="module")
def world(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp(f"kill-{generation}")
    with (
        peer_required(),
        Registry(folder / "registry") as registry,
        Containerd(generation, folder / "containerd", ISOLATED_CONTENT) as daemon,
        Throttle(registry.proxy.port, in_all=LINE_BYTES_PER_SECOND) as line,
    ):
        graph = shapes.big(LAYERS * LAYER_BYTES, layers=LAYERS)
        reference = publish.push(graph, registry, "kill/image")
        yield World(daemon, registry, graph, reference.replace(registry.host, line.host))


@pytest.fixture(autouse=True)
def _clean(world: World) -> None:
    world.registry.clear_faults()
    world.registry.clear_requests()


def start(world: World, namespace: str, folder: Path) -> subprocess.Popen[bytes]:
    shell = Shell(world.daemon, namespace, folder)
    return shell.start("pull", "--progress", "json", world.name, stderr=subprocess.PIPE)


def until(process: subprocess.Popen[bytes], action: str, count: int) -> str:
    """Read progress up to the given number of lines of an action, or the end; return the last action."""
    assert process.stderr is not None
    last = "start"
    for line in process.stderr:
        last = json.loads(line)["action"]
        count -= last == action
        if not count:
            break
    return last


def left_by_killed(world: World, namespace: str) -> State:
    """The state when the daemon has noticed that its client is gone."""
    world.wait_for_quiet()
    seen: list[State | None] = [None]

    def is_still() -> bool:
        try:
            seen.append(snapshot_of(world.daemon, namespace))
        except (KeyError, IndexError, ValueError):  # the daemon writes while several files are read
            seen.append(None)
        return seen[-1] is not None and seen[-1] == seen[-2]

    wait_until(is_still, 30, lambda: True, lambda: "still changing")
    assert seen[-1] is not None
    return seen[-1]


def settled(world: World, namespace: str) -> State:
    """The final state after a pull: leases of killed pulls are deleted, and garbage is collected.

    Each of these leases must have an expiry, since otherwise it would stay forever.
    """
    for lease_id, lease in snapshot_of(world.daemon, namespace)["leases"].items():
        assert "containerd.io/gc.expire" in lease["labels"], lease
        assert lease["labels"]["pyctrd.io/command"] == "pull"
        world.daemon.ctr("leases", "delete", lease_id, namespace=namespace)
    collect_garbage(world.daemon, namespace)
    return snapshot_of(world.daemon, namespace)


def assert_continued(world: World, before: State, result: PullResult) -> None:
    """Committed blobs were not requested again, partial ones were resumed.

    The daemon may have stored a little more after `before` was read.
    """
    resumed = {str(item.digest): count for item, count in result.resumed.items()}
    gets = [one for one in world.registry.requests() if one.method == "GET"]
    asked = {one.path.rpartition("/")[2]: one.range for one in gets}
    assert len(asked) == len(gets)
    assert not asked.keys() & before["content"].keys()
    for digest, offset in asked.items():
        had = resumed.get(digest, 0)
        assert offset == (f"bytes={had}-" if had else "")
    for ref, ingest in before["ingests"].items():
        digest = ref.partition("-")[2]
        assert digest not in asked or resumed.get(digest, 0) >= ingest["offset"]
    here = sum(result.resumed.get(item, 0) for item in result.fetched)
    assert result.bytes_fetched + here == sum(item.size for item in result.fetched)


def remove(world: World, namespace: str) -> None:
    world.daemon.ctr("images", "rm", world.name, namespace=namespace)


def test_killed_at_random_moments(world: World, namespace: str, tmp_path: Path) -> None:
    """SIGKILL in each phase in turn, at a random line of it and a little later: the next pull completes it.

    The first kill comes before anything is reported.
    """
    dice = random.Random(figures.seed())
    kills = KILLS[world.daemon.generation]
    process = start(world, f"{namespace}-whole", tmp_path)
    process.communicate()
    assert process.returncode == 0
    whole = settled(world, f"{namespace}-whole")
    remove(world, f"{namespace}-whole")
    actions, killed, resumed = set[str](), 0, 0
    for number in range(kills):
        space = f"{namespace}-{number}"
        action, count = PHASES[number % len(PHASES)], dice.randint(1, LAYERS - 1)
        later = dice.uniform(0, 0.03) if number else dice.uniform(0, 0.3)
        where = f"kill {number} of {kills}: {later:.3f} s after line {count} of {action!r}"
        process = start(world, space, tmp_path)
        last = until(process, action, count) if number else "start"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(later)
        process.kill()
        killed += process.wait(30) == -signal.SIGKILL
        process.communicate()
        actions.add(last)
        before = left_by_killed(world, space)
        result = pull(world.daemon, space, world.name)
        try:
            assert_continued(world, before, result)
            assert settled(world, space) == whole
        except AssertionError as error:
            error.add_note(where)
            raise
        resumed += result.bytes_resumed
        remove(world, space)
    told = f"{killed} of {kills} killed, at {sorted(actions)}, {resumed} bytes resumed"
    assert killed >= kills * 0.7, told
    assert actions >= {"start", *PHASES}, told
    assert resumed, told


@pytest.fixture
def stalled(world: World) -> Iterator[Fault]:
    """The image's last layer stops after 1.5 MiB, once; the layers before it are committed meanwhile."""
    path = f"blobs/{layer_of(world.graph, LAYERS - 1)}"
    yield world.registry.add_fault(Fault(path, stall_after=STALL_AFTER, times=1))
    world.registry.clear_faults()


def all_but_the_last_are_here(world: World, namespace: str) -> bool:
    return len(snapshot_of(world.daemon, namespace)["content"]) == len(world.graph.blobs) - 1


def wait_until_stalled(world: World, namespace: str, process: subprocess.Popen[bytes], fault: Fault) -> None:
    """Return when all layers but the stalled one are committed, and a MiB of that one is in the store."""
    assert process.stderr is not None
    unpacked = 0
    for line in process.stderr:
        unpacked += json.loads(line)["action"] == "unpacked"
        if unpacked == LAYERS - 1:
            break
    assert fault.stalled.wait(30)
    assert all_but_the_last_are_here(world, namespace)
    # Data that the registry sent may still be in transit: the connection is slow.
    begun = f"layer-{layer_of(world.graph, LAYERS - 1)}"

    def has_come() -> bool:
        ingests = snapshot_of(world.daemon, namespace)["ingests"]
        return begun in ingests and ingests[begun]["offset"] >= MIB

    wait_until(has_come, 30, lambda: process.poll() is None, lambda: "less than a MiB is stored")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda one: one.name)
def test_a_pull_reports_the_bytes_that_it_resumed(
    world: World, namespace: str, tmp_path: Path, stalled: Fault, number: signal.Signals
) -> None:
    """Received data is kept, and the next pull requests the rest."""
    process = start(world, namespace, tmp_path)
    wait_until_stalled(world, namespace, process, stalled)
    process.send_signal(number)
    process.communicate(timeout=30)
    stalled.release.set()
    world.wait_for_quiet()
    collect_garbage(world.daemon, namespace)  # as containerd does by itself some time later
    state = snapshot_of(world.daemon, namespace)
    shell = Shell(world.daemon, namespace, tmp_path)
    done = shell("pull", "--format", "json", "--progress", "json", world.name)
    result: dict[str, Any] = json.loads(done.stdout)
    last = layer_of(world.graph, LAYERS - 1)
    ((digest, kept),) = [(one["digest"], one["bytes"]) for one in result["resumed"]]
    # The last bytes that the registry sent may not have been received.
    assert (digest, MIB <= kept <= STALL_AFTER) == (last, True)
    assert result["bytes_resumed"] == kept
    assert [one["digest"] for one in result["fetched"]] == [last]
    assert result["bytes"] == len(world.graph.blobs[last]) - kept
    gets = [one for one in world.registry.requests() if one.method == "GET"]
    assert [(one.path.rpartition("/")[2], one.range) for one in gets] == [(last, f"bytes={kept}-")]
    assert not {one.path.rpartition("/")[2] for one in gets} & state["content"].keys()
    told = {line["action"]: line.get("resumed", 0) for line in map(json.loads, done.stderr.splitlines())}
    assert told["downloaded"] == told["done"] == kept
    assert set(settled(world, namespace)["content"]) == set(world.graph.blobs)
    remove(world, namespace)


def test_killed_while_another_pull_waits_for_it(
    world: World, namespace: str, tmp_path: Path, stalled: Fault
) -> None:
    """The other pull resumes the killed one's download, and ends like a single one."""
    process = start(world, namespace, tmp_path)
    wait_until_stalled(world, namespace, process, stalled)
    waits = threading.Event()
    results: list[PullResult] = []

    def watch(event: Progress) -> None:
        if event.action == "waiting":
            waits.set()

    other = threading.Thread(
        target=lambda: results.append(pull(world.daemon, namespace, world.name, progress=watch))
    )
    world.registry.clear_requests()
    other.start()
    assert waits.wait(30)
    process.kill()
    process.communicate()
    other.join(60)
    stalled.release.set()
    last = layer_of(world.graph, LAYERS - 1)
    (result,) = results
    assert {str(item.digest): count for item, count in result.resumed.items()} == {last: MIB}
    gets = [one for one in world.registry.requests() if one.method == "GET"]
    assert [(one.path.rpartition("/")[2], one.range) for one in gets] == [(last, f"bytes={MIB}-")]
    pull(world.daemon, f"{namespace}-alone", world.name)
    assert settled(world, namespace) == settled(world, f"{namespace}-alone")
    remove(world, namespace)
    remove(world, f"{namespace}-alone")


def test_shared_content_of_another_namespace_does_not_count_as_resumed(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    """Neither with an empty namespace, nor with a partial download that is no longer needed."""
    graph = shapes.big(4 * MIB, layers=2, seed=len(repository))
    reference = publish.push(graph, registry, repository)
    pull(containerd, f"{namespace}-a", reference)
    digest = layer_of(graph)
    assert pull(containerd, f"{namespace}-b", reference).resumed == {}
    with contextlib.suppress(AlreadyExists):
        leave_ingest(containerd, f"{namespace}-c", graph, digest, b"")
    result = pull(containerd, f"{namespace}-c", reference)
    assert (result.resumed, result.fetched, result.bytes_fetched) == ({}, (), 0)


def test_an_obsolete_partial_download_does_not_count_as_resumed(
    containerd: Containerd, registry: Registry, repository: str, namespace: str
) -> None:
    graph = shapes.big(4 * MIB, layers=2, seed=1 + len(repository))
    reference = publish.push(graph, registry, repository)
    leave_ingest(containerd, f"{namespace}-b", graph, layer_of(graph), graph.blobs[layer_of(graph)][:MIB])
    pull(containerd, f"{namespace}-a", reference)
    registry.clear_requests()
    result = pull(containerd, f"{namespace}-b", reference)
    assert (result.resumed, result.fetched, result.bytes_fetched) == ({}, (), 0)
    assert [one.method for one in registry.requests()] == ["HEAD"]
    assert snapshot_of(containerd, f"{namespace}-b")["ingests"] == {}
