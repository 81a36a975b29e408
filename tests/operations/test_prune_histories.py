"""Random histories of a namespace over simulated weeks: prune never removes what it has to keep.

Each history has pulls, also as CRI makes them, tags that move, containers, pins, expiries, leases,
interrupted pulls and removals by other clients; and prunes, each with random policies. What may go is worked
out here again, name by name; what is gone is compared with the dry run and with the store, whose collector is
not the model that prune predicts with.
"""

from __future__ import annotations

import datetime as dt
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from pyctrd.oci.expiry import EXPIRE_LABEL
from pyctrd.oci.model import PINNED, PINNED_LABEL, Digest, ImageRecord
from pyctrd.oci.resources import DiskSpace
from pyctrd.operations.prune_images import FreeSpace, PrunePolicy, prune
from pyctrd.operations.usage import usage
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.removal import Removal, RemoveResult, read_graph
from tests.support.ageing import AgeingStore
from tests.support.memory import SNAPSHOTTER
from tests.support.memory_content import Resource

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
REPOSITORIES = ("registry.example/app", "registry.example/team/db", "docker.io/library/base")
TAGS = ("1", "2", "latest")
KEEPS = ("latest$", "/team/", "app:1", "nothing")
STEPS = 30
TOP = f"containerd.io/gc.ref.snapshot.{SNAPSHOTTER}"


class History:
    """A namespace that random clients change."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        namespace = self.rng.choice(("default", "k8s.io"))
        self.store = AgeingStore(START, images_expire=self.rng.random() < 0.5, namespace=namespace)
        self.state = self.store.state
        self.numbers = iter(range(1, 1000))
        self.prunes = 0

    def run(self) -> None:
        """Let everything happen in random order."""
        acts: list[Callable[[], object]] = [
            *10 * [self.pull],
            *3 * [self.prune],
            *(self.tag, self.pin, self.unpin, self.expire, self.start, self.start, self.stop),
            *(self.hold, self.interrupt, self.progress, self.untag, self.state.collect),
        ]
        for _ in range(STEPS):
            self.rng.choice(acts)()
            self.store.advance(self.rng.random() * self.rng.choice((0.02, 1, 4)) * DAY)
        self.check_usage()
        self.prune()

    # --- what clients do ---

    def name(self) -> str:
        return f"{self.rng.choice(REPOSITORIES)}:{self.rng.choice(TAGS)}"

    def pull(self) -> None:
        name = self.name()
        build = self.rng.randrange(12)
        layers = [b"layer %d" % number * 50 for number in range(build % 4, build % 4 + self.rng.randrange(4))]
        snapshot = ""
        for number in range(len(layers)):
            parent, snapshot = snapshot, f"{snapshot}/{build % 4 + number}"
            if ("memory", snapshot) not in self.state.snapshots:
                self.store.add_snapshot(snapshot, parent)
        target = self.store.add_image(b"build %d" % build, layers, snapshot)
        self.store.name(name, target)
        if self.rng.random() < 0.5:
            self.store.name(f"{name.rpartition(':')[0]}@{target}", target)
            self.store.name(str(Digest.of(target.encode())), target)

    def one(self) -> str | None:
        return self.rng.choice(sorted(self.state.images)) if self.state.images else None

    def tag(self) -> None:
        if name := self.one():
            self.store.name(self.name(), self.state.images[name].target.digest)

    def pin(self) -> None:
        if name := self.one():
            self.store.label(name, {PINNED_LABEL: PINNED})

    def unpin(self) -> None:
        for name in sorted(self.state.images):
            if PINNED_LABEL in self.state.images[name].labels:
                self.store.label(name, {})
                return

    def expire(self) -> None:
        if name := self.one():
            when = self.state.now + self.rng.random() * 6 * DAY
            self.store.label(name, {**self.state.images[name].labels, EXPIRE_LABEL: when.isoformat()})

    def start(self) -> None:
        if name := self.one():
            self.store.run(f"c{next(self.numbers)}", name)

    def stop(self) -> None:
        if self.state.containers:
            del self.state.containers[self.rng.choice(sorted(self.state.containers))]

    def hold(self) -> None:
        lease = f"hold-{next(self.numbers)}"
        expiry = {EXPIRE_LABEL: (self.state.now + 3 * DAY).isoformat()} if self.rng.random() < 0.5 else {}
        self.store.leases.create(lease, expiry)
        self.store.stamp("lease", lease)
        for digest in self.rng.sample(sorted(self.state.blobs), min(2, len(self.state.blobs))):
            self.state.leases[lease].add(Resource("content", digest))

    def interrupt(self) -> None:
        number = next(self.numbers)
        self.store.start_pull(f"pull-{number}", f"layer-{number}", b"x" * number, lifetime=DAY)

    def progress(self) -> None:
        for ref in self.state.ingests:
            self.store.stamp("ingest", ref)

    def untag(self) -> None:
        if name := self.one():
            self.store.images.delete(name)

    # --- prune, and what it may do ---

    def prune(self) -> None:
        """Prune with random policies, and check everything."""
        policy, free = self.policy()
        disk = DiskSpace(root="/", bytes=100_000, bytes_free=free)
        before = self.there()
        images = dict(self.state.images)
        leases = dict(self.state.lease_labels)
        expected = self.may_go(policy)
        removal = Removal(self.store, read_graph(self.store, self.state.now))
        planned = prune(self.store, policy, self.state.now, disk=lambda: disk, dry_run=True)
        assert self.there() == before
        done = prune(self.store, policy, self.state.now, disk=lambda: disk)
        assert planned == done
        assert nodes_of(done) == before - self.there()
        by_containerd = {
            name
            for name, image in images.items()
            if self.state.images_expire and self.state.is_over(image.labels)
        }
        gone = set(done.images) - by_containerd
        if policy.until_free is None:
            assert gone == expected - by_containerd
        else:
            assert gone <= expected
            self.check_enough(policy, policy.until_free.missing(disk), removal, done, expected, images)
        for kind, names in (("lease", done.leases), ("ingest", done.ingests)):
            for name in names:
                lease = name.replace("layer", "pull")
                quiet = self.state.times[kind, name] <= self.state.now - dt.timedelta(hours=1)
                assert self.state.is_over(leases[lease]) or (policy.leftovers and quiet)
        self.prunes += 1

    def check_usage(self) -> None:
        """Compare what can be freed, in all and by each image, with what removals would free."""
        now = self.state.now
        found = usage(self.store, now)
        removal = Removal(self.store, read_graph(self.store, now))
        planned = prune(self.store, PrunePolicy(unused=True), now, disk=no_disk, dry_run=True)
        assert found.blobs.reclaimable + found.snapshots.reclaimable == planned.bytes
        assert found.blobs.bytes == sum(map(len, self.state.blobs.values()))
        if self.state.images_expire and any(map(self.state.is_over, labels_of(self.state.images.values()))):
            return  # what such images have goes with any other
        garbage = removal.predict(()).bytes
        for image in found.images:
            nodes = [Node("image", name) for name in image.names]
            free = 0 if image.in_use or image.pinned else removal.predict(nodes).bytes - garbage
            assert image.bytes_reclaimable == free
            assert image.bytes_own + image.bytes_shared == image.bytes_blobs + image.bytes_snapshots

    def policy(self) -> tuple[PrunePolicy, int]:
        rng = self.rng
        chosen: dict[str, Any] = {
            "dangling": rng.random() < 0.3,
            "unused": rng.random() < 0.3,
            "expired": rng.random() < 0.3,
            "leftovers": rng.random() < 0.3,
            "older_than": rng.random() * 8 * DAY if rng.random() < 0.3 else None,
            "keep_last": rng.randint(1, 3) if rng.random() < 0.2 else None,
            "until_free": FreeSpace(bytes=rng.randrange(1000, 12_000)) if rng.random() < 0.4 else None,
            "keep": tuple(map(re.compile, rng.sample(KEEPS, rng.choice((0, 0, 1, 2))))),
        }
        policy = PrunePolicy(**chosen)
        if not policy.is_about_images and not policy.expired and not policy.leftovers:
            chosen["unused"] = True
        elif policy.narrows and not (policy.dangling or policy.unused or policy.until_free):
            chosen.update(expired=False, leftovers=False)
        return PrunePolicy(**chosen), rng.randrange(2000)

    def there(self) -> set[Node]:
        """Return all objects except containers."""
        state = self.state
        return {
            *(Node("image", name) for name in state.images),
            *(Node("content", str(digest)) for digest in state.blobs),
            *(Node("snapshot", name, snapshotter) for snapshotter, name in state.snapshots),
            *(Node("lease", name) for name in state.leases),
            *(Node("ingest", ref) for ref in state.ingests),
        }

    def names_of(self, target: Digest) -> set[str]:
        return {name for name, image in self.state.images.items() if image.target.digest == target}

    def is_held(self, target: Digest, policy: PrunePolicy) -> bool:
        """Whether an image is in use, pinned, or kept by its name."""
        names = self.names_of(target)
        return (
            any(container.image in names for container in self.state.containers.values())
            or self.state.labels[target].get(TOP, "none") in self.running()
            or any(self.state.images[name].labels.get(PINNED_LABEL) == PINNED for name in names)
            or any(pattern.search(name) for pattern in policy.keep for name in names)
        )

    def running(self) -> set[str]:
        """Return the snapshots that containers were made from, as far as an image has them still."""
        tops = {labels[TOP] for labels in self.state.labels.values() if TOP in labels}
        found = set[str]()
        for container in self.state.containers.values():
            name = self.state.snapshots[SNAPSHOTTER, container.snapshot_key].parent
            while name and name not in tops:
                name = self.state.snapshots[SNAPSHOTTER, name].parent
            found.add(name)
        return found

    def changed(self, target: Digest) -> dt.datetime:
        times = [self.state.images[name].updated_at for name in self.names_of(target)]
        return max(time for time in times if time is not None)

    def may_go(self, policy: PrunePolicy) -> set[str]:
        """Work out which names the policies choose."""
        targets = {image.target.digest for image in self.state.images.values()}
        gone = set[str]()
        for target in targets:
            names = self.names_of(target)
            if self.is_held(target, policy):
                continue
            if policy.is_about_images and self.is_chosen(target, policy, targets):
                gone |= names
            if policy.expired:
                over = {name for name in names if self.state.is_over(self.state.images[name].labels)}
                if self.store.namespace == "k8s.io" and over:
                    over = names if not any(map(tagged, names - over)) else set()
                gone |= over
        return gone

    def is_chosen(self, target: Digest, policy: PrunePolicy, targets: set[Digest]) -> bool:
        if policy.dangling and not policy.unused and any(map(tagged, self.names_of(target))):
            return False
        if policy.older_than is not None and self.changed(target) > self.state.now - policy.older_than:
            return False
        for place in REPOSITORIES if policy.keep_last else ():
            inside = [
                each
                for each in targets
                if any(re.match(f"{place}[:@]", name) for name in self.names_of(each))
            ]
            inside.sort(key=lambda each: (self.changed(each), min(self.names_of(each))), reverse=True)
            if target in inside[: policy.keep_last]:
                return False
        return True

    def check_enough(
        self,
        policy: PrunePolicy,
        missing: int,
        removal: Removal,
        done: RemoveResult,
        expected: set[str],
        images: dict[str, Any],
    ) -> None:
        """Check that enough is free or nothing more could go, and that no image went needlessly."""
        others = {Node("lease", name) for name in done.leases} | {Node("ingest", ref) for ref in done.ingests}
        gone = {Node("image", name) for name in done.images}
        left = expected - set(done.images)
        assert done.bytes >= missing or not left
        for target in {images[name].target.digest for name in done.images}:
            same = {Node("image", name) for name in images if images[name].target.digest == target}
            if policy.expired and any(self.state.is_over(images[node.name].labels) for node in same):
                continue  # it went for another reason
            rest = (gone - same) | others
            assert removal.predict(rest).bytes < missing or not self.is_there(same, removal, rest)

    def is_there(self, nodes: set[Node], removal: Removal, removed: set[Node]) -> bool:
        """Whether the collector leaves records that are not removed."""
        return not nodes & removal.going(removed)


def no_disk() -> DiskSpace:
    raise AssertionError("only until_free asks for the free space")


def labels_of(images: Iterable[ImageRecord]) -> Iterator[Mapping[str, str]]:
    return (image.labels for image in images)


def tagged(name: str) -> bool:
    return any(name == f"{place}:{tag}" for place in REPOSITORIES for tag in TAGS)


def nodes_of(result: RemoveResult) -> set[Node]:
    return {
        *(Node("image", name) for name in result.images),
        *(Node("content", str(blob.digest)) for blob in result.blobs),
        *(Node("snapshot", item.key, item.snapshotter) for item in result.snapshots),
        *(Node("lease", name) for name in result.leases),
        *(Node("ingest", ref) for ref in result.ingests),
    }


@settings(max_examples=500)
@given(seed=st.integers(0, 2**32 - 1))
def test_prune_keeps_what_it_has_to_keep_and_says_before_what_goes(seed: int) -> None:
    history = History(seed)
    history.run()
    assert history.prunes
