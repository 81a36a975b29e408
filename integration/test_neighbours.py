"""Concurrent clients: another pyctrd, ctr or nerdctl pulls the same image, or shared layers.

containerd's lock on an ingest coordinates them: in one namespace each blob is downloaded once. The
first client is held within a layer until the other one waits for it, so that they always overlap.
"""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration import figures
from integration.conftest import peer_required, run_required
from integration.rig import peers, publish
from integration.rig.collector import bad_blobs, empty, unfinished
from integration.rig.containerd import ISOLATED_CONTENT
from integration.rig.daemons import Containerd, Registry
from integration.rig.process import wait_until
from integration.rig.proxy import Fault
from integration.rig.store import State, collect_garbage, snapshot_of
from integration.shell import Shell, layers_of
from tests.support import images, shapes
from tests.support.images import Graph

HERE = "linux/amd64"
NEIGHBOURS = ("pyctrd", "ctr", "nerdctl 2.0.3", "nerdctl 2.2.2")


@pytest.fixture(scope="module")
def isolated(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd whose namespaces share no content."""
    with run_required(
        lambda: Containerd(generation, tmp_path_factory.mktemp(f"apart-{generation}"), ISOLATED_CONTENT)
    ) as daemon:
        yield daemon


@pytest.fixture
def shell(isolated: Containerd, namespace: str, tmp_path: Path) -> Shell:
    return Shell(isolated, namespace, tmp_path)


class Neighbour:
    """Starts a pull with any of the clients, with "selected" metadata, which all of them support."""

    def __init__(self, kind: str, shell: Shell, name: str, namespace: str = "") -> None:
        self.kind = kind
        self._out = (shell.folder / f"{uuid.uuid4().hex}.log").open("w+b")
        self._process = subprocess.Popen(
            self._command(shell, name, namespace or shell.namespace),
            env={**shell.env, **peers.tool_environment(shell.containerd.peer.bin_dir), **_only(shell)},
            cwd=shell.folder,
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
        )

    def _command(self, shell: Shell, name: str, namespace: str) -> Sequence[str]:
        daemon = shell.containerd
        at = ["--address", str(daemon.address), "--namespace", namespace]
        if self.kind == "pyctrd":
            return [sys.executable, "-m", "pyctrd", "pull", *at, "--metadata", "selected", name]
        if self.kind == "ctr":
            lean = ["--skip-metadata", "--local"] if not daemon.is_1 else []
            return [str(daemon.peer.ctr), *at, "images", "pull", "--plain-http", *lean, name]
        with peer_required():
            program = peers.nerdctl(self.kind.removeprefix("nerdctl "))
        own = ["--data-root", str(shell.folder / "nerdctl"), "--insecure-registry"]
        return [str(program), *at, *own, "pull", "--quiet", name]

    @property
    def words(self) -> str:
        """The output so far."""
        return Path(self._out.name).read_text(errors="replace")

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def finish(self) -> None:
        """Wait for the process, which must succeed."""
        try:
            code = self._process.wait(90)
        finally:
            self._process.kill()
            self._process.wait()
            self._out.close()
        assert code == 0, f"{self.kind}: exit {code}\n{self.words}"
        assert "Traceback" not in self.words


def _only(shell: Shell) -> dict[str, str]:
    return {key: shell.env[key] for key in ("PYTHONPATH", "DOCKER_CONFIG")}


def downloads(registry: Registry) -> Counter[str]:
    """Count how often each blob was sent, without manifests, which may be read repeatedly."""
    return Counter(
        one.path.rpartition("/")[2]
        for one in registry.requests()
        if one.method == "GET" and one.status in (200, 206) and "/blobs/" in one.path
    )


def comparable(state: State, name: str) -> object:
    """What must be equal for all clients: content with labels, the image's target, the snapshots.

    Labels of image records and snapshots depend on the client that created them, for example nerdctl.
    """
    chains = {
        snapshotter: {key: (snapshot["parent"], snapshot["kind"]) for key, snapshot in keys.items()}
        for snapshotter, keys in state["snapshots"].items()
    }
    return state["content"], state["images"][name]["target"], chains


def undisturbed(shell: Shell, name: str) -> State:
    """What a pull leaves without other clients."""
    calm = f"{shell.namespace}-calm"
    Neighbour("pyctrd", shell, name, calm).finish()
    collect_garbage(shell.containerd, calm)
    return snapshot_of(shell.containerd, calm)


@contextmanager
def held_back(registry: Registry, digest: str) -> Iterator[Fault]:
    """The first download of a blob stops half-way until the context is left."""
    fault = registry.add_fault(Fault(f"blobs/{digest}", stall_after=10, times=1))
    try:
        yield fault
    finally:
        registry.clear_faults()


def waits(neighbour: Neighbour, registry: Registry) -> Callable[[], bool]:
    """Whether a client has reached the lock: pyctrd reports it, others have sent a request by then."""
    before = len(registry.requests())

    def ready() -> bool:
        if neighbour.kind == "pyctrd":
            return "waiting" in neighbour.words
        return len(registry.requests()) > before

    return ready


@pytest.mark.parametrize("first", ["pyctrd", "other"])
@pytest.mark.parametrize("other", NEIGHBOURS)
def test_two_clients_pull_the_same_image(
    shell: Shell, registry: Registry, repository: str, generation: str, other: str, first: str
) -> None:
    if other == "pyctrd" and first == "other":
        first = "pyctrd"  # again, with the other one first
    graph = shapes.multi([HERE, "linux/arm64"], 3, salt=uuid.uuid4().hex)
    name = publish.push(graph, registry, repository)
    registry.clear_requests()
    order = ["pyctrd", other] if first == "pyctrd" else [other, "pyctrd"]
    with held_back(registry, min(layers_of(graph, HERE))) as fault:
        leading = Neighbour(order[0], shell, name)
        wait_until(fault.stalled.is_set, 60, lambda: leading.running, lambda: leading.words)
        following = Neighbour(order[1], shell, name)
        wait_until(waits(following, registry), 60, lambda: following.running, lambda: following.words)
    leading.finish()
    following.finish()
    counted = downloads(registry)
    assert {digest: times for digest, times in counted.items() if times > 1} == {}
    assert layers_of(graph, HERE) <= set(counted)
    collect_garbage(shell.containerd, shell.namespace)
    state = snapshot_of(shell.containerd, shell.namespace)
    assert unfinished(state) == []
    assert comparable(state, name) == comparable(undisturbed(shell, name), name)
    assert bad_blobs(shell.containerd, list(state["content"])) == []
    assert empty(shell.containerd, shell.namespace) == []
    figures.record(f"pyctrd and {other}, one image", generation, runs=1, lost=0, left_over=0)


def on_shared_base(salt: str) -> list[Graph]:
    base = [images.layer({f"base/{number}": f"{salt}{number}".encode() * 200}) for number in range(2)]
    made = []
    for number in range(2):
        layers = [*base, *shapes.layers_for(HERE, 1, f"{salt}-{number}")]
        made.append(images.index([images.manifest(images.config(layers, HERE), layers, on=HERE)]))
    return made


@pytest.mark.parametrize("other", NEIGHBOURS)
def test_two_clients_pull_images_with_shared_layers(
    shell: Shell, registry: Registry, repository: str, generation: str, other: str
) -> None:
    """Both are complete, and shared layers are downloaded once, although from two repositories."""
    graphs = on_shared_base(uuid.uuid4().hex)
    names = [publish.push(graph, registry, f"{repository}/{n}") for n, graph in enumerate(graphs)]
    registry.clear_requests()
    shared = layers_of(graphs[0], HERE) & layers_of(graphs[1], HERE)
    with held_back(registry, min(shared)) as fault:
        ours = Neighbour("pyctrd", shell, names[0])
        wait_until(fault.stalled.is_set, 60, lambda: ours.running, lambda: ours.words)
        theirs = Neighbour(other, shell, names[1])
        wait_until(waits(theirs, registry), 60, lambda: theirs.running, lambda: theirs.words)
    ours.finish()
    theirs.finish()
    counted = downloads(registry)
    assert {digest: times for digest, times in counted.items() if times > 1} == {}
    assert shared <= set(counted)
    collect_garbage(shell.containerd, shell.namespace)
    state = snapshot_of(shell.containerd, shell.namespace)
    assert unfinished(state) == []
    assert set(state["content"]) == set().union(*(graph.blobs for graph in graphs))
    assert set(state["images"]) >= set(names)
    assert bad_blobs(shell.containerd, list(state["content"])) == []
    # Shared layers are protected by the image that stays.
    shell.containerd.ctr("images", "rm", "--sync", names[1], namespace=shell.namespace)
    shell("diagnose", names[0])
    assert empty(shell.containerd, shell.namespace) == []
    figures.record(f"pyctrd and {other}, shared layers", generation, runs=1, lost=0, left_over=0)


def test_two_clients_pull_into_two_namespaces(
    shell: Shell, registry: Registry, repository: str, generation: str
) -> None:
    """Each namespace has its own locks: a blob is downloaded at most once in each, and both pulls succeed."""
    graph = shapes.multi([HERE, "linux/arm64"], 3, salt=uuid.uuid4().hex)
    name = publish.push(graph, registry, repository)
    registry.clear_requests()
    spaces = [shell.namespace, f"{shell.namespace}-two"]
    for puller in [Neighbour("pyctrd", shell, name, space) for space in spaces]:
        puller.finish()
    assert max(downloads(registry).values()) <= len(spaces)
    calm = undisturbed(shell, name)
    for space in spaces:
        collect_garbage(shell.containerd, space)
        state = snapshot_of(shell.containerd, space)
        assert unfinished(state) == []
        assert comparable(state, name) == comparable(calm, name)
        assert bad_blobs(shell.containerd, list(state["content"])) == []
        assert empty(shell.containerd, space) == []
    figures.record("two namespaces", generation, runs=1, lost=0, left_over=0)


@pytest.mark.timeout(1800)
def test_four_clients_at_the_same_time(
    shell: Shell, registry: Registry, repository: str, generation: str
) -> None:
    """Four clients start at the same time, repeatedly, and none is held back."""
    rounds = max(figures.runs(4) // 2, 1)
    kinds = ("pyctrd", "pyctrd", "ctr", "nerdctl 2.2.2")
    for turn in range(rounds):
        graph = shapes.multi([HERE, "linux/arm64"], 3, salt=uuid.uuid4().hex)
        name = publish.push(graph, registry, f"{repository}/{turn}")
        registry.clear_requests()
        crowd = [Neighbour(kind, shell, name) for kind in kinds]
        for client in crowd:
            client.finish()
        assert {digest: times for digest, times in downloads(registry).items() if times > 1} == {}
        collect_garbage(shell.containerd, shell.namespace)
        state = snapshot_of(shell.containerd, shell.namespace)
        assert unfinished(state) == []
        assert set(state["content"]) >= {graph.digest, *layers_of(graph, HERE)}
        assert bad_blobs(shell.containerd, list(state["content"])) == []
        assert empty(shell.containerd, shell.namespace) == []
    figures.record("four clients", generation, runs=rounds * len(kinds), lost=0, left_over=0)
