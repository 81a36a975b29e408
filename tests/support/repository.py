"""An in-memory repository for push and pull: ports.Uploader, ports.Remote and ports.ReferrerSource."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

from pyctrd.errors import NotFound, RegistryError
from pyctrd.oci.model import Descriptor, Digest
from pyctrd.oci.referrers import recognized, subject_of
from pyctrd.ports import BlobSource
from tests.support.images import Graph
from tests.support.memory import target_of


class MemoryRepository:
    """Stores uploads and records calls; names in `broken` fail, those in `neighbours` can be mounted."""

    def __init__(self, host: str = "registry.example", repository: str = "team/app") -> None:
        self._host = host
        self._repository = repository
        self.blobs: dict[str, bytes] = {}
        self.tags: dict[str, Descriptor] = {}
        self.neighbours: dict[str, set[str]] = {}
        self.calls: list[tuple[str, str]] = []
        self.broken: set[str] = set()
        self.lists: dict[str, list[Descriptor]] = {}

    def publish(self, graph: Graph, tag: str = "latest") -> None:
        """Add a complete image."""
        self.blobs.update(graph.blobs)
        self.tags[tag] = target_of(graph.root)

    @property
    def host(self) -> str:
        return self._host

    @property
    def repository(self) -> str:
        return self._repository

    def _note(self, what: str, name: str) -> None:
        self.calls.append((what, name))
        if name in self.broken:
            raise RegistryError(f"{name} is broken", host=self.host)

    def has(self, descriptor: Descriptor) -> bool:
        self.calls.append(("has", descriptor.digest))
        return descriptor.digest in self.blobs

    def tagged(self, tag: str) -> Digest | None:
        self.calls.append(("tagged", tag))
        return self.tags[tag].digest if tag in self.tags else None

    def upload(
        self,
        descriptor: Descriptor,
        source: BlobSource,
        *,
        mount_from: str = "",
        report: Callable[[int], None] = lambda _sent: None,
    ) -> Literal["uploaded", "mounted"]:
        self._note("upload", descriptor.digest)
        if descriptor.digest in self.neighbours.get(mount_from, ()):
            self.blobs[descriptor.digest] = b"mounted"
            return "mounted"
        with source.open(0) as chunks:
            data = b"".join(chunks)
        if Digest.of(data) != descriptor.digest:
            raise source.wrong("wrong bytes")
        report(len(data))
        self.blobs[descriptor.digest] = data
        return "uploaded"

    def put(self, descriptor: Descriptor, raw: bytes, tag: str = "") -> None:
        self._note("put", tag or str(descriptor.digest))
        assert Digest.of(raw) == descriptor.digest
        self.blobs[descriptor.digest] = raw
        if tag:
            self.tags[tag] = descriptor

    # --- used as a source

    def resolve(self) -> Descriptor:
        if "latest" not in self.tags:
            raise NotFound("not found", kind="image", name="latest")
        return self.tags["latest"]

    @contextmanager
    def fetch(self, descriptor: Descriptor, offset: int = 0) -> Iterator[Iterator[bytes]]:
        self._note("fetch", descriptor.digest)
        if descriptor.digest not in self.blobs:
            raise RegistryError(f"{descriptor.digest}: not found", status=404)
        yield iter([self.blobs[descriptor.digest][offset:]])

    def referrers(self, subject: Digest) -> Sequence[Descriptor]:
        """List the manifests whose subject is a digest, or what a test has put into `lists` for it."""
        self._note("referrers", subject)
        found = [recognized(Digest(digest), raw) for digest, raw in self.blobs.items()]
        own = [item for item in found if item and _subject(item, self.blobs[item.digest]) == subject]
        return self.lists.get(subject, own)

    def done(self, what: str) -> list[str]:
        return [name for kind, name in self.calls if kind == what]


def _subject(descriptor: Descriptor, raw: bytes) -> Digest | None:
    found = subject_of(descriptor, raw)
    return found.digest if found else None
