"""Random references in a namespace, with every kind of label that containerd's garbage collector knows.

References may lead nowhere, or in circles, and some labels or times are not valid.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Iterable, Sequence

from pyctrd.oci.model import ContentInfo, Descriptor, Digest, ImageRecord, IngestStatus, SnapshotInfo
from pyctrd.oci.resources import Container, Lease, LeaseResource
from pyctrd.steps.gc_nodes import Node
from pyctrd.steps.gc_state import GcState

SNAPSHOTTERS = ("overlayfs", "native")
_GC = "containerd.io/gc"
_KINDS = (*5 * ("ref",), *2 * ("bref",), *2 * ("cond",), "root", "other")
_SUFFIXES = ("", ".", "/", ".0", ".m.1", "/a", "/a.b", ".a/b", "/a/b")
# After these, the label refers to nothing.
_NO_SUFFIXES = ("s", "-0", "_", "0", ":a")
_ROOTS = ("root", "root.x", "root/x", "rootless", "roo", "ROOT")
_INVALID_TIMES = ("tomorrow", "2020-13-01T00:00:00Z", "2020-01-01 00:00:00Z", "2020-01-01T00:00:00", "0")
_CONDITIONS = (
    *("usedat<1h", "usedat>1h", "usedat<72h", "usedat>72h", "usedat<1h,usedat>72h", "usedat>1h30m5.5s"),
    *("usedat<=72h", "usedat==72h", "usedat=72h", "usedat!72h", "usedat<three days", "usedat<-1h"),
    *("other<72h", "usedat", "", "usedat<72", "other=1,usedat<1000h", "usedat<0", " usedat<72h"),
)


def content_of(namespace: str, number: int) -> bytes:
    """Return the bytes of a blob: different ones in each namespace."""
    return f"{namespace} {number}".encode()


class References:
    """Random records of one namespace; `state` has them as the collector would find them.

    `image_leases` says whether leases may refer to images, which containerd 1.x refuses.
    """

    def __init__(
        self, rng: random.Random, namespace: str, now: dt.datetime, *, image_leases: bool = True
    ) -> None:
        self._rng = rng
        self._now = now
        self._image_leases = image_leases
        count = rng.randint
        self._digests = [Digest.of(content_of(namespace, number)) for number in range(count(3, 9))]
        self._images = [f"example.com/i{number}:1" for number in range(count(1, 5))]
        self._leases = [f"l{number}" for number in range(count(0, 5))]
        self._containers = [f"c{number}" for number in range(count(0, 2))]
        self._keys = {name: [f"s{number}" for number in range(count(0, 4))] for name in SNAPSHOTTERS}
        snapshots = [(name, snapshot) for name in SNAPSHOTTERS for snapshot in self._make_snapshots(name)]
        leases = {name: (self._make_lease(name), self._held()) for name in self._leases}
        ingests = [self._make_ingest(f"w{number}", leases) for number in range(count(0, 2))]
        self.state = GcState(
            namespace=namespace,
            images={name: self._make_image(name) for name in self._images},
            content={
                digest: ContentInfo(
                    digest=digest, size=len(content_of(namespace, number)), labels=self._content_labels()
                )
                for number, digest in enumerate(self._digests)
            },
            snapshots={(name, snapshot.name): snapshot for name, snapshot in snapshots},
            leases=leases,
            containers={name: self._make_container(name) for name in self._containers},
            ingests={ingest.ref: ingest for ingest in ingests},
        )

    def to_remove(self) -> frozenset[Node]:
        """Choose images, leases and writes."""
        state = self.state
        return frozenset(
            [
                *(Node("image", name) for name in self._some(state.images, 0.4)),
                *(Node("lease", name) for name in self._some(state.leases, 0.3)),
                *(Node("ingest", ref) for ref in self._some(state.ingests, 0.2)),
            ]
        )

    def _some(self, names: Iterable[str], often: float) -> list[str]:
        return [name for name in names if self._rng.random() < often]

    # --- records ------------------------------------------------------------------------------------------

    def _make_image(self, name: str) -> ImageRecord:
        target = Descriptor(media_type="application/x", digest=self._digest(), size=1)
        return ImageRecord(name=name, target=target, labels={**self._labels(), **self._expiry(0.25)})

    def _content_labels(self) -> dict[str, str]:
        return {**self._labels(), **self._expiry(0.1)}  # content does not expire

    def _make_snapshots(self, snapshotter: str) -> list[SnapshotInfo]:
        """Make snapshots, each after its parent, which is committed."""
        made: list[SnapshotInfo] = []
        for key in self._keys[snapshotter]:
            parents = ["", *(snapshot.name for snapshot in made if snapshot.kind == "committed")]
            made.append(
                SnapshotInfo(
                    name=key,
                    parent=self._rng.choice(parents),
                    kind=self._rng.choice(("committed", "committed", "active")),
                    labels={**self._labels(), **self._used_at()},
                )
            )
        return made

    def _make_lease(self, name: str) -> Lease:
        flat = {f"{_GC}.flat": self._rng.choice(("1", "false"))} if self._rng.random() < 0.5 else {}
        return Lease(id=name, labels={**self._expiry(0.4), **flat})

    def _held(self) -> list[LeaseResource]:
        held = [self._leased() for _ in range(self._rng.randint(0, 4))]
        return list({(item.type, item.id): item for item in held}.values())

    def _leased(self) -> LeaseResource:
        kinds = ["content", "snapshots", *(["images"] if self._image_leases else [])]
        match self._rng.choice(kinds):
            case "images":
                return LeaseResource(type="images", id=self._image())
            case "snapshots":
                snapshotter, key = self._snapshot()
                return LeaseResource(type=f"snapshots/{snapshotter}", id=key)
            case _:
                return LeaseResource(type="content", id=str(self._digest()))

    def _make_ingest(self, ref: str, leases: dict[str, tuple[Lease, list[LeaseResource]]]) -> IngestStatus:
        if leases and self._rng.random() < 0.7:
            _, held = leases[self._rng.choice(sorted(leases))]
            held.append(LeaseResource(type="ingests", id=ref))
        return IngestStatus(ref=ref, offset=4, total=100, started_at=self._now)

    def _make_container(self, name: str) -> Container:
        snapshotter, key = self._snapshot() if self._rng.random() < 0.8 else ("", "")
        return Container(
            id=name,
            image=self._rng.choice(self._images),
            snapshotter=snapshotter,
            snapshot_key=key,
            labels=self._labels(),
        )

    # --- labels -------------------------------------------------------------------------------------------

    def _labels(self) -> dict[str, str]:
        return dict(self._label() for _ in range(self._rng.choice((0, 0, 1, 1, 2, 3))))

    def _label(self) -> tuple[str, str]:
        rng = self._rng
        suffix = rng.choice(_NO_SUFFIXES) if rng.random() < 0.1 else rng.choice(_SUFFIXES)
        match rng.choice(_KINDS):
            case "ref":
                return self._reference("ref", suffix, ("content", "content", "snapshot", "image"))
            case "bref":
                return self._reference("bref", suffix, ("content", "snapshot", "image", "container"))
            case "cond":
                snapshotter, key = self._snapshot()
                named = rng.choice(("", ".", "/", "./")) + snapshotter + rng.choice(("", "", "/x"))
                bar = "" if rng.random() < 0.05 else "|"
                return f"{_GC}.cond.snapshot{named}", f"{rng.choice(_CONDITIONS)}{bar}{key}"
            case "root":
                return f"{_GC}.{rng.choice(_ROOTS)}", rng.choice(("1", "2020-01-01T00:00:00Z"))
            case _:
                return f"containerd.io/{rng.choice(('distribution.source.x', 'gc', 'gc.flat'))}", "x"

    def _reference(self, how: str, suffix: str, kinds: Sequence[str]) -> tuple[str, str]:
        match self._rng.choice(kinds):
            case "snapshot":
                snapshotter, key = self._snapshot()
                mark = "." if self._rng.random() < 0.9 else self._rng.choice(("", "/", ".."))
                rest = self._rng.choice(("", "", "/x", "/x/y", ".x"))
                return f"{_GC}.{how}.snapshot{mark}{snapshotter}{rest}", key
            case "image":
                return f"{_GC}.{how}.image{suffix}", self._image()
            case "container":
                return f"{_GC}.{how}.container{suffix}", self._rng.choice([*self._containers, "gone"])
            case _:
                return f"{_GC}.{how}.content{suffix}", str(self._digest())

    def _expiry(self, often: float) -> dict[str, str]:
        if self._rng.random() >= often:
            return {}
        return {f"{_GC}.expire": self._time_or_not(0.8)}

    def _used_at(self) -> dict[str, str]:
        marks = self._rng.sample(("", ".a", "/b", "c"), self._rng.choice((0, 1, 1, 2)))
        return {f"{_GC}.cond.value-usedat{mark}": self._time_or_not(0.85) for mark in marks}

    def _time_or_not(self, often: float) -> str:
        return self._time() if self._rng.random() < often else self._rng.choice(_INVALID_TIMES)

    def _time(self) -> str:
        """Return a time before or after now, in one of the forms of RFC 3339."""
        moment = self._now + dt.timedelta(hours=self._rng.choice((-2000, -100, -48, -2, -0.5, 0.5, 48)))
        text = moment.strftime("%Y-%m-%dT%H:%M:%S")
        match self._rng.choice(("second", "fraction", "comma", "nanoseconds", "offset")):
            case "fraction":
                return f"{text}.25Z"
            case "comma":
                return f"{text},5Z"
            case "nanoseconds":
                return f"{text}.123456789Z"
            case "offset":
                there = moment.astimezone(dt.timezone(dt.timedelta(hours=-7, minutes=-30)))
                return there.isoformat(timespec="seconds")
            case _:
                return f"{text}Z"

    # --- what is referred to ------------------------------------------------------------------------------

    def _digest(self) -> Digest:
        return Digest.of(b"nowhere") if self._rng.random() < 0.1 else self._rng.choice(self._digests)

    def _image(self) -> str:
        return "example.com/gone:1" if self._rng.random() < 0.1 else self._rng.choice(self._images)

    def _snapshot(self) -> tuple[str, str]:
        if self._rng.random() < 0.05:
            return "none", "s0"
        snapshotter = self._rng.choice(SNAPSHOTTERS)
        return snapshotter, self._rng.choice([*self._keys[snapshotter], "gone"])
