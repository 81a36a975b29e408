"""Garbage collection during operations, and injected faults that remove content.

The fault always occurs during the operation, since the registry's proxy delays one layer until then.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from integration import figures
from integration.conftest import run_required
from integration.rig import publish
from integration.rig.collector import HASTY, Collector, bad_blobs, empty, unfinished
from integration.rig.daemons import Containerd, Registry
from integration.rig.process import wait_until
from integration.rig.proxy import Fault
from integration.rig.store import collect_garbage, prune_references, snapshot_of
from integration.shell import Pause, Shell, archived, layers_of
from pyctrd.containerd import Daemon
from pyctrd.oci import reference
from pyctrd.oci.model import Digest
from pyctrd.oci.platforms import Selection, select
from pyctrd.operations.ensure import ensure
from pyctrd.operations.pull import PullOptions, pull
from pyctrd.operations.save import SaveOptions, save
from pyctrd.registry import RegistryClient, RegistryOptions
from tests.support import images, shapes
from tests.support.images import Graph

FOREIGN = "linux/s390x"
HERE = "linux/amd64"
PLATFORMS = (HERE, FOREIGN)


# --- constant garbage collection -----------------------------------------------------------------------


@pytest.fixture
def hasty(generation: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containerd]:
    """A containerd that collects garbage after every change."""
    with run_required(
        lambda: Containerd(generation, tmp_path_factory.mktemp(f"hasty-{generation}"), config=HASTY)
    ) as daemon:
        yield daemon


class Witness(Daemon):
    """Hashes every blob that a command must protect, just before its lease ends."""

    must_hold: Mapping[str, bytes] = {}
    looked_at = 0

    @contextmanager
    def lease(self, purpose: str, *, resumable: bool = False) -> Iterator[Daemon]:
        """Hash all of it at the end, while the lease still exists."""
        with super().lease(purpose, resumable=resumable) as leased:
            yield leased
            for digest, data in self.must_hold.items():
                assert leased.content.read_all(Digest(digest), limit=len(data)) == data
                self.looked_at += 1


class Worker:
    """Pulls, completes, saves and loads an image repeatedly."""

    def __init__(self, daemon: Containerd, registry: Registry, namespace: str, base: images.Layer) -> None:
        self._containerd = daemon
        self._folder = daemon.root
        self.store = Witness.connect(str(daemon.address), namespace)
        self._registry = RegistryClient(RegistryOptions(plain_http=True))
        self.graph = image_on(base, uuid.uuid4().hex)
        self.name = publish.push(self.graph, registry, f"worker/{uuid.uuid4().hex[:12]}")
        self.remote = self._registry.remote(reference.parse(self.name))
        self.archive = b""
        self.counts: Counter[str] = Counter()
        self.work: list[Callable[[], None]] = [self.pull, self.ensure, self.save, self.load]

    def pull(self) -> None:
        """Pull into an empty namespace, and unpack."""
        self._forget(self.name)
        self.store.must_hold = held_by_a_pull(self.graph)
        pull(self.store, self.remote, self.name, PullOptions())
        self.counts["pulls"] += 1

    def ensure(self) -> None:
        """Fetch the other platform, and content that was pruned meanwhile."""
        self.store.must_hold = {}  # if nothing is missing there is no lease
        image = self.store.images.get(self.name)
        ensure(self.store, image, Selection(all=True).resolve(), lambda _image: [self.remote])
        self.counts["ensures"] += 1

    def save(self) -> None:
        """Save everything, fetching what is missing; the archive is checked blob by blob."""
        self.store.must_hold = self.graph.blobs
        output = io.BytesIO()
        image = self.store.images.get(self.name)
        options = SaveOptions(platforms=select(PLATFORMS))
        save(self.store, [image], options, output, fetchers=lambda _image: [self.remote])
        self.archive = output.getvalue()
        assert whole_blobs(self.archive) == set(self.graph.blobs)
        self.counts["saves"] += 1

    def load(self) -> None:
        """Import the last archive with ctr into the same namespace."""
        self._forget(self.name)
        path = self._folder / f"{uuid.uuid4().hex}.tar"
        path.write_bytes(self.archive)
        command = ("images", "import", "--all-platforms", "--no-unpack", path)
        self._containerd.ctr(*command, namespace=self.store.namespace)
        path.unlink()
        self.counts["loads"] += 1

    def _forget(self, name: str) -> None:
        if any(image.name == name for image in self.store.images.list()):
            self.store.images.delete(name, sync=True)

    def lost(self, wanted: Mapping[str, bytes]) -> list[str]:
        """List the blobs of the image that are missing or have other bytes."""
        here = {str(info.digest) for info in self.store.content.list()}
        return [digest for digest in wanted if digest not in here] + bad_blobs(self._containerd, list(wanted))

    def run(self, count: int, *, pruned: bool) -> None:
        """Do everything in turn; after each step the image must have what the step should store."""
        for number in range(count):
            self.work[number % len(self.work)]()
            if not pruned:
                step = self.work[number % len(self.work)]
                wanted = held_by_a_pull(self.graph) if step == self.pull else self.graph.blobs
                assert self.lost(wanted) == [], f"after step {number}: {step.__name__}"


def image_on(base: images.Layer, salt: str) -> Graph:
    """An image of two platforms with a shared base layer."""
    children = []
    for on in PLATFORMS:
        layers = [base, *shapes.layers_for(on, 2, salt)]
        children.append(images.manifest(images.config(layers, on), layers, on=on))
    return images.index(children)


def held_by_a_pull(graph: Graph) -> dict[str, bytes]:
    """What a pull for this host must store: every manifest and config, and the host's layers."""
    others = layers_of(graph, FOREIGN) - layers_of(graph, HERE)
    return {digest: data for digest, data in graph.blobs.items() if digest not in others}


def whole_blobs(archive: bytes) -> set[str]:
    """Hash every blob of an archive; each must match its name."""
    found = set()
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            if member.isfile() and member.name.startswith("blobs/sha256/"):
                stream = tar.extractfile(member)
                assert stream is not None
                digest = hashlib.sha256(stream.read()).hexdigest()
                assert member.name == f"blobs/sha256/{digest}"
                found.add(f"sha256:{digest}")
    return found


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pruned", [False, True], ids=["collected", "pruned"])
def test_leases_protect_content_from_constant_garbage_collection(
    hasty: Containerd, registry: Registry, namespace: str, generation: str, pruned: bool, tmp_path: Path
) -> None:
    """Without prune every blob also exists after each step; with prune, at the end of each lease.

    ctr's own import is not run during prune, where it loses content.
    """
    base = images.layer({"base": f"base of {namespace}\n".encode() * 500})
    bait_name = f"bait.example/{namespace}:latest"
    layout = publish.write_layout(image_on(base, "bait"), tmp_path / "bait", bait_name)
    subprocess.run(["tar", "-C", layout, "-cf", tmp_path / "bait.tar", "."], check=True)
    workers = [Worker(hasty, registry, namespace, base) for _ in range(2)]
    each = figures.runs(18 if pruned else 32) // len(workers)
    if pruned:
        for worker in workers:
            worker.work.remove(worker.load)
    hostile = Collector(hasty, namespace, bait=tmp_path / "bait.tar", bait_name=bait_name, prune=pruned)
    with hostile, ThreadPoolExecutor(len(workers)) as pool:
        tasks = [pool.submit(worker.run, each, pruned=pruned) for worker in workers]
        for task in tasks:
            task.result()
    assert hostile.counts["leases deleted"]
    assert bool(hostile.counts["references pruned"]) == pruned
    assert bad_blobs(hasty) == []
    left = empty(hasty, namespace)
    assert left == []
    done = sum((worker.counts for worker in workers), Counter[str]())
    for worker in workers:
        worker.store.close()
    figures.record(
        "collector, with prune" if pruned else "collector",
        generation,
        **done,
        **{key.replace(" ", "_"): value for key, value in hostile.counts.items()},
        blobs_hashed_while_held=sum(worker.store.looked_at for worker in workers),
        lost=0,
        left_over=len(left),
    )


# --- injected faults -----------------------------------------------------------------------------------

COMMANDS = {
    "pull": ("pull", "--no-unpack"),
    "ensure": ("ensure",),
    "save": ("save", "-o", "image.tar"),
}
Harm = Callable[[], object]


@pytest.fixture
def shell(containerd: Containerd, namespace: str, tmp_path: Path) -> Shell:
    return Shell(containerd, namespace, tmp_path)


@pytest.fixture
def pause(registry: Registry, repository: str) -> Pause:
    graph = shapes.five_platform(2, salt=uuid.uuid4().hex)
    return Pause(graph, publish.push(graph, registry, repository))


class Middle:
    """Runs a command that stalls within a layer, injects a fault, and lets the command continue."""

    def __init__(self, shell: Shell, pause: Pause, registry: Registry, command: str) -> None:
        self.shell, self.pause, self.registry, self.command = shell, pause, registry, command
        if command != "pull":
            shell("pull", "--metadata-only", pause.name)
            collect_garbage(shell.containerd, shell.namespace)

    @property
    def arguments(self) -> tuple[str, ...]:
        return (*COMMANDS[self.command], "--platform", FOREIGN, self.pause.name)

    def run(self, harm: Harm, code: int, start: Sequence[str] = ("-m", "pyctrd")) -> str:
        """Return the output of the command, whose exit code must be `code`."""
        stuck = max(layers_of(self.pause.graph, FOREIGN))
        fault = self.registry.add_fault(Fault(f"blobs/{stuck}", stall_after=10))
        process = subprocess.Popen(
            [sys.executable, *start, *self.arguments],
            env=self.shell.env,
            cwd=self.shell.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert fault.stalled.wait(60)
            harm()
            self.registry.clear_faults()
            _, stderr = process.communicate(timeout=60)
        finally:
            self.registry.clear_faults()
            process.kill()
            process.communicate()
        words = stderr.decode()
        assert process.returncode == code, words
        assert "Traceback" not in words
        return words

    def ctr(self, *arguments: str) -> str:
        return self.shell.containerd.ctr(*arguments, namespace=self.shell.namespace).stdout.decode()

    def leases(self) -> list[str]:
        return self.ctr("leases", "ls", "-q").split()

    def wanted(self) -> set[str]:
        """The layers that the command should fetch."""
        return layers_of(self.pause.graph, FOREIGN)

    def manifests(self) -> set[str]:
        """The manifests of the platform."""
        children = self.pause.graph.document()["manifests"]
        return {item["digest"] for item in children if item["platform"]["architecture"] in FOREIGN}

    def assert_nothing_left(self) -> None:
        """There is no archive and no new image, and after garbage collection nothing unused."""
        state = snapshot_of(self.shell.containerd, self.shell.namespace)
        assert list(self.shell.folder.iterdir()) == []
        assert (self.pause.name in state["images"]) == (self.command != "pull")
        assert state["leases"] == {}

    def assert_the_next_run_succeeds(self) -> None:
        self.shell(*self.arguments)
        collect_garbage(self.shell.containerd, self.shell.namespace)
        assert self.wanted() <= self.shell.have()
        assert bad_blobs(self.shell.containerd, sorted(self.shell.have())) == []
        assert empty(self.shell.containerd, self.shell.namespace) == []


@pytest.fixture(params=COMMANDS)
def middle(request: pytest.FixtureRequest, shell: Shell, pause: Pause, registry: Registry) -> Middle:
    return Middle(shell, pause, registry, str(request.param))


def test_lost_labels_are_set_again(middle: Middle, generation: str) -> None:
    """The lease protects everything until the end, and labels afterwards, so they are set again before."""
    shell = middle.shell
    undisturbed = Shell(shell.containerd, f"{shell.namespace}-calm", shell.folder)
    words = middle.run(lambda: prune_references(shell.containerd, shell.namespace), code=0)
    collect_garbage(shell.containerd, shell.namespace)
    if middle.command == "save":
        assert whole_blobs((shell.folder / "image.tar").read_bytes()) >= middle.wanted()
    assert "another client removed 2 of 3 gc labels; restored" in words
    undisturbed("pull", *(() if middle.command == "pull" else ("--metadata-only",)), middle.pause.name)
    undisturbed("ensure", "--platform", FOREIGN, middle.pause.name)
    calm = snapshot_of(shell.containerd, undisturbed.namespace)["content"]
    here = snapshot_of(shell.containerd, shell.namespace)["content"]
    assert middle.wanted() <= set(here)
    # Manifests of other platforms protect nothing that is stored: only a pull sets their labels.
    asked = set(here) if middle.command == "pull" else {middle.pause.graph.digest, *middle.manifests()}
    for digest in asked:
        assert gc_labels(here[digest]["labels"]) == gc_labels(calm[digest]["labels"])
    assert empty(shell.containerd, undisturbed.namespace) == []
    assert empty(shell.containerd, shell.namespace) == []
    figures.record("labels removed during the operation", generation, faults=1, lost=0, left_over=0)


def gc_labels(labels: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in labels.items() if key.startswith("containerd.io/gc.ref.content")}


def test_a_deleted_lease_is_an_error(middle: Middle, generation: str) -> None:
    def harm() -> None:
        [lease] = middle.leases()
        gone.append(lease)
        middle.ctr("leases", "delete", "--sync", lease)

    gone: list[str] = []
    words = middle.run(harm, code=1)
    assert words.splitlines()[-2].startswith(f"pyctrd: lease {gone[0]}: not found: it was deleted by another")
    assert f"{middle.command!r} was using it" in words
    assert words.splitlines()[-1].startswith("hint: ")
    middle.assert_nothing_left()
    middle.assert_the_next_run_succeeds()
    figures.record("lease deleted during the operation", generation, faults=1, lost=0, left_over=0)


SHORT_LIVED = """
import datetime, sys
from pyctrd.containerd import leases
leases.LIFETIME = datetime.timedelta(seconds=1)
from pyctrd.cli import main
main()
"""


def test_an_expired_lease_is_an_error(middle: Middle, generation: str) -> None:
    """The command line with leases that expire after a second; the next collection removes this one."""

    def expired() -> bool:
        collect_garbage(middle.shell.containerd, middle.shell.namespace)
        return not middle.leases()

    def harm() -> None:
        wait_until(expired, 60, lambda: True, lambda: "the lease does not expire")

    words = middle.run(harm, code=1, start=("-c", SHORT_LIVED))
    assert "not found: it expired at 2" in words
    middle.assert_nothing_left()
    middle.assert_the_next_run_succeeds()
    figures.record("lease expired during the operation", generation, faults=1, lost=0, left_over=0)


@pytest.mark.parametrize(
    ("harm", "code", "words"),
    [
        ("content", 4, "failed to get reader: content digest {last}: not found"),
        (
            "lease",
            1,
            "was deleted by another client while 'save' was using it: failed to get reader",
        ),
    ],
)
def test_content_deleted_during_a_save_is_an_error(
    fresh_containerd: Containerd,
    registry: Registry,
    repository: str,
    tmp_path: Path,
    harm: str,
    code: int,
    words: str,
) -> None:
    """The pipe's reader stops until the content is deleted; an incomplete archive must be an error."""
    graph = shapes.big(48 << 20, layers=6)
    shell = Shell(fresh_containerd, "cut", tmp_path)
    name = publish.push(graph, registry, repository)
    shell("pull", "--no-unpack", name)
    last = str(graph.document()["layers"][-1]["digest"])
    process = shell.start("save", name, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        assert process.stdout is not None
        begun = process.stdout.read(512)
        if harm == "content":
            shell.containerd.ctr("content", "rm", last, namespace="cut")
        else:
            [lease] = snapshot_of(shell.containerd, "cut")["leases"]
            shell.containerd.ctr("leases", "delete", lease, namespace="cut")
            shell.containerd.ctr("images", "rm", "--sync", name, namespace="cut")
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == code, stderr.decode()
    assert words.format(last=last) in stderr.decode()
    assert len(begun + stdout) < sum(map(len, graph.blobs.values()))
    assert empty(shell.containerd, "cut") == []


def test_content_removed_by_prune_is_fetched_again(
    containerd: Containerd, registry: Registry, shell: Shell, pause: Pause
) -> None:
    """ctr content prune references removes the layers of every image, also ctr's; ensure fetches them."""
    containerd.ctr("images", "pull", "--plain-http", pause.name, namespace=shell.namespace)
    layers = layers_of(pause.graph, HERE)
    assert layers <= shell.have()
    prune_references(containerd, shell.namespace)
    assert not layers & shell.have()
    shell("diagnose", pause.name, code=4)
    shell("save", "-o", "image.tar", pause.name)
    assert layers <= archived(shell.folder / "image.tar")
    collect_garbage(containerd, shell.namespace)
    assert layers <= shell.have()
    assert unfinished(snapshot_of(containerd, shell.namespace)) == []
